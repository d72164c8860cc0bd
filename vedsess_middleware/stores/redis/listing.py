"""All sessions of one owner, found by the index."""

from collections.abc import Sequence
from functools import partial

from vedsess_middleware.errors import SessionLimitReached
from vedsess_middleware.stores.contract import ENDED_WITHIN, RESERVED_FOR, Owner
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.redis.hashes import iso, readable
from vedsess_middleware.stores.redis.indexes import Indexes
from vedsess_middleware.stores.redis.view import View

__all__ = ["Listing"]

_SAMPLED = 8


class Listing:
    """Asks the indexes of users, and of the names that an identity provider knows sessions by.

    Args:
        view: where.
        indexes: what they are called.
    """

    def __init__(self, view: View, indexes: Indexes) -> None:
        self._view, self._indexes = view, indexes

    async def keys(self, owner: str, by: Owner = "user") -> list[str]:
        """Return the keys of sessions that the index names; it may lag behind."""
        name = self._indexes.owners[by] + owner
        [members] = await self._view.wire.exchange(("ZRANGE", name, 0, "+inf", "BYSCORE"))
        return [member.decode() for member in members]

    async def records(self, owner: str, by: Owner, at: float) -> dict[str, Record]:
        """Return the live records, by key."""
        return await self._living(await self.keys(owner, by), at)

    async def sample(self, at: float) -> tuple[str, Record] | None:
        """Return one of the sessions that would end last."""
        [members] = await self._view.wire.exchange(("ZRANGE", self._indexes.everyone, 0, _SAMPLED - 1, "REV"))
        found = await self._living([member.decode() for member in members], at)
        return next(((key, record) for key, record in found.items() if record.values), None)

    async def _living(self, keys: Sequence[str], at: float) -> dict[str, Record]:
        """Those of these records that can be read, and are alive."""
        hashes = await self._view.wire.exchange(*(("HGETALL", self._view.session + key) for key in keys))
        found = {key: readable(key, raw) for key, raw in zip(keys, hashes, strict=True)}
        return {key: record for key, record in found.items() if record and not record.gone and record.expires_at > at}

    async def begun(self, keys: Sequence[str], user_id: str, at: float) -> list[str]:
        """Return those keys whose session is this user's, and began until then."""
        names = "session_id", "user_id", "created_at"
        found = await self._view.wire.exchange(*(("HMGET", self._view.session + key, *names) for key in keys))
        user, last = user_id.encode(), iso(at).encode()
        return [
            key
            for key, (named, of, began) in zip(keys, found, strict=True)
            if named == key.encode() and of == user and began is not None and began <= last
        ]

    async def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> list[str]:
        """Take one of a user's places, and return the keys that have lost theirs.

        Raises:
            SessionLimitReached: with `deny`: all places are taken.
        """
        name = self._indexes.owners["user"] + user_id
        kept_until = at + RESERVED_FOR
        about = at, limit, key, kept_until, self._indexes.life, kept_until - ENDED_WITHIN
        reserving = partial(self._view.call_on, "reserve", name, *about)
        [(is_given, keys)] = await self._view.wire.exchange(reserving(0))
        if not is_given:  # as the index says, which may lag behind
            over = await self._over(keys, at)
            removing = [("ZREM", name, *over)] if over else []
            *_, (is_given, keys) = await self._view.wire.exchange(*removing, reserving(int(not deny)))
        if not is_given:
            raise SessionLimitReached("the user has as many sessions as are allowed")
        return [member.decode() for member in keys]

    async def _over(self, members: Sequence[bytes], at: float) -> list[bytes]:
        """Those whose session is known to be over; one whose record is not there may live on in another store."""
        names = [self._view.session + member.decode() for member in members]
        found = await self._view.wire.exchange(*(("HMGET", name, "gone", "expires_at") for name in names))
        now = iso(at).encode()
        return [
            member
            for member, (gone, ends) in zip(members, found, strict=True)
            if gone is not None or (ends is not None and ends <= now)
        ]
