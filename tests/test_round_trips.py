"""What a request costs, counted on the wire: every row of the table in the README, before the answer and after it."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.clients import Browser, Clock, Handler, Site
from tests.clients import Protocol as ServerProtocol
from tests.counting import CountingProxy
from tests.servers import PostgresServer, RedisServers
from vedsess_middleware import Session
from vedsess_middleware.stores.failover import FailoverStore, Mirror
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore, engines

_users = itertools.count()


@dataclass(frozen=True, slots=True)
class Database:
    """Where the database is, and what counts on the way."""

    url: str
    proxy: CountingProxy | None


@dataclass(frozen=True, slots=True)
class Count:
    """Round trips to Redis and to the database, statements, and visits: each is one checkout of a connection."""

    redis: int = 0
    database: int = 0
    statements: int = 0
    visits: int = 0

    def __sub__(self, other: "Count") -> "Count":
        return Count(
            self.redis - other.redis,
            self.database - other.database,
            self.statements - other.statements,
            self.visits - other.visits,
        )


class Meter:
    """Counts what one request costs before its answer has left, and after."""

    def __init__(self, redis: CountingProxy, database: CountingProxy | None) -> None:
        self._redis, self._database = redis, database
        self.statements = self.visits = 0

    def watch(self, engine: Engine) -> None:
        """Count what is sent through an engine."""

        def execute(*_: object) -> None:
            self.statements += 1

        def begin(_: object) -> None:
            self.visits += 1

        event.listen(engine, "before_cursor_execute", execute)
        event.listen(engine, "begin", begin)

    @property
    def count(self) -> Count:
        database = self._database.trips if self._database else 0
        return Count(self._redis.trips, database, self.statements, self.visits)

    def __call__(self, browser: Browser, *request: Any, **options: Any) -> tuple[Count, Count]:
        """Make a request; what it cost before its answer, and after."""
        sent: list[Count] = []
        browser.on_sent = lambda: sent.append(self.count)
        began = self.count
        browser(*request, **options)
        browser.on_sent = lambda: None
        [answered] = sent
        return answered - began, self.count - answered


@dataclass(frozen=True, slots=True)
class Rig:
    """A site over real servers whose wires are tapped."""

    site: Site
    measure: Meter

    def asked(self, browser: Browser, *request: Any, **options: Any) -> Count:
        """What a request cost before its answer."""
        return self.measure(browser, *request, **options)[0]

    def at_most(self, *, wsgi: int, asgi: int) -> int:
        return wsgi if self.site.protocol == "wsgi" else asgi


class RigFactory:
    """Makes rigs that share their servers, and each of them once."""

    def __init__(
        self, protocol: ServerProtocol, redis: CountingProxy, database: CountingProxy | None, url: str
    ) -> None:
        self._protocol, self._redis, self._database, self._url = protocol, redis, database, url
        self._runner = asyncio.Runner()
        self._rigs: dict[tuple[Any, ...], Rig] = {}

    def __call__(self, mirror: Mirror = "after-response", **options: Any) -> Rig:
        name = mirror, *sorted(options.items())
        if name not in self._rigs:
            self._rigs[name] = self._make(mirror, options)
        return self._rigs[name]

    def _make(self, mirror: Mirror, options: dict[str, Any]) -> Rig:
        is_async, clock, meter = self._protocol == "asgi", Clock(), Meter(self._redis, self._database)
        engine = (engines.async_engine if is_async else engines.sync_engine)(self._url, timeout=5.0)
        meter.watch(engine.sync_engine if isinstance(engine, AsyncEngine) else engine)
        url = f"redis://127.0.0.1:{self._redis.port}/0"
        redis = RedisStore.from_url(url, is_async=is_async, timeout=2.0, on_event=lambda event: None)
        sql = SQLStore(engine, timeout=5.0, clock=clock)
        store = FailoverStore(redis, sql, mirror=mirror, clock=clock, on_event=lambda event: None)
        site = Site(self._protocol, store, self._runner, clock=clock, **options)
        _warm_up(site)
        return Rig(site, meter)

    def close(self) -> None:
        for rig in self._rigs.values():
            rig.site.run(rig.site.manager.aclose())
        self._runner.close()


def _warm_up(site: Site) -> None:
    """Open the connections, install the script, make the table, and let nothing wait."""
    browser = site.browser()
    for work in (add, log_in, add, read, log_out, read):
        browser(work)
    site.run(site.manager.revoke("nobody"))
    while site.manager.pending:
        site.clock.advance(2)
        site.run(site.manager.after_response())


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A new, empty database; PostgreSQL behind a proxy."""
    if request.param == "sqlite":
        yield Database(f"sqlite:///{tmp_path_factory.mktemp('trips')}/sessions.sqlite3", None)
        return
    server: PostgresServer = request.getfixturevalue("postgres").start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS trips")
        connection.execute("CREATE DATABASE trips")
    with CountingProxy(server.port) as proxy:
        yield Database(f"postgresql://postgres@127.0.0.1:{proxy.port}/trips", proxy)


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def make_rig(request: pytest.FixtureRequest, database: Database, redis_servers: RedisServers) -> Iterator[RigFactory]:
    with CountingProxy(redis_servers["valkey-9.1"].start().port) as redis:
        factory = RigFactory(request.param, redis, database.proxy, database.url)
        yield factory
        factory.close()


@pytest.fixture
def rig(make_rig: RigFactory) -> Rig:
    return make_rig()


def read(session: Session) -> object:
    return session.get("n")


def write(session: Session) -> None:
    session["n"] = 7


def add(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


def log_in(session: Session) -> None:
    session.login("7")


def log_out(session: Session) -> None:
    session.logout()


def read_and_log_out(session: Session) -> None:
    session.get("n")
    session.logout()


def log_out_and_write(session: Session) -> None:
    session.logout()
    session["flash"] = "bye"


def new_id(session: Session) -> None:
    session.regenerate_id()


def begun(rig: Rig, *, user: str | None = None) -> Browser:
    """A browser with a session whose copy has been made."""
    browser = rig.site.browser()
    browser(add)
    if user is not None:
        browser(lambda session: session.login(user))
    while rig.site.manager.pending:
        rig.site.clock.advance(2)
        rig.site.run(rig.site.manager.after_response())
    return browser


# -- before the answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [lambda session: None, read, new_id, log_out])
def test_a_request_without_a_cookie_costs_nothing(rig: Rig, work: Handler) -> None:
    assert rig.measure(rig.site.browser(), work) == (Count(), Count())


@pytest.mark.parametrize("work", [lambda session: None, read])
@pytest.mark.parametrize("cookies", ["vedsess=forged", "vedsess=" + "x" * 5000, "vedsess=", "other=1"])
def test_a_bad_signature_costs_nothing(rig: Rig, work: Handler, cookies: str) -> None:
    assert rig.measure(rig.site.browser(), work, cookies=cookies) == (Count(), Count())


def test_a_session_that_is_not_touched_costs_nothing_on_wsgi_and_its_loading_on_asgi(rig: Rig) -> None:
    assert rig.measure(begun(rig)) == (Count(redis=rig.at_most(wsgi=0, asgi=1)), Count())


def test_an_excluded_path_costs_nothing(make_rig: RigFactory) -> None:
    rig = make_rig(exclude=("/static",))
    assert rig.measure(begun(rig), lambda session: None, "/static/x") == (Count(), Count())


def test_a_session_that_is_read_costs_one_round_trip(rig: Rig) -> None:
    browser = begun(rig)
    for _ in range(3):
        assert rig.measure(browser, read) == (Count(redis=1), Count())


def test_a_session_that_is_written_without_being_read_costs_one_round_trip_more_on_asgi(rig: Rig) -> None:
    assert rig.asked(begun(rig), write) == Count(redis=rig.at_most(wsgi=1, asgi=2))


def test_a_session_that_is_read_and_written_costs_two_round_trips(rig: Rig) -> None:
    assert rig.asked(begun(rig), add) == Count(redis=2)


def test_a_new_session_costs_one_round_trip(rig: Rig) -> None:
    assert rig.asked(rig.site.browser(), write) == Count(redis=1)
    assert rig.asked(rig.site.browser(), add) == Count(redis=1)


CAREFUL: dict[str, Any] = {
    "encryption_key": "wq3Jm0vJ8eK5yT1nB7dXcP2sL9fRaZ4uHg6iVkOoEtQ",
    "compress_above": 1000,
    "fingerprint_policy": "reject",
    "fingerprint_parts": ("user_agent", "ip_address"),
    "renewal_timeout": 900.0,
    "old_id_policy": "end",
    "cookie_persistent": False,
    "max_sessions_per_user": 1000,
    "user_id_field": "_user_id",
    "websocket_check": 5.0,
}


def test_whoever_is_as_careful_as_can_be_pays_no_more(make_rig: RigFactory) -> None:
    rig = make_rig(**CAREFUL)
    browser = begun(rig, user="7")
    for _ in range(3):
        assert rig.measure(browser, read) == (Count(redis=1), Count())
    assert rig.asked(browser, add) == Count(redis=2)
    assert rig.asked(rig.site.browser(), write) == Count(redis=1)
    assert rig.measure(rig.site.browser(), read) == (Count(), Count())
    assert rig.asked(browser, log_out).redis <= rig.at_most(wsgi=2, asgi=3)


def test_whoever_writes_is_looked_at_first_where_clients_are_watched(make_rig: RigFactory) -> None:
    rig = make_rig(**CAREFUL)
    assert rig.asked(begun(rig), write) == Count(redis=2)


def test_a_new_id_that_is_due_costs_what_a_new_id_costs(make_rig: RigFactory) -> None:
    rig = make_rig(**CAREFUL)
    browser = begun(rig, user="7")
    rig.site.clock.advance(900)
    rig.site.run(rig.site.manager.after_response())
    asked = rig.asked(browser, read)
    assert asked.redis <= rig.at_most(wsgi=2, asgi=3)
    assert asked.visits == 1
    assert rig.measure(browser, read) == (Count(redis=1), Count())


def test_a_session_that_nobody_knows_costs_a_look_into_both_stores(rig: Rig) -> None:
    cookies = rig.site.unknown_cookie()
    rig.site.clock.advance(6)  # younger, and somebody's copy of it might be under way
    rig.site.run(rig.site.manager.after_response())
    asked = rig.asked(rig.site.browser(), read, cookies=cookies)
    assert (asked.redis, asked.visits) == (2, 1)  # the record; a lease, and whether a copy is under way
    assert asked.statements == 1


CHANGES: dict[str, tuple[Handler, str | None]] = {
    "login": (log_in, None),
    "login again": (log_in, "7"),
    "logout": (log_out, "7"),
    "logout after a read": (read_and_log_out, "7"),
    "change of id": (new_id, "7"),
    "logout and a flash message": (log_out_and_write, "7"),
}


@pytest.mark.parametrize(("work", "user"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_identity_costs_two_round_trips_and_one_visit(rig: Rig, work: Handler, user: str | None) -> None:
    asked = rig.asked(begun(rig, user=user), work)
    assert asked.redis <= rig.at_most(wsgi=2, asgi=3)
    assert asked.visits == 1


@pytest.mark.parametrize(("work", "user"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_identity_costs_no_statement_without_a_mirror(
    make_rig: RigFactory, work: Handler, user: str | None
) -> None:
    rig = make_rig(mirror="off")
    asked = rig.asked(begun(rig, user=user), work)
    assert asked.redis <= rig.at_most(wsgi=2, asgi=3)
    assert asked == Count(redis=asked.redis)


def test_a_login_without_a_session_costs_one_round_trip_and_one_statement(rig: Rig) -> None:
    asked = rig.asked(rig.site.browser(), log_in)
    assert (asked.redis, asked.visits, asked.statements) == (1, 1, 1)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_revocation_costs_two_round_trips_and_one_visit(rig: Rig, everywhere: bool) -> None:
    user = f"user {next(_users)}"
    begun(rig, user=user)
    browser = begun(rig, user=user)

    def revoke(session: Session) -> int:
        return rig.site.run(rig.site.manager.revoke(user, keep=None if everywhere else session))

    asked = rig.asked(browser, revoke)
    # Which session is to be kept is asked first: its id may have been changed a moment ago.
    assert asked.redis <= rig.at_most(wsgi=2 if everywhere else 3, asgi=3)
    assert asked.visits == 1


def test_a_revocation_asks_sql_even_without_a_mirror(make_rig: RigFactory) -> None:
    """Sessions that were born while Redis was away are there and nowhere else."""
    rig = make_rig(mirror="off")
    user = f"user {next(_users)}"
    browser = begun(rig, user=user)
    asked = rig.asked(browser, lambda session: rig.site.run(rig.site.manager.revoke(user)))
    assert asked.redis <= rig.at_most(wsgi=2, asgi=3)
    assert asked.visits == 1


@pytest.mark.parametrize("work", [write, add, log_in, new_id])
def test_a_mirror_before_the_response_costs_one_visit(make_rig: RigFactory, work: Handler) -> None:
    rig = make_rig(mirror="before-response")
    asked, after = rig.measure(begun(rig), work)
    assert asked.redis <= 2
    assert asked.visits == 1
    confirmed_or_cleared = (after.redis, after.visits)
    assert confirmed_or_cleared in ((1, 0), (0, 1), (0, 0))


# -- after it ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [write, add])
def test_a_write_is_copied_without_a_transaction_after_the_answer(rig: Rig, work: Handler) -> None:
    _, after = rig.measure(begun(rig), work)
    assert (after.redis, after.visits) == (1, 1)  # the copy, and its confirmation
    assert after.statements <= 2  # a look, and a write that compares


@pytest.mark.parametrize("work", [log_in, log_out, new_id])
def test_what_was_copied_before_the_answer_is_not_copied_again(rig: Rig, work: Handler) -> None:
    _, after = rig.measure(begun(rig, user="7"), work)
    assert after.redis <= 1  # an index entry less
    assert after.visits == 1  # the tombstone is not owed any more


def test_without_a_mirror_a_write_costs_nothing_after_the_answer(make_rig: RigFactory) -> None:
    rig = make_rig(mirror="off")
    assert rig.measure(begun(rig), add)[1] == Count()


def test_a_recorded_use_costs_one_round_trip_and_one_visit_after_the_answer(rig: Rig) -> None:
    browser = begun(rig)
    rig.site.clock.advance(61)
    rig.site.run(rig.site.manager.after_response())
    asked, after = rig.measure(browser, read)
    assert asked == Count(redis=1)
    assert after.redis <= 1
    assert after.visits <= 1
    assert rig.measure(browser, read) == (Count(redis=1), Count())


def test_a_process_that_was_idle_pays_one_small_statement_before_its_next_answer(rig: Rig) -> None:
    browser = begun(rig)
    rig.site.clock.advance(1.5)
    asked, after = rig.measure(browser, read)
    assert asked == Count(redis=1)
    assert (after.visits, after.redis) <= (2, 1)  # poll and uses, once a second; the list of copies that are owed
    rig.site.clock.advance(2.5)
    asked, _ = rig.measure(browser, read)
    assert (asked.redis, asked.visits, asked.statements) == (1, 1, 1)
    assert rig.asked(browser, read) == Count(redis=1)


def test_without_a_mirror_an_idle_process_pays_nothing(make_rig: RigFactory) -> None:
    rig = make_rig(mirror="off")
    browser = begun(rig)
    rig.site.clock.advance(10)
    assert rig.asked(browser, read) == Count(redis=1)


def test_many_uses_are_recorded_in_one_visit_a_second(rig: Rig) -> None:
    browsers = [begun(rig) for _ in range(5)]
    rig.site.clock.advance(61)
    before = rig.measure.count
    for browser in browsers:
        browser(read)
    rig.site.clock.advance(2)
    browsers[0](read)
    assert (rig.measure.count - before).visits <= 2 + 2  # and a poll a second


# -- the counters themselves -------------------------------------------------------------------------------------------


def test_the_proxy_counts_round_trips_and_not_commands(redis_servers: RedisServers) -> None:
    async def scenario(port: int, count: Callable[[], int]) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        counts = []
        for pings in (1, 3, 1):
            writer.write(b"PING\r\n" * pings)
            await reader.readexactly(7 * pings)
            counts.append(count())
        writer.close()
        await writer.wait_closed()
        return counts

    with CountingProxy(redis_servers["valkey-9.1"].port) as proxy:
        assert asyncio.run(scenario(proxy.port, lambda: proxy.trips)) == [1, 2, 3]
