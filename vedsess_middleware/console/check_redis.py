"""What can be wrong with Redis, in the order in which a person would look."""

import statistics
import time
from typing import Any

from vedsess_middleware.console.mends import ANSWERED, explain_redis
from vedsess_middleware.console.steps import Checklist, Finding
from vedsess_middleware.errors import StoreError, StoreMisconfigured
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.redis.client import redis_client
from vedsess_middleware.stores.redis.wire import Wire

__all__ = ["RedisCheck", "wire_of"]

_OLDEST = (6, 2)
_ASKED = 5


def wire_of(settings: Settings, *, is_async: bool) -> Wire:
    """A way to the Redis of the settings, with their patience.  Connects on first use."""
    url, timeout = settings.redis_url or "", settings.redis_timeout
    if is_async:
        return Wire(lambda: redis_client(url, is_async=True, timeout=timeout), timeout=timeout)
    return Wire(redis_client(url, is_async=False, timeout=timeout), timeout=timeout)


class RedisCheck:
    """The steps of the area `Redis`.

    Args:
        settings: which Redis, and how patient.
        wire: the way to it.
    """

    def __init__(self, settings: Settings, wire: Wire) -> None:
        self._settings, self._wire = settings, wire
        self._refusal: StoreError | None = None
        self._facts: dict[str, Any] | None = None

    async def run(self, checklist: Checklist) -> None:
        """Do all steps."""
        await checklist.run("connect", self._connect)
        await checklist.run("authenticate", self._authenticate)
        await checklist.run("permission", self._permission)
        await checklist.run("round trip", self._round_trip)
        await checklist.run("version", self._version)
        await checklist.run("memory", self._memory)
        await checklist.run("persistence", self._persistence)

    async def _ask(self) -> Any:
        """A command that sessions need anyway, on a key that is never there."""
        return await self._wire.execute("HGETALL", f"{self._settings.key_prefix}session:{'0' * 64}")

    async def _connect(self) -> Finding:
        try:
            await self._ask()
        except StoreMisconfigured as error:
            if explain_redis(error, self._settings).kind not in ANSWERED:
                raise
            self._refusal = error
        return Finding(self._settings.masked()["redis_url"])

    async def _authenticate(self) -> Finding:
        refusal = self._refusal
        if refusal is not None and explain_redis(refusal, self._settings).kind != "permission":
            raise refusal
        return Finding()

    async def _permission(self) -> Finding:
        if self._refusal is not None:
            raise self._refusal
        return Finding("may read our keys; the probe session tries the rest")

    async def _round_trip(self) -> Finding:
        settings = self._settings
        seconds = statistics.median([await self._time_one() for _ in range(_ASKED)])
        detail = f"{seconds * 1000:.1f} ms (median of {_ASKED})"
        if seconds > settings.redis_timeout / 2:
            return Finding(f"{detail}: near the time limit", "warning", "raise VEDSESS_REDIS_TIMEOUT")
        if seconds > settings.probe_timeout / 2:
            mend = f"raise VEDSESS_PROBE_TIMEOUT to {seconds * 4:.2g}, or a Redis that was down is noticed late"
            return Finding(f"{detail}: too long for the probe", "warning", mend)
        return Finding(detail)

    async def _time_one(self) -> float:
        started_at = time.perf_counter()
        await self._ask()
        return time.perf_counter() - started_at

    async def _info(self) -> dict[str, Any]:
        if self._facts is None:
            try:
                self._facts = dict(await self._wire.execute("INFO"))
            except StoreMisconfigured:  # many an ACL user may not, and nothing depends on it
                self._facts = {}
        return self._facts

    async def _version(self) -> Finding:
        facts = await self._info()
        found = str(facts.get("redis_version", ""))
        if not found:
            mend = "before Redis 7.0, allow INFO: without it a replica that was promoted is not told from its master"
            return Finding(_unknown().detail, "note", mend)
        name = "Valkey" if facts.get("server_name") == "valkey" else "Redis"
        shown = f"{name} {facts.get('valkey_version', found)}"
        if _numbers(found) < _OLDEST:
            return Finding(f"{shown} is older than 6.2", "warning", "move to Redis 6.2 or later, or to Valkey")
        return Finding(shown)

    async def _memory(self) -> Finding:
        facts = await self._info()
        if not facts:
            return _unknown()
        limit, policy = int(facts.get("maxmemory", 0)), str(facts.get("maxmemory_policy", ""))
        shown = f"maxmemory {limit or 'unlimited'}, policy {policy}"
        if policy.startswith("allkeys"):
            mend = "use volatile-ttl, or a Redis of its own: evicted sessions have to come from SQL"
            return Finding(f"{shown}: live sessions may be evicted", "warning", mend)
        if policy == "noeviction" and limit:
            mend = "watch its memory, or use volatile-ttl: a full Redis refuses writes, and sessions go to SQL"
            return Finding(shown, "warning", mend)
        return Finding(shown, "ok" if limit else "note")

    async def _persistence(self) -> Finding:
        facts = await self._info()
        if not facts:
            return _unknown()
        if facts.get("aof_enabled"):
            return Finding("append-only file")
        if await self._saves():
            return Finding("snapshots")
        if self._settings.mirror == "off":
            mend = "set VEDSESS_MIRROR=after-response, or switch on persistence in Redis"
            return Finding("none, and VEDSESS_MIRROR=off: a restart of Redis ends all sessions", "warning", mend)
        return Finding("none: after a restart of Redis, sessions come from SQL", "note")

    async def _saves(self) -> bool:
        try:
            _, save = await self._wire.execute("CONFIG", "GET", "save")
        except (StoreMisconfigured, ValueError):  # not permitted, or not known to a hosted Redis
            return False
        return bool(save)


def _unknown() -> Finding:
    return Finding("unknown: this Redis user may not ask (INFO)", "note")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
