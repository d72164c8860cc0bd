"""The contract that every store keeps, whatever its colour.

A method returns its result or an awaitable of it; `settle` takes both.  A store that cannot serve raises
`StoreUnavailable`, and one that refuses raises `StoreMisconfigured`: neither ever says "no session" instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vedsess_middleware.concurrency import Maybe
from vedsess_middleware.stores.record import Delta, Record, Version

__all__ = ["Primary", "Secondary", "Stats", "Store", "Written"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of an update.

    Attributes:
        version: of the record now.
        record: the whole record now, where the store had it at hand or was asked for it.
        gone: nothing was written: the session was ended meanwhile.
    """

    version: Version = Version()
    record: Record | None = None
    gone: bool = False


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

    def load(self, key: str, *, at: float, refresh: float, token: Version = Version()) -> Maybe[Record | None]:
        """Return the record, a tombstone, or None where there is nothing.

        Args:
            key: whose.
            at: now, in epoch seconds.
            refresh: the use is recorded, and the time to live extended, if the last recorded use is older than this,
                in seconds.
            token: newest version that the browser has seen; a record that does not cover it is marked `stale`.
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
        self, old_key: str, new_key: str, record: Record, *, at: float, until: float, even_if_gone: bool = False
    ) -> Maybe[Version | None]:
        """Store a record under a new key and leave a tombstone under the old one.  The new one exists first.

        Returns:
            None where the old one was ended already: then there is no new one either, except with `even_if_gone`.

        Raises:
            SessionExists: the new key is taken.  Nothing is changed.
        """

    def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> Maybe[list[str]]:
        """Leave a tombstone for each key, whether or not there is a record, and return the keys.

        Args:
            keys: these.
            user_id: and every session of this user ...
            keep: ... but this key.
            at: now, in epoch seconds.
            until: how long a tombstone is kept at least, in epoch seconds.
        """

    def merge(self, key: str, record: Record) -> Maybe[Record]:
        """Bring the stored record and this one together, and return what is stored then."""

    def records_of(self, user_id: str, *, at: float) -> Maybe[dict[str, Record]]:
        """Return the live records of a user by key."""

    def stats(self, *, at: float) -> Maybe[Stats]:
        """Count what is there."""

    def cleanup(self, *, at: float) -> Maybe[int]:
        """Remove what has expired, index entries too, and return how many entries went."""

    def after_response(self) -> Maybe[None]:
        """Do what must not delay an answer."""

    def close(self) -> Maybe[None]:
        """Give connections back.  The store may be used again."""


class Primary(Store, Protocol):
    """A store that another one takes over from."""

    def probe(self) -> Maybe[None]:
        """Find out cheaply whether the store serves, writes included.

        Raises:
            StoreUnavailable: it does not.
            StoreMisconfigured: it answers, and refuses.
        """


class Secondary(Store, Protocol):
    """A store that can take over from another: it remembers which of its records the other may not know yet."""

    def take_over(self, key: str, delta: Delta) -> Maybe[Written | None]:
        """Write a delta that the primary could not take, and mark the record dirty.

        What the request had loaded is merged first, and becomes the record where there is none here.  None: nothing
        was written, for nobody knows this session.
        """

    def owe(self, records: Mapping[str, Record]) -> Maybe[None]:
        """Merge these records, and mark them dirty: the primary may hold something older."""

    def owed(self, *, limit: int) -> Maybe[dict[str, Record]]:
        """Return dirty records by key, tombstones too."""

    def paid(self, key: str, version: Version, *, remove: bool = False) -> Maybe[None]:
        """Clear the mark if the record is still at this version; or remove the record."""

    def note_use(self, key: str, record: Record) -> None:
        """Remember that a session was used, for the next `after_response`."""
