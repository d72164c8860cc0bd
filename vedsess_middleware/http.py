"""What HTTP asks of a response that has to do with a session; the same for WSGI and ASGI."""

from collections.abc import Sequence

__all__ = [
    "CACHING",
    "UNAVAILABLE_BODY",
    "UNAVAILABLE_HEADERS",
    "UNAVAILABLE_STATUS",
    "is_excluded",
    "is_secure",
    "session_headers",
]

_STORING = frozenset({"cache-control", "expires", "pragma"})

CACHING = _STORING | {"vary"}
"""The headers of an app, in lower case, that `session_headers` looks at: all others stay as they are."""

UNAVAILABLE_STATUS = 503
UNAVAILABLE_BODY = b"The session store cannot be reached.  Your session is kept: please try again in a moment.\n"
UNAVAILABLE_HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Length", str(len(UNAVAILABLE_BODY))),
    ("Cache-Control", "no-store"),
    ("Retry-After", "2"),
]
"""What stands in for the answer to a request that needed a session which no store could give.  No cookie changes."""


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


def _tokens(headers: list[tuple[str, str]], name: str) -> set[str]:
    return {token.strip() for found, value in headers if found == name for token in value.split(",")}
