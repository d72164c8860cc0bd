"""A dict that is filled when somebody looks into it, and decodes a value when somebody asks for it.

It notes what the app reads and writes, and compares at the end: so nested edits are seen, and only they.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn, Self, SupportsIndex
from uuid import UUID

from vedsess_middleware.changes import changes_of
from vedsess_middleware.errors import SerializationError
from vedsess_middleware.sealing import MARKS, ends_at
from vedsess_middleware.state import NO_CHANGES, Changes, State

__all__ = ["Contents"]

_CONSTANTS = frozenset({str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, UUID, Decimal})
"""Types of values that cannot be edited: as long as the same object is there, it has not changed."""


class _Placeholder:
    """Stands for a value that nobody has asked for yet."""

    def __repr__(self) -> str:
        return "<not decoded yet: use dict(session)>"


_STORED: Any = _Placeholder()
_UNTOUCHED: Any = object()
"""A name in a dict that does not hold what is stored yet.  C code sees that it is not empty, and asks the methods."""


class Contents(dict[str, Any]):
    """The values of a session, as a dict.

    Args:
        state: what is known of the session.
    """

    __slots__ = ("_state",)
    __hash__ = None

    def __init__(self, state: State) -> None:
        self._state = state
        dict.__setitem__(self, _UNTOUCHED, _STORED)  # as `_empty` does

    # -- for the manager -------------------------------------------------------------------------------------------

    def assign(self, values: Mapping[str, Any]) -> None:
        """Take another mapping's content, where the app put one in the session's place."""
        self._read()
        state = self._state
        state.written = state.editable = True
        state.edits += 1
        dict.clear(self)
        dict.update(self, values)

    def changes(self) -> Changes:
        """Compare what the app wrote or was given with what is stored.

        Raises:
            SerializationError: a value cannot be stored; names the field and the type.
        """
        state = self._state
        if not (state.accessed or state.written):
            return NO_CHANGES
        drop: tuple[str, ...] = ()
        stored = state.encoded
        if not (state.is_new or dict.__contains__(self, _UNTOUCHED) or stored.keys() <= dict.keys(self)):
            drop = tuple(name for name in stored if not dict.__contains__(self, name))
        return changes_of(state, self._suspects(), drop)

    def changed(self, name: str) -> tuple[bool, Any]:
        """Whether the app put another value there, or removed it (None).  Looks into no store."""
        value = dict.get(self, name, _UNTOUCHED)
        if value is _UNTOUCHED:
            removed = not dict.__contains__(self, _UNTOUCHED) and name in self._state.encoded
            return removed, None
        return value is not _STORED and value is not self._state.handed_out.get(name, _STORED), value

    def take_back(self, name: str) -> None:
        """Forget what the app made of a value."""
        if name in self._state.encoded and not dict.__contains__(self, _UNTOUCHED):
            dict.__setitem__(self, name, _STORED)
        else:
            dict.pop(self, name, None)

    def _suspects(self) -> list[tuple[str, Any]]:
        """All values that may differ from what is stored."""
        given, suspects = self._state.handed_out, []
        for name, value in dict.items(self):
            if value is _STORED or (value is given.get(name, _STORED) and type(value) in _CONSTANTS):
                continue
            if type(name) is not str:
                raise SerializationError(f"session keys are strings, and one is of type {type(name).__name__}")
            suspects.append((name, value))
        return suspects

    # -- loading and decoding --------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._state.accessed = True
        if dict.__contains__(self, _UNTOUCHED):
            self._load()
            self._fill()

    def _read_one(self, name: str) -> None:
        """Have this value decoded, if there is one."""
        self._state.accessed = True
        if dict.__contains__(self, _UNTOUCHED):
            self._load()
            self._fill()
        if dict.get(self, name) is _STORED:
            self._decode((name,))

    def _read_all(self) -> None:
        """Have all values decoded.

        Whoever asks for all names, as C code does to copy a dict, goes on to the values one by one: that one of them
        cannot be read has to be found before.
        """
        self._read()
        names = [name for name, value in dict.items(self) if value is _STORED]
        if names:
            self._decode(names)

    def _write(self) -> None:
        state = self._state
        state.written = True
        state.edits += 1
        # Which of several cookies is alive, only the stores know.
        if not state.loaded and (state.failure or len(state.tickets) > 1):
            self._load()

    def _note_held(self, value: object) -> None:
        """The session holds a new value from now on."""
        state = self._state
        state.edits += 1
        if type(value) not in _CONSTANTS:
            state.editable = True

    def _load(self) -> None:
        state = self._state
        if state.loaded:
            return
        if state.failure is None:
            state.opener.load_now(state)
        if state.failure is not None:
            state.refused = True
            raise state.failure

    def _fill(self) -> None:
        """Put what is stored under what the app wrote before it looked."""
        dict.__delitem__(self, _UNTOUCHED)
        state = self._state
        values = dict.fromkeys(state.encoded, _STORED)
        for name, text in state.encoded.items():
            if text[0] == "@" and self._is_over(text):
                del values[name]
        if dict.__len__(self):
            values.update(dict.items(self))
            dict.clear(self)
        dict.update(self, values)

    def _is_over(self, text: str) -> bool:
        until = ends_at(text)
        return until is not None and until <= self._state.opener.now

    def _decode(self, names: Iterable[str]) -> None:
        state = self._state
        encoded, given, opener = state.encoded, state.handed_out, state.opener
        try:
            for name in names:
                text, until = encoded[name], None
                if opener.seals or text[0] in MARKS:
                    text, until, _ = opener.opened(state, name)
                value = given[name] = opener.codec.decode(text)
                if until is not None:
                    state.lifetimes = {**state.lifetimes, name: (value, until)}
                dict.__setitem__(self, name, value)
                if type(value) not in _CONSTANTS:
                    state.editable = True
                    state.edits += 1
        except SerializationError as error:
            self._reject(error)

    def _reject(self, error: SerializationError) -> None:
        """A session with a value that cannot be read is over: what the app wrote in this request begins a new one."""
        state = self._state
        self._keep_only_written()
        state.opener.reject(state, error)
        state.forget()
        if state.intent is not None and not state.intent.is_login:
            state.intent = None

    def _keep_only_written(self) -> None:
        """Hold what the app wrote in this request, and nothing of what was stored before."""
        given = self._state.handed_out
        written = {
            name: value
            for name, value in dict.items(self)
            if value is not _STORED and value is not given.get(name, _STORED)
        }
        self._state.edits += 1
        dict.clear(self)
        dict.update(self, written)

    def _empty(self) -> None:
        """Be as before anybody looked."""
        dict.clear(self)
        dict.__setitem__(self, _UNTOUCHED, _STORED)

    def _length(self) -> int:
        if dict.__contains__(self, _UNTOUCHED):
            return len({*self._state.encoded, *dict.keys(self)}) - 1
        return dict.__len__(self)

    # -- the mapping: readers note the access, and load ------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        self._read_one(name)
        return dict.__getitem__(self, name)

    def __contains__(self, name: object) -> bool:
        self._read()
        return dict.__contains__(self, name)

    def __iter__(self) -> Iterator[str]:
        self._read_all()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        self._read_all()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        self._read()
        return dict.__len__(self)

    def __eq__(self, other: object) -> bool:
        self._read_all()
        return dict.__eq__(self, _looked_into(other))

    def __ne__(self, other: object) -> bool:
        self._read_all()
        return dict.__ne__(self, _looked_into(other))

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def get(self, name: str, default: Any = None) -> Any:
        self._read_one(name)
        return dict.get(self, name, default)

    def keys(self) -> Any:
        self._read_all()
        return dict.keys(self)

    def values(self) -> Any:
        self._read_all()
        return dict.values(self)

    def items(self) -> Any:
        self._read_all()
        return dict.items(self)

    def copy(self) -> dict[str, Any]:
        """A plain dict with the same values."""
        self._read_all()
        return dict(dict.items(self))

    def pop(self, name: str, *default: Any) -> Any:
        self._read_one(name)
        self._state.edits += 1
        return dict.pop(self, name, *default)

    def popitem(self) -> tuple[str, Any]:
        self._read_all()
        self._state.edits += 1
        return dict.popitem(self)

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._read_one(name)
        self._note_held(default)
        if self._state.lifetimes and not dict.__contains__(self, name):
            self._state.let_stay((name,))
        return dict.setdefault(self, name, default)

    def clear(self) -> None:
        self._read()
        self._state.edits += 1
        dict.clear(self)

    def __delitem__(self, name: str) -> None:
        self._read()
        self._state.edits += 1
        dict.__delitem__(self, name)

    # -- writers do not load ---------------------------------------------------------------------------------------

    def __setitem__(self, name: str, value: Any) -> None:
        self._write()
        self._note_held(value)
        if self._state.lifetimes:
            self._state.let_stay((name,))
        dict.__setitem__(self, name, value)

    def update(self, *values: Any, **more: Any) -> None:
        self._write()
        self._state.editable = True  # for all that is known of them
        if self._state.lifetimes:
            given = dict(*values, **more)
            self._state.let_stay(given)
            values, more = (given,), {}
        dict.update(self, *values, **more)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    # -- copies ----------------------------------------------------------------------------------------------------

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a session cannot be pickled: pickle dict(session)")

    @classmethod
    def fromkeys(cls, names: Iterable[str], value: Any = None) -> dict[str, Any]:  # type: ignore[override]
        """A plain dict."""
        return dict.fromkeys(names, value)


def _looked_into(other: object) -> object:
    """A session as C code would see it if it asked the methods."""
    return other.copy() if isinstance(other, Contents) else other
