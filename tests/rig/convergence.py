"""What the two stores hold once all has come to rest, and whether it is the same."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import redis
import sqlalchemy as sa

from tests.rig.history import Violation
from vedsess_middleware.stores.sql.tables import sessions

PREFIX = "vedsess:"
_OPTIONS: dict[str, Any] = {"decode_responses": True, "encoding_errors": "backslashreplace", "socket_timeout": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the session table."""

    version: str
    fields: Mapping[str, str]
    active: bool = True
    dirty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Both stores, and the workers, at one moment.

    Attributes:
        hashes: of sessions in Redis, by key.
        immortal: keys of ours without a time to live.
        epoch: the one that copies have to be of; empty: there is none.
        to_mirror: keys whose copy in SQL is owed.
        rows: of SQL, by key.
        serving: which store each worker would serve from.
    """

    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    immortal: tuple[str, ...] = ()
    epoch: str = ""
    to_mirror: frozenset[str] = frozenset()
    rows: Mapping[str, Row] = field(default_factory=dict)
    serving: Mapping[str, str] = field(default_factory=dict)


def key_of(session_id: str) -> str:
    """What the stores know of an id."""
    return sha256(session_id.encode()).hexdigest()


def unconverged(snapshot: Snapshot, keys: Iterable[str] | None = None) -> list[Violation]:
    """What is not yet at rest: of these keys, or of all.

    A row without a copy is at rest, and so is a copy that is not current: the next request misses it.
    """
    wanted = set(snapshot.hashes) | set(snapshot.rows) | snapshot.to_mirror if keys is None else set(keys)
    found = [_found(name, f"{PREFIX}... lives for ever", key=name) for name in snapshot.immortal]
    for worker, store in snapshot.serving.items():
        if store != "redis":
            found.append(_found(worker, f"serves from {store or 'nowhere'}"))
    for key in sorted(wanted):
        found += [_found(key[:8], problem, key=key) for problem in _problems(snapshot, key)]
    return found


def _found(subject: str, detail: str, key: str = "") -> Violation:
    return Violation("7 convergence", f"{subject} {detail.partition(':')[0]}", None, f"{detail} {key}".strip())


def _problems(snapshot: Snapshot, key: str) -> list[str]:
    problems = []
    row, copy = snapshot.rows.get(key), snapshot.hashes.get(key, {})
    if key in snapshot.to_mirror:
        problems.append("its copy is still owed")
    if row is not None and row.dirty:
        problems.append("the row is dirty")
    if "version" in copy and "session_id" not in copy and "gone" not in copy:
        problems.append(f"half a hash: {sorted(copy)}")
    elif _is_current(copy, snapshot.epoch):
        problems += _differences(copy, row)
    return problems


def _is_current(copy: Mapping[str, str], epoch: str) -> bool:
    return "session_id" in copy and "gone" not in copy and copy.get("epoch", "") == epoch


def _differences(copy: Mapping[str, str], row: Row | None) -> list[str]:
    if row is None:
        return ["the copy has no row"]
    if not row.active:
        return ["the copy is alive, and the row is a tombstone"]
    fields = {name.removeprefix("d:"): value for name, value in copy.items() if name.startswith("d:")}
    problems = []
    if copy["version"] != row.version:
        problems.append(f"versions differ: copy {copy['version']}, row {row.version}")
    if fields != row.fields:
        names = sorted(name for name in {*fields, *row.fields} if fields.get(name) != row.fields.get(name))
        pairs = [f"{name}: copy {fields.get(name)}, row {row.fields.get(name)}" for name in names]
        problems.append(f"fields differ: {'; '.join(pairs)}")
    return problems


# -- taking one --------------------------------------------------------------------------------------------------------


def read_redis(url: str, keys: Iterable[str]) -> dict[str, Any]:
    """The part of a snapshot that Redis knows."""
    keys = list(keys)
    with redis.Redis.from_url(url, **_OPTIONS) as client:
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(f"{PREFIX}session:{key}")
        hashes = dict(zip(keys, pipeline.execute(raise_on_error=False), strict=True))
        names = list(client.scan_iter(match=f"{PREFIX}*", count=1000))
        for name in names:
            pipeline.ttl(name)
        immortal = [name for name, ttl in zip(names, pipeline.execute(), strict=True) if ttl == -1]
        owed = frozenset(client.zrange(f"{PREFIX}to_mirror", 0, -1))
        epoch = client.get(f"{PREFIX}epoch") or ""
    return {"hashes": hashes, "immortal": tuple(immortal), "epoch": epoch, "to_mirror": owed & set(keys)}


def read_rows(engine: sa.Engine, keys: Iterable[str]) -> dict[str, Row]:
    """The rows of these keys; none where the table is not there yet."""
    wanted = set(keys)
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(sessions.name):
            return {}
        columns = [sessions.c[name] for name in ("session_id", "s", "r", "fields", "is_active", "dirty")]
        rows = connection.execute(sa.select(*columns)).all()
    return {row.session_id: _row(row) for row in rows if row.session_id in wanted}


def _row(row: Any) -> Row:
    fields = json.loads(row.fields) if row.fields else {}
    return Row(version=f"{row.s}.{row.r}", fields=fields, active=row.is_active, dirty=row.dirty)
