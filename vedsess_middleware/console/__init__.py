"""The command `vedsess`: check, count and tidy, keys, users, and a demo.  Needs the extra `cli`."""

import sys

__all__ = ["main"]

_NEEDED = ("click", "rich")


def main() -> None:
    """Run the command line, and exit: 0 done, 1 a check or the work failed, 2 wrong usage or configuration."""
    try:
        from vedsess_middleware.console.cli import cli
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        sys.stderr.write(f"vedsess needs {package}: pip install 'vedsess-middleware[cli]'\n")
        sys.exit(2)
    cli(prog_name="vedsess")
