"""`vedsess demo`: for a person until Ctrl-C, or driven and judged by `--check`."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from vedsess_middleware.console.demo.rig import DemoFailed, Rig
from vedsess_middleware.console.render import screen

if TYPE_CHECKING:
    from vedsess_middleware.console.demo.drive import Row

__all__ = ["drive", "print_rows", "serve"]

_LOOK_EVERY = 0.2


def serve(port: int) -> int:
    """Run until Ctrl-C or SIGTERM, and return the exit code.

    Raises:
        ConfigurationError: something is not installed, or the port is taken.
        DemoFailed: an app or Redis fell over.
    """
    with _ended_by_signals(), Rig(port) as rig:
        _print_addresses(rig)
        while not (epitaph := rig.dead()):
            time.sleep(_LOOK_EVERY)
        raise DemoFailed(epitaph)
    return 0


def drive(port: int) -> int:
    """Drive the demo as a browser would, print every step, and return the exit code: 0 if each held.

    Raises:
        ConfigurationError: something is not installed, or the port is taken.
        DemoFailed: the demo could not be set up.
    """
    started_at, held = time.perf_counter(), False
    with _ended_by_signals(), Rig(port) as rig:
        from vedsess_middleware.console.demo.drive import Drive  # needs the extra, which Rig has looked for

        driving = Drive(rig)
        with screen().status("Driving the demo ..."):
            held = driving.run()
        print_rows(driving.rows)
        if not held:
            _print_logs(rig)
    _print_verdict(held, time.perf_counter() - started_at)
    return 0 if held else 1


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the block on Ctrl-C, and on SIGTERM in the same way."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _print_addresses(rig: Rig) -> None:
    out = screen()
    out.print(Text(f"Page      {rig.urls['wsgi']}/   (WSGI, waitress)", "bold"))
    lines = (
        f"ASGI app  {rig.urls['asgi']}/   (uvicorn)",
        f"Redis     redis-cli -s {rig.folder}/redis.sock",
        f"SQL       sqlite3 {rig.folder}/sessions.sqlite3",
        "Ctrl-C ends all of it.",
    )
    for line in lines:
        out.print(Text(line), soft_wrap=True)


def print_rows(rows: "Sequence[Row]") -> None:
    """Show what was tried, and below it what was seen where a step did not hold."""
    table = Table(box=SIMPLE_HEAD)
    for title in ("step", "app", "status", "store", "ms", ""):
        table.add_column(title, justify="right" if title == "ms" else "left", overflow="fold")
    for row in rows:
        verdict = Text("failed", "bold red") if row.flaw else Text("ok", "green")
        milliseconds = f"{row.seconds * 1000:.0f}"
        table.add_row(row.step, row.app.upper(), str(row.status or ""), row.store, milliseconds, verdict)
    out = screen()
    out.print(table)
    for row in rows:
        if row.flaw:
            place = f"{row.step} ({row.app.upper()})" if row.app else row.step
            out.print(Text(f"{place}: {row.flaw}", "bold red"), soft_wrap=True)


def _print_logs(rig: Rig) -> None:
    for app in rig.urls:
        screen().print(Text(f"\nThe {app.upper()} app said:\n{rig.log(app)}"), soft_wrap=True)


def _print_verdict(held: bool, seconds: float) -> None:
    verdict = "Every step held" if held else "Not every step held"
    screen().print(Text(f"{verdict} ({seconds:.1f} s).", "bold green" if held else "bold red"))
