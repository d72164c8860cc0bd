"""The indexes and the list of owed copies: which commands keep them, and what can wait until the response has left.

An index is a sorted set of keys.  The score of a session is its end; in the index of a user, that of a place which is
kept for a session to come is until when, below zero.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vedsess_middleware.stores.contract import Owner
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.redis.wire import Command

__all__ = ["Indexes", "Later", "Owners", "Use", "scored"]


class Owners(NamedTuple):
    """Whose a session is; empty: nobody's."""

    user_id: str = ""
    sid: str = ""

    @classmethod
    def of(cls, record: Record) -> "Owners":
        """Those of a record."""
        return cls(record.user_id or "", record.sid or "")

    @classmethod
    def parse(cls, user: bytes, sid: bytes) -> "Owners":
        """Those that a script names."""
        return cls(user.decode(errors="replace"), sid.decode(errors="replace"))


class Use(NamedTuple):
    """That a session was used.

    Attributes:
        owners: whose it is.
        at: when; 0: its record says so already.
        expires_at: when it ends now.
    """

    owners: Owners
    at: float
    expires_at: float


@dataclass(slots=True)
class Later:
    """What is to change after a response: entries of indexes, and of the list of owed copies.

    Attributes:
        used: by key.
        ended: owners of sessions that have ended, by key.
        confirmed: copies that have arrived, with their number, by key.
    """

    used: dict[str, Use] = field(default_factory=dict)
    ended: dict[str, Owners] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.used or self.ended or self.confirmed)

    def take(self) -> "Later":
        """All of it; it is empty afterwards."""
        taken = Later(self.used, self.ended, self.confirmed)
        self.used, self.ended, self.confirmed = {}, {}, {}
        return taken

    def note_use(self, key: str, record: Record, *, at: float, refresh: float) -> Record:
        """The record as used now, if that is to be recorded."""
        if record.last_activity >= at - refresh:
            return record
        record = record.used(at)
        self.used[key] = Use(Owners.of(record), at, record.expires_at)
        return record

    def note_end(self, key: str, *owners: bytes) -> None:
        """A session has ended: take it from the indexes of its owners."""
        self.used.pop(key, None)
        if any(owners):
            self.ended[key] = Owners.parse(*owners)


class Indexes:
    """The commands; sends nothing itself.

    Args:
        prefix: of every key.
        life: seconds that an index, or the list, lives after its last change.

    Attributes:
        owners: prefixes of the index of each owner, by kind.
        everyone: name of the index of all sessions.
        owing: name of the list of owed copies.
    """

    def __init__(self, *, prefix: str, life: int) -> None:
        self.owners: dict[Owner, str] = {"user": f"{prefix}user_sessions:", "sid": f"{prefix}sid_sessions:"}
        self.everyone, self.owing, self.life = f"{prefix}session_index:all", f"{prefix}to_mirror", life

    def new(self, key: str, record: Record) -> list[Command]:
        """List a new record, and take out what has ended by then."""
        owners = Owners.of(record)
        names = self.everyone, *self._of(owners)
        at = record.last_activity
        trimming: list[Command] = [("ZREMRANGEBYSCORE", name, -at, at) for name in names]
        return [*trimming, *self.used(key, owners, record.expires_at)]

    def used(self, key: str, owners: Owners, expires_at: float) -> list[Command]:
        """List a record by its end, if that is later than what is listed."""
        names = self.everyone, *self._of(owners)
        adding: list[Command] = [("ZADD", name, "GT", expires_at, key) for name in names]
        return [*adding, *(("EXPIRE", name, self.life) for name in names)]

    def ended(self, key: str, owners: Owners) -> list[Command]:
        """Take a session that has ended from the indexes of its owners."""
        return [("ZREM", name, key) for name in self._of(owners)]

    def owed(self, due: int, *keys: str) -> list[Command]:
        """List copies that are owed; 0: they are not."""
        if not due or not keys:
            return []
        listing = ("ZADD", self.owing, *(argument for key in keys for argument in (due, key)))
        return [listing, ("EXPIRE", self.owing, self.life)]

    def _of(self, owners: Owners) -> list[str]:
        """The indexes of these owners."""
        listed = (self.owners["user"], owners.user_id), (self.owners["sid"], owners.sid)
        return [prefix + owner for prefix, owner in listed if owner]


def scored(raw: Any) -> list[tuple[bytes, Any]]:
    """Members with scores, as RESP2 or a client that pairs them gives them."""
    return raw if raw and not isinstance(raw[0], bytes) else list(zip(raw[::2], raw[1::2], strict=True))
