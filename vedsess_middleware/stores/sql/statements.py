"""Every statement, built once: so SQLAlchemy compiles it once, and the server prepares it once."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, case, delete, insert, null, or_, select, union_all
from sqlalchemy import update as update_rows

from vedsess_middleware.stores.sql.tables import facts, sessions

__all__ = [
    "BURY",
    "CLAIM",
    "FIND",
    "FORGET",
    "INSERT",
    "LOCK",
    "LOCK_ALL",
    "MOST_DIRTY",
    "NAMED",
    "NAMED_OR_OF_USER",
    "NOTE_USE",
    "OF_USER",
    "OWED",
    "PAY",
    "PAY_UNDER",
    "POLL",
    "SET_EPOCH",
    "SET_FIRST_EPOCH",
    "STORE",
    "SWAP",
    "padded",
]

MOST_DIRTY = 1000

_c = sessions.c
_CHANGING = ("updated_at", "last_activity", "expires_at", "s", "r", "dirty", "fields")


def _new(name: str) -> BindParameter[Any]:
    return bindparam(f"new_{name}", type_=_c[name].type)


def _is_key(name: str = "key") -> ColumnElement[bool]:
    return _c.session_id == bindparam(name)


def _one_of(name: str = "keys") -> ColumnElement[bool]:
    return _c.session_id.in_(bindparam(name, expanding=True))


_EPOCH = facts.c.name == "epoch"
_IS_EPOCH = select(facts.c.value).where(_EPOCH, facts.c.value == bindparam("epoch")).exists()
_IS_VERSION = and_(_is_key(), _c.s == bindparam("at_s"), _c.r == bindparam("at_r"))

FIND = select(sessions).where(_is_key())
LOCK = FIND.with_for_update()
LOCK_ALL = select(sessions).where(_one_of()).order_by(_c.session_id).with_for_update()
INSERT = insert(sessions)
STORE = update_rows(sessions).where(_is_key()).values({c.name: _new(c.name) for c in _c if not c.primary_key})
SWAP = (
    update_rows(sessions)
    .where(_is_key(), _c.is_active, *(_c[name] == bindparam(f"old_{name}") for name in _CHANGING))
    .values({name: _new(name) for name in _CHANGING})
)
CLAIM = update_rows(sessions).where(_IS_VERSION, _c.is_active, ~_c.dirty).values(s=_new("s"))
FORGET = delete(sessions).where(_IS_VERSION)
# A use is no write, and moves no version.
_LATER = {name: case((_c[name] > _new(name), _c[name]), else_=_new(name)) for name in ("last_activity", "expires_at")}
PAY = (
    update_rows(sessions)
    .where(_IS_VERSION)
    .values({c.name: _LATER.get(c.name, _new(c.name)) for c in _c if not c.primary_key})
)
PAY_UNDER = PAY.where(_IS_EPOCH)
BURY = update_rows(sessions).where(_one_of(), ~_c.is_active, _IS_EPOCH).values(dirty=False)
OWED = select(sessions).where(_c.dirty, _one_of())
OF_USER = select(sessions).where(_c.user_id == bindparam("user"), _c.is_active, _c.expires_at > bindparam("now"))
_DIRTY = select(_c.session_id).where(_c.dirty).limit(MOST_DIRTY + 1).subquery()
POLL = union_all(
    select(facts.c.name, facts.c.value).where(_EPOCH),
    select(_DIRTY.c.session_id, null()),
)
SET_FIRST_EPOCH = insert(facts)
SET_EPOCH = update_rows(facts).where(_EPOCH, facts.c.value == bindparam("missing")).values(value=bindparam("epoch"))
NOTE_USE = (
    update_rows(sessions)
    .where(_is_key(), _c.is_active, _c.last_activity < bindparam("used_at"))
    .values(last_activity=bindparam("used_at"), expires_at=bindparam("ends_at"))
)
NAMED = select(sessions).where(_one_of()).with_for_update()
NAMED_OR_OF_USER = (
    select(sessions)
    .where(or_(_one_of(), and_(_c.user_id == bindparam("user"), _c.is_active, _c.session_id != bindparam("keep"))))
    .with_for_update()
)


def padded(keys: Collection[str]) -> list[str]:
    """The same keys in a list of one of few lengths: each length is a statement of its own to the server."""
    listed = list(keys)
    size = 1
    while size < len(listed):
        size *= 2
    return listed + listed[-1:] * (size - len(listed))
