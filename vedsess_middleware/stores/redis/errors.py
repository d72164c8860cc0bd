"""What redis-py raises, told apart: can Redis not serve, or does it refuse?

Classes alone do not tell: a wrong password is a `ConnectionError`, a timeout is none, and several replies carry no
code.  So the words that a reply begins with count too.
"""

import re

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    MaxConnectionsError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeout

from vedsess_middleware.errors import CorruptRecord, Reason, StoreError, StoreMisconfigured, StoreUnavailable

__all__ = ["translate"]

_MENDS = {
    "password": "Redis refused the password: check REDIS_PASSWORD or the password in the URL",
    "permission": "Redis refused a command: give this user the commands and the key prefix that the README lists",
    "certificate": "Redis's TLS certificate was not accepted: check ssl_ca_certs and the host name in the URL",
    "type": "a key of ours holds a value of another type: two applications share one prefix",
}
# What a reply says, wherever in the text: a script wraps it, and each server version wraps it differently.
_REFUSALS = (
    (re.compile(r"(?i)WRONGPASS|NOAUTH|unauthenticated|invalid (username-)?password|without any password"), "password"),
    (re.compile(r"NOPERM|can't run this command|no permissions", re.IGNORECASE), "permission"),
    (re.compile(r"certificate", re.IGNORECASE), "certificate"),
    (re.compile(r"\bWRONGTYPE\b"), "type"),
)
_OUTAGES: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile(r"\bLOADING\b|is loading the dataset"), "loading"),
    (re.compile(r"\bREADONLY\b|read only replica"), "read-only"),
    (re.compile(r"\b(MASTERDOWN|CLUSTERDOWN)\b"), "unreachable"),
    (re.compile(r"\b(OOM|MISCONF|NOREPLICAS)\b|used memory > 'maxmemory'"), "full"),
    (re.compile(r"\b(BUSY|TRYAGAIN)\b|max number of clients"), "busy"),
)


def translate(error: RedisError | RedisClusterException | OSError, *, attempts: int) -> StoreError:
    """The same failure in our words, without those of the server: they may quote a key."""
    # redis-py takes the code off the text of those that it knows.
    text = f"{getattr(error, 'status_code', None) or ''} {error}".lstrip()
    refusal = _refusal(error, text)
    if refusal is not None:
        return StoreMisconfigured(_MENDS[refusal], one_key=refusal == "type")
    reason = _outage(error, text)
    if reason is not None:
        return StoreUnavailable(f"Redis cannot serve: {reason}", reason=reason, attempts=attempts)
    if "script" in text:
        return CorruptRecord("a script of ours could not read the record under a session key")
    return StoreMisconfigured(f"Redis refused a command of ours: {text.split(' ')[0][:32]}")


def _refusal(error: Exception, text: str) -> str | None:
    for pattern, refusal in _REFUSALS:
        if pattern.search(text):
            return refusal
    if isinstance(error, AuthenticationError | AuthorizationError):
        return "password"
    return "permission" if isinstance(error, NoPermissionError) else None


def _outage(error: Exception, text: str) -> Reason | None:
    for pattern, reason in _OUTAGES:
        if pattern.search(text):
            return reason
    if isinstance(error, MaxConnectionsError) or "No connection available" in text:
        return "saturated"
    if isinstance(error, RedisTimeout | TimeoutError):
        return "timeout"
    return None if isinstance(error, ResponseError) else "unreachable"
