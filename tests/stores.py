"""The stores under test: how to build each, what to put into them, and how to make them fail."""

import asyncio
import functools
import select
import socket
import socketserver
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import count
from typing import Any, Literal, TypeAlias

import fakeredis
import psycopg
import pytest

from tests.servers import redis_ids
from vedsess_middleware.concurrency import run_blocking, settle
from vedsess_middleware.errors import CorruptRecord, StoreMisconfigured, StoreUnavailable
from vedsess_middleware.events import Event
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Delta, Field, Record, Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

IDLE, LIFE = 1800.0, 86400.0
NEVER = 1e9  # a refresh interval that never ends
_commits = count(1)


def now() -> float:
    """The time, exact to the millisecond as records are."""
    return round(time.time(), 3)


def key(word: str) -> str:
    """A key that is as long as real ones."""
    return word.encode().hex().ljust(64, "0")


def a_record(at: float, *, idle: float = IDLE, life: float = LIFE, **changes: Any) -> Record:
    """A record of now with one field; `changes` are attributes, `fields` encoded values by name."""
    fields = {name: Field(Version(), value) for name, value in changes.pop("fields", {"a": "1"}).items()}
    return Record.new(at=at, idle_timeout=idle, deadline_at=round(at + life, 3)).replace(fields=fields, **changes)


def a_tombstone(at: float, version: Version = Version(0, 1)) -> Record:
    """What is left of a session that ended now."""
    return Record.tombstone(version=version, at=at, until=at + IDLE)


def a_delta(at: float, *, base: Version = Version(), loaded: Record | None = None, **options: Any) -> Delta:
    """A change by somebody who had loaded that record, or none; each is a commit of its own."""
    base = base.join(loaded.version) if loaded else base
    return Delta(at=at, base=base, loaded=loaded, **{"commit_id": f"c{next(_commits)}", "put": {}, **options})


# -- either colour -----------------------------------------------------------------------------------------------------


Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]
Work: TypeAlias = Callable[[], Awaitable[Any]]


class Subject:
    """A store under test: of either colour, and every method is awaited.

    Attributes:
        raw: the store itself.
        run: runs a coroutine over it.
    """

    def __init__(self, raw: Any, run: Run) -> None:
        self.raw, self.run = raw, run

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            return await settle(getattr(self.raw, name)(*args, **options))

        return call

    async def together(self, works: Sequence[Work]) -> list[Any]:
        """Run all at once, in threads or in tasks; an exception is a result."""
        if self.raw.is_async:
            return await asyncio.gather(*(work() for work in works), return_exceptions=True)
        with ThreadPoolExecutor(len(works)) as threads:
            futures = [threads.submit(lambda work: run_blocking(_awaited(work)), work) for work in works]
            return [future.exception() or future.result() for future in futures]


async def _awaited(work: Work) -> Any:
    return await work()


@contextmanager
def running(raw: Any) -> Iterator[Subject]:
    """A store with the runner of its colour; closed at the end."""
    if not raw.is_async:
        yield Subject(raw, run_blocking)
        run_blocking(settle(raw.close()))
        return
    with asyncio.Runner() as runner:
        yield Subject(raw, runner.run)
        runner.run(settle(raw.close()))


def driven(body: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test whose body is a coroutine over the fixture `store`."""

    @functools.wraps(body)
    def test(store: Subject, **fixtures: Any) -> None:
        store.run(body(store=store, **fixtures))

    return test


# -- every store -------------------------------------------------------------------------------------------------------

Build: TypeAlias = Callable[[pytest.FixtureRequest], Any]


def quiet(_: Event) -> None:
    """Nobody listens."""


def _redis(server_id: str, *, is_async: bool) -> Build:
    def build(request: pytest.FixtureRequest) -> RedisStore:
        server = request.getfixturevalue("redis_servers")[server_id].empty()
        return RedisStore.from_url(server.url, is_async=is_async, timeout=2.0, on_event=quiet)

    return build


def _sql(fixture: str, scheme: str, *, is_async: bool) -> Build:
    def build(request: pytest.FixtureRequest) -> SQLStore:
        url = request.getfixturevalue(fixture)
        _, _, rest = url.partition("://")
        ticks = count(10, 10)  # each look at the clock is later than any pause
        return SQLStore.from_url(f"{scheme}://{rest}", is_async=is_async, timeout=10.0, clock=lambda: next(ticks))

    return build


def _failover(primary: Build, secondary: Build) -> Build:
    return lambda request: FailoverStore(primary(request), secondary(request), on_event=quiet)


_SQL: dict[str, Build] = {
    "sqlite": _sql("sqlite_url", "sqlite", is_async=False),
    "sqlite-asyncio": _sql("sqlite_url", "sqlite", is_async=True),
    "postgres-psycopg": _sql("shared_database", "postgresql", is_async=False),
    "postgres-psycopg-asyncio": _sql("shared_database", "postgresql+psycopg", is_async=True),
    "postgres-asyncpg": _sql("shared_database", "postgresql+asyncpg", is_async=True),
}
_REDIS: dict[str, Build] = {
    f"{server_id}{colour}": _redis(server_id, is_async=bool(colour))
    for server_id in redis_ids()
    for colour in ("", "-asyncio")
}

SECONDARIES: dict[str, Build] = {"memory-s": lambda _: MemoryStore(counts="s"), **_SQL}
"""Stores that can take over from another, by name."""

PRIMARIES: dict[str, Build] = {
    "memory-r": lambda _: MemoryStore(counts="r"),
    **_REDIS,
    "fakeredis": lambda _: RedisStore(fakeredis.FakeRedis(), on_event=quiet),
}
"""Stores that another can take over from, by name."""

STORES: dict[str, Build] = {
    **PRIMARIES,
    **SECONDARIES,
    "failover-memory": lambda _: FailoverStore(MemoryStore(counts="r"), MemoryStore(counts="s"), on_event=quiet),
    "failover-sqlite": _failover(_REDIS["valkey-9.1"], _SQL["sqlite"]),
    "failover-sqlite-asyncio": _failover(_REDIS["valkey-9.1-asyncio"], _SQL["sqlite-asyncio"]),
    "failover-postgres": _failover(_REDIS["redis-6.2"], _SQL["postgres-psycopg"]),
}
"""Every store by name, in both colours."""


SYSTEM_STORES: dict[str, Build] = {
    "mariadb": _sql("mariadb_url", "mariadb", is_async=False),
    "mariadb-asyncio": _sql("mariadb_url", "mariadb", is_async=True),
}
"""Stores on servers that only the operating system has; for the marker `system`."""


ON_THE_SYSTEM = [pytest.param(name, marks=pytest.mark.system) for name in SYSTEM_STORES]
SQL = [*(name for name in SECONDARIES if name.startswith(("sqlite", "postgres"))), *ON_THE_SYSTEM]
"""The stores that speak SQL, for a parametrised fixture."""


def sql_store(name: str, request: pytest.FixtureRequest) -> AbstractContextManager[Subject]:
    """One of them, running."""
    return running((SECONDARIES | SYSTEM_STORES)[name](request))


def emptied_database(url: str) -> str:
    """The same URL, its tables without rows: cheaper than a database for each test."""
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'vedsess%'"
        for (table,) in connection.execute(query).fetchall():
            connection.execute(f"DELETE FROM {table}".encode())
    return url


# -- stores that fail --------------------------------------------------------------------------------------------------

Fault = Literal["refuse", "time out", "lose the reply", "saturated", "misconfigured", "one key", "corrupt", "cancel"]

_ERRORS: dict[Fault, Callable[[], BaseException]] = {
    "refuse": lambda: StoreUnavailable("connection refused", reason="unreachable", attempts=2),
    "time out": lambda: StoreUnavailable("no answer", reason="timeout", attempts=2),
    "lose the reply": lambda: StoreUnavailable("no answer", reason="timeout", attempts=2),
    "saturated": lambda: StoreUnavailable("no connection left", reason="saturated"),
    "misconfigured": lambda: StoreMisconfigured("wrong password"),
    "one key": lambda: StoreMisconfigured("wrong type", one_key=True),
    "corrupt": lambda: CorruptRecord("no session"),
    "cancel": asyncio.CancelledError,
}


class Memory(MemoryStore):
    """A memory store that can be restarted: it then knows no epoch, and holds what it is given."""

    def dump(self) -> dict[str, Any]:
        """All that a restart could bring back."""
        return {name: dict(getattr(self, name)) for name in ("_records", "_epochs", "_leases", "_owing")}

    def restart(self, dump: Mapping[str, Any], *, scripts: bool = False) -> None:
        """Hold this, and nothing else; `scripts`: the epochs that were installed still are."""
        for name in ("_records", "_epochs", "_leases", "_owing"):
            held = getattr(self, name)
            held.clear()
            held.update(dump.get(name, {}))
        if not scripts:
            self._installed.clear()


class Faulty:
    """A store that can take over, and fails as it is told: `always` that way, or once with each of `next_faults`.

    A reply is lost after the store has done what it was asked.
    """

    def __init__(self, counts: Literal["r", "s"], name: str) -> None:
        self._counts, self.name = counts, name
        self.lose_everything()
        self.is_async, self.pending = None, False
        self.always: Fault | None = None
        self.next_faults: list[Fault | None] = []
        self.calls: list[str] = []

    def note_use(self, key: str, record: Record) -> None:
        self.store.note_use(key, record)

    def confirm(self, key: str, due: int) -> None:
        self.store.confirm(key, due)

    epoch = ""

    def under(self, epoch: str) -> "_Under":
        """The same store under an epoch; it fails as this one does."""
        return _Under(self, epoch)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return self.call(name, "")

    def call(self, name: str, epoch: str) -> Callable[..., Awaitable[Any]]:
        """A method of the store, under an epoch, which fails as this one is told to."""

        async def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            fault = self.next_faults.pop(0) if self.next_faults else self.always
            method = getattr(self.store.under(epoch) if epoch else self.store, name)
            if fault is None:
                return method(*args, **options)
            if fault == "lose the reply":
                method(*args, **options)
            error = _ERRORS[fault]
            raise error()

        return call

    def seen_by_another_process(self) -> "Faulty":
        """The same store over another wire, which fails on its own."""
        other = Faulty(self._counts, self.name)
        other.store = self.store
        return other

    def lose_everything(self) -> None:
        """What a restart without data does."""
        self.store = Memory(counts=self._counts)
        self.store.name = self.name

    def held(self, key: str) -> Record | None:
        """What the store holds, whatever it answers."""
        return self.store.load(key, at=0.0, refresh=NEVER)


class _Under:
    """A faulty store under an epoch."""

    pending = False

    def __init__(self, faulty: Faulty, epoch: str) -> None:
        self._faulty, self.epoch = faulty, epoch

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return self._faulty.call(name, self.epoch)


# -- wires that fail ---------------------------------------------------------------------------------------------------


class Proxy(socketserver.ThreadingTCPServer):
    """A TCP proxy before a local server that counts round trips, and loses replies.

    Attributes:
        trips: requests sent before waiting for a reply, over all connections.
        connections: how many were opened.
        lose_reply_to: the connection is cut when the server has replied to the next request that holds these bytes.
    """

    daemon_threads = False
    allow_reuse_address = True

    def __init__(self, target_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target_port, self.port = target_port, self.server_address[1]
        self.trips = self.connections = 0
        self.lose_reply_to: bytes | None = None
        self.stopping = threading.Event()

    @contextmanager
    def counting(self) -> Iterator[list[int]]:
        """Append to the list how many round trips the block took."""
        before, taken = self.trips, list[int]()
        yield taken
        taken.append(self.trips - before)


class _Relay(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        self.server.connections += 1
        target = "127.0.0.1", self.server.target_port
        with suppress(OSError), socket.create_connection(target) as upstream:
            self._relay(self.request, upstream)

    def _relay(self, client: socket.socket, upstream: socket.socket) -> None:
        asking = losing = False
        while not self.server.stopping.is_set():
            for source in select.select([client, upstream], [], [], 0.02)[0]:
                data = source.recv(1 << 16)
                if not data or (source is upstream and losing):
                    return
                if source is client:
                    self.server.trips += not asking
                    losing = losing or self._loses(data)
                (upstream if source is client else client).sendall(data)
                asking = source is client

    def _loses(self, data: bytes) -> bool:
        wanted = self.server.lose_reply_to
        if wanted is None or wanted not in data:
            return False
        self.server.lose_reply_to = None
        return True


@contextmanager
def proxied(target_port: int) -> Iterator[Proxy]:
    """A proxy before that port, while the block lasts."""
    with Proxy(target_port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.stopping.set()
            proxy.shutdown()
            thread.join()
