"""What passes between a session and the manager: what is known of it, and what a commit has to write."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vedsess_middleware.codec import Codec
from vedsess_middleware.cookies import Ticket
from vedsess_middleware.errors import StoreError
from vedsess_middleware.stores.record import Record, Version

__all__ = ["Changes", "State"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a commit has to write, encoded: `Delta` says what the names mean."""

    put: Mapping[str, str] = field(default_factory=dict, repr=False)
    drop: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.drop)


@dataclass(slots=True, kw_only=True)
class State:
    """What the manager knows of a session.

    Attributes:
        codec: of its values.
        tickets: the genuine cookies that came with the request, until one is found to be alive.
        ticket: the cookie whose session this is; None: a new one.
        record: as loaded, or as last written; None: there is none, or it was not loaded.
        encoded: the values of that record.
        loaded: whether the stores have been asked, or need not be.
        load: asks them, blocking, and notes a failure; None on an event loop, where it has been done before.
        save: commits now.
        accessed: the app read something: the response varies by cookie.
        written: the app wrote something.
        failure: why it could not be loaded or committed.
        refused: the app needed it nevertheless: the answer is a 503.
        ended: keys of sessions that the app ended in this request.
        intent: a change of id to make at commit.
        user_id: who logs in at commit.
        tombstone_at: when the session was ended that the cookie names.
    """

    codec: Codec
    tickets: list[Ticket] = field(default_factory=list)
    ticket: Ticket | None = None
    record: Record | None = None
    encoded: Mapping[str, str] = field(default_factory=dict, repr=False)
    loaded: bool = False
    load: Callable[[], None] | None = None
    save: Callable[[], Awaitable[object]] | None = None
    accessed: bool = False
    written: bool = False
    failure: StoreError | None = None
    refused: bool = False
    ended: list[str] = field(default_factory=list)
    intent: Literal["login", "regenerate"] | None = None
    user_id: str | None = field(default=None, repr=False)
    tombstone_at: float | None = None

    @property
    def touched(self) -> bool:
        """Whether the app did anything with the session."""
        return self.accessed or self.written or bool(self.ended)

    @property
    def token(self) -> Version:
        """The newest version that the browser has seen."""
        return self.ticket.token if self.ticket else Version()
