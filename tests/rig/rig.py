"""Real stores, worker processes with a link of their own to each, and a crowd of browsers."""

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import redis
import sqlalchemy as sa

from tests.rig import convergence
from tests.rig.browsers import Crowd, Stage
from tests.rig.convergence import Snapshot, key_of
from tests.rig.history import Op
from tests.rig.loops import LoopThread
from tests.rig.network import Link
from tests.rig.worker import Config
from tests.servers import PostgresServer, RedisServer, eventually, redis_binary
from tests.webservers import WebServer

COMMANDS = {
    "forked": "gunicorn --bind 127.0.0.1:{port} --workers 2 --threads 4 --preload --log-level warning "
    "tests.rig.worker:forked()",
    "gevent": "gunicorn --bind 127.0.0.1:{port} --workers 1 --worker-class gevent --log-level warning "
    "tests.rig.worker:forked()",
}
DEFAULT_COMMAND = "python -m tests.rig.worker {port}"
_UNPROXIED = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rig is made of.

    Attributes:
        kinds: of the workers, see `worker.Config`.
        store: `postgres` or `sqlite`.
        server_id: of Redis.
        mirror: of all workers.
        store_class: the same.
        ablate: the same.
        browsers: how many.
        replayers: how many.
        think: seconds between two requests of one browser, on average.
    """

    kinds: Sequence[str] = ("wsgi", "asgi", "wsgi", "asgi")
    store: str = "postgres"
    server_id: str = "valkey-9.1"
    mirror: str = "after-response"
    store_class: str = "failover"
    ablate: str = ""
    browsers: int = 50
    replayers: int = 4
    think: float = 0.35


class Worker:
    """A worker process and its links; it keeps its ports over restarts."""

    def __init__(self, name: str, kind: str, rig: "Rig") -> None:
        self.name, self.kind = name, kind
        self.redis = Link(rig.thread, rig.redis.port)
        self.sql = Link(rig.thread, rig.postgres.port) if rig.postgres else None
        plan = rig.plan
        database_url = rig.database_url
        if rig.postgres and self.sql:
            database_url = database_url.replace(f":{rig.postgres.port}", f":{self.sql.port}")
        config = Config(
            kind=kind,
            redis_url=f"redis://127.0.0.1:{self.redis.port}/0",
            database_url=database_url,
            mirror=plan.mirror,
            store_class=plan.store_class,
            ablate=plan.ablate,
        )
        folder = rig.folder / name
        folder.mkdir(exist_ok=True)
        command = COMMANDS.get(kind, DEFAULT_COMMAND)
        self.server = WebServer(command, environment=config.to_environment(), directory=folder)
        self.port = self.server.port

    def start(self) -> None:
        """Return when it answers."""
        self.server.start()

    def order(self, *, timeout: float = 5.0, **orders: str) -> dict[str, Any]:
        """Give the control room an order, and return how the worker does; OSError if it does not answer."""
        with _UNPROXIED.open(f"{self.server.url}/_control?{urlencode(orders)}", timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def status(self) -> dict[str, Any]:
        """The same without an order; empty if it does not answer."""
        with suppress(OSError):
            return self.order(timeout=1.0)
        return {}

    @property
    def links(self) -> list[Link]:
        """To Redis, and to SQL where that is a server."""
        return [self.redis, *([self.sql] if self.sql else [])]

    def close(self) -> None:
        self.server.kill()
        for link in self.links:
            link.close()


class Rig:
    """Everything that runs; as a context manager it is started and closed.

    Attributes:
        redis: the server that links lead to; a failover changes it.
        postgres: None on SQLite.
        database_url: for whoever looks from outside.
        workers: that browsers go to.
    """

    def __init__(self, plan: Plan, folder: Path, *, postgres: PostgresServer | None = None) -> None:
        self.plan, self.folder = plan, folder
        self._stack = ExitStack()
        self._servers = 0
        self._postgres_given = postgres

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self.thread = LoopThread()
            stack.callback(self.thread.close)
            self.redis = self.new_redis()
            self.postgres = self._postgres() if self.plan.store == "postgres" else None
            self.database_url = self.postgres.url if self.postgres else f"sqlite:///{self.folder}/sessions.sqlite3"
            self.engine = sa.create_engine(self.database_url.replace("postgresql:", "postgresql+psycopg:"))
            stack.callback(self.engine.dispose)
            self.workers = [Worker(f"w{number}", kind, self) for number, kind in enumerate(self.plan.kinds)]
            for worker in self.workers:
                stack.callback(worker.close)
            _start(self.workers)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- servers ---------------------------------------------------------------------------------------------------

    def new_redis(self, *extra_args: str) -> RedisServer:
        """One more Redis of the same kind, running, which ends with the rig."""
        self._servers += 1
        directory = self.folder / f"redis-{self._servers}"
        server = RedisServer(redis_binary(self.plan.server_id), directory=directory, extra_args=extra_args)
        self._stack.callback(server.kill)
        return server.start()

    def add_workers(self, *kinds: str) -> list[Worker]:
        """More workers, which browsers do not know yet; they end with the rig, or before."""
        workers = [Worker(kind, kind, self) for kind in kinds]
        for worker in workers:
            self._stack.callback(worker.close)
        _start(workers)
        return workers

    def _postgres(self) -> PostgresServer:
        if self._postgres_given:
            return self._postgres_given.start()
        return self._stack.enter_context(PostgresServer())

    # -- the crowd -------------------------------------------------------------------------------------------------

    def crowd(self, seed: int) -> Crowd:
        """Browsers that nobody has seen before, already busy."""
        ports = {worker.name: worker.port for worker in self.workers}
        stage = Stage(seed=seed, ports=ports, think=self.plan.think)
        crowd = Crowd(stage, browsers=self.plan.browsers, replayers=self.plan.replayers)
        self.thread.run(crowd.start())
        return crowd

    # -- at rest ---------------------------------------------------------------------------------------------------

    def snapshot(self, ops: Sequence[Op]) -> Snapshot | None:
        """What the stores hold of these sessions; None while one of them does not answer."""
        keys = {key_of(op.got_id) for op in tuple(ops) if op.got_id}
        serving = {worker.name: worker.status().get("serving", "") for worker in self.workers}
        with suppress(redis.RedisError, sa.exc.SQLAlchemyError):
            kept = convergence.read_redis(self.redis.url, keys)
            return Snapshot(rows=convergence.read_rows(self.engine, keys), serving=serving, **kept)
        return None

    def healthy(self) -> bool:
        """Whether every worker serves from Redis."""
        return all(worker.status().get("serving") == "redis" for worker in self.workers)

    def renew(self) -> None:
        """Begin again after a fault that was not survived: empty Redis, open links, new worker processes."""
        self.redis.restart()
        if self.postgres:
            self.postgres.start()
        for worker in self.workers:
            for link in worker.links:
                link.restore()
            worker.redis.repoint(self.redis.port)
            worker.server.kill()
        _start(self.workers)
        eventually(self.healthy)


def _start(workers: Sequence[Worker]) -> None:
    with ThreadPoolExecutor() as threads:
        list(threads.map(Worker.start, workers))
