"""Pictures of what a run has found: SVG with a white ground, so that they can be read in light and dark viewers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figures, Key, Load, Point
from tests.benchmarks.growth import BYTES, SESSIONS
from tests.benchmarks.peers import PEERS

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
COLOURS = {
    "vedsess": "#0b5fb4",
    "vedsess after-response": "#6bb1f2",
    "bare": "#bdbdbd",
    "cookie": "#8a8a8a",
    "redis-py HGETALL": "#2f2f2f",
}
OTHERS = ("#e07b1a", "#b5482a", "#7b5ea7", "#4f8f4a")
BRIEF = ("untouched", "read", "write", "read+write", "create", "32 KB read", "32 KB write", "32 KB read+write")
COPIED = ("read", "write", "write, paused", "read+write", "create")
Bars = Mapping[str, Mapping[str, float]]
"""Heights by peer, then by row."""


def draw(figures: Figures, folder: Path) -> list[tuple[str, str]]:
    """Write a file for each picture that the run has figures for, and return names and titles."""
    from matplotlib import rc_context

    drawn = []
    with rc_context(STYLE):
        for name, title, picture in PICTURES:
            found = picture(figures)
            if found is not None:
                # The same figures give the same file.
                found.savefig(folder / f"{name}.svg", metadata={"Date": None})
                drawn.append((name, title))
    return drawn


def _overhead(figures: Figures) -> Any:
    """A panel of bars for each framework; those that copy to SQL are in a picture of their own."""
    peers = {peer.id for peer in PEERS.values() if not (peer.is_bare or peer.waits_for_sql)}
    keys = [key for key in figures.timed if key[0] in peers and key[1] in BRIEF]
    return _panels_of_bars(figures, keys, BRIEF, "microseconds added to a request", lambda timing: timing.whole)


def _copied(figures: Figures) -> Any:
    """The same for those that keep a copy in SQL."""
    keys = [key for key in figures.timed if key[1] in COPIED and PEERS[key[0]].waits_for_sql]
    frameworks = {peer.partition("/")[0] for peer, _ in keys if not PEERS[peer].is_ours}
    chosen = [key for key in keys if key[0].partition("/")[0] in (frameworks or {"Flask", "Starlette"})]
    label = "microseconds added, to the last byte"
    return _panels_of_bars(figures, chosen, COPIED, label, lambda timing: timing.last_byte)


def _panels_of_bars(
    figures: Figures, keys: Iterable[Key], rows: Sequence[str], label: str, value: Callable[[Any], float]
) -> Any:
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for key in sorted(keys, key=lambda key: list(PEERS).index(key[0])):
        added = figures.overhead(*key)
        framework, _, peer = key[0].partition("/")
        if added is not None:
            panels.setdefault(framework, {}).setdefault(peer, {})[key[1]] = max(value(added), 0.0)
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=2.7)
    for axis, (framework, bars) in zip(axes, panels.items(), strict=False):
        shown = [row for row in rows if any(row in heights for heights in bars.values())]
        _bars(axis, bars, shown)
        axis.set_title(framework, loc="left")
        axis.set_ylabel(label)
    return figure


def _bars(axis: Any, bars: Bars, rows: Sequence[str]) -> None:
    width = 0.8 / len(bars)
    for number, (peer, heights) in enumerate(bars.items()):
        found = [(place, heights[row]) for place, row in enumerate(rows) if row in heights]
        places = [place + (number - (len(bars) - 1) / 2) * width for place, _ in found]
        tall = [height for _, height in found]
        drawn = axis.bar(places, tall, width * 0.92, label=peer, color=_colour(peer, bars))
        axis.bar_label(drawn, fmt="%.0f", fontsize=5.5, padding=1, color="#444444")
    axis.set_xticks(range(len(rows)), [row.replace(" KB ", " KB\n").replace(", ", ",\n") for row in rows], fontsize=7.5)
    axis.grid(visible=False, axis="x")
    axis.margins(x=0.02, y=0.12)
    axis.legend(fontsize=7.5, loc="upper left")


def _throughput(figures: Figures) -> Any:
    """Requests per second by connections: a panel for each web server and action."""
    panels: dict[tuple[str, str], dict[str, dict[int, Load]]] = {}
    for table, found in figures.load.items():
        server, _, connections = table.partition(" ")
        for (peer, action), load in found.items():
            panels.setdefault((server, action), {}).setdefault(peer, {})[int(connections)] = load
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=3.4)
    for axis, ((server, action), lines) in zip(axes, sorted(panels.items(), reverse=True), strict=False):
        for peer, loads in lines.items():
            sizes = sorted(loads)
            _line(axis, peer, lines, sizes, [loads[size].median for size in sizes])
        ticks = sorted({size for loads in lines.values() for size in loads})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.set_title(f"{server}, {action}", loc="left")
        axis.set(xlabel="connections", ylabel="requests per second")
        axis.set_ylim(bottom=0)
        axis.margins(y=0.1)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    return figure


def _growth(figures: Figures) -> Any:
    """What a request takes and sends as there are more sessions, and as they are larger."""
    panels: list[tuple[str, str, str, Callable[[Point], float]]] = [
        (SESSIONS, "Time, by sessions", "microseconds a request", lambda point: point.microseconds),
        (SESSIONS, "Sent, by sessions", "bytes a request", lambda point: point.sent + point.sql_sent),
        (BYTES, "Time, by size", "microseconds a request", lambda point: point.microseconds),
        (BYTES, "Sent, by size", "bytes a request", lambda point: point.sent + point.sql_sent),
    ]
    chosen = [panel for panel in panels if panel[0] in figures.growth]
    if not chosen:
        return None
    figure, axes = _grid(len(chosen), height=3.4)
    for axis, (what, title, label, value) in zip(axes, chosen, strict=False):
        lines = figures.growth[what]
        names = dict.fromkeys(peer for peer, _ in lines)
        for (peer, row), points in lines.items():
            sizes = [point.size for point in points]
            blind = row in ("write", "one field set")
            _line(axis, peer, names, sizes, [value(point) for point in points], name=f"{peer}: {row}", dashed=not blind)
        axis.set(xscale="log", yscale="log", title="", xlabel=what, ylabel=label)
        axis.set_title(title, loc="left")
        axis.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.02))
    return figure


def _line(
    axis: Any,
    peer: str,
    among: Iterable[str],
    sizes: Sequence[int],
    heights: Sequence[float],
    *,
    name: str = "",
    dashed: bool = False,
) -> None:
    framework, _, library = peer.partition("/")
    marker = {"Litestar": "s", "ASGI": "s"}.get(framework, "o")
    style = {"marker": marker, "markersize": 3.5, "linewidth": 1.4, "linestyle": "--" if dashed else "-"}
    libraries = dict.fromkeys(each.partition("/")[2] for each in among)
    axis.plot(sizes, heights, label=name or peer, color=_colour(library, libraries), **style)


def _colour(peer: str, among: Iterable[str]) -> str:
    """The package is blue everywhere, what is no server-side session is grey, and the others take their turns."""
    others = [name for name in among if name not in COLOURS]
    return COLOURS.get(peer) or OTHERS[others.index(peer) % len(OTHERS)]


def _grid(count: int, *, height: float) -> tuple[Any, list[Any]]:
    """A figure with so many panels, two in a row, each so many inches high."""
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = -(-count // columns)
    figure: Any = Figure(figsize=(5.6 * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(count)]
    return figure, axes


PICTURES: tuple[tuple[str, str, Callable[[Figures], Any]], ...] = (
    ("overhead", "What a session adds to a request", _overhead),
    ("copies", "What a session adds that is kept in SQL as well", _copied),
    ("throughput", "Requests per second", _throughput),
    ("growth", "More sessions, larger sessions", _growth),
)
"""Name of the file, title, and what draws it or returns None where there are no figures."""
