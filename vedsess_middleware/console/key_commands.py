"""The commands that make and change keys.  None shows a key but `keygen` without a file, and that one once."""

import shlex
from pathlib import Path

import click

from vedsess_middleware.console import keygen as keys
from vedsess_middleware.console.files import others_read
from vedsess_middleware.console.keygen import VARIABLES, Purpose
from vedsess_middleware.console.rotation import Move, Rotation, rotate_env_file, rotate_key_file

__all__ = ["keygen", "rotate_keys"]

_AT_LAST = "the longer of absolute_timeout and remember_timeout"
_USED: dict[Purpose, str] = {
    "secret": "Restart all processes.  Cookies that an older key signed stay valid, and are signed anew on their next "
    "use.  An older key may go after idle_timeout; where sessions have longer ones of their own, or there is a "
    f"fingerprint_policy, after {_AT_LAST}.",
    "encryption": "Restart all processes.  What an older key encrypted stays readable, and is encrypted anew when it "
    f"is next written.  An older key may go after {_AT_LAST}.",
}

_purpose = click.option(
    "--for", "purpose", type=click.Choice(list(VARIABLES)), default="secret", show_default=True, help="Which keys."
)


@click.command()
@_purpose
@click.option("--env-file", type=click.Path(dir_okay=False, path_type=Path), help="Append it there, unseen.")
def keygen(purpose: Purpose, env_file: Path | None) -> None:
    """Make a key, and show it once.

    With --env-file it is appended to that file, which is made (mode 0600) where it is missing.  A key that is there
    already stays: then this exits with 1.
    """
    if env_file is None:
        click.echo(f"{VARIABLES[purpose]}={keys.new_key()}")
        return
    keys.add_key(env_file, purpose)
    click.echo(f"A new {VARIABLES[purpose]} is in {env_file}.")
    _warn_of_readers(env_file)


@click.command("rotate-keys")
@_purpose
@click.option(
    "--env-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Has the keys on one of its lines."
)
@click.option(
    "--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Has the keys, and nothing else."
)
@click.option("--keep", type=click.IntRange(0), default=2, show_default=True, help="Drop older keys beyond so many.")
@click.option("--behind", is_flag=True, help="Put the new key last: all processes learn it, and none uses it.")
@click.option("--to-front", is_flag=True, help="Make no key: put the last one first, so that it is used.")
def rotate_keys(
    purpose: Purpose, env_file: Path | None, key_file: Path | None, keep: int, behind: bool, to_front: bool
) -> None:
    """Put a new key in front of those in a file.

    Drops the oldest, and shows none.  The first key signs or encrypts, and all of them verify or decrypt.  Where old
    and new processes run side by side for a while, make it two steps with a restart after each, --behind and then
    --to-front: no process meets a key that it does not know.
    """
    path = env_file or key_file
    if path is None or (env_file and key_file):
        raise click.UsageError("Give either --env-file or --key-file.")
    if behind and to_front:
        raise click.UsageError("--behind comes first, and --to-front after a restart of all processes.")
    move: Move = "behind" if behind else "to front" if to_front else "in front"
    option, rotate = ("--env-file", rotate_env_file) if env_file else ("--key-file", rotate_key_file)
    rotation = rotate(path, purpose, move, keep=keep)
    click.echo(_told(rotation, path, purpose))
    if move == "behind":
        command = shlex.join(["vedsess", "rotate-keys", "--for", purpose, option, str(path), "--to-front"])
        click.echo(f"Restart all processes: they know the new key then, and none uses it.  After that: {command}")
    else:
        click.echo(_USED[purpose])
    _warn_of_readers(path)


def _told(rotation: Rotation, path: Path, purpose: Purpose) -> str:
    number = "1 key" if rotation.count == 1 else f"{rotation.count} keys"
    dropped = f", after {rotation.dropped} went" if rotation.dropped else ""
    return f"{VARIABLES[purpose]}: {number} in {path} now{dropped}."


def _warn_of_readers(path: Path) -> None:
    if others_read(path):
        click.echo(f"Others can read that file: chmod 600 {shlex.quote(str(path))}", err=True)
