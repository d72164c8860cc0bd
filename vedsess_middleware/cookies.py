"""The session cookie: a random id, the newest version this browser has seen, and when that was; signed.

Signatures are HMAC-SHA-256 with HMAC key derivation (ASVS 11.4.1): never the SHA-1 defaults of the signing library.
Nothing a browser sends raises: a cookie is genuine, or it is rejected for a reason.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

from itsdangerous import BadSignature, Signer
from werkzeug.http import dump_cookie

from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.record import Version

__all__ = ["CookieJar", "Rejection", "Ticket", "find_cookies", "new_session_id"]

_LONGEST = 256
_VALUE = re.compile(r"([A-Za-z0-9_-]{43})\.(\d{1,15})\.(\d{1,15})\.([0-9a-f]{1,12})")
_TRIED = 8


def new_session_id() -> str:
    """256 bits from the operating system, as 43 URL-safe characters (ASVS 7.2.3 asks for 128)."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a genuine cookie says.

    Attributes:
        session_id: the secret itself.
        token: join of every version that this browser was answered with.
        issued_at: when, in epoch seconds.
        newest_key: signed with the newest key; otherwise it is due for a new signature.
    """

    session_id: str = field(repr=False)
    token: Version
    issued_at: float
    newest_key: bool = True

    @property
    def key(self) -> str:
        """SHA-256 of the id: all that stores, logs and events ever see of it."""
        return hashlib.sha256(self.session_id.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a cookie is not one of ours."""

    reason: str


def find_cookies(header: str, name: str) -> list[str]:
    """The values under exactly this name, in order.  Pairs without a name are not ours (CVE-2023-23934)."""
    if name not in header:
        return []
    pairs = (pair.partition("=") for pair in header.split(";"))
    return [value.strip(" \t") for found, equals, value in pairs if equals and found.strip(" \t") == name]


class CookieJar:
    """Reads, signs and removes the session cookie.

    Args:
        settings: keys, audience and attributes.
        new_id: makes session ids.
    """

    def __init__(self, settings: Settings, *, new_id: Callable[[], str] = new_session_id) -> None:
        salt = f"vedsess_middleware.cookie:{settings.audience}"
        # itsdangerous wants the newest key last.
        self._newest = _signer(settings.secret_keys[:1], salt)
        self._older = _signer(settings.secret_keys[:0:-1], salt) if len(settings.secret_keys) > 1 else None
        self._settings = settings
        self.new_id = new_id

    def __repr__(self) -> str:
        return f"<CookieJar {self._settings.cookie_name!r}>"

    def read(self, header: str) -> list[Ticket | Rejection]:
        """Judge the cookies of our name, in order; those beyond the first eight are not looked at."""
        return [self._judge(value) for value in find_cookies(header, self._settings.cookie_name)[:_TRIED]]

    def set(self, ticket: Ticket, *, secure: bool) -> str:
        """The Set-Cookie header for this ticket, valid in the browser for the idle timeout."""
        milliseconds = round(ticket.issued_at * 1000)
        value = f"{ticket.session_id}.{ticket.token}.{milliseconds:x}"
        signed, max_age = self._newest.sign(value).decode(), ceil(self._settings.idle_timeout)
        return self._dump(signed, secure, max_age=max_age, expires=round(ticket.issued_at) + max_age)

    def remove(self, *, secure: bool) -> str:
        """The Set-Cookie header that removes it.  It repeats every attribute, or browsers would ignore it."""
        return self._dump("", secure, max_age=0, expires=0)

    def _judge(self, value: str) -> Ticket | Rejection:
        if len(value) > _LONGEST:
            return Rejection("too long")
        if not value.isascii():
            return Rejection("not ASCII")
        newest = True
        try:
            signed = self._newest.unsign(value)
        except BadSignature:
            newest = False
            if self._older is None or not self._older.validate(value):
                return Rejection("bad signature")
            signed = self._older.unsign(value)
        return _parse(signed.decode(), newest)

    def _dump(self, value: str, secure: bool, *, max_age: int, expires: int) -> str:
        settings = self._settings
        return dump_cookie(
            settings.cookie_name,
            value,
            max_age=max_age,
            expires=expires,
            path=settings.cookie_path,
            domain=settings.cookie_domain,
            secure=secure if settings.cookie_secure is None else settings.cookie_secure,
            httponly=True,
            samesite=settings.cookie_samesite,
            partitioned=settings.cookie_partitioned,
        )


def _signer(keys_newest_last: Sequence[str], salt: str) -> Signer:
    return Signer(list(keys_newest_last), salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)


def _parse(text: str, newest: bool) -> Ticket | Rejection:
    match = _VALUE.fullmatch(text)
    if match is None:
        return Rejection("not a session")
    session_id, s, r, milliseconds = match.groups()
    return Ticket(session_id, Version(int(s), int(r)), int(milliseconds, 16) / 1000, newest)
