"""The SQL store: one row per session, every change one statement or one short transaction.  Alone, or behind Redis."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, delete, func, inspect, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from vedsess_middleware.concurrency import PerLoop
from vedsess_middleware.errors import CorruptRecord, SessionExists, StoreUnavailable
from vedsess_middleware.stores.contract import News, Stats, Written
from vedsess_middleware.stores.record import Delta, Record, Version
from vedsess_middleware.stores.sql import changes, engines, work
from vedsess_middleware.stores.sql.doors import Doors
from vedsess_middleware.stores.sql.tables import instant, metadata, sessions

__all__ = ["SQLStore"]

T = TypeVar("T")

_Work = Callable[[Connection], T]
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
        self._engine = engine
        self._doors: Doors | PerLoop[Doors]
        if isinstance(engine, Engine | AsyncEngine):
            self._doors = Doors.of(engine)
        else:
            make = engine
            self._doors = PerLoop(lambda: Doors.of(make()))
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

        return record.version if await self._insert(new_key, both, record, alone=False) else None

    async def update(self, key: str, delta: Delta) -> Written | None:
        return await self._change(key, partial(changes.written, delta=delta), guess=delta.loaded)

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
        return await self._transact(ending)

    async def merge(self, key: str, record: Record) -> Record:
        return await self._change(key, partial(changes.brought_together, record=record))

    async def records_of(self, user_id: str, *, at: float) -> dict[str, Record]:
        return await self._visit(partial(work.records_of, user_id=user_id, at=at))

    async def stats(self, *, at: float) -> Stats:
        c = sessions.c
        query = select(func.count(), func.count(c.user_id.distinct())).where(c.is_active, c.expires_at > instant(at))
        active, users = await self._visit(lambda connection: connection.execute(query).one())
        dirty = select(func.count()).where(c.dirty)
        owed = await self._visit(lambda connection: connection.execute(dirty).scalar_one())
        return Stats(store=self.name, active=active, users=users, details={"rows that Redis may not know": owed})

    async def cleanup(self, *, at: float) -> int:
        statement = delete(sessions).where(sessions.c.expires_at <= instant(at))
        return await self._visit(lambda connection: connection.execute(statement).rowcount)

    async def after_response(self) -> None:
        if not self.pending:
            return
        used, self._used = self._used, {}
        self._flush_at = self._clock() + _FLUSH_EVERY
        try:
            await self._visit(partial(work.note_uses, used=used), alone=len(used) == 1)
        except StoreUnavailable:
            if len(used) < _MOST_USES:
                self._used = {**used, **self._used}
            raise

    async def close(self) -> None:
        doors = self._doors.pop() if isinstance(self._doors, PerLoop) else self._doors
        if doors is not None:
            await doors.close()

    async def has_table(self) -> bool:
        """Whether the tables are there; makes nothing."""
        return await self._visit(lambda connection: all(map(inspect(connection).has_table, metadata.tables)))

    async def create_tables(self) -> None:
        """Make the tables where they are not there."""
        try:
            await self._make_tables()
        except (SQLAlchemyError, OSError) as error:
            raise engines.translate(error, "session table") from error

    # -- as a secondary --------------------------------------------------------------------------------------------

    async def take_over(self, key: str, delta: Delta) -> Written | None:
        return await self._change(key, partial(changes.taken_over, delta=delta))

    async def owe(self, records: Mapping[str, Record]) -> None:
        wanted = {key: partial(changes.brought_together, record=record, dirty=True) for key, record in records.items()}
        if len(wanted) == 1:
            await self._change(*wanted.popitem())
        else:
            await self._transact(partial(work.change_all, changes=wanted))

    async def owed(self, keys: Collection[str]) -> dict[str, Record]:
        return await self._visit(partial(work.owed, keys=keys))

    async def paid(self, key: str, version: Version, *, record: Record, epoch: str) -> None:
        await self._visit(partial(work.pay, key=key, version=version, record=record, epoch=epoch))

    async def buried(self, keys: Collection[str], *, epoch: str) -> None:
        await self._visit(partial(work.bury, keys=keys, epoch=epoch))

    async def forget(self, key: str, version: Version) -> None:
        await self._visit(partial(work.forget, key=key, version=version))

    async def peek(self, key: str) -> Record | None:
        return await self._visit(partial(work.find, key=key))

    async def poll(self) -> News:
        return await self._visit(work.poll)

    async def set_epoch(self, epoch: str, *, missing: str) -> bool:
        try:
            done = await self._visit(partial(work.set_epoch, epoch=epoch, missing=missing))
        except IntegrityError:
            done = False
        # Somebody was quicker, or it was done and the answer was lost.
        return done or (await self.poll()).epoch == epoch

    async def mirror(self, key: str, record: Record, *, before: Record | None = None) -> Record:
        return await self._change(key, partial(changes.mirrored, record=record), guess=before)

    async def mirror_all(self, records: Mapping[str, Record]) -> dict[str, Record]:
        wanted = {key: partial(changes.mirrored, record=record) for key, record in records.items()}
        return await self._transact(partial(work.change_all, changes=wanted))

    async def claim(self, key: str, version: Version) -> Version | None:
        return await self._visit(partial(work.claim, key=key, version=version))

    def note_use(self, key: str, record: Record) -> None:
        self._used[key] = record

    # -- visits ----------------------------------------------------------------------------------------------------

    async def _change(self, key: str, change: changes.Change[T], *, guess: Record | None = None) -> T:
        """Change a row without a transaction, or with one where somebody else was at it, or where it is unreadable."""
        with engines.budget(self._timeout):
            with suppress(IntegrityError, CorruptRecord):
                step = await self._visit(partial(work.try_change, key=key, change=change, guess=guess))
                if step is not None:
                    return step.answer
            return await self._transact(partial(work.change, key=key, change=change))

    async def _transact(self, task: _Work[T]) -> T:
        """For work that reads, then inserts: where somebody inserts in between, the second try finds the row."""
        try:
            return await self._visit(task, alone=False)
        except IntegrityError:
            return await self._visit(task, alone=False)

    async def _insert(self, key: str, task: _Work[bool], record: Record, *, alone: bool = True) -> bool:
        try:
            return await self._visit(task, alone=alone)
        except IntegrityError as error:
            # A repeat after a lost answer meets its own row.
            if await self._visit(partial(work.find, key=key)) != record:
                raise SessionExists("a record exists under this key") from error
            return True

    async def _visit(self, task: _Work[T], *, alone: bool = True) -> T:
        """Do this on a connection; `alone`: each statement is a transaction of its own."""
        with engines.budget(self._timeout):
            tries = 0
            while True:
                tries += 1
                try:
                    return await self._enter(task, alone=alone)
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

    async def _enter(self, task: _Work[T], *, alone: bool) -> T:
        doors = self._doors.get() if isinstance(self._doors, PerLoop) else self._doors
        return await doors.enter(task, alone=alone)

    async def _make_tables(self) -> None:
        try:
            await self._enter(metadata.create_all, alone=False)
        except (IntegrityError, ProgrammingError, OperationalError):
            # Another process was making it at the same time: then it is there now, and else this says why not.
            await self._enter(metadata.create_all, alone=False)
