"""The one script, made of the files in `lua/`."""

import hashlib
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

__all__ = ["Script", "session_script"]

# Each is a branch of the script, in this order: what runs most comes first, for what is above it is run with it.
_BRANCHES = ("update", "touch", "lock", "unlock")
# These know how replicas are brought together.
_MORE_BRANCHES = ("load", "create", "finish", "merge", "confirm", "renew", "reserve")


class Script(NamedTuple):
    """A script and the name that Redis gives it."""

    text: str
    sha: str


@lru_cache(maxsize=8)
def session_script(epoch: str = "") -> Script:
    """The script of an epoch.

    One, so that a Redis which does not know it is noticed, and taught, once.  The epoch is a part of its text, and so
    of its name; after a full stop it names the processes that may run it.  Without arguments it does nothing but run.
    """
    _, _, processes = epoch.partition(".")
    parts = [f"local epoch, processes = '{epoch}', '{processes}'\n"]
    if processes:
        parts.append(_file("process"))
    parts += ["if #ARGV == 0 then return 1 end\n", "local key, command = KEYS[1], table.remove(ARGV)\n"]
    parts += [_file("guarded"), _file("due"), _file("common"), *map(_branch, _BRANCHES)]
    parts += [_file("replicas"), *map(_branch, _MORE_BRANCHES)]
    text = "".join(parts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _branch(name: str) -> str:
    return f"if command == '{name}' then\n{_file(name)}end\n"


def _file(name: str) -> str:
    return (resources.files(__package__) / "lua" / f"{name}.lua").read_text()
