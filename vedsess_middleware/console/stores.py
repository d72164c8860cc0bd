"""The stores of the settings, for a command: built, used once, closed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from vedsess_middleware.build import DEFAULT_DATABASE_URL, build_manager, build_store
from vedsess_middleware.concurrency import run_blocking, settle
from vedsess_middleware.console.keygen import new_key
from vedsess_middleware.events import Event, EventHook
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore

__all__ = ["database_url", "each_store", "opened", "run", "run_managed", "settings_without_key"]

T = TypeVar("T")

_LOOP_ONLY = ("aiosqlite", "asyncpg", "asyncmy")
_MOST_ROUNDS = 20


def settings_without_key() -> Settings:
    """For work that signs nothing: whoever tidies need not know the app's key."""
    return Settings.from_env(secret_key=new_key())


def database_url(settings: Settings) -> str:
    """Where SQL is, said or not."""
    return settings.database_url or DEFAULT_DATABASE_URL


def run(settings: Settings, work: Callable[[bool], Coroutine[Any, Any, T]]) -> T:
    """Run `work(is_async)` in the colour that the driver in the database URL has; blocking where it says none."""
    driver = database_url(settings).partition("://")[0].partition("+")[2]
    if driver in _LOOP_ONLY:
        return asyncio.run(work(True))
    return run_blocking(work(False))


def run_managed(settings: Settings, work: Callable[[SessionManager], Awaitable[T]], **extensions: Any) -> T:
    """Run `work` on a manager over these stores, and then all that rides after a response.

    Args:
        settings: which stores.
        work: what is to be done.
        extensions: of the manager, see `build_manager`.  Events are not logged unless `on_event` does.
    """
    return run(settings, lambda is_async: _managed(settings, work, is_async, {"on_event": _ignore, **extensions}))


async def _managed(
    settings: Settings, work: Callable[[SessionManager], Awaitable[T]], is_async: bool, extensions: dict[str, Any]
) -> T:
    manager = build_manager(settings, is_async=is_async, **extensions)
    try:
        done = await work(manager)
        for _ in range(_MOST_ROUNDS):
            if manager.pending:
                await manager.after_response()
        return done
    finally:
        await manager.aclose()


@asynccontextmanager
async def opened(settings: Settings, *, is_async: bool, on_event: EventHook | None = None) -> AsyncIterator[Store]:
    """The stores of the settings as one, closed at the end.  Their events are not logged: a command says it all."""
    store = build_store(settings, is_async=is_async, on_event=on_event or _ignore)
    try:
        yield store
    finally:
        await settle(store.close())


def each_store(store: Store) -> list[Store]:
    """The stores that one is made of, the first asked first."""
    return [store.primary, store.secondary] if isinstance(store, FailoverStore) else [store]


def _ignore(event: Event) -> None:
    """Say nothing."""
