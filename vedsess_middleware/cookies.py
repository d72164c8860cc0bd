"""The session cookie: a random id, the newest version this browser has seen, and when that was; signed.

Signatures are HMAC-SHA-256 with HMAC key derivation (ASVS 11.4.1): never the SHA-1 defaults of the signing library.
Nothing a browser sends raises: a cookie is genuine, or it is rejected for a reason.
"""

import hashlib
import hmac
import re
import secrets
from binascii import b2a_base64
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil

from itsdangerous import Signer
from werkzeug.http import dump_cookie, http_date

from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.record import Version

__all__ = ["CookieJar", "Rejection", "Ticket", "find_cookies", "new_session_id"]

_LONGEST = 256
_VALUE = re.compile(r"([A-Za-z0-9_-]{43})\.(\d{1,15})\.(\d{1,15})\.([0-9a-f]{1,12})(?:\.([0-9a-f]{1,8}))?")
_MOST_FRAMES = 64
_TRIED = 8
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_LONG_AGO = http_date(0)


def new_session_id() -> str:
    """256 bits from the operating system, as 43 URL-safe characters (ASVS 7.2.3 asks for 128)."""
    return secrets.token_urlsafe(32)


@dataclass(slots=True)
class Ticket:
    """What a genuine cookie says.  Not to be changed; frozen, it would take three times as long to make.

    Attributes:
        session_id: the secret itself.
        token: join of every version that this browser was answered with.
        issued_at: when, in epoch seconds.
        newest_key: signed with the newest key; otherwise it is due for a new signature.
        lifetime: seconds that the cookie lives in the browser; 0: until that is closed; None: as the settings have it.
    """

    session_id: str = field(repr=False)
    token: Version
    issued_at: float
    newest_key: bool = True
    lifetime: int | None = None
    _key: str = field(default="", init=False, repr=False, compare=False)

    @property
    def key(self) -> str:
        """SHA-256 of the id: all that stores, logs and events ever see of it."""
        if not self._key:
            self._key = hashlib.sha256(self.session_id.encode()).hexdigest()
        return self._key

    def moved(self, key: str) -> "Ticket":
        """The same cookie, for the session that went on under another key: its versions are others."""
        moved = Ticket(self.session_id, Version(), 0.0, self.newest_key, self.lifetime)
        moved._key = key
        return moved


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a cookie is not one of ours."""

    reason: str


def find_cookies(header: str, name: str) -> list[str]:
    """The values under exactly this name, in order.  Pairs without a name are not ours (CVE-2023-23934)."""
    found = []
    for pair in header.split(";"):
        if name in pair:
            before, equals, value = pair.partition("=")
            if equals and before.strip(" \t") == name:
                found.append(value.strip(" \t"))
    return found


class CookieJar:
    """Reads, signs and removes the session cookie.

    Args:
        settings: keys, audience and attributes.
        new_id: makes session ids.
    """

    def __init__(self, settings: Settings, *, new_id: Callable[[], str] = new_session_id) -> None:
        salt = f"vedsess_middleware.cookie:{settings.audience}"
        self._keys = [_Key(secret_key, salt) for secret_key in settings.secret_keys]
        self._settings, self._name = settings, settings.cookie_name
        self._lifetime = ceil(settings.idle_timeout) if settings.cookie_persistent else 0
        self._removals = {secure: _empty_cookie(settings, secure, max_age=0) for secure in (False, True)}
        self._frames: dict[tuple[bool, int], tuple[str, str, str]] = {}
        self.new_id = new_id

    def __repr__(self) -> str:
        return f"<CookieJar {self._name!r}>"

    def read(self, header: str) -> list[Ticket | Rejection]:
        """Judge the cookies of our name, in order; those beyond the first eight are not looked at."""
        return [self._judge(value) for value in find_cookies(header, self._name)[:_TRIED]]

    def set(self, ticket: Ticket, *, secure: bool) -> str:
        """The Set-Cookie header for this ticket, valid in the browser for as long as the ticket says."""
        milliseconds, lifetime = round(ticket.issued_at * 1000), ticket.lifetime
        text = f"{ticket.session_id}.{ticket.token}.{milliseconds:x}"
        if lifetime is None:
            lifetime = self._lifetime
        else:
            text = f"{text}.{lifetime:x}"
        signature = self._keys[0].get_signature(text.encode()).decode()
        before_value, before_date, after_date = self._frames.get((secure, lifetime)) or self._frame(secure, lifetime)
        date = _date(round(ticket.issued_at) + lifetime) if lifetime else ""
        return f"{before_value}{text}.{signature}{before_date}{date}{after_date}"

    def lifetime(self, idle_timeout: float, *, in_browser: bool) -> int | None:
        """What a ticket says of a session with this timeout; None: what the settings say of all."""
        lifetime = 0 if in_browser else ceil(idle_timeout)
        return None if lifetime == self._lifetime else lifetime

    def remove(self, *, secure: bool) -> str:
        """The Set-Cookie header that removes it.  It repeats every attribute, or browsers would ignore it."""
        return self._removals[secure]

    def _frame(self, secure: bool, lifetime: int) -> tuple[str, str, str]:
        if len(self._frames) >= _MOST_FRAMES:
            self._frames.clear()
        frame = self._frames[secure, lifetime] = _frame(self._settings, secure, lifetime)
        return frame

    def _judge(self, value: str) -> Ticket | Rejection:
        if len(value) > _LONGEST:
            return Rejection("too long")
        if not value.isascii():
            return Rejection("not ASCII")
        text, _, signature = value.rpartition(".")
        signed, given = text.encode(), signature.encode()
        for key in self._keys:
            if hmac.compare_digest(key.get_signature(signed), given):
                return _parse(text, key is self._keys[0])
        return Rejection("bad signature")


class _Key(Signer):
    """One secret key.  Signs as the library does, and prepares once what the library derives for each signature."""

    def __init__(self, secret_key: str, salt: str) -> None:
        super().__init__(secret_key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)
        self._mac = hmac.new(self.derive_key(), digestmod=hashlib.sha256)

    def get_signature(self, value: str | bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(value if isinstance(value, bytes) else value.encode())
        return b2a_base64(mac.digest(), newline=False).translate(_URL_SAFE, b"=")


@lru_cache(maxsize=16)
def _date(second: int) -> str:
    return http_date(second)


def _empty_cookie(settings: Settings, secure: bool, *, max_age: int | None) -> str:
    return dump_cookie(
        settings.cookie_name,
        "",
        max_age=max_age,
        expires=None if max_age is None else 0,
        path=settings.cookie_path,
        domain=settings.cookie_domain,
        secure=secure if settings.cookie_secure is None else settings.cookie_secure,
        httponly=True,
        samesite=settings.cookie_samesite,
        partitioned=settings.cookie_partitioned,
    )


def _frame(settings: Settings, secure: bool, lifetime: int) -> tuple[str, str, str]:
    """A Set-Cookie header cut where its value and its date belong.  Neither has a character to be quoted."""
    before_date, _, after_date = _empty_cookie(settings, secure, max_age=lifetime or None).partition(_LONG_AGO)
    name, equals, before_date = before_date.partition("=")
    return name + equals, before_date, after_date


def _parse(text: str, newest_key: bool) -> Ticket | Rejection:
    match = _VALUE.fullmatch(text)
    if match is None:
        return Rejection("not a session")
    session_id, s, r, milliseconds, lifetime = match.groups()
    version, issued_at = Version(int(s), int(r)), int(milliseconds, 16) / 1000
    return Ticket(session_id, version, issued_at, newest_key, None if lifetime is None else int(lifetime, 16))
