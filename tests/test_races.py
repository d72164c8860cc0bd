"""Requests that overlap: what each of them wrote is there, and a session that was ended stays ended.

A body is written once, as `async def`: over WSGI every visit has a thread of its own, over ASGI a task.  The overlap is
forced by barriers inside the app, and spread over two workers that share nothing but the stores.
"""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from sqlalchemy import select
from starlette.types import Message, Receive, Scope, Send
from werkzeug.test import create_environ, run_wsgi_app

from tests.servers import RedisFactory, RedisServer
from tests.webservers import COOKIE, SECRET_KEY
from vedsess_middleware import Session, SessionManager, Settings, run_blocking
from vedsess_middleware.asgi import SessionMiddleware as ASGIMiddleware
from vedsess_middleware.concurrency import settle
from vedsess_middleware.environment import Mirror
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore
from vedsess_middleware.stores.sql.engines import sync_engine
from vedsess_middleware.stores.sql.tables import sessions
from vedsess_middleware.wsgi import SessionMiddleware as WSGIMiddleware

WAIT = 20.0

Handler = Callable[[Session], Coroutine[Any, Any, None]]


class Clock:
    """Epoch seconds.  A step makes the next use of a session one that has to be recorded."""

    def __init__(self) -> None:
        self._now = time.time()

    def __call__(self) -> float:
        return self._now

    def step(self) -> None:
        self._now += 61


class Meeting(Protocol):
    """Where two visits wait for each other."""

    def wait(self) -> Awaitable[object]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """The cookie that the browser has then, and the Set-Cookie header, if there was one."""

    cookie: str
    header: str | None


class Site(ABC):
    """An app on several workers, one for each configuration."""

    @abstractmethod
    def run(self, body: Coroutine[Any, Any, None]) -> None:
        """Run a test to its end and give all connections back."""

    @abstractmethod
    def meeting(self) -> Meeting: ...

    @abstractmethod
    async def together(self, first: Coroutine[Any, Any, Answer], second: Coroutine[Any, Any, Answer]) -> list[Answer]:
        """Both answers; neither visit waits for the other but at meetings."""

    @abstractmethod
    async def answer(self, worker: int, cookie: str, handler: Handler) -> Iterable[tuple[str, str]]:
        """The headers of the response."""

    async def visit(self, worker: int, cookie: str, handler: Handler) -> Answer:
        """One request: the handler is what the app does, all after the response included."""
        headers = await self.answer(worker, cookie, handler)
        set_cookies = [value for name, value in headers if name.lower() == "set-cookie"]
        if not set_cookies:
            return Answer(cookie, None)
        [header] = set_cookies
        return Answer(header.partition(";")[0].removeprefix(f"{COOKIE}="), header)


class Threads(Site):
    def __init__(self, *configs: Settings | SessionManager, **options: Any) -> None:
        self._workers = [WSGIMiddleware(_wsgi_app, config, **options) for config in configs]
        self._pool = ThreadPoolExecutor(2)

    def run(self, body: Coroutine[Any, Any, None]) -> None:
        try:
            run_blocking(body)
        finally:
            self._pool.shutdown()
            for worker in self._workers:
                worker.manager.close()

    def meeting(self) -> Meeting:
        return _ThreadMeeting()

    async def together(self, first: Coroutine[Any, Any, Answer], second: Coroutine[Any, Any, Answer]) -> list[Answer]:
        futures = [self._pool.submit(run_blocking, each) for each in (first, second)]
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise ExceptionGroup("a visit failed", errors)  # type: ignore[type-var]
        return [future.result() for future in futures]

    async def answer(self, worker: int, cookie: str, handler: Handler) -> Iterable[tuple[str, str]]:
        environ = create_environ(headers={"Cookie": f"{COOKIE}={cookie}"})
        environ["tests.handler"] = handler
        _, status, headers = run_wsgi_app(self._workers[worker % len(self._workers)], environ, buffered=True)
        assert status == "200 OK"
        return headers


class _ThreadMeeting:
    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=WAIT)

    async def wait(self) -> None:
        self._barrier.wait()


def _wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    run_blocking(environ["tests.handler"](environ["vedsess.session"]))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


class Tasks(Site):
    def __init__(self, *configs: Settings | SessionManager, **options: Any) -> None:
        self._workers = [ASGIMiddleware(_asgi_app, config, **options) for config in configs]

    def run(self, body: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await body
            finally:
                for worker in self._workers:
                    await worker.manager.aclose()

        asyncio.run(run())

    def meeting(self) -> Meeting:
        return asyncio.Barrier(2)

    async def together(self, first: Coroutine[Any, Any, Answer], second: Coroutine[Any, Any, Answer]) -> list[Answer]:
        async with asyncio.timeout(WAIT):
            return list(await asyncio.gather(first, second))

    async def answer(self, worker: int, cookie: str, handler: Handler) -> Iterable[tuple[str, str]]:
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("nobody reads the body")

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"cookie", f"{COOKIE}={cookie}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "tests.handler": handler}
        await self._workers[worker % len(self._workers)](scope, receive, send)
        assert sent[0]["status"] == 200
        return [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]


async def _asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["tests.handler"](scope["session"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@dataclass(frozen=True, slots=True)
class Place:
    """A site, its clock, where its sessions are, and how often to try."""

    site: Site
    clock: Clock
    rounds: int
    redis: RedisServer | None
    database_url: str

    def live_in_sql(self) -> list[str]:
        """What SQL holds of the sessions that are alive: their fields."""
        return self._rows()[True]

    def in_sql(self) -> int:
        return sum(map(len, self._rows().values()))

    def _rows(self) -> dict[bool, list[str]]:
        engine = sync_engine(self.database_url)
        found: dict[bool, list[str]] = {True: [], False: []}
        with engine.connect() as connection:
            for is_active, fields in connection.execute(select(sessions.c.is_active, sessions.c.fields)):
                found[is_active].append(fields)
        engine.dispose()
        return found

    def hashes(self) -> list[dict[str, str]]:
        """What Redis holds of all sessions."""
        if self.redis is None:
            return []
        keys = self.redis.cli("KEYS", "vedsess:session:*")
        return [self.redis.cli("HGETALL", key) for key in keys]


STORES: dict[str, tuple[str, Mirror | None, int]] = {
    "redis": ("sqlite_url", "after-response", 200),
    "redis, copied before the response": ("sqlite_url", "before-response", 50),
    "sqlite": ("sqlite_url", None, 50),
    "postgresql": ("postgres_url", None, 50),
}


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, protocol: type[Threads | Tasks], valkey: RedisServer) -> Place:
    database, mirror, rounds = STORES[request.param]
    database_url = request.getfixturevalue(database)
    clock = Clock()
    if mirror is None:
        settings = Settings(secret_key=SECRET_KEY, database_url=database_url)
    else:
        settings = Settings(secret_key=SECRET_KEY, redis_url=valkey.url, database_url=database_url, mirror=mirror)
    return Place(protocol(settings, settings, clock=clock), clock, rounds, valkey if mirror else None, database_url)


@pytest.fixture(params=[Threads, Tasks], ids=["wsgi", "asgi"])
def protocol(request: pytest.FixtureRequest) -> type[Threads | Tasks]:
    found: type[Threads | Tasks] = request.param
    return found


async def login(session: Session) -> None:
    session.login("ada")
    session["cart"] = []


def look(into: dict[str, Any]) -> Handler:
    """A handler that tells what it sees."""

    async def handler(session: Session) -> None:
        into.clear()
        into.update(session, user=session.user_id)

    return handler


def test_of_two_that_write_different_keys_neither_is_lost(place: Place) -> None:
    site = place.site
    expected = {f"{side}{turn}": turn for turn in range(place.rounds) for side in ("left", "right")}

    def writer(name: str, value: int, both_loaded: Meeting) -> Handler:
        async def handler(session: Session) -> None:
            assert name not in session
            await both_loaded.wait()
            session[name] = value

        return handler

    seen: dict[str, Any] = {}

    async def body() -> None:
        cookie = (await site.visit(0, "", login)).cookie
        for turn in range(place.rounds):
            meeting = site.meeting()
            left, right = (writer(f"{side}{turn}", turn, meeting) for side in ("left", "right"))
            # In turns on one worker and on two.
            answers = await site.together(site.visit(0, cookie, left), site.visit(turn, cookie, right))
            cookie = answers[turn // 2 % 2].cookie
        for worker in range(2):
            await site.visit(worker, cookie, look(seen))
            assert seen == {"user": "ada", "cart": []} | expected

    site.run(body())
    [fields] = place.live_in_sql()
    assert [name for name in expected if f'"{name}"' not in fields] == []
    for found in place.hashes():
        assert {name.removeprefix("d:") for name in found if name.startswith("d:")} == {"cart", *expected}


@pytest.mark.parametrize("strict", [True, False], ids=["the writer commits last", "both commit at once"])
def test_no_slow_writer_undoes_a_logout(place: Place, strict: bool) -> None:
    site, rounds = place.site, place.rounds if strict else 50

    def slow_writer(loaded: Meeting, ended: Meeting) -> Handler:
        async def handler(session: Session) -> None:
            assert session.user_id == "ada"
            await loaded.wait()
            if strict:
                await ended.wait()
            session["late"] = True

        return handler

    async def log_out(turn: int, cookie: str, loaded: Meeting, ended: Meeting) -> Answer:
        async def handler(session: Session) -> None:
            await loaded.wait()
            session.logout()

        answer = await site.visit(turn, cookie, handler)
        if strict:
            await ended.wait()
        return answer

    seen: dict[str, Any] = {}

    async def body() -> None:
        for turn in range(rounds):
            cookie = (await site.visit(turn // 2, "", login)).cookie
            loaded, ended = site.meeting(), site.meeting()
            slow = site.visit(0, cookie, slow_writer(loaded, ended))
            late, left = await site.together(slow, log_out(turn, cookie, loaded, ended))
            assert left.header is not None
            assert "Max-Age=0" in left.header
            assert late.header is None or not strict
            for dead in (cookie, late.cookie):
                await site.visit(turn, dead, look(seen))
                assert seen == {"user": None}

    site.run(body())
    assert place.live_in_sql() == []
    assert place.in_sql() == rounds
    assert [found for found in place.hashes() if set(found) != {"gone"}] == []


def test_a_reader_that_ends_last_does_not_undo_what_was_written_meanwhile(place: Place) -> None:
    site = place.site

    def reader(loaded: Meeting, written: Meeting) -> Handler:
        async def handler(session: Session) -> None:
            assert session["cart"] is not None
            await loaded.wait()
            await written.wait()

        return handler

    async def write(turn: int, cookie: str, loaded: Meeting, written: Meeting) -> Answer:
        async def handler(session: Session) -> None:
            await loaded.wait()
            session["cart"].append(turn)

        answer = await site.visit(turn, cookie, handler)
        await written.wait()
        return answer

    seen: dict[str, Any] = {}

    async def body() -> None:
        cookie = (await site.visit(0, "", login)).cookie
        for turn in range(place.rounds):
            place.clock.step()
            loaded, written = site.meeting(), site.meeting()
            reading = site.visit(0, cookie, reader(loaded, written))
            _, after = await site.together(reading, write(turn, cookie, loaded, written))
            cookie = after.cookie
            await site.visit(turn + 1, cookie, look(seen))
            assert seen["cart"] == list(range(turn + 1))

    site.run(body())
    [fields] = place.live_in_sql()
    assert str(place.rounds - 1) in fields


class SlowToCopy:
    """A secondary whose copies begin and end when the test says so, once it has something to say."""

    def __init__(self, store: SQLStore) -> None:
        self._store = store
        self.begun: Meeting | None = None
        self.may_end: Meeting | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def mirror(self, key: str, record: Record, *, before: Record | None = None) -> Record:
        if self.begun and self.may_end:
            await self.begun.wait()
            await self.may_end.wait()
        return await settle(self._store.mirror(key, record, before=before))


def test_what_is_on_its_way_to_sql_is_seen_when_redis_dies_meanwhile(
    protocol: type[Threads | Tasks], fresh_redis: RedisFactory, sqlite_url: str
) -> None:
    is_async, redis = protocol is Tasks, fresh_redis()
    slow: Any = SlowToCopy(SQLStore.from_url(sqlite_url, is_async=is_async))
    store = FailoverStore(RedisStore.from_url(redis.url, is_async=is_async), slow)
    site = protocol(SessionManager(store, Settings(secret_key=SECRET_KEY)))
    seen: dict[str, Any] = {}

    async def write(session: Session) -> None:
        session["answered"] = "yes"

    async def body() -> None:
        cookie = (await site.visit(0, "", login)).cookie
        slow.begun, slow.may_end = site.meeting(), site.meeting()

        async def look_meanwhile() -> Answer:
            await slow.begun.wait()
            redis.kill()
            answer = await site.visit(0, cookie, look(seen))
            await slow.may_end.wait()
            return answer

        await site.together(site.visit(0, cookie, write), look_meanwhile())
        assert seen == {"user": "ada", "cart": [], "answered": "yes"}

    site.run(body())
