"""The errors, in one tree.

    SessionError
    ├── ConfigurationError          the settings are wrong; also a ValueError
    ├── LogoutRefused               what asks for a logout is not a logout token for us
    ├── SerializationError          the app stored a value that no codec knows; also a TypeError
    │   └── SessionTooLarge         the app stored more than the settings allow
    ├── CommitRefused               nothing was written, for a reason that the app may want to hear of
    │   ├── WriteConflict           others have written what this request expected to stay
    │   └── SessionLimitReached     the user has as many sessions as are allowed
    └── StoreError
        ├── CorruptRecord           what is stored under a key is not a session
        ├── SessionExists           an id was about to be used twice
        ├── StoreUnavailable        the store cannot serve now; another one may
        │   └── EpochMissing        the store answers, and is not the process that we fenced
        └── StoreMisconfigured      the store answered, and refused: a person has to mend it

Nothing that a browser sends raises any of them.
"""

from typing import Literal

__all__ = [
    "CommitRefused",
    "ConfigurationError",
    "CorruptRecord",
    "EpochMissing",
    "LogoutRefused",
    "SerializationError",
    "SessionError",
    "SessionExists",
    "SessionLimitReached",
    "SessionTooLarge",
    "StoreError",
    "StoreMisconfigured",
    "StoreUnavailable",
    "WriteConflict",
]

Reason = Literal[
    "unreachable", "timeout", "loading", "read-only", "full", "busy", "locked", "saturated", "open", "restarted"
]


class SessionError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(SessionError, ValueError):
    """The settings are wrong.  The message names the setting and the mend; raised before any request is served."""


class LogoutRefused(SessionError):
    """A logout token must not be acted on.  The message names the claim, never a value; whoever sent it gets a 400."""


class SerializationError(SessionError, TypeError):
    """A value cannot be stored.  Raised at commit; the message names the field and the type, never the value."""


class SessionTooLarge(SerializationError):
    """A session holds more than it may.  The message names limit, size and largest fields, never a value."""


class CommitRefused(SessionError):
    """Nothing was written, and nothing is wrong with a store.

    The app hears of it where it commits itself, with `Session.save`; otherwise the middleware answers with 409.
    """


class SessionLimitReached(CommitRefused):
    """A user has as many sessions as the settings allow, and the policy is to deny another one."""


class WriteConflict(CommitRefused):
    """Nothing was written: another request has changed what this one expected to stay, or has its lock.

    Args:
        message: what was in the way.
        fields: names of the fields that have been changed; empty where it was a lock.
    """

    def __init__(self, message: str, *, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class StoreError(SessionError):
    """A store failed."""


class CorruptRecord(StoreError):
    """What is stored under a key cannot be read as a session.  It ends that session and no other."""


class SessionExists(StoreError):
    """`create` met a record under the same key.  Nothing was overwritten."""


class StoreUnavailable(StoreError):
    """A store cannot serve now.  Nothing is known about the session, so nothing may be concluded about it.

    Args:
        message: what failed, without ids and secrets.
        reason: the kind of failure; `locked` is another's lock on the same data, `saturated` our own lack of
            connections, `open` an open circuit breaker, `restarted` an `EpochMissing`.
        attempts: how many tries failed before this was raised.
        one_key: only this record is out of reach; the store itself serves.
    """

    def __init__(
        self, message: str, *, reason: Reason = "unreachable", attempts: int = 1, one_key: bool = False
    ) -> None:
        super().__init__(message)
        self.one_key = one_key
        self.reason: Reason = reason
        self.attempts = attempts


class EpochMissing(StoreUnavailable):
    """Redis answered, and does not know the script of our epoch: the process behind the connection was restarted, or
    is another one.  What it holds may be old.
    """

    def __init__(self) -> None:
        super().__init__("Redis was restarted, or is another one: what it holds may be old", reason="restarted")


class StoreMisconfigured(StoreError):
    """A store answered and refused: wrong password, missing permission, bad certificate, wrong type under a key.

    Args:
        message: what was refused, and what a person can do about it.
        one_key: only this record is refused, as with a foreign value under its key; the store itself serves.
    """

    def __init__(self, message: str, *, one_key: bool = False) -> None:
        super().__init__(message)
        self.one_key = one_key
