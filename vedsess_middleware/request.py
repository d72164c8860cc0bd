"""What a session may know of the request that it is opened for."""

from dataclasses import dataclass

__all__ = ["RequestInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """The facts that cookies, labels and `may_create` depend on, whatever the server.

    Attributes:
        path: below the mount point.
        method: in capitals; `WEBSOCKET` for a websocket.
        secure: the browser came over https or wss.
        user_agent: as it was sent, or None.
        ip_address: of the peer, or None.
    """

    path: str = "/"
    method: str = "GET"
    secure: bool = False
    user_agent: str | None = None
    ip_address: str | None = None
