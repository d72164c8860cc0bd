"""The stores, and processes that keep a peer each."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.benchmarks.peers import Peer, Stores
from tests.servers import PostgresServer, RedisServer, redis_binary
from tests.webservers import REPOSITORY

DATABASES = 512
"""How many numbered databases the Redis server has: a peer gets one of its own."""


class Backends:
    """A Valkey and a PostgreSQL, with databases for each peer."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._used = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vedsess-benchmark-")))
            options = ("--databases", str(DATABASES))
            server = RedisServer(redis_binary("valkey-9.1"), directory=self.folder, extra_args=options)
            self.redis = stack.enter_context(server)
            self.postgres = stack.enter_context(PostgresServer())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stores(self, peer: Peer, *, redis_port: int | None = None) -> Stores:
        """New, empty stores for a peer.

        Args:
            peer: who gets them.
            redis_port: of a proxy in front of Redis.
        """
        self._used += 1
        if self._used >= DATABASES:
            raise RuntimeError("there are more peers than databases")
        name = f"{peer.slug}_{self._used}"
        folder = self.folder / name
        folder.mkdir()
        redis_url = f"redis://127.0.0.1:{redis_port or self.redis.port}/{self._used}"
        return Stores(redis_url, self._database(name) if peer.uses_sql else f"sqlite:///{folder}/sessions.db", folder)

    def _database(self, name: str) -> str:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.postgres.url.removesuffix("postgres") + name


def child_environment() -> dict[str, str]:
    """The environment of a process that has to find what this one finds."""
    folders = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(REPOSITORY)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder)}


class Process:
    """A process that takes orders on stdin and answers on stdout; it ends when its stdin does."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.name = " ".join(map(str, (module, *arguments[:1])))

    def tell(self, text: object = "") -> None:
        """Send a line."""
        assert self._process.stdin
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next answer; RuntimeError if the process has ended instead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait(10.0)}; its error is above")
        return json.loads(line)

    def ask(self, order: str, **arguments: object) -> Any:
        """Give an order, and return the answer."""
        self.tell(json.dumps({"order": order, **arguments}))
        return self.hear()

    def close(self) -> None:
        """Let it end; kill it if it has not within 10 seconds."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def crew(stores: Mapping[str, Stores]) -> Iterator[dict[str, Process]]:
    """A process for each peer, by id; all of them are ready."""
    with ExitStack() as stack:

        def start(peer: str) -> tuple[str, Process]:
            where = stores[peer]
            process = Process("tests.benchmarks.worker", peer, where.redis_url, where.database_url, where.folder)
            stack.callback(process.close)
            process.hear()
            return peer, process

        yield dict(in_parallel(start, stores))


def in_parallel(work: Any, subjects: Iterable[Any]) -> list[Any]:
    """The results of the work on each subject, two processors' worth at a time."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, subjects))
