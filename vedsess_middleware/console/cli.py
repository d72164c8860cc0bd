"""The command and what it takes, says and exits with: for the stores here, for keys and users in rooms beside."""

from typing import Any

import click

from vedsess_middleware.console import key_commands, render, reports, user_commands
from vedsess_middleware.console.base import FAILED, Commands, print_json
from vedsess_middleware.console.check import check as run_check
from vedsess_middleware.console.stores import database_url, run, settings_without_key
from vedsess_middleware.settings import Settings, mask_url
from vedsess_middleware.stores.sql import SQLStore
from vedsess_middleware.stores.sql.ddl import table_statements
from vedsess_middleware.stores.sql.tables import metadata

__all__ = ["cli"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Sessions in Redis while it is up, in SQL when it is not.

    Settings come from the environment: VEDSESS_*, REDIS_URL and the others that the README lists.

    Exit codes: 0 done, 1 a check or the work failed, 2 wrong usage or configuration.
    """


@cli.command()
@click.option("--json", "in_json", is_flag=True, help="For programs.")
@click.pass_context
def check(ctx: click.Context, in_json: bool) -> None:
    """Try settings, Redis, SQL and a probe session; say what is wrong and how to mend it.

    Exits with 1 if a step failed; warnings do not count.
    """
    settings = Settings.from_env()
    steps = run(settings, lambda is_async: run_check(settings, is_async=is_async))
    failed = any(step.outcome == "failed" for step in steps)
    if in_json:
        listed = [render.as_json(step) for step in steps]
        print_json({"ok": not failed, "settings": render.settings_rows(settings), "steps": listed})
    else:
        render.print_settings(settings)
        render.print_steps(steps)
    ctx.exit(FAILED if failed else 0)


@cli.command()
@click.option("--json", "in_json", is_flag=True, help="For programs.")
@click.pass_context
def stats(ctx: click.Context, in_json: bool) -> None:
    """Count active sessions and users, exactly, and show how each store does.

    Walks all sessions.  Exits with 1 if no store answered.
    """
    settings = settings_without_key()
    found = run(settings, lambda is_async: reports.count(settings, is_async=is_async))
    if in_json:
        print_json({"stores": [_stats(report) for report in found]})
    else:
        render.print_reports(found)
    ctx.exit(0 if any(not report.error for report in found) else FAILED)


@cli.command()
@click.pass_context
def cleanup(ctx: click.Context) -> None:
    """Remove what has expired from every store: rows, and entries of indexes.

    Exits with 1 if a store did not answer; what the other one had to remove is removed all the same.
    """
    settings = settings_without_key()
    found = run(settings, lambda is_async: reports.cleanup(settings, is_async=is_async))
    render.print_reports(found)
    ctx.exit(FAILED if any(report.error for report in found) else 0)


@cli.command()
@click.option("--json", "in_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, in_json: bool) -> None:
    """Show whether each store answers, and what it owes the other.  Changes nothing in them.

    Exits with 1 if a store did not answer.
    """
    settings = settings_without_key()
    found = run(settings, lambda is_async: reports.status(settings, is_async=is_async))
    if in_json:
        facts = ({"store": report.store, **report.facts, "error": report.error or None} for report in found)
        print_json({"stores": list(facts)})
    else:
        render.print_reports(found)
    ctx.exit(FAILED if any(report.error for report in found) else 0)


@cli.command()
@click.option("--seconds", type=click.FloatRange(0), default=30.0, show_default=True, help="Give up after so long.")
@click.pass_context
def maintain(ctx: click.Context, seconds: float) -> None:
    """Bring both stores to agree, and remove what has expired: for idle sites, and for cron.

    A busy site does all but the removing by itself, after its responses.  Exits with 1 if something is left.
    """
    settings = settings_without_key()
    found = run(settings, lambda is_async: reports.maintain(settings, is_async=is_async, seconds=seconds))
    render.print_reports(found)
    ctx.exit(FAILED if any(report.error for report in found) else 0)


@cli.command("sql-init")
@click.option("--print", "only_print", is_flag=True, help="Print the statements instead, and connect to nothing.")
def sql_init(only_print: bool) -> None:
    """Make the tables where they are missing.

    An app makes them on first use if its database user may; otherwise run this as one who may.
    """
    settings = settings_without_key()
    url = database_url(settings)
    if only_print:
        click.echo("\n".join(f"{statement};\n" for statement in table_statements(url)).rstrip())
        return
    run(settings, lambda is_async: _make_tables(url, is_async, settings.sql_timeout))
    click.echo(f"In {mask_url(url)}: {', '.join(sorted(metadata.tables))}.")


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page; 0, the default, is a free one.")
@click.option("--check", "drive", is_flag=True, help="Drive it as a browser would, print each step, and end.")
@click.pass_context
def demo(ctx: click.Context, port: int, drive: bool) -> None:
    """Start Redis, a WSGI app and an ASGI app that share one session, and a page to play with them.

    Needs the extra `demo`.  Ctrl-C ends all of it and leaves nothing behind.
    """
    from vedsess_middleware.console.demo.run import drive as drive_demo
    from vedsess_middleware.console.demo.run import serve

    ctx.exit(drive_demo(port) if drive else serve(port))


for command in (
    key_commands.keygen,
    key_commands.rotate_keys,
    user_commands.sessions,
    user_commands.revoke,
    user_commands.export,
    user_commands.erase,
):
    cli.add_command(command)


async def _make_tables(url: str, is_async: bool, timeout: float) -> None:
    store = SQLStore.from_url(url, is_async=is_async, timeout=timeout)
    try:
        await store.create_tables()
    finally:
        await store.close()


def _stats(report: reports.Report) -> dict[str, Any]:
    if report.stats is None:
        return {"store": report.store, "error": report.error}
    return {
        "store": report.store,
        "active": report.stats.active,
        "users": report.stats.users,
        "details": dict(report.stats.details),
    }
