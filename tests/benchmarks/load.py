"""Requests per second through real web servers: a closed loop, interleaved over all peers.

The web servers have one processor to themselves; the generator, Redis and SQL share the others.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.benchmarks import processors
from tests.benchmarks.crew import Backends, Process, child_environment, in_parallel
from tests.benchmarks.figures import Key, Load
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.served import environment
from tests.benchmarks.timed import Wanted
from tests.webservers import WebServer

UVICORN = "uvicorn --port {port} --workers 1 --loop uvloop --http httptools --timeout-keep-alive 60 --no-access-log"
GTHREAD = "gunicorn --bind 127.0.0.1:{port} --workers 1 --worker-class gthread --threads 16 --keep-alive 60"
SERVERS = {
    "asgi": ("uvicorn", f"{UVICORN} --log-level warning --factory tests.benchmarks.served:app"),
    "wsgi": ("gunicorn", f"{GTHREAD} --log-level warning --no-control-socket tests.benchmarks.served:app()"),
}
"""By colour of the app: the name of the web server, and how it is started."""
CONNECTIONS = (1, 8, 64, 256)
ACTIONS = ("read", "write")
LIBRARIES = {
    "Starlette": ("bare", "cookie", "starsessions redis", "vedsess", "vedsess after-response"),
    "Litestar": ("bare", "Litestar redis", "vedsess"),
    "Flask": ("bare", "cookie", "Flask-Session redis", "vedsess", "vedsess after-response"),
}
QUICK = frozenset({"cookie", "starsessions redis", "Flask-Session redis", "vedsess", "vedsess after-response"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One peer, doing one thing, under so many connections."""

    peer: str
    action: str
    connections: int

    @property
    def server(self) -> str:
        """The web server and the connections: the name of a table."""
        return f"{SERVERS[PEERS[self.peer].colour][0]} {self.connections}"


def cells(wanted: Wanted, *, quick: bool) -> list[Cell]:
    """What is asked for.  Bare frameworks only read: they have one session for all."""
    found = [
        Cell(f"{framework}/{name}", action, connections)
        for framework, names in LIBRARIES.items()
        for name in names
        for action in ACTIONS[: 1 if name == "bare" else 2]
        for connections in CONNECTIONS
        if not quick or (connections == 64 and name in QUICK and framework != "Litestar")
    ]
    return [cell for cell in found if wanted(f"load {cell.server} {cell.peer} {cell.action}")]


def measure(order: Sequence[Cell], *, rounds: int, seconds: float) -> dict[str, dict[Key, Load]]:
    """Let every cell run once in each round, in random order, while all the other web servers are idle.

    Args:
        order: the cells.
        rounds: how often.
        seconds: how long each run counts.
    """
    theirs, others = processors.split()
    runs: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in order}
    peers = list(dict.fromkeys(cell.peer for cell in order))
    with ExitStack() as stack:
        with processors.on_processors(others):
            backends = stack.enter_context(Backends())
            generator = stack.enter_context(_generator())
        with processors.on_processors(theirs):
            servers = stack.enter_context(_servers(backends, peers))
        for peer in peers:
            if not PEERS[peer].is_bare:
                generator.ask("settle", port=servers[peer].port)
        for _ in range(rounds):
            for cell in random.sample(order, len(order)):
                runs[cell].append(_run(generator, servers[cell.peer], cell, seconds))
    tables: dict[str, dict[Key, Load]] = {}
    for cell, found in runs.items():
        tables.setdefault(cell.server, {})[cell.peer, cell.action] = _load(found)
    return tables


@contextmanager
def _generator() -> Iterator[Process]:
    process = Process("tests.benchmarks.generator")
    try:
        yield process
    finally:
        process.close()


@contextmanager
def _servers(backends: Backends, peers: Sequence[str]) -> Iterator[dict[str, WebServer]]:
    """A web server for each peer, by id."""
    servers = {peer: _server(backends, PEERS[peer]) for peer in peers}
    with ExitStack() as stack:
        for server in servers.values():
            stack.callback(server.close)
        in_parallel(WebServer.start, servers.values())
        yield servers


def _server(backends: Backends, peer: Peer) -> WebServer:
    stores = backends.stores(peer)
    variables = {**environment(peer.id, stores), "PYTHONPATH": child_environment()["PYTHONPATH"]}
    return WebServer(SERVERS[peer.colour][1], environment=variables, directory=stores.folder)


def _run(generator: Process, server: WebServer, cell: Cell, seconds: float) -> dict[str, Any]:
    order = {"action": cell.action, "connections": cell.connections, "seconds": seconds}
    found: dict[str, Any] = generator.ask(
        "load", port=server.port, pid=server.pid, shared=PEERS[cell.peer].is_bare, **order
    )
    if not found["redis"]:
        generator.ask("settle", port=server.port)
    return found


def _load(runs: Sequence[dict[str, Any]]) -> Load:
    rates, middle, slow, generator, server = (
        [run[name] for run in runs] for name in ("rate", "median_ms", "p99_ms", "generator", "server")
    )
    return Load(
        best=max(rates),
        median=median(rates),
        median_ms=median(middle),
        p99_ms=median(slow),
        generator=max(generator),
        server=median(server),
        failed=sum(run["failed"] for run in runs),
        wrong=sum(run["wrong"] for run in runs),
        strayed=sum(not run["redis"] for run in runs),
    )
