"""Redis loses what it held, under load: it comes back with an old dump, or empty, or a replica takes its place.

Nobody is logged out, everybody reads the newest data, and SQL is asked for a session at most once.  Run with `-s` for
the figures.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.clients import SECRET_KEY, Clock
from tests.rig.loops import LoopThread
from tests.rig.network import Link
from tests.servers import RedisFactory, RedisServer, eventually
from vedsess_middleware import Session, SessionManager, Settings, run_blocking
from vedsess_middleware.events import Event, StoreRecovered, StoreRefenced
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore, engines

T = TypeVar("T")
Work = Callable[[Session], object]

BROWSERS = 50
AT_ONCE = 8
TICK = 0.1
_KEY = re.compile(r"[0-9a-f]{64}")


class Visitor:
    """A browser, and what it must find.

    Attributes:
        name: of the user.
        cookies: all that it was ever given, the newest last; none is removed by a logout.
        values: what it has written.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cookies = [""]
        self.values: dict[str, str] = {}

    @property
    def key(self) -> str:
        """Of its session, in the stores."""
        return key_of(self.cookies[-1])

    def log_in(self, session: Session) -> None:
        session.login(self.name)

    def write(self, name: str) -> Work:
        """Write a value that it must find from now on."""

        def writing(session: Session) -> str:
            store = self.read(session)
            self.values[name] = session[name] = f"{name} of {self.name}"
            return store

        return writing

    def read(self, session: Session) -> str:
        """Hold the session against what it must be, and return the store that served it."""
        assert (session.user_id, dict(session)) == (self.name, self.values)
        assert not session.stale
        return session.store or ""

    def log_out(self, session: Session) -> None:
        session.logout()


def key_of(cookie: str) -> str:
    """What the stores know a session by."""
    return sha256(cookie.partition("=")[2].partition(".")[0].encode()).hexdigest()


class App:
    """One process: a manager over both stores, with a clock that only moves when told to, in both colours.

    Attributes:
        rows: how often the row of each session was read from SQL, by key, since Redis was last trusted again.
        statements: what was sent to SQL since then, polls aside.
    """

    def __init__(self, redis_url: str, database_url: str, *, is_async: bool) -> None:
        self.clock, self.events = Clock(round(time.time(), 3)), list[Event]()
        self.rows, self.statements = Counter[str](), list[str]()
        self.is_async, self._runner = is_async, asyncio.Runner()
        engine = (engines.async_engine if is_async else engines.sync_engine)(database_url, timeout=10.0)
        plain = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        event.listen(plain, "before_cursor_execute", self._note_statement)
        self.store = FailoverStore(
            RedisStore.from_url(redis_url, is_async=is_async, timeout=2.0, on_event=lambda event: None),
            SQLStore(engine, timeout=10.0, clock=self.clock),
            clock=self.clock,
            wait=self.clock.advance,
            on_event=self._note_event,
        )
        self.manager = SessionManager(
            self.store, Settings(secret_key=SECRET_KEY), clock=self.clock, on_event=lambda event: None
        )

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the colour of the stores."""
        return self._runner.run(coroutine) if self.is_async else run_blocking(coroutine)

    async def visit(self, visitor: Visitor, work: Work, *, finish: bool = True) -> object:
        """One request; `finish`: and what rides after its response."""
        session = await self.manager.open(visitor.cookies[-1])
        result = work(session)
        header = await self.manager.commit(session)
        if header and "Max-Age=0" not in header:
            visitor.cookies.append(header.partition(";")[0])
        if finish:
            await self.manager.after_response()
        return result

    def all_visit(self, works: Mapping[Visitor, Work], *, finish: bool = True) -> list[object]:
        """A request of each, many at once."""
        if not self.is_async:
            with ThreadPoolExecutor(AT_ONCE) as threads:
                return list(threads.map(lambda item: run_blocking(self.visit(*item, finish=finish)), works.items()))

        async def together() -> list[object]:
            return await asyncio.gather(*(self.visit(*item, finish=finish) for item in works.items()))

        return self.run(together())

    def settle(self) -> None:
        """Let responses come until neither store owes the other anything."""

        def settled() -> bool:
            self.clock.advance(TICK)
            self.run(self.manager.after_response())
            return self.store.health.settled and not self.manager.pending

        eventually(settled)

    def is_dead(self, cookie: str) -> bool:
        """Whether this cookie gives nobody's session."""
        session = self.run(self.manager.open(cookie))
        return (session.user_id, dict(session)) == (None, {})

    def close(self) -> None:
        self.run(self.manager.aclose())
        self._runner.close()

    def _note_event(self, event: Event) -> None:
        self.events.append(event)
        if event == StoreRecovered(store="redis"):
            self.rows.clear()
            self.statements.clear()

    def _note_statement(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "vedsess_facts" in statement and "UNION ALL" in statement:
            return
        self.statements.append(statement)
        if statement.startswith("SELECT"):
            values = parameters.values() if isinstance(parameters, Mapping) else parameters
            self.rows.update({value for value in values if isinstance(value, str) and _KEY.fullmatch(value)})


@dataclass(slots=True)
class Place:
    """Where the app finds its Redis: a link that can lead to another server.

    Attributes:
        server: the one that it leads to.
        link: before it.
        replica: one that follows it, and the link in between.
        start: starts one more server of the same kind.
        connect: makes one more link, to that port.
    """

    server: RedisServer
    link: Link
    start: Callable[[], RedisServer]
    connect: Callable[[int], Link]
    replica: tuple[RedisServer, Link] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.link.port}/0"

    def follow(self) -> None:
        """Give the server a replica, and return when it has everything."""
        between, replica = self.connect(self.server.port), self.start()
        self.server.cli("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        replica.cli("REPLICAOF", "127.0.0.1", between.port)
        eventually(lambda: replica.cli("INFO", "replication").get("master_link_status") == "up")
        eventually(lambda: replica.cli("DBSIZE") == self.server.cli("DBSIZE"))
        self.replica = replica, between

    def held(self, name: str) -> int:
        """How many sessions have a value of this name in Redis."""
        keys = self.server.cli("KEYS", "vedsess:session:*")
        return sum(self.server.cli("HEXISTS", key, f"d:{name}") for key in keys)


@dataclass(frozen=True, slots=True)
class Loss:
    """How Redis loses data: what is done before the last writes, and after them."""

    prepare: Callable[[Place], object]
    strike: Callable[[Place], object]


def save(place: Place) -> None:
    place.server.cli("SAVE")


def save_as_master(place: Place) -> None:
    place.follow()
    save(place)


def replicate_no_more(place: Place) -> None:
    place.follow()
    assert place.replica
    place.replica[1].swallow()


def kill_and_start(place: Place) -> None:
    place.server.kill()
    place.server.start()


def kill_and_start_empty(place: Place) -> None:
    place.server.kill()
    place.server.restart()


def promote(place: Place) -> None:
    assert place.replica
    replica, _ = place.replica
    # Before the master is gone: or the replica would try to reach it, just while the link is taken down.
    replica.cli("REPLICAOF", "NO", "ONE")
    place.server.kill()
    place.server = replica
    place.link.repoint(replica.port)


LOSSES = {
    "restarted from an old dump": Loss(save, kill_and_start),
    "restarted from an old dump of a master": Loss(save_as_master, kill_and_start),
    "restarted empty": Loss(lambda place: None, kill_and_start_empty),
    "a replica that lacks the last writes is promoted": Loss(replicate_no_more, promote),
}


@pytest.fixture
def place_of(fresh_redis: RedisFactory) -> Iterator[Callable[[str], Place]]:
    """Starts a Redis behind a link."""
    thread, links = LoopThread(), list[Link]()

    def connect(port: int) -> Link:
        links.append(Link(thread, port))
        return links[-1]

    def start(server_id: str) -> Place:
        server = fresh_redis(server_id)
        return Place(server, connect(server.port), lambda: fresh_redis(server_id), connect)

    yield start
    for link in links:
        link.close()
    thread.run(passed())
    for link in links:
        link.reset()  # one that was just being taken
    thread.run(passed())
    thread.close()


async def passed() -> None:
    """Return when a loop has done what it had to do."""
    for _ in range(10):
        await asyncio.sleep(0)


@contextmanager
def running(redis_url: str, database_url: str, *, is_async: bool) -> Iterator[App]:
    app = App(redis_url, database_url, is_async=is_async)
    try:
        yield app
    finally:
        app.close()


def live_through(loss: Loss, place: Place, app: App) -> dict[str, float]:
    """Lose data under load, hold what every browser sees against what it wrote, and return the figures."""
    visitors = [Visitor(f"user {number}") for number in range(BROWSERS)]
    app.settle()  # the first epoch is set in SQL before it is installed in Redis, and a crowd may see that
    app.all_visit({visitor: visitor.log_in for visitor in visitors})
    app.all_visit({visitor: visitor.write("first") for visitor in visitors})
    app.settle()

    leavers, changers, listed, active = visitors[:5], visitors[5:10], visitors[10:15], visitors[5:]
    # A dump lists the copies that were on their way to SQL.
    app.all_visit({visitor: visitor.write("early") for visitor in listed}, finish=False)
    loss.prepare(place)
    app.all_visit({visitor: visitor.log_out for visitor in leavers})
    app.all_visit({visitor: visitor.log_in for visitor in changers})
    app.all_visit({visitor: visitor.write("late") for visitor in active})
    app.settle()
    # The copies of these have not left this process when Redis dies.
    app.all_visit({visitor: visitor.write("last") for visitor in active[-10:]}, finish=False)
    assert (place.held("late"), place.held("last")) == (len(active), 10)

    loss.strike(place)
    assert (place.held("late"), place.held("last")) == (0, 0)
    struck_at, served, written = app.clock.now, Counter[str](), set[Visitor]()

    def is_back() -> bool:
        turn = round((app.clock.now - struck_at) / TICK)
        some = [active[(turn * 7 + each) % len(active)] for each in range(7)]
        works = {each: each.write(f"turn {turn}") if each is some[0] else each.read for each in some}
        written.add(some[0])
        served.update(str(store) for store in app.all_visit(works, finish=False))
        assert all(app.is_dead(visitor.cookies[-1]) for visitor in leavers)
        app.clock.advance(TICK)
        app.run(app.manager.after_response())
        refenced = any(isinstance(event, StoreRefenced) for event in app.events)
        return refenced and app.store.serving == "redis"

    eventually(is_back, timeout=30.0)
    recovered_after = app.clock.now - struck_at
    assert recovered_after < 5.0
    app.settle()

    first = app.all_visit({visitor: visitor.read for visitor in active})
    sent = len(app.statements)
    second = app.all_visit({visitor: visitor.read for visitor in active})
    assert second == ["redis"] * len(active)
    assert app.statements[sent:] == []
    # The drain reads a row of what was written meanwhile, and so does a copy that is picked up again.
    assert [
        visitor for visitor in active if app.rows[visitor.key] > 1 + (visitor in written) + (visitor in listed)
    ] == []

    rows = sum(app.rows[visitor.key] for visitor in active)

    for visitor in leavers:
        assert all(app.is_dead(cookie) for cookie in visitor.cookies)
    for visitor in changers:
        old = [cookie for cookie in visitor.cookies if key_of(cookie) != visitor.key]
        assert all(app.is_dead(cookie) for cookie in old)
    app.all_visit({visitor: visitor.write("afterwards") for visitor in active})
    assert app.all_visit({visitor: visitor.read for visitor in active}) == ["redis"] * len(active)
    app.settle()
    place.server.kill()
    assert app.all_visit({visitor: visitor.read for visitor in active}) == ["sql"] * len(active)
    return {
        "seconds until Redis was trusted": recovered_after,
        "requests served from SQL meanwhile": served["sql"],
        "sessions": len(active),
        "of these written meanwhile or on the list": len(written.union(listed)),
        "rows read": rows,
        "first reads from SQL": first.count("sql"),
    }


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(
    ("server_id", "driver"),
    [
        pytest.param("valkey-9.1", "postgresql", id="Valkey, PostgreSQL, blocking"),
        pytest.param("redis-6.2", "postgresql+asyncpg", id="Redis 6.2, PostgreSQL, asyncio"),
        pytest.param("valkey-9.1", "sqlite", id="Valkey, SQLite, blocking"),
    ],
)
def test_everybody_stays_logged_in_with_the_newest_data(
    loss: Loss,
    server_id: str,
    driver: str,
    place_of: Callable[[str], Place],
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    place = place_of(server_id)
    backend = driver.partition("+")[0]
    url = request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_url")
    url = url.replace(f"{backend}:", f"{driver}:")
    with running(place.url, url, is_async="+" in driver) as app:
        figures = live_through(loss, place, app)
    for name, value in figures.items():
        record_property(name, value)
    print(f"\n    {', '.join(f'{name}: {value:g}' for name, value in figures.items())}")
