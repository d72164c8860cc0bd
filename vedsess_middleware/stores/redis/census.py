"""Counting and tidying: what nobody should wait for in a request."""

import re

from vedsess_middleware.errors import StoreMisconfigured
from vedsess_middleware.stores.redis.wire import Wire

__all__ = ["Census"]

_PAGE = 500
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
        user: prefix of the index of each user.
        everyone: name of the index of all sessions.
    """

    def __init__(self, wire: Wire, *, session: str, user: str, everyone: str) -> None:
        self._wire, self._session, self._user, self._everyone = wire, session, user, everyone

    async def count(self) -> tuple[int, int]:
        """Return how many sessions are alive, and how many users have one."""
        users: set[bytes] = set()
        active = cursor = 0
        while True:
            cursor, keys = await self._page(self._everyone, cursor)
            records = await self._wire.batch([("HMGET", self._session + key, "version", "user_id") for key in keys])
            active += sum(version is not None for version, _ in records)
            users.update(user for version, user in records if version is not None and user)
            if not cursor:
                return active, len(users)

    async def trim(self) -> int:
        """Remove index entries of sessions that are over, and return how many."""
        removed = await self._trim_one(self._everyone)
        pattern = re.sub(r"[\\*?\[\]]", r"\\\g<0>", self._user) + "*"
        cursor = 0
        while True:
            cursor, names = await self._wire.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
            for name in names:
                removed += await self._trim_one(name.decode())
            if not cursor:
                return removed

    async def server(self) -> dict[str, int | float | str]:
        """Return what Redis says of itself; nothing where it may not be asked."""
        try:
            facts = await self._wire.execute("INFO")
        except StoreMisconfigured:  # many an ACL user may not, and nothing depends on it
            return {}
        return {label: facts[fact] for label, fact in _FACTS.items() if fact in facts}

    async def _trim_one(self, name: str) -> int:
        removed = cursor = 0
        while True:
            cursor, keys = await self._page(name, cursor)
            alive = await self._wire.batch([("HEXISTS", self._session + key, "version") for key in keys])
            dead = [key for key, lives in zip(keys, alive, strict=True) if not lives]
            if dead:
                removed += await self._wire.execute("ZREM", name, *dead)
            if not cursor:
                return removed

    async def _page(self, name: str, cursor: int) -> tuple[int, list[str]]:
        cursor, members = await self._wire.execute("ZSCAN", name, cursor, "COUNT", _PAGE)
        return cursor, [member.decode() for member, _ in members]
