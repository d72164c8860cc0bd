"""Connections and pools that keep to a time budget."""

import asyncio
import functools
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection, QueuePool

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import RV, PQGen, PQGenConn

__all__ = ["AsyncBudgetPool", "BudgetPool", "budget", "connect_asyncpg", "ends_at", "psycopg_classes"]

S = TypeVar("S")
T = TypeVar("T")

_TICK = 0.05

_ends_at: ContextVar[float] = ContextVar("vedsess_sql_budget_ends_at", default=math.inf)


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Let all checkouts of these engines inside the block end within `seconds` together, such as a try and its retry.

    Each keeps its own `timeout` as well; nested budgets only shorten.  The wait for a pooled connection is not cut.
    """
    token = _ends_at.set(min(_ends_at.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _ends_at.reset(token)


def ends_at() -> float:
    """When the budget of the checkout that is being made ends, in monotonic seconds."""
    return _ends_at.get()


class BudgetPool(QueuePool):
    """Starts the budget, which is twice the pool's own timeout, before it looks for a connection."""

    def connect(self) -> PoolProxiedConnection:
        with budget(2 * self.timeout()):
            return super().connect()


class AsyncBudgetPool(BudgetPool, AsyncAdaptedQueuePool):
    """The same for an event loop."""


def _until(ends_at: float, steps: "Generator[S, Any, T]", error: type[Exception]) -> "Generator[S, Any, T]":
    """The generator of a psycopg operation, ended by `error` when time is up; it is resumed every tick."""
    ready = None
    try:
        while monotonic() < ends_at:
            ready = yield steps.send(ready)
    except StopIteration as done:
        return cast(T, done.value)
    raise error("the time budget of the SQL store is used up")


@functools.cache
def psycopg_classes() -> "tuple[type[psycopg.Connection[Any]], type[psycopg.AsyncConnection[Any]]]":
    """The blocking and the asyncio connection of psycopg, ended by the budget."""
    import psycopg
    from psycopg import waiting

    class Bounded:
        ends_at = math.inf
        pgconn: psycopg.pq.abc.PGconn

        def start_budget(self, ends_at: float) -> None:
            self.ends_at = ends_at

        @contextmanager
        def dropped_when_late(self) -> Iterator[None]:
            try:
                yield
            except psycopg.Error:
                if monotonic() >= self.ends_at:
                    self.pgconn.finish()
                raise

    class BoundedConnection(Bounded, psycopg.Connection[Any]):
        @classmethod
        def _connect_gen(cls, *args: Any, **kwargs: Any) -> "PQGenConn[Self]":
            ends_at = _ends_at.get()
            steps = super()._connect_gen(*args, **kwargs)
            connection = yield from _until(ends_at, steps, psycopg.errors.ConnectionTimeout)
            connection.start_budget(ends_at)
            return connection

        def wait(self, gen: "PQGen[RV]", interval: float = _TICK, timeout: float | None = None) -> "RV":
            steps = _until(self.ends_at, gen, psycopg.errors.QueryCanceled)
            with self.dropped_when_late():
                return waiting.wait(steps, self.pgconn.socket, interval=interval)

    class BoundedAsyncConnection(Bounded, psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> "Self":
            ends_at = _ends_at.get()
            try:
                async with asyncio.timeout(ends_at - monotonic()):
                    connection = await super().connect(*args, **kwargs)
            except TimeoutError as error:
                raise psycopg.errors.ConnectionTimeout("connection timeout expired") from error
            connection.start_budget(ends_at)
            return connection

        async def wait(self, gen: "PQGen[RV]", interval: float = _TICK, timeout: float | None = None) -> "RV":
            steps = _until(self.ends_at, gen, psycopg.errors.QueryCanceled)
            with self.dropped_when_late():
                return await waiting.wait_async(steps, self.pgconn.socket, interval=interval)

    return BoundedConnection, BoundedAsyncConnection


@functools.cache
def _asyncpg_class() -> Any:
    import asyncpg  # type: ignore[import-untyped]

    class BoundedConnection(asyncpg.Connection):  # type: ignore[misc]
        timer: asyncio.TimerHandle | None = None

        def start_budget(self, ends_at: float) -> None:
            self.stop_budget()
            self.timer = asyncio.get_running_loop().call_later(ends_at - monotonic(), self.terminate)

        def stop_budget(self) -> None:
            if self.timer:
                self.timer.cancel()

        async def close(self, *, timeout: float | None = None) -> None:
            # The original waits for the server to hang up.
            self.stop_budget()
            self.terminate()

    return BoundedConnection


async def connect_asyncpg(*args: Any, **kwargs: Any) -> Any:
    """A connection of asyncpg, ended by the budget."""
    import asyncpg

    ends_at = _ends_at.get()
    async with asyncio.timeout(ends_at - monotonic()):
        connection = await asyncpg.connect(*args, connection_class=_asyncpg_class(), **kwargs)
    connection.start_budget(ends_at)
    return connection
