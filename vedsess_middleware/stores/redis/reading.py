"""Reading a record: first without a trace, then by the script, which leaves a lease where nothing is."""

import secrets
from typing import Any

from vedsess_middleware.stores.contract import Found
from vedsess_middleware.stores.record import Record, Version
from vedsess_middleware.stores.redis.hashes import from_hash, pairs
from vedsess_middleware.stores.redis.indexes import Later
from vedsess_middleware.stores.redis.view import View
from vedsess_middleware.stores.redis.wire import Call, Command

__all__ = ["Reader"]


class Reader:
    """Reads records under an epoch.

    Args:
        view: where.
        later: is told of uses that are to be recorded.
        owing: name of the list of owed copies.
        name: of the store, as a record that it served has it.
    """

    def __init__(self, view: View, later: Later, *, owing: str, name: str) -> None:
        self._view, self._later, self._owing, self._name = view, later, owing, name

    async def load(self, key: str, at: float, refresh: float, token: Version) -> Record | None:
        """Return the record, a tombstone, or None where there is nothing that may be served."""
        *_, reply = await self._view.wire.exchange(*self._looking(key))
        found = self._seen(key, reply, at, refresh, token)
        return found.record if found else None

    async def find(self, key: str, at: float, refresh: float, token: Version, denied: bool) -> Found:
        """Return what is there, and whether it may be served; `denied`: only a tombstone may."""
        if not denied:
            *_, reply = await self._view.wire.exchange(*self._looking(key))
            found = self._seen(key, reply, at, refresh, token)
            if found is not None:
                return found
        return await self._find(key, at, refresh, token, denied)

    async def peek(self, key: str) -> Record | None:
        """Return what is there, of any epoch."""
        [raw] = await self._view.wire.exchange(("HGETALL", self._view.session + key))
        return from_hash(key, pairs(raw))

    def _looking(self, key: str) -> list[Command]:
        """Look without a trace.

        Whether the process knows the epoch is asked on the same connection, just before: what answers then is the same
        process.  So what is read needs no script, and costs Redis a tenth of one.
        """
        view, name = self._view, self._view.session + key
        return [Call(view.script, [name]), ("HGETALL", name)] if view.epoch else [("HGETALL", name)]

    def _seen(self, key: str, reply: Any, at: float, refresh: float, token: Version) -> Found | None:
        """What was found; None: it may not be served, and under an epoch that asks for a lease."""
        raw, epoch = pairs(reply), self._view.epoch
        if epoch and b"gone" not in raw and raw.get(b"epoch") != epoch.encode():
            return None
        record = from_hash(key, raw, served_by=self._name)
        if record is None or record.gone:
            return Found(record=record)
        covered = record.version.covers(token)
        if record.expires_at > at and covered:
            return Found(record=self._later.note_use(key, record, at=at, refresh=refresh), hit=True)
        if epoch:
            return None
        if record.expires_at <= at:
            return Found()
        return Found(record=self._later.note_use(key, record.replace(stale=True), at=at, refresh=refresh))

    async def _find(self, key: str, at: float, refresh: float, token: Version, denied: bool) -> Found:
        """Look, and leave a lease where nothing is."""
        lease = secrets.token_hex(4)
        asking = self._view.call("load", key, str(token), int(denied), lease), ("ZSCORE", self._owing, key)
        (outcome, reply), score = await self._view.wire.exchange(*asking)
        record, due = from_hash(key, pairs(reply), served_by=self._name), score is not None
        if record is not None and record.gone:
            return Found(record=record)
        if record is None or record.expires_at <= at:
            return Found(lease=lease, due=due)
        record = record.replace(stale=not record.version.covers(token))
        if outcome != b"hit":
            return Found(record=record, lease=lease, due=due)
        return Found(record=self._later.note_use(key, record, at=at, refresh=refresh), hit=True)
