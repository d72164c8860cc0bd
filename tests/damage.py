"""What stores hold of a session, byte by byte: to be damaged, and to be put back."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import fakeredis

from tests.clients import Clock
from tests.stores import quiet
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

Held: TypeAlias = Mapping[str, Any]

ODD_VALUES = (
    None,
    0,
    -1,
    2,
    7.5,
    2**63 - 1,
    -(2**63),
    1e308,
    -1e308,
    float("inf"),
    "",
    "x",
    "-1",
    "2030",
    b"",
    b"\xff",
)
_SESSION = "vedsess:session:"


class Case(NamedTuple):
    """One way to damage what is held.

    Attributes:
        place: the field, or the column.
        how: what was done there.
        held: what is left.
    """

    place: str
    how: str
    held: Held


class Broken(bytes):
    """Text in a database that is not UTF-8."""


def _damaged(value: bytes, most: int) -> Iterator[tuple[str, bytes]]:
    """A text with one byte changed, at so many places at most; and without any."""
    for place in range(0, len(value), -(-len(value) // most) if value else 1):
        before, byte, after = value[:place], value[place], value[place + 1 :]
        for other in (byte ^ 1, 0x00, 0xFF, ord('"')):
            yield f"{place} is {other:#x}", before + bytes([other]) + after
        yield f"{place} is dropped", before + after
        yield f"{place} is the last", before
    yield "appended", value + b"0"


class RedisShelf:
    """Hashes of a Redis in this process."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._client = fakeredis.FakeRedis()
        self.store = RedisStore(self._client, clock=clock, on_event=quiet)
        self._kept: dict[bytes, tuple[bytes, Any]] = {}

    def close(self) -> None:
        """Nothing is to be given back."""

    def keep(self) -> None:
        """This is what `restore` puts back."""
        names: list[bytes] = self._client.keys()  # type: ignore[assignment]
        self._kept = {name: self._read(name) for name in names}

    def restore(self) -> None:
        """Put everything back."""
        self._client.flushall()
        for name, (kind, content) in self._kept.items():
            if kind == b"hash":
                self._client.hset(name, mapping=content)
            else:
                self._client.zadd(name, dict(content))

    def _read(self, name: bytes) -> tuple[bytes, Any]:
        kind: bytes = self._client.type(name)  # type: ignore[assignment]
        return kind, self._client.hgetall(name) if kind == b"hash" else self._client.zrange(
            name, 0, -1, withscores=True
        )

    def held(self, key: str) -> Held:
        """The hash of a session."""
        found: dict[bytes, bytes] = self._client.hgetall(_SESSION + key)  # type: ignore[assignment]
        return {name.decode(): text for name, text in found.items()}

    def put(self, key: str, held: Held) -> None:
        """Let this be the hash of a session."""
        self._client.delete(_SESSION + key)
        if held:
            self._client.hset(_SESSION + key, mapping={name: bytes(text) for name, text in held.items()})

    def cases(self, held: Held, most: int) -> Iterator[Case]:
        """Each byte of each field, or at most so many of a field; the field emptied, and removed."""
        for place, text in held.items():
            others = {name: each for name, each in held.items() if name != place}
            for how, damaged in _damaged(text, most):
                yield Case(place, how, {**held, place: damaged})
            yield Case(place, "emptied", {**held, place: b""})
            yield Case(place, "removed", others)

    def texts(self, held: Held) -> dict[str, str]:
        """The stored texts of the app's values, by name."""
        return {name.removeprefix("d:"): text.decode() for name, text in held.items() if name.startswith("d:")}

    def with_texts(self, held: Held, texts: Mapping[str, str]) -> Held:
        """The same with other values."""
        others = {name: text for name, text in held.items() if not name.startswith("d:")}
        return {**others, **{f"d:{name}": text.encode() for name, text in texts.items()}}


class SQLiteShelf:
    """Rows of a SQLite file, behind the back of the store."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.store = SQLStore.from_url(f"sqlite:///{path}/sessions.sqlite3", is_async=False, timeout=5.0, clock=clock)
        self._path = path / "sessions.sqlite3"
        self._kept: dict[str, list[Held]] = {}

    def keep(self) -> None:
        """This is what `restore` puts back."""
        self._database = sqlite3.connect(self._path, isolation_level=None)
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.row_factory = sqlite3.Row
        for table in ("vedsess_sessions", "vedsess_users"):
            self._kept[table] = [dict(row) for row in self._database.execute(f"SELECT * FROM {table}")]
        columns = self._database.execute("PRAGMA table_info(vedsess_sessions)")
        self._nullable = {row["name"] for row in columns if not row["notnull"]}

    def restore(self) -> None:
        """Put everything back."""
        for table, rows in self._kept.items():
            self._database.execute(f"DELETE FROM {table}")
            for row in rows:
                self._insert(table, row)

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def held(self, key: str) -> Held:
        """The row of a session."""
        [row] = self._database.execute("SELECT * FROM vedsess_sessions WHERE session_id = ?", [key])
        return dict(row)

    def put(self, key: str, held: Held) -> None:
        """Let this be the row of a session."""
        others = [row["session_id"] for row in self._kept["vedsess_sessions"] if row["session_id"] != key]
        marks = ", ".join("?" * len(others))
        self._database.execute(f"DELETE FROM vedsess_sessions WHERE session_id NOT IN ({marks})", others)
        self._insert("vedsess_sessions", held)

    def _insert(self, table: str, row: Held) -> None:
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, Broken) else "?" for value in row.values())
        values = [bytes(value) if isinstance(value, Broken) else value for value in row.values()]
        self._database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", values)

    def cases(self, held: Held, most: int) -> Iterator[Case]:
        """Each byte of each text, or at most so many; and each column with a value that it should not have."""
        for place, value in held.items():
            if isinstance(value, str):
                for how, damaged in _damaged(value.encode(), most):
                    yield Case(place, how, {**held, place: _text(damaged)})
            for odd in ODD_VALUES:
                fits = place in self._nullable if odd is None else place != "session_id" or isinstance(odd, str)
                if fits:
                    yield Case(place, f"is {odd!r}", {**held, place: odd})

    def texts(self, held: Held) -> dict[str, str]:
        """The stored texts of the app's values, by name."""
        found: dict[str, str] = json.loads(held["fields"])
        return found

    def with_texts(self, held: Held, texts: Mapping[str, str]) -> Held:
        """The same with other values."""
        return {**held, "fields": json.dumps(texts)}


Shelf: TypeAlias = RedisShelf | SQLiteShelf


def _text(raw: bytes) -> str | Broken:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Broken(raw)
