"""What a command does to the sessions of one user."""

import json
from collections.abc import Collection
from typing import Any

from vedsess_middleware.codec import JsonCodec
from vedsess_middleware.errors import SessionError
from vedsess_middleware.manager import SessionManager

__all__ = ["AsStored", "UnknownHandle", "revoke_all_but", "revoke_one"]


class UnknownHandle(SessionError):
    """No live session of the user has this handle.  Nothing was ended."""


class AsStored(JsonCodec):
    """Shows every value as it is stored, with its type where JSON has none for it: {"!date": "2026-11-23"}.

    So whoever exports needs neither the enums of an app nor its codec: what is not JSON is shown as a text.
    """

    __slots__ = ()

    def decode(self, text: str) -> Any:
        """What stands there."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


async def revoke_one(manager: SessionManager, user: str, handle: str) -> int:
    """End the session with this handle.

    Raises:
        UnknownHandle: there is none.
        StoreUnavailable: no store took it.
    """
    ended = await manager.revoke(user, handle=handle)
    if not ended:
        raise _unknown(handle)
    return ended


async def revoke_all_but(manager: SessionManager, user: str, handles: Collection[str]) -> int:
    """End all sessions but those with these handles, and return how many were ended.

    Raises:
        UnknownHandle: there is none for one of them: it may be mistyped, so nothing was ended.
        StoreUnavailable: no store took it, or not all of it.
    """
    living = [info.handle for info in await manager.sessions(user)]
    for handle in handles:
        if handle not in living:
            raise _unknown(handle)
    return sum([await manager.revoke(user, handle=handle) for handle in living if handle not in handles])


def _unknown(handle: str) -> UnknownHandle:
    return UnknownHandle(f"no live session of this user has the handle {handle!a}: `vedsess sessions` lists them")
