"""Visits to the database: each within its time budget, mended where that is possible, and its failures named."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from vedsess_middleware.concurrency import PerLoop
from vedsess_middleware.errors import CorruptRecord, SessionExists, StoreMisconfigured
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.sql import changes, ddl, engines, users, work
from vedsess_middleware.stores.sql.doors import Doors

__all__ = ["Database", "Work"]

T = TypeVar("T")

Work: TypeAlias = Callable[[Connection], T]
"""What is done on a connection.  It may be done twice."""

_MOST_TRIES = 5
_INSERTS = 4


class Database:
    """Where the tables are, or will be on first use.

    Every method raises `StoreUnavailable` or `StoreMisconfigured` when the database does not serve.

    Args:
        engine: an engine, or a callable that makes an asyncio engine, called once for each event loop.
        timeout: seconds that one operation may take, its one repeat included.
    """

    def __init__(self, engine: Engine | AsyncEngine | Callable[[], AsyncEngine], *, timeout: float) -> None:
        self._doors: Doors | PerLoop[Doors]
        if isinstance(engine, Engine | AsyncEngine):
            self._doors = Doors.of(engine)
        else:
            make = engine
            self._doors = PerLoop(lambda: Doors.of(make()))
        self._timeout = timeout

    async def visit(self, task: Work[T], *, alone: bool = True) -> T:
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

    async def transact(self, task: Work[T]) -> T:
        """For work that reads, then inserts: where somebody inserts in between, the next try finds the row."""
        for _ in range(_INSERTS):
            with suppress(IntegrityError):
                return await self.visit(task, alone=False)
        raise _refused()

    async def insert(self, key: str, task: Work[bool], record: Record, *, alone: bool = True) -> bool:
        """For work that inserts this record.

        Raises:
            SessionExists: there is another one under the key.
            StoreMisconfigured: the table refuses it.
        """
        with suppress(IntegrityError):
            return await self.visit(task, alone=alone)
        found = await self.visit(partial(work.find, key=key))
        if found is None:
            raise _refused()
        if found != record:
            raise SessionExists("a record exists under this key")
        return True  # a repeat after a lost answer meets its own row

    async def change(self, key: str, change: changes.Change[T], *, guess: Record | None = None) -> T:
        """Change a row without a transaction, or with one where somebody else was at it, or where it is unreadable."""
        with engines.budget(self._timeout):
            with suppress(IntegrityError, CorruptRecord):
                step = await self.visit(partial(work.try_change, key=key, change=change, guess=guess))
                if step is not None:
                    return step.answer
            return await self.transact(partial(work.change, key=key, change=change))

    async def with_rows(self, task: Work[T | users.Missing]) -> T:
        """For work that holds rows, and may find that one has to be added first."""
        with engines.budget(self._timeout):
            while isinstance(done := await self.visit(task, alone=False), users.Missing):
                await self.visit(done.add)
            return done

    async def make_tables(self) -> None:
        """Make what is missing of the tables."""
        try:
            await self._make_tables()
        except (SQLAlchemyError, OSError) as error:
            raise engines.translate(error, "session table") from error

    async def close(self) -> None:
        """Give the connections back."""
        doors = self._doors.pop() if isinstance(self._doors, PerLoop) else self._doors
        if doors is not None:
            await doors.close()

    async def _enter(self, task: Work[T], *, alone: bool) -> T:
        doors = self._doors.get() if isinstance(self._doors, PerLoop) else self._doors
        return await doors.enter(task, alone=alone)

    async def _mended(self, error: SQLAlchemyError | OSError, tries: int) -> bool:
        """Whether to try again: after a deadlock a few times, after what only the first try can meet once."""
        if engines.was_deadlock(error):
            return tries < _MOST_TRIES
        if tries > 1 or not engines.needs_tables(error):
            return tries == 1 and engines.was_disconnected(error)
        try:
            await self._make_tables()
        except (SQLAlchemyError, OSError) as other:
            raise engines.translate(other, "session table", making=True) from other
        return True

    async def _make_tables(self) -> None:
        # By themselves, for an index takes long where there are many rows: then the columns are there all the same.
        for task in (ddl.make_tables, ddl.make_indexes):
            await self._make(task)

    async def _make(self, task: Work[None]) -> None:
        """Other processes may be making the same at the same time: whatever one of them has made is there then."""
        for _ in range(ddl.MOST_MADE):
            try:
                return await self._enter(task, alone=False)
            except SQLAlchemyError as error:
                if not engines.is_made_already(error):
                    raise
        return await self._enter(task, alone=False)


def _refused() -> StoreMisconfigured:
    """Not chained: what the database says of a constraint shows the row."""
    return StoreMisconfigured("the session table refuses a row: remove the constraints from it that are not ours")
