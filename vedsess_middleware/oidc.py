"""Logout from behind: an identity provider tells that a user has logged out (OpenID Connect Back-Channel Logout 1.0).

Whoever receives a logout token validates its signature first, with the keys of the provider.  What is here judges what
the token claims.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from vedsess_middleware.errors import LogoutRefused

__all__ = ["LogoutToken", "read_logout_token", "session_name"]

_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_TYPE = "logout+jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutToken:
    """Which sessions are to end: the one that is named, or else all of the user.

    Attributes:
        issuer: the identity provider.
        subject: its name for the user, or None.
        sid: its name for the session, or None; there is a subject then.
    """

    issuer: str
    subject: str | None
    sid: str | None


def session_name(issuer: str, sid: str) -> str:
    """The name of a provider's session by which a store finds ours: 32 hexadecimal digits, half of a SHA-256.

    Args:
        issuer: the identity provider, as `iss` names it.
        sid: its name for the session, of which others know nothing.
    """
    text = f"{len(issuer)}:{issuer}{len(sid)}:{sid}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_logout_token(
    claims: Mapping[str, object],
    *,
    issuer: str,
    audience: str,
    now: float,
    longest_age: float = 120.0,
    typ: str | None = None,
) -> LogoutToken:
    """Judge the claims of a logout token (§2.4 and §2.6; ASVS 10.5.5).

    A token may be used again as long as it is not too old: to end a session twice does no harm, but a user who is back
    by then is logged out again.

    Args:
        claims: of a token whose signature is valid.
        issuer: the only provider that may have made it.
        audience: the client id of this app.
        now: epoch seconds.
        longest_age: how many seconds ago it may have been issued, and how many seconds the clock of the provider may
            be ahead.  Default 120.
        typ: from the token's header; None: not looked at, as not every provider says `logout+jwt` there.

    Raises:
        LogoutRefused: the claims are not those of a logout token for us, now.
    """
    _demand(typ is None or typ.lower() == _TYPE, "typ", f"is not {_TYPE}")
    _demand(claims.get("iss") == issuer, "iss", "is not the provider")
    _demand(audience in _listed(claims.get("aud")), "aud", "does not name this client")
    issued_at = _number(claims, "iat")
    _demand(now - longest_age <= issued_at <= now + longest_age, "iat", "is too far from now")
    _demand(now < _number(claims, "exp"), "exp", "is over")
    events = claims.get("events")
    _demand(isinstance(events, Mapping) and isinstance(events.get(_EVENT), Mapping), "events", "has no logout")
    _demand("nonce" not in claims, "nonce", "is there, as in a token for a login")
    _demand(_text(claims, "jti") is not None, "jti", "is missing")
    subject, sid = _text(claims, "sub"), _text(claims, "sid")
    _demand(subject is not None or sid is not None, "sub", "is missing, and so is sid")
    return LogoutToken(issuer=issuer, subject=subject, sid=sid)


def _demand(holds: bool, claim: str, otherwise: str) -> None:
    if not holds:
        raise LogoutRefused(f"a logout token was refused: {claim} {otherwise}")


def _listed(audience: object) -> list[object]:
    return audience if isinstance(audience, list) else [audience]


def _number(claims: Mapping[str, object], claim: str) -> int | float:
    value = claims.get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LogoutRefused(f"a logout token was refused: {claim} is not a number")
    return value


def _text(claims: Mapping[str, object], claim: str) -> str | None:
    """The claim, None where it is missing; never empty."""
    if claim not in claims:
        return None
    value = claims[claim]
    if not isinstance(value, str) or not value:
        raise LogoutRefused(f"a logout token was refused: {claim} is not text, or is empty")
    return value
