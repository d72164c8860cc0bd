"""What passes between a session and the manager: what is known of it, and what a commit has to write."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from vedsess_middleware.codec import Codec
from vedsess_middleware.cookies import Ticket
from vedsess_middleware.errors import SerializationError, StoreError
from vedsess_middleware.stores.record import Record

__all__ = ["NO_CHANGES", "Changes", "Opener", "State"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a commit has to write, encoded: `Delta` says what the names mean."""

    put: Mapping[str, str] = field(default_factory=dict, repr=False)
    drop: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


NO_CHANGES = Changes()
"""What a commit has to write where nothing has changed."""


class Opener(Protocol):
    """What the manager does for a session that the app touches."""

    @property
    def codec(self) -> Codec:
        """Of the values."""

    def judge(self, cookie_header: str) -> Sequence[Ticket]:
        """Return the genuine cookies that are worth a try; an event tells of the others."""

    def load_now(self, state: "State") -> None:
        """Ask the stores, blocking, and note a failure.  On an event loop it has to have been done before."""

    def reject(self, state: "State", error: SerializationError) -> None:
        """Tell that a value cannot be read."""

    async def save(self, session: object) -> object:
        """Commit now."""


class State:
    """What the manager knows of a session.

    One is made for every request, and few requests touch their session: so what has not happened yet is said by the
    class, and costs nothing.

    Attributes:
        opener: judges, loads and saves.
        loaded: whether the stores have been asked, or need not be.
        ticket: the cookie whose session this is; None: a new one.
        encoded: the values that are stored.
        handed_out: those of them that the app was given, decoded.
        save: commits now, as the front end wants it.
        accessed: the app read something: the response varies by cookie.
        written: the app wrote something.
        editable: it holds a value that it can edit without the session's hearing of it.
        edits: how often it wrote something, or was given something to edit.
        committed: how many of them have been committed; none any more, once it holds something that it can edit.
        failure: why it could not be loaded or committed.
        refused: the app needed it nevertheless: the answer is a 503.
        ended: keys of sessions that the app ended in this request.
        intent: a change of id to make at commit.
        user_id: who logs in at commit.
        tombstone_at: when the session was ended that the cookie names.
    """

    ticket: Ticket | None = None
    encoded: Mapping[str, str] = _NOTHING
    save: Callable[[], Awaitable[object]] | None = None
    accessed = False
    written = False
    editable = False
    edits = 0
    committed = 0
    failure: StoreError | None = None
    refused = False
    ended: Sequence[str] = ()
    intent: Literal["login", "regenerate"] | None = None
    user_id: str | None = None
    tombstone_at: float | None = None
    _tickets: Sequence[Ticket] | None = None
    _record: Record | Callable[[], Record] | None = None

    def __init__(self, opener: Opener, cookie_header: str, *, loaded: bool) -> None:
        self.opener = opener
        self.loaded = loaded
        self.handed_out: dict[str, object] = {}
        self._cookie_header = cookie_header

    @property
    def tickets(self) -> Sequence[Ticket]:
        """The genuine cookies that came with the request, judged when first asked, until one is found to be alive."""
        if self._tickets is None:
            self._tickets = self.opener.judge(self._cookie_header)
            self.loaded = self.loaded or not self._tickets
        return self._tickets

    @tickets.setter
    def tickets(self, tickets: Sequence[Ticket]) -> None:
        self._tickets = tickets

    @property
    def record(self) -> Record | None:
        """As loaded, or as last written; None: there is none, or it was not loaded.

        After a write it is set to what makes it: most requests do not look at it again.
        """
        if callable(self._record):
            self._record = self._record()
        return self._record

    @record.setter
    def record(self, record: Record | Callable[[], Record] | None) -> None:
        self._record = record

    @property
    def is_new(self) -> bool:
        """Whether nothing is stored of it as far as is known."""
        return self._record is None

    @property
    def touched(self) -> bool:
        """Whether the app did anything with the session."""
        return self.accessed or self.written or bool(self.ended)

    def take(self, ticket: Ticket, record: Record) -> None:
        """Be the state of the session that was loaded."""
        self.ticket, self.encoded = ticket, record.values
        self._record, self._tickets, self.loaded = record, (ticket,), True

    def stored_after(self, changes: Changes) -> dict[str, str]:
        """The values that are stored once these changes are."""
        stored = {**self.encoded, **changes.put}
        for name in changes.drop:
            stored.pop(name, None)  # another task may have committed the same meanwhile
        return stored

    def note_stored(self, changes: Changes) -> None:
        """These changes need not be written again."""
        self.encoded = self.stored_after(changes)
        changed = {*changes.put, *changes.drop}
        self.handed_out = {name: value for name, value in self.handed_out.items() if name not in changed}

    def forget(self) -> None:
        """Be the state of a new session: the one that was loaded is over for this request."""
        self.tickets, self.ticket, self.record = (), None, None
        self.encoded, self.handed_out = _NOTHING, {}
