"""The codec: one field of a session to one text, and back unchanged in value and type.

The text is strict, compact JSON, made to be read in redis-cli.  What JSON lacks is an object with a single key that
begins with "!":

    {"!datetime":"2026-11-23T21:00:00+01:00[Europe/Zurich]"}    RFC 9557; also [_fold=1] and [_name=CET]
    {"!date":"2026-11-23"}   {"!time":"21:00:00"}               ISO 8601
    {"!timedelta":"-90.500000"}                                 seconds
    {"!uuid":"..."}   {"!decimal":"9.90"}   {"!bytes":"aGk="}   bytes in base64
    {"!int":"18446744073709551616"}   {"!float":"nan"}          what JSON cannot carry, or not safely
    {"!tuple":[...]}   {"!set":[...]}   {"!frozenset":[...]}    elements of sets sorted by their text
    {"!dict":[[key,value],...]}                                 other keys than str, or a lone key with "!"
    {"!enum":["Colour","RED"]}   {"!enum":["Permission",3]}     the member's name; of a Flag the number
"""

import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, NoReturn, Protocol, TypeAlias

import msgspec

from vedsess_middleware.errors import ConfigurationError, SerializationError
from vedsess_middleware.forms import FORMS, Form, Unreadable, Unwritable, type_name

__all__ = ["Codec", "JsonCodec"]

_Path: TypeAlias = tuple[object, ...]  # the field's name, then an index, a str key or a type for each container

_MAX_DEPTH = 100
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_ATOMS = frozenset({str, bool, type(None)})
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset})
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_SURROGATE = re.compile("[\ud800-\udfff]")

_dump = msgspec.json.Encoder().encode
_load = msgspec.json.Decoder().decode


class Codec(Protocol):
    """Turns the value of one session field into text and back, unchanged.  Extension point; must not do I/O.

    `encode` has to be deterministic: a field counts as modified when its text has changed.
    """

    def encode(self, name: str, value: object) -> str:
        """The text to store.  Raises `SerializationError`, which names the field and the type, never the value."""
        ...

    def decode(self, text: str) -> object:
        """The value that `encode` was given.  Raises `SerializationError` for a text that `encode` did not make."""
        ...


class JsonCodec:
    """Keeps the types of JSON and Python's plain value types, unchanged, as readable JSON.

    None, bool, int, float, str, list, dict; datetime, date, time, timedelta; UUID, Decimal, bytes; tuple, set,
    frozenset; members of registered enums.  Refused: every other type, subclasses of these too, and containers nested
    more than 100 deep.  Time zones: `timezone` and `ZoneInfo`; the key of the latter must be known where it is read.

    >>> JsonCodec().encode("seen", {3, 1})
    '{"!set":[1,3]}'
    >>> JsonCodec().decode('{"!set":[1,3]}')
    {1, 3}

    Args:
        enums: the classes whose members may be stored, told apart by class name (default: none).

    Raises:
        ConfigurationError: an entry is not an enum class, or two classes have one name.
    """

    __slots__ = ("_reader", "_writer")

    def __init__(self, *, enums: Iterable[type[enum.Enum]] = ()) -> None:
        classes = _by_name(enums)
        self._writer = _Writer(classes.values())
        self._reader = _Reader(classes)

    def encode(self, name: str, value: object) -> str:
        """The text of a field.  Raises `SerializationError` with the path to what cannot be stored.

        Equal values of equal types give equal texts; the order of a dict's keys counts.
        """
        try:
            if _is_plain((value,), _MAX_DEPTH):
                return _dump(value).decode()
        except (UnicodeEncodeError, RecursionError):
            pass  # the writer finds the place
        try:
            return _dump(self._writer.tree(value, (name,))).decode()
        except UnicodeEncodeError:
            why = "holds a name with a lone surrogate"
        except RecursionError:
            why = "is nested deeper than the stack allows here"
        _refuse((name,), why)

    def decode(self, text: str) -> object:
        """The value of a text that `encode` made.  Raises `SerializationError`, and nothing else, for any other."""
        try:
            tree = _load(text)
            if type(tree) not in _CONTAINERS:
                return tree
            if '"!' not in text and text.count("[") + text.count("{") <= _MAX_DEPTH:
                return tree
            return self._reader.value(tree, _MAX_DEPTH)
        except (msgspec.MsgspecError, ValueError):
            problem = "is not JSON"
        except RecursionError:
            problem = "is nested too deep"
        _reject(problem)


def _by_name(enums: Iterable[type[enum.Enum]]) -> dict[str, type[enum.Enum]]:
    classes: dict[str, type[enum.Enum]] = {}
    for cls in enums:
        if not isinstance(cls, enum.EnumType):
            raise ConfigurationError(f"enums: {cls!r} is not an enum class; list classes, not their members")
        if classes.setdefault(cls.__name__, cls) is not cls:
            raise ConfigurationError(f"enums: two classes are named {cls.__name__}; rename one of them")
    return classes


def _is_plain(items: Iterable[Any], room: int) -> bool:
    """Whether JSON holds all items as they are, nested at most `room` deep."""
    for item in items:
        kind = type(item)
        if kind in _ATOMS:
            continue
        if kind is int:
            plain = _MIN_INT <= item <= _MAX_INT
        elif kind is float:
            plain = math.isfinite(item)
        elif kind is list:
            plain = room > 0 and _is_plain(item, room - 1)
        else:
            plain = kind is dict and room > 0 and _has_plain_keys(item) and _is_plain(item.values(), room - 1)
        if not plain:
            return False
    return True


def _has_plain_keys(value: Mapping[Any, object]) -> bool:
    """Whether JSON holds the keys as they are, and nobody can take the dict for a tag."""
    for key in value:
        if type(key) is not str:
            return False
    return len(value) != 1 or not key.startswith("!")


class _Writer:
    """From values to what JSON can hold."""

    def __init__(self, enums: Iterable[type[enum.Enum]]) -> None:
        self._writers: dict[type, Callable[[Any, _Path], object]] = {
            **dict.fromkeys((bool, type(None)), lambda value, path: value),
            **dict.fromkeys(FORMS, self._text),
            **dict.fromkeys(enums, self._enum),
            str: self._str,
            int: lambda value, path: value if _MIN_INT <= value <= _MAX_INT else self._text(value, path),
            float: lambda value, path: value if math.isfinite(value) else self._text(value, path),
            list: self._items,
            tuple: lambda value, path: {"!tuple": self._items(value, path)},
            set: lambda value, path: {"!set": self._sorted(value, path)},
            frozenset: lambda value, path: {"!frozenset": self._sorted(value, path)},
            dict: self._dict,
        }

    def tree(self, value: object, path: _Path) -> object:
        kind = type(value)
        write = self._writers.get(kind)
        if write is None:
            _refuse(path, _why_not(kind))
        if len(path) > _MAX_DEPTH and kind in _CONTAINERS:
            _refuse(path, f"nests containers more than {_MAX_DEPTH} deep, or contains itself")
        return write(value, path)

    def _str(self, value: str, path: _Path) -> str:
        if not value.isascii() and _SURROGATE.search(value):
            _refuse(path, "is a str with a lone surrogate, which UTF-8 cannot hold")
        return value

    def _text(self, value: object, path: _Path) -> object:
        form = FORMS[type(value)]
        try:
            return {form.tag: form.write(value)}
        except Unwritable as problem:
            why = str(problem)
        _refuse(path, why)

    def _enum(self, value: enum.Enum, path: _Path) -> object:
        identity = self.tree(int(value._value_), path) if isinstance(value, enum.Flag) else value._name_
        return {"!enum": [type(value).__name__, identity]}

    def _items(self, value: Sequence[object], path: _Path) -> list[object]:
        return [self.tree(item, (*path, index)) for index, item in enumerate(value)]

    def _sorted(self, value: AbstractSet[object], path: _Path) -> list[msgspec.Raw]:
        texts = [_dump(self.tree(item, (*path, type(item)))) for item in value]
        return [msgspec.Raw(text) for text in sorted(texts)]

    def _dict(self, value: dict[Any, object], path: _Path) -> object:
        pairs = []
        for key, item in value.items():
            kind = type(key)
            pairs.append((self.tree(key, (*path, kind)), self.tree(item, (*path, key if kind is str else kind))))
        return dict(pairs) if _has_plain_keys(value) else {"!dict": pairs}


class _Reader:
    """From what JSON held to values; `room` is how many containers may still nest.  Rebuilds in place."""

    def __init__(self, enums: Mapping[str, type[enum.Enum]]) -> None:
        self._enums = enums
        self._readers: dict[str, Callable[[object, int], object]] = {
            **{form.tag: partial(_leaf, form) for form in FORMS.values()},
            "!tuple": lambda payload, room: tuple(self._items(payload, room)),
            "!set": lambda payload, room: _distinct(set, self._items(payload, room)),
            "!frozenset": lambda payload, room: _distinct(frozenset, self._items(payload, room)),
            "!dict": lambda payload, room: _distinct(dict, self._pairs(payload, room)),
            "!enum": self._enum,
        }

    def value(self, tree: Any, room: int) -> object:
        if type(tree) is list:
            entries: Iterable[tuple[Any, object]] = enumerate(tree)
        elif type(tree) is dict:
            entries = tree.items()
            if len(tree) == 1:
                [(key, payload)] = entries
                if key.startswith("!"):
                    return self._tagged(key, payload, room)
        else:
            return tree
        if not room:
            _reject("is nested too deep")
        for key, item in entries:
            if type(item) in _CONTAINERS:
                tree[key] = self.value(item, room - 1)
        return tree

    def _tagged(self, tag: str, payload: object, room: int) -> object:
        read = self._readers.get(tag)
        if read is None:
            _reject("has an unknown tag")
        return read(payload, room)

    def _items(self, payload: Any, room: int) -> Any:
        if type(payload) is not list:
            _reject("has a tag with the wrong type of payload")
        return self.value(payload, room)

    def _pairs(self, trees: object, room: int) -> list[tuple[object, object]]:
        if type(trees) is not list or not all(type(pair) is list and len(pair) == 2 for pair in trees):
            _reject("has a !dict that is not a list of pairs")
        if not room:
            _reject("is nested too deep")
        return [(self.value(key, room - 1), self.value(item, room - 1)) for key, item in trees]

    def _enum(self, payload: object, room: int) -> object:
        if type(payload) is not list or len(payload) != 2 or type(payload[0]) is not str:
            _reject("has an !enum that is not a pair of class name and member")
        cls = self._enums.get(payload[0])
        if cls is None:
            _reject("has a member of an enum that is not registered; pass its class in JsonCodec(enums=[...])")
        member = _member(cls, self.value(payload[1], room))
        if member is None:
            _reject("names an enum member that its class does not have")
        return member


def _member(cls: type[enum.Enum], identity: object) -> enum.Enum | None:
    if not issubclass(cls, enum.Flag):
        return cls.__members__.get(identity) if type(identity) is str else None
    if type(identity) is not int:
        return None
    try:
        member = cls(identity)
    except ValueError:
        return None
    return member if type(member) is cls and member._value_ == identity else None


def _leaf(form: Form, payload: object, _room: int) -> object:
    try:
        return form.value(payload)
    except Unreadable:
        _reject(f"has a {form.tag} that cannot be read")


def _distinct(kind: Callable[[list[Any]], Sized], items: list[Any]) -> object:
    try:
        found = kind(items)
    except TypeError:
        _reject("has an element or key that cannot be hashed")
    if len(found) != len(items):
        _reject("has an element or key twice")
    return found


def _reject(problem: str) -> NoReturn:
    raise SerializationError(f"the stored text {problem}")


def _refuse(path: _Path, why: str) -> NoReturn:
    raise SerializationError(f"session field {_shown(path)} {why}")


def _why_not(kind: type) -> str:
    if issubclass(kind, enum.Enum):
        return f"is of the enum {type_name(kind)}, which is not registered; pass JsonCodec(enums=[{kind.__name__}])"
    bases = [base.__name__ for base in kind.__mro__ if base in _ATOMS | _CONTAINERS | FORMS.keys()]
    mend = f"; convert it to {bases[0]}" if bases else ""
    return f"is of the type {type_name(kind)}, which a session cannot keep{mend}"


def _shown(path: _Path) -> str:
    """A path such as cart[2].price, without what may be data: a key that is no plain name shows as its type."""
    name, *inner = path
    return ascii(name)[1:-1][:80] + "".join(map(_shown_part, inner[:8])) + ("…" if len(inner) > 8 else "")


def _shown_part(part: object) -> str:
    if type(part) is str and _NAME.fullmatch(part):
        return f".{part}"
    return f"[{part}]" if type(part) is int else f"[<{(part if isinstance(part, type) else type(part)).__name__}>]"
