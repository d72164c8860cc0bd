"""The sites that tests of a session's life share: on WSGI and ASGI, over every store; new and empty for each test."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Protocol

import psycopg
import pytest
import redis
from msgspec.structs import asdict
from sqlalchemy import create_engine, delete, select

from tests.clients import Answer, Clock, Handler, Site
from tests.clients import Protocol as ServerProtocol
from tests.servers import RedisServers
from vedsess_middleware import Session
from vedsess_middleware.concurrency import settle
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.redis.client import redis_client
from vedsess_middleware.stores.sql import SQLStore, engines
from vedsess_middleware.stores.sql.tables import metadata

BACKENDS = ("redis", "redis-6.2", "sqlite", "postgresql", "memory", "failover")

in_memory = pytest.mark.parametrize("backend", ["memory"], indirect=True)
"""For what does not depend on the store."""

_numbers = count()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def protocol(request: pytest.FixtureRequest) -> ServerProtocol:
    protocol: ServerProtocol = request.param
    return protocol


@dataclass(frozen=True, slots=True)
class Backend:
    """What a module shares for one kind of store; the stores themselves are new for each test.

    Attributes:
        name: one of `BACKENDS`.
        make: makes a store.
        empty: empties its servers.
        dump: all that its servers hold, as text.
    """

    name: str
    make: Callable[[Clock], Store]
    empty: Callable[[], object]
    dump: Callable[[], str]


class Part(NamedTuple):
    """One store of a backend."""

    make: Callable[[Clock], Any]
    empty: Callable[[], object]
    close: Callable[[], Any]
    dump: Callable[[], str]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest, protocol: ServerProtocol, runner: asyncio.Runner) -> Iterator[Backend]:
    name, is_async = request.param, protocol == "asgi"
    parts = [_PARTS[part](request, is_async) for part in (("redis", "sqlite") if name == "failover" else (name,))]

    def make(clock: Clock) -> Any:
        if name == "failover":
            return FailoverStore(*(part.make(clock) for part in parts), clock=clock, on_event=lambda event: None)
        return parts[0].make(clock)

    yield Backend(
        name, make, lambda: [part.empty() for part in parts], lambda: "\n".join(part.dump() for part in parts)
    )
    for part in parts:
        runner.run(_settled(part.close))


async def _settled(close: Callable[[], Any]) -> None:
    await settle(close())


def _redis(request: pytest.FixtureRequest, is_async: bool, server_id: str = "valkey-9.1") -> Part:
    servers: RedisServers = request.getfixturevalue("redis_servers")
    server = servers[server_id]
    client = redis_client(server.url, is_async=is_async, timeout=2.0)
    close = client.aclose if is_async else client.close

    def dump() -> str:
        with redis.Redis.from_url(server.url) as reader:
            hashes = [reader.hgetall(name) for name in reader.scan_iter() if reader.type(name) == b"hash"]
            return str([list(reader.scan_iter()), hashes])

    return Part(lambda clock: RedisStore(client, clock=clock, on_event=lambda event: None), server.empty, close, dump)


def _sql(request: pytest.FixtureRequest, is_async: bool, url: str) -> Part:
    engine = (engines.async_engine if is_async else engines.sync_engine)(url, timeout=5.0)
    tidy = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    metadata.create_all(tidy)

    def empty() -> None:
        with tidy.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(delete(table))

    def close() -> Any:
        tidy.dispose()
        return engine.dispose()

    def dump() -> str:
        with tidy.begin() as connection:
            return str([connection.execute(select(table)).all() for table in metadata.sorted_tables])

    return Part(lambda clock: SQLStore(engine, timeout=5.0, clock=clock), empty, close, dump)


def _sqlite(request: pytest.FixtureRequest, is_async: bool) -> Part:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("sqlite")
    return _sql(request, is_async, f"sqlite:///{folder}/sessions.sqlite3")


def _postgresql(request: pytest.FixtureRequest, is_async: bool) -> Part:
    url = request.getfixturevalue("postgres").start().url
    name = f"site_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return _sql(request, is_async, url.removesuffix("postgres") + name)


def _memory(request: pytest.FixtureRequest, is_async: bool) -> Part:
    made: list[MemoryStore] = []

    def make(clock: Clock) -> MemoryStore:
        made[:] = [MemoryStore()]
        return made[0]

    def dump() -> str:
        return str([asdict(record) | {"fields": record.values} for record in made[0]._records.values()])

    return Part(make, made.clear, lambda: None, dump)


_PARTS: dict[str, Callable[..., Part]] = {
    "redis": _redis,
    "redis-6.2": partial(_redis, server_id="redis-6.2"),
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "memory": _memory,
}


class SiteFactory(Protocol):
    """Makes the site of a test, with settings of its own."""

    def __call__(self, **options: Any) -> Site: ...


@pytest.fixture
def make_site(backend: Backend, protocol: ServerProtocol, runner: asyncio.Runner) -> SiteFactory:
    backend.empty()
    clock = Clock()
    store = backend.make(clock)
    return lambda **options: Site(protocol, store, runner, clock=clock, **options)


@pytest.fixture
def site(make_site: SiteFactory) -> Site:
    return make_site()


def put(**values: object) -> Handler:
    """A handler that writes without reading."""
    return lambda session: session.update(values)


def read(session: Session) -> dict[str, Any]:
    return dict(session)


def add(name: str, value: object) -> Handler:
    """A handler that reads, then writes."""
    return lambda session: session.setdefault(name, []).append(value)


def log_in(user: str, **values: object) -> Handler:
    def handler(session: Session) -> None:
        session.login(user)
        session.update(values)

    return handler


def attributes(answer: Answer) -> list[str]:
    """The attributes of the one cookie that is set; Expires says the same as Max-Age."""
    assert answer.cookie is not None
    return sorted(each for each in answer.cookie.split("; ")[1:] if not each.startswith("Expires="))


def names(answer: Answer) -> list[str]:
    return sorted(name.lower() for name, _ in answer.headers)
