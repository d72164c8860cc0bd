"""What all commands share: how a group turns errors into one line, and how a program is answered."""

import json
from typing import Any

import click

from vedsess_middleware.errors import ConfigurationError, SessionError, StoreUnavailable

__all__ = ["FAILED", "Commands", "print_json"]

FAILED = 1
"""The exit code where a check or the work failed."""

_WRONG = 2


class _Failure(click.ClickException):
    """One line on standard error."""

    exit_code = FAILED


class _Misuse(_Failure):
    """The settings are wrong."""

    exit_code = _WRONG


class Commands(click.Group):
    """Turns our errors into one line: a person who runs a command has no use for a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise _Misuse(str(error)) from error
        except StoreUnavailable as error:
            raise _Failure(f"{error}; `vedsess check` says why") from error
        except SessionError as error:
            raise _Failure(str(error)) from error
        except BrokenPipeError:  # the reader has seen enough
            raise
        except OSError as error:
            raise _Failure(f"{error.filename or 'system'}: {error.strerror or error}") from error


def print_json(value: Any) -> None:
    """Answer a program: ASCII only, so that no terminal acts on what is in it."""
    click.echo(json.dumps(value, indent=2))
