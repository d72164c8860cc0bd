"""Every statement, built once: so SQLAlchemy compiles it once, and the server prepares it once."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy import update as update_rows

from vedsess_middleware.stores.sql.tables import facts, sessions, users

__all__ = [
    "ADD_FACT",
    "ADD_USER",
    "BURY",
    "CLAIM",
    "CLEAN",
    "CLEAN_USERS",
    "COUNT_CUT_OFF",
    "CUT_OFF",
    "CUT_OFFS",
    "FIND",
    "FIND_LOCK",
    "FORGET",
    "GIVE_BACK",
    "GIVE_OUT",
    "INSERT",
    "LOCK",
    "LOCK_ALL",
    "LOCK_CUT_OFFS",
    "LOCK_USER",
    "MOST_DIRTY",
    "NAMED",
    "NAMED_OR_OF_USER",
    "NOTE_USE",
    "OF",
    "OWED",
    "PAY",
    "PAY_UNDER",
    "PLACES",
    "POLL",
    "RESERVE",
    "SAMPLE",
    "SET_EPOCH",
    "STORE",
    "SWAP",
    "SWAP_LOCKED",
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


_STORED = [c for c in _c if not c.primary_key and c.name not in ("lock_holder", "commit_id")]
_COMMIT = {"commit_id": func.coalesce(bindparam("new_commit", type_=_c.commit_id.type), _c.commit_id)}
_IS_LOCK = func.coalesce(_c.lock_holder, "") == bindparam("old_lock")
_IS_LIVE = and_(_c.is_active, _c.expires_at > bindparam("now"))
_EPOCH = facts.c.name == "epoch"
_CUT_OFFS = facts.c.name == "cut_offs"
_IS_EPOCH = select(facts.c.value).where(_EPOCH, facts.c.value == bindparam("epoch")).exists()
_IS_VERSION = and_(_is_key(), _c.s == bindparam("at_s"), _c.r == bindparam("at_r"))

# One row.
FIND = select(sessions).where(_is_key())
LOCK = FIND.with_for_update()
LOCK_ALL = select(sessions).where(_one_of()).order_by(_c.session_id).with_for_update()
INSERT = insert(sessions)
STORE = update_rows(sessions).where(_is_key()).values({c.name: _new(c.name) for c in _STORED} | _COMMIT)
SWAP = (
    update_rows(sessions)
    .where(_is_key(), _c.is_active, *(_c[name] == bindparam(f"old_{name}") for name in _CHANGING))
    .values({name: _new(name) for name in _CHANGING} | _COMMIT)
)
SWAP_LOCKED = SWAP.where(_IS_LOCK)
CLAIM = update_rows(sessions).where(_IS_VERSION, _c.is_active, ~_c.dirty).values(s=_new("s"))
FORGET = delete(sessions).where(_IS_VERSION)
# A use is no write, and moves no version.
_LATER = {name: case((_c[name] > _new(name), _c[name]), else_=_new(name)) for name in ("last_activity", "expires_at")}
PAY = (
    update_rows(sessions)
    .where(_IS_VERSION)
    .values({c.name: _LATER.get(c.name, _new(c.name)) for c in _STORED} | _COMMIT)
)
PAY_UNDER = PAY.where(_IS_EPOCH)

# The lock of one row.
FIND_LOCK = select(_c.lock_holder).where(_is_key(), _IS_LIVE)
GIVE_OUT = update_rows(sessions).where(_is_key(), _IS_LIVE, _IS_LOCK).values(lock_holder=bindparam("new_lock"))
GIVE_BACK = (
    update_rows(sessions)
    .where(_is_key(), _c.lock_holder.startswith(bindparam("number")))
    .values(lock_holder=bindparam("new_lock"))
)

# Many rows.
BURY = update_rows(sessions).where(_one_of(), ~_c.is_active, _IS_EPOCH).values(dirty=False)
OWED = select(sessions).where(_c.dirty, _one_of())
OF = {"user": select(sessions).where(_c.user_id == bindparam("owner"), _IS_LIVE)}
OF["sid"] = select(sessions).where(_c.sid == bindparam("owner"), _IS_LIVE)
NOTE_USE = (
    update_rows(sessions)
    .where(_is_key(), _c.is_active, _c.last_activity < bindparam("used_at"))
    .values(last_activity=bindparam("used_at"), expires_at=bindparam("ends_at"))
)
NAMED = select(sessions).where(_one_of()).with_for_update()
SAMPLE = select(sessions).where(_c.is_active, _c.expires_at > bindparam("now")).order_by(_c.expires_at.desc()).limit(8)
NAMED_OR_OF_USER = (
    select(sessions)
    .where(or_(_one_of(), and_(_c.user_id == bindparam("user"), _c.is_active, _c.session_id != bindparam("keep"))))
    .with_for_update()
)
CLEAN = delete(sessions).where(_c.expires_at <= bindparam("now"))

# What is true of all.
_DIRTY = select(_c.session_id).where(_c.dirty).limit(MOST_DIRTY + 1).subquery()
POLL = union_all(
    select(facts.c.name, facts.c.value).where(or_(_EPOCH, _CUT_OFFS)),
    select(_DIRTY.c.session_id, null()),
)
ADD_FACT = insert(facts)
SET_EPOCH = update_rows(facts).where(_EPOCH, facts.c.value == bindparam("missing")).values(value=bindparam("epoch"))
LOCK_CUT_OFFS = select(facts.c.value).where(_CUT_OFFS).with_for_update()
COUNT_CUT_OFF = update_rows(facts).where(_CUT_OFFS).values(value=bindparam("count"))

# A user.
_u = users.c
_IS_USER = _u.user_id == bindparam("user")
ADD_USER = insert(users)
LOCK_USER = select(users).where(_IS_USER).with_for_update()
PLACES = select(_c.session_id, _c.user_id, _c.expires_at).where(
    or_(_one_of(), and_(_c.user_id == bindparam("user"), _IS_LIVE))
)
RESERVE = update_rows(users).where(_IS_USER).values(reserved=bindparam("places"), expires_at=bindparam("ends_at"))
CUT_OFF = (
    update_rows(users)
    .where(_IS_USER)
    .values(cut_off_at=bindparam("at"), cut_off_number=bindparam("number"), expires_at=bindparam("ends_at"))
)
CUT_OFFS = select(_u.user_id, _u.cut_off_at).where(_u.cut_off_number > bindparam("after"))
CLEAN_USERS = delete(users).where(_u.expires_at <= bindparam("now"))


def padded(keys: Collection[str]) -> list[str]:
    """The same keys in a list of one of few lengths: each length is a statement of its own to the server."""
    listed = list(keys)
    size = 1
    while size < len(listed):
        size *= 2
    return listed + listed[-1:] * (size - len(listed))
