"""What each store reports of itself, one by one: a store that is down does not hide the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from vedsess_middleware.concurrency import Maybe, settle
from vedsess_middleware.console.mends import explain_redis, explain_sql
from vedsess_middleware.console.stores import database_url, each_store, opened
from vedsess_middleware.errors import StoreError
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.contract import Stats, Store

__all__ = ["Report", "cleanup", "count"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer of one store.

    Attributes:
        store: its name.
        stats: what it counted; None: it was not asked, or it failed.
        removed: how many entries it removed; None likewise.
        error: why it failed, with the mend; empty: it did not.
    """

    store: str
    stats: Stats | None = field(default=None)
    removed: int | None = None
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
