"""The shape that all peers have."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.benchmarks.work import SMALL, Row

Colour = Literal["wsgi", "asgi"]

SECRET_KEY = "wy0gZzC0cSdtFqgQyVwcl5fZkBQ3qSGOQ7mVbXrKtJEpV8uNnA4hLs"
MIRRORS = {"vedsess": "off", "vedsess after-response": "after-response"}
"""The package's own peers by name, and how their copy in SQL is made."""

CONNECTIONS = 1024
"""Of pools whose requests fail when there are too few; redis-py's own limit is 100."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a peer keeps its sessions: a Redis database, an SQL database and a folder of its own."""

    redis_url: str
    database_url: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """An app that can be measured.

    Args:
        framework: what it is built on.
        name: of the session library; `bare` without one.
        colour: what `make` returns an app of.
        make: makes the app, and imports what it needs.
        in_cookie: whether the session is kept in the cookie, which limits its size.
        uses_sql: whether it gets a database.
        only: names of the rows that it takes part in; None for all that fit it.
    """

    framework: str
    name: str
    colour: Colour
    make: Callable[[Stores], Any]
    in_cookie: bool = False
    uses_sql: bool = False
    only: frozenset[str] | None = None

    @property
    def id(self) -> str:
        return f"{self.framework}/{self.name}"

    @property
    def slug(self) -> str:
        """The id as a name for databases and files."""
        return re.sub(r"\W+", "_", self.id.lower())

    @property
    def base(self) -> str:
        """The id of the same app without sessions."""
        return f"{self.framework}/bare"

    @property
    def is_bare(self) -> bool:
        return self.name == "bare"

    @property
    def is_ours(self) -> bool:
        return self.name in MIRRORS

    @property
    def waits_for_sql(self) -> bool:
        """Whether requests that write, or what comes after them, use the database."""
        return self.uses_sql and self.name != "vedsess"

    def takes(self, row: Row) -> bool:
        """Whether it can be measured in this row."""
        if self.only is not None:
            return row.name in self.only
        if row.pause:
            return self.is_ours and self.framework in ("Flask", "Starlette")
        if row.action == "login":
            return self.is_ours
        return row.fits_a_cookie or not self.in_cookie


class _BareSession(dict[str, Any]):
    def login(self, user_id: str) -> None:
        """Nobody is logged in."""


def bare_session() -> dict[str, Any]:
    """What the apps without sessions work on: the same values, in a dict that is everybody's."""
    return _BareSession(SMALL)


def ours(framework: str, colour: Colour, app: Callable[[], Any]) -> tuple[Peer, ...]:
    """The package on a framework, without and with copies in SQL.

    Args:
        framework: what the app is built on.
        colour: of the app.
        app: makes an app that looks for the session where the middleware puts it.
    """

    def making(mirror: str) -> Callable[[Stores], Any]:
        return lambda stores: wrapped(app(), colour, stores, mirror=mirror)

    return tuple(Peer(framework, name, colour, making(mirror), uses_sql=True) for name, mirror in MIRRORS.items())


def wrapped(app: Any, colour: Colour, stores: Stores, *, mirror: str) -> Any:
    """The app inside the package's middleware."""
    from vedsess_middleware import asgi, wsgi

    middleware: Any = wsgi.SessionMiddleware if colour == "wsgi" else asgi.SessionMiddleware
    return middleware(
        app, secret_key=SECRET_KEY, redis_url=stores.redis_url, database_url=stores.database_url, mirror=mirror
    )
