"""What rides after a response: copies, probes, polls, and bringing the primary up to date.  No thread and no task."""

import math
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from vedsess_middleware.errors import CorruptRecord, EpochMissing, StoreUnavailable
from vedsess_middleware.events import CopyPickedUp, RecordDrained, StoreRecovered, StoreRefenced
from vedsess_middleware.stores.contract import Primary
from vedsess_middleware.stores.failover.copies import Copy
from vedsess_middleware.stores.failover.copying import Copier
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.failover.trust import Missing
from vedsess_middleware.stores.record import Record

__all__ = ["Upkeep"]

_AT_ONCE = 16
_FENCE_EVERY = 0.1
# One response at a time looks after the stores.  One that was cut short must not keep the others from it for ever.
_CLAIM_LASTS = 10.0


class Upkeep:
    """The work that must not delay an answer.  What fails stays for a later response.

    Args:
        pair: the two stores.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair, self._copier = pair, Copier(pair)
        self._lock, self._claim = threading.Lock(), object()
        self._claimed_until = self._fence_at = self._look_at = -math.inf
        self._listed: dict[str, int] = {}

    @property
    def due(self) -> bool:
        """Whether there is something to do."""
        pair = self._pair
        stores = pair.primary.pending or pair.secondary.pending or pair.first.probe_due
        waiting = len(pair.copies) or pair.missed or pair.buried or pair.cut_offs.pending
        return bool(waiting or stores) or (pair.first.breaker.closed and self._looks)

    @property
    def owed(self) -> int:
        """How many copies the primary listed when it was asked last, those of other processes too."""
        return len(self._listed)

    @property
    def settled(self) -> bool:
        """Whether both stores serve, and neither owes the other anything."""
        pair = self._pair
        serve = pair.first.breaker.closed and pair.second.breaker.closed
        if not serve or len(pair.copies) or pair.missed or pair.dirty:
            return False
        return pair.trust.held and not self._listed if pair.mirrors else not pair.draining

    @property
    def _looks(self) -> bool:
        pair = self._pair
        if not pair.mirrors:
            return pair.draining
        if pair.trust.missing is not None:
            return pair.clock() >= self._fence_at
        return bool(pair.dirty) or pair.trust.poll_due

    async def run(self) -> None:
        """Do what is due."""
        pair = self._pair
        if pair.first.probe_due:
            pair.draining = await pair.first.probe(pair.primary.probe) or pair.draining
        for work in (self._copier.run, self._clear, self._bury, self._look_after, self._fill, self._note_uses):
            with suppress(StoreUnavailable, CorruptRecord):
                await work()

    async def copy(self, key: str, copy: Copy) -> Record:
        """Give the secondary its copy, and return what it holds then."""
        return await self._copier.copy(key, copy)

    async def _clear(self) -> None:
        """The primary has these tombstones too: nothing is owed any more.  What fails is found by a poll."""
        pair = self._pair
        taken, pair.buried = pair.buried, {}
        buried = list(taken.items())  # another thread may be about to add one, which a poll finds
        for epoch in {under for _, under in buried}:
            keys = [key for key, under in buried if under == epoch]
            await pair.second.ask(partial(pair.secondary.buried, keys, epoch=epoch))

    async def _bury(self) -> None:
        """End for good what turned out to be cut off.  What fails is met again."""
        pair, tombstones = self._pair, self._pair.cut_offs.taken()
        if tombstones:
            await pair.second.ask(partial(pair.secondary.owe, tombstones))

    async def _fill(self) -> None:
        for key in list(self._pair.missed)[:_AT_ONCE]:
            with _sparing_others():  # then it lives on in the secondary
                await self.fill(key)

    async def fill(self, key: str) -> Record | None:
        """Put what the primary lacked back into it, and return what it holds then; None: somebody was quicker."""
        pair = self._pair
        missed = pair.missed.pop(key, None)
        if missed is None:
            return None
        if not pair.mirrors:
            return await pair.ask(missed.view, partial(pair.primary.merge, key, missed.row))
        # Each copy counts from a number of its own: two that were filled from one row would give out one stamp twice.
        claimed = await pair.second.ask(partial(pair.secondary.claim, key, missed.row.version))
        if claimed is None:
            return None
        row = missed.row.replace(version=claimed)
        copy = await pair.ask(missed.view, partial(missed.view.fill, key, row, lease=missed.lease))
        if copy is not None and not row.contains(copy):
            pair.copies.add(key, copy, 0)
        return copy

    async def _note_uses(self) -> None:
        pair = self._pair
        if pair.secondary.pending:
            await pair.second.ask(pair.secondary.after_response)
        if pair.primary.pending:
            view = await pair.trusted()
            if view is not None:
                await pair.ask(view, view.after_response)

    # -- what is the same for every session ------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Renew trust, mend the fence, drain, pick up: one response at a time."""
        pair, now, claim = self._pair, self._pair.clock(), object()
        with self._lock:
            if now < self._claimed_until or not (pair.first.breaker.closed and self._looks):
                return
            self._claim, self._claimed_until = claim, now + _CLAIM_LASTS
        try:
            await (self._renew() if pair.mirrors else self._move_back())
        finally:
            with self._lock:
                if self._claim is claim:
                    self._claimed_until = -math.inf

    async def _renew(self) -> None:
        trust = self._pair.trust
        if trust.missing is not None:
            await self._mend(trust.missing)
        elif trust.poll_due:
            await self._pair.poll()
        if trust.missing is None:
            if await self._drain():
                await self._pair.poll()  # what has been drained may be served again
            await self._pick_up()

    async def _move_back(self) -> None:
        """With `mirror="off"`: give the primary what it missed.  What fails is looked for again, and what comes."""
        pair, done = self._pair, False
        pair.draining = False
        try:
            await pair.poll()
            await self._drain()
            done = not pair.dirty
        finally:
            pair.draining = pair.draining or not done

    async def _mend(self, missing: Missing) -> None:
        """The primary does not know our epoch.  Agree on a new one, and let copies count again when it is installed."""
        pair, trust = self._pair, self._pair.trust
        self._fence_at = pair.clock() + _FENCE_EVERY
        if len(pair.copies):  # first what this process owes: a row without it would be taken for all there is
            return
        mine = trust.installing(missing)
        if missing.mine and not mine:
            return
        if mine:
            await pair.first.ask(pair.under(mine).install)
        begun = trust.begin_poll()
        news = await pair.news()
        if not news.epoch:  # the secondary has lost it: begin anew
            trust.mended()
            await pair.poll()
            return
        if trust.missing is None or news.epoch != trust.missing.epoch:
            trust.renamed(news.epoch)
        try:
            await pair.first.ask(pair.under(news.epoch).ping)
        except EpochMissing:
            if trust.missing is not None and trust.may_bump(trust.missing):
                await self._bump(trust.missing)
            return
        trust.mended()
        pair.take(begun, news)
        pair.on_event(StoreRecovered(store=pair.primary.name))

    async def _bump(self, missing: Missing) -> None:
        pair, epoch = self._pair, await self._pair.new_epoch()
        if await pair.second.ask(partial(pair.secondary.set_epoch, epoch, missing=missing.epoch)):
            pair.trust.bumped(missing, epoch)
            pair.on_event(StoreRefenced(store=pair.primary.name))

    async def _drain(self) -> bool:
        """Bring to the primary what was written while it could not be asked, by this process or another."""
        pair = self._pair
        known = list(pair.dirty)
        # A different choice in every process, so that they share the work, and nothing waits behind what fails.
        keys = random.sample(known, min(len(known), _AT_ONCE))
        if keys:
            await self.drain(keys)
        return bool(keys)

    async def drain(self, keys: Sequence[str]) -> None:
        """Bring these to the primary, where they are owed to it."""
        pair = self._pair
        owed = await pair.second.ask(partial(pair.secondary.owed, keys))
        for key in keys:
            pair.dirty.discard(key)  # the next poll names it again if it stays owed
            with _sparing_others():
                if key in owed:
                    await (self._pay if pair.mirrors else self._move)(key, owed[key])

    async def _pay(self, key: str, row: Record) -> None:
        pair, epoch = self._pair, self._pair.trust.epoch
        view = pair.under(epoch)
        copy = await pair.ask(view, partial(view.fill, key, row))
        # Only under the epoch that was asked: under a later one, another primary may hold an old copy.
        paying = partial(pair.secondary.paid, key, row.version, record=copy or row, epoch=epoch)
        await pair.second.ask(paying)
        pair.on_event(RecordDrained(session=key[:8]))

    async def _move(self, key: str, row: Record) -> None:
        pair = self._pair
        await pair.ask(pair.primary, partial(pair.primary.merge, key, row))
        if row.gone:
            await pair.second.ask(partial(pair.secondary.paid, key, row.version, record=row, epoch=""))
        else:
            await pair.second.ask(partial(pair.secondary.forget, key, row.version))
        pair.on_event(RecordDrained(session=key[:8]))

    async def _pick_up(self) -> None:
        """Copy what another process owes, and does not get to: it is on the list for the second poll in a row."""
        pair = self._pair
        if not pair.trust.held or pair.clock() < self._look_at:
            return
        self._look_at = pair.clock() + 1.0
        view = pair.under(pair.trust.epoch)
        known, listed = self._listed, await pair.ask(view, partial(view.unconfirmed, limit=_AT_ONCE))
        self._listed = listed
        for key, due in listed.items():
            if known.get(key) == due and pair.copies.get(key) is None:
                with _sparing_others():
                    await self._pick_one_up(view, key, due)

    async def _pick_one_up(self, view: Primary, key: str, due: int) -> None:
        pair, copy = self._pair, None
        with suppress(CorruptRecord):
            copy = await pair.ask(view, partial(view.peek, key))
        if copy is None:
            pair.primary.confirm(key, due)
            return
        await self.copy(key, Copy(copy, due))
        pair.on_event(CopyPickedUp(session=key[:8]))


@contextmanager
def _sparing_others() -> Iterator[None]:
    """What is wrong with one record must not keep the others waiting."""
    try:
        yield
    except CorruptRecord:
        pass
    except StoreUnavailable as error:
        if not error.one_key:
            raise
