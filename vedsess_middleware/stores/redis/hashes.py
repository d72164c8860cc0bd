"""How a record looks as a Redis hash: the field names are those of the seed application, all values are text.

`session_id` is the key, never the id.  An application value is `d:<name>`, holding `stamp:JSON`; `life` is the idle
timeout and the deadline in milliseconds; a tombstone holds only `gone`.  A hash that was written before there were
`sid` and `origin` is read as one that has none.  `lock` is no part of the record: its number, until when it is held,
and the word of its holder.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.record import Delta, Origin, Record, Stamped, Version

__all__ = ["VALUE", "from_hash", "iso", "milliseconds", "pairs", "readable", "to_arguments", "to_guards", "to_hash"]

VALUE = "d:"
LEASE = b"lease"


def milliseconds(seconds: float) -> int:
    """The same instant or duration in whole milliseconds."""
    return round(seconds * 1000)


def iso(at: float) -> str:
    """ISO 8601, UTC, to the millisecond: as text it sorts by time."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def to_hash(key: str, record: Record) -> dict[str, str]:
    """The fields of a live record; of a tombstone, what the script is told of it."""
    if record.gone:
        return {"version": str(record.version), "successor": record.successor}
    values = {VALUE + name: str(item) for name, item in record.fields.items()}
    return {
        "session_id": key,
        "user_id": record.user_id or "",
        "session_fingerprint": record.session_fingerprint or "",
        "created_at": iso(record.created_at),
        "updated_at": iso(record.updated_at),
        "last_activity": iso(record.last_activity),
        "expires_at": iso(record.expires_at),
        "is_active": "true",
        "user_agent": record.user_agent or "",
        "ip_address": record.ip_address or "",
        "sid": record.sid or "",
        "origin": record.origin,
        "version": str(record.version),
        "life": f"{milliseconds(record.idle_timeout)}:{milliseconds(record.deadline_at)}",
        **values,
    }


def to_arguments(delta: Delta) -> list[str]:
    """The changed fields of a delta, as the scripts take them: count, then names and values, then forgotten names."""
    changes = [*delta.put.items(), *((name, "") for name in delta.drop)]
    pairs = [text for name, value in changes for text in (VALUE + name, value)]
    return [str(len(changes)), *pairs, *(VALUE + name for name in delta.forget)]


def to_guards(delta: Delta, store: str) -> list[str]:
    """What an update that is guarded brings along, as the scripts take it: `guarded.lua` says what.

    No lock has the number 0.
    """
    fence = delta.fence
    number = "" if fence is None else str(fence.number if fence.store == store else 0)
    expected = [text for name, stamp in delta.expected.items() for text in (VALUE + name, str(stamp))]
    return [number, *expected, str(1 + len(expected))]


def pairs(raw: Any) -> Mapping[bytes, bytes]:
    """A hash as it came: a list, or paired by the client already."""
    return dict(zip(raw[::2], raw[1::2], strict=True)) if type(raw) is list else raw


def from_hash(key: str, raw: Mapping[bytes, bytes], *, served_by: str = "") -> Record | None:
    """Read a hash; an empty one, or the stub that a lease is on, is no record.

    Raises:
        CorruptRecord: it is not a session of ours.
    """
    if not raw or raw.keys() == {LEASE}:
        return None
    try:
        return _tombstone(raw[b"gone"]) if b"gone" in raw else _live(key, raw, served_by)
    except (ValueError, KeyError, OverflowError):
        pass  # raised below, so that no chained error carries what is stored
    raise CorruptRecord("a hash under a session key is not a session")


def _tombstone(text: bytes) -> Record:
    version, at, until, _, *rest = text.split(b" ")
    [successor] = rest or [b""]
    times = {"at": _instant(at), "until": _instant(until)}
    return Record.tombstone(version=_version(version), successor=successor.decode(), **times)


# A session is read many times before any of these changes.
@lru_cache(maxsize=4096)
def _instant(text: bytes) -> float:
    return datetime.fromisoformat(text.decode()).timestamp()


@lru_cache(maxsize=4096)
def _origin(text: bytes) -> str:
    return str(Origin.parse(text.decode())) if text else ""


@lru_cache(maxsize=4096)
def _version(text: bytes) -> Version:
    return Version.parse(text.decode())


def _live(key: str, raw: Mapping[bytes, bytes], served_by: str) -> Record:
    if raw[b"session_id"] != key.encode():
        raise ValueError("the record is another session's")
    idle, _, deadline = raw[b"life"].partition(b":")
    return Record(
        version=_version(raw[b"version"]),
        fields=Stamped({name[2:].decode(): text.decode() for name, text in raw.items() if name[:2] == b"d:"}),
        created_at=_instant(raw[b"created_at"]),
        updated_at=_instant(raw[b"updated_at"]),
        last_activity=_instant(raw[b"last_activity"]),
        expires_at=_instant(raw[b"expires_at"]),
        idle_timeout=int(idle) / 1000,
        deadline_at=int(deadline) / 1000,
        user_id=raw[b"user_id"].decode() or None,
        session_fingerprint=raw[b"session_fingerprint"].decode() or None,
        user_agent=raw[b"user_agent"].decode() or None,
        ip_address=raw[b"ip_address"].decode() or None,
        sid=raw.get(b"sid", b"").decode() or None,
        origin=_origin(raw.get(b"origin", b"")),
        served_by=served_by,
    )


def readable(key: str, raw: Any) -> Record | None:
    """Read a hash as Redis gives it; one that is not a session of ours is none."""
    try:
        return from_hash(key, pairs(raw))
    except CorruptRecord:
        return None
