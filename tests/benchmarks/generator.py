"""Makes load, in a process of its own that waits for orders: JSON, one a line, and so are its answers."""

import asyncio
import gc
import json
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

import psutil

from tests.benchmarks.visitors import Connection, Refused, Run, Visitor
from tests.benchmarks.work import WRITES

WARM_UP = 0.15
"""Seconds of each run that do not count."""
PATIENCE = 30.0
"""Seconds within which the last answers of a run have to come."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one run has found.

    Args:
        rate: requests per second.
        median_ms: milliseconds of the request in the middle.
        p99_ms: milliseconds of all but one in a hundred.
        generator: share of a processor that this process took.
        server: share of a processor that the web server took.
        failed: answers that were not a 200, or did not come.
        wrong: answers with a number that the session cannot hold.
        redis: whether Redis served the session in the end.
    """

    rate: float
    median_ms: float
    p99_ms: float
    generator: float
    server: float
    failed: int
    wrong: int
    redis: bool


class Generator:
    """Keeps visitors for each web server."""

    def __init__(self) -> None:
        self._visitors: dict[int, list[Visitor]] = defaultdict(list)

    async def settle(self, port: int) -> dict[str, float]:
        """Return when Redis serves the session: a process that has just come up asks SQL first."""
        (connection,) = await self._connect(port, 1)
        began = time.monotonic()
        while not await _on_redis(connection):
            if time.monotonic() > began + 10.0:
                raise Refused("Redis does not serve the session")
            await asyncio.sleep(0.05)
            with suppress(Refused):
                self._visitors[port][0].number = int(await connection.get("add"))
        connection.close()
        return {"seconds": time.monotonic() - began}

    async def load(
        self, port: int, *, action: str, connections: int, seconds: float, shared: bool, pid: int
    ) -> dict[str, Any]:
        """Ask for so many seconds over so many connections, then read once what the sessions hold.

        Args:
            port: of the web server.
            action: what is asked for.
            connections: how many visitors ask at once.
            seconds: how long answers are counted.
            shared: whether the app has one session for all.
            pid: of the web server.
        """
        opened = await self._connect(port, connections)
        run = Run(action, writes=action in WRITES, shared=shared)
        async with asyncio.timeout(seconds + PATIENCE), asyncio.TaskGroup() as group:
            for connection in opened:
                group.create_task(connection.repeat(run))
            await asyncio.sleep(WARM_UP)
            shares = await _count(run, seconds, pid)
            run.ended = True
        check = Run("read", writes=False, shared=shared, ended=True)
        await asyncio.gather(*(connection.repeat(check) for connection in opened))
        redis = shared or await _on_redis(opened[0])
        for connection in opened:
            connection.close()
        return asdict(_round(run, check, shares, redis=redis))

    async def _connect(self, port: int, count: int) -> list[Connection]:
        """So many visitors, with a session each."""
        visitors = self._visitors[port]
        visitors += (Visitor() for _ in range(len(visitors), count))
        opened = [Connection(visitor, port) for visitor in visitors[:count]]
        for connection, visitor in zip(opened, visitors, strict=False):
            await connection.connect()
            if not visitor.cookie:
                await connection.get("create-small")
        return opened


def _round(run: Run, check: Run, shares: dict[str, float], *, redis: bool) -> Round:
    middle = median(run.times) / 1e6 if run.times else 0.0
    return Round(
        rate=shares["rate"],
        median_ms=middle,
        p99_ms=quantiles(run.times, n=100)[-1] / 1e6 if len(run.times) > 1 else middle,
        generator=shares["own"],
        server=shares["server"],
        failed=run.failed + check.failed,
        wrong=run.wrong + check.wrong,
        redis=redis,
    )


async def _count(run: Run, seconds: float, pid: int) -> dict[str, float]:
    """Count for a while: requests per second, and shares of a processor."""
    gc.collect()
    gc.disable()
    server, own, began = _processor_time(pid), time.process_time(), time.perf_counter()
    run.counts = True
    await asyncio.sleep(seconds)
    run.counts = False
    took = time.perf_counter() - began
    shares = (time.process_time() - own) / took, (_processor_time(pid) - server) / took
    gc.enable()
    return {"rate": len(run.times) / took, "own": shares[0], "server": shares[1]}


def _processor_time(pid: int) -> float:
    """Seconds that a process and its children have run."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


async def _on_redis(connection: Connection) -> bool:
    with suppress(Refused):
        return await connection.get("store") == b"redis"
    return False


def main() -> None:
    import uvloop

    generator = Generator()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while line := sys.stdin.readline():
            order = json.loads(line)
            print(json.dumps(runner.run(getattr(generator, order.pop("order"))(**order))), flush=True)


if __name__ == "__main__":
    main()
