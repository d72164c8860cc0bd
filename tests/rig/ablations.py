"""The protocol with one rule taken out: the oracle has to notice each.

An ablation changes the package in the worker's process, before anything is built.  Here are the rules whose absence
shows within minutes of real time; the model takes out each one.
"""

from collections.abc import Callable
from typing import Any

from vedsess_middleware.concurrency import settle, waiting
from vedsess_middleware.stores.failover import FailoverStore, reading
from vedsess_middleware.stores.failover.copying import Copier
from vedsess_middleware.stores.failover.ending import Ender
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.failover.upkeep import Upkeep
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.redis import RedisStore, view
from vedsess_middleware.stores.redis.scripts import Script, session_script
from vedsess_middleware.stores.sql import SQLStore

ABLATIONS: dict[str, Callable[[], None]] = {}
"""By name; a worker's `ablate` names one."""

CAUGHT_BY: dict[str, tuple[str, ...]] = {}
"""The faults under which each shows, by name."""


def without(name: str, *faults: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register an ablation, and the faults under which it shows."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        ABLATIONS[name], CAUGHT_BY[name] = apply, faults
        return apply

    return register


def _patch(owner: Any, name: str, value: Any) -> None:
    """Put something in the place of what is there: of what is not there, nothing would be taken out."""
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, value)


async def _nothing(*_: Any, **__: Any) -> None:
    return None


@without("epoch", "F2q", "F11")
def _any_copy_counts() -> None:
    _patch(RedisStore, "under", lambda self, epoch: self)


@without("token", "F5", "F7")
def _the_browser_is_not_asked() -> None:
    load = FailoverStore.load

    async def forgetful(self: FailoverStore, key: str, *, at: float, refresh: float, **_: Any) -> Record | None:
        return await load(self, key, at=at, refresh=refresh)

    _patch(FailoverStore, "load", forgetful)


@without("dirty", "F5", "F7")
def _nobody_hears_of_what_was_written_past_redis() -> None:
    _patch(Pair, "denies", lambda self, key: False)
    _patch(Upkeep, "_drain", _nothing)


@without("drain", "F5", "F6")
def _what_redis_missed_is_never_made_up_for() -> None:
    _patch(Upkeep, "_drain", _nothing)


@without("lease wait", "F5", "F7")
def _a_logout_is_answered_at_once() -> None:
    async def at_once(self: Ender, committed_at: float) -> None:
        self._pair.trust.distrust()

    _patch(Ender, "_outlived", at_once)


@without("pick-up", "F25")
def _the_dead_are_forgotten() -> None:
    _patch(Upkeep, "_pick_up", _nothing)


@without("mirror", "F1q", "F21")
def _sql_gets_no_copy() -> None:
    _patch(Copier, "run", _nothing)
    _patch(Upkeep, "_pick_up", _nothing)


@without("logout in SQL first", "F1q", "F2q")
def _a_logout_reaches_sql_never() -> None:
    async def later(self: SQLStore, keys: Any, **_: Any) -> list[str]:
        return list(keys)

    _patch(SQLStore, "end", later)


@without("guard of the commit", "F4s", "F5")
def _a_commit_looks_at_nothing() -> None:
    _patch_script("if s ~= base_s or r < base_r then return {'behind'} end", "")


def _patch_script(old: str, new: str) -> None:
    def patched(epoch: str = "") -> Script:
        text = session_script(epoch).text
        assert old in text
        return _named(text.replace(old, new))

    _patch(view, "session_script", patched)


def _named(text: str) -> Script:
    from hashlib import sha1

    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


@without("stamps", "F5", "F10n")
def _the_last_to_come_wins() -> None:
    from vedsess_middleware.stores import record

    _patch(record, "_merge_fields", lambda x, y: {**x, **y})


@without("wait for the copy", "F1q")
def _a_copy_under_way_is_not_awaited() -> None:
    _patch(reading, "_FRESH", -1.0)
    _patch(SQLStore, "mirror", _slowly(SQLStore.mirror))


def _slowly(mirror: Any) -> Any:
    """Copies that are under way for so long that a fault can come between."""

    async def slow(self: SQLStore, key: str, record: Record, **options: Any) -> Record:
        await settle(waiting(is_async=self.is_async)(0.2))
        kept: Record = await mirror(self, key, record, **options)
        return kept

    return slow
