"""How results look in a terminal; elsewhere the same words without colour and without line breaks of ours."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vedsess_middleware.console.reports import Report
from vedsess_middleware.console.steps import Outcome, Step
from vedsess_middleware.manager import SessionInfo
from vedsess_middleware.settings import Settings

__all__ = [
    "as_json",
    "harmless",
    "print_reports",
    "print_sessions",
    "print_settings",
    "print_steps",
    "screen",
    "settings_rows",
]

_STYLES: Mapping[Outcome, str] = {
    "ok": "green",
    "note": "cyan",
    "warning": "yellow",
    "failed": "bold red",
    "skipped": "dim",
}
_WIDE = 200
_WORTH_TELLING = 0.0005


def screen() -> Console:
    """Where to print: as wide as the terminal, and wide enough for any table elsewhere."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDE)


def settings_rows(settings: Settings) -> dict[str, dict[str, str]]:
    """Each setting as text, without secrets, and where it came from."""
    sources = settings.sources
    return {name: {"value": value, "source": sources.get(name, "default")} for name, value in settings.masked().items()}


def print_settings(settings: Settings) -> None:
    """One line each."""
    rows = settings_rows(settings)
    _print_area("Settings", ((name, "", row["value"] or "-", f"({row['source']})") for name, row in rows.items()))


def print_steps(steps: Sequence[Step]) -> None:
    """One line each, by area, and one more for each mend."""
    for area, members in groupby(steps, key=lambda step: step.area):
        _print_area(area, ((step.name, step.outcome, _detail(step), step.mend) for step in members))


def print_reports(reports: Sequence[Report]) -> None:
    """One block for each store."""
    for report in reports:
        facts: dict[str, Any] = dict(report.facts)
        if report.stats is not None:
            facts = {"active sessions": report.stats.active, "users": report.stats.users, **report.stats.details}
        if report.removed is not None:
            facts = {"entries removed": report.removed}
        rows: list[tuple[str, Any, str, str]] = [(name, "", str(value), "") for name, value in facts.items()]
        if report.error:
            rows.append(("left over" if facts else "no answer", "failed", report.error, ""))
        _print_area(report.store, rows)


def print_sessions(sessions: Sequence[SessionInfo]) -> None:
    """One row each.  What a client said of itself is shown as text, and as nothing else."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("handle", no_wrap=True)
    for name in ("created (UTC)", "last used", "ends", "client", "address"):
        table.add_column(name, overflow="fold")
    for each in sessions:
        instants = [_instant(at) for at in (each.created_at, each.last_activity, each.expires_at)]
        said = [harmless(text or "-") for text in (each.user_agent, each.ip_address)]
        table.add_row(*(Text(cell) for cell in (each.handle, *instants, *said)))
    screen().print(table)


def harmless(text: str) -> str:
    """The text with an escape sequence for each character that a terminal would act on, or not show."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def as_json(step: Step) -> dict[str, Any]:
    """A step for programs."""
    milliseconds = None if step.seconds is None else round(step.seconds * 1000, 1)
    return {
        "area": step.area,
        "name": step.name,
        "outcome": step.outcome,
        "detail": step.detail,
        "mend": step.mend,
        "milliseconds": milliseconds,
    }


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _detail(step: Step) -> str:
    took = f"{step.seconds * 1000:.0f} ms" if step.seconds is not None and step.seconds >= _WORTH_TELLING else ""
    return ", ".join(part for part in (step.detail, took) if part)


def _print_area(title: str, rows: Iterable[tuple[str, Any, str, str]]) -> None:
    out, lines = screen(), list(rows)
    width = max(len(name) for name, *_ in lines)
    out.print(Text(title, style="bold"))
    for name, outcome, detail, more in lines:
        line = Text(f"  {name:<{width}}  ")
        if outcome:
            line.append(f"{outcome:<9}", style=_STYLES[outcome])
        line.append(detail)
        if more and outcome:
            line.append(f"\n{'':<{width + 13}}mend: {more}", style=_STYLES[outcome])
        elif more:
            line.append(f"  {more}", style="dim")
        out.print(line, soft_wrap=True)
    out.print()
