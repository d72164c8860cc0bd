"""What can be wrong with the database."""

import secrets
import time

from vedsess_middleware.console.steps import Checklist, Finding
from vedsess_middleware.console.stores import database_url
from vedsess_middleware.settings import Settings, mask_url
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.sql import SQLStore

__all__ = ["SQLCheck"]

_LIFE = 60.0
_NEVER_REACHED = 2**62


class SQLCheck:
    """The steps of the area `SQL`.

    Args:
        settings: which database.
        store: on it.
    """

    def __init__(self, settings: Settings, store: SQLStore) -> None:
        self._settings, self._store = settings, store
        self._had_tables = False

    async def run(self, checklist: Checklist) -> None:
        """Do all steps."""
        await checklist.run("connect", self._connect)
        await checklist.run("tables", self._tables)
        await checklist.run("write", self._write)
        await checklist.run("shared", self._shared)

    async def _connect(self) -> Finding:
        self._had_tables = await self._store.has_table()
        return Finding(mask_url(database_url(self._settings)))

    async def _tables(self) -> Finding:
        if self._had_tables:
            return Finding("all are there")
        await self._store.create_tables()
        return Finding("not all was there: made now")

    async def _write(self) -> Finding:
        key, now = secrets.token_hex(32), time.time()
        version = await self._store.create(key, Record.new(at=now, idle_timeout=_LIFE, deadline_at=now + _LIFE))
        await self._store.forget(key, version)
        await self._store.cut_offs(after=_NEVER_REACHED)  # lies in a table that sessions do without
        return Finding("a row was written and removed")

    async def _shared(self) -> Finding:
        url = database_url(self._settings)
        if not url.startswith("sqlite"):
            return Finding("hosts can share it")
        mend = "with more than one host, set VEDSESS_DATABASE_URL to PostgreSQL, MySQL or MariaDB"
        return Finding("SQLite is a file of this host: no fallback that several hosts share", "warning", mend)
