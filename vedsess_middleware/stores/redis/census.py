"""Counting and tidying: what nobody should wait for in a request."""

from contextlib import aclosing

from vedsess_middleware.errors import StoreMisconfigured
from vedsess_middleware.stores.redis.hashes import iso
from vedsess_middleware.stores.redis.indexes import Indexes
from vedsess_middleware.stores.redis.wire import Wire

__all__ = ["Census"]

_PAGE = 500
_SCRIPTS_STAY_BEHIND = 7
_FACTS = {
    "memory used (bytes)": "used_memory",
    "connections": "connected_clients",
    "keyspace hits": "keyspace_hits",
    "keyspace misses": "keyspace_misses",
    "evicted keys": "evicted_keys",
}


class Census:
    """Walks the indexes in pages and asks each record, for an index may lag behind: the hash alone is the truth.

    Args:
        wire: the way to Redis.
        session: prefix of the records.
        indexes: what they are called.
    """

    def __init__(self, wire: Wire, *, session: str, indexes: Indexes) -> None:
        self._wire, self._session, self._indexes = wire, session, indexes

    async def count(self, *, at: float) -> tuple[int, int]:
        """Return how many sessions are alive, and how many users have one."""
        now = iso(at).encode()
        users: set[bytes] = set()
        active = cursor = 0
        while True:
            cursor, entries = await self._page(self._indexes.everyone, cursor)
            records = await self._wire.exchange(
                *(("HMGET", self._session + key, "expires_at", "user_id") for key in entries)
            )
            alive = [user for ends, user in records if ends is not None and ends > now]
            active += len(alive)
            users.update(user for user in alive if user)
            if not cursor:
                return active, len(users)

    async def trim(self, *, at: float) -> int:
        """Remove index entries of sessions that are over, and return how many."""
        removed = await self._trim_one(self._indexes.everyone, at)
        for prefix in self._indexes.owners.values():
            async with aclosing(self._wire.scan(prefix, kind="zset")) as pages:
                async for names in pages:
                    for name in names:
                        removed += await self._trim_one(name, at)
        return removed

    async def server(self) -> dict[str, int | float | str]:
        """Return what Redis says of itself; nothing where it may not be asked."""
        try:
            facts = await self._wire.execute("INFO")
        except StoreMisconfigured:  # many an ACL user may not, and nothing depends on it
            return {}
        return {label: facts[fact] for label, fact in _FACTS.items() if fact in facts}

    async def processes(self) -> str:
        """Name the processes that answer, by the beginnings of their run ids, where scripts do not tell them apart.

        Before 7.0 a replica gets the scripts with the data, and so does a master that is restarted from a dump.
        Empty otherwise, and where INFO may not be asked.
        """
        try:
            facts = await self._wire.facts("server")
        except StoreMisconfigured:
            return ""
        old = [each for each in facts if int(str(each["redis_version"]).partition(".")[0]) < _SCRIPTS_STAY_BEHIND]
        return ",".join(sorted(str(each["run_id"])[:8] for each in old))

    async def _trim_one(self, name: str, at: float) -> int:
        now = iso(at).encode()
        removed = cursor = 0
        while True:
            cursor, entries = await self._page(name, cursor)
            keys = [key for key, score in entries.items() if score > 0]
            ends = await self._wire.exchange(*(("HGET", self._session + key, "expires_at") for key in keys))
            dead = [key for key, end in zip(keys, ends, strict=True) if end is None or end <= now]
            dead += [key for key, score in entries.items() if -at <= score <= 0]
            if dead:
                removed += await self._wire.execute("ZREM", name, *dead)
            if not cursor:
                return removed

    async def _page(self, name: str, cursor: int) -> tuple[int, dict[str, float]]:
        cursor, members = await self._wire.execute("ZSCAN", name, cursor, "COUNT", _PAGE)
        return cursor, {member.decode(): float(score) for member, score in members}
