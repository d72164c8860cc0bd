"""What an app sees: a dict that knows when it was looked at, and what is to become of it.

A session over blocking stores is loaded on first touch, and a value is decoded when it is first handed out.  Methods
such as `login` only record an intent; the manager acts on it at commit.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn, Self, SupportsIndex
from uuid import UUID

from vedsess_middleware.errors import SerializationError
from vedsess_middleware.state import NO_CHANGES, Changes, State
from vedsess_middleware.stores.record import KEPT_DELETIONS, Record

__all__ = ["Session", "state_of"]

_CONSTANTS = frozenset({str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, UUID, Decimal})
"""Types of values that cannot be edited: as long as the same object is there, it has not changed."""


class _Placeholder:
    """Stands for a value that nobody has asked for yet."""

    def __repr__(self) -> str:
        return "<not decoded yet: use dict(session)>"


_STORED: Any = _Placeholder()
_UNTOUCHED: Any = object()
"""A name in a dict that does not hold what is stored yet.  C code sees that it is not empty, and asks the methods."""


class Session(dict[str, Any]):
    """A session as a dict: of any values that the codec knows, nested edits included.

    Encoders that read the memory of a dict directly, such as msgspec's, need `dict(session)`.  Reading raises
    `StoreUnavailable` when no store can say what is in it; the middleware answers such a request with 503.
    """

    __slots__ = ("_state",)
    __hash__ = None

    def __init__(self, state: State) -> None:
        self._state = state
        dict.__setitem__(self, _UNTOUCHED, _STORED)

    def __repr__(self) -> str:
        """Never loads, and never shows a value or the id."""
        state = self._state
        if not state.loaded:
            return "<Session not loaded>"
        kind = "new" if state.record is None else str(state.record.version)
        return f"<Session {kind}, {self._length()} values>"

    __str__ = __repr__

    # -- beyond the mapping ----------------------------------------------------------------------------------------

    @property
    def id(self) -> str | None:
        """The session id, a secret; None for a session that has not been stored yet."""
        self._read()
        return self._state.ticket.session_id if self._state.ticket else None

    @property
    def is_new(self) -> bool:
        """Whether nothing is stored of it yet."""
        self._read()
        return self._state.is_new

    @property
    def accessed(self) -> bool:
        """Whether the app has read from it in this request."""
        return self._state.accessed

    @property
    def modified(self) -> bool:
        """Whether a commit would change what is stored; found by comparing encoded values."""
        return bool(self._state.ended or self._state.intent or self.changes())

    @property
    def user_id(self) -> str | None:
        """Who is logged in.  Set by `login` only: `session["user_id"]` is a value of the app's own."""
        self._read()
        if self._state.intent == "login":
            return self._state.user_id
        return self._state.record.user_id if self._state.record else None

    @property
    def created_at(self) -> float | None:
        """When it began, in epoch seconds; None for a new one."""
        record = self._stored()
        return record.created_at if record else None

    @property
    def last_activity(self) -> float | None:
        """When its last use was recorded, in epoch seconds; None for a new one."""
        record = self._stored()
        return record.last_activity if record else None

    @property
    def expires_at(self) -> float | None:
        """When it ends if it is not used again, in epoch seconds; None for a new one."""
        record = self._stored()
        return record.expires_at if record else None

    @property
    def store(self) -> str:
        """Which store served it, such as `redis` or `sql`; empty for a new one."""
        record = self._stored()
        return record.served_by if record else ""

    @property
    def stale(self) -> bool:
        """Whether it may lack writes that this browser has been answered with, for nothing newer could be had."""
        record = self._stored()
        return record.stale if record else False

    def login(self, user_id: str | int) -> None:
        """Bind the session to a user at commit: a new id (ASVS 7.2.4), an index entry, the values kept.

        Raises:
            TypeError: the user id is neither text nor a number: a forgotten look-up must not log in "None".
            ValueError: it is empty, longer than 255 characters, or has characters that no store can keep.
        """
        if isinstance(user_id, bool) or not isinstance(user_id, str | int):
            raise TypeError(f"a user id is text or a whole number, not {type(user_id).__name__}")
        text = str(user_id)
        if not 0 < len(text) <= 255:
            raise ValueError("a user id has 1 to 255 characters")
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError("a user id has neither NUL nor lone surrogates")
        self._read()
        self._state.intent, self._state.user_id = "login", text

    def regenerate_id(self) -> None:
        """Go on under a new id from the commit on; the old one ends."""
        self._read()
        if self._state.intent is None and self._state.record is not None:
            self._state.intent = "regenerate"

    def invalidate(self) -> None:
        """End the session at commit, on every store, and empty it.

        What the same request writes next starts a new, anonymous session: flash messages need that.
        """
        state = self._state
        keys = [ticket.key for ticket in ([state.ticket] if state.ticket else state.tickets)]
        state.ended = [*state.ended, *(key for key in keys if key not in state.ended)]
        state.written = state.written or bool(keys)
        state.forget()
        state.intent, state.user_id, state.loaded, state.failure = None, None, True, None
        dict.clear(self)

    logout = invalidate

    async def save(self) -> None:
        """Commit now instead of at the end: for websockets and long streams.  Awaitable on an event loop.

        Raises:
            StoreUnavailable: no store took it.
            SerializationError: a value cannot be stored.
        """
        state = self._state
        await (state.save() if state.save else state.opener.save(self))

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
        stored = state.encoded
        put: dict[str, str] = {}
        drop: tuple[str, ...] = ()
        for name, value in self._suspects():
            text = state.opener.codec.encode(name, value)
            if text != stored.get(name):
                put[name] = text
        if not (state.is_new or dict.__contains__(self, _UNTOUCHED) or stored.keys() <= dict.keys(self)):
            drop = tuple(name for name in stored if not dict.__contains__(self, name))
        if not (put or drop):
            return NO_CHANGES
        return Changes(put=put, drop=drop, forget=_forgotten(state.record, len(stored), {*put, *drop}))

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
        values = dict.fromkeys(self._state.encoded, _STORED)
        if dict.__len__(self):
            values.update(dict.items(self))
            dict.clear(self)
        dict.update(self, values)

    def _decode(self, names: Iterable[str]) -> None:
        state = self._state
        encoded, given, decode = state.encoded, state.handed_out, state.opener.codec.decode
        try:
            for name in names:
                value = given[name] = decode(encoded[name])
                dict.__setitem__(self, name, value)
                if type(value) not in _CONSTANTS:
                    state.editable = True
                    state.edits += 1
        except SerializationError as error:
            self._reject(error)

    def _reject(self, error: SerializationError) -> None:
        """A session with a value that cannot be read is over: what the app wrote in this request begins a new one."""
        state = self._state
        given = state.handed_out
        written = {
            name: value
            for name, value in dict.items(self)
            if value is not _STORED and value is not given.get(name, _STORED)
        }
        state.opener.reject(state, error)
        state.forget()
        state.edits += 1
        if state.intent == "regenerate":
            state.intent = None
        dict.clear(self)
        dict.update(self, written)

    def _length(self) -> int:
        if dict.__contains__(self, _UNTOUCHED):
            return len({*self._state.encoded, *dict.keys(self)}) - 1
        return dict.__len__(self)

    def _stored(self) -> Record | None:
        self._read()
        return self._state.record

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
        dict.__setitem__(self, name, value)

    def update(self, *values: Any, **more: Any) -> None:
        self._write()
        self._state.editable = True  # for all that is known of them
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


def state_of(session: Session) -> State:
    """What the manager knows of a session."""
    return session._state


def _looked_into(other: object) -> object:
    """A session as C code would see it if it asked the methods."""
    return other.copy() if isinstance(other, Session) else other


def _forgotten(record: Record | None, living: int, changed: set[str]) -> tuple[str, ...]:
    """Deletions beyond those that a record remembers, the oldest."""
    if record is None or len(record.fields) - living <= KEPT_DELETIONS:
        return ()
    deleted = [(item.stamp, name) for name, item in record.fields.items() if item.value is None and name not in changed]
    deleted.sort(reverse=True)
    return tuple(name for _, name in deleted[KEPT_DELETIONS:])
