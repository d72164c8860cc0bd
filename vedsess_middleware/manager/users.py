"""The sessions of a user: seen, and ended, from outside."""

import hashlib
from dataclasses import dataclass

from vedsess_middleware.concurrency import settle
from vedsess_middleware.events import SessionEnded
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.stores.record import Record

__all__ = ["SessionInfo", "revoke", "sessions_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One session of a user, to be shown and ended.  Instants are epoch seconds.

    Attributes:
        handle: names it to `SessionManager.revoke`; neither id nor key can be had from it.
        created_at: when it began.
        last_activity: when its last use was recorded.
        expires_at: when it ends if it is not used again.
        user_agent: label of the client that created it, or None.
        ip_address: its address, or None.
    """

    handle: str
    created_at: float
    last_activity: float
    expires_at: float
    user_agent: str | None
    ip_address: str | None


async def sessions_of(parts: Parts, user_id: str) -> list[SessionInfo]:
    """The live sessions of a user, the last used first."""
    records = await settle(parts.store.records_of(user_id, at=parts.now))
    infos = [_info(key, record) for key, record in records.items()]
    return sorted(infos, key=lambda info: info.last_activity, reverse=True)


async def revoke(parts: Parts, user_id: str, *, handle: str | None, keep: Session | None) -> int:
    """End sessions of a user, and return how many were ended."""
    at, until = parts.now, parts.until
    if handle is not None:
        keys = [key for key in await settle(parts.store.records_of(user_id, at=at)) if _handle(key) == handle]
        ended = await settle(parts.store.end(keys, at=at, until=until)) if keys else []
    else:
        ended = await settle(parts.store.end([], user_id=user_id, keep=_key(keep), at=at, until=until))
    for key in ended:
        parts.on_event(SessionEnded(session=key[:8], reason="revoked"))
    return len(ended)


def _key(session: Session | None) -> str | None:
    if session is None:
        return None
    state = state_of(session)
    if not state.loaded and len(state.tickets) == 1:
        return state.tickets[0].key
    # Looking at it loads it: before, nobody knows which of its cookies is alive.
    return state.ticket.key if not session.is_new and state.ticket else None


def _handle(key: str) -> str:
    return hashlib.sha256(f"handle:{key}".encode()).hexdigest()[:16]


def _info(key: str, record: Record) -> SessionInfo:
    return SessionInfo(
        handle=_handle(key),
        created_at=record.created_at,
        last_activity=record.last_activity,
        expires_at=record.expires_at,
        user_agent=record.user_agent,
        ip_address=record.ip_address,
    )
