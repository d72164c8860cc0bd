"""How many bytes of Redis a session takes, with all that belongs to it."""

import json
from collections.abc import Callable
from typing import Any

import redis

from tests.benchmarks.callers import WSGICaller
from tests.benchmarks.crew import Backends
from tests.benchmarks.figures import Memory
from tests.benchmarks.peers import PEERS
from tests.benchmarks.work import SMALL
from vedsess_middleware import run_blocking

HOUR = 3600


def measure(backends: Backends, *, sessions: int) -> Memory:
    """Log so many users in, then keep the same data in plain strings, and compare."""
    stores = backends.stores(PEERS["WSGI/vedsess"])
    client: Any = redis.Redis.from_url(stores.redis_url, decode_responses=True)
    call = WSGICaller(PEERS["WSGI/vedsess"].make(stores))

    def log_in() -> None:
        for _ in range(sessions):
            answer = run_blocking(call("/login", ""))
            if answer.status != 200:
                raise RuntimeError(f"the login was answered {answer.status}")

    log_in_one(call)
    _empty(client)
    session = _growth(client, log_in) / sessions
    keys = list(client.scan_iter("vedsess:session:*", count=1000))
    if len(keys) != sessions:
        raise RuntimeError(f"{len(keys)} sessions for {sessions} users")
    records = {key: _as_json(_plain(client.hgetall(key))) for key in keys}
    values = dict.fromkeys(keys, _as_json(SMALL))
    as_json = _strings(client, records) / sessions
    return Memory(session, as_json, _strings(client, values) / sessions, sessions)


def log_in_one(call: WSGICaller) -> None:
    """Open the connection and install the scripts: they are not part of a session."""
    run_blocking(call("/login", ""))


def _plain(record: dict[str, str]) -> dict[str, Any]:
    """The same record as one would keep it in a string: values of the app as they are, without their stamps."""
    values = {name[2:]: json.loads(text.partition(":")[2]) for name, text in record.items() if name[:2] == "d:"}
    return {**{name: text for name, text in record.items() if name[:2] != "d:"}, "values": values}


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _strings(client: Any, texts: dict[str, str]) -> int:
    """What so many strings take in the emptied database."""
    _empty(client)

    def fill() -> None:
        for key, text in texts.items():
            client.set(key, text, ex=24 * HOUR)

    return _growth(client, fill)


def _growth(client: Any, fill: Callable[[], None]) -> int:
    before = _used(client)
    fill()
    return _used(client) - before


def _empty(client: Any) -> None:
    """Remove everything, and return when the memory is free again."""
    client.execute_command("FLUSHDB", "SYNC")


def _used(client: Any) -> int:
    used: int = client.info("memory")["used_memory"]
    return used
