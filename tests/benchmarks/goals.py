"""What the package is to cost at most, and whether it does."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.figures import Figures, Key

COPIES = "vedsess after-response"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and its limit.

    Args:
        row: what is measured.
        beside: what it is compared with; empty for a plain figure.
        unit: of the figure: a multiple of the other, microseconds, bytes or round trips.
        limit: the most, or with `sense=">="` the least, that meets the goal; None for a figure to compare with.
        sense: which of the two.
        figure: what came out; None if it was not measured.
    """

    row: str
    beside: str
    unit: Literal["x", "us", "B", "trips"]
    limit: float | None
    figure: float | None
    sense: Literal["<=", ">="] = "<="

    @property
    def met(self) -> bool | None:
        if self.figure is None or self.limit is None:
            return None
        return self.figure <= self.limit if self.sense == "<=" else self.figure >= self.limit


def goals(figures: Figures) -> list[Goal]:
    """All goals, with what a run has found."""
    return [*_small(figures), *_big(figures), *_load(figures), *_memory(figures)]


def _small(figures: Figures) -> Iterator[Goal]:
    for peer, row in (("WSGI/vedsess", "untouched"), ("WSGI/vedsess", "anonymous"), ("ASGI/vedsess", "anonymous")):
        yield Goal(f"{row}, {peer}", "", "us", 10, _overhead(figures, peer, row))
        yield Goal(f"{row}, {peer}", "", "trips", 0, _trips(figures, (peer, row)))
    for row, peer, other, limit in (
        ("read", "Flask/vedsess", "Flask-Session redis", 0.50),
        ("read", "WSGI/vedsess", "Beaker redis", 0.55),
        ("read", "WSGI/vedsess", "redis-py HGETALL", 1.8),
        ("read", "Starlette/vedsess", "starsessions redis", 0.55),
        ("read", "Litestar/vedsess", "Litestar redis", 0.45),
        ("write", "Flask/vedsess", "Flask-Session redis", 0.80),
        ("write", "Starlette/vedsess", "starsessions redis", 0.85),
    ):
        yield _compared(figures, row, peer, other, limit)
    for framework in ("Flask", "Starlette"):
        yield _to_last_byte(figures, framework, "write, paused", limit=1.10)
        yield _to_last_byte(figures, framework, "write", limit=None)


def _to_last_byte(figures: Figures, framework: str, row: str, *, limit: float | None) -> Goal:
    """What copies after the response cost the browser, beside none."""
    peer = f"{framework}/{COPIES}"
    copied, alone = (_overhead(figures, each, row, to="last_byte") for each in (peer, f"{framework}/vedsess"))
    return Goal(f"{row}, to the last byte, {peer}", "vedsess", "x", limit, _ratio(copied, alone))


def _big(figures: Figures) -> Iterator[Goal]:
    for row, limit, peers in (
        ("32 KB write", 0.45, ("WSGI/Beaker redis", "Flask/Flask-Session redis", "Django/cache redis")),
        ("32 KB read+write", 0.70, ("Starlette/starsessions redis", "Litestar/Litestar redis")),
    ):
        for framework, _, other in (peer.partition("/") for peer in peers):
            yield _compared(figures, row, f"{framework}/vedsess", other, limit)
    for peer, row in (("WSGI/vedsess", "32 KB write"), ("ASGI/vedsess", "32 KB read+write")):
        counted = figures.counted.get((peer, row))
        yield Goal(f"{row}, {peer}", "", "B", 500, counted.sent if counted else None)


def _load(figures: Figures) -> Iterator[Goal]:
    for server, action, peer, other, limit in (
        ("uvicorn 64", "read", "Starlette/vedsess", "starsessions redis", 2.5),
        ("uvicorn 64", "write", "Starlette/vedsess", "starsessions redis", 2.0),
        ("uvicorn 64", "read", "Starlette/vedsess", "cookie", 0.85),
        ("uvicorn 64", "write", "Starlette/vedsess", "cookie", 0.8),
        ("gunicorn 64", "read", "Flask/vedsess", "Flask-Session redis", 1.2),
        ("gunicorn 64", "write", "Flask/vedsess", "Flask-Session redis", 1.2),
    ):
        found = figures.load.get(server, {})
        own, theirs = found.get((peer, action)), found.get((_neighbour(peer, other), action))
        ratio = own.median / theirs.median if own and theirs else None
        yield Goal(f"{action}s per second, {server}, {peer}", other, "x", limit, ratio, ">=")


def _memory(figures: Figures) -> Iterator[Goal]:
    yield Goal("memory", "one string with the same record", "x", 1.6, figures.memory.ratio if figures.memory else None)


def _compared(figures: Figures, row: str, peer: str, other: str, limit: float) -> Goal:
    """The overhead of a peer beside that of another on the same framework."""
    found = _ratio(_overhead(figures, peer, row), _overhead(figures, _neighbour(peer, other), row))
    return Goal(f"{row}, {peer}", other, "x", limit, found)


def _neighbour(peer: str, other: str) -> str:
    return f"{peer.partition('/')[0]}/{other}"


def _overhead(figures: Figures, peer: str, row: str, *, to: Literal["whole", "last_byte"] = "whole") -> float | None:
    timing = figures.overhead(peer, row)
    return None if timing is None else timing.whole if to == "whole" else timing.last_byte


def _ratio(figure: float | None, other: float | None) -> float | None:
    return figure / other if figure is not None and other else None


def _trips(figures: Figures, key: Key) -> float | None:
    counted = figures.counted.get(key)
    return None if counted is None else counted.trips + counted.later_trips
