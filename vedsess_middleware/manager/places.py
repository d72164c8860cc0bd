"""How many sessions a user may have: a place is taken before there is a session to sit on it."""

from vedsess_middleware.concurrency import settle
from vedsess_middleware.errors import SessionLimitReached
from vedsess_middleware.events import SessionEnded, SessionLimitHit
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.stores.record import Record

__all__ = ["leave", "limited", "take"]


def limited(parts: Parts) -> bool:
    """Whether there is a limit at all."""
    return parts.settings.max_sessions_per_user is not None


async def take(parts: Parts, user_id: str, key: str, *, at: float, instead: Record | None = None) -> None:
    """Take a place, and end the sessions that lose theirs.

    Args:
        parts: of the manager.
        user_id: whose.
        key: of the session to come.
        at: now, in epoch seconds.
        instead: the session that it takes the place of.

    Raises:
        SessionLimitReached: there is none, and the policy is to deny.
    """
    limit = parts.settings.max_sessions_per_user
    if limit is None:
        return
    store, deny = parts.store, parts.settings.session_limit_policy == "deny"
    room = limit + 1 if instead is not None and instead.user_id == user_id else limit
    try:
        lost = await settle(store.reserve(user_id, key, limit=room, deny=deny, at=at))
    except SessionLimitReached:
        parts.on_event(SessionLimitHit(user_id=user_id, limit=limit, denied=True))
        raise
    if not lost:
        return
    await settle(store.end(lost, at=at, until=parts.until))
    parts.on_event(SessionLimitHit(user_id=user_id, limit=limit, denied=False))
    for each in lost:
        parts.on_event(SessionEnded(session=each[:8], reason="limit", user_id=user_id))


async def leave(parts: Parts, user_id: str | None, key: str, *, at: float) -> None:
    """Give a place back on which no session is going to sit."""
    if user_id is not None and limited(parts):
        await settle(parts.store.end([key], at=at, until=parts.until))
