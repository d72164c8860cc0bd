"""Measures everything, or what is asked for: `python -m tests.benchmarks [--quick] [--only REGEX]`."""

import argparse
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import vedsess_middleware
from tests.benchmarks import counted, growth, load, memory, page, report, timed
from tests.benchmarks.crew import Backends
from tests.benchmarks.figures import Figures

PACKAGES = (
    "redis",
    "hiredis",
    "Flask",
    "Flask-Session",
    "Django",
    "Beaker",
    "starlette",
    "starsessions",
    "litestar",
    "uvicorn",
    "uvloop",
    "httptools",
    "gunicorn",
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and peers: within three minutes")
    parser.add_argument(
        "--only",
        metavar="REGEX",
        type=re.compile,
        default=re.compile(""),
        help="only what matches, such as 'timed (Flask|Starlette)/.* (read|write)$', 'counted', 'memory'",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--page", metavar="DIR", type=Path, help="write benchmarks.md and its pictures there")
    return parser.parse_args()


def _about(options: argparse.Namespace) -> dict[str, str]:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return {
        "package": _commit(),
        "mode": "quick" if options.quick else "full",
        "machine": f"{os.cpu_count()} x {_processor()}, {platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {packages}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.processor()


def _commit() -> str:
    """The commit of the checkout that is measured."""
    folder = Path(vedsess_middleware.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no checkout"


def _measure(options: argparse.Namespace) -> Figures:
    def wanted(name: str) -> bool:
        return bool(options.only.search(name))

    figures = Figures(about=_about(options))
    with Backends() as backends:
        figures.about["stores"] = f"{backends.redis.name}, {backends.postgres.name} without fsync"
        if wanted("memory"):
            _say("memory")
            figures.memory = memory.measure(backends, sessions=2000)
        if keys := timed.cells("timed", wanted, quick=options.quick):
            _say(f"timed: {len(keys)} cells")
            rounds, requests = (5, 60) if options.quick else (10, 150)
            figures.timed = timed.measure(backends, keys, rounds=rounds, requests=requests)
        if keys := timed.cells("counted", wanted, quick=options.quick):
            _say(f"counted: {len(keys)} cells")
            figures.counted = counted.measure(backends, keys)
        effort = growth.QUICK if options.quick else growth.FULL
        for what, measure in ((growth.SESSIONS, growth.by_sessions), (growth.BYTES, growth.by_bytes)):
            if wanted(f"growth {what}"):
                _say(f"growth: {what}")
                figures.growth[what] = measure(backends, effort)
    if cells := load.cells(wanted, quick=options.quick):
        _say(f"load: {len(cells)} cells")
        figures.load = load.measure(cells, rounds=2 if options.quick else 3, seconds=0.5)
    return figures


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = _options()
    figures = _measure(options)
    print(report.text(figures))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(report.as_json(figures))
    if options.page:
        page.write(figures, options.page)


if __name__ == "__main__":
    main()
