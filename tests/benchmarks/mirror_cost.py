"""What the copy in SQL costs the browser: `python -m tests.benchmarks.mirror_cost [--quick]`.

Two servers of each kind run the same app over one Valkey and one PostgreSQL, one with `mirror="after-response"`, the
other with `mirror="off"`.  A browser on a kept connection asks them in turn, and pauses before each request, as people
do: so what rides after a response delays nobody.  Measured is the time from the first byte sent to the last byte of an
answer with a Content-Length.

The browser has a processor to itself, as it has in life; `--together` lets it compete with the servers for all of them.
"""

import argparse
import http.client
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.benchmarks.processors import on_processors, split
from tests.servers import PostgresServer, RedisServer, redis_binary
from tests.webservers import ASGI_SERVERS, WSGI_SERVERS, WebServer

FRONTS = {
    "waitress": WSGI_SERVERS["waitress"],
    "gunicorn": "gunicorn --bind 127.0.0.1:{port} --workers 1 --threads 8 tests.webapps:wsgi()",
    "uvicorn": ASGI_SERVERS["uvicorn"],
}
MIRRORS = ("after-response", "off")
PAUSE = 0.02
WARM_UP = 30


class Browser:
    """One kept connection, one cookie, and a value that is new each time."""

    def __init__(self, server: WebServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10.0)
        self._cookie, self._count = "", 0
        self.get("/login?user=ada")

    def close(self) -> None:
        self._connection.close()

    def write(self) -> float:
        """Write, and return how many seconds that took."""
        self._count += 1
        return self.get(f"/write?value={self._count}")

    def read(self) -> float:
        return self.get("/read")

    def get(self, path: str) -> float:
        """Ask, and return how many seconds that took, to the last byte."""
        headers = {"Cookie": self._cookie} if self._cookie else {}
        started_at = time.perf_counter()
        self._connection.request("GET", path, headers=headers)
        response = self._connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started_at
        if response.status != 200 or b'"store": "sql"' in body:
            raise RuntimeError(f"{path} was answered {response.status} {body.decode()}")
        if response.will_close:
            raise RuntimeError("the server does not keep the connection")
        self._cookie = (response.getheader("Set-Cookie") or self._cookie).partition(";")[0]
        return seconds


@dataclass(slots=True)
class Times:
    """Seconds of one kind of request, by mirror."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {mirror: [] for mirror in MIRRORS})

    def line(self, front: str, what: str) -> str:
        """Medians and minima in milliseconds, and how those with copies compare to those without."""
        copied, alone = (self.seconds[mirror] for mirror in MIRRORS)
        texts = []
        for measure in (statistics.median, min):
            on, off = 1000 * measure(copied), 1000 * measure(alone)
            texts.append(f"{on:6.2f} {off:6.2f} {on / off:6.3f}")
        return f"{front:<10}{what:<7}{'   '.join(texts)}   {len(alone):>6}"


@contextmanager
def stores() -> Iterator[tuple[RedisServer, PostgresServer, Path]]:
    """A Valkey, a PostgreSQL, and a folder, for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="vedsess-benchmark-"))
    try:
        with RedisServer(redis_binary("valkey-9.1"), directory=folder) as redis, PostgresServer() as postgres:
            yield redis, postgres, folder
    finally:
        shutil.rmtree(folder)


def database(postgres: PostgresServer, name: str) -> str:
    """The URL of a new database."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return postgres.url.removesuffix("postgres") + name


def measure(
    front: str, rounds: int, redis: RedisServer, postgres: PostgresServer, folder: Path, own: set[int]
) -> list[str]:
    """Ask the servers of one kind in turn, and return a line for each kind of request.

    Args:
        front: which kind.
        rounds: how often each is asked.
        redis: of both.
        postgres: of both.
        folder: for logs.
        own: processors of the browser.
    """
    with ExitStack() as stack:
        browsers = {}
        for number, mirror in enumerate(MIRRORS):
            environment = {
                "REDIS_URL": redis.url,
                "VEDSESS_DATABASE_URL": database(postgres, f"{front}_{number}"),
                "VEDSESS_KEY_PREFIX": f"{front}_{number}:",
                "VEDSESS_MIRROR": mirror,
            }
            server = stack.enter_context(WebServer(FRONTS[front], environment=environment, directory=folder))
            browsers[mirror] = stack.enter_context(closing(Browser(server)))
        stack.enter_context(on_processors(own))
        written, read = Times(), Times()
        for turn in range(-WARM_UP, rounds):
            for times, ask in ((written, Browser.write), (read, Browser.read)):
                for mirror in random.sample(MIRRORS, 2):
                    time.sleep(PAUSE)
                    seconds = ask(browsers[mirror])
                    if turn >= 0:
                        times.seconds[mirror].append(seconds)
    return [written.line(front, "write"), read.line(front, "read")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    parser.add_argument("--front", choices=FRONTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--together", action="store_true", help="browser and servers share all processors")
    options = parser.parse_args()
    own, theirs = (set[int](), set[int]()) if options.together else split()
    rounds = 60 if options.quick else 600
    print("milliseconds       median: copies, none, ratio    minimum: copies, none, ratio   of each")
    with on_processors(theirs), stores() as (redis, postgres, folder):
        for front in options.front or FRONTS:
            for line in measure(front, rounds, redis, postgres, folder, own):
                print(line, flush=True)


if __name__ == "__main__":
    main()
