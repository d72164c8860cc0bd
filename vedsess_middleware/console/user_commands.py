"""The commands that show, hand out and end what is kept of one user.  They sign nothing, and need no secret key."""

import sys
from dataclasses import asdict
from functools import partial

import click

from vedsess_middleware.console import render
from vedsess_middleware.console.base import FAILED, print_json
from vedsess_middleware.console.stores import run_managed, settings_without_key
from vedsess_middleware.console.users import AsStored, revoke_all_but, revoke_one
from vedsess_middleware.events import Event, RecordRejected
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.session import user_text

__all__ = ["erase", "export", "revoke", "sessions"]


def _checked(_ctx: click.Context, _parameter: click.Parameter, user: str) -> str:
    """A user id as an app may have given it to `login`; an empty one is a slip, as with an unset variable."""
    try:
        return user_text(user)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_user = click.argument("user", callback=_checked)


@click.command()
@_user
@click.option("--json", "in_json", is_flag=True, help="For programs; instants in epoch seconds.")
def sessions(user: str, in_json: bool) -> None:
    """List the live sessions of a user.

    The last used comes first.  Put -- in front of a USER that begins with a dash, here and elsewhere.
    """
    found = run_managed(settings_without_key(), lambda manager: manager.sessions(user))
    if in_json:
        print_json({"user_id": user, "sessions": [asdict(each) for each in found]})
    elif found:
        render.print_sessions(found)
    else:
        click.echo(f"{render.harmless(user)} has no live session.")


@click.command()
@_user
@click.option("--handle", help="Only the session with this handle, as `vedsess sessions` lists it.")
@click.option("--all-but", multiple=True, metavar="HANDLE", help="All but this one; may be given several times.")
@click.option("--everything", is_flag=True, help="Also what no index names any more: for a stolen or disabled account.")
def revoke(user: str, handle: str | None, all_but: tuple[str, ...], everything: bool) -> None:
    """End the sessions of a user: all, without an option.

    Says how many it were.  Exits with 1, and ends nothing, where no session has a handle that was given.
    """
    if (handle is not None) + bool(all_but) + everything > 1:
        raise click.UsageError("Give one of --handle, --all-but and --everything.")
    if everything:
        ended = run_managed(settings_without_key(), lambda manager: manager.cut_off(user))
    elif handle is not None:
        ended = run_managed(settings_without_key(), partial(revoke_one, user=user, handle=handle))
    elif all_but:
        ended = run_managed(settings_without_key(), partial(revoke_all_but, user=user, handles=all_but))
    else:
        ended = run_managed(settings_without_key(), lambda manager: manager.revoke(user))
    click.echo(f"Ended of {render.harmless(user)}: {_sessions(ended)}.")


@click.command()
@_user
@click.pass_context
def export(ctx: click.Context, user: str) -> None:
    """Print a user's sessions as JSON, values included.

    Types that JSON lacks look as they are stored, such as {"!date": "2026-11-23"}.  What is encrypted needs
    VEDSESS_ENCRYPTION_KEY.  Exits with 1 if a value cannot be read; it is named, and the others are printed.
    """
    told: list[Event] = []
    work = partial(SessionManager.export, user_id=user)
    found = run_managed(settings_without_key(), work, on_event=told.append, codec=AsStored())
    print_json({"user_id": user, "sessions": found})
    missing = [event.reason for event in told if isinstance(event, RecordRejected)]
    for reason in missing:
        click.echo(f"Missing: {reason}", err=True)
    ctx.exit(FAILED if missing else 0)


@click.command()
@_user
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(user: str, yes: bool) -> None:
    """End and remove all that is kept of a user.

    Of a session remains that there was one.  Asks first; without a terminal to ask on, --yes has to be given.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask on: give --yes.")
        click.confirm(f"Erase all sessions of {render.harmless(user)}?", abort=True, err=True)
    ended = run_managed(settings_without_key(), lambda manager: manager.erase(user))
    click.echo(f"Erased of {render.harmless(user)}: {_sessions(ended)}.")


def _sessions(number: int) -> str:
    return "1 session" if number == 1 else f"{number} sessions"
