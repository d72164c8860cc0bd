"""A store behind its circuit breaker: how each of its failures counts, and who hears of it."""

import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vedsess_middleware.breaker import CircuitBreaker
from vedsess_middleware.concurrency import Maybe
from vedsess_middleware.errors import (
    CommitRefused,
    EpochMissing,
    Reason,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)
from vedsess_middleware.events import EventHook, StoreDegraded, StoreRecovered, StoreRefused

__all__ = ["Circuit"]

T = TypeVar("T")

_REPEAT_AFTER = 60.0
# Our own lack of connections, and somebody's lock on the same data.
_SAYS_NOTHING: tuple[Reason, ...] = ("saturated", "locked")


class Circuit:
    """Asks one store, as long as that is worth while.

    Args:
        name: of the store, for the events.
        breaker: says when it is.
        on_event: told of each change, and at once of each refusal.
        trial: a request may itself be the probe of an open breaker; otherwise only `probe` is.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        breaker: CircuitBreaker,
        *,
        on_event: EventHook,
        trial: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.breaker = breaker
        self._name, self._on_event, self._trial, self._clock = name, on_event, trial, clock
        self._said: dict[str, float] = {}

    def ask(self, call: Callable[[], Maybe[T]]) -> Coroutine[Any, Any, T]:
        """Return what the store answers.

        Raises:
            StoreUnavailable: it cannot serve, it refuses, or its breaker is open.  A refusal is logged as an error
                before another store takes over: it never goes unsaid.
        """
        if not self.breaker.closed and not (self._trial and self.breaker.claim_probe()):
            raise StoreUnavailable(f"{self._name} is not asked: it failed a moment ago", reason="open", attempts=0)
        return self._judged(call)

    @property
    def probe_due(self) -> bool:
        """Whether `probe` would try."""
        return self.breaker.state == "open" and self.breaker.retry_after == 0

    async def probe(self, call: Callable[[], Maybe[None]]) -> bool:
        """Try an open store, unless somebody is at it.  Returns whether it serves again."""
        if not self.breaker.claim_probe():
            return False
        try:
            await self._judged(call)
        except StoreUnavailable:
            return False
        return True

    async def _judged(self, call: Callable[[], Maybe[T]]) -> T:
        judged = False
        try:
            asked: Any = call()
            answer: T = await asked if hasattr(asked, "__await__") else asked
            judged = True
        except EpochMissing:
            judged = True
            self._answered()
            raise
        except StoreUnavailable as error:
            judged = self._count(error)
            raise
        except StoreMisconfigured as error:
            judged = True
            self._refused(error)
            raise StoreUnavailable(f"{self._name} refuses: {error}", one_key=error.one_key) from error
        except (StoreError, CommitRefused):
            judged = True
            self._answered()
            raise
        finally:
            if not judged:  # cancelled: that says nothing of the store
                self.breaker.give_up()
        if not self.breaker.untroubled:
            self._answered()
        return answer

    def _count(self, error: StoreUnavailable) -> bool:
        if error.reason in _SAYS_NOTHING:
            return False
        if self.breaker.failed(attempts=error.attempts, hard=error.reason != "timeout"):
            self._on_event(StoreDegraded(store=self._name, reason=error.reason))
        return True

    def _refused(self, error: StoreMisconfigured) -> None:
        words, now = str(error), self._clock()
        if now >= self._said.get(words, now):
            self._said[words] = now + _REPEAT_AFTER
            self._on_event(StoreRefused(store=self._name, reason=words))
        if error.one_key:
            self.breaker.give_up()
        elif self.breaker.failed(hard=True):
            self._on_event(StoreDegraded(store=self._name, reason="refused"))

    def _answered(self) -> None:
        if self.breaker.succeeded():
            self._on_event(StoreRecovered(store=self._name))
