"""What encryption and compression at rest cost: `python -m tests.benchmarks.at_rest [--quick]`.

Each way of keeping a session has a manager of its own, blocking, over one Valkey behind a counting proxy.  Three
requests on a session of 32 KB in fifty fields, and on a small one, in random order: one field read, one field set
without looking, one field read and changed.  Measured is from the cookie to the Set-Cookie header; fields sealed and
opened, and bytes to Redis, are counted.
"""

import argparse
import random
import secrets
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.work import ACTIONS, SESSIONS
from tests.counting import CountingProxy
from tests.servers import RedisServer, redis_binary
from vedsess_middleware import Session, SessionManager, Settings, run_blocking
from vedsess_middleware.sealing import Opened, Sealer, field_sealer
from vedsess_middleware.stores.redis import RedisStore

WAYS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "compressed": {"compress_above": 256},
    "encrypted": {"encryption_key": secrets.token_urlsafe(48)},
    "both": {"encryption_key": secrets.token_urlsafe(48), "compress_above": 256},
}
ROWS = {"read": "one field read", "write": "one field set", "add": "one field read and changed"}
SIZES = {"small": "small session", "big": "32 KB in 50 fields"}
WARM_UP = 50


class Counting:
    """A sealer that counts."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer, self.transparent = sealer, sealer.transparent
        self.counts: Counter[str] = Counter()

    def seal(self, key: str, name: str, text: str, *, until: float | None = None) -> str:
        self.counts["sealed"] += 1
        return self._sealer.seal(key, name, text, until=until)

    def open(self, key: str, name: str, stored: str) -> Opened:
        self.counts["opened"] += 1
        return self._sealer.open(key, name, stored)


class Subject:
    """A browser with one session, kept in one way."""

    def __init__(self, proxy: CountingProxy, options: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        settings = Settings(secret_key=secrets.token_urlsafe(48), **options)
        self._store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}/0", is_async=False, timeout=2.0)
        sealer = field_sealer(encryption_keys=settings.encryption_keys, compress_above=settings.compress_above)
        self.sealer, self._proxy = Counting(sealer), proxy
        self._manager = SessionManager(self._store, settings, sealer=self.sealer)
        self._cookie = ""
        self.ask(lambda session: session.update(values))

    def ask(self, action: Callable[[Session], object]) -> float:
        """One request; returns how many seconds it took."""
        began = time.perf_counter()
        session = self._manager.begin(self._cookie)
        action(session)
        header = run_blocking(self._manager.commit(session))
        took = time.perf_counter() - began
        if header is not None:
            self._cookie = header.partition(";")[0]
        run_blocking(self._manager.after_response())
        return took

    def count(self, action: Callable[[Session], object]) -> tuple[int, int, int]:
        """Bytes to Redis, and fields sealed and opened, in one request."""
        self.sealer.counts.clear()
        sent = self._proxy.sent
        self.ask(action)
        return self._proxy.sent - sent, self.sealer.counts["sealed"], self.sealer.counts["opened"]

    def close(self) -> None:
        self._manager.close()


@contextmanager
def _subjects(values: Mapping[str, Any]) -> Iterator[dict[str, Subject]]:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp())
        stack.callback(shutil.rmtree, folder)
        server = RedisServer(redis_binary("valkey-9.1"), directory=folder).start()
        stack.callback(server.kill)
        found = {}
        for way, options in WAYS.items():
            proxy = stack.enter_context(CountingProxy(server.port))
            found[way] = Subject(proxy, options, values)
            stack.callback(found[way].close)
        yield found


def main() -> None:
    """Measure, and print a table for each size."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.at_rest")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    rounds = 100 if parser.parse_args().quick else 1000
    for size, title in SIZES.items():
        print(f"\n{title:<30} {'median µs':>10} {'best µs':>9} {'bytes sent':>11} {'sealed':>7} {'opened':>7}")
        with _subjects(SESSIONS[size]) as subjects:
            cells = [(way, row) for way in subjects for row in ROWS]
            times: dict[tuple[str, str], list[float]] = {cell: [] for cell in cells}
            for turn in range(rounds + WARM_UP):
                for way, row in random.sample(cells, len(cells)):
                    took = subjects[way].ask(ACTIONS[row])
                    if turn >= WARM_UP:
                        times[way, row].append(took * 1e6)
            for row, name in ROWS.items():
                for way, subject in subjects.items():
                    middle, best = statistics.median(times[way, row]), min(times[way, row])
                    sent, sealed, opened = subject.count(ACTIONS[row])
                    print(f"{name + ', ' + way:<30} {middle:>10.0f} {best:>9.0f} {sent:>11} {sealed:>7} {opened:>7}")


if __name__ == "__main__":
    main()
