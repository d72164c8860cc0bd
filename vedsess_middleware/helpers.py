"""What an app wants beside a session: form tokens, messages for the next page, and word with other sites.

All of it works over any mutable mapping whose values outlive the request.
"""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from hmac import compare_digest
from typing import Any, Literal

__all__ = [
    "CSRF_FIELD",
    "FLASH_FIELD",
    "clear_site_data",
    "csrf_token",
    "flash",
    "flashes",
    "is_allowed_origin",
    "is_csrf_token",
]

CSRF_FIELD = "_csrf"
"""Where the token is kept.  An app that drops it at login makes worthless what others knew of it before."""

FLASH_FIELD = "_flashes"
"""Where messages wait, as a list of pairs."""

_SIZE = 32
_KEPT = re.compile(r"[A-Za-z0-9_-]{43}")
_MASKED = re.compile(r"[A-Za-z0-9_-]{86}")

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_LONGEST = 320
_PORTS = {"http": 80, "https": 443}


# -- form tokens -------------------------------------------------------------------------------------------------------


def csrf_token(session: MutableMapping[str, Any]) -> str:
    """The token of this session for a form or a header, made on first use (ASVS 3.5.1).

    It reads differently each time, masked with a pad of its own, so that the length of a compressed page tells nothing
    of it (BREACH, CVE-2013-3587).  Each stays valid as long as the session; of two first requests at the same time,
    the tokens of one do.
    """
    token = _bytes(session.get(CSRF_FIELD), _KEPT)
    if token is None:
        token = secrets.token_bytes(_SIZE)
        session[CSRF_FIELD] = _text(token)
    pad = secrets.token_bytes(_SIZE)
    return _text(pad + _xor(pad, token))


def is_csrf_token(session: Mapping[str, Any], token: object) -> bool:
    """Whether this is a token of this session, in constant time.

    Anything else is not, of whatever type.  Never writes: to ask makes no session.
    """
    kept, masked = _bytes(session.get(CSRF_FIELD), _KEPT), _bytes(token, _MASKED)
    if kept is None or masked is None:
        return False
    return compare_digest(_xor(masked[:_SIZE], masked[_SIZE:]), kept)


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: object, form: re.Pattern[str]) -> bytes | None:
    if isinstance(text, str) and form.fullmatch(text):
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return None


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(_SIZE)


# -- messages for the next page ----------------------------------------------------------------------------------------


def flash(session: MutableMapping[str, Any], message: str, category: str = "message") -> None:
    """Keep a message until `flashes` takes it, as plain text.

    Of the messages of two requests at the same time, those of one may be lost: they wait in one field.
    """
    _keep(session, [*_pairs(session.get(FLASH_FIELD)), (str(category), str(message))])


def flashes(session: MutableMapping[str, Any], categories: Collection[str] = ()) -> list[tuple[str, str]]:
    """Take the messages that wait, the oldest first, as pairs of category and message.

    Writes only where there are some.

    Args:
        session: that `flash` was given.
        categories: which to take; the others go on waiting.  Default: all.
    """
    waiting = list(_pairs(session.get(FLASH_FIELD)))
    taken = [pair for pair in waiting if not categories or pair[0] in categories]
    if taken:
        _keep(session, [pair for pair in waiting if pair not in taken])
    return taken


def _keep(session: MutableMapping[str, Any], pairs: list[tuple[str, str]]) -> None:
    if pairs:
        session[FLASH_FIELD] = [list(pair) for pair in pairs]
    else:
        del session[FLASH_FIELD]


def _pairs(kept: object) -> Iterator[tuple[str, str]]:
    for each in kept if isinstance(kept, list | tuple) else ():
        match each:
            case [str(category), str(message)]:
                yield category, message


# -- other sites -------------------------------------------------------------------------------------------------------


def is_allowed_origin(
    origin: str | None,
    host: str | None,
    *,
    secure: bool,
    allowed: Collection[str] = (),
    allow_missing: bool = False,
) -> bool:
    """Whether a websocket may be opened from there: browsers send the cookie whatever page asks (ASVS 4.4.2).

    An origin is its scheme, host and port (RFC 6454), without regard to case, and with the default port left out or
    not.  `null` and whatever is not an origin are refused.

    Args:
        origin: the Origin header as it arrived, or None.
        host: the Host header as the browser sent it, or None.
        secure: the browser came over TLS.
        allowed: other origins, each as a browser writes it, such as `https://example.com`.  Default: none.
        allow_missing: allow a request without the header, which no browser sends.  Default: refused.
    """
    if origin is None:
        return allow_missing
    asking = _origin(origin)
    own = f"{'https' if secure else 'http'}://{host or ''}"
    return asking is not None and asking in map(_origin, (own, *allowed))


def clear_site_data(*kinds: Literal["cache", "cookies", "storage"]) -> tuple[str, str]:
    """The response header that empties a browser of what it keeps of this site, for a logout (ASVS 14.3.1).

    Browsers obey it over https alone.

    Args:
        kinds: what to clear.  Default: all three.
    """
    return "Clear-Site-Data", ", ".join(f'"{kind}"' for kind in kinds or ("cache", "cookies", "storage"))


def _origin(text: str) -> tuple[str, str, int | None] | None:
    if len(text) > _LONGEST or not text.isascii():
        return None
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, digits = match.groups()
    port = int(digits) if digits else _PORTS.get(scheme)
    return (scheme, host, port) if port is None or port < 2**16 else None
