"""Locks on a session of two stores: one is where it was given out, and nowhere else."""

import math
from contextlib import suppress
from functools import partial

from vedsess_middleware.errors import CorruptRecord, StoreError, StoreUnavailable
from vedsess_middleware.stores.contract import Primary
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.failover.reading import Reader, Wanted
from vedsess_middleware.stores.failover.upkeep import Upkeep
from vedsess_middleware.stores.record import Fence, Version

__all__ = ["Locker"]


class Locker:
    """Gives out locks: of the primary while it is trusted, otherwise of the secondary.

    Args:
        pair: the two stores.
        reader: finds what the primary lacks.
        upkeep: gives it that.
    """

    def __init__(self, pair: Pair, reader: Reader, upkeep: Upkeep) -> None:
        self._pair, self._reader, self._upkeep = pair, reader, upkeep

    async def lock(self, key: str, word: str, *, at: float, until: float) -> Fence | None:
        """Give out the lock of a session, as `Store.lock` does."""
        pair = self._pair
        view = pair.at_hand or await pair.trusted()
        if view is not None:
            with suppress(StoreUnavailable, CorruptRecord):
                return await self._locked(view, key, word, at, until)
        return await pair.second.ask(partial(pair.secondary.lock, key, word, at=at, until=until))

    async def _locked(self, view: Primary, key: str, word: str, at: float, until: float) -> Fence | None:
        """The lock of the primary, which has to hold what is written under it."""
        pair, locking = self._pair, partial(view.lock, key, word, at=at, until=until)
        if pair.denies(key):
            await self._upkeep.drain([key])
        fence = await pair.ask(view, locking)
        if fence is None and await self._filled(key, at):
            fence = await pair.ask(view, locking)
        return fence

    async def _filled(self, key: str, at: float) -> bool:
        """Whether the session was not there, and is now; otherwise somebody has its lock."""
        await self._reader.load(Wanted(key, at, math.inf, Version(), 0.0))
        return await self._upkeep.fill(key) is not None

    async def unlock(self, key: str, fence: Fence) -> None:
        """Give a lock back.  Where that fails, it runs out by itself."""
        pair = self._pair
        with suppress(StoreError):
            if fence.store != pair.primary.name:
                await pair.second.ask(partial(pair.secondary.unlock, key, fence))
                return
            view = pair.at_hand or await pair.trusted()
            if view is not None:
                await pair.ask(view, partial(view.unlock, key, fence))
