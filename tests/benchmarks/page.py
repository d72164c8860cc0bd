"""The page of the documentation that shows what a run has found."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import charts
from tests.benchmarks.figures import Figures
from tests.benchmarks.goals import goals
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import goal_lines, in_order

NOTES = {
    "overhead": """\
Microseconds that a request takes longer than on the same framework without sessions, in one process: no web server, one
request at a time, Redis on the same machine.  `cookie` is the framework's own session, signed and kept in the cookie;
`redis-py HGETALL` is one command and nothing else.  `vedsess` is `mirror="off"`.""",
    "copies": """\
The same up to the last byte of the answer, for what survives the loss of Redis.  `write, paused` rests a few
milliseconds before each request, as browsers do; the others come back to back, each upon the heels of the copy that the
one before has made.""",
    "throughput": """\
A closed loop over kept connections, each with a session of its own.  uvicorn has one worker, gunicorn one with 16
threads; the web server has a processor to itself, all else shares the others.""",
    "growth": """\
Whole lines: written without reading, dashed ones: read.  Bytes are those to Redis and to SQL together.""",
}
"""What has to be known to read a picture."""


def write(figures: Figures, folder: Path) -> None:
    """Write `benchmarks.md`, and its pictures into `benchmarks/`."""
    pictures = folder / "benchmarks"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = charts.draw(figures, pictures)
    (folder / "benchmarks.md").write_text("\n".join(_lines(figures, drawn)) + "\n")


def _lines(figures: Figures, drawn: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield from ("# Benchmarks", "")
    yield "How it is measured is in [tests/benchmarks](../tests/benchmarks/README.md); `python -m tests.benchmarks"
    yield from ("--page docs` writes this page.", "")
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **figures.about}
    yield from _table([["", ""], *([name, value] for name, value in about.items())])
    for name, title in drawn:
        yield from ("", f"## {title}", "", NOTES[name], "", f"![{title}](benchmarks/{name}.svg)")
    yield from ("", "## Goals", "")
    yield from _table([["what", "figure", "goal", ""], *goal_lines(goals(figures))])
    yield from _overhead(figures)
    yield from _load(figures)


def _overhead(figures: Figures) -> Iterator[str]:
    """A table for each framework: a row of the run in each line, a peer in each column."""
    peers = [peer for peer in PEERS if any(peer == found for found, _ in figures.timed)]
    for framework in dict.fromkeys(PEERS[peer].framework for peer in peers):
        columns = [peer for peer in peers if PEERS[peer].framework == framework]
        rows = dict.fromkeys(row for _, row in in_order(figures.timed))
        table = [[row, *(_cell(figures, peer, row) for peer in columns)] for row in rows]
        names = ["bare, in all" if PEERS[peer].is_bare else PEERS[peer].name for peer in columns]
        yield from ("", f"## Microseconds on {framework}: best round (middle one)", "")
        yield from _table([["", *names], *(line for line in table if any(line[1:]))])


def _cell(figures: Figures, peer: str, row: str) -> str:
    if (peer, row) not in figures.timed:
        return ""
    timing = figures.timed[peer, row] if PEERS[peer].is_bare else figures.overhead(peer, row)
    return f"{timing.whole:.0f} ({timing.median_whole:.0f})" if timing else ""


def _load(figures: Figures) -> Iterator[str]:
    for server, found in figures.load.items():
        names = ["", "median /s", "best /s", "median ms", "99 % ms", "generator's CPU", "not as it should be"]
        table = [names]
        for key in in_order(found):
            load = found[key]
            numbers = (f"{load.median:.0f}", f"{load.best:.0f}", f"{load.median_ms:.1f}", f"{load.p99_ms:.1f}")
            table.append([f"{key[1]}, {key[0]}", *numbers, f"{load.generator:.0%}", load.troubles])
        yield from ("", f"## Requests per second: {server} connections", "")
        yield from _table(table)


def _table(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *others = lines
    for line in (head, ["---", *["--:"] * (len(head) - 1)] if len(head) > 2 else ["---"] * 2, *others):
        yield f"| {' | '.join(line)} |"
