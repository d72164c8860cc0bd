"""The store contract on two stores.

Whatever either store holds is brought together by merging, so a request never needs to know what happened before it.
The rules are those of docs/protocol.md: load is in `reading`, commit in `writing`, replace and end in `ending`; mirror,
fill, drain, refence and pick up ride after a response, in `upkeep`.
"""

import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vedsess_middleware.breaker import State
from vedsess_middleware.concurrency import Wait, settle, waiting
from vedsess_middleware.errors import ConfigurationError, StoreUnavailable
from vedsess_middleware.events import EventHook, log_event
from vedsess_middleware.stores.contract import Owner, Primary, Replaced, Secondary, Stats, Written
from vedsess_middleware.stores.failover.ending import Ender, Moving
from vedsess_middleware.stores.failover.locking import Locker
from vedsess_middleware.stores.failover.owners import Owners
from vedsess_middleware.stores.failover.pair import Mirror, Pair
from vedsess_middleware.stores.failover.reading import Reader, Wanted
from vedsess_middleware.stores.failover.upkeep import Upkeep
from vedsess_middleware.stores.failover.writing import Writer
from vedsess_middleware.stores.record import Delta, Fence, Record, Version

__all__ = ["FailoverStore", "Health"]


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
        longest_life: of any session, in seconds; by default `absolute_timeout`.
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
        longest_life: float | None = None,
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
        self._pair = Pair(
            primary,
            secondary,
            mirror=mirror,
            longest_life=longest_life or absolute_timeout,
            clock=clock,
            wait=wait,
            on_event=on_event,
        )
        self._reader, self._upkeep = Reader(self._pair, hidden=self._hidden), Upkeep(self._pair)
        self._writer, self._owners = Writer(self._pair, self._upkeep), Owners(self._pair)
        self._ender = Ender(self._pair, self._writer)
        self._locker = Locker(self._pair, self._reader, self._upkeep)

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

    def create(self, key: str, record: Record) -> Coroutine[Any, Any, Version]:
        return self._writer.create(key, record)

    def update(self, key: str, delta: Delta) -> Coroutine[Any, Any, Written | None]:
        return self._writer.update(key, delta)

    def merge(self, key: str, record: Record) -> Coroutine[Any, Any, Record]:
        return self._writer.merge(key, record)

    def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        known: Version | None = None,
    ) -> Coroutine[Any, Any, Replaced | None]:
        moving = Moving(old_key, new_key, record, at=at, until=until, even_if_gone=even_if_gone, known=known)
        return self._ender.replace(moving)

    def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> Coroutine[Any, Any, list[str]]:
        return self._ender.end(keys, user_id=user_id, keep=keep, at=at, until=until)

    def cut_off(self, user_id: str, *, at: float, until: float) -> Coroutine[Any, Any, list[str]]:
        return self._ender.cut_off(user_id, at=at, until=until)

    # -- the others ------------------------------------------------------------------------------------------------

    def records_of(self, owner: str, *, at: float, by: Owner = "user") -> Coroutine[Any, Any, dict[str, Record]]:
        return self._owners.records_of(owner, at=at, by=by)

    def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> Coroutine[Any, Any, list[str]]:
        return self._owners.reserve(user_id, key, limit=limit, deny=deny, at=at)

    def lock(self, key: str, word: str, *, at: float, until: float) -> Coroutine[Any, Any, Fence | None]:
        return self._locker.lock(key, word, at=at, until=until)

    def unlock(self, key: str, fence: Fence) -> Coroutine[Any, Any, None]:
        return self._locker.unlock(key, fence)

    async def sample(self, *, at: float) -> tuple[str, Record] | None:
        try:
            return await self._pair.first.ask(partial(self.primary.sample, at=at))
        except StoreUnavailable:
            return await self._pair.second.ask(partial(self.secondary.sample, at=at))

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
