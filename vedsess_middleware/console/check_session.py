"""A probe session through the whole stack, as a browser would have it, with a look into both stores."""

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from vedsess_middleware.concurrency import settle
from vedsess_middleware.console.mends import explain_words
from vedsess_middleware.console.steps import Checklist, Finding, StepFailed
from vedsess_middleware.console.stores import each_store
from vedsess_middleware.events import Event, StoreDegraded, StoreRefused
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Session
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.redis.wire import Wire
from vedsess_middleware.stores.sql import SQLStore

__all__ = ["SessionCheck"]

_LIFE = 60.0
_NEVER = 1e9
_MOST_ROUNDS = 20
_CREATED = "created"
_INFO = RequestInfo(user_agent="vedsess check")


class SessionCheck:
    """The steps of the area `session`.  What a failed run leaves behind ends by itself within a minute.

    Args:
        settings: of the app.
        store: all stores as one.
        wire: the way to Redis, for the indexes; None: SQL only.
        events: what the stores have said so far; they add to it.

    Raises:
        ConfigurationError: the library that encrypts is missing.
    """

    def __init__(self, settings: Settings, store: Store, wire: Wire | None, events: Sequence[Event]) -> None:
        # Only the session is short-lived: a store for short lives would shorten the indexes of all others.
        brief = replace(settings, idle_timeout=_LIFE, absolute_timeout=_LIFE)
        self._manager = SessionManager(store, brief, on_event=lambda event: None)
        self._settings, self._wire, self._events = settings, wire, events
        self._stores = each_store(store)
        self._mirrors = isinstance(store, FailoverStore) and settings.mirror != "off"
        self._user = f"vedsess-check-{secrets.token_hex(8)}"
        self._cookie = self._key = ""

    async def run(self, checklist: Checklist) -> None:
        """Do all steps."""
        await checklist.run("create and log in", self._create)
        await checklist.run("encryption", self._encryption)
        await checklist.run("load", self._load)
        await checklist.run("update", self._update)
        await checklist.run("copy in SQL", self._copy)
        await checklist.run("end", self._end)
        await checklist.run("indexes", self._indexes)

    async def _create(self) -> Finding:
        session = await self._manager.open()
        session.login(self._user)
        session["probe"] = _CREATED
        await self._commit(session)
        self._key = hashlib.sha256((session.id or "").encode()).hexdigest()
        return Finding()

    async def _encryption(self) -> Finding:
        keys = len(self._settings.encryption_keys)
        if not keys:
            return Finding("none: values are stored as they are", "note")
        record = await self._stored(self._stores[0]) or await self._stored(self._stores[-1])
        if record is None or _CREATED in "".join(record.values.values()):
            raise StepFailed("the session is not in the store as it should be, encrypted", self._said())
        if self._settings.encryption_accepts_plain:
            mend = "unset VEDSESS_ENCRYPTION_ACCEPTS_PLAIN when the last session of before encryption is over"
            return Finding("values are encrypted, and others are believed too", "warning", mend)
        return Finding("AES-256-GCM" if keys == 1 else f"AES-256-GCM with the first of {keys} keys")

    async def _load(self) -> Finding:
        return self._seen(await self._manager.open(self._cookie), _CREATED)

    async def _update(self) -> Finding:
        session = await self._manager.open(self._cookie)
        session["probe"] = "updated"
        await self._commit(session)
        return self._seen(await self._manager.open(self._cookie), "updated")

    async def _copy(self) -> Finding:
        if len(self._stores) == 1:
            return Finding("there is SQL only", "note")
        if not self._mirrors:
            return Finding("none, for VEDSESS_MIRROR is off", "note")
        await self._work_after_response()
        primary, secondary = [await self._stored(store) for store in self._stores]
        if primary is None or secondary is None or primary.values != secondary.values:
            raise StepFailed("SQL has no equal copy of the session", "see the steps above, and the log of the database")
        return Finding("equal")

    async def _end(self) -> Finding:
        session = await self._manager.open(self._cookie)
        session.logout()
        await self._manager.commit(session, _INFO)
        if not (await self._manager.open(self._cookie)).is_new:
            raise StepFailed("the session is still there after its logout")
        for store in self._stores:
            record = await self._stored(store)
            if record is not None and not record.gone:
                raise StepFailed(f"{store.name} still has the session after its logout", self._said())
        return Finding(" and ".join(store.name for store in self._stores))

    async def _indexes(self) -> Finding:
        await self._work_after_response()
        left = bool(await self._manager.sessions(self._user))
        if self._wire is not None:
            prefix = self._settings.key_prefix
            # Only commands that the store sends as well: a Redis user need not have others.
            left |= bool(await self._wire.execute("ZREM", f"{prefix}session_index:all", self._key))
            left |= bool(await self._wire.execute("EXISTS", f"{prefix}user_sessions:{self._user}"))
        if left:
            raise StepFailed("an index still names the session after its logout", "`vedsess cleanup` removes it")
        await self._remove_tombstone()
        return Finding("the session is in none")

    async def _commit(self, session: Session) -> None:
        cookie = await self._manager.commit(session, _INFO)
        self._cookie = cookie.partition(";")[0] if cookie else self._cookie

    async def _work_after_response(self) -> None:
        for _ in range(_MOST_ROUNDS):
            if self._manager.pending:
                await self._manager.after_response()

    async def _stored(self, store: Store) -> Record | None:
        return await settle(store.load(self._key, at=time.time(), refresh=_NEVER))

    async def _remove_tombstone(self) -> None:
        """In Redis it ends by itself."""
        sql = self._stores[-1]
        record = await self._stored(sql)
        if isinstance(sql, SQLStore) and record is not None and record.gone:
            await sql.forget(self._key, record.version)

    def _seen(self, session: Session, value: str) -> Finding:
        if session.get("probe") != value or session.user_id != self._user:
            raise StepFailed("the session came back without what was written", self._said())
        expected = self._stores[0].name
        if session.store != expected:
            raise StepFailed(f"served by {session.store} instead of {expected}", self._said())
        return Finding(f"served by {session.store}")

    def _said(self) -> str:
        """What the stores said last of their troubles, with its mend."""
        reasons = [event.reason for event in self._events if isinstance(event, StoreRefused | StoreDegraded)]
        explained = [explain_words(reason, self._settings) for reason in reversed(reasons)]
        return next(filter(None, [*explained, *reasons]), "")
