"""What a visit does to the row of a user, which is held meanwhile: places for sessions, and cut-offs.

A row has to be there to be held, so it is added first.  Two who both found none, and both waited in their transactions
to insert it, would lock each other out.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Insert
from sqlalchemy.exc import IntegrityError

from vedsess_middleware.errors import SessionLimitReached
from vedsess_middleware.stores.contract import ENDED_WITHIN, RESERVED_FOR
from vedsess_middleware.stores.sql import statements, work
from vedsess_middleware.stores.sql.tables import epoch_seconds, instant

__all__ = ["Missing", "cut_off", "cut_offs", "reserve"]

# Begins the names of those who have lost their place, and are about to be ended.
_LOST = "x:"


class Missing(NamedTuple):
    """A row that has to be there first."""

    statement: Insert
    values: Mapping[str, Any]

    def add(self, connection: Connection) -> None:
        """Add it, if nobody has meanwhile."""
        with suppress(IntegrityError):
            connection.execute(self.statement, self.values)


def reserve(
    connection: Connection, *, user_id: str, key: str, limit: int, deny: bool, at: float
) -> list[str] | Missing:
    """Take a place, and return the keys that lose theirs.

    Raises:
        SessionLimitReached: with `deny`: all places are taken.
    """
    row = connection.execute(statements.LOCK_USER, {"user": user_id}).one_or_none()
    if row is None:
        return _no_user(user_id, at)
    noted = {name: until for name, until in _reserved(row.reserved).items() if until > at * 1000}
    lost = {name.removeprefix(_LOST): until for name, until in noted.items() if name.startswith(_LOST)}
    reserved = {name: until for name, until in noted.items() if not name.startswith(_LOST) and name not in lost}
    taken = [each for each in _places(connection, user_id, reserved, at) if each != key and each not in lost]
    if deny and len(taken) >= limit:
        raise SessionLimitReached("the user has as many sessions as are allowed")
    late = (at + RESERVED_FOR - ENDED_WITHIN) * 1000
    leaving = [each for each, until in lost.items() if key in reserved or until <= late]
    leaving += taken[: max(0, len(taken) - limit + 1)]
    until = round((at + RESERVED_FOR) * 1000)
    kept = {f"{_LOST}{each}": until for each in leaving} | noted | {key: until}
    values = {"places": _encode(kept).decode(), "ends_at": max(row.expires_at, instant(at + RESERVED_FOR))}
    connection.execute(statements.RESERVE, {"user": user_id, **values})
    return leaving


def cut_off(
    connection: Connection, *, user_id: str, at: float, until: float, noted_until: float, dirty: bool
) -> list[str] | Missing:
    """Note that a user was cut off, end all sessions that there are, and return their keys."""
    count = connection.execute(statements.LOCK_CUT_OFFS).scalar_one_or_none()
    if count is None:
        return Missing(statements.ADD_FACT, {"name": "cut_offs", "value": "0"})
    row = connection.execute(statements.LOCK_USER, {"user": user_id}).one_or_none()
    if row is None:
        return _no_user(user_id, at)
    number = int(count) + 1
    moments = {"at": max(row.cut_off_at or _NEVER, instant(at)), "ends_at": max(row.expires_at, instant(noted_until))}
    connection.execute(statements.COUNT_CUT_OFF, {"count": str(number)})
    connection.execute(statements.CUT_OFF, {"user": user_id, "number": number, **moments})
    return work.end(connection, keys=[], user_id=user_id, at=at, until=until, dirty=dirty)


def cut_offs(connection: Connection, *, after: int) -> dict[str, float]:
    """Who was cut off, and when, after so many cut-offs."""
    return {user: epoch_seconds(at) for user, at in connection.execute(statements.CUT_OFFS, {"after": after})}


def _no_user(user_id: str, at: float) -> Missing:
    return Missing(statements.ADD_USER, {"user_id": user_id, "expires_at": instant(at + RESERVED_FOR)})


def _reserved(text: str | None) -> dict[str, int]:
    """Until when places are kept, by key.  What cannot be read keeps none: it would be over in seconds anyway."""
    try:
        return _decode(text or "{}")
    except ValueError:
        return {}


def _places(connection: Connection, user_id: str, reserved: Mapping[str, int], at: float) -> list[str]:
    """The keys that have a place: live sessions, those that would end first before the others, then those to come."""
    values = {"user": user_id, "now": instant(at), "keys": statements.padded(reserved)}
    rows = connection.execute(statements.PLACES, values).all()
    living = [row for row in rows if row.user_id == user_id and row.expires_at > instant(at)]
    stored = {row.session_id for row in rows}
    ordered = sorted(living, key=lambda row: (row.expires_at, row.session_id))
    return [row.session_id for row in ordered] + [each for each in reserved if each not in stored]


_NEVER = instant(0.0)
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(dict[str, int]).decode
