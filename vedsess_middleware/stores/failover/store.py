"""The store contract on two stores.

Whatever either store holds is brought together by merging, so a request never needs to know what happened before it.
The rules are those of docs/protocol.md: load is in `reading`; commit, replace and end are here; mirror, fill, drain,
refence and pick up ride after a response, in `upkeep`.
"""

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from vedsess_middleware.breaker import State
from vedsess_middleware.concurrency import Wait, settle, waiting
from vedsess_middleware.errors import ConfigurationError, CorruptRecord, StoreUnavailable
from vedsess_middleware.events import EventHook, log_event
from vedsess_middleware.stores.circuit import Circuit
from vedsess_middleware.stores.contract import Primary, Secondary, Stats, Store, Written
from vedsess_middleware.stores.failover.pair import Mirror, Pair
from vedsess_middleware.stores.failover.reading import Reader, Wanted, both
from vedsess_middleware.stores.failover.trust import TRUST_LASTS
from vedsess_middleware.stores.failover.upkeep import Upkeep
from vedsess_middleware.stores.record import Delta, Record, Version, merge

__all__ = ["FailoverStore", "Health"]

_FIRST = Version(0, 1)
_DEGRADED = Version(1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How two stores do, as one process sees it.

    Attributes:
        serving: name of the store that a request would be served from.
        primary: state of its circuit breaker.
        secondary: the same.
        refencing: the primary was restarted, or is another one: its copies do not count until that is mended.
        copies: records that this process owes the secondary.
        dirty: records that the primary is to be told of, as far as this process knows.
        owed: copies that some process owed the secondary, when the primary was asked last.
        settled: both serve, and neither owes the other anything.
    """

    serving: str
    primary: State
    secondary: State
    refencing: bool
    copies: int
    dirty: int
    owed: int
    settled: bool


class FailoverStore:
    """Keeps the store contract on two stores.

    Args:
        primary: asked first.
        secondary: takes over, and gets a copy of what the primary takes.
        mirror: when it gets that copy; `off`: never, it only holds what was written while the primary was away.
        idle_timeout: of a session that nobody can look up now, in seconds.
        absolute_timeout: the same.
        clock: monotonic seconds.
        wait: waits for seconds; by default as the colour of the stores has it.
        on_event: told of every change between the stores.

    Raises:
        ConfigurationError: one store blocks and the other needs an event loop.
    """

    name = "failover"

    def __init__(
        self,
        primary: Primary,
        secondary: Secondary,
        *,
        mirror: Mirror = "after-response",
        idle_timeout: float = 86400.0,
        absolute_timeout: float = 604800.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait | None = None,
        on_event: EventHook = log_event,
    ) -> None:
        colours = {primary.is_async, secondary.is_async} - {None}
        if len(colours) > 1:
            raise ConfigurationError("primary and secondary are of two colours: make both blocking or both asyncio")
        self.primary, self.secondary = primary, secondary
        self.is_async = colours.pop() if colours else None
        self._idle_timeout, self._absolute_timeout = idle_timeout, absolute_timeout
        wait = wait or waiting(is_async=self.is_async)
        self._pair = Pair(primary, secondary, mirror=mirror, clock=clock, wait=wait, on_event=on_event)
        self._reader, self._upkeep = Reader(self._pair, hidden=self._hidden), Upkeep(self._pair)

    def __repr__(self) -> str:
        return f"<FailoverStore {self.primary!r}, then {self.secondary!r}>"

    @property
    def serving(self) -> str:
        """Name of the store that a request would be served from now."""
        pair = self._pair
        trusted = pair.first.breaker.closed and pair.trust.missing is None
        return self.primary.name if trusted else self.secondary.name

    @property
    def pending(self) -> bool:
        return self._upkeep.due

    @property
    def health(self) -> Health:
        """How the two stores do, as this process sees it.  Asks neither."""
        pair, trust = self._pair, self._pair.trust
        return Health(
            serving=self.serving,
            primary=pair.first.breaker.state,
            secondary=pair.second.breaker.state,
            refencing=trust.missing is not None,
            copies=len(pair.copies),
            dirty=len(pair.dirty),
            owed=self._upkeep.owed,
            settled=self._upkeep.settled,
        )

    # -- load ------------------------------------------------------------------------------------------------------

    def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Coroutine[Any, Any, Record | None]:
        return self._reader.load(Wanted(key, at, refresh, token, token_at))

    def _hidden(self, at: float) -> Record:
        """A session that only the primary can know: empty until it is back, then merged with what it holds."""
        deadline_at = at + self._absolute_timeout
        record = Record.new(at=at, idle_timeout=self._idle_timeout, deadline_at=deadline_at)
        return record.replace(served_by=self.secondary.name)

    # -- write -----------------------------------------------------------------------------------------------------

    async def create(self, key: str, record: Record) -> Version:
        pair, first = self._pair, record.born(_FIRST)
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
            version = (await self._mirrored(key, first, due)).version
        return version

    async def _born_degraded(self, key: str, record: Record, *, copied: bool, tried: bool) -> Version:
        if copied:
            return _FIRST
        born = record.born(_DEGRADED)
        if tried or not self._pair.mirrors:
            await self._owe({key: born})
        else:  # of what the primary was never told it holds nothing older
            await self._pair.second.ask(partial(self.secondary.create, key, born))
        return born.version

    async def update(self, key: str, delta: Delta) -> Written | None:
        pair = self._pair
        delta, written = await self._commit(key, delta)
        if written is not None:
            return written
        carried = delta.replace(loaded=both(delta.loaded, pair.copies.get(key)))
        taken = await pair.second.ask(partial(self.secondary.take_over, key, carried))
        if taken is not None and not taken.gone:
            self._past(key)
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
        if written is None or written.gone or written.record is None or not pair.mirrors:
            return delta, written
        row = await self._mirrored(key, written.record, due, before=delta.loaded)
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

    async def replace(
        self, old_key: str, new_key: str, record: Record, *, at: float, until: float, even_if_gone: bool = False
    ) -> Version | None:
        pair, record = self._pair, record.born(_FIRST)
        copied = False
        if pair.mirrors:
            moving = partial(self.secondary.replace, old_key, new_key, record, at=at, until=until, dirty=True)
            try:
                if await pair.second.ask(partial(moving, even_if_gone=even_if_gone)) is None:
                    return None
                copied = True
            except StoreUnavailable:
                pass
        due, tombstone = 0 if copied else pair.due(at), Record.tombstone(version=_FIRST, at=at, until=until)
        view = pair.at_hand or await pair.trusted()
        version, told = None, False
        if view is not None:
            moving = partial(view.replace, old_key, new_key, record, at=at, until=until, due=due)
            with suppress(StoreUnavailable):
                version = await pair.ask(view, partial(moving, even_if_gone=even_if_gone))
                told = True
        if view is None or not told:
            if copied:
                self._past(old_key)
            else:
                await self._owe({new_key: record, old_key: tombstone})
            return record.version
        if copied:
            pair.buried[old_key] = view.epoch
            if version is None:  # the secondary had not heard of the logout yet
                await pair.second.ask(partial(self.secondary.end, [new_key], at=at, until=until))
        elif version is not None and pair.mirrors:
            await self._mirrored(new_key, record, due)
            await self._mirrored(old_key, tombstone, due)
        return version

    async def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> list[str]:
        pair, ended, committed = self._pair, list(keys), False
        if pair.mirrors or user_id is not None:
            ending = partial(self.secondary.end, keys, user_id=user_id, keep=keep, at=at, until=until)
            with suppress(StoreUnavailable):
                ended = await pair.second.ask(partial(ending, dirty=pair.mirrors))
                committed = True
        committed_at, due = pair.clock(), 0 if committed else pair.due(at)
        view, everywhere = pair.at_hand or await pair.trusted(), None
        if view is not None:
            ending = partial(view.end, ended, user_id=user_id, keep=keep, at=at, until=until, due=due)
            with suppress(StoreUnavailable):
                everywhere = await pair.ask(view, ending)
        if not (committed and pair.mirrors):
            tombstone = Record.tombstone(version=_FIRST, at=at, until=until)
            ended = await self._ended_in_one(ended, everywhere, tombstone, due)
            if user_id is not None and not committed:
                raise StoreUnavailable("sessions that only the secondary knows of could not be ended")
            return ended
        unseen = [key for key in everywhere or () if key not in ended]
        if unseen:  # logins that the secondary has not heard of yet
            await pair.second.ask(partial(self.secondary.end, unseen, at=at, until=until, dirty=True))
            committed_at = pair.clock()
        ended += unseen
        if view is None or everywhere is None or not (pair.trust.held and pair.trust.epoch == view.epoch):
            await self._outlived(committed_at)
            pair.dirty.update(ended)
        else:  # the primary was told under an epoch that is still the one that every process asks for
            pair.buried.update(dict.fromkeys(ended, view.epoch))
        return ended

    async def _ended_in_one(
        self, ended: list[str], everywhere: list[str] | None, tombstone: Record, due: int
    ) -> list[str]:
        """The secondary was not told: because it is away, or keeps no copies."""
        if everywhere is None:
            await self._owe(dict.fromkeys(ended, tombstone))
            return ended
        for key in everywhere:
            await self._mirrored(key, tombstone, due)
        return everywhere

    async def _outlived(self, committed_at: float) -> None:
        """Return when no process can trust an old copy any more: each polls before that, and finds the key dirty."""
        self._pair.trust.distrust()
        left = committed_at + TRUST_LASTS - self._pair.clock()
        if left > 0:
            await settle(self._pair.wait(left))

    async def merge(self, key: str, record: Record) -> Record:
        pair = self._pair
        if not pair.mirrors:
            try:
                return await pair.ask(self.primary, partial(self.primary.merge, key, record))
            except StoreUnavailable:
                await self._owe({key: record})
                return record
        waiting = pair.copies.get(key)
        await self._owe({key: merge(record, waiting) if waiting else record})
        return await pair.second.ask(partial(self.secondary.merge, key, record))

    async def _mirrored(self, key: str, record: Record, due: int, before: Record | None = None) -> Record:
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

    async def _copied(self, key: str, record: Record) -> bool:
        try:
            await self._pair.second.ask(partial(self.secondary.create, key, record))
        except StoreUnavailable:
            return False
        return True

    async def _owe(self, records: Mapping[str, Record]) -> None:
        await self._pair.second.ask(partial(self.secondary.owe, records))
        for key in records:
            self._past(key)

    def _past(self, key: str) -> None:
        """This process wrote past the primary."""
        self._pair.dirty.add(key)
        self._pair.draining = True
        self._pair.trust.distrust()

    # -- the others ------------------------------------------------------------------------------------------------

    async def records_of(self, user_id: str, *, at: float) -> dict[str, Record]:
        pair = self._pair
        rows, copies = await self._tried(pair.second, self.secondary, user_id, at), None
        if pair.first.breaker.closed or rows is None:
            copies = await self._tried(pair.first, self.primary, user_id, at)
        if rows is None and copies is None:
            raise StoreUnavailable("no store can say which sessions a user has")
        found = dict(rows or {})
        for key, copy in (copies or {}).items():
            row = rows.get(key) if rows is not None else None
            if rows is not None and row is None:  # ended there, or not there yet
                with suppress(CorruptRecord):
                    row = await pair.second.ask(partial(self.secondary.peek, key))
            found[key] = merge(row, copy) if row else copy
        for key in found:
            found[key] = merge(found[key], pair.copies.get(key) or found[key])
        return {key: record for key, record in found.items() if not record.gone}

    async def _tried(self, circuit: Circuit, store: Store, user_id: str, at: float) -> dict[str, Record] | None:
        try:
            return await circuit.ask(partial(store.records_of, user_id, at=at))
        except StoreUnavailable:
            return None

    async def stats(self, *, at: float) -> Stats:
        try:
            return await self._pair.first.ask(partial(self.primary.stats, at=at))
        except StoreUnavailable:
            return await self._pair.second.ask(partial(self.secondary.stats, at=at))

    async def cleanup(self, *, at: float) -> int:
        removed = await self._pair.second.ask(partial(self.secondary.cleanup, at=at))
        return removed + await self._pair.first.ask(partial(self.primary.cleanup, at=at))

    async def after_response(self) -> None:
        await self._upkeep.run()

    async def close(self) -> None:
        await settle(self.primary.close())
        await settle(self.secondary.close())
