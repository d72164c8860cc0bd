"""What logs call a session: a keyed hash, so that a log names it to nobody who does not hold the secret.

OWASP's logging cheat sheet wants session ids hashed.  Without a key, whoever has a log and a copy of a store could tell
which line is whose, and whoever has a guess could confirm it.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace

from vedsess_middleware.events.base import Event

__all__ = ["SessionNames", "event_name"]

_SALT = b"vedsess_middleware.events"
_KEY_DIGITS = 8  # as many as every emitter gives
_NAME_DIGITS = 16
_FIELDS = ("session", "previous", "successor")


class SessionNames:
    """Names sessions: the first 16 digits of HMAC-SHA-256 over the first eight of the key.

    The secret behind them is derived from the oldest secret key: a new one in front changes no name, so that names last
    for as long as any cookie from before the rotation is genuine.  When the oldest key is dropped, all names change.

    Args:
        secret_keys: of the site, newest first.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        derived = hmac.digest(secret_keys[-1].encode(), _SALT, hashlib.sha256)
        self._mac = hmac.new(derived, digestmod=hashlib.sha256)

    def name(self, key: str) -> str:
        """The name of the session with this key, or with a key that begins so."""
        mac = self._mac.copy()
        mac.update(key[:_KEY_DIGITS].encode())
        return mac.hexdigest()[:_NAME_DIGITS]

    def put_into(self, event: Event) -> Event:
        """The event with names where it held the first digits of keys."""
        keys = {field: key for field in _FIELDS if (key := getattr(event, field, ""))}
        return replace(event, **{field: self.name(key) for field, key in keys.items()}) if keys else event


def event_name(secret_key: str | Sequence[str], key: str) -> str:
    """What events and logs call the session with this key, to look it up in them.

    Args:
        secret_key: as in `Settings`: a text, or a list with the newest first.
        key: as in a store.  What `SessionManager.sessions` calls a handle is a hash of it, and leads to no name.
    """
    return SessionNames((secret_key,) if isinstance(secret_key, str) else secret_key).name(key)
