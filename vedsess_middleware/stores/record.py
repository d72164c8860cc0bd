"""The session record: a last-writer-wins map, kept as replicas that are brought together by merging.

A version is a pair: each store counts the writes that it took itself.  Every field carries the version that wrote it,
its stamp.  So a late copy, a repeated one and an old one are all the same pure function, `merge`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

__all__ = ["KEPT_DELETIONS", "Delta", "Field", "Record", "Version", "merge", "mirrored"]

KEPT_DELETIONS = 32
"""Deleted field names that a record remembers, so that an older copy cannot bring them back; the oldest go first."""


class Version(NamedTuple):
    """How many writes SQL (`s`) and Redis (`r`) took.  Written `s.r`; ordered by `s`, then `r`."""

    s: int = 0
    r: int = 0

    def __str__(self) -> str:
        return f"{self.s}.{self.r}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `s.r`.

        Raises:
            ValueError: it is something else.
        """
        s, dot, r = text.partition(".")
        if not (dot and s.isascii() and s.isdigit() and r.isascii() and r.isdigit()):
            raise ValueError("a version is two counters, as in 3.14")
        return cls(int(s), int(r))

    def covers(self, other: "Version") -> bool:
        """Whether every write that `other` knows of is in this version too."""
        return self.s >= other.s and self.r >= other.r

    def join(self, other: "Version") -> "Version":
        """The least version that covers both."""
        return Version(max(self.s, other.s), max(self.r, other.r))


class Field(NamedTuple):
    """One field: the version that wrote it, and its encoded value; `None` for a deleted one."""

    stamp: Version
    value: str | None

    def __str__(self) -> str:
        return f"{self.stamp}:{self.value or ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `s.r:value`.

        Raises:
            ValueError: it is something else.
        """
        stamp, colon, value = text.partition(":")
        if not colon:
            raise ValueError("a field is a stamp, a colon and a value")
        return cls(Version.parse(stamp), value or None)

    def rank(self) -> tuple[Version, str]:
        """The order in which fields win: by stamp, and by value where two replicas gave out one stamp twice."""
        return self.stamp, self.value or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a store holds under one key.  Instants are epoch seconds, exact to the millisecond.

    Attributes:
        version: covers every write that is in it.
        fields: application values by name, encoded.
        created_at: when the session began.
        updated_at: when a field last changed; of a tombstone, when the session ended.
        last_activity: when it was last used, exact to the refresh interval.
        expires_at: when it ends if it is not used again.
        idle_timeout: seconds without use after which it ends.
        deadline_at: when it ends however much it is used.
        user_id: whose session it is; None before a login.
        session_fingerprint: of the client that created it; None: not taken.
        user_agent: label of that client, at most 64 characters.
        ip_address: its address.
        gone: a tombstone: the session was ended, and no copy may bring it back.
        served_by: the store that it was read from.
        stale: older than what the browser has seen, and nothing newer could be had.
        dirty: SQL holds it, and Redis may hold something older.
    """

    version: Version
    fields: Mapping[str, Field] = field(default_factory=dict)
    created_at: float
    updated_at: float
    last_activity: float
    expires_at: float
    idle_timeout: float
    deadline_at: float
    user_id: str | None = None
    session_fingerprint: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    gone: bool = False
    served_by: str = field(default="", compare=False)
    stale: bool = field(default=False, compare=False)
    dirty: bool = field(default=False, compare=False)

    @classmethod
    def new(cls, *, at: float, idle_timeout: float, deadline_at: float, version: Version = Version()) -> Self:
        """A record without fields, used now."""
        return cls(
            version=version,
            created_at=at,
            updated_at=at,
            last_activity=at,
            expires_at=min(at + idle_timeout, deadline_at),
            idle_timeout=idle_timeout,
            deadline_at=deadline_at,
        )

    @classmethod
    def tombstone(cls, *, version: Version, at: float, until: float) -> Self:
        """What is left of an ended session, kept until no copy of it can still be alive."""
        return cls(
            version=version,
            created_at=at,
            updated_at=at,
            last_activity=at,
            expires_at=until,
            idle_timeout=0.0,
            deadline_at=until,
            gone=True,
        )

    def __repr__(self) -> str:
        kind = "tombstone" if self.gone else f"{len(self.fields)} fields"
        return f"<Record {self.version} {kind}>"

    def contains(self, other: "Record") -> bool:
        """Whether merging `other` into this one would add nothing: neither fields, nor knowledge of writes."""
        if self.gone:
            return True
        if other.gone or not self.version.covers(other.version):
            return False
        return _merge_fields(self.fields, other.fields) == self.fields

    @property
    def values(self) -> dict[str, str]:
        """The encoded values that are there, by name."""
        return {name: item.value for name, item in self.fields.items() if item.value is not None}

    def born(self, version: Version) -> "Record":
        """The same record as a first write of this version; unchanged where it has a version already."""
        if self.version != Version():
            return self
        fields = {name: Field(version, item.value) for name, item in self.fields.items()}
        return replace(self, version=version, fields=fields)

    def used(self, at: float) -> "Record":
        """The same record, used at that time.  Never moves backwards."""
        return replace(
            self,
            last_activity=max(self.last_activity, at),
            expires_at=max(self.expires_at, min(at + self.idle_timeout, self.deadline_at)),
        )

    def written(self, delta: "Delta", version: Version) -> "Record":
        """The same record after a delta, whose fields are stamped with `version`."""
        fields = dict(self.fields)
        fields.update((name, Field(version, value)) for name, value in delta.put.items())
        fields.update((name, Field(version, None)) for name in delta.drop)
        for name in delta.forget:
            fields.pop(name, None)
        return replace(self, version=version, fields=fields, updated_at=max(self.updated_at, delta.at)).used(delta.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one request changed.

    Attributes:
        put: new encoded values by name.
        drop: names that were deleted.
        forget: names whose deletion need not be remembered any longer.
        at: when, in epoch seconds.
        base: join of the versions that this browser has seen and that the request loaded: an older record is not
            written to.
        loaded: the record that the request loaded; None: it wrote without reading.
        refresh: the use counts as recorded lately if that was less than this many seconds ago.
        commit_id: the same id twice is the same commit: a retry changes nothing.
        whole: the caller needs the whole record back.
    """

    put: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    at: float
    base: Version = Version()
    loaded: Record | None = None
    refresh: float = 0.0
    commit_id: str
    whole: bool = False

    def __repr__(self) -> str:
        return f"<Delta {len(self.put)} put, {len(self.drop)} dropped>"


def mirrored(row: Record, copy: Record) -> Record:
    """What a row becomes when it hears of a copy.

    Where it merely follows, it takes the version as it is.  Where each had something that the other lacked, the copy
    has to hear of it: one write more, and dirty.
    """
    if row.gone:
        return row
    both = replace(merge(row, copy), dirty=row.dirty)
    if row.contains(copy):
        return both  # at most used later: that is no write
    if not both.gone and copy.version.covers(row.version):
        # What it has forgotten was deleted, and it knew.
        kept = {name: item for name, item in both.fields.items() if item.value is not None or name in copy.fields}
        both = replace(both, fields=kept)
    if both.gone or both.fields != copy.fields or row.version.s != copy.version.s or row.dirty:
        both = replace(both, version=both.version._replace(s=both.version.s + 1), dirty=True)
    return both


def merge(x: Record, y: Record) -> Record:
    """Bring two replicas of one record together.  Commutative, associative, idempotent; a tombstone wins."""
    version = x.version.join(y.version)
    if x.gone or y.gone:
        ended_at = max(record.updated_at for record in (x, y) if record.gone)
        return Record.tombstone(version=version, at=ended_at, until=max(x.expires_at, y.expires_at))
    return Record(
        version=version,
        fields=_merge_fields(x.fields, y.fields),
        created_at=min(x.created_at, y.created_at),
        updated_at=max(x.updated_at, y.updated_at),
        last_activity=max(x.last_activity, y.last_activity),
        expires_at=max(x.expires_at, y.expires_at),
        idle_timeout=min(x.idle_timeout, y.idle_timeout),
        deadline_at=min(x.deadline_at, y.deadline_at),
        user_id=_either(x.user_id, y.user_id),
        session_fingerprint=_either(x.session_fingerprint, y.session_fingerprint),
        user_agent=_either(x.user_agent, y.user_agent),
        ip_address=_either(x.ip_address, y.ip_address),
    )


def _merge_fields(x: Mapping[str, Field], y: Mapping[str, Field]) -> dict[str, Field]:
    merged = dict(x)
    for name, item in y.items():
        mine = merged.get(name)
        if mine is None or item.rank() > mine.rank():
            merged[name] = item
    return merged


def _either(x: str | None, y: str | None) -> str | None:
    return max(x or "", y or "") or None
