"""The sessions of a user: seen, exported and ended from outside."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from vedsess_middleware.concurrency import settle
from vedsess_middleware.errors import CorruptRecord, SerializationError, StoreUnavailable
from vedsess_middleware.events import RecordRejected, SessionEnded, UserCutOff
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.stores.contract import Owner
from vedsess_middleware.stores.record import Origin, Record

__all__ = ["SessionInfo", "check_keys", "cut_off", "export", "revoke", "revoke_named", "sessions_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One session of a user, to be shown and ended.  Instants are epoch seconds.

    Attributes:
        handle: names it to `SessionManager.revoke`; neither id nor key can be had from it (CVE-2020-5224), and it stays
            when the id changes.
        created_at: when it began.
        authenticated_at: when its user last logged in.
        last_activity: when its last use was recorded.
        expires_at: when it ends if it is not used again.
        user_agent: label of the client that last logged in, or was given a new id; None: not kept.
        ip_address: its address; None: not kept.
        is_current: it is the session that was given to `SessionManager.sessions`.
    """

    handle: str
    created_at: float
    authenticated_at: float
    last_activity: float
    expires_at: float
    user_agent: str | None
    ip_address: str | None
    is_current: bool = False


async def sessions_of(parts: Parts, user_id: str, *, current: Session | None = None) -> list[SessionInfo]:
    """The live sessions of a user, the last used first."""
    here = _key(current)
    infos = [_info(key, record, is_current=key == here) for key, record in (await _living(parts, user_id)).items()]
    return sorted(infos, key=lambda info: info.last_activity, reverse=True)


async def revoke(parts: Parts, user_id: str, *, handle: str | None, keep: Session | None) -> int:
    """End sessions of a user, and return how many were ended."""
    if handle is not None:
        ended = await _end(parts, user_id, "user", lambda key, record: _handle(key, record) == handle)
    else:
        ending = parts.store.end([], user_id=user_id, keep=_key(keep), at=parts.now, until=parts.until)
        ended = await settle(ending)
    return _told(parts, ended, "revoked", user_id)


async def revoke_named(parts: Parts, sid: str) -> int:
    """End the sessions that an identity provider knows by this name."""
    return _told(parts, await _end(parts, sid, "sid", lambda key, record: True), "revoked", None)


async def cut_off(parts: Parts, user_id: str) -> int:
    """End everything of a user that began until now, and return how many sessions were known."""
    ended = await settle(parts.store.cut_off(user_id, at=parts.now, until=parts.until))
    parts.on_event(UserCutOff(user_id=user_id, ended=len(ended)))
    return _told(parts, ended, "cut off", user_id)


async def export(parts: Parts, user_id: str) -> list[dict[str, Any]]:
    """All that is kept of a user's sessions, as plain values."""
    return [
        {**asdict(_info(key, record)), "values": _values(parts, key, record)}
        for key, record in (await _living(parts, user_id)).items()
    ]


async def check_keys(parts: Parts) -> None:
    """Open the values of any session.

    Raises:
        StoreMisconfigured: the keys are not those that it was encrypted with.
    """
    try:
        found = await settle(parts.store.sample(at=parts.now))
    except (StoreUnavailable, CorruptRecord):
        return
    key, record = found or ("", None)
    for name, stored in record.values.items() if record else ():
        with suppress(SerializationError):  # whoever asks for that value will be told
            parts.sealer.open(key, name, stored)


def _values(parts: Parts, key: str, record: Record) -> dict[str, Any]:
    values = {}
    for name, stored in record.values.items():
        try:
            text, until, _ = parts.sealer.open(key, name, stored)
            if until is None or until > parts.now:
                values[name] = parts.codec.decode(text)
        except SerializationError as error:
            parts.on_event(RecordRejected(session=key[:8], reason=str(error)))
    return values


async def _living(parts: Parts, owner: str, *, by: Owner = "user") -> dict[str, Record]:
    at = parts.now
    records = await settle(parts.store.records_of(owner, at=at, by=by))
    return {key: record for key, record in records.items() if at < record.deadline_at}


async def _end(parts: Parts, owner: str, by: Owner, wanted: Callable[[str, Record], bool]) -> list[str]:
    """End those that are wanted, and return their keys.  One that changes its id meanwhile ends all the same."""
    keys = [key for key, record in (await _living(parts, owner, by=by)).items() if wanted(key, record)]
    return await settle(parts.store.end(keys, at=parts.now, until=parts.until)) if keys else []


def _told(parts: Parts, ended: Sequence[str], reason: str, user_id: str | None) -> int:
    for key in ended:
        parts.on_event(SessionEnded(session=key[:8], reason=reason, user_id=user_id))
    return len(ended)


def _key(session: Session | None) -> str | None:
    if session is None:
        return None
    ticket = None if session.is_new else state_of(session).ticket  # to look at it loads it: its id may have changed
    return ticket.key if ticket else None


def _handle(key: str, record: Record) -> str:
    named = Origin.parse(record.origin).family or key
    return hashlib.sha256(f"handle:{named}".encode()).hexdigest()[:16]


def _info(key: str, record: Record, *, is_current: bool = False) -> SessionInfo:
    return SessionInfo(
        handle=_handle(key, record),
        created_at=record.created_at,
        authenticated_at=Origin.parse(record.origin).authenticated_at or record.created_at,
        last_activity=record.last_activity,
        expires_at=record.expires_at,
        user_agent=record.user_agent,
        ip_address=record.ip_address,
        is_current=is_current,
    )
