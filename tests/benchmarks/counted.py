"""What a request sends to Redis and SQL, counted on the wire."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from tests.benchmarks.crew import Backends, Process, crew
from tests.benchmarks.figures import Counted, Key
from tests.benchmarks.peers import PEERS
from tests.counting import CountingProxy
from tests.servers import RedisServer

REPEATS = 3
"""Requests of each kind; the one that costs least counts, since a question that comes once a second may hit any."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How far all counters have come."""

    trips: int
    sent: int
    received: int
    statements: int


def measure(backends: Backends, keys: Iterable[Key]) -> dict[Key, Counted]:
    """Count for every peer and row."""
    order = [key for key in keys if not PEERS[key[0]].is_bare]
    found = {}
    with ExitStack() as stack:
        peers = list(dict.fromkeys(peer for peer, _ in order))
        proxies = {peer: stack.enter_context(CountingProxy(backends.redis.port)) for peer in peers}
        stores = {peer: backends.stores(PEERS[peer], redis_port=proxies[peer].port) for peer in peers}
        processes = stack.enter_context(crew(stores))
        for peer, row in order:
            repeats = [_count(processes[peer], proxies[peer], backends.redis, row) for _ in range(REPEATS)]
            found[peer, row] = min(repeats, key=_weight)
    return found


def _weight(counted: Counted) -> tuple[int, int, int]:
    trips = counted.trips + counted.later_trips
    return counted.statements + counted.later_statements, trips, counted.sent + counted.received


def _count(process: Process, proxy: CountingProxy, redis: RedisServer, row: str) -> Counted:
    def read(statements: int) -> Reading:
        return Reading(proxy.trips, proxy.sent, proxy.received, statements)

    before = read(process.ask("count", row=row))
    commands = _commands(redis)
    process.tell()
    answered = read(process.hear())
    process.tell()
    ended = read(process.hear())
    calls = {name: count - commands.get(name, 0) for name, count in _commands(redis).items()}
    return Counted(
        trips=answered.trips - before.trips,
        sent=answered.sent - before.sent,
        received=answered.received - before.received,
        statements=answered.statements - before.statements,
        later_trips=ended.trips - answered.trips,
        later_statements=ended.statements - answered.statements,
        commands={name: count for name, count in sorted(calls.items()) if count},
    )


def _commands(redis: RedisServer) -> dict[str, int]:
    """How often each command has been called, without what it takes to ask."""
    statistics = redis.cli("INFO", "commandstats")
    asking = {"cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo", "cmdstat_select"}
    return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in statistics.items() if name not in asking}
