"""The SQL store: one row per session, every change one short transaction.  Alone, or behind Redis."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, delete, func, inspect, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from vedsess_middleware.concurrency import PerLoop
from vedsess_middleware.errors import SessionExists, StoreUnavailable
from vedsess_middleware.stores.contract import News, Stats, Written
from vedsess_middleware.stores.record import Delta, Record, Version
from vedsess_middleware.stores.sql import engines, work
from vedsess_middleware.stores.sql.tables import instant, metadata, sessions

__all__ = ["SQLStore"]

T = TypeVar("T")

_Work = Callable[[Connection], T]
_key = sessions.c.session_id
_FLUSH_EVERY = 1.0
_MOST_TRIES = 5
_MOST_USES = 10_000


class SQLStore:
    """Keeps sessions in SQLite, PostgreSQL, MariaDB or MySQL.

    Every method raises `StoreUnavailable` or `StoreMisconfigured` when the database does not serve.  The table is made
    on first use.

    Args:
        engine: an engine of its own, never the app's, as `engines` makes it; or a callable that makes an asyncio
            engine, called once for each event loop.
        timeout: seconds that one operation may take, its one repeat included.
        clock: monotonic seconds.
    """

    name = "sql"

    def __init__(
        self,
        engine: Engine | AsyncEngine | Callable[[], AsyncEngine],
        *,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_async = not isinstance(engine, Engine)
        self._per_loop = None if isinstance(engine, Engine | AsyncEngine) else PerLoop(engine)
        self._engine = engine
        self._timeout, self._clock = timeout, clock
        self._used: dict[str, Record] = {}
        self._flush_at = 0.0

    @classmethod
    def from_url(cls, url: str, *, is_async: bool, timeout: float = 1.0, **options: Any) -> Self:
        """A store with an engine of its own.  Connects on first use.

        Args:
            url: as SQLAlchemy takes it; a plain `sqlite://` or `postgresql://` chooses the driver by colour.
            is_async: for an event loop, or blocking.
            timeout: seconds that one operation may take, connecting included.
            options: of the class.
        """
        if is_async:
            return cls(partial(engines.async_engine, url, timeout=timeout), timeout=timeout, **options)
        return cls(engines.sync_engine(url, timeout=timeout), timeout=timeout, **options)

    def __repr__(self) -> str:
        return f"<SQLStore {'asyncio' if self.is_async else 'blocking'}>"

    @property
    def pending(self) -> bool:
        return bool(self._used) and self._clock() >= self._flush_at

    async def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Record | None:
        record = await self.peek(key)
        if record is None or record.gone:
            return record
        if record.expires_at <= at:
            return None
        if record.last_activity + refresh < at:
            self._used[key] = record = record.used(at)
        return record.replace(served_by=self.name, stale=not record.version.covers(token))

    async def create(self, key: str, record: Record) -> Version:
        record = record.born(Version(1, 0))
        await self._insert(key, partial(work.insert, key=key, record=record), record)
        return record.version

    async def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        dirty: bool = False,
    ) -> Version | None:
        record = record.born(Version(1, 0))

        def both(connection: Connection) -> bool:
            old = work.find(connection, key=old_key, lock=True)
            if old is not None and old.gone and not even_if_gone:
                return work.find(connection, key=new_key) == record  # a repeat after a lost answer
            work.insert(connection, key=new_key, record=record)
            work.end(connection, keys=[old_key], at=at, until=until, dirty=dirty)
            return True

        return record.version if await self._insert(new_key, both, record) else None

    async def update(self, key: str, delta: Delta) -> Written | None:
        return await self._write(partial(work.update, key=key, delta=delta))

    async def end(
        self,
        keys: Sequence[str],
        *,
        user_id: str | None = None,
        keep: str | None = None,
        at: float,
        until: float,
        dirty: bool = False,
    ) -> list[str]:
        ending = partial(work.end, keys=keys, user_id=user_id, keep=keep, at=at, until=until, dirty=dirty)
        return await self._merge(ending)

    async def merge(self, key: str, record: Record) -> Record:
        return await self._merge(partial(work.merge, key=key, record=record))

    async def records_of(self, user_id: str, *, at: float) -> dict[str, Record]:
        c = sessions.c
        query = select(sessions).where(c.user_id == user_id, c.is_active, c.expires_at > instant(at))
        return await self._read(partial(work.records, query=query))

    async def stats(self, *, at: float) -> Stats:
        c = sessions.c
        query = select(func.count(), func.count(c.user_id.distinct())).where(c.is_active, c.expires_at > instant(at))
        active, users = await self._read(lambda connection: connection.execute(query).one())
        dirty = select(func.count()).where(c.dirty)
        owed = await self._read(lambda connection: connection.execute(dirty).scalar_one())
        return Stats(store=self.name, active=active, users=users, details={"rows that Redis may not know": owed})

    async def cleanup(self, *, at: float) -> int:
        statement = delete(sessions).where(sessions.c.expires_at <= instant(at))
        return await self._write(lambda connection: connection.execute(statement).rowcount)

    async def after_response(self) -> None:
        if not self.pending:
            return
        used, self._used = self._used, {}
        self._flush_at = self._clock() + _FLUSH_EVERY
        try:
            await self._write(partial(work.note_uses, used=used))
        except StoreUnavailable:
            if len(used) < _MOST_USES:
                self._used = {**used, **self._used}
            raise

    async def close(self) -> None:
        engine = self._per_loop.pop() if self._per_loop else self._engine
        if isinstance(engine, AsyncEngine):
            await engine.dispose()
        elif isinstance(engine, Engine):
            engine.dispose()

    async def has_table(self) -> bool:
        """Whether the tables are there; makes nothing."""
        return await self._read(lambda connection: all(map(inspect(connection).has_table, metadata.tables)))

    async def create_tables(self) -> None:
        """Make the tables where they are not there."""
        try:
            await self._make_tables()
        except (SQLAlchemyError, OSError) as error:
            raise engines.translate(error, "session table") from error

    # -- as a secondary --------------------------------------------------------------------------------------------

    async def take_over(self, key: str, delta: Delta) -> Written | None:
        return await self._merge(partial(work.take_over, key=key, delta=delta))

    async def owe(self, records: Mapping[str, Record]) -> None:
        def every(connection: Connection) -> None:
            for key, record in records.items():
                work.merge(connection, key=key, record=record, dirty=True)

        await self._merge(every)

    async def owed(self, keys: Collection[str]) -> dict[str, Record]:
        query = select(sessions).where(sessions.c.dirty, _key.in_(keys))
        return await self._read(partial(work.records, query=query))

    async def paid(self, key: str, version: Version, *, record: Record, epoch: str) -> None:
        await self._write(partial(work.pay, key=key, version=version, record=record, epoch=epoch))

    async def buried(self, keys: Collection[str], *, epoch: str) -> None:
        await self._write(partial(work.bury, keys=keys, epoch=epoch))

    async def forget(self, key: str, version: Version) -> None:
        c = sessions.c
        statement = delete(sessions).where(_key == key, c.s == version.s, c.r == version.r)
        await self._write(lambda connection: connection.execute(statement))

    async def peek(self, key: str) -> Record | None:
        return await self._read(partial(work.find, key=key))

    async def poll(self) -> News:
        return await self._read(work.poll)

    async def set_epoch(self, epoch: str, *, missing: str) -> bool:
        try:
            done = await self._write(partial(work.set_epoch, epoch=epoch, missing=missing))
        except IntegrityError:
            done = False
        # Somebody was quicker, or it was done and the answer was lost.
        return done or (await self.poll()).epoch == epoch

    async def mirror(self, key: str, record: Record) -> Record:
        return await self._merge(partial(work.mirror, key=key, record=record))

    async def claim(self, key: str, version: Version) -> Version | None:
        return await self._write(partial(work.claim, key=key, version=version))

    def note_use(self, key: str, record: Record) -> None:
        self._used[key] = record

    # -- transactions ----------------------------------------------------------------------------------------------

    async def _read(self, task: _Work[T]) -> T:
        return await self._attempt(task, write=False)

    async def _write(self, task: _Work[T]) -> T:
        return await self._attempt(task, write=True)

    async def _merge(self, task: _Work[T]) -> T:
        """For work that reads, then inserts: where somebody inserts in between, the second try finds the row."""
        try:
            return await self._attempt(task, write=True)
        except IntegrityError:
            return await self._attempt(task, write=True)

    async def _insert(self, key: str, task: _Work[bool], record: Record) -> bool:
        try:
            return await self._attempt(task, write=True)
        except IntegrityError as error:
            # A repeat after a lost answer meets its own row.
            if await self._read(partial(work.find, key=key)) != record:
                raise SessionExists("a record exists under this key") from error
            return True

    async def _attempt(self, task: _Work[T], *, write: bool) -> T:
        with engines.budget(self._timeout):
            tries = 0
            while True:
                tries += 1
                try:
                    return await self._begin(task, write=write)
                except (SQLAlchemyError, OSError) as error:
                    if not await self._mended(error, tries):
                        raise engines.translate(error, "session table") from error

    async def _mended(self, error: SQLAlchemyError | OSError, tries: int) -> bool:
        """Whether to try again: after a deadlock a few times, after what only the first try can meet once."""
        if engines.was_deadlock(error):
            return tries < _MOST_TRIES
        if tries > 1 or not engines.is_missing_table(error):
            return tries == 1 and engines.was_disconnected(error)
        try:
            await self._make_tables()
        except (SQLAlchemyError, OSError) as other:
            raise engines.translate(other, "session table") from other
        return True

    async def _begin(self, task: _Work[T], *, write: bool) -> T:
        engine = self._per_loop.get() if self._per_loop else self._engine
        if isinstance(engine, AsyncEngine):
            async with (engines.for_writes(engine) if write else engine).begin() as connection:
                return await connection.run_sync(task)
        assert isinstance(engine, Engine)
        with (engines.for_writes(engine) if write else engine).begin() as blocking:
            return task(blocking)

    async def _make_tables(self) -> None:
        try:
            await self._begin(metadata.create_all, write=True)
        except (IntegrityError, ProgrammingError, OperationalError):
            # Another process was making it at the same time: then it is there now, and else this says why not.
            await self._begin(metadata.create_all, write=True)
