"""One core, two colours: the only module that knows whether code runs blocking or on an event loop.

Everything above the stores is written once, as `async def`.  ASGI awaits it.  WSGI drives it with `run_blocking`,
which needs no loop and no thread, because over blocking stores such a coroutine never suspends.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary, ref

__all__ = ["Maybe", "PerLoop", "Resumed", "Wait", "in_time", "run_blocking", "settle", "waiting"]

T = TypeVar("T")

Maybe: TypeAlias = T | Awaitable[T]
"""What a store of either colour returns."""


Wait: TypeAlias = Callable[[float], Maybe[object]]
"""Waits for so many seconds."""


def waiting(*, is_async: bool | None) -> Wait:
    """How code of this colour waits; None: as the one does that runs then."""
    if is_async is None:
        return _wait_here
    return asyncio.sleep if is_async else time.sleep


def _wait_here(seconds: float) -> Maybe[None]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        time.sleep(seconds)
        return None
    return asyncio.sleep(seconds)


async def settle(value: Maybe[T]) -> T:
    """Return the value, awaiting it first where it is awaitable."""
    if hasattr(value, "__await__"):
        return await cast(Awaitable[T], value)
    return value


async def in_time(value: Maybe[T], timeout: float | None) -> T:
    """The same, within so many seconds; None: the value keeps the time itself.

    Raises:
        TimeoutError: it took longer.
    """
    if timeout is None:
        return await settle(value)
    async with asyncio.timeout(timeout):
        return await settle(value)


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result.

    Raises:
        RuntimeError: it tried to suspend: an asyncio store was used from blocking code.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    finally:
        coroutine.close()
    raise RuntimeError("an asyncio store was used from blocking code: use a store with a blocking client")


class Resumed(Generic[T]):
    """Something to wait for, again and again; a wait that was given up is taken up where it was.

    Args:
        make: begins the next one.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._task: asyncio.Future[T] | None = None

    async def within(self, seconds: float | None) -> T | None:
        """Return the result; None: there is none yet after so long.  None as the time: wait for it."""
        if self._task is None:
            if seconds is None:
                return await self._make()
            self._task = asyncio.ensure_future(self._make())
        await asyncio.wait((self._task,), timeout=seconds)
        if not self._task.done():
            return None
        task, self._task = self._task, None
        return task.result()

    def stop(self) -> None:
        """Wait no more."""
        if self._task is not None:
            self._task.cancel()


class PerLoop(Generic[T]):
    """One client for each process and event loop, made on first use.

    An asyncio client belongs to the loop that first awaited it, and no client survives a fork.

    Args:
        make: makes a client; does no I/O.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()
        self._last: tuple[ref[asyncio.AbstractEventLoop], int, T] | None = None

    def get(self) -> T:
        """Return the client of the running loop."""
        loop, last = asyncio.get_running_loop(), self._last
        if last is not None and last[0]() is loop and last[1] == os.getpid():
            return last[2]
        clients = self._of_this_process()
        client = clients.get(loop)
        if client is None:
            client = clients[loop] = self._make()
        self._last = ref(loop, self._forget_last), self._pid, client
        return client

    def pop(self) -> T | None:
        """Take the client of the running loop out, if there is one: the caller closes it."""
        self._last = None
        return self._of_this_process().pop(asyncio.get_running_loop(), None)

    def _forget_last(self, _: object) -> None:
        self._last = None

    def _of_this_process(self) -> WeakKeyDictionary[asyncio.AbstractEventLoop, T]:
        if self._pid != os.getpid():
            self._pid, self._clients = os.getpid(), WeakKeyDictionary()
        return self._clients
