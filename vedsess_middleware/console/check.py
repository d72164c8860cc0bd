"""`vedsess check` as data: every step with what was seen and the mend, for people and for programs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from vedsess_middleware.console.check_redis import RedisCheck, wire_of
from vedsess_middleware.console.check_session import SessionCheck
from vedsess_middleware.console.check_sql import SQLCheck
from vedsess_middleware.console.mends import explain_redis, explain_sql
from vedsess_middleware.console.steps import Checklist, Explanation, Step
from vedsess_middleware.console.stores import database_url, each_store, opened
from vedsess_middleware.errors import StoreError
from vedsess_middleware.events import Event
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.redis.wire import Wire
from vedsess_middleware.stores.sql import SQLStore

__all__ = ["check"]


async def check(settings: Settings, *, is_async: bool) -> list[Step]:
    """Try everything that sessions need, on the real stores, and return the steps in order.

    Takes as long as the time limits of the settings allow.  Leaves nothing behind but tables that were missing.

    Args:
        settings: of the app.
        is_async: the colour of the clients to try.

    Raises:
        ConfigurationError: a driver is missing, or the library that encrypts.
    """
    events: list[Event] = []
    async with opened(settings, is_async=is_async, on_event=events.append) as store, _wire(settings, is_async) as wire:
        probe = SessionCheck(settings, store, wire, events)  # first of all, for it asks for what settings need
        redis = await _check_redis(settings, wire)
        sql = Checklist("SQL", partial(explain_sql, settings=settings, url=database_url(settings)))
        database = each_store(store)[-1]
        assert isinstance(database, SQLStore)
        await SQLCheck(settings, database).run(sql)
        blocked = redis.blocked or sql.blocked
        session = Checklist("session", partial(_explain, settings), blocked=blocked)
        await probe.run(session)
    return [*redis.steps, *sql.steps, *session.steps]


async def _check_redis(settings: Settings, wire: Wire | None) -> Checklist:
    checklist = Checklist("Redis", partial(explain_redis, settings=settings))
    if wire is None:
        reason = "no redis_url" if settings.redis_url is None else "storage is database"
        checklist.steps.append(
            Step(area="Redis", name="connect", outcome="note", detail=f"not used ({reason}): sessions are in SQL only")
        )
    else:
        await RedisCheck(settings, wire).run(checklist)
    return checklist


@asynccontextmanager
async def _wire(settings: Settings, is_async: bool) -> AsyncIterator[Wire | None]:
    if not settings.uses_redis:
        yield None
        return
    wire = wire_of(settings, is_async=is_async)
    try:
        yield wire
    finally:
        await wire.close()


def _explain(settings: Settings, error: StoreError) -> Explanation:
    """The failure of a session: of Redis if it is said to be, and else of the database."""
    found = explain_sql(error, settings, database_url(settings))
    if found.kind == "other" and settings.uses_redis:
        return explain_redis(error, settings)
    return found
