"""The SQL store: one row per session, every change one statement or one short transaction.  Alone, or behind Redis."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from vedsess_middleware.errors import StoreUnavailable
from vedsess_middleware.stores.contract import News, Owner, Replaced, Stats, Written
from vedsess_middleware.stores.record import Delta, Fence, Record, Version
from vedsess_middleware.stores.sql import changes, ddl, engines, locks, statements, users, work
from vedsess_middleware.stores.sql.database import Database
from vedsess_middleware.stores.sql.tables import instant, sessions

__all__ = ["SQLStore"]

_FLUSH_EVERY = 1.0
_MOST_USES = 10_000


class SQLStore:
    """Keeps sessions in SQLite, PostgreSQL, MariaDB or MySQL.

    Every method raises `StoreUnavailable` or `StoreMisconfigured` when the database does not serve.  The tables are
    made on first use, and those of an earlier release get what they lack.

    Args:
        engine: an engine of its own, never the app's, as `engines` makes it; or a callable that makes an asyncio
            engine, called once for each event loop.
        timeout: seconds that one operation may take, its one repeat included.
        clock: monotonic seconds.
        longest_life: seconds for which a cut-off is remembered: no session may live for longer.
    """

    name = locks.NAME

    def __init__(
        self,
        engine: Engine | AsyncEngine | Callable[[], AsyncEngine],
        *,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        longest_life: float = 30 * 86400.0,
    ) -> None:
        self.is_async = not isinstance(engine, Engine)
        self._database = Database(engine, timeout=timeout)
        self._clock, self._longest_life = clock, longest_life
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
        await self._database.insert(key, partial(work.insert, key=key, record=record), record)
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
        known: Version | None = None,
        dirty: bool = False,
    ) -> Replaced | None:
        record, missed = record.born(Version(1, 0)), dict[str, Record | None]()

        def both(connection: Connection) -> bool:
            old = work.hold(connection, key=old_key).record
            if old is not None and old.gone and not even_if_gone:
                return work.find(connection, key=new_key) == record  # a repeat after a lost answer
            missed[old_key] = old.past(known) if old else None
            work.insert(connection, key=new_key, record=record)
            work.end(connection, keys=[old_key], at=at, until=until, dirty=dirty, successor=record.named(new_key))
            return True

        done = await self._database.insert(new_key, both, record, alone=False)
        return Replaced(version=record.version, missed=missed.get(old_key)) if done else None

    async def update(self, key: str, delta: Delta) -> Written | None:
        return await self._database.change(key, partial(changes.written, delta=delta), guess=delta.loaded)

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
        return await self._database.transact(ending)

    async def merge(self, key: str, record: Record) -> Record:
        return await self._database.change(key, partial(changes.brought_together, record=record))

    async def cut_off(self, user_id: str, *, at: float, until: float, dirty: bool = False) -> list[str]:
        noted_until = at + self._longest_life
        cutting = partial(users.cut_off, user_id=user_id, at=at, until=until, noted_until=noted_until, dirty=dirty)
        return await self._database.with_rows(cutting)

    async def records_of(self, owner: str, *, at: float, by: Owner = "user") -> dict[str, Record]:
        return await self._database.visit(partial(work.records_of, owner=owner, by=by, at=at))

    async def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> list[str]:
        reserving = partial(users.reserve, user_id=user_id, key=key, limit=limit, deny=deny, at=at)
        return await self._database.with_rows(reserving)

    async def lock(self, key: str, word: str, *, at: float, until: float) -> Fence | None:
        return await self._database.visit(partial(locks.give_out, key=key, word=word, at=at, until=until))

    async def unlock(self, key: str, fence: Fence) -> None:
        if fence.store == self.name:
            await self._database.visit(partial(locks.give_back, key=key, number=fence.number))

    async def sample(self, *, at: float) -> tuple[str, Record] | None:
        return await self._database.visit(partial(work.sample, at=at))

    async def stats(self, *, at: float) -> Stats:
        c = sessions.c
        query = select(func.count(), func.count(c.user_id.distinct())).where(c.is_active, c.expires_at > instant(at))
        active, users = await self._database.visit(lambda connection: connection.execute(query).one())
        dirty = select(func.count()).where(c.dirty)
        owed = await self._database.visit(lambda connection: connection.execute(dirty).scalar_one())
        return Stats(store=self.name, active=active, users=users, details={"rows that Redis may not know": owed})

    async def cleanup(self, *, at: float) -> int:
        def clean(connection: Connection) -> int:
            connection.execute(statements.CLEAN_USERS, {"now": instant(at)})
            return connection.execute(statements.CLEAN, {"now": instant(at)}).rowcount

        return await self._database.visit(clean)

    async def after_response(self) -> None:
        if not self.pending:
            return
        used, self._used = self._used, {}
        self._flush_at = self._clock() + _FLUSH_EVERY
        try:
            await self._database.visit(partial(work.note_uses, used=used), alone=len(used) == 1)
        except StoreUnavailable:
            if len(used) < _MOST_USES:
                self._used = {**used, **self._used}
            raise

    async def close(self) -> None:
        await self._database.close()

    async def has_table(self) -> bool:
        """Whether the tables are there, with all columns; makes nothing."""
        return await self._database.visit(ddl.are_made)

    async def create_tables(self) -> None:
        """Make what is missing of the tables."""
        await self._database.make_tables()

    # -- as a secondary --------------------------------------------------------------------------------------------

    async def take_over(self, key: str, delta: Delta) -> Written | None:
        return await self._database.change(key, partial(changes.taken_over, delta=delta))

    async def owe(self, records: Mapping[str, Record]) -> None:
        wanted = {key: partial(changes.brought_together, record=record, dirty=True) for key, record in records.items()}
        if len(wanted) == 1:
            await self._database.change(*wanted.popitem())
        else:
            await self._database.transact(partial(work.change_all, changes=wanted))

    async def owed(self, keys: Collection[str]) -> dict[str, Record]:
        return await self._database.visit(partial(work.owed, keys=keys))

    async def paid(self, key: str, version: Version, *, record: Record, epoch: str) -> None:
        await self._database.visit(partial(work.pay, key=key, version=version, record=record, epoch=epoch))

    async def buried(self, keys: Collection[str], *, epoch: str) -> None:
        await self._database.visit(partial(work.bury, keys=keys, epoch=epoch))

    async def forget(self, key: str, version: Version) -> None:
        await self._database.visit(partial(work.forget, key=key, version=version))

    async def peek(self, key: str) -> Record | None:
        return await self._database.visit(partial(work.find, key=key))

    async def poll(self) -> News:
        return await self._database.visit(work.poll)

    async def set_epoch(self, epoch: str, *, missing: str) -> bool:
        try:
            done = await self._database.visit(partial(work.set_epoch, epoch=epoch, missing=missing))
        except IntegrityError:
            done = False
        # Somebody was quicker, or it was done and the answer was lost.
        return done or (await self.poll()).epoch == epoch

    async def mirror(self, key: str, record: Record, *, before: Record | None = None) -> Record:
        return await self._database.change(key, partial(changes.mirrored, record=record), guess=before)

    async def mirror_all(self, records: Mapping[str, Record]) -> dict[str, Record]:
        wanted = {key: partial(changes.mirrored, record=record) for key, record in records.items()}
        return await self._database.transact(partial(work.change_all, changes=wanted))

    async def cut_offs(self, *, after: int) -> dict[str, float]:
        return await self._database.visit(partial(users.cut_offs, after=after))

    async def claim(self, key: str, version: Version) -> Version | None:
        return await self._database.visit(partial(work.claim, key=key, version=version))

    def note_use(self, key: str, record: Record) -> None:
        self._used[key] = record
