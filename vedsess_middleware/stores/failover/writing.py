"""Writing a session to two stores: to the primary while it is trusted, and otherwise past it."""

from collections.abc import Mapping
from functools import partial

from vedsess_middleware.errors import CorruptRecord, StoreUnavailable
from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.failover.reading import both
from vedsess_middleware.stores.failover.upkeep import Upkeep
from vedsess_middleware.stores.record import Delta, Record, Version, merge

__all__ = ["FIRST", "Writer"]

FIRST = Version(0, 1)
"""Of a session that is born in the primary, and of its end."""

_DEGRADED = Version(1, 0)


class Writer:
    """Writes records to two stores.

    Args:
        pair: the two stores.
        upkeep: copies and fills.
    """

    def __init__(self, pair: Pair, upkeep: Upkeep) -> None:
        self._pair, self._upkeep = pair, upkeep

    async def create(self, key: str, record: Record) -> Version:
        """Store a first record, as `Store.create` does."""
        pair, first = self._pair, record.born(FIRST)
        # A login reaches SQL before it is answered; anything else is copied there later.
        copied = pair.mirrors and record.user_id is not None and await self._copied(key, first)
        due = 0 if copied else pair.due(record.created_at)
        view = pair.at_hand or await pair.trusted()
        if view is None:
            return await self._born_degraded(key, record, copied=copied, tried=False)
        try:
            version = await pair.ask(view, partial(view.create, key, first, due=due))
        except StoreUnavailable:
            return await self._born_degraded(key, record, copied=copied, tried=True)
        if not copied:
            version = (await self.mirrored(key, first, due)).version
        return version

    async def _born_degraded(self, key: str, record: Record, *, copied: bool, tried: bool) -> Version:
        if copied:
            return FIRST
        born = record.born(_DEGRADED)
        if tried or not self._pair.mirrors:
            await self.owe({key: born})
        else:  # of what the primary was never told it holds nothing older
            await self._pair.second.ask(partial(self._pair.secondary.create, key, born))
        return born.version

    async def _copied(self, key: str, record: Record) -> bool:
        try:
            await self._pair.second.ask(partial(self._pair.secondary.create, key, record))
        except StoreUnavailable:
            return False
        return True

    async def update(self, key: str, delta: Delta) -> Written | None:
        """Write what a request changed, as `Store.update` does."""
        delta, written = await self._commit(key, delta)
        if written is None:
            written = await self._taken_over(key, delta)
        record, cut_offs = written.record if written else None, self._pair.cut_offs
        if record is not None and cut_offs.over(record):  # whoever had read it would know
            return Written(gone=True, version=cut_offs.end(key, record, delta.at).version)
        return written

    async def _taken_over(self, key: str, delta: Delta) -> Written | None:
        """Write to the secondary what the primary did not take."""
        pair = self._pair
        carried = delta.replace(loaded=both(delta.loaded, pair.copies.get(key)))
        taken = await pair.second.ask(partial(pair.secondary.take_over, key, carried))
        if taken is not None and not taken.refused:
            self.past(key)
        return taken

    async def _commit(self, key: str, delta: Delta) -> tuple[Delta, Written | None]:
        """Write to the primary; None: it did not take it.  The delta comes back as far as it could be prepared."""
        pair = self._pair
        view = pair.at_hand or await pair.trusted()
        if view is None:
            return delta, None
        try:
            delta = await self._filled(key, delta)
            due = pair.due(delta.at)
            written = await pair.ask(view, partial(view.update, key, delta.replace(whole=pair.mirrors), due=due))
        except (StoreUnavailable, CorruptRecord):
            return delta, None
        if written is None or written.refused or written.record is None or not pair.mirrors:
            return delta, written
        row = await self.mirrored(key, written.record, due, before=delta.loaded)
        if row.gone:
            return delta, Written(gone=True, version=row.version)
        return delta, Written(version=written.version.join(row.version), record=written.record)

    async def _filled(self, key: str, delta: Delta) -> Delta:
        """What this request missed is put back before it is written to, and the delta counts from there."""
        if key not in self._pair.missed:
            return delta
        copy = await self._upkeep.fill(key)
        if copy is None or copy.gone:
            return delta
        return delta.replace(base=delta.base.join(copy.version), loaded=copy)

    async def merge(self, key: str, record: Record) -> Record:
        """Bring what is stored and this together, as `Store.merge` does."""
        pair = self._pair
        if not pair.mirrors:
            try:
                return await pair.ask(pair.primary, partial(pair.primary.merge, key, record))
            except StoreUnavailable:
                await self.owe({key: record})
                return record
        waiting = pair.copies.get(key)
        await self.owe({key: merge(record, waiting) if waiting else record})
        return await pair.second.ask(partial(pair.secondary.merge, key, record))

    # -- what is owed ----------------------------------------------------------------------------------------------

    async def mirrored(self, key: str, record: Record, due: int, before: Record | None = None) -> Record:
        """Owe the secondary a copy, or give it at once: return what is known to be stored."""
        pair = self._pair
        if not pair.mirrors:
            return record
        copy = pair.copies.add(key, record, due, before)
        if pair.mirror == "before-response":
            try:
                return await self._upkeep.copy(key, copy)
            except StoreUnavailable:
                pass  # then it is copied later
        return record

    async def owe(self, records: Mapping[str, Record]) -> None:
        """Give the secondary what the primary is to be told later."""
        await self._pair.second.ask(partial(self._pair.secondary.owe, records))
        for key in records:
            self.past(key)

    def past(self, key: str) -> None:
        """This process wrote past the primary."""
        self._pair.dirty.add(key)
        self._pair.draining = True
        self._pair.trust.distrust()
