"""The contract that every store keeps, whatever its colour.

A method returns its result or an awaitable of it; `settle` takes both.  A store that cannot serve raises
`StoreUnavailable`, and one that refuses raises `StoreMisconfigured`: neither ever says "no session" instead.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from vedsess_middleware.concurrency import Maybe
from vedsess_middleware.stores.record import Delta, Fence, Record, Version

__all__ = [
    "ENDED_WITHIN",
    "RESERVED_FOR",
    "Found",
    "News",
    "Owner",
    "Primary",
    "Replaced",
    "Secondary",
    "Stats",
    "Store",
    "Written",
]

RESERVED_FOR = 10.0
"""Seconds for which a place is kept for a session that is about to be stored."""

ENDED_WITHIN = 2.0
"""Seconds after which whoever should have ended a session that lost its place will not get to it any more."""

Owner = Literal["user", "sid"]
"""What sessions are listed by: their user, or the name that an identity provider knows one by."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an update.

    Attributes:
        version: of the record now.
        record: the whole record now, where the store had it at hand or was asked for it.
        gone: nothing was written: the session was ended meanwhile.
        conflict: nothing was written: others have written these fields, which were expected to stay.
        unlocked: nothing was written: the lock that the writer held is no longer its own.
    """

    version: Version = Version()
    record: Record | None = None
    gone: bool = False
    conflict: tuple[str, ...] = ()
    unlocked: bool = False

    @property
    def refused(self) -> bool:
        """Whether nothing was written."""
        return self.gone or self.unlocked or bool(self.conflict)


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a session that goes on under another key.

    Attributes:
        version: of the new record.
        missed: the old record as it ended, where others had written to it past what the caller knew.
    """

    version: Version
    missed: Record | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a primary holds under a key.

    Attributes:
        record: the copy that is there, or a tombstone; None: nothing.
        hit: it may be served: it is of the epoch that was asked for, and covers the token.
        lease: names the right to fill what was missed.
        due: a copy of it is owed to the secondary, as the list says that `confirm` takes it off; of a hit, nobody asks.
    """

    record: Record | None = None
    hit: bool = False
    lease: str = ""
    due: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What one poll of a secondary says.

    Attributes:
        epoch: the one that copies in the primary have to be of; empty: none was ever set.
        dirty: keys whose copy in the primary may be older than the record here.
        complete: these are all of them.
        cut_offs: how many cut-offs there ever were: where that has grown, there is something to ask for.
    """

    epoch: str = ""
    dirty: frozenset[str] = frozenset()
    complete: bool = True
    cut_offs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a store holds, and how it does.

    Attributes:
        store: its name.
        active: sessions that are alive, counted exactly.
        users: users who have one.
        details: what only this kind of store knows, such as memory or hits, by readable name.
    """

    store: str
    active: int
    users: int
    details: Mapping[str, int | float | str] = field(default_factory=dict)


class Store(Protocol):
    """Keeps session records.  A key is the SHA-256 of a session id, in hexadecimal: no store ever sees an id."""

    @property
    def name(self) -> str:
        """What `Session.store` and the events call it."""

    @property
    def is_async(self) -> bool | None:
        """True: needs an event loop.  False: blocks.  None: does no I/O, serves both."""

    @property
    def pending(self) -> bool:
        """Whether `after_response` has something to do.  Costs nothing to ask."""

    def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Maybe[Record | None]:
        """Return the record, a tombstone, or None where there is nothing.

        Args:
            key: whose.
            at: now, in epoch seconds.
            refresh: the use is recorded, and the time to live extended, if the last recorded use is older than this,
                in seconds.
            token: newest version that the browser has seen; a record that does not cover it is marked `stale`.
            token_at: when the browser was given it, in epoch seconds.
        """

    def create(self, key: str, record: Record) -> Maybe[Version]:
        """Store a first record and return its version; one of version 0.0 is counted as this store's first write.

        Raises:
            SessionExists: there is a record, or a tombstone.  Nothing is overwritten.
        """

    def update(self, key: str, delta: Delta) -> Maybe[Written | None]:
        """Write the changed fields in one atomic step, and extend the time to live.

        Returns:
            None where nothing was written since there is no record, or only one older than `delta.base`.
        """

    def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        known: Version | None = None,
    ) -> Maybe[Replaced | None]:
        """Store a record under a new key and leave a tombstone under the old one, which names the new key.

        The new one exists first.

        Args:
            old_key: where the session was.
            new_key: where it goes on.
            record: what is stored there.
            at: now, in epoch seconds.
            until: how long the tombstone is kept at least, in epoch seconds.
            even_if_gone: also where the old one was ended already.
            known: version of the old record that the caller made the new one from.

        Returns:
            None where the old one was ended already: then there is no new one either, except with `even_if_gone`.

        Raises:
            SessionExists: the new key is taken, and not touched.  The old one may have ended all the same: keys are
                drawn at random, and this store need not be able to change two at once.
        """

    def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> Maybe[list[str]]:
        """Leave a tombstone for each key, whether or not there is a record, and return the keys.

        Args:
            keys: these; and those under which their sessions have gone on, where one is let in with the old one.
            user_id: and every session of this user ...
            keep: ... but this key.
            at: now, in epoch seconds.
            until: how long a tombstone is kept at least, in epoch seconds; where a record is there, also until no copy
                of it can be alive.
        """

    def cut_off(self, user_id: str, *, at: float, until: float) -> Maybe[list[str]]:
        """End every session of this user that began until now, also those that no index names; return known keys.

        Takes as long as there are sessions where the store has nothing but its index to find them by.
        """

    def merge(self, key: str, record: Record) -> Maybe[Record]:
        """Bring the stored record and this one together, and return what is stored then."""

    def records_of(self, owner: str, *, at: float, by: Owner = "user") -> Maybe[dict[str, Record]]:
        """Return the live records of a user, or those of this `sid`, by key."""

    def sample(self, *, at: float) -> Maybe[tuple[str, Record] | None]:
        """Return any live record that holds values, and its key; None where there is none at hand."""

    def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> Maybe[list[str]]:
        """Take one of a user's places for a session that is about to be stored under this key: one atomic step.

        A place that is not used is free again after `RESERVED_FOR`.

        Args:
            user_id: whose.
            key: of the session to come.
            limit: how many places the user has.
            deny: if all are taken, take none; otherwise whoever would end first has to leave.
            at: now, in epoch seconds.

        Returns:
            keys that have lost their place: the caller ends them, and they count no more.  One whose session was only
            about to be stored cannot be stored after that.  A repeat names the same, and whoever comes later those that
            had lost theirs `ENDED_WITHIN` ago.

        Raises:
            SessionLimitReached: with `deny`: all places are taken.
        """

    def lock(self, key: str, word: str, *, at: float, until: float) -> Maybe[Fence | None]:
        """Give out the lock of a session, if nobody has it.

        Args:
            key: whose; there has to be a live record.
            word: drawn for this attempt: a repeat gets the same answer.
            at: now, in epoch seconds.
            until: when the lock is free again, whether it is given back or not.

        Returns:
            A fence with a higher number than any before it; None: somebody holds the lock, or there is no session.
        """

    def unlock(self, key: str, fence: Fence) -> Maybe[None]:
        """Give a lock back; nothing happens if it is somebody else's by now."""

    def stats(self, *, at: float) -> Maybe[Stats]:
        """Count what is there."""

    def cleanup(self, *, at: float) -> Maybe[int]:
        """Remove what has expired, index entries too, and return how many entries went."""

    def after_response(self) -> Maybe[None]:
        """Do what must not delay an answer."""

    def close(self) -> Maybe[None]:
        """Give connections back.  The store may be used again."""


class Primary(Store, Protocol):
    """A store that another one takes over from.

    `due`, where a method takes it, lists the key under this number until `confirm` is told the same: its copy in the
    secondary is owed.  0: it is not.
    """

    @property
    def epoch(self) -> str:
        """What it was told by `under`; empty: any copy counts."""

    def under(self, epoch: str) -> "Primary":
        """The same store, as long as the process that answers is one that this epoch was installed in.

        Every method that serves or writes a record raises `EpochMissing` otherwise.  What it writes is of this epoch.
        """

    def identity(self) -> Maybe[str]:
        """What tells the process that answers from another one where its knowledge of scripts does not; else empty.

        It is made a part of the epoch.
        """

    def install(self) -> Maybe[None]:
        """Install the epoch.  An epoch is installed once, by whoever made it: again, and old copies would count."""

    def ping(self) -> Maybe[None]:
        """Find out whether the epoch is installed."""

    def installed(self) -> Maybe[str]:
        """Name the epoch that was installed last; empty if nobody knows."""

    def find(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), denied: bool = False
    ) -> Maybe[Found]:
        """Return what is there, and whether it may be served; `denied`: only a tombstone may.

        A miss comes with a lease, which lasts for seconds.
        """

    def peek(self, key: str) -> Maybe[Record | None]:
        """Return what is there, of any epoch, also if it has expired.  Changes nothing."""

    def create(self, key: str, record: Record, *, due: int = 0) -> Maybe[Version]: ...

    def update(self, key: str, delta: Delta, *, due: int = 0) -> Maybe[Written | None]: ...

    def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        known: Version | None = None,
        due: int = 0,
    ) -> Maybe[Replaced | None]: ...

    def end(
        self,
        keys: Sequence[str],
        *,
        user_id: str | None = None,
        keep: str | None = None,
        at: float,
        until: float,
        due: int = 0,
    ) -> Maybe[list[str]]: ...

    def fill(self, key: str, record: Record, *, lease: str = "") -> Maybe[Record | None]:
        """Merge a record into the copy that is there, whose epoch is this one then, and return it.

        Where nothing is, a record is written only with a lease that still counts, a tombstone always.  None: nothing
        was written.
        """

    def unconfirmed(self, *, limit: int) -> Maybe[dict[str, int]]:
        """Return keys that are `due`, with their numbers, those that wait longest first."""

    def confirm(self, key: str, due: int) -> None:
        """Take a key off that list, at the next `after_response`, unless it was listed again meanwhile."""

    def probe(self) -> Maybe[None]:
        """Find out cheaply whether the store serves, writes included.

        Raises:
            StoreUnavailable: it does not.
            StoreMisconfigured: it answers, and refuses.
        """


class Secondary(Store, Protocol):
    """A store that can take over from another: it remembers which of its records the other may not know yet."""

    def peek(self, key: str) -> Maybe[Record | None]:
        """Return what is there, also if it has expired.  Changes nothing."""

    def poll(self) -> Maybe[News]:
        """Return the epoch and the dirty keys, in one statement."""

    def set_epoch(self, epoch: str, *, missing: str) -> Maybe[bool]:
        """Replace the epoch that was found missing, or "" for the first one.  False: another process was quicker."""

    def mirror(self, key: str, record: Record, *, before: Record | None = None) -> Maybe[Record]:
        """Merge what the primary holds into the record here, and return that.

        Where each had something that the other lacked, the result is dirty.

        Args:
            key: whose.
            record: what the primary holds.
            before: what is here, probably: a guess that is right saves a look, and a wrong one changes nothing.
        """

    def mirror_all(self, records: Mapping[str, Record]) -> Maybe[dict[str, Record]]:
        """The same for many, at the cost of few: all of them, or none."""

    def cut_offs(self, *, after: int) -> Maybe[Mapping[str, float]]:
        """Return when users were cut off, by user: all that came after so many, as `News.cut_offs` counts them."""

    def claim(self, key: str, version: Version) -> Maybe[Version | None]:
        """Give a copy that is about to be made a count of its own: None if the record is not at this version."""

    def take_over(self, key: str, delta: Delta) -> Maybe[Written | None]:
        """Write a delta that the primary could not take, and mark the record dirty.

        What the request had loaded is merged first, and becomes the record where there is none here.  None: nothing
        was written, for nobody knows this session.
        """

    def end(
        self,
        keys: Sequence[str],
        *,
        user_id: str | None = None,
        keep: str | None = None,
        at: float,
        until: float,
        dirty: bool = False,
    ) -> Maybe[list[str]]: ...

    def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        known: Version | None = None,
        dirty: bool = False,
    ) -> Maybe[Replaced | None]:
        """As any store; `dirty` marks the tombstone."""

    def cut_off(self, user_id: str, *, at: float, until: float, dirty: bool = False) -> Maybe[list[str]]: ...

    def owe(self, records: Mapping[str, Record]) -> Maybe[None]:
        """Merge these records, and mark them dirty: the primary may hold something older."""

    def owed(self, keys: Collection[str]) -> Maybe[dict[str, Record]]:
        """Return those of these records that are dirty, tombstones too."""

    def paid(self, key: str, version: Version, *, record: Record, epoch: str) -> Maybe[None]:
        """Store what the primary holds now and clear the mark, if the record is still at this version, and the epoch
        still this one (empty: whichever)."""

    def buried(self, keys: Collection[str], *, epoch: str) -> Maybe[None]:
        """Clear the mark of these tombstones, which the primary has too, if the epoch is still this one."""

    def forget(self, key: str, version: Version) -> Maybe[None]:
        """Remove a record, if it is still at this version: the primary has it."""

    def note_use(self, key: str, record: Record) -> None:
        """Remember that a session was used, for the next `after_response`."""
