"""A store that does what everybody writes first: the cache, then SQL.  The oracle has to see what is wrong with it.

It loses what SQL took while the cache was away, and forgets logouts with it.
"""

import pickle
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.retry import Retry

from vedsess_middleware.stores.contract import Replaced, Written
from vedsess_middleware.stores.record import Delta, Record, Version

_table = sa.Table(
    "naive", sa.MetaData(), sa.Column("key", sa.String(64), primary_key=True), sa.Column("record", sa.LargeBinary)
)


class NaiveStore:
    """Blocking.  Whole records, the cache asked first, its failures ignored."""

    name, is_async, pending = "naive", False, False

    def __init__(self, redis_url: str, database_url: str, *, timeout: float) -> None:
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        self._engine = sa.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
        with suppress(sa.exc.SQLAlchemyError):  # four workers make it at once
            _table.metadata.create_all(self._engine)

    @property
    def serving(self) -> str:
        with suppress(redis.RedisError):
            return "redis" if self._redis.ping() else ""
        return "sql"

    def load(self, key: str, **_: Any) -> Record | None:
        raw, store = self._cached(key), "redis"
        if raw is None:
            raw, store = self._select(key), "sql"
            if raw:
                self._cache(key, raw)
        return pickle.loads(raw).replace(served_by=store) if raw else None

    def create(self, key: str, record: Record) -> Version:
        record = record.born(Version(0, 1))
        self._save(key, record)
        return record.version

    def update(self, key: str, delta: Delta) -> Written | None:
        record = self.load(key)
        if record is None:
            return None
        version = record.version._replace(r=record.version.r + 1)
        record = record.written(delta, version)
        self._save(key, record)
        return Written(version=version, record=record)

    def replace(self, old_key: str, new_key: str, record: Record, **_: Any) -> Replaced:
        version = self.create(new_key, record)
        self.end([old_key])
        return Replaced(version=version)

    def end(self, keys: Sequence[str], **_: Any) -> list[str]:
        for key in keys:
            with self._engine.begin() as connection:
                connection.execute(_table.delete().where(_table.c.key == key))
            with suppress(redis.RedisError):
                self._redis.delete(f"naive:{key}")
        return list(keys)

    def after_response(self) -> None:
        """Nothing is owed to anybody."""

    def close(self) -> None:
        self._redis.close()
        self._engine.dispose()

    def _cached(self, key: str) -> bytes | None:
        with suppress(redis.RedisError):
            raw: bytes | None = self._redis.get(f"naive:{key}")  # type: ignore[assignment]
            return raw
        return None

    def _select(self, key: str) -> bytes | None:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(_table.c.record).where(_table.c.key == key))

    def _save(self, key: str, record: Record) -> None:
        raw = pickle.dumps(record)
        with self._engine.begin() as connection:
            if not connection.execute(_table.update().where(_table.c.key == key).values(record=raw)).rowcount:
                connection.execute(_table.insert().values(key=key, record=raw))
        self._cache(key, raw)

    def _cache(self, key: str, raw: bytes) -> None:
        with suppress(redis.RedisError):
            self._redis.set(f"naive:{key}", raw, ex=3600)
