"""One peer in a process of its own, that waits for orders: JSON, one a line, and so are its answers.

The orders are `block` and `count`, each with its arguments.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.callers import Bench
from tests.benchmarks.peers import PEERS, Peer, Stores
from tests.benchmarks.work import ROWS, SIZE_ROWS

_rows = {row.name: row for row in (*ROWS, *SIZE_ROWS)}


class Statements:
    """Counts what goes to SQL through SQLAlchemy, or through Django."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, peer: Peer) -> None:
        """Begin to count."""
        if peer.framework == "Django" and not peer.is_ours:
            from django.db import connection

            connection.execute_wrappers.append(self._django)
        else:
            from sqlalchemy import Engine, event

            event.listen(Engine, "before_cursor_execute", self._sqlalchemy)

    def _sqlalchemy(self, *_: object) -> None:
        self.count += 1

    def _django(self, execute: Any, *arguments: Any) -> Any:
        self.count += 1
        return execute(*arguments)


class Worker:
    """Carries out the orders."""

    def __init__(self, peer: Peer, stores: Stores) -> None:
        self._statements = Statements()
        self.bench = Bench(peer, peer.make(stores))
        if peer.uses_sql:
            self._statements.watch(peer)
        if peer.only is None:
            self.bench.drive(self.bench.prove())
            self.bench.settle()
        gc.collect()
        gc.freeze()

    def block(self, row: str, count: int, warm_up: int) -> Iterator[Any]:
        """Time requests; `redis` says whether Redis served to the end."""
        block = self.bench.drive(self.bench.block(_rows[row], count, warm_up))
        yield {**asdict(block), "redis": self.bench.drive(self.bench.served_by_redis())}

    def count(self, row: str) -> Iterator[Any]:
        """Make one request; say so and wait for a line before it, and when its last byte has been sent."""
        kind = _rows[row]
        if kind.session:
            self.bench.drive(self.bench.begin(kind.session))
        self.bench.drive(self.bench.get(kind.action, kind.session))
        self._pause()
        self.bench.caller.on_sent = self._pause
        self.bench.drive(self.bench.get(kind.action, kind.session))
        self.bench.caller.on_sent = lambda: None
        yield self._statements.count

    def _pause(self) -> None:
        print(json.dumps(self._statements.count), file=_answers, flush=True)
        sys.stdin.readline()


def main() -> None:
    peer = PEERS[sys.argv[1]]
    worker = Worker(peer, Stores(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
    print(json.dumps("ready"), file=_answers, flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        for answer in getattr(worker, order.pop("order"))(**order):
            print(json.dumps(answer), file=_answers, flush=True)


if __name__ == "__main__":
    # What libraries print must not be taken for an answer.
    _answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    main()
