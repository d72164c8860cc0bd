"""What passes between a session and the manager: what is known of it, and what a commit has to write."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from vedsess_middleware.codec import Codec
from vedsess_middleware.cookies import Ticket
from vedsess_middleware.errors import SerializationError, SessionError
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.sealing import Opened
from vedsess_middleware.stores.record import Fence, Record, Version

__all__ = ["NO_CHANGES", "Changes", "IdChange", "Opener", "State"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})

Reason = Literal["login", "regenerate", "renewal", "fingerprint", "logout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a commit has to write, encoded: `Delta` says what the names mean.

    Attributes:
        put: values as the codec has them, not sealed yet.
        drop: see `Delta`.
        forget: see `Delta`.
        until: when values that have a lifetime of their own end, by name, in epoch seconds.
    """

    put: Mapping[str, str] = field(default_factory=dict, repr=False)
    drop: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    until: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


NO_CHANGES = Changes()
"""What a commit has to write where nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdChange:
    """A change of id to make at commit.

    Attributes:
        reason: `logout` is that of a user whose session goes on without one.
        user_id: who logs in.
        sid: name of the session that an identity provider knows it by.
        remember: the cookie outlives the browser, and the session lives for `remember_timeout`.
        idle_timeout: instead of what the settings say.
        absolute_timeout: the same.
        sealed: nobody gets in any more with the old id.
    """

    reason: Reason
    user_id: str | None = None
    sid: str | None = None
    remember: bool = False
    idle_timeout: float | None = None
    absolute_timeout: float | None = None
    sealed: bool = False

    @property
    def is_login(self) -> bool:
        """Whether a session begins that is not a continuation of the old one."""
        return self.reason in ("login", "logout")

    @property
    def by_itself(self) -> bool:
        """Whether the app did not ask for it."""
        return self.reason in ("renewal", "fingerprint")


class Opener(Protocol):
    """What the manager does for a session that the app touches."""

    @property
    def codec(self) -> Codec:
        """Of the values."""

    @property
    def seals(self) -> bool:
        """Whether all values are encrypted at rest."""

    @property
    def now(self) -> float:
        """Epoch seconds."""

    @property
    def longest_timeout(self) -> float:
        """The longest idle or absolute timeout that a session may be given."""

    def opened(self, state: "State", name: str) -> Opened:
        """Open a value that is sealed at rest, or has a lifetime of its own.

        Raises:
            SerializationError: it cannot be opened.
            StoreMisconfigured: the settings do not fit to it.
        """

    def judge(self, cookie_header: str) -> Sequence[Ticket]:
        """Return the genuine cookies that are worth a try; an event tells of the others."""

    def load_now(self, state: "State") -> None:
        """Ask the stores, blocking, and note a failure.  On an event loop it has to have been done before."""

    def reject(self, state: "State", error: SerializationError) -> None:
        """Tell that a value cannot be read."""

    async def save(self, session: object) -> object:
        """Commit now."""

    async def load(self, state: "State") -> None:
        """Ask the stores, and note a failure."""

    async def lock(self, state: "State", *, wait: float, hold: float) -> Fence | None:
        """Wait for the lock of a session that is stored; None: nothing is stored, so there is nobody to wait for.

        Raises:
            WriteConflict: somebody else held it all the time.
        """

    async def unlock(self, state: "State", fence: Fence) -> None:
        """Give the lock back."""


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
        refused: the app needed it nevertheless: the answer is a 503, or a 409 where no store failed.
        saving: the app commits before it has done its work, and may still fail: its browser would hear of nothing.
        ended: keys of sessions that the app ended in this request.
        intent: a change of id to make at commit.
        tombstone_at: when the session was ended that the cookie names.
        moved: the cookie's id was changed by another request a moment ago: the browser is about to have the new cookie.
        outdated: another request has ended the session or changed its id: a cookie that was to be set by then must not
            be, for the browser may have a newer one.
        opened: values that were sealed, opened, by name.
        lifetimes: values that the app gave a lifetime of their own, and when they end.
        expected: stamps of the fields that nobody else may write before the commit.
        fence: the lock that this request holds.
        request: tells of the request, where anybody can.
    """

    ticket: Ticket | None = None
    encoded: Mapping[str, str] = _NOTHING
    save: Callable[[], Awaitable[object]] | None = None
    accessed = False
    written = False
    editable = False
    edits = 0
    committed = 0
    failure: SessionError | None = None
    refused = False
    saving = False
    ended: Sequence[str] = ()
    intent: IdChange | None = None
    tombstone_at: float | None = None
    moved = False
    outdated = False
    opened: Mapping[str, Opened] = _NOTHING
    lifetimes: Mapping[str, tuple[object, float]] = _NOTHING
    expected: Mapping[str, Version] = _NOTHING
    fence: Fence | None = None
    request: Callable[[], RequestInfo] | None = None
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
        self._record, self._tickets, self.loaded, self.outdated = record, (ticket,), True, False

    def move(self, ticket: Ticket, record: Record) -> None:
        """Go on with the same session under the id that another request gave it."""
        self.rename(ticket, record)
        self.moved = self.outdated = True

    def rename(self, ticket: Ticket, record: Record | Callable[[], Record]) -> None:
        """Go on with the same session under another id.

        What the app was given is still compared with what it was given: others may have written since.
        """
        if self.opener.seals:
            for name in self.encoded:
                with suppress(SerializationError):  # whoever asks for it is told
                    self.opener.opened(self, name)  # while it is known under which key it was sealed
        self.ticket, self.record = ticket, record

    def stored_after(self, changes: Changes, sealed: Mapping[str, str] | None = None) -> dict[str, str]:
        """The values that are stored once these changes are; `sealed`: what is put, as it is at rest."""
        stored = {**self.encoded, **(changes.put if sealed is None else sealed)}
        for name in changes.drop:
            stored.pop(name, None)  # another task may have committed the same meanwhile
        return stored

    def note_stored(self, changes: Changes, sealed: Mapping[str, str] | None = None) -> None:
        """These changes need not be written again; `sealed`: what is put, as it is at rest."""
        self.encoded = self.stored_after(changes, sealed)
        changed = {*changes.put, *changes.drop}
        self.handed_out = {name: value for name, value in self.handed_out.items() if name not in changed}
        if self.opener.seals or self.opened or changes.until:
            written = {name: Opened(text, changes.until.get(name), True) for name, text in changes.put.items()}
            self.opened = {**self.opened, **written}
        if self.expected:
            self.expected = _NOTHING

    def let_stay(self, names: Iterable[str]) -> None:
        """Others have taken the place of these values: they end with the session, even where they look the same."""
        for name in self.lifetimes.keys() & set(names):
            self.lifetimes = {each: ends for each, ends in self.lifetimes.items() if each != name}
            self.handed_out.pop(name, None)

    def forget(self) -> None:
        """Be the state of a new session: the one that was loaded is over for this request."""
        self.tickets, self.ticket, self.record, self.moved, self.outdated = (), None, None, False, False
        self.encoded = self.opened = self.lifetimes = self.expected = _NOTHING
        self.handed_out, self.fence = {}, None

    def begin_anew(self) -> None:
        """Be as before anything was loaded, so that it is loaded again."""
        tickets, moved, fence = (self.ticket,) if self.ticket else self._tickets, self.moved, self.fence
        self.forget()
        self._tickets, self.loaded, self.failure = tickets, tickets is not None and not tickets, None
        self.intent, self.moved, self.fence = None, moved, fence
        self.edits = self.committed = 0
        self.editable = self.written = False
