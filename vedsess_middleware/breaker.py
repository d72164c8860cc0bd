"""A circuit breaker without I/O: it says when a store may be asked, and is told how that went.

closed: every request asks.  open: none does.  half-open: one prober in this process does.
It saves time.  What the stores promise does not depend on it, but for one thing: while the breaker of the secondary is
open, the primary is trusted without it.
"""

import random
import threading
from collections.abc import Callable
from typing import Literal

__all__ = ["CircuitBreaker", "State"]

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """Decides whether a store is worth asking.

    Args:
        clock: monotonic seconds.
        threshold: failed attempts within `window` that open it; a `hard` failure opens it at once.
        window: seconds after which an earlier failed attempt no longer counts.
        first_wait: longest wait before the first probe, in seconds; doubled after each failed probe.
        longest_wait: limit of that wait, in seconds.
        jitter: a random number in [0, 1), so that many processes do not probe in step.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        threshold: int = 2,
        window: float = 2.0,
        first_wait: float = 0.5,
        longest_wait: float = 2.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._threshold, self._window = threshold, window
        self._first_wait, self._longest_wait = first_wait, longest_wait
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._failed: list[float] = []
        self._probes = 0
        self._probe_at = 0.0

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self._state}>"

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def closed(self) -> bool:
        """Whether a request may ask the store."""
        return self._state == "closed"

    @property
    def untroubled(self) -> bool:
        """Whether it has nothing to learn from a success."""
        return self._state == "closed" and not self._failed

    @property
    def retry_after(self) -> float:
        """Seconds until the next probe may start; 0 when one may start now."""
        return 0.0 if self.closed else max(0.0, self._probe_at - self._clock())

    def claim_probe(self) -> bool:
        """Become the one prober, if a probe is due.  Answer with `succeeded`, `failed` or `give_up`."""
        with self._lock:
            if self._state != "open" or self._clock() < self._probe_at:
                return False
            self._state = "half-open"
            return True

    def give_up(self) -> None:
        """End a probe without a verdict: it was cancelled, or the failure was our own."""
        with self._lock:
            if self._state == "half-open":
                self._state = "open"

    def succeeded(self) -> bool:
        """Note that the store answered.  Returns whether this closed the breaker."""
        if self.untroubled:
            return False
        with self._lock:
            # A request that began before the breaker opened proves nothing about now.
            if self._state == "open":
                return False
            closing = self._state == "half-open"
            self._state, self._probes = "closed", 0
            self._failed.clear()
            return closing

    def failed(self, *, attempts: int = 1, hard: bool = False) -> bool:
        """Note failed attempts.  Returns whether this opened the breaker."""
        with self._lock:
            now = self._clock()
            if self._state == "half-open":
                self._open(now)
                return False
            if self._state == "open":
                return False
            self._failed = [at for at in self._failed if now - at <= self._window] + [now] * attempts
            if not hard and len(self._failed) < self._threshold:
                return False
            self._open(now)
            return True

    def _open(self, now: float) -> None:
        longest = min(self._longest_wait, self._first_wait * 2.0**self._probes)
        self._probe_at = now + longest * (0.5 + 0.5 * self._jitter())
        self._probes = min(self._probes + 1, 16)
        self._state = "open"
        self._failed.clear()
