"""Reading a session from two stores: from the primary while it is trusted, and otherwise all that can be known."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from vedsess_middleware.concurrency import settle
from vedsess_middleware.errors import CorruptRecord, EpochMissing, StoreUnavailable
from vedsess_middleware.events import WritesLost
from vedsess_middleware.stores.contract import Found, Primary
from vedsess_middleware.stores.failover.pair import Missed, Pair
from vedsess_middleware.stores.record import Record, Version, merge

__all__ = ["Reader", "Wanted", "both"]

# A browser that has just been answered may be ahead of the secondary by a copy that is under way.
_FRESH = 5.0
_WAITS = (0.01, 0.02, 0.04, 0.08, 0.15, 0.2, 0.25, 0.25)


class Wanted(NamedTuple):
    """What a request asks for, in the words of `Store.load`."""

    key: str
    at: float
    refresh: float
    token: Version
    token_at: float

    @property
    def fresh(self) -> bool:
        """Whether the browser was answered so lately that a copy may be under way."""
        return self.at - self.token_at < _FRESH

    def is_in(self, record: Record | None) -> bool:
        """Whether a record holds all that the browser has seen; of a session that is over there is no more to know."""
        return record is not None and (record.gone or record.expires_at <= self.at or record.version.covers(self.token))


class Reader:
    """Loads records from two stores.

    Args:
        pair: the two stores.
        hidden: what stands for a session that only the primary can know, while it is away.
    """

    def __init__(self, pair: Pair, *, hidden: Callable[[float], Record]) -> None:
        self._pair, self._hidden = pair, hidden

    async def load(self, wanted: Wanted) -> Record | None:
        """Return the record, as `Store.load` does."""
        pair = self._pair
        view, found = await self._found(wanted)
        copy = found.record if found else None
        if copy is not None and found is not None and (found.hit or copy.gone):
            if pair.cut_offs.over(copy):
                return pair.cut_offs.end(wanted.key, copy, wanted.at)
            if copy.last_activity == wanted.at and pair.mirrors:
                pair.secondary.note_use(wanted.key, copy)
            return copy
        return await self._brought_together(wanted, view, found)

    async def _brought_together(self, wanted: Wanted, view: Primary | None, found: Found | None) -> Record | None:
        """What all can say who know of it."""
        pair, copy = self._pair, found.record if found else None
        waiting = pair.copies.get(wanted.key)  # looked up first: a copy that ends now is in the row
        row = await self._row(wanted, copy)
        if not wanted.is_in(both(row, waiting)):
            row = await self._awaited(wanted, row, copy)
        record = both(row, waiting)
        if record is None:
            return None if found is not None or pair.mirrors else self._hidden(wanted.at)
        if record.gone:
            return record
        if record.expires_at <= wanted.at:
            return None
        if pair.cut_offs.over(record):
            return pair.cut_offs.end(wanted.key, record, wanted.at)
        if view is not None and found is not None and row is not None and not (pair.mirrors and row.dirty):
            pair.missed[wanted.key] = Missed(row, found.lease, view)
        stale = not record.version.covers(wanted.token)
        return record.replace(served_by=pair.secondary.name, stale=stale)

    async def _found(self, wanted: Wanted) -> tuple[Primary | None, Found | None]:
        """The primary, if it lacks what is to be read and may be filled; and what it holds, None: it does not say."""
        pair, key = self._pair, wanted.key
        view = pair.at_hand or await pair.trusted()
        if view is None:
            return None, await self._peeked(key)
        denied = pair.denies(key)
        finding = partial(view.find, key, at=wanted.at, refresh=wanted.refresh, token=wanted.token, denied=denied)
        try:
            found = await pair.ask(view, finding)
            if found.hit or (found.record is not None and found.record.gone) or not pair.mirrors:
                return view, found
            # A row without a write that is under way must not be filled in: asked before the row is read.
            return (None if denied or found.due else view), found
        except CorruptRecord:
            return view, Found()  # as good as lost: the row takes its place
        except EpochMissing:
            return None, await self._peeked(key)
        except StoreUnavailable:
            return None, None

    async def _row(self, wanted: Wanted, copy: Record | None) -> Record | None:
        """The row, which has absorbed what a copy knows beyond it."""
        pair, key = self._pair, wanted.key
        try:
            row = await pair.second.ask(partial(pair.secondary.peek, key))
        except StoreUnavailable:
            if copy is None or pair.mirrors:
                raise
            row = None
        if copy is not None and (row is None or not row.contains(copy) or copy.expires_at > row.expires_at):
            if not pair.mirrors:
                return both(row, copy)
            try:
                row = await pair.second.ask(partial(pair.secondary.mirror, key, copy))
            except StoreUnavailable:
                return both(row, copy)  # it stays where it is, for the next one
            pair.note(key, row)
        if row is not None and not row.gone and row.last_activity + wanted.refresh < wanted.at < row.expires_at:
            row = row.used(wanted.at)
            pair.secondary.note_use(key, row)
        return row

    async def _awaited(self, wanted: Wanted, row: Record | None, copy: Record | None) -> Record | None:
        """The row when it has caught up with what the browser has seen: somebody's copy is under way."""
        pair = self._pair
        if not pair.mirrors:
            return row
        for seconds in _WAITS if wanted.fresh else ():
            if wanted.is_in(row):
                return row
            await settle(pair.wait(seconds))
            row = await self._row(wanted, copy)
        if not wanted.is_in(row) and (row is not None or wanted.fresh):
            pair.on_event(WritesLost(session=wanted.key[:8]))
        return row

    async def _peeked(self, key: str) -> Found | None:
        """What a primary holds that is not trusted: a logout that the secondary has yet to hear of, or all that is left
        of a process that died.

        What is merged may be of any age, so nothing is risked by looking.
        """
        pair = self._pair
        if not (pair.mirrors and pair.first.breaker.closed):
            return None
        try:
            return Found(record=await pair.ask(pair.primary, partial(pair.primary.peek, key)))
        except (StoreUnavailable, CorruptRecord):
            return None


def both(x: Record | None, y: Record | None) -> Record | None:
    """What two replicas hold together, or the one that there is."""
    return merge(x, y) if x and y else x or y
