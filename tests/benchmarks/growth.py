"""Whether a request costs more when there are more sessions, or when its session is larger."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import redis

from tests.benchmarks.counted import REPEATS
from tests.benchmarks.crew import Backends, Process, crew
from tests.benchmarks.figures import Key, Point
from tests.benchmarks.peers import PEERS, Stores
from tests.benchmarks.timed import WARM_UP
from tests.benchmarks.work import SIZES
from tests.counting import CountingProxy

SESSIONS, BYTES = "sessions in Redis", "bytes in a session"
OURS = ("WSGI/vedsess", "WSGI/vedsess after-response")
"""Who is measured among many sessions."""
KINDS = {"write": "one field set", "add": "one field read and changed"}
PREFIX, INDEX = "vedsess:session:", "vedsess:session_index:all"
CHUNK = 500
COPY = """
for number = ARGV[1], ARGV[2] do
  local key = redis.sha1hex(number) .. string.sub(redis.sha1hex(-number), 1, 24)
  redis.call('RESTORE', KEYS[1] .. key, ARGV[3], ARGV[4])
  redis.call('ZADD', KEYS[2], ARGV[5], key)
end
"""
"""Puts a record under other keys, and each of them into the index, as the package does when a session begins."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        sessions: how many there are in Redis, one number after the other.
        bytes: names of the sessions whose sizes are measured.
        peers: who is measured with them.
        rounds: how often each cell is timed.
        requests: of each cell in each round.
    """

    sessions: Sequence[int]
    bytes: Sequence[str]
    peers: Sequence[str]
    rounds: int
    requests: int


SIZED = (*OURS, "WSGI/Beaker redis", "ASGI/vedsess", "Starlette/starsessions redis")
FULL = Effort((100, 1_000, 10_000, 100_000, 1_000_000), tuple(SIZES), SIZED, rounds=6, requests=100)
QUICK = Effort(FULL.sessions[:-1], ("1k", "16k", "256k", "1024k"), SIZED[:1] + SIZED[2:4], rounds=2, requests=30)


class Subject:
    """A peer twice over the same stores: once to be timed, once behind proxies that count bytes."""

    def __init__(self, timed: Process, counted: Process, proxies: tuple[CountingProxy, CountingProxy]) -> None:
        self._timed, self._counted, self._proxies = timed, counted, proxies

    def microseconds(self, row: str, requests: int) -> float:
        """Microseconds of a request, the middle of a block."""
        block = self._timed.ask("block", row=row, count=requests, warm_up=WARM_UP)
        if not block["redis"]:
            raise RuntimeError(f"{row} was not served by Redis to the end")
        return float(block["whole"])

    def sent(self, row: str) -> tuple[int, int]:
        """Bytes to Redis and to SQL for one request, with what comes after the answer."""
        return min(self._sent(row) for _ in range(REPEATS))

    def _sent(self, row: str) -> tuple[int, int]:
        self._counted.ask("count", row=row)
        before = [proxy.sent for proxy in self._proxies]
        for _ in range(2):
            self._counted.tell()
            self._counted.hear()
        to_redis, to_sql = (proxy.sent - count for proxy, count in zip(self._proxies, before, strict=True))
        return to_redis, to_sql


def by_sessions(backends: Backends, effort: Effort) -> dict[Key, list[Point]]:
    """Read and write one session among more and more others."""
    found: dict[Key, list[Point]] = {}
    stores = {peer: backends.stores(PEERS[peer]) for peer in OURS}
    with _subjects(backends, stores) as subjects:
        for size in effort.sessions:
            for each in stores.values():
                fill(each.redis_url, size)
            cells = [(peer, row, row) for peer in subjects for row in ("read", "write")]
            for key, point in _points(subjects, cells, size, effort):
                found.setdefault(key, []).append(point)
    return found


def by_bytes(backends: Backends, effort: Effort) -> dict[Key, list[Point]]:
    """Set one small field, without and with reading, in larger and larger sessions."""
    found: dict[Key, list[Point]] = {}
    stores = {peer: backends.stores(PEERS[peer]) for peer in effort.peers}
    sized = replace(effort, requests=effort.requests // 3, rounds=effort.rounds // 2 + 1)
    with _subjects(backends, stores) as subjects:
        for name in effort.bytes:
            cells = [(peer, f"{name} {action}", kind) for peer in subjects for action, kind in KINDS.items()]
            for key, point in _points(subjects, cells, SIZES[name], sized):
                found.setdefault(key, []).append(point)
    return found


def fill(redis_url: str, size: int) -> None:
    """Make it so many sessions: copies of the one that is there."""
    with redis.Redis.from_url(redis_url) as opened:
        client: Any = opened
        present = client.zcard(INDEX)
        (key, score), *_ = client.zrange(INDEX, 0, 0, withscores=True)
        name = PREFIX.encode() + key
        lifetime, record = client.pttl(name), client.dump(name)
        copy = client.register_script(COPY)
        for first in range(present, size, CHUNK):
            last = min(first + CHUNK, size) - 1
            copy(keys=[PREFIX, INDEX], args=[first, last, lifetime, record, score])
        if client.zcard(INDEX) != max(size, present):
            raise RuntimeError(f"{client.zcard(INDEX)} sessions in place of {size}")


@contextmanager
def _subjects(backends: Backends, stores: Mapping[str, Stores]) -> Iterator[dict[str, Subject]]:
    with ExitStack() as stack:
        timed = stack.enter_context(crew(stores))
        ports = backends.redis.port, backends.postgres.port
        proxies = {peer: tuple(stack.enter_context(CountingProxy(port)) for port in ports) for peer in stores}
        behind = {peer: _through(each, ports, proxies[peer]) for peer, each in stores.items()}
        counted = stack.enter_context(crew(behind))
        yield {peer: Subject(timed[peer], counted[peer], _pair(proxies[peer])) for peer in stores}


def _pair(proxies: Sequence[CountingProxy]) -> tuple[CountingProxy, CountingProxy]:
    to_redis, to_sql = proxies
    return to_redis, to_sql


def _through(stores: Stores, ports: tuple[int, int], proxies: Sequence[CountingProxy]) -> Stores:
    """The same stores behind proxies."""
    to_redis, to_sql = proxies
    return replace(
        stores,
        redis_url=stores.redis_url.replace(f":{ports[0]}/", f":{to_redis.port}/"),
        database_url=stores.database_url.replace(f":{ports[1]}/", f":{to_sql.port}/"),
    )


def _points(
    subjects: Mapping[str, Subject], cells: Sequence[tuple[str, str, str]], size: int, effort: Effort
) -> Iterator[tuple[Key, Point]]:
    """Each cell at one size, interleaved.  A cell is a peer, the row that it runs, and the name of that in tables."""
    times: dict[tuple[str, str, str], list[float]] = {cell: [] for cell in cells}
    for _ in range(effort.rounds):
        for cell in random.sample(cells, len(cells)):
            times[cell].append(subjects[cell[0]].microseconds(cell[1], effort.requests))
    for peer, row, name in cells:
        yield (peer, name), Point(size, min(times[peer, row, name]), *subjects[peer].sent(row))
