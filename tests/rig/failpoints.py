"""Named steps of the protocol, one before and one after each call of a store; a worker can be told to end there."""

import os
import signal
from collections import Counter
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Steps:
    """Counts the steps that a worker passes, and stops it at the one it is armed for."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self._armed, self._signal = "", signal.SIGKILL

    def arm(self, step: str, action: str) -> None:
        """At the next passing of this step, send this process the signal that `action` names."""
        self._armed, self._signal = step, SIGNALS[action]

    def reach(self, step: str) -> None:
        """Pass a step."""
        self.passed[step] += 1
        if step == self._armed:
            self._armed = ""
            os.kill(os.getpid(), self._signal)


class Watched:
    """A store whose every call passes two steps, `before:<role>.<method>` and `after:<role>.<method>`.

    Properties are those of the store.  `under` gives a store again, which is watched as well.
    """

    def __init__(self, store: Any, role: str, steps: Steps) -> None:
        self._store, self._role, self._steps = store, role, steps

    def __repr__(self) -> str:
        return repr(self._store)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            if name == "under":
                return Watched(value(*args, **options), self._role, self._steps)
            step = f"{self._role}.{name}"
            self._steps.reach(f"before:{step}")
            result = value(*args, **options)
            if hasattr(result, "__await__"):
                return self._awaited(step, result)
            self._steps.reach(f"after:{step}")
            return result

        return call

    async def _awaited(self, step: str, result: Awaitable[T]) -> T:
        answer = await result
        self._steps.reach(f"after:{step}")
        return answer
