"""The two stores, each behind its circuit, and what this process knows of them."""

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple, TypeVar

from vedsess_middleware.breaker import CircuitBreaker
from vedsess_middleware.concurrency import Maybe, Wait
from vedsess_middleware.errors import EpochMissing, StoreUnavailable
from vedsess_middleware.events import EventHook, StoreRestarted
from vedsess_middleware.stores.circuit import Circuit
from vedsess_middleware.stores.contract import News, Primary, Secondary
from vedsess_middleware.stores.failover.copies import Copies, Copy
from vedsess_middleware.stores.failover.cutoffs import CutOffs
from vedsess_middleware.stores.failover.trust import Begun, Trust
from vedsess_middleware.stores.record import Record

__all__ = ["Mirror", "Missed", "Pair"]

T = TypeVar("T")

Mirror = Literal["off", "after-response", "before-response"]


class Missed(NamedTuple):
    """A record that the primary lacked, and the right to fill it in."""

    row: Record
    lease: str
    view: Primary


class Pair:
    """Asks the primary under the epoch, and the secondary.

    Args:
        primary: asked first.
        secondary: takes over.
        mirror: when the secondary gets its copy.
        longest_life: of a session, in seconds.
        clock: monotonic seconds.
        wait: waits.
        on_event: told of every change between the stores.

    Attributes:
        trust: whether the primary may be answered from.
        copies: what the secondary has yet to get.
        cut_offs: users whose sessions are over, whatever else is known of them.
        missed: what the primary has yet to get, by key.
        dirty: keys that are known to be dirty, to be drained.
        buried: epochs under which the primary was told of a tombstone, by key: its mark is to be cleared.
        draining: with `mirror="off"`: the secondary may hold what the primary lacks.  What an earlier process left
            behind is found like what this one leaves.
    """

    def __init__(
        self,
        primary: Primary,
        secondary: Secondary,
        *,
        mirror: Mirror,
        longest_life: float,
        clock: Callable[[], float],
        wait: Wait,
        on_event: EventHook,
    ) -> None:
        self.primary, self.secondary = primary, secondary
        self.mirror, self.clock, self.wait, self.on_event = mirror, clock, wait, on_event
        circuit = partial(Circuit, on_event=on_event, clock=clock)
        self.first = circuit(primary.name, CircuitBreaker(clock), trial=False)
        self.second = circuit(secondary.name, CircuitBreaker(clock), trial=True)
        self.trust, self.copies, self.cut_offs = Trust(clock), Copies(), CutOffs(longest_life)
        self.missed: dict[str, Missed] = {}
        self.dirty: set[str] = set()
        self.buried: dict[str, str] = {}
        self.draining = True
        self._view = primary

    @property
    def mirrors(self) -> bool:
        """Whether the secondary gets copies at all."""
        return self.mirror != "off"

    def due(self, at: float) -> int:
        """A number to list a copy under: when, in microseconds, the last three digits of which are drawn by lot."""
        return int(at * 1000) * 1000 + secrets.randbelow(1000) if self.mirrors else 0

    def under(self, epoch: str) -> Primary:
        """The primary under an epoch."""
        view = self._view
        if view.epoch != epoch:
            view = self._view = self.primary.under(epoch)
        return view

    def denies(self, key: str) -> bool:
        """Whether a copy of this key may be old, whatever it says."""
        return self.mirrors and (key in self.trust.denied or key in self.dirty)

    # -- trust -----------------------------------------------------------------------------------------------------

    @property
    def at_hand(self) -> Primary | None:
        """The primary, where that is known without asking anybody; otherwise `trusted` finds out."""
        if not self.mirrors:
            return self.primary if self.first.breaker.closed else None
        trust = self.trust
        return self.under(trust.epoch) if trust.held and self.first.breaker.closed else None

    async def trusted(self) -> Primary | None:
        """The primary, if this process may answer from it now; otherwise it is not to be asked.

        Trust that has run out is renewed by a poll, here and now.  Where it is the secondary that fails, it is kept.
        """
        if not self.first.breaker.closed:
            return None
        if not self.mirrors:
            return self.primary
        trust = self.trust
        if not trust.held:
            if trust.missing is not None:
                return None
            try:
                alone = not await self._renewed()
            except StoreUnavailable as error:
                # Not for want of a connection of ours, or because of a lock: the others may be writing there.
                alone = error.reason not in ("saturated", "locked")
            if trust.missing is not None or not (trust.held or (alone and await self._remembered())):
                return None
        return self.under(trust.epoch)

    async def _renewed(self) -> bool:
        """Poll, if that is due and the secondary serves; whether it does."""
        if not self.second.breaker.closed:
            return False
        if self.trust.poll_due:
            await self.poll()
        return True

    async def _remembered(self) -> bool:
        """Whether an epoch is known.  A process that starts while the secondary is away has it from the primary."""
        if not self.trust.epoch:
            try:
                epoch = await self.first.ask(self.primary.installed)
            except StoreUnavailable:
                return False
            self.trust.remember(epoch)
        return bool(self.trust.epoch)

    async def poll(self) -> None:
        """Ask the secondary for the epoch and the dirty keys.  The first process of all makes the first epoch."""
        begun = self.trust.begin_poll()
        news = await self.news()
        if self.mirrors and not news.epoch:
            epoch = await self.new_epoch()
            # Nobody ever trusted anything, so there is nobody to wait for; and whoever hears of it finds it installed.
            await self.first.ask(self.under(epoch).install)
            await self.second.ask(partial(self.secondary.set_epoch, epoch, missing=""))
            news = await self.news()
        self.take(begun, news)

    async def news(self) -> News:
        """What a poll says.  Whoever takes it has heard of every cut-off that it counts."""
        news, known = await self.second.ask(self.secondary.poll), self.cut_offs.known
        if self.mirrors and news.cut_offs != known:
            cut_offs = await self.second.ask(partial(self.secondary.cut_offs, after=known))
            self.cut_offs.learn(news.cut_offs, cut_offs)
        return news

    async def new_epoch(self) -> str:
        """An epoch that nobody ever used, for the process that answers now."""
        nonce, process = secrets.token_hex(8), await self.first.ask(self.primary.identity)
        return f"{nonce}.{process}" if process else nonce

    def take(self, begun: Begun, news: News) -> None:
        """Take what a poll says."""
        self.trust.polled(begun, news)
        self.dirty |= news.dirty

    # -- asking ----------------------------------------------------------------------------------------------------

    async def ask(self, view: Primary, call: Callable[[], Maybe[T]]) -> T:
        """Return what the primary answers.  Where it does not, this process trusts it no more.

        Raises:
            StoreUnavailable: it does not answer, or not under this epoch.
        """
        try:
            answer = await self.first.ask(call)
        except EpochMissing:
            if self.trust.miss(view.epoch):
                self.on_event(StoreRestarted(store=self.primary.name))
            raise
        except StoreUnavailable as error:
            if not error.one_key:
                self.trust.distrust()
            raise
        self.trust.answered(view.epoch)
        return answer

    async def copy(self, key: str, copy: Copy) -> Record:
        """Give the secondary its copy, and return what it holds then."""
        row = await self.second.ask(partial(self.secondary.mirror, key, copy.record, before=copy.before))
        self._landed(key, copy, row)
        return row

    async def copy_all(self, batch: Mapping[str, Copy]) -> None:
        """Give the secondary all of these copies, or none."""
        records = {key: copy.record for key, copy in batch.items()}
        rows = await self.second.ask(partial(self.secondary.mirror_all, records))
        for key, copy in batch.items():
            self._landed(key, copy, rows[key])

    def _landed(self, key: str, copy: Copy, row: Record) -> None:
        self.copies.done(key, copy)
        if copy.due:
            self.primary.confirm(key, copy.due)
        self.note(key, row)

    def note(self, key: str, row: Record) -> None:
        """A row that has become dirty: no copy of it may be trusted before it is drained."""
        if row.dirty:
            self.dirty.add(key)
            self.trust.distrust()
