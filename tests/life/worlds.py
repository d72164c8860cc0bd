"""The stores that sessions live in: how each is built and emptied, and how it goes away."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, delete

from tests.clients import Clock
from tests.clients import Protocol as ServerProtocol
from tests.servers import RedisServers
from tests.stores import quiet
from vedsess_middleware.concurrency import settle
from vedsess_middleware.errors import StoreUnavailable
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.redis.client import redis_client
from vedsess_middleware.stores.sql import SQLStore, engines
from vedsess_middleware.stores.sql.tables import metadata

__all__ = ["NAMES", "Gate", "Place", "World", "world_of"]

_ALL_AT_HAND = frozenset({"name", "is_async", "epoch", "under", "note_use", "confirm", "pending"})


class Gate:
    """A store that is away while its gate is shut."""

    def __init__(self, store: Any, shut: Callable[[], bool]) -> None:
        self._store, self._shut = store, shut

    @property
    def pending(self) -> bool:
        return bool(self._store.pending)

    def under(self, epoch: str) -> "Gate":
        return Gate(self._store.under(epoch), self._shut)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if name in _ALL_AT_HAND or not callable(attribute):
            return attribute

        def call(*args: object, **options: object) -> object:
            if self._shut():
                raise StoreUnavailable("connection refused", reason="unreachable", attempts=2)
            return attribute(*args, **options)

        return call


class _Waited:
    """Monotonic seconds: those of the clock, and those that a store has waited for."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._waited = clock, 0.0

    def __call__(self) -> float:
        return self._clock.now + self._waited

    async def wait(self, seconds: float) -> None:
        self._waited += seconds


@dataclass(eq=False, slots=True, kw_only=True)
class Place:
    """One example's stores.

    Attributes:
        workers: the store of each process.
        parts: the stores behind them, by name.
        away: names of those that do not answer.
        doubly: one failed before the other had recovered: then less is promised.
    """

    workers: list[Any]
    parts: dict[str, Any]
    away: set[str] = field(default_factory=set)
    doubly: bool = False
    _last: str = ""

    @property
    def is_pair(self) -> bool:
        """Whether one store takes over from another."""
        return len(self.parts) > 1

    def shut(self, which: str) -> None:
        """A store goes away."""
        self.doubly = self.doubly or (not self.well and self._last != which)
        self.away.add(which)
        self._last = which

    def open(self, which: str) -> None:
        """A store comes back."""
        self.away.discard(which)

    def look(self) -> None:
        """Note if all is well again."""
        self.doubly = self.doubly and not self.well

    @property
    def well(self) -> bool:
        """Whether all stores are, and none owes the other anything."""
        return not self.away and all(each.health.settled for each in self.workers if isinstance(each, FailoverStore))

    @property
    def may_fail(self) -> bool:
        """Whether a request may fail: the store that can always take over is away, or is not trusted again yet."""
        pairs = [each for each in self.workers if isinstance(each, FailoverStore)]
        return "secondary" in self.away or any(each.health.secondary != "closed" for each in pairs)

    async def held(self, key: str) -> dict[str, Record | None]:
        """What each store holds under a key."""
        return {name: await settle(store.peek(key)) for name, store in self.parts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all examples share.

    Attributes:
        name: of the kind of store.
        protocol: that the site speaks.
        runner: of the event loop.
        make: makes new stores by the clock, each on every call, over the same servers.
        empty: empties the servers.
    """

    name: str
    protocol: ServerProtocol
    runner: asyncio.Runner
    make: tuple[Callable[[Any], Any], ...]
    empty: tuple[Callable[[], object], ...]

    def place(self, clock: Clock, *, workers: int, mirror: Any = "after-response") -> Place:
        """Empty stores, for so many processes."""
        for empty in self.empty:
            empty()
        if len(self.make) == 1:
            stores = [self.make[0](clock) for _ in range(workers)]
            return Place(workers=stores, parts={"primary": stores[0]})
        away: set[str] = set()
        parts = dict(zip(("primary", "secondary"), (make(clock) for make in self.make), strict=True))
        return Place(workers=[self._pair(clock, away, mirror) for _ in range(workers)], parts=parts, away=away)

    def _pair(self, clock: Clock, away: set[str], mirror: Any) -> FailoverStore:
        primary, secondary = (make(clock) for make in self.make)
        time = _Waited(clock)
        return FailoverStore(
            Gate(primary, lambda: "primary" in away),
            Gate(secondary, lambda: "secondary" in away),
            mirror=mirror,
            clock=time,
            wait=time.wait,
            on_event=quiet,
        )


# -- each kind ---------------------------------------------------------------------------------------------------------

_Part = tuple[Callable[[Any], Any], Callable[[], object], Callable[[], Any]]


def _memory(counts: Any) -> Callable[..., _Part]:
    def part(request: pytest.FixtureRequest, is_async: bool) -> _Part:
        held: list[MemoryStore] = []

        def empty() -> None:
            held[:] = [MemoryStore(counts=counts)]

        return lambda clock: held[0], empty, lambda: None

    return part


def _redis(request: pytest.FixtureRequest, is_async: bool) -> _Part:
    servers: RedisServers = request.getfixturevalue("redis_servers")
    server = servers["valkey-9.1"]
    client = redis_client(server.url, is_async=is_async, timeout=2.0)
    close = client.aclose if is_async else client.close
    return lambda clock: RedisStore(client, timeout=2.0, clock=clock, on_event=quiet), server.empty, close


def _sqlite(request: pytest.FixtureRequest, is_async: bool) -> _Part:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("sqlite")
    return _sql(f"sqlite:///{folder}/sessions.sqlite3", is_async)


def _postgres(request: pytest.FixtureRequest, is_async: bool) -> _Part:
    url = request.getfixturevalue("postgres").start().url
    name = f"life_{'asyncio' if is_async else 'blocking'}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return _sql(url.removesuffix("postgres") + name, is_async)


def _sql(url: str, is_async: bool) -> _Part:
    engine = (engines.async_engine if is_async else engines.sync_engine)(url, timeout=10.0)
    tidy = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    metadata.create_all(tidy)

    def make(clock: Clock) -> SQLStore:
        # Each look at the clock is later than any pause between two reports of uses.
        ticks = iter(range(10, 10_000_000, 10))
        return SQLStore(engine, timeout=10.0, clock=lambda: next(ticks))

    def empty() -> None:
        with tidy.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(delete(table))

    def close() -> Any:
        tidy.dispose()
        return engine.dispose()

    return make, empty, close


_KINDS: dict[str, tuple[Callable[..., _Part], ...]] = {
    "memory": (_memory("r"),),
    "redis": (_redis,),
    "sqlite": (_sqlite,),
    "postgres": (_postgres,),
    "failover-memory": (_memory("r"), _memory("s")),
    "failover-sqlite": (_redis, _sqlite),
}

NAMES = tuple(_KINDS)
"""The kinds of stores."""


def world_of(
    request: pytest.FixtureRequest, name: str, protocol: ServerProtocol, runner: asyncio.Runner
) -> tuple[World, Callable[[], None]]:
    """The world of this name, and what gives its connections back."""
    parts = [part(request, protocol == "asgi") for part in _KINDS[name]]
    makes, empties, closes = zip(*parts, strict=True)
    world = World(name=name, protocol=protocol, runner=runner, make=makes, empty=empties)

    def close() -> None:
        for each in closes:
            runner.run(_settled(each))

    return world, close


async def _settled(close: Callable[[], Any]) -> None:
    await settle(close())
