"""Giving the secondary its copies: many at once, where many wait."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vedsess_middleware.errors import CorruptRecord, StoreUnavailable
from vedsess_middleware.events import CopyOwed
from vedsess_middleware.stores.failover.copies import Copy
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.record import Record

__all__ = ["Copier"]

_AT_ONCE = 64
_ROUNDS = 4
# A response that was cut short must not be waited for by the others for ever.
_GATHERS_FOR = 10.0


class Copier:
    """Copies what waits.  While one response does, the others leave theirs to it.

    Args:
        pair: the two stores.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._lock, self._gatherer = threading.Lock(), object()
        self._gathers_until, self._left = -math.inf, 0
        self._wary = False

    async def copy(self, key: str, copy: Copy) -> Record:
        """Give the secondary one copy, and return what it holds then."""
        with self._owed():
            return await self._pair.copy(key, copy)

    async def run(self) -> None:
        """Copy what waits, and what other responses leave here meanwhile: those of a few rounds."""
        me = self._take_turn()
        rounds = taken = 0
        try:
            while me is not None and (batch := self._next(me, last=rounds >= _ROUNDS)):
                try:
                    await self._copy_all(batch)
                finally:
                    self._leave(batch)
                rounds, taken = rounds + 1, taken + len(batch)
                if rounds > _ROUNDS and taken > self._left:
                    return
        finally:
            self._stop_gathering(me)

    # -- taking turns ----------------------------------------------------------------------------------------------

    def _take_turn(self) -> object | None:
        """Become the one that others leave their copies to; None: somebody is, and takes ours along."""
        with self._lock:
            if self._pair.clock() < self._gathers_until:
                self._left += 1
                return None
            self._gatherer, self._left = object(), 0
            self._gathers_until = self._pair.clock() + _GATHERS_FOR
            return self._gatherer

    def _next(self, me: object, *, last: bool) -> list[tuple[str, Copy]]:
        """What to copy next.  Whoever comes after the last look, or after one that found nothing, takes a turn."""
        with self._lock:
            batch = self._pair.copies.take(_AT_ONCE)
            if (last or not batch) and self._gatherer is me:
                self._gathers_until = -math.inf
            return batch

    def _stop_gathering(self, me: object | None) -> None:
        with self._lock:
            if self._gatherer is me:
                self._gathers_until = -math.inf

    def _leave(self, batch: Sequence[tuple[str, Copy]]) -> None:
        for key, copy in batch:
            self._pair.copies.leave(key, copy)

    # -- copying ---------------------------------------------------------------------------------------------------

    async def _copy_all(self, batch: Sequence[tuple[str, Copy]]) -> None:
        """All at once; one by one after a failure, so that what is wrong with one keeps no other waiting."""
        if len(batch) > 1 and not self._wary:
            self._wary = True
            try:
                with self._owed():
                    await self._pair.copy_all(dict(batch))
            except CorruptRecord:
                pass
            except StoreUnavailable as error:
                if not _is_of_one(error):
                    raise
            else:
                self._wary = False
                return
        await self._one_by_one(batch)
        self._wary = False

    async def _one_by_one(self, batch: Sequence[tuple[str, Copy]]) -> None:
        spared = False
        for key, copy in batch:
            try:
                await self.copy(key, copy)
            except CorruptRecord:
                pass
            except StoreUnavailable as error:
                if spared or not _is_of_one(error):
                    raise
                spared = True  # each may cost a whole budget, and a second one means that all do

    @contextmanager
    def _owed(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable as error:
            if error.reason != "open":
                self._pair.on_event(CopyOwed(store=self._pair.secondary.name, reason=error.reason))
            raise


def _is_of_one(error: StoreUnavailable) -> bool:
    return error.one_key or error.reason == "locked"
