"""Requests within one process, timed: to the last byte of the answer, and to the end of what comes after it."""

import asyncio
import gc
import io
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol, TypeVar

from tests.benchmarks.peers import Peer
from tests.benchmarks.work import Row
from vedsess_middleware import run_blocking

T = TypeVar("T")

AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101"
ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "QUERY_STRING": "",
    "SERVER_NAME": "testserver",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "testserver",
    "HTTP_USER_AGENT": AGENT,
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": False,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "query_string": b"",
    "root_path": "",
    "client": ("127.0.0.1", 50000),
    "server": ("testserver", 80),
}
HEADERS = [(b"host", b"testserver"), (b"user-agent", AGENT.encode())]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and nanoseconds from the call: until its last byte was handed over, and until all was over."""

    status: int
    body: bytes
    cookie: str | None
    last_byte: int
    whole: int


class Caller(Protocol):
    """Makes requests of an app.  `on_sent` is called when the last byte of an answer has been handed over."""

    on_sent: Callable[[], None]

    async def __call__(self, path: str, cookie: str) -> Answer: ...


class WSGICaller:
    """What a WSGI server does; never suspends."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.on_sent: Callable[[], None] = _nothing

    async def __call__(self, path: str, cookie: str) -> Answer:
        environ: dict[str, Any] = {**ENVIRON, "PATH_INFO": path, "wsgi.input": io.BytesIO()}
        if cookie:
            environ["HTTP_COOKIE"] = cookie
        started: list[Any] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
            started[:] = status, headers
            return lambda data: None

        began = time.perf_counter_ns()
        body = self._app(environ, start_response)
        content = b"".join(body)
        sent = time.perf_counter_ns()
        self.on_sent()
        close = getattr(body, "close", None)
        if close is not None:
            close()
        ended = time.perf_counter_ns()
        status, headers = started
        return Answer(int(status[:3]), content, _cookie_in(headers), sent - began, ended - began)


class ASGICaller:
    """What an ASGI server does for one request, without its lifespan."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.on_sent: Callable[[], None] = _nothing

    async def __call__(self, path: str, cookie: str) -> Answer:
        headers = [*HEADERS, (b"cookie", cookie.encode())] if cookie else HEADERS[:]
        scope = {**SCOPE, "path": path, "raw_path": path.encode(), "headers": headers}
        messages: list[Any] = []
        sent = 0

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal sent
            messages.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                sent = time.perf_counter_ns()
                self.on_sent()

        began = time.perf_counter_ns()
        await self._app(scope, receive, send)
        ended = time.perf_counter_ns()
        start, *chunks = messages
        content = b"".join(chunk.get("body", b"") for chunk in chunks)
        pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"])
        return Answer(start["status"], content, _cookie_in(pairs), sent - began, ended - began)


def _cookie_in(headers: Iterable[tuple[str, str]]) -> str | None:
    found = [value for name, value in headers if name.lower() == "set-cookie"]
    return found[-1].partition(";")[0] if found else None


@dataclass(frozen=True, slots=True)
class Block:
    """Requests of one kind in a row: their medians and CPU time, in microseconds for each."""

    last_byte: float
    whole: float
    cpu: float


class Bench:
    """An app, and a browser for each kind of session that it is measured with."""

    def __init__(self, peer: Peer, app: Any) -> None:
        self._is_async = peer.colour == "asgi"
        self.caller: Caller = ASGICaller(app) if self._is_async else WSGICaller(app)
        self._runner = asyncio.Runner(loop_factory=_new_loop) if self._is_async else None
        self._cookies: dict[str, str] = {}

    def drive(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine as the colour of the app has it."""
        return self._runner.run(work) if self._runner else run_blocking(work)

    async def get(self, action: str, session: str | None) -> Answer:
        """Ask, with the cookie that belongs to this session; RuntimeError unless the answer is a 200."""
        answer = await self.caller(f"/{action}", self._cookies.get(session, "") if session else "")
        if answer.status != 200:
            raise RuntimeError(f"/{action} was answered {answer.status}: {answer.body.decode(errors='replace')[:500]}")
        if session and answer.cookie is not None:
            self._cookies[session] = answer.cookie
        return answer

    async def begin(self, session: str) -> None:
        """Have a session, once."""
        if session not in self._cookies:
            self._cookies[session] = ""
            await self.get(f"create-{session}", session)

    async def prove(self) -> None:
        """RuntimeError unless the session holds what is written, and its own store serves it."""
        await self.begin("small")
        said = [int((await self.get(action, "small")).body) for action in ("write", "read", "add", "read")]
        first = said[0]
        if said != [first, first, first + 1, first + 1]:
            raise RuntimeError(f"written and read: {said}")

    def settle(self) -> None:
        """Wait until Redis serves: a process that has just come up asks SQL first."""
        deadline = time.monotonic() + 10.0
        while not self.drive(self.served_by_redis()):
            if time.monotonic() > deadline:
                raise RuntimeError("Redis does not serve the session")
            time.sleep(0.05)
            self.drive(self.get("add", "small"))

    async def served_by_redis(self) -> bool:
        await self.begin("small")
        return (await self.get("store", "small")).body == b"redis"

    async def block(self, row: Row, count: int, warm_up: int) -> Block:
        """Make so many requests in a row, after some that do not count; without garbage collection.

        The processor time of a row with pauses includes what it takes to sleep and to wake up.
        """
        if row.session:
            await self.begin(row.session)
        for _ in range(warm_up):
            await self.get(row.action, row.session)
        gc.collect()
        gc.disable()
        cpu = time.process_time_ns()
        answers = [await self._ask(row) for _ in range(count)]
        cpu = time.process_time_ns() - cpu
        gc.enable()
        last_byte, whole = (median(getattr(answer, name) for answer in answers) for name in ("last_byte", "whole"))
        return Block(last_byte / 1000, whole / 1000, cpu / count / 1000)

    async def _ask(self, row: Row) -> Answer:
        if row.pause:
            await self._rest(row.pause)
        return await self.get(row.action, row.session)

    async def _rest(self, seconds: float) -> None:
        if self._is_async:
            await asyncio.sleep(seconds)
        else:
            # No loop drives this one: `run_blocking` does.
            time.sleep(seconds)  # noqa: ASYNC251


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
