"""What a run has found, as text and as JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tests.benchmarks.figures import Figures, Key
from tests.benchmarks.goals import Goal, goals
from tests.benchmarks.peers import PEERS
from tests.benchmarks.work import ROWS

_VERDICTS = {True: "met", False: "MISSED", None: ""}
_RANKS = {row.name: rank for rank, row in enumerate(ROWS)}


def text(figures: Figures) -> str:
    """All tables, the goals last."""
    sections: list[Iterable[str]] = [_about(figures)]
    if figures.timed:
        sections.append(_timed(figures))
    if figures.counted:
        sections.append(_counted(figures))
    sections += [_load(figures, server) for server in figures.load]
    sections += [_growth(figures, what) for what in figures.growth]
    if figures.memory:
        sections.append(_memory(figures))
    sections.append(_goals(figures))
    return "\n\n".join("\n".join(section) for section in sections)


def as_json(figures: Figures) -> str:
    """Everything, with peers and rows as keys."""
    document = {
        "about": figures.about,
        "timed": _nested(figures.timed),
        "overhead": _nested({key: figures.overhead(*key) for key in figures.timed if not PEERS[key[0]].is_bare}),
        "counted": _nested(figures.counted),
        "memory": figures.memory and {**asdict(figures.memory), "ratio": figures.memory.ratio},
        "load": {server: _nested(found) for server, found in figures.load.items()},
        "growth": {
            what: _nested({key: [asdict(point) for point in points] for key, points in found.items()})
            for what, found in figures.growth.items()
        },
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals(figures)],
    }
    return json.dumps(document, indent=1)


def goal_lines(found: Sequence[Goal]) -> list[list[str]]:
    """A goal, what came out, what was to come out, and the verdict: one list for each."""
    return [
        [
            goal.row + (f" / {goal.beside}" if goal.beside else ""),
            "" if goal.figure is None else f"{goal.figure:.2f} {goal.unit}",
            "" if goal.limit is None else f"{goal.sense} {goal.limit:g} {goal.unit}",
            "not measured" if goal.figure is None else _VERDICTS[goal.met],
        ]
        for goal in found
    ]


def in_order(keys: Iterable[Key]) -> list[Key]:
    """Row by row, and peers as they are listed."""
    peers = {peer: rank for rank, peer in enumerate(PEERS)}
    return sorted(keys, key=lambda key: (_RANKS.get(key[1], 0), key[1], peers[key[0]]))


def _nested(found: dict[Key, Any]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for (peer, row), value in found.items():
        tree.setdefault(peer, {})[row] = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    return tree


def _about(figures: Figures) -> Iterator[str]:
    yield from (f"{name:<12} {value}" for name, value in figures.about.items())


def _timed(figures: Figures) -> list[str]:
    lines = [["microseconds a request", "adds", "adds (median)", "to last byte", "CPU added", "in all"]]
    for key in in_order(figures.timed):
        timing, added = figures.timed[key], figures.overhead(*key)
        if PEERS[key[0]].is_bare or added is None:
            lines.append([f"{key[1]}  {key[0]}", "", "", "", "", f"{timing.whole:.1f}"])
            continue
        values = (added.whole, added.median_whole, added.last_byte, added.cpu, timing.whole)
        lines.append([f"{key[1]}  {key[0]}", *(f"{value:.1f}" for value in values)])
    return _table(lines)


def _counted(figures: Figures) -> list[str]:
    lines = [["each request", "trips", "B sent", "B received", "SQL", "later: trips", "SQL", "commands"]]
    for key in in_order(figures.counted):
        counted = figures.counted[key]
        numbers = (counted.trips, counted.sent, counted.received, counted.statements)
        later = (counted.later_trips, counted.later_statements, sum(counted.commands.values()))
        lines.append([f"{key[1]}  {key[0]}", *map(str, numbers + later)])
    return _table(lines)


def _load(figures: Figures, server: str) -> list[str]:
    names = ("median /s", "best /s", "median ms", "99 % ms", "/CPU s", "server", "generator", "not as it should be")
    lines = [[f"{server} connections", *names]]
    found = figures.load[server]
    for key in in_order(found):
        load = found[key]
        numbers = [f"{load.median:.0f}", f"{load.best:.0f}", f"{load.median_ms:.2f}", f"{load.p99_ms:.2f}"]
        shares = [f"{load.per_processor:.0f}", f"{load.server:.0%}", f"{load.generator:.0%}"]
        lines.append([f"{key[1]}  {key[0]}", *numbers, *shares, load.troubles])
    return _table(lines)


def _growth(figures: Figures, what: str) -> list[str]:
    lines = [[f"by {what}", what, "microseconds", "B sent to Redis", "B sent to SQL"]]
    for (peer, row), points in figures.growth[what].items():
        for point in points:
            numbers = (point.size, round(point.microseconds), point.sent, point.sql_sent)
            lines.append([f"{row}  {peer}", *map(str, numbers)])
    return _table(lines)


def _memory(figures: Figures) -> Iterator[str]:
    memory = figures.memory
    if memory:
        yield f"memory of a session, bytes: {memory.session:.0f} in all; as one JSON string {memory.as_json:.0f}"
        yield f"(ratio {memory.ratio:.2f}); a string of the values only {memory.values_only:.0f}"


def _goals(figures: Figures) -> list[str]:
    return _table([["goal", "figure", "limit", ""], *goal_lines(goals(figures))])


def _table(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        rows.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return rows
