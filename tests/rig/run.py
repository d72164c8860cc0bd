"""Runs faults against the rig, and judges what the browsers saw.

`python -m tests.rig.run --seed 7 --faults F1,F4 --seconds 3 --store postgres --mirror after-response`
"""

import argparse
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from tests.rig import redis_faults, sql_faults, wire_faults, worker_faults  # noqa: F401  they register themselves
from tests.rig.browsers import Crowd
from tests.rig.checks import Limits, Window, check_all, latencies, staleness
from tests.rig.convergence import unconverged
from tests.rig.faults import FAULTS, Fault, Trouble
from tests.rig.history import History, Violation
from tests.rig.rig import Plan, Rig

LEAD = 0.8
CONVERGENCE = 5.0


@dataclass
class Report:
    """What one run showed.

    Attributes:
        seed: repeats its choices.
        faults: codes, those of a pair together.
        violations: of all checks.
        figures: counts, and seconds.
    """

    seed: int
    faults: str
    violations: list[Violation] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        figures = " ".join(f"{name}={_text(value)}" for name, value in self.figures.items())
        by_check = Counter(violation.check for violation in self.violations)
        head = f"{self.faults}: seed={self.seed} {figures} violations={dict(by_check)}"
        return "\n".join([head, *(f"    {violation}" for violation in self.violations[:12])])


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def run_faults(rig: Rig, faults: Sequence[Fault], *, seed: int, seconds: float, limits: Limits = Limits()) -> Report:
    """Let a new crowd live through these faults at once, wait until all is at rest, and judge."""
    report = Report(seed, "+".join(fault.code for fault in faults))
    crowd = rig.crowd(seed)
    try:
        time.sleep(LEAD)
        before = _events(rig)
        window = _live_through(rig, crowd, faults, seed, seconds)
        after = Counter(_events(rig))
        converged = _settle(rig, crowd)
    finally:
        rig.thread.run(crowd.stop())
    window = replace(window, end=converged.at)
    ops = crowd.stage.ops
    report.violations = check_all(ops, [window], limits) + converged.violations
    for fault in faults:
        if fault.event and not after[fault.event] > before[fault.event]:
            report.violations.append(Violation("event", fault.event, None, "no worker said so"))
    during = latencies(ops, keep=lambda op: window.start <= op.start <= window.heal)
    outcomes = Counter(op.outcome for op in ops)
    report.figures = {
        "ops": len(ops),
        **{name: outcomes[name] for name in ("ok", "fail", "info")},
        "5xx": sum(op.status >= 500 for op in ops),
        **during,
        "stale": staleness(History(ops)),
        "converged": converged.seconds,
        "events": dict(after - before),
    }
    return report


def companions(dice: random.Random, store: str) -> list[Fault]:
    """One fault, or two that can be had at once, for this database."""
    possible = [fault for fault in FAULTS.values() if store in fault.stores]
    first = dice.choice(possible)
    seconds = [fault for fault in possible if fault.goes_with(first)]
    return [first, dice.choice(seconds)] if seconds and dice.random() < 0.7 else [first]


def _live_through(rig: Rig, crowd: Crowd, faults: Sequence[Fault], seed: int, seconds: float) -> Window:
    trouble = Trouble(rig=rig, seconds=seconds, random=random.Random(f"{seed}:faults"), crowd=crowd)
    running = [fault.steps(trouble) for fault in faults]
    start = time.monotonic()
    for steps in running:
        next(steps)
    time.sleep(max(0.0, start + seconds - time.monotonic()))
    for steps in reversed(running):
        next(steps, None)
    return Window(
        name="+".join(fault.code for fault in faults),
        start=start,
        heal=time.monotonic(),
        end=inf,
        unavailable=any(fault.unavailable for fault in faults),
        workers=frozenset(trouble.hit),
        double=any(fault.double for fault in faults),
    )


@dataclass(frozen=True, slots=True)
class Rest:
    """How everything came to rest."""

    at: float
    seconds: float
    violations: list[Violation]


def _settle(rig: Rig, crowd: Crowd) -> Rest:
    """Let everybody read until the stores agree, or for as long as they may take; then everybody looks once more."""
    began = time.monotonic()
    crowd.stage.mode = "read"
    problems = [Violation("7 convergence", "stores", None, "they do not answer")]
    while problems and time.monotonic() < began + CONVERGENCE:
        time.sleep(0.1)
        snapshot = rig.snapshot(crowd.stage.ops)
        problems = unconverged(snapshot) if snapshot else problems
    at = time.monotonic()
    rig.thread.run(crowd.rest())
    rig.thread.run(crowd.look())
    return Rest(at, at - began, problems)


def _events(rig: Rig) -> Counter[str]:
    total: Counter[str] = Counter()
    for worker in rig.workers:
        total.update(worker.status().get("events", {}))
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says, print what it showed, and return how many runs broke a promise."""
    options = _options().parse_args(arguments)
    plan = Plan(
        store=options.store,
        mirror=options.mirror,
        store_class=options.store_class,
        ablate=options.ablate,
        server_id=options.server,
        kinds=("wsgi",) * 4 if options.store_class == "naive" else Plan().kinds,
    )
    seed, broken = options.seed, 0
    with (
        tempfile.TemporaryDirectory(prefix="vedsess-rig-") as passing,
        Rig(plan, options.folder or Path(passing)) as rig,
    ):
        for faults in _schedule(options, plan.store):
            report = run_faults(rig, faults, seed=seed, seconds=options.seconds)
            print(report, flush=True)
            broken += bool(report.violations)
            if not rig.healthy():
                print("    the rig is renewed", flush=True)
                rig.renew()
    return broken


def _schedule(options: argparse.Namespace, store: str) -> list[list[Fault]]:
    if options.pairs:
        dice = random.Random(f"{options.seed}:pairs")
        return [companions(dice, store) for _ in range(options.pairs)]
    codes = list(FAULTS) if options.faults == "all" else options.faults.split(",")
    groups = [[FAULTS[code] for code in group.split("+")] for group in codes]
    return [group for group in groups if all(store in fault.stores for fault in group)]


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.rig.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="repeats all choices")
    parser.add_argument("--faults", default="all", help="codes with commas between; `F1+F5` at once; `all`")
    parser.add_argument("--pairs", type=int, default=0, help="so many runs of random faults, alone or two at once")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each fault lasts")
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--mirror", choices=("after-response", "before-response", "off"), default="after-response")
    parser.add_argument("--store-class", choices=("failover", "naive"), default="failover")
    parser.add_argument("--server", default="valkey-9.1", help="which Redis")
    parser.add_argument("--folder", type=Path, help="an existing one, where logs and data stay for a look")
    parser.add_argument("--ablate", default="", help="take a rule out, see ablations.py")
    return parser


if __name__ == "__main__":
    sys.exit(min(main(), 100))
