"""What HTTP asks of a response that has to do with a session; the same for WSGI and ASGI."""

from collections.abc import Iterable, Sequence

__all__ = [
    "UNAVAILABLE_BODY",
    "UNAVAILABLE_HEADERS",
    "UNAVAILABLE_STATUS",
    "is_excluded",
    "is_secure",
    "session_headers",
]

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


def session_headers(
    headers: Iterable[tuple[str, str]], *, accessed: bool, set_cookie: str | None
) -> list[tuple[str, str]]:
    """The response headers with what the use of a session adds.

    A response that was made by looking into a session varies by cookie.  One that sets a cookie must not be stored by
    anybody (ASVS 14.3.2, CVE-2023-30861).
    """
    result = list(headers)
    if accessed or set_cookie:
        result = _vary_by_cookie(result)
    if set_cookie:
        result = [*_not_stored(result), ("Set-Cookie", set_cookie)]
    return result


def _values(headers: Iterable[tuple[str, str]], name: str) -> list[str]:
    values = (value for found, value in headers if found.lower() == name)
    return [part.strip().lower() for value in values for part in value.split(",")]


def _vary_by_cookie(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    varies = _values(headers, "vary")
    if "cookie" in varies or "*" in varies:
        return headers
    return [*headers, ("Vary", "Cookie")]


def _not_stored(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if "no-store" in _values(headers, "cache-control"):
        return headers
    others = [(name, value) for name, value in headers if name.lower() not in ("cache-control", "expires", "pragma")]
    return [*others, ("Cache-Control", "no-store, private")]
