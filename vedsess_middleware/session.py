"""What an app sees: a dict that knows when it was looked at, and what is to become of it.

A session over blocking stores is loaded on first touch.  Methods such as `login` only record an intent; the manager
acts on it at commit.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, Self, SupportsIndex

from vedsess_middleware.errors import SerializationError
from vedsess_middleware.state import Changes, State
from vedsess_middleware.stores.record import KEPT_DELETIONS, Record

__all__ = ["Session", "state_of"]

_UNTOUCHED: Any = object()
"""The one item of a dict that nobody has looked into: C code sees that it is not empty, and asks the methods."""


class Session(dict[str, Any]):
    """A session as a dict: of any values that the codec knows, nested edits included.

    Encoders that read the memory of a dict directly, such as msgspec's, need `dict(session)`.  Reading raises
    `StoreUnavailable` when no store can say what is in it; the middleware answers such a request with 503.
    """

    __slots__ = ("_state",)
    __hash__ = None

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        dict.__setitem__(self, _UNTOUCHED, None)

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
        return self._state.record is None

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
        state.ended += [key for key in keys if key not in state.ended]
        state.written = state.written or bool(keys)
        state.tickets, state.ticket, state.record, state.encoded = [], None, None, {}
        state.intent, state.user_id, state.loaded, state.failure = None, None, True, None
        dict.clear(self)

    logout = invalidate

    async def save(self) -> None:
        """Commit now instead of at the end: for websockets and long streams.  Awaitable on an event loop.

        Raises:
            StoreUnavailable: no store took it.
            SerializationError: a value cannot be stored.
        """
        if self._state.save is not None:
            await self._state.save()

    # -- for the manager -------------------------------------------------------------------------------------------

    def fill(self, values: Mapping[str, Any]) -> None:
        """Put the loaded values under what the app has written before it looked."""
        untouched = dict.__contains__(self, _UNTOUCHED)
        written = {name: value for name, value in dict.items(self) if name is not _UNTOUCHED}
        dict.clear(self)
        dict.update(self, values)
        dict.update(self, written)
        if untouched and not dict.__len__(self):
            dict.__setitem__(self, _UNTOUCHED, None)
        self._state.loaded = True

    def assign(self, values: Mapping[str, Any]) -> None:
        """Take another mapping's content, where the app put one in the session's place."""
        self._read()
        dict.clear(self)
        dict.update(self, values)
        self._state.written = True

    def changes(self) -> Changes:
        """Compare the encoded values with what is stored.

        Raises:
            SerializationError: a value cannot be stored; names the field and the type.
        """
        state = self._state
        if not (state.accessed or state.written):
            return Changes()
        encoded = self.encode()
        put = {name: text for name, text in encoded.items() if state.encoded.get(name) != text}
        if not state.loaded or state.record is None:
            return Changes(put=put)
        drop = tuple(name for name in state.encoded if name not in encoded)
        return Changes(put=put, drop=drop, forget=_forgotten(state.record, {*put, *drop}))

    def encode(self) -> dict[str, str]:
        """All values, encoded."""
        encode = self._state.codec.encode
        items = [(name, value) for name, value in dict.items(self) if name is not _UNTOUCHED]
        for name, _ in items:
            if type(name) is not str:
                raise SerializationError(f"session keys are strings, and one is of type {type(name).__name__}")
        return {name: encode(name, value) for name, value in items}

    def _read(self) -> None:
        state = self._state
        state.accessed = True
        if not state.loaded:
            self._load()
        dict.pop(self, _UNTOUCHED, None)

    def _write(self) -> None:
        state = self._state
        state.written = True
        # Which of several cookies is alive, only the stores know.
        if not state.loaded and (state.failure or len(state.tickets) > 1):
            self._load()

    def _load(self) -> None:
        state = self._state
        if state.failure is None and state.load is not None:
            state.load()
        if state.failure is not None:
            state.refused = True
            raise state.failure

    def _length(self) -> int:
        return dict.__len__(self) - dict.__contains__(self, _UNTOUCHED)

    def _stored(self) -> Record | None:
        self._read()
        return self._state.record

    # -- the mapping: readers note the access, and load ------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        self._read()
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._read()
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self._read()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._read()
        return super().__reversed__()

    def __len__(self) -> int:
        self._read()
        return super().__len__()

    def __eq__(self, other: object) -> bool:
        self._read()
        return super().__eq__(_looked_into(other))

    def __ne__(self, other: object) -> bool:
        self._read()
        return super().__ne__(_looked_into(other))

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def get(self, name: str, default: Any = None) -> Any:
        self._read()
        return super().get(name, default)

    def keys(self) -> Any:
        self._read()
        return super().keys()

    def values(self) -> Any:
        self._read()
        return super().values()

    def items(self) -> Any:
        self._read()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """A plain dict with the same values."""
        self._read()
        return dict(super().items())

    def pop(self, name: str, *default: Any) -> Any:
        self._read()
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        self._read()
        return super().popitem()

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._read()
        return super().setdefault(name, default)

    def clear(self) -> None:
        self._read()
        super().clear()

    def __delitem__(self, name: str) -> None:
        self._read()
        super().__delitem__(name)

    # -- writers do not load ---------------------------------------------------------------------------------------

    def __setitem__(self, name: str, value: Any) -> None:
        self._write()
        super().__setitem__(name, value)

    def update(self, *values: Any, **more: Any) -> None:
        self._write()
        super().update(*values, **more)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self._write()
        super().update(other)
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


def _forgotten(record: Record, changed: set[str]) -> tuple[str, ...]:
    """Deletions beyond those that a record remembers, the oldest."""
    deleted = [(item.stamp, name) for name, item in record.fields.items() if item.value is None and name not in changed]
    deleted.sort(reverse=True)
    return tuple(name for _, name in deleted[KEPT_DELETIONS:])
