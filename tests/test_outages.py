"""Outages of real stores, seen from outside a real web server: who answered, with what, after how long.

Run with `-s` for the figures.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from sqlalchemy import select

from tests.servers import PostgresServer, RedisFactory, RedisServer, eventually, redis_binary
from tests.webservers import ASGI_SERVERS, COOKIE, SECRET_KEY, WebServer, cookie_of, session_id_of
from vedsess_middleware.stores.sql.engines import sync_engine
from vedsess_middleware.stores.sql.tables import sessions

FRONTS = {
    "gunicorn": "gunicorn --bind 127.0.0.1:{port} --workers 1 --threads 8 tests.webapps:wsgi()",
    "uvicorn": ASGI_SERVERS["uvicorn"],
}
REQUESTS = 100
PASSWORD, NEW_PASSWORD = "kXo2vTq8-Rz5mW1c", "bN7uYe3s-Lq0dF6h"


class Visitor:
    """A browser whose user, session id and values must never change but by its own doing.

    Every answer is held against that.  `store` is the one that served the last answer, `seconds` how long it took.
    """

    def __init__(self, server: WebServer, user: str) -> None:
        self._browser, self.user = server.browser(), user
        self.values: dict[str, Any] = {"cart": {"items": []}}
        self.store, self.seconds = "", 0.0
        self._get("/login", user=user)

    def close(self) -> None:
        self._browser.close()

    @property
    def cookie(self) -> str:
        return cookie_of(self._browser)

    def read(self) -> str:
        """Read, and return the store that served."""
        return self._served("/read")

    def write(self) -> str:
        """Write one more value, and return the store that served."""
        name = f"n{len(self.values)}"
        self.values[name] = name
        return self._served("/write", **{name: name})

    def asks(self, path: str) -> httpx.Response:
        """Any answer, as long as it leaves the cookie alone."""
        before = self.cookie
        response = self._browser.get(path)
        assert "set-cookie" not in response.headers
        assert self.cookie == before
        return response

    def log_out(self) -> str:
        """Log out, and return the cookie that was."""
        cookie = self.cookie
        self._get("/logout")
        assert COOKIE not in self._browser.cookies
        return cookie

    def _served(self, path: str, **query: str) -> str:
        before = session_id_of(self.cookie)
        found = self._get(path, **query)
        assert session_id_of(self.cookie) == before
        assert (found["user"], found["values"]) == (self.user, self.values)
        self.store = found["store"]
        return self.store

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        started_at = time.perf_counter()
        response = self._browser.get(path, params=query)
        self.seconds = time.perf_counter() - started_at
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found


def is_dead(server: WebServer, cookie: str) -> bool:
    """Whether this cookie gives nobody's session."""
    with server.browser(cookie=cookie) as browser:
        found = browser.get("/read").raise_for_status().json()
    return (found["user"], found["values"]) == (None, {})


def busy(visitor: Visitor, *, at_least: float = 0.0) -> list[float]:
    """Write and read many times, for that many seconds, and return how long each took."""
    seconds: list[float] = []
    while len(seconds) < REQUESTS or sum(seconds) < at_least:
        if len(seconds) % 5:
            visitor.read()
        else:
            visitor.write()
        seconds.append(visitor.seconds)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    p95 = sorted(seconds)[int(0.95 * len(seconds))]
    return {"median": statistics.median(seconds), "p95": p95, "max": max(seconds)}


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sql_alone(front: str, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that a request takes where there is nothing but SQL: the median."""
    folder = tmp_path_factory.mktemp("alone")
    stores = {"VEDSESS_DATABASE_URL": f"sqlite:///{folder}/sessions.sqlite3"}
    with (
        WebServer(FRONTS[front], environment=stores, directory=folder) as server,
        closing(Visitor(server, "ada")) as visitor,
    ):
        return statistics.median(busy(visitor))


@pytest.fixture
def figures(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    def note(**values: float) -> None:
        for name, value in values.items():
            record_property(name, round(value, 4))
        texts = (f"{name} {1000 * value:.0f} ms" for name, value in values.items())
        print(f"\n    {request.node.name}: {', '.join(texts)}")

    return note


@contextmanager
def web_server(front: str, redis_url: str, database_url: str, directory: Path) -> Iterator[WebServer]:
    """A server; what it has logged holds no secret when it ends."""
    stores = {"REDIS_URL": redis_url, "VEDSESS_DATABASE_URL": database_url}
    with WebServer(FRONTS[front], environment=stores, directory=directory) as server:
        yield server
    assert not [secret for secret in (SECRET_KEY, PASSWORD, NEW_PASSWORD) if secret in server.log]


def set_password(server: RedisServer, new: str, *, old: str = "") -> None:
    """Change the password of a running Redis, and hang up on everybody who gave another one or none."""
    with redis.Redis.from_url(server.url, password=old or None, single_connection_client=True) as client:
        client.config_set("requirepass", new)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


def save_and_kill(server: RedisServer) -> None:
    server.cli("SAVE")
    server.kill()


def save_and_stop(server: RedisServer) -> None:
    server.cli("SAVE")
    server.stop()


@dataclass(frozen=True, slots=True)
class Outage:
    """How Redis goes, how it comes back, what the log says of it at once, and how many seconds it lasts at least."""

    fail: Callable[[RedisServer], object]
    mend: Callable[[RedisServer], object]
    logged: str = "WARNING vedsess_middleware StoreDegraded store='redis'"
    lasts: float = 0.0


REFUSED = "ERROR vedsess_middleware StoreRefused store='redis' reason='Redis refused the password"
OUTAGES = {
    "killed, comes back empty": Outage(RedisServer.kill, RedisServer.restart),
    "killed, comes back rewound": Outage(save_and_kill, RedisServer.start),
    "stopped, comes back empty": Outage(RedisServer.stop, RedisServer.restart),
    "stopped, comes back with its data": Outage(save_and_stop, RedisServer.start),
    # Long enough for two probes that hang.
    "frozen, comes back with its data": Outage(RedisServer.freeze, RedisServer.thaw, lasts=1.5),
    "asks for a password": Outage(
        lambda server: set_password(server, NEW_PASSWORD),
        lambda server: set_password(server, "", old=NEW_PASSWORD),
        logged=REFUSED,
    ),
}
NEW_PASSWORD_SET = Outage(
    lambda server: set_password(server, NEW_PASSWORD, old=PASSWORD),
    lambda server: set_password(server, PASSWORD, old=NEW_PASSWORD),
    logged=REFUSED,
)


@dataclass(frozen=True, slots=True)
class Rig:
    """A web server and its Redis."""

    server: WebServer
    redis: RedisServer


@pytest.fixture(scope="module")
def rig(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One for all outages of Redis that it can live through one after the other."""
    folder = tmp_path_factory.mktemp("rig")
    store = RedisServer(redis_binary("valkey-9.1"), directory=folder)
    with store, web_server(front, store.url, f"sqlite:///{folder}/sessions.sqlite3", folder) as server:
        yield Rig(server, store)


def live_through(outage: Outage, rig: Rig) -> tuple[float, list[float], float]:
    """Seconds of the first request without Redis, of later ones, and until Redis serves again."""
    said = len(rig.server.log)
    with closing(Visitor(rig.server, "ada")) as visitor, closing(Visitor(rig.server, "eve")) as leaver:
        visitor.write()
        assert (visitor.read(), leaver.read()) == ("redis", "redis")

        outage.fail(rig.redis)
        assert visitor.write() == "sql"
        first = visitor.seconds
        assert outage.logged in rig.server.log[said:]
        later = busy(visitor, at_least=outage.lasts)
        assert visitor.store == "sql"
        cookies = [leaver.log_out()]
        assert is_dead(rig.server, cookies[0])

        outage.mend(rig.redis)
        mended_at = time.perf_counter()
        eventually(lambda: visitor.read() == "redis")
        recovered = time.perf_counter() - mended_at
        assert "StoreRecovered store='redis'" in rig.server.log[said:]
        eventually(lambda: is_dead(rig.server, cookies[0]))
        assert visitor.write() == "redis"
        cookies.append(visitor.log_out())
        assert [is_dead(rig.server, cookie) for cookie in cookies] == [True, True]
        assert not [cookie for cookie in cookies if session_id_of(cookie) in rig.server.log]
    return first, later, recovered


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
def test_nobody_notices_an_outage_of_redis(
    outage: Outage, rig: Rig, sql_alone: float, figures: Callable[..., None]
) -> None:
    first, later, recovered = live_through(outage, rig)
    figures(sql_alone=sql_alone, first=first, **summary(later), recovered=recovered)
    assert first < sql_alone + 1.5
    assert statistics.median(later) < sql_alone + 0.25


def test_a_changed_password_is_an_error_in_the_log_and_no_error_for_users(
    front: str, fresh_redis: RedisFactory, sqlite_url: str, tmp_path: Path
) -> None:
    store = fresh_redis()
    set_password(store, PASSWORD)
    url = store.url.replace("://", f"://:{PASSWORD}@")
    with web_server(front, url, sqlite_url, tmp_path) as server:
        live_through(NEW_PASSWORD_SET, Rig(server, store))


def freeze_postgres(postgres: PostgresServer, url: str) -> None:
    with psycopg.connect(url) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'vedsess'"
        backends = [pid for (pid,) in connection.execute(query)]
    for pid in backends:
        postgres.freeze_backend(pid)
    postgres.freeze()


def row_of(url: str, cookie: str) -> tuple[bool, str] | None:
    """What SQL holds of a session: whether it is active, and its fields."""
    key = sha256(session_id_of(cookie).encode()).hexdigest()
    query = select(sessions.c.is_active, sessions.c.fields).where(sessions.c.session_id == key)
    engine = sync_engine(url)
    try:
        with engine.connect() as connection:
            row = connection.execute(query).one_or_none()
            return None if row is None else (row.is_active, row.fields)
    finally:
        engine.dispose()


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_nobody_notices_an_outage_of_sql(
    outage: str,
    front: str,
    postgres: PostgresServer,
    postgres_url: str,
    fresh_redis: RedisFactory,
    tmp_path: Path,
    figures: Callable[..., None],
) -> None:
    store = fresh_redis()
    with (
        web_server(front, store.url, postgres_url, tmp_path) as server,
        closing(Visitor(server, "ada")) as visitor,
        closing(Visitor(server, "eve")) as leaver,
    ):
        before = busy(visitor)
        if outage == "killed":
            postgres.kill()
        else:
            freeze_postgres(postgres, postgres_url)
        with closing(Visitor(server, "joe")) as newcomer:
            login = newcomer.seconds
            assert (visitor.write(), newcomer.write()) == ("redis", "redis")
            during = busy(visitor)
            assert visitor.store == "redis"
            old_cookie = leaver.log_out()
            assert is_dead(server, old_cookie)
            eventually(lambda: visitor.write() and "WARNING vedsess_middleware StoreDegraded store='sql'" in server.log)
            postgres.start()

            def sql_knows_all() -> bool:
                visitor.read()
                ada, eve, joe = (row_of(postgres_url, each) for each in (visitor.cookie, old_cookie, newcomer.cookie))
                return bool(ada and eve and joe and list(visitor.values)[-1] in ada[1] and not eve[0] and joe[0])

            eventually(sql_knows_all, timeout=20.0)
            store.kill()
            assert (visitor.read(), newcomer.read()) == ("sql", "sql")
            assert is_dead(server, old_cookie)

    figures(before=statistics.median(before), login=login, **summary(during))
    assert statistics.median(during) < statistics.median(before) + 0.25


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_without_any_store_only_those_who_need_a_session_are_turned_away(
    outage: str,
    front: str,
    postgres: PostgresServer,
    postgres_url: str,
    fresh_redis: RedisFactory,
    tmp_path: Path,
    figures: Callable[..., None],
) -> None:
    store = fresh_redis()
    with (
        web_server(front, store.url, postgres_url, tmp_path) as server,
        closing(Visitor(server, "ada")) as visitor,
        server.browser() as stranger,
    ):
        visitor.write()
        eventually(lambda: row_of(postgres_url, visitor.cookie))
        if outage == "killed":
            postgres.kill()
            store.kill()
        else:
            freeze_postgres(postgres, postgres_url)
            store.freeze()

        seconds = []
        for path in ("/read", "/write?name=value", "/logout", "/login?user=eve", "/read"):
            response = visitor.asks(path)
            seconds.append(response.elapsed.total_seconds())
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
        assert stranger.get("/login?user=eve").status_code == 503
        assert visitor.asks("/elsewhere").status_code == 200
        assert stranger.get("/read").json()["user"] is None
        assert not stranger.cookies

        store.start()
        postgres.start()
        eventually(lambda: visitor.asks("/read").status_code == 200, timeout=20.0)
        visitor.write()
        visitor.read()

    figures(first=seconds[0], **summary(seconds[1:]))
    assert max(seconds) < 3.0
