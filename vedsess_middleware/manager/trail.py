"""From an id that was changed to the session that went on under another one."""

import math

from vedsess_middleware.concurrency import settle
from vedsess_middleware.events import OldIdUsed, SessionEnded, UnknownSession
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.stores.record import Record

__all__ = ["Trail"]

_LONGEST = 32


class Trail:
    """Follows tombstones that name a successor.

    Right after a change of id, requests with the old one are under way: they go on.  A later use is that of a copy,
    or of a browser that never got its new cookie: nobody gets in, and it is told.

    Args:
        parts: of the manager.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def entered(self, key: str, tombstone: Record, *, at: float) -> tuple[str, Record] | None:
        """The session of a request that comes with the old id, and its key; None: it gets none."""
        settings = self._parts.settings
        if not tombstone.successor:
            return None
        if abs(at - tombstone.updated_at) <= settings.rotation_grace:  # by a clock that is far behind, nobody gets in
            found = await self.followed(tombstone, at=at)
            if found is None:
                self._parts.on_event(UnknownSession(session=key[:8]))
            return found
        ended = settings.old_id_policy == "end" and await self._end(tombstone, at=at)
        successor, _ = tombstone.goes_on
        self._parts.on_event(OldIdUsed(session=key[:8], successor=successor[:8], ended=ended))
        return None

    async def followed(self, tombstone: Record, *, at: float) -> tuple[str, Record] | None:
        """The session that lives at the end of the trail; None: it is over, or whoever had the old id is out."""
        for _ in range(_LONGEST):
            key, sealed = tombstone.goes_on
            if sealed or not key:
                return None
            record = await settle(self._parts.store.load(key, at=at, refresh=math.inf))
            if record is None or not record.gone:
                return (key, record) if record and at < min(record.expires_at, record.deadline_at) else None
            tombstone = record
        return None

    async def _end(self, tombstone: Record, *, at: float) -> bool:
        """End the session that went on: either the thief has it now, or its owner does, and neither can be told."""
        parts, found = self._parts, await self.followed(tombstone, at=at)
        if found is None:
            return False
        key, record = found
        await settle(parts.store.end([key], at=at, until=at + record.idle_timeout))
        parts.on_event(SessionEnded(session=key[:8], reason="replay", user_id=record.user_id))
        return True
