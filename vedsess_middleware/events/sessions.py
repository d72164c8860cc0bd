"""What happens to sessions and to their users."""

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal

from vedsess_middleware.events.base import Event

__all__ = [
    "CookieRejected",
    "FingerprintMismatch",
    "IdChanged",
    "LockLost",
    "LogoutTokenRefused",
    "OldIdUsed",
    "RecordRejected",
    "SessionCreated",
    "SessionEnded",
    "SessionExpired",
    "SessionLimitHit",
    "SocketClosed",
    "UnknownSession",
    "UserCutOff",
    "WriteConflict",
    "WriteRefused",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCreated(Event):
    """A session was stored for the first time; with a `user_id`, because that user logged in."""

    audit: ClassVar[str] = "session_created"
    session: str
    user_id: str | None = None

    @property
    def audit_names(self) -> tuple[str, ...]:
        return (self.audit,) if self.user_id is None else ("authn_login_success", self.audit)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdChanged(Event):
    """A session went on under a new id.

    `reason` says why: a login, `Session.regenerate_id`, a renewal that was due, another fingerprint, or a logout that
    left an anonymous session.  `login` is the same as the reason "login": either of them is enough.
    """

    audit: ClassVar[str] = "session_renewed"
    session: str
    previous: str
    login: bool = False
    reason: Literal["login", "regenerate", "renewal", "fingerprint", "logout"] = "regenerate"
    user_id: str | None = None

    def __post_init__(self) -> None:
        if self.login or self.reason == "login":
            object.__setattr__(self, "login", True)
            object.__setattr__(self, "reason", "login")

    @property
    def audit_names(self) -> tuple[str, ...]:
        if self.reason == "logout":
            return ("session_expired",)
        return ("authn_login_success", self.audit) if self.login else (self.audit,)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session was ended, and `reason` says by what.

    By its user (`logout`), from outside (`revoked`), with all of its user (`cut off`), by a newer one of its user
    (`limit`), or because an id was used that had been given up (`replay`).
    """

    audit: ClassVar[str] = "session_expired"
    session: str
    reason: str
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExpired(Event):
    """A cookie named a session that had not been used for too long (`idle`), or had lived too long (`absolute`)."""

    level: ClassVar[int] = logging.INFO
    audit: ClassVar[str] = "session_expired"
    session: str
    reason: Literal["idle", "absolute"]
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OldIdUsed(Event):
    """An id was used that had been changed longer ago than the grace window.

    Somebody has a copy of a stolen cookie, or a browser never got the new one.  `successor` is the session that went
    on; `ended` says whether it was ended for this.
    """

    level: ClassVar[int] = logging.WARNING
    audit: ClassVar[str] = "authn_token_reuse"
    session: str
    successor: str
    ended: bool
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintMismatch(Event):
    """A cookie came from another kind of client than its session began with; `policy` says what follows from that."""

    level: ClassVar[int] = logging.WARNING
    audit: ClassVar[str] = "input_validation_fail"
    inputs: ClassVar[str] = "(fingerprint)"
    session: str
    policy: str
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimitHit(Event):
    """A user logged in with `limit` sessions alive already: this one was `denied`, or the oldest had to go."""

    level: ClassVar[int] = logging.INFO
    audit: ClassVar[str] = "excess_rate_limit_exceeded"
    user_id: str
    limit: int
    denied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCutOff(Event):
    """Whatever had begun for this user was ended, known to the stores or not; `ended` counts what was known."""

    level: ClassVar[int] = logging.INFO
    audit: ClassVar[str] = "authn_token_revoked"
    user_id: str
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutTokenRefused(Event):
    """Someone asked to log a user out with a token that was not genuine, not meant for this site, or used before."""

    level: ClassVar[int] = logging.WARNING
    audit: ClassVar[str] = "input_validation_fail"
    inputs: ClassVar[str] = "(logout_token)"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieRejected(Event):
    """A cookie of ours was not one: forged, truncated, too long, or signed with a key that is not known."""

    level: ClassVar[int] = logging.INFO
    audit: ClassVar[str] = "input_validation_fail"
    inputs: ClassVar[str] = "(cookie)"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownSession(Event):
    """A cookie was genuine, but its session is not there: expired, or ended."""

    audit: ClassVar[str] = "session_use_after_expire"
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRejected(Event):
    """A stored record, or one field of it, could not be read.  The session was treated as ended."""

    level: ClassVar[int] = logging.ERROR
    session: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRefused(Event):
    """Changes were not written: the session was ended meanwhile, a cookie could not be set any more, or must not be."""

    level: ClassVar[int] = logging.INFO
    session: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConflict(Event):
    """Another request had changed the same fields meanwhile.  They are named; their values are not shown."""

    level: ClassVar[int] = logging.INFO
    session: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockLost(Event):
    """A session's lock ran out, or was lost with its store, before the request that held it was done."""

    level: ClassVar[int] = logging.INFO
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketClosed(Event):
    """A WebSocket was closed because its session is over; `reason` says how it ended."""

    level: ClassVar[int] = logging.INFO
    session: str
    reason: str
