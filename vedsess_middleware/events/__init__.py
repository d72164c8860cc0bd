"""What happened, as frozen values, and who is told.

An event hook is a plain callable.  It is called on the request path: it must be quick, must not block and must not
raise.  No event holds a session id, a cookie, a secret or a session value; whom it is about, it may say (`user_id`).

`session`, `previous` and `successor` name sessions.  Where they arise they hold the first eight digits of the key; what
the hook of a manager or of `build_store` gets, and so the log, is a keyed hash of these: see `event_name`.  (A store
that was built by hand tells the digits, unless it shares an `EventCounts.around` with its manager.)
"""

from vedsess_middleware.events.audit import VOCABULARY, log_audit
from vedsess_middleware.events.base import Event, EventHook
from vedsess_middleware.events.hooks import EventCounts, log_event
from vedsess_middleware.events.names import event_name
from vedsess_middleware.events.sessions import (
    CookieRejected,
    FingerprintMismatch,
    IdChanged,
    LockLost,
    LogoutTokenRefused,
    OldIdUsed,
    RecordRejected,
    SessionCreated,
    SessionEnded,
    SessionExpired,
    SessionLimitHit,
    SocketClosed,
    UnknownSession,
    UserCutOff,
    WriteConflict,
    WriteRefused,
)
from vedsess_middleware.events.stores import (
    CopyOwed,
    CopyPickedUp,
    RecordDrained,
    SessionUnavailable,
    StoreDegraded,
    StoreRecovered,
    StoreRefenced,
    StoreRefused,
    StoreRestarted,
    WritesLost,
)

__all__ = [
    "VOCABULARY",
    "CookieRejected",
    "CopyOwed",
    "CopyPickedUp",
    "Event",
    "EventCounts",
    "EventHook",
    "FingerprintMismatch",
    "IdChanged",
    "LockLost",
    "LogoutTokenRefused",
    "OldIdUsed",
    "RecordDrained",
    "RecordRejected",
    "SessionCreated",
    "SessionEnded",
    "SessionExpired",
    "SessionLimitHit",
    "SessionUnavailable",
    "SocketClosed",
    "StoreDegraded",
    "StoreRecovered",
    "StoreRefenced",
    "StoreRefused",
    "StoreRestarted",
    "UnknownSession",
    "UserCutOff",
    "WriteConflict",
    "WriteRefused",
    "WritesLost",
    "event_name",
    "log_audit",
    "log_event",
]
