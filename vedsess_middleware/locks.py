"""The lock of a session, for the few routes that must not meet themselves."""

from contextlib import suppress
from types import TracebackType
from typing import Protocol

from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import StoreError
from vedsess_middleware.state import State

__all__ = ["Lockable", "SessionLock"]


class Lockable(Protocol):
    """A session, as far as its lock is concerned."""

    async def refresh(self) -> None:
        """Load again what is stored."""

    async def save(self) -> None:
        """Commit now."""

    async def forget_changes(self) -> None:
        """Be what is stored."""


class SessionLock:
    """Held inside `with` (blocking) or `async with`.

    A lock lives where it was given out, and no longer than it was asked for: one that has run out, or whose store is
    away, has its holder's commit refused (a fencing token), and nobody waits for ever.

    Args:
        session: whose.
        state: of the session.
        wait: seconds to wait for it.
        hold: seconds after which it is free again.
    """

    def __init__(self, session: Lockable, state: State, *, wait: float, hold: float) -> None:
        self._session, self._state, self._wait, self._hold = session, state, wait, hold

    async def __aenter__(self) -> None:
        session, state = self._session, self._state
        await session.save()  # what was written before is no part of it
        state.fence = await state.opener.lock(state, wait=self._wait, hold=self._hold)
        if state.fence is not None:
            await session.refresh()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        state, fence, saved = self._state, self._state.fence, False
        try:
            if kind is None:
                await self._session.save()
                saved = True
        finally:
            state.fence = None
            if not saved:  # nor is it written later, without the lock
                await self._session.forget_changes()
            if fence is not None:
                with suppress(StoreError):  # it is free again soon anyway
                    await state.opener.unlock(state, fence)

    def __enter__(self) -> None:
        run_blocking(self.__aenter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_blocking(self.__aexit__(kind, error, traceback))
