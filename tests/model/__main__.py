"""Print all runs, or those whose name has the given words."""

import sys
import time

from tests.model.checker import Checker
from tests.model.runs import ABLATIONS, EXCEPTIONS, PROTOCOL, WALKS, Run


def show(run: Run, refuted: bool) -> None:
    """Print one run."""
    began = time.monotonic()
    verdict = Checker(run.rules, run.bounds).check()
    mark = "ok " if (verdict.word == "VIOLATION") == refuted else "BAD"
    took = f"{verdict.states:8} states {time.monotonic() - began:4.0f} s"
    print(f"{mark} {run.name:60} {verdict.word:9} {took}  {verdict.what} ({len(verdict.trace)} steps)", flush=True)
    for label in verdict.trace:
        print("       ", label)


def show_walks(run: Run) -> None:
    """Print random walks."""
    verdict = Checker(run.rules, run.bounds).wander(20_000)
    mark = "BAD" if verdict.trace else "ok "
    print(f"{mark} walks: {run.name:53} {verdict.word:9} {verdict.states:8} steps  {verdict.what}", flush=True)
    for label in verdict.trace:
        print("       ", label)


def main(words: str) -> None:
    """Print the runs."""
    for runs, refuted in ((PROTOCOL, False), (ABLATIONS, True), (EXCEPTIONS, True)):
        for run in runs:
            if words in run.name:
                show(run, refuted)
    for run in WALKS:
        if words in run.name:
            show_walks(run)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
