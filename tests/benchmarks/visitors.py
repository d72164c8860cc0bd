"""Browsers that cost little: one kept connection each, requests that are ready as bytes, answers that are checked."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.callers import AGENT

END = b"\r\n\r\n"
PAUSE = 0.05
"""Seconds that a visitor waits after an answer that is not a 200."""


@dataclass(slots=True)
class Visitor:
    """Who has a session.

    Args:
        cookie: as `name=value`.
        number: what the session holds.
        doubts: whether that is not sure, after an answer that was not a 200.
    """

    cookie: bytes = b""
    number: int = 0
    doubts: bool = False


@dataclass(slots=True)
class Run:
    """Requests of one kind by all visitors.

    Args:
        action: what is asked for.
        writes: whether it leaves a larger number in the session than was there.
        shared: whether all visitors have one session, so that nobody knows its number.
        counts: whether answers are counted at present.
        ended: whether nobody is to ask again.
        times: nanoseconds of every request that was counted.
        failed: answers that were not a 200, or did not come.
        wrong: answers with a number that the session cannot hold.
    """

    action: str
    writes: bool
    shared: bool
    counts: bool = False
    ended: bool = False
    times: list[int] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0


class Refused(RuntimeError):
    """A web server gave an answer that is not a 200, or none."""


class Connection(asyncio.Protocol):
    """A visitor on a connection, that asks once, or again and again as soon as it has its answer."""

    def __init__(self, visitor: Visitor, port: int) -> None:
        self._visitor, self._port = visitor, port
        self._received = b""
        self._run: Run | None = None
        self._asked_at = 0
        self._waiter: asyncio.Future[bytes] | None = None

    async def connect(self) -> None:
        """Open the connection, or another one after it has been closed."""
        self._received = b""
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    async def get(self, action: str) -> bytes:
        """The body of one answer; Refused unless it is a 200."""
        if self._transport.is_closing():
            await self.connect()
        self._begin(action)
        assert self._waiter
        return await self._waiter

    async def repeat(self, run: Run) -> None:
        """Ask until the run has ended.

        An answer that is not a 200, or none, is counted, and the visitor goes on after a pause.
        """
        self._run = run
        while True:
            with suppress(Refused):
                await self.get(run.action)
                break
            self._visitor.doubts = True
            run.failed += 1
            if run.ended:
                break
            await asyncio.sleep(PAUSE)
        self._run = None

    def close(self) -> None:
        self._waiter = None
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Refused(f"the connection was closed: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        end = received.find(END)
        if end < 0:
            return
        head = received[: end + 2]
        lower = head.lower()
        start = end + len(END)
        length = _value(head, lower, b"\r\ncontent-length:")
        if not length.isdigit():
            self._fail(Refused(f"an answer without a length: {head!r}"))
        elif len(received) >= start + int(length):
            self._received = b""
            self._answered(head, lower, received[start:])

    def _begin(self, action: str) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        self._path = f"/{action}".encode()
        self._prepare()
        self._ask()

    def _prepare(self) -> None:
        cookie = self._visitor.cookie
        lines = [b"GET %b HTTP/1.1" % self._path, b"Host: 127.0.0.1", b"User-Agent: " + AGENT.encode()]
        self._request = b"\r\n".join([*lines, *([b"Cookie: " + cookie] if cookie else []), b"", b""])

    def _ask(self) -> None:
        self._asked_at = time.perf_counter_ns()
        self._transport.write(self._request)

    def _answered(self, head: bytes, lower: bytes, body: bytes) -> None:
        took = time.perf_counter_ns() - self._asked_at
        if head[9:12] != b"200":
            self._fail(Refused(f"{self._path!r} was answered {head!r} {body[:200]!r}"))
            return
        cookie = _value(head, lower, b"\r\nset-cookie:").partition(b";")[0]
        changed = cookie and cookie != self._visitor.cookie
        if changed:
            self._visitor.cookie = cookie
        run = self._run
        if run is not None:
            self._check(run, int(body))
        if run is None or run.ended:
            self._done(body)
            return
        if run.counts:
            run.times.append(took)
        if changed:
            self._prepare()
        self._ask()

    def _check(self, run: Run, number: int) -> None:
        visitor = self._visitor
        before = visitor.number
        if not (run.shared or visitor.doubts):
            run.wrong += number <= before if run.writes else number != before
        visitor.number, visitor.doubts = number, False

    def _done(self, body: bytes) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(body)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


def _value(head: bytes, lower: bytes, name: bytes) -> bytes:
    """A header's value; `name` begins with the end of the line before it.  Empty if there is none."""
    found = lower.find(name)
    if found < 0:
        return b""
    start = found + len(name)
    return head[start : head.index(b"\r\n", start)].strip()
