"""Pictures of what a run has found: SVG with a white ground, so that they can be read in light and dark viewers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figures, Key, Load
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
NAVY = "#12305e"
"""The package, where its lines for WSGI and ASGI share a panel."""
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
    return _panels_of_bars(figures, keys, BRIEF, "µs added", lambda timing: timing.whole)


def _copied(figures: Figures) -> Any:
    """The same for those that keep a copy in SQL, and for the package without one."""
    copying = {peer.framework for peer in PEERS.values() if peer.waits_for_sql and not peer.is_ours} | {"Starlette"}
    peers = {peer.id for peer in PEERS.values() if peer.framework in copying and peer.uses_sql}
    keys = [key for key in figures.timed if key[0] in peers and key[1] in COPIED]
    return _panels_of_bars(figures, keys, COPIED, "µs added, to the last byte", lambda timing: timing.last_byte)


def _panels_of_bars(
    figures: Figures, keys: Iterable[Key], rows: Sequence[str], label: str, value: Callable[[Any], float]
) -> Any:
    panels: dict[str, dict[str, dict[str, float]]] = {}
    ranks = {peer: (each.is_ours, rank) for rank, (peer, each) in enumerate(PEERS.items())}
    for key in sorted(keys, key=lambda key: ranks[key[0]]):
        added = figures.overhead(*key)
        framework, _, peer = key[0].partition("/")
        if added is not None:
            panels.setdefault(framework, {}).setdefault(peer, {})[key[1]] = max(value(added), 0.0)
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=2.7)
    frameworks = sorted(panels, key=list(dict.fromkeys(peer.framework for peer in PEERS.values())).index)
    for axis, framework in zip(axes, frameworks, strict=True):
        bars = panels[framework]
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
    axis.margins(x=0.02, y=0.1)
    axis.legend(fontsize=7.5, loc="lower right", bbox_to_anchor=(1.01, 0.98), ncols=len(bars), columnspacing=1.2)


def _throughput(figures: Figures) -> Any:
    """Requests per second by connections: a panel for each web server and action."""
    panels: dict[tuple[str, str], dict[str, dict[int, Load]]] = {}
    for table, found in figures.load.items():
        server, _, connections = table.partition(" ")
        for (peer, action), load in found.items():
            panels.setdefault((server, action), {}).setdefault(peer, {})[int(connections)] = load
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=3.9)
    for axis, ((server, action), lines) in zip(axes, panels.items(), strict=True):
        for peer, loads in lines.items():
            sizes = sorted(loads)
            _line(axis, peer, lines, sizes, [loads[size].median for size in sizes])
        ticks = sorted({size for loads in lines.values() for size in loads})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.set_title(f"{server}, {action}", loc="left")
        axis.set(xlabel="connections", ylabel="requests per second, median")
        axis.set_ylim(bottom=0)
        _legend(axis)
    return figure


def _growth(figures: Figures) -> Any:
    """What a request takes and sends as there are more sessions, and as they are larger."""
    panels = [(what, kind) for what in (SESSIONS, BYTES) if what in figures.growth for kind in ("µs", "bytes sent")]
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=3.9)
    for axis, (what, kind) in zip(axes, panels, strict=True):
        lines = figures.growth[what]
        names = dict.fromkeys(peer for peer, _ in lines)
        for (peer, row), points in lines.items():
            heights = [point.microseconds if kind == "µs" else point.sent + point.sql_sent for point in points]
            reads = row not in ("write", "one field set")
            _line(axis, peer, names, [point.size for point in points], heights, dashed=reads)
        axis.set(xscale="log", yscale="log", xlabel=what, ylabel=f"{kind} for each request")
        axis.set_title(f"{kind}, by {what}", loc="left")
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(_short)
            each.set_minor_formatter("")
        _widen(axis)
        _legend(axis)
    return figure


def _short(number: float, _: object) -> str:
    """A power of ten as one writes it on an axis."""
    for size, name in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g} {name}"
    return f"{number:g}"


def _widen(axis: Any) -> None:
    """Show whole decades, so that an axis has labels and noise does not look like growth."""
    low, high = axis.get_ylim()
    axis.set_ylim(10 ** floor(log10(low)), 10 ** ceil(log10(high)))


def _legend(axis: Any) -> None:
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _line(
    axis: Any,
    peer: str,
    among: Iterable[str],
    sizes: Sequence[int],
    heights: Sequence[float],
    *,
    dashed: bool = False,
) -> None:
    """A line; only whole ones are in the legend."""
    framework, _, library = peer.partition("/")
    second = framework in ("Litestar", "ASGI")
    libraries = dict.fromkeys(each.partition("/")[2] for each in among)
    axis.plot(
        sizes,
        heights,
        label="_" if dashed else peer,
        color=NAVY if second and library == "vedsess" else _colour(library, libraries),
        marker="s" if second else "o",
        markersize=3.5,
        linewidth=1.4,
        linestyle="--" if dashed else "-",
    )


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
