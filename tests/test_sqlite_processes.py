"""SQLite under eight processes at once: nobody meets a locked database, and nothing that was acknowledged is lost.

Each process is this module, run as a script.  Run with `-s` for the figures.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import pytest

from tests.servers import RedisServers, free_port
from vedsess_middleware import Session, SessionManager, Settings, run_blocking
from vedsess_middleware.build import build_manager
from vedsess_middleware.errors import StoreUnavailable
from vedsess_middleware.events import CopyOwed, Event, StoreDegraded

ROOT = Path(__file__).parents[1]
KEY = "vJm3XoXHwPpGm9wYzkXvtp3M0n0c6xgYk1oZJb0mB3cKJ7mS3sQ2Aw"

PROCESSES = 8
BROWSERS = 8
ROUNDS = 8
# Every process writes all the time, which no web site does: then SQLite's own waiting is not fair, and a disk that is
# shared with others may hang for a second.
PATIENCE = 5.0


class Kept(TypedDict):
    """What one browser must find in the end: `user` is nobody's after a logout."""

    cookie: str
    user: str | None
    values: dict[str, int]


class Report(TypedDict):
    """What one process says."""

    requests: int
    refused: list[str]
    seconds: float
    slowest: float
    kept: list[Kept]


class Worker:
    """One process: browsers that log in, write, read and log out, one request after the other."""

    def __init__(self, name: str, redis_url: str, database_url: str) -> None:
        self.name, self.refused = name, list[str]()
        settings = Settings(secret_key=KEY, redis_url=redis_url, database_url=database_url, sql_timeout=PATIENCE)
        self.manager = build_manager(settings, is_async=False, on_event=self.note)
        self.requests, self.started_at, self.slowest = 0, time.monotonic(), 0.0

    def note(self, event: Event) -> None:
        """Any word of a failing database counts; Redis may be away."""
        if isinstance(event, CopyOwed) or (isinstance(event, StoreDegraded) and event.store == "sql"):
            self.refused.append(repr(event))

    def request(self, kept: Kept, work: Callable[[Session], object]) -> None:
        """One request, and what rides after its response.  What is not acknowledged is not counted on."""
        started_at = time.monotonic()
        self.requests += 1
        try:
            session = run_blocking(self.manager.open(kept["cookie"]))
            work(session)
            header = run_blocking(self.manager.commit(session))
        except StoreUnavailable as error:
            self.refused.append(f"{error}, {error.__cause__}")
            return
        if header is not None:
            kept["cookie"] = header.partition(";")[0] if "Max-Age=0" not in header else kept["cookie"]
        self.slowest = max(self.slowest, time.monotonic() - started_at)
        kept["user"], kept["values"] = session.user_id, dict(session)
        run_blocking(self.manager.after_response())

    def run(self) -> Report:
        """All requests, and then whatever this process still owes the database."""
        kept = [Kept(cookie="", user=None, values={}) for _ in range(BROWSERS)]
        for number, each in enumerate(kept):
            self.request(each, partial(Session.login, user_id=f"{self.name}.{number}"))
        for turn in range(ROUNDS):
            for each in kept:
                self.request(each, partial(write, turn=turn))
                self.request(each, partial(check, kept=each))
        self.request(kept[0], Session.logout)
        for each in kept[1:3]:
            self.request(each, Session.regenerate_id)
        self.hand_over()
        self.manager.close()
        seconds = time.monotonic() - self.started_at
        return Report(requests=self.requests, refused=self.refused, seconds=seconds, slowest=self.slowest, kept=kept)

    def hand_over(self) -> None:
        """Copies that wait go sixteen at a time."""
        for _ in range(BROWSERS):
            run_blocking(self.manager.after_response())


def write(session: Session, *, turn: int) -> None:
    session[f"n{turn}"] = turn


def check(session: Session, *, kept: Kept) -> None:
    """What was acknowledged to this browser is there."""
    assert (session.user_id, dict(session)) == (kept["user"], kept["values"])


def run_all(redis_urls: Mapping[str, str], database_url: str) -> dict[str, list[Report]]:
    """Run all processes at once, each over one Redis after the other, and return what they say."""
    arguments = [json.dumps(redis_urls), database_url]
    command = [sys.executable, "-m", "tests.test_sqlite_processes", *arguments]
    processes = [
        subprocess.Popen([*command, str(number)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [error[-2000:] for _, error, code in ended if code] == []
    said = [json.loads(text) for text, _, _ in ended]
    return {name: [each[name] for each in said] for name in redis_urls}


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The one file of all processes."""
    return f"sqlite:///{tmp_path_factory.mktemp('processes')}/sessions.sqlite3"


@pytest.fixture(scope="module")
def reports(redis_servers: RedisServers, database_url: str) -> dict[str, list[Report]]:
    """What all processes say, with a Redis that nobody listens for, and then with one that is up."""
    up = redis_servers["valkey-9.1"].empty().url
    return run_all({"away": f"redis://127.0.0.1:{free_port()}/0", "up": up}, database_url)


@pytest.mark.parametrize("redis", ["away", "up"])
def test_eight_processes_never_find_it_locked(redis: str, reports: dict[str, list[Report]]) -> None:
    said = reports[redis]
    requests, seconds = sum(each["requests"] for each in said), max(each["seconds"] for each in said)
    slowest = max(each["slowest"] for each in said)
    print(f"\n    Redis {redis}: {requests} requests in {seconds:.1f} s, the slowest {1000 * slowest:.0f} ms")
    assert [refused for each in said for refused in each["refused"]] == []
    assert requests == PROCESSES * (BROWSERS * (1 + 2 * ROUNDS) + 3)


@pytest.mark.parametrize("redis", ["away", "up"])
def test_all_that_was_acknowledged_is_there(redis: str, reports: dict[str, list[Report]], database_url: str) -> None:
    manager = build_manager(Settings(secret_key=KEY, database_url=database_url), is_async=False)
    kept = [each for report in reports[redis] for each in report["kept"]]
    try:
        assert [found(manager, each["cookie"]) for each in kept] == [(each["user"], each["values"]) for each in kept]
    finally:
        manager.close()
    written = {f"n{turn}": turn for turn in range(ROUNDS)}
    assert sum(each["values"] == written for each in kept) == PROCESSES * (BROWSERS - 1)
    assert sum(each["user"] is None for each in kept) == PROCESSES


def found(manager: SessionManager, cookie: str) -> tuple[Any, dict[str, Any]]:
    """What SQL alone says of a cookie."""
    session = run_blocking(manager.open(cookie))
    return session.user_id, dict(session)


if __name__ == "__main__":
    urls, database, name = sys.argv[1:]
    print(
        json.dumps({redis: Worker(f"{redis}.{name}", url, database).run() for redis, url in json.loads(urls).items()})
    )
