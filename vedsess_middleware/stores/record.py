"""The session record: a last-writer-wins map, kept as replicas that are brought together by merging.

A version is a pair: each store counts the writes that it took itself.  Every field carries the version that wrote it,
its stamp.  So a late copy, a repeated one and an old one are all the same pure function, `merge`.

Records and deltas are structs of msgspec: frozen like a dataclass, and made in a tenth of the time.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import msgspec

__all__ = ["KEPT_DELETIONS", "Delta", "Fence", "Field", "Origin", "Record", "Stamped", "Version", "merge", "mirrored"]

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
        if self.covers(other):
            return self
        return other if other.covers(self) else Version(max(self.s, other.s), max(self.r, other.r))


class Origin(NamedTuple):
    """Where a session id comes from: what is said once, when the id is given out, and never changes.

    Written `family issued authenticated flags`, instants in epoch milliseconds: short, for a longer value would double
    the memory of a small hash.

    Attributes:
        family: names the session through all its ids, 16 random characters; empty in a record that was written before
            there were families.
        issued_at: when the id was given out, in epoch seconds; 0: not known.
        authenticated_at: when its user last logged in, in epoch seconds; 0: never, or not known.
        in_browser: the cookie goes when the browser is closed.
        sealed: whoever comes with the id that this one replaced is not let in.
    """

    family: str = ""
    issued_at: float = 0.0
    authenticated_at: float = 0.0
    in_browser: bool = False
    sealed: bool = False

    def __str__(self) -> str:
        flags = ("b" if self.in_browser else "") + ("s" if self.sealed else "")
        instants = f"{round(self.issued_at * 1000)} {round(self.authenticated_at * 1000)}"
        return f"{self.family or '-'} {instants} {flags or '-'}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes; of an empty text nothing is known.

        Raises:
            ValueError: it is something else.
        """
        if not text:
            return cls()
        family, issued, authenticated, flags = text.split(" ")
        named = "" if family == "-" else family
        return cls(named, int(issued) / 1000, int(authenticated) / 1000, "b" in flags, "s" in flags)


class Fence(NamedTuple):
    """A lock on a session, as its holder knows it: which store gave it out, and its number there."""

    store: str
    number: int


class Field(NamedTuple):
    """One field: the version that wrote it, and its encoded value; `None` for a deleted one."""

    stamp: Version
    value: str | None

    def __str__(self) -> str:
        return f"{self.stamp}:{self.value or ''}"

    def __repr__(self) -> str:
        """Never shows the value."""
        return f"<Field {self.stamp}{' deleted' if self.value is None else ''}>"

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


_STAMP = re.compile(r"[0-9]+\.[0-9]+:")


class Stamped(Mapping[str, Field]):
    """Fields by name, as a store writes them, `s.r:value`: each is cut in two when somebody asks for it.

    Args:
        texts: by name.

    Raises:
        ValueError: one is something else.
    """

    __slots__ = ("_texts",)

    def __init__(self, texts: Mapping[str, str]) -> None:
        if not all(map(_STAMP.match, texts.values())):
            raise ValueError("a field is a stamp, a colon and a value")
        self._texts = texts

    def __getitem__(self, name: str) -> Field:
        return Field.parse(self._texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"<{len(self)} fields>"

    def written(
        self, put: Mapping[str, str], drop: Iterable[str], forget: Iterable[str], version: Version
    ) -> "Stamped":
        """The same after a write of this version."""
        texts = {**self._texts, **{name: f"{version}:{value}" for name, value in put.items()}}
        texts.update((name, f"{version}:") for name in drop)
        for name in forget:
            texts.pop(name, None)
        return Stamped(texts)

    @classmethod
    def of(cls, fields: Mapping[str, Field]) -> "Stamped":
        """These fields, as they are written."""
        return fields if isinstance(fields, cls) else cls({name: str(item) for name, item in fields.items()})

    @property
    def texts(self) -> Mapping[str, str]:
        """All, as they are written."""
        return self._texts

    @property
    def deleted(self) -> dict[str, Version]:
        """The stamps of those that are not there any more."""
        return {
            name: Version.parse(text[:-1]) for name, text in self._texts.items() if text.index(":") == len(text) - 1
        }

    @property
    def encoded(self) -> dict[str, str]:
        """The encoded values that are there."""
        return {name: value for name, text in self._texts.items() if (value := text[text.index(":") + 1 :])}


class Record(msgspec.Struct, frozen=True, kw_only=True, eq=False):
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
        sid: name of the session that an identity provider knows it by; None: there is none.
        origin: an `Origin`, as text.
        successor: of a tombstone: the key under which the session went on, after a `!` where nobody gets in there with
            the old one; empty: it did not go on.
        gone: a tombstone: the session was ended, and no copy may bring it back.
        served_by: the store that it was read from.
        stale: older than what the browser has seen, and nothing newer could be had.
        dirty: SQL holds it, and Redis may hold something older.
    """

    version: Version
    fields: Mapping[str, Field] = {}
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
    sid: str | None = None
    origin: str = ""
    successor: str = ""
    gone: bool = False
    served_by: str = ""
    stale: bool = False
    dirty: bool = False

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
    def tombstone(cls, *, version: Version, at: float, until: float, successor: str = "") -> Self:
        """What is left of an ended session, kept until no copy of it can still be alive."""
        return cls(
            version=version,
            created_at=at,
            updated_at=at,
            last_activity=at,
            expires_at=until,
            idle_timeout=0.0,
            deadline_at=until,
            successor=successor,
            gone=True,
        )

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same; where they came from does not count."""
        if not isinstance(other, Record):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _HELD)

    def __ne__(self, other: object) -> bool:
        # The base has one of its own, which would count everything.
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def replace(self, **changes: Any) -> "Record":
        """The same record with other attributes."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        kind = "tombstone" if self.gone else f"{len(self.fields)} fields"
        return f"<Record {self.version} {kind}>"

    def named(self, key: str) -> str:
        """What a tombstone says of its successor, which is this record under that key."""
        return f"!{key}" if Origin.parse(self.origin).sealed else key

    @property
    def goes_on(self) -> tuple[str, bool]:
        """Under which key the session went on, if it did, and whether the holders of the old one are out."""
        return self.successor.removeprefix("!"), self.successor.startswith("!")

    @property
    def lets_in(self) -> bool:
        """Whether the session went on, and the holders of the old key may follow."""
        return self.successor[:1] not in ("", "!")

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
        if isinstance(self.fields, Stamped):
            return self.fields.encoded
        return {name: item.value for name, item in self.fields.items() if item.value is not None}

    @property
    def deleted(self) -> dict[str, Version]:
        """The stamps of deleted fields, by name."""
        if isinstance(self.fields, Stamped):
            return self.fields.deleted
        return {name: item.stamp for name, item in self.fields.items() if item.value is None}

    def past(self, known: Version | None) -> "Record | None":
        """This record, where it is alive and holds writes that are not in the known version."""
        return None if known is None or self.gone or known.covers(self.version) else self

    def born(self, version: Version) -> "Record":
        """The same record as a first write of this version; unchanged where it has a version already."""
        if self.version != Version():
            return self
        fields = {name: Field(version, item.value) for name, item in self.fields.items()}
        return self.replace(version=version, fields=fields)

    def used(self, at: float) -> "Record":
        """The same record, used at that time.  Never moves backwards."""
        return self.replace(
            last_activity=max(self.last_activity, at),
            expires_at=self.ends_at(at),
        )

    def ends_at(self, at: float) -> float:
        """When it ends if it is used at that time, and not again."""
        return max(self.expires_at, min(at + self.idle_timeout, self.deadline_at))

    def written(self, delta: "Delta", version: Version) -> "Record":
        """The same record after a delta, whose fields are stamped with `version`."""
        return self.replace(
            version=version,
            fields=Stamped.of(self.fields).written(delta.put, delta.drop, delta.forget, version),
            updated_at=max(self.updated_at, delta.at),
            last_activity=max(self.last_activity, delta.at),
            expires_at=self.ends_at(delta.at),
        )


_HELD = [name for name in Record.__struct_fields__ if name not in ("served_by", "stale", "dirty")]


class Delta(msgspec.Struct, frozen=True, kw_only=True):
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
        expected: stamps of fields that nobody may have written since, by name; `0.0` where there was no such field.
        fence: the lock that the writer holds; None: it holds none, and needs none.
    """

    put: Mapping[str, str] = {}
    drop: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    at: float
    base: Version = Version()
    loaded: Record | None = None
    refresh: float = 0.0
    commit_id: str
    whole: bool = False
    expected: Mapping[str, Version] = {}
    fence: Fence | None = None

    def replace(self, **changes: Any) -> "Delta":
        """The same delta with other attributes."""
        return msgspec.structs.replace(self, **changes)

    def conflicts(self, record: Record) -> tuple[str, ...]:
        """The fields that somebody has written although this delta expects that nobody did."""
        return tuple(name for name, stamp in self.expected.items() if _stamp(record, name) != stamp)

    def __repr__(self) -> str:
        return f"<Delta {len(self.put)} put, {len(self.drop)} dropped>"


def _stamp(record: Record, name: str) -> Version:
    """The stamp of a field, or of its deletion; 0.0 where neither is remembered."""
    item = record.fields.get(name)
    return item.stamp if item else Version()


def mirrored(row: Record, copy: Record) -> Record:
    """What a row becomes when it hears of a copy.

    Where it merely follows, it takes the version as it is.  Where each had something that the other lacked, the copy
    has to hear of it: one write more, and dirty.
    """
    if row.gone:
        return row
    both = merge(row, copy).replace(dirty=row.dirty)
    if row.contains(copy):
        return both  # at most used later: that is no write
    if not both.gone and copy.version.covers(row.version):
        # What it has forgotten was deleted, and it knew.
        kept = {name: item for name, item in both.fields.items() if item.value is not None or name in copy.fields}
        both = both.replace(fields=kept)
    if both.gone or both.fields != copy.fields or row.version.s != copy.version.s or row.dirty:
        both = both.replace(version=both.version._replace(s=both.version.s + 1), dirty=True)
    return both


def merge(x: Record, y: Record) -> Record:
    """Bring two replicas of one record together.  Commutative, associative, idempotent; a tombstone wins."""
    version = x.version.join(y.version)
    if x.gone or y.gone:
        ended_at = max(record.updated_at for record in (x, y) if record.gone)
        until, successor = max(x.expires_at, y.expires_at), max(x.successor, y.successor)
        return Record.tombstone(version=version, at=ended_at, until=until, successor=successor)
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
        sid=_either(x.sid, y.sid),
        origin=max(x.origin, y.origin),
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
