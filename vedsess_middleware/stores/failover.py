"""Two stores as one: the primary while it serves, the secondary when it does not, decided for each request.

Whatever either store holds is brought together by merging, so a request never needs to know what happened before it.
No thread and no task: copies, probes and fills ride after a response, in `after_response`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial, reduce
from typing import Literal

from vedsess_middleware.breaker import CircuitBreaker
from vedsess_middleware.concurrency import Maybe, settle
from vedsess_middleware.errors import ConfigurationError, CorruptRecord, StoreUnavailable
from vedsess_middleware.events import CopyOwed, EventHook, log_event
from vedsess_middleware.stores.circuit import Circuit
from vedsess_middleware.stores.contract import Primary, Secondary, Stats, Store, Written
from vedsess_middleware.stores.record import Delta, Record, Version, merge

__all__ = ["FailoverStore", "Mirror"]

Mirror = Literal["off", "after-response", "before-response"]

_FIRST = Version(0, 1)
_DEGRADED = Version(1, 0)
_MOST_PENDING = 10_000
_AT_ONCE = 16


class FailoverStore:
    """Keeps the store contract on two stores.

    Args:
        primary: asked first.
        secondary: takes over, and gets a copy of what the primary takes.
        mirror: when it gets that copy; `off`: never, it only holds what was written while the primary was away.
        idle_timeout: of a session that nobody can look up now, in seconds.
        absolute_timeout: the same.
        clock: monotonic seconds.
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
        on_event: EventHook = log_event,
    ) -> None:
        colours = {primary.is_async, secondary.is_async} - {None}
        if len(colours) > 1:
            raise ConfigurationError("primary and secondary are of two colours: make both blocking or both asyncio")
        self.primary, self.secondary = primary, secondary
        self.is_async = colours.pop() if colours else None
        self._mirror_mode, self._on_event = mirror, on_event
        self._idle_timeout, self._absolute_timeout = idle_timeout, absolute_timeout
        circuit = partial(Circuit, on_event=on_event, clock=clock)
        self._first = circuit(primary.name, CircuitBreaker(clock), trial=False)
        self._second = circuit(secondary.name, CircuitBreaker(clock), trial=True)
        self._lock = threading.Lock()
        self._pending: dict[str, Record] = {}
        self._copying: dict[str, Record] = {}
        self._fills: dict[str, Record] = {}
        # Rows that an earlier process left behind are found like those of an outage.
        self._draining = True

    def __repr__(self) -> str:
        return f"<FailoverStore {self.primary!r}, then {self.secondary!r}>"

    @property
    def serving(self) -> str:
        """Name of the store that a request would be served from now."""
        return self.primary.name if self._first.breaker.closed else self.secondary.name

    @property
    def pending(self) -> bool:
        due = self._pending or self._fills or self.primary.pending or self.secondary.pending or self._first.probe_due
        return bool(due) or (self._draining and self._first.breaker.closed)

    # -- the contract ----------------------------------------------------------------------------------------------

    async def load(self, key: str, *, at: float, refresh: float, token: Version = Version()) -> Record | None:
        copy, answered = None, True
        try:
            copy = await self._first.ask(lambda: self.primary.load(key, at=at, refresh=refresh, token=token))
        except CorruptRecord:
            copy = None  # as good as lost: the row takes its place
        except StoreUnavailable:
            answered = False
        if copy is not None and (copy.gone or not copy.stale):
            if copy.last_activity == at and self._mirrors:
                self.secondary.note_use(key, copy)
            return copy
        waiting = self._pending.get(key)  # looked up first: a copy that ends now is in the row
        row = await self._second.ask(lambda: self.secondary.load(key, at=at, refresh=refresh, token=token))
        known = [record for record in (copy, row, waiting) if record is not None]
        if not known:
            return None if answered or self._mirrors else self._hidden(at)
        newest = reduce(merge, known)
        if newest.expires_at <= at:
            return None
        if answered:
            self._fills[key] = newest
        if newest.gone:
            return newest
        return replace(newest, served_by=self.secondary.name, stale=not newest.version.covers(token))

    async def create(self, key: str, record: Record) -> Version:
        first = record.born(_FIRST)
        # A login reaches SQL before it is answered; anything else is copied there later.
        copied = self._mirrors and record.user_id is not None and await self._copied(key, first)
        try:
            version = await self._first.ask(lambda: self.primary.create(key, first))
        except StoreUnavailable:
            born = first if copied else record.born(_DEGRADED)
            await self._owe({key: born})
            return born.version
        if not copied:
            await self._mirror_later(key, first)
        return version

    async def update(self, key: str, delta: Delta) -> Written | None:
        answered = False
        try:
            asked = replace(delta, whole=self._mirrors)
            written = await self._first.ask(lambda: self.primary.update(key, asked))
            answered = True
        except (StoreUnavailable, CorruptRecord):
            written = None
        if written is not None:
            if written.record is not None and not written.gone:
                await self._mirror_later(key, written.record)
            return written
        known = [record for record in (delta.loaded, self._pending.get(key)) if record is not None]
        carried = replace(delta, loaded=reduce(merge, known) if known else None)
        taken = await self._second.ask(lambda: self.secondary.take_over(key, carried))
        self._draining = True
        if answered and taken is not None and taken.record is not None:
            self._fills[key] = taken.record
        return taken

    async def replace(
        self, old_key: str, new_key: str, record: Record, *, at: float, until: float, even_if_gone: bool = False
    ) -> Version | None:
        record = record.born(_FIRST)
        tombstone = Record.tombstone(version=_FIRST, at=at, until=until)

        def move(store: Store, anyway: bool) -> Callable[[], Maybe[Version | None]]:
            return lambda: store.replace(old_key, new_key, record, at=at, until=until, even_if_gone=anyway)

        copied = False
        if self._mirrors:
            try:
                if await self._second.ask(move(self.secondary, even_if_gone)) is None:
                    return None
                copied = True
            except StoreUnavailable:
                pass
        try:
            version = await self._first.ask(move(self.primary, even_if_gone))
        except StoreUnavailable:
            await self._owe({new_key: record, old_key: tombstone})
            return record.version
        if version is None:
            if copied:  # the secondary had not heard of the logout yet
                await self._mirror_later(new_key, tombstone)
        elif not copied:
            await self._mirror_later(new_key, record)
            await self._mirror_later(old_key, tombstone)
        return version

    async def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> list[str]:
        ended, copied = list(keys), False
        if self._mirrors or user_id is not None:
            try:
                ended = await self._second.ask(
                    partial(self.secondary.end, keys, user_id=user_id, keep=keep, at=at, until=until)
                )
                copied = True
            except StoreUnavailable:
                pass
        tombstone = Record.tombstone(version=_FIRST, at=at, until=until)
        try:
            everywhere = await self._first.ask(
                partial(self.primary.end, ended, user_id=user_id, keep=keep, at=at, until=until)
            )
        except StoreUnavailable:
            await self._owe(dict.fromkeys(ended, tombstone))
            return ended
        for key in everywhere:
            if not copied or key not in ended:  # a login that the secondary has not seen yet
                await self._mirror_later(key, tombstone)
        return everywhere

    async def merge(self, key: str, record: Record) -> Record:
        try:
            merged = await self._first.ask(lambda: self.primary.merge(key, record))
        except StoreUnavailable:
            await self._owe({key: record})
            return record
        await self._mirror_later(key, merged)
        return merged

    async def records_of(self, user_id: str, *, at: float) -> dict[str, Record]:
        found: dict[str, Record] = {}
        failures: list[StoreUnavailable] = []
        for circuit, store in ((self._first, self.primary), (self._second, self.secondary)):
            try:
                records = await circuit.ask(partial(store.records_of, user_id, at=at))
            except StoreUnavailable as error:
                failures.append(error)
                continue
            for key, record in records.items():
                found[key] = merge(found[key], record) if key in found else record
        if len(failures) == 2:
            raise failures[0]
        for key in found:
            found[key] = merge(found[key], self._pending.get(key, found[key]))
        return {key: record for key, record in found.items() if not record.gone}

    async def stats(self, *, at: float) -> Stats:
        try:
            return await self._first.ask(lambda: self.primary.stats(at=at))
        except StoreUnavailable:
            return await self._second.ask(lambda: self.secondary.stats(at=at))

    async def cleanup(self, *, at: float) -> int:
        removed = await self._second.ask(lambda: self.secondary.cleanup(at=at))
        return removed + await self._first.ask(lambda: self.primary.cleanup(at=at))

    async def close(self) -> None:
        await settle(self.primary.close())
        await settle(self.secondary.close())

    # -- after the response ----------------------------------------------------------------------------------------

    async def after_response(self) -> None:
        """Copy what is pending, probe, bring the primary up to date.  What fails stays for a later response."""
        if self._first.probe_due:
            await self._first.probe(self.primary.probe)
            self._draining = True
        for work in (self._fill_primary, self._drain, self._mirror_pending, self._note_uses):
            try:
                await work()
            except StoreUnavailable:
                continue

    async def _mirror_pending(self) -> None:
        for key, record in self._uncopied():
            try:
                await self._mirror(key, record)
            finally:
                with self._lock:
                    if self._copying.get(key) is record:
                        del self._copying[key]

    async def _mirror(self, key: str, record: Record) -> None:
        """Copy a pending record, which stays visible to every request until the secondary has it."""
        try:
            await self._second.ask(lambda: self.secondary.merge(key, record))
        except StoreUnavailable as error:
            if error.reason != "open":
                self._on_event(CopyOwed(store=self.secondary.name, reason=error.reason))
            raise
        with self._lock:
            if self._pending.get(key) is record:
                del self._pending[key]

    async def _fill_primary(self) -> None:
        for key, record in self._take(self._fills):
            with suppress(CorruptRecord):  # then it lives on in the secondary
                await self._first.ask(partial(self.primary.merge, key, record))
            if self._mirrors:
                self._remember(key, record)

    async def _drain(self) -> None:
        """Bring to the primary what was written while it was away, by this process or another."""
        if not (self._draining and self._first.breaker.closed):
            return
        self._draining, done = False, False
        try:
            owed = await self._second.ask(lambda: self.secondary.owed(limit=_AT_ONCE))
            for key, record in owed.items():
                with suppress(CorruptRecord):  # it stays owed, and keeps no other waiting
                    await self._pay(key, record)
            done = len(owed) < _AT_ONCE
        finally:
            if not done:  # also when cancelled
                self._draining = True

    async def _pay(self, key: str, record: Record) -> None:
        merged = await self._first.ask(partial(self.primary.merge, key, record))
        if not self._mirrors:
            await self._second.ask(partial(self.secondary.paid, key, record.version, remove=not record.gone))
            return
        if merged != record:
            await self._second.ask(partial(self.secondary.merge, key, merged))
        await self._second.ask(partial(self.secondary.paid, key, merged.version))

    async def _note_uses(self) -> None:
        if self.secondary.pending:
            await self._second.ask(self.secondary.after_response)
        if self.primary.pending:
            await self._first.ask(self.primary.after_response)

    # -- copies ----------------------------------------------------------------------------------------------------

    @property
    def _mirrors(self) -> bool:
        return self._mirror_mode != "off"

    async def _mirror_later(self, key: str, record: Record) -> None:
        if not self._mirrors:
            return
        record = self._remember(key, record)
        if self._mirror_mode == "before-response":
            with suppress(StoreUnavailable):  # then it is copied later
                await self._mirror(key, record)

    def _remember(self, key: str, record: Record) -> Record:
        with self._lock:
            known = self._pending.pop(key, None)
            record = self._pending[key] = merge(known, record) if known else record
            too_many = len(self._pending) > _MOST_PENDING
            if too_many:
                del self._pending[next(iter(self._pending))]
        if too_many:
            self._on_event(CopyOwed(store=self.secondary.name, reason="too many wait: dropped the oldest"))
        return record

    def _uncopied(self) -> Iterator[tuple[str, Record]]:
        """Some of what is pending, one by one, the newest first, and nothing that somebody is copying already."""
        for _ in range(min(len(self._pending), _AT_ONCE)):
            with self._lock:
                waiting = reversed(self._pending.items())
                found = next((item for item in waiting if self._copying.get(item[0]) is not item[1]), None)
                if found is None:
                    return
                self._copying[found[0]] = found[1]
            yield found

    def _take(self, waiting: dict[str, Record]) -> Iterator[tuple[str, Record]]:
        """Take some out, one by one: those that come meanwhile are for the next response."""
        for _ in range(min(len(waiting), _AT_ONCE)):
            with self._lock:
                if not waiting:
                    return
                taken = waiting.popitem()
            yield taken

    async def _copied(self, key: str, record: Record) -> bool:
        try:
            await self._second.ask(lambda: self.secondary.create(key, record))
        except StoreUnavailable:
            return False
        return True

    async def _owe(self, records: Mapping[str, Record]) -> None:
        await self._second.ask(lambda: self.secondary.owe(records))
        self._draining = True

    def _hidden(self, at: float) -> Record:
        """A session that only the primary can know: empty until it is back, then merged with what it holds."""
        deadline_at = at + self._absolute_timeout
        record = Record.new(at=at, idle_timeout=self._idle_timeout, deadline_at=deadline_at)
        return replace(record, served_by=self.secondary.name)
