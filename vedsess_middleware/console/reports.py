"""What each store reports of itself, one by one: a store that is down does not hide the other."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from vedsess_middleware.concurrency import Maybe, Wait, settle, waiting
from vedsess_middleware.console.mends import explain_redis, explain_sql
from vedsess_middleware.console.stores import database_url, each_store, opened
from vedsess_middleware.errors import EpochMissing, StoreError
from vedsess_middleware.events import EventCounts
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.contract import News, Stats, Store
from vedsess_middleware.stores.failover import FailoverStore, Health
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

__all__ = ["Report", "cleanup", "count", "maintain", "status"]

T = TypeVar("T")

_ROUND = 0.25
_MOST_LISTED = 1000
_DONE = {
    "RecordDrained": "records drained",
    "CopyPickedUp": "copies picked up",
    "StoreRefenced": "new epochs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer of one store.

    Attributes:
        store: its name.
        stats: what it counted; None: it was not asked, or it failed.
        removed: how many entries it removed; None likewise.
        facts: what else it says, by readable name.
        error: why it failed, with the mend; empty: it did not.
    """

    store: str
    stats: Stats | None = field(default=None)
    removed: int | None = None
    facts: Mapping[str, int | str] = field(default_factory=dict)
    error: str = ""


async def count(settings: Settings, *, is_async: bool) -> list[Report]:
    """Count the sessions of every store, exactly: this walks all of them."""

    async def one(store: Store) -> Report:
        return Report(store=store.name, stats=await settle(store.stats(at=time.time())))

    return await _each(settings, is_async, one)


async def cleanup(settings: Settings, *, is_async: bool) -> list[Report]:
    """Remove what has expired from every store, index entries too."""

    async def one(store: Store) -> Report:
        return Report(store=store.name, removed=await settle(store.cleanup(at=time.time())))

    return await _each(settings, is_async, one)


async def status(settings: Settings, *, is_async: bool) -> list[Report]:
    """What each store says, and what it owes the other.  Changes nothing."""
    async with opened(settings, is_async=is_async) as store:
        reports = []
        epoch = ""
        for each in reversed(each_store(store)):  # SQL first: it says which epoch Redis has to know
            try:
                facts, epoch = await _state(each, epoch)
                reports.append(Report(store=each.name, facts=facts))
            except StoreError as error:
                reports.append(Report(store=each.name, error=_words(each.name, error, settings)))
        return reports[::-1]


async def maintain(settings: Settings, *, is_async: bool, seconds: float) -> list[Report]:
    """Do what rides after a response, until neither store owes the other anything; then remove what has expired.

    Args:
        settings: of the app.
        is_async: the colour of the clients.
        seconds: to give up after.
    """
    counts = EventCounts(lambda event: None)
    async with opened(settings, is_async=is_async, on_event=counts) as store:
        if isinstance(store, FailoverStore):
            report = await _settle(store, seconds, waiting(is_async=is_async))
            done = {label: counts.counts[name] for name, label in _DONE.items() if counts.counts[name]}
            reports = [Report(store="both", facts={**done, "settled": "yes" if not report else "no"}, error=report)]
        else:
            reports = []
    return [*reports, *await cleanup(settings, is_async=is_async)]


async def _settle(store: FailoverStore, seconds: float, wait: Wait) -> str:
    """Empty when all is settled; else what is left."""
    ends_at = time.monotonic() + seconds
    while True:
        await store.after_response()
        health = store.health
        if health.settled:
            return ""
        if time.monotonic() >= ends_at:
            return f"not settled after {seconds:g} s: {_left(health)}"
        await settle(wait(_ROUND))


def _left(health: Health) -> str:
    if health.primary != "closed" or health.secondary != "closed":
        return "a store does not answer; `vedsess check` says why"
    if health.refencing:
        return "Redis is being compared with SQL"
    if health.dirty:
        return f"{health.dirty} records are to be drained"
    return f"{max(health.copies, health.owed)} copies are owed to SQL"


async def _state(store: Store, epoch: str) -> tuple[dict[str, int | str], str]:
    if isinstance(store, SQLStore):
        news = await store.poll() if await store.has_table() else News()  # asking would make it
        dirty = f"{len(news.dirty)}{'' if news.complete else ' or more'}"
        told: dict[str, int | str] = {
            "answers": "yes",
            "epoch": news.epoch[:8] or "none yet",
            "rows that Redis may not know": dirty,
        }
        return told, news.epoch
    assert isinstance(store, RedisStore)
    owed = await store.unconfirmed(limit=_MOST_LISTED)
    facts: dict[str, int | str] = {"answers": "yes", "copies that SQL is owed": len(owed)}
    if epoch:
        facts["trusted"] = await _trusted(store, epoch)
    return facts, epoch


async def _trusted(store: RedisStore, epoch: str) -> str:
    try:
        await store.under(epoch).ping()
    except EpochMissing:
        return "no: restarted since, or another one; the next requests compare it with SQL"
    return "yes"


async def _each(settings: Settings, is_async: bool, ask: Callable[[Store], Maybe[Report]]) -> list[Report]:
    reports = []
    async with opened(settings, is_async=is_async) as store:
        for each in each_store(store):
            try:
                reports.append(await settle(ask(each)))
            except StoreError as error:
                reports.append(Report(store=each.name, error=_words(each.name, error, settings)))
    return reports


def _words(name: str, error: StoreError, settings: Settings) -> str:
    found = explain_redis(error, settings) if name == "redis" else explain_sql(error, settings, database_url(settings))
    return f"{found.what}: {found.mend}"
