"""Browsers with a cookie jar each, and a replayer that keeps every cookie that was ever set.

Everything that one chooses comes from a random generator of its own, seeded by the run's seed and its name.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from urllib.parse import urlencode

from tests.rig import http
from tests.rig.history import Op, Outcome

FIELDS = ("f0", "f1", "f2", "f3", "f4")
MIX = {"read": 80, "write": 11, "blind": 3, "delete": 1, "login": 2, "logout": 2, "regenerate": 1}
BURSTS = 0.1
REPLAYS = {"read": 4, "blind": 1}

Mode = Literal["full", "read", "rest"]


@dataclass
class Stage:
    """What all browsers of a crowd share.

    Attributes:
        seed: of the run.
        ports: of the workers, by name.
        think: seconds between two requests of one browser, on average.
        timeout: seconds after which a browser gives up.
        mode: `full`; `read`: only reads; `rest`: nothing.
        ops: all that was done.
        issued: every cookie that was ever set.
        idle: set while no request is under way.
    """

    seed: int
    ports: dict[str, int]
    think: float
    timeout: float = 6.0
    mode: Mode = "full"
    ops: list[Op] = field(default_factory=list)
    issued: list[str] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: int = 0

    def __post_init__(self) -> None:
        self.idle.set()

    async def ask(self, op: Op, cookie: str) -> None:
        """Carry out an operation, note what became of it, and keep its cookie for the replayer."""
        loop = asyncio.get_running_loop()
        query = {name: text for name, text in (("field", op.name), ("value", op.value), ("user", op.user)) if text}
        self._busy += 1
        self.idle.clear()
        op.sent, op.start = cookie, loop.time()
        try:
            path = f"/{op.kind}?{urlencode(query)}"
            reply = await http.get(self.ports[op.worker], path, cookie=cookie, timeout=self.timeout)
        finally:
            self._busy -= 1
            if not self._busy:
                self.idle.set()
        op.end = loop.time()
        _note(op, reply)
        if op.got:
            self.issued.append(op.got)
        self.ops.append(op)


def _note(op: Op, reply: http.Reply) -> None:
    op.status, op.error, op.got = reply.status, reply.error, reply.cookie
    op.outcome = _outcome(op)
    body = reply.body
    if op.outcome == "ok" and "values" in body:
        op.seen, op.seen_user, op.seen_new = body["values"], body["user"], body["new"]
        op.store, op.stale = body["store"], body["stale"]


def _outcome(op: Op) -> Outcome:
    if op.status == 200:
        return "ok"
    if op.error == "refused" or op.kind in ("read", "plain"):
        return "fail"
    return "info"


class Browser:
    """Somebody with a cookie jar, served by any worker."""

    def __init__(self, name: str, stage: Stage) -> None:
        self.name, self._stage = name, stage
        self._random = random.Random(f"{stage.seed}:{name}")
        self.cookie, self._seq, self.logged_in = "", 0, False

    async def live(self) -> None:
        """Log in soon, and do something now and then, for ever."""
        await asyncio.sleep(self._random.random() * self._stage.think)
        await self._act()
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._stage.think))
            await self._act()

    async def look(self) -> None:
        """Read once, when all has come to rest."""
        if self.logged_in:
            op = self._op("read")
            op.final = True
            await self._do(op)

    async def _act(self) -> None:
        mode = self._stage.mode
        if mode == "rest" or (mode == "read" and not self.logged_in):
            return
        kind = self._choice(MIX) if mode == "full" else "read"
        if not self.logged_in:
            await self._do(self._op("login"))
        elif kind in ("login", "logout", "regenerate") or self._random.random() >= BURSTS:
            await self._do(self._op(kind))
        else:
            second = self._random.choice(("read", "write"))
            both = [self._op(kind), self._op(second if mode == "full" else "read")]
            await asyncio.gather(*(self._do(op) for op in both))

    async def _do(self, op: Op) -> None:
        await self._stage.ask(op, self.cookie)
        if op.got is not None:
            self.cookie = op.got
        if op.kind == "logout":
            self.logged_in = self.logged_in and op.outcome != "ok"
        elif op.kind == "login":
            self.logged_in = self.logged_in or op.outcome == "ok"
        elif op.observes and op.anonymous:
            self.logged_in = False

    def _op(self, kind: str) -> Op:
        self._seq += 1
        op = Op(client=self.name, seq=self._seq, kind=kind, start=0.0, end=0.0)  # type: ignore[arg-type]
        op.worker = self._random.choice(list(self._stage.ports))
        if kind == "login":
            op.user = f"u-{self.name}"
        if kind in ("write", "blind", "delete"):
            op.name = self._random.choice(FIELDS)
        if kind in ("write", "blind"):
            op.value = f"{self.name}.{self._seq}"
        return op

    def _choice(self, weights: dict[str, int]) -> str:
        return self._random.choices(list(weights), weights=list(weights.values()))[0]


class Replayer(Browser):
    """Sends cookies that were set some time ago: mostly one of the last, sometimes one of the very first."""

    async def live(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._stage.think))
            issued = self._stage.issued
            if issued and self._stage.mode != "rest":
                recent = self._random.random() < 0.6
                cookie = self._random.choice(issued[-100:] if recent else issued)
                kind = self._choice(REPLAYS) if self._stage.mode == "full" else "read"
                await self._stage.ask(self._op(kind), cookie)

    async def replay(self, cookie: str) -> None:
        """Read with this cookie, when all has come to rest."""
        op = self._op("read")
        op.final = True
        await self._stage.ask(op, cookie)


class Crowd:
    """All browsers of one run, as tasks on an event loop."""

    def __init__(self, stage: Stage, *, browsers: int, replayers: int) -> None:
        self.stage = stage
        self.browsers = [Browser(f"b{number}", stage) for number in range(browsers)]
        self._replayers = [Replayer(f"replay{number}", stage) for number in range(replayers)]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Let everybody begin."""
        self._tasks = [asyncio.create_task(each.live()) for each in (*self.browsers, *self._replayers)]

    async def rest(self) -> None:
        """Return when nobody is doing anything any more."""
        self.stage.mode = "rest"
        await self.stage.idle.wait()

    async def look(self) -> None:
        """Everybody reads once more, and every id that there ever was is replayed with its first cookie."""
        firsts: dict[str, str] = {}
        for cookie in self.stage.issued:
            firsts.setdefault(cookie.partition(".")[0], cookie)
        replays = [partial(self._replayers[0].replay, cookie) for cookie in firsts.values()]
        await _together([*(browser.look for browser in self.browsers), *replays], at_once=8)

    async def stop(self) -> None:
        """End everybody, after what they are doing."""
        await self.rest()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _together(works: Iterable[Callable[[], Awaitable[None]]], *, at_once: int) -> None:
    waiting = list(works)

    async def some() -> None:
        while waiting:
            await waiting.pop()()

    await asyncio.gather(*(some() for _ in range(at_once)))
