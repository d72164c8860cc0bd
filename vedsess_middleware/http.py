"""What HTTP asks of a response that has to do with a session; the same for WSGI and ASGI."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vedsess_middleware.clients import find_address

__all__ = [
    "CACHING",
    "CONFLICT",
    "UNAVAILABLE",
    "Replacement",
    "client_address",
    "is_excluded",
    "is_secure",
    "session_headers",
]

_STORING = frozenset({"cache-control", "expires", "pragma"})

_HOST_AND_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*):\d+", re.ASCII)

CACHING = _STORING | {"vary"}
"""The headers of an app, in lower case, that `session_headers` looks at: all others stay as they are."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What stands in for the answer of the app.  No cookie changes.

    Attributes:
        status: with its reason phrase.
        body: plain text.
        headers: of it.
        close_code: for a websocket that cannot be given a response.
    """

    status: str
    body: bytes
    headers: tuple[tuple[str, str], ...]
    close_code: int

    @property
    def code(self) -> int:
        """The number of the status."""
        return int(self.status[:3])


def _replacement(status: str, text: str, close_code: int, *more: tuple[str, str]) -> Replacement:
    body = text.encode()
    kind, length = ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))
    return Replacement(status, body, (kind, length, ("Cache-Control", "no-store"), *more), close_code)


UNAVAILABLE = _replacement(
    "503 Service Unavailable",
    "The session store cannot be reached.  Your session is kept: please try again in a moment.\n",
    1013,
    ("Retry-After", "2"),
)
"""For a request that needed a session which no store could give."""

CONFLICT = _replacement(
    "409 Conflict",
    "Nothing was changed: another request was quicker, or you have too many sessions.  Please try again.\n",
    1013,
)
"""For a request whose changes were refused: see `CommitRefused`."""


def is_excluded(path: str, excluded: Sequence[str]) -> bool:
    """Whether the path is one of these, or below one."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in excluded)


def is_secure(scheme: str, forwarded_proto: str | None, trusted_proxies: int) -> bool:
    """Whether the browser came over TLS.

    Args:
        scheme: of the connection to this server.
        forwarded_proto: X-Forwarded-Proto as it arrived.
        trusted_proxies: how many of the last entries were written by proxies of ours; 0: none is believed.
    """
    if trusted_proxies and forwarded_proto:
        protocols = [protocol.strip().lower() for protocol in forwarded_proto.split(",")]
        if len(protocols) >= trusted_proxies:
            scheme = protocols[-trusted_proxies]
    return scheme in ("https", "wss")


def client_address(peer: str | None, forwarded_for: str | None, trusted_proxies: int) -> str | None:
    """The address of whoever asked the outermost of our proxies.

    What a client wrote into the header itself stands further left, and is never looked at.  Without proxies of ours,
    with fewer entries than proxies, and where the entry is not an address, it is the peer.

    Args:
        peer: of the connection to this server.
        forwarded_for: X-Forwarded-For as it arrived, several joined by commas.
        trusted_proxies: how many of the last entries were written by proxies of ours; 0: none is believed.
    """
    if trusted_proxies and forwarded_for:
        entries = forwarded_for.rsplit(",", trusted_proxies)
        if len(entries) >= trusted_proxies:
            found = find_address(_without_port(entries[-trusted_proxies].strip()))
            return str(found) if found else peer
    return peer


def session_headers(headers: list[tuple[str, str]], *, accessed: bool, set_cookie: str | None) -> list[tuple[str, str]]:
    """The response headers with what the use of a session adds.

    A response that was made by looking into a session varies by cookie.  One that sets a cookie must not be stored by
    anybody (ASVS 14.3.2, CVE-2023-30861).

    Args:
        headers: of the app; those that are not in `CACHING` make no difference.
        accessed: the app looked into the session.
        set_cookie: what to set, if anything.
    """
    if not (accessed or set_cookie):
        return headers
    caching = [(name.lower(), value.lower()) for name, value in headers if name.lower() in CACHING]
    added = []
    if _tokens(caching, "vary").isdisjoint(("cookie", "*")):
        added.append(("Vary", "Cookie"))
    if set_cookie:
        if "no-store" not in _tokens(caching, "cache-control"):
            headers = [pair for pair in headers if pair[0].lower() not in _STORING]
            added.append(("Cache-Control", "no-store, private"))
        added.append(("Set-Cookie", set_cookie))
    return headers + added


def _without_port(entry: str) -> str:
    match = _HOST_AND_PORT.fullmatch(entry)
    return match[1] or match[2] or "" if match else entry


def _tokens(headers: list[tuple[str, str]], name: str) -> set[str]:
    return {token.strip() for found, value in headers if found == name for token in value.split(",")}
