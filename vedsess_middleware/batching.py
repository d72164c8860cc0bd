"""What the tasks of one event loop ask for at the same time travels together.

The first that asks leads: it lets the others join for one turn of the loop, sends for all, and hands out the answers.
So there is no task in the background.  Who has asked alone the last time, and meets nobody, waits for nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class _GivenUp(Exception):
    """Whoever led was cancelled on the way: ask again."""


class _Asked(Generic[Item, Reply]):
    """What one task asks for; `waiter` is told the replies, and whoever leads has none."""

    __slots__ = ("items", "waiter")

    def __init__(self, items: Sequence[Item], waiter: "asyncio.Future[list[Reply]] | None") -> None:
        self.items, self.waiter = items, waiter


class Batcher(Generic[Item, Reply]):
    """Sends items in batches.  Belongs to one event loop.

    A batch fails as a whole where `carry` raises; what is wrong with one item, its reply has to say.  A task that is
    cancelled takes nobody with it, so the items must bear to be sent twice.

    Args:
        carry: sends items, and returns a reply for each, in order.
        timeout: seconds that a batch may take, from the first that asked.
        in_flight: how many may be under way at once; meanwhile the next one grows.
    """

    def __init__(
        self, carry: Callable[[list[Item]], Awaitable[list[Reply]]], *, timeout: float, in_flight: int = 2
    ) -> None:
        self._carry, self._timeout = carry, timeout
        self._most = self._free = in_flight
        self._alone = True
        self._gathering: list[_Asked[Item, Reply]] | None = None
        self._landed: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Batcher {len(self._gathering or ())} waiting>"

    async def ask(self, items: Sequence[Item]) -> list[Reply]:
        """Return the replies to these items.

        Raises:
            TimeoutError: there was none in time.
            BaseException: what `carry` raises.
        """
        while True:
            batch = self._gathering
            if batch is None and self._alone and self._free == self._most:
                async with asyncio.timeout(self._timeout):
                    return await self._sent(list(items))
            if batch is None:
                mine = _Asked[Item, Reply](items, None)
                batch = self._gathering = [mine]
                return await self._lead(batch, mine)
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            waiter: asyncio.Future[list[Reply]] = self._loop.create_future()
            batch.append(_Asked(items, waiter))
            try:
                return await waiter
            except _GivenUp:
                continue

    async def _lead(self, batch: list[_Asked[Item, Reply]], mine: _Asked[Item, Reply]) -> list[Reply]:
        try:
            async with asyncio.timeout(self._timeout):
                await self._gathered()
                self._gathering = None
                others = [asked for asked in batch if asked is not mine and not _left(asked)]
                self._alone = not others
                replies = await self._sent([*mine.items, *(item for asked in others for item in asked.items)])
        except BaseException as error:
            self._fail(batch, mine, error)
            raise
        start = len(mine.items)
        for asked in others:
            end = start + len(asked.items)
            if not _left(asked) and asked.waiter is not None:
                asked.waiter.set_result(replies[start:end])
            start = end
        return replies[: len(mine.items)]

    async def _gathered(self) -> None:
        """Return on the next turn of the loop, or when another batch may go.  One leader at a time waits here."""
        await asyncio.sleep(0)
        while not self._free:
            self._landed = asyncio.get_running_loop().create_future()
            await self._landed

    async def _sent(self, items: list[Item]) -> list[Reply]:
        self._free -= 1
        try:
            return await self._carry(items)
        finally:
            self._free += 1
            if self._landed is not None and not self._landed.done():
                self._landed.set_result(None)

    def _fail(self, batch: list[_Asked[Item, Reply]], mine: _Asked[Item, Reply], error: BaseException) -> None:
        if self._gathering is batch:
            self._gathering = None
        for asked in batch:
            if asked is not mine and not _left(asked) and asked.waiter is not None:
                asked.waiter.set_exception(_GivenUp() if isinstance(error, asyncio.CancelledError) else error)


def _left(asked: _Asked[Item, Reply]) -> bool:
    """Whether its task was cancelled meanwhile."""
    return asked.waiter is not None and asked.waiter.done()
