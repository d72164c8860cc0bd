"""A checklist as data: what was tried, what came of it, and the mend where it failed."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from vedsess_middleware.errors import SessionError, StoreError

__all__ = ["Checklist", "Explanation", "Finding", "Outcome", "Step", "StepFailed"]

Outcome = Literal["ok", "note", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of a checklist.  Holds no id, no secret and no session value.

    Attributes:
        area: what it is about, such as `Redis`.
        name: what was tried.
        outcome: a `note` is no flaw, a `warning` is one that can wait, a `skipped` step had nothing to stand on.
        detail: what was seen.
        mend: what to do about it; empty where nothing is to be done.
        seconds: how long it took; None: it was not run.
    """

    area: str
    name: str
    outcome: Outcome
    detail: str = ""
    mend: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a step saw when nothing failed."""

    detail: str = ""
    outcome: Outcome = "ok"
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A failure in words: its kind, what is wrong, and the mend."""

    kind: str
    what: str
    mend: str


class StepFailed(SessionError):
    """Nothing broke, and what was seen is wrong.  Raised by a step to fail it.

    Args:
        what: was seen.
        mend: what to do about it.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.what, self.mend = what, mend


class Checklist:
    """Runs the steps of one area, in order; after a failure the others are skipped.

    Args:
        area: of all its steps.
        explain: puts the error of a store into words.
        blocked: what failed before, so that no step of this area can run; empty: nothing did.
    """

    def __init__(self, area: str, explain: Callable[[StoreError], Explanation], *, blocked: str = "") -> None:
        self.steps: list[Step] = []
        self.blocked = blocked
        self._area, self._explain = area, explain

    async def run(self, name: str, work: Callable[[], Awaitable[Finding]]) -> None:
        """Do one step and note what came of it."""
        if self.blocked:
            step = Step(area=self._area, name=name, outcome="skipped", detail=f"because of: {self.blocked}")
            self.steps.append(step)
            return
        started_at = time.perf_counter()
        try:
            finding = await work()
        except StepFailed as error:
            finding = Finding(error.what, "failed", error.mend)
        except StoreError as error:
            explanation = self._explain(error)
            finding = Finding(explanation.what, "failed", explanation.mend)
        seconds = time.perf_counter() - started_at
        self._note(name, finding, seconds)

    def _note(self, name: str, finding: Finding, seconds: float) -> None:
        if finding.outcome == "failed":
            self.blocked = f"{self._area}, {name}"
        step = Step(
            area=self._area,
            name=name,
            outcome=finding.outcome,
            detail=finding.detail,
            mend=finding.mend,
            seconds=seconds,
        )
        self.steps.append(step)
