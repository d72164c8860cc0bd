"""The contract's reference: records in a dict of this process.  For tests and trials; nothing outlives the process."""

import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import reduce
from typing import Literal

from vedsess_middleware.errors import EpochMissing, SessionExists, SessionLimitReached
from vedsess_middleware.stores.contract import ENDED_WITHIN, RESERVED_FOR, Found, News, Owner, Replaced, Stats, Written
from vedsess_middleware.stores.record import Delta, Fence, Record, Version, merge, mirrored

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps the whole contract, also that of a primary and of a secondary, without I/O.

    Args:
        counts: which number of a version this store counts: `r` as a primary, `s` as a secondary.
    """

    name = "memory"
    is_async = None
    pending = False

    def __init__(self, *, counts: Literal["r", "s"] = "r") -> None:
        self._counts = counts
        self._records: dict[str, Record] = {}
        self._lock = threading.Lock()
        self.epoch = ""
        self._epochs: dict[str, str] = {}
        self._installed: list[str] = []
        self._leases: dict[str, str] = {}
        self._owing: dict[str, int] = {}
        self._news: list[str] = []
        self._reserved: dict[str, tuple[str, float]] = {}
        self._lost: dict[str, tuple[str, float]] = {}
        self._locks: dict[str, tuple[int, str, float]] = {}
        self._commits: dict[str, str] = {}
        self._cut_offs: list[tuple[str, float]] = []

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._records)} records>"

    # -- the contract ----------------------------------------------------------------------------------------------

    def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Record | None:
        with self._lock:
            record = self._records.get(key)
            if record is None or record.expires_at <= at:
                return None
            if not record.gone and record.last_activity + refresh < at:
                self._records[key] = record = record.used(at)
        return record.replace(served_by=self.name, stale=not record.gone and not record.version.covers(token))

    def create(self, key: str, record: Record, *, due: int = 0) -> Version:
        with self._lock:
            self._answer()
            if key in self._records:
                raise SessionExists("a record exists under this key")
            self._list(due, key)
            self._records[key] = record = record.born(self._next(Version()))
            self._epochs[key] = self.epoch
            return record.version

    def update(self, key: str, delta: Delta, *, due: int = 0) -> Written | None:
        with self._lock:
            self._answer()
            self._list(due, key)
            record = self._live(key, delta.at)
            if record is None or not (record.gone or self._is_current(key)):
                return None
            if record.gone:
                return Written(gone=True, version=record.version)
            if self._counts == "r" and not (record.version.covers(delta.base) and record.version.s == delta.base.s):
                return None
            return self._refused(key, record, delta) or self._write(key, record, delta)

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
        dirty: bool = False,
    ) -> Replaced | None:
        self._answer()
        old = self._records.get(old_key)
        if old is not None and old.gone and not even_if_gone and old.successor != record.named(new_key):
            return None
        version = self.create(new_key, record, due=due)
        with self._lock:
            old = self._records.get(old_key)
            self._bury(old_key, at, until, dirty=dirty, successor=record.named(new_key))
            self._list(due, old_key)
        return Replaced(version=version, missed=old.past(known) if old else None)

    def end(
        self,
        keys: Sequence[str],
        *,
        user_id: str | None = None,
        keep: str | None = None,
        at: float,
        until: float,
        due: int = 0,
        dirty: bool = False,
    ) -> list[str]:
        with self._lock:
            self._answer()
            ended = list(keys) + [key for key in self._of(user_id, at) if key != keep and key not in keys]
            for key in ended:  # grows: what is named is ended wherever it has gone on
                old = self._records.get(key)
                if old is not None and key in keys and old.lets_in and old.successor not in ended:
                    keys = [*keys, old.successor]
                    ended.append(old.successor)
                self._bury(key, at, until, dirty=dirty)
            self._list(due, *ended)
            return ended

    def cut_off(self, user_id: str, *, at: float, until: float, dirty: bool = False) -> list[str]:
        self._cut_offs.append((user_id, at))
        return self.end([], user_id=user_id, at=at, until=until, dirty=dirty)

    def merge(self, key: str, record: Record) -> Record:
        with self._lock:
            old = self._records.get(key)
            merged = (record if old is None else merge(old, record)).replace(dirty=old is not None and old.dirty)
            self._records[key], self._epochs[key] = merged, self.epoch
            return merged

    def records_of(self, owner: str, *, at: float, by: Owner = "user") -> dict[str, Record]:
        with self._lock:
            return {key: self._records[key] for key in self._of(owner, at, by)}

    def sample(self, *, at: float) -> tuple[str, Record] | None:
        with self._lock:
            live = ((key, record) for key, record in self._records.items() if self._live(key, at))
            return next(((key, record) for key, record in live if record.values), None)

    def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> list[str]:
        with self._lock:
            self._answer()
            living = sorted(self._of(user_id, at), key=lambda key: (self._records[key].expires_at, key))
            kept = [each for each, (user, until) in self._reserved.items() if user == user_id and until > at]
            lost = {each: until for each, (user, until) in self._lost.items() if user == user_id and until > at}
            late = at + RESERVED_FOR - ENDED_WITHIN
            leaving = [each for each, until in lost.items() if key in kept or until <= late]
            coming = [each for each in kept if each not in self._records]
            taken = [each for each in (*living, *coming) if each != key and each not in lost]
            if len(taken) >= limit and deny:
                raise SessionLimitReached("the user has as many sessions as are allowed")
            leaving += taken[: max(0, len(taken) - limit + 1)]
            self._lost = dict.fromkeys(leaving, (user_id, at + RESERVED_FOR)) | self._lost
            self._reserved[key] = user_id, at + RESERVED_FOR
            return [each for each in leaving if each not in self._records or not self._records[each].gone]

    def lock(self, key: str, word: str, *, at: float, until: float) -> Fence | None:
        with self._lock:
            self._answer()
            record = self._live(key, at)
            number, holder, held_until = self._locks.get(key, (0, "", 0.0))
            if record is None or record.gone or (held_until > at and holder != word):
                return None
            if holder != word:
                number += 1
            self._locks[key] = number, word, until
            return Fence(self.name, number)

    def unlock(self, key: str, fence: Fence) -> None:
        with self._lock:
            number, _, _ = self._locks.get(key, (0, "", 0.0))
            if fence == Fence(self.name, number):
                self._locks[key] = number, "", 0.0

    def stats(self, *, at: float) -> Stats:
        with self._lock:
            live = [record for record in self._records.values() if not record.gone and record.expires_at > at]
            users = {record.user_id for record in live if record.user_id is not None}
            return Stats(store=self.name, active=len(live), users=len(users))

    def cleanup(self, *, at: float) -> int:
        with self._lock:
            over = [key for key, record in self._records.items() if record.expires_at <= at]
            for key in over:
                del self._records[key]
            return len(over)

    def after_response(self) -> None:
        return None

    def close(self) -> None:
        return None

    # -- as a primary ----------------------------------------------------------------------------------------------

    def under(self, epoch: str) -> "MemoryStore":
        view = copy(self)
        view.epoch = epoch
        return view

    def identity(self) -> str:
        return ""

    def install(self) -> None:
        self._installed.append(self.epoch)

    def ping(self) -> None:
        self._answer()

    def installed(self) -> str:
        return self._installed[-1] if self._installed else ""

    def find(self, key: str, *, at: float, refresh: float, token: Version = Version(), denied: bool = False) -> Found:
        self._answer()
        record = self.load(key, at=at, refresh=refresh, token=token)
        if record is not None and (record.gone or (not denied and not record.stale and self._is_current(key))):
            return Found(record=record, hit=not record.gone)
        with self._lock:
            lease = self._leases[key] = secrets.token_hex(4)
        return Found(record=record, lease=lease, due=key in self._owing)

    def peek(self, key: str) -> Record | None:
        self._answer()
        return self._records.get(key)

    def fill(self, key: str, record: Record, *, lease: str = "") -> Record | None:
        self._answer()
        with self._lock:
            held = self._leases.pop(key, "")
            entitled = held and held == lease
            if key not in self._records and not record.gone and not entitled:
                return None
        return self.merge(key, record)

    def unconfirmed(self, *, limit: int) -> dict[str, int]:
        self._answer()
        return dict(sorted(self._owing.items(), key=lambda item: item[1])[:limit])

    def confirm(self, key: str, due: int) -> None:
        with self._lock:
            if self._owing.get(key) == due:
                del self._owing[key]

    def probe(self) -> None:
        return None

    # -- as a secondary --------------------------------------------------------------------------------------------

    def poll(self) -> News:
        with self._lock:
            dirty = frozenset(key for key, record in self._records.items() if record.dirty)
            return News(epoch=self._news[-1] if self._news else "", dirty=dirty, cut_offs=len(self._cut_offs))

    def set_epoch(self, epoch: str, *, missing: str) -> bool:
        with self._lock:
            if (self._news[-1] if self._news else "") != missing:
                return False
            self._news.append(epoch)
            return True

    def mirror(self, key: str, record: Record, *, before: Record | None = None) -> Record:
        with self._lock:
            row = self._records.get(key)
            self._records[key] = both = mirrored(row, record) if row else record.replace(dirty=False)
            return both

    def mirror_all(self, records: Mapping[str, Record]) -> dict[str, Record]:
        return {key: self.mirror(key, record) for key, record in records.items()}

    def cut_offs(self, *, after: int) -> dict[str, float]:
        with self._lock:
            return dict(self._cut_offs[after:])

    def claim(self, key: str, version: Version) -> Version | None:
        with self._lock:
            row = self._records.get(key)
            if row is None or row.version != version or row.gone or row.dirty:
                return None
            claimed = version._replace(s=version.s + 1)
            self._records[key] = row.replace(version=claimed)
            return claimed

    def take_over(self, key: str, delta: Delta) -> Written | None:
        with self._lock:
            known = [each for each in (self._records.get(key), delta.loaded) if each is not None]
            newest = reduce(merge, known) if known else None
            if newest is None or newest.expires_at <= delta.at:
                return None
            if newest.gone:
                return Written(gone=True, version=newest.version)
            refused = self._refused(key, newest, delta)
            if refused is not None:
                return refused
            written = self._write(key, newest, delta)
            self._records[key] = self._records[key].replace(dirty=True)
            return written

    def owe(self, records: Mapping[str, Record]) -> None:
        for key, record in records.items():
            merged = self.merge(key, record)
            with self._lock:
                self._records[key] = merged.replace(dirty=True)

    def owed(self, keys: Collection[str]) -> dict[str, Record]:
        with self._lock:
            return {key: record for key, record in self._records.items() if record.dirty and key in keys}

    def paid(self, key: str, version: Version, *, record: Record, epoch: str) -> None:
        with self._lock:
            row = self._records.get(key)
            if row is not None and row.version == version and (not epoch or self._news[-1:] == [epoch]):
                self._records[key] = record.replace(dirty=False)

    def buried(self, keys: Collection[str], *, epoch: str) -> None:
        with self._lock:
            for key in keys:
                row = self._records.get(key)
                if row is not None and row.gone and self._news[-1:] == [epoch]:
                    self._records[key] = row.replace(dirty=False)

    def forget(self, key: str, version: Version) -> None:
        with self._lock:
            row = self._records.get(key)
            if row is not None and row.version == version:
                del self._records[key]

    def note_use(self, key: str, record: Record) -> None:
        with self._lock:
            old = self._records.get(key)
            if old is not None and not old.gone:
                self._records[key] = old.used(record.last_activity)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        if self.epoch and self.epoch not in self._installed:
            raise EpochMissing

    def _is_current(self, key: str) -> bool:
        return not self.epoch or self._epochs.get(key) == self.epoch

    def _list(self, due: int, *keys: str) -> None:
        if due:
            self._owing.update(dict.fromkeys(keys, due))

    def _live(self, key: str, at: float) -> Record | None:
        record = self._records.get(key)
        return None if record is None or record.expires_at <= at else record

    def _of(self, owner: str | None, at: float, by: Owner = "user") -> list[str]:
        if owner is None:
            return []
        records = self._records.items()
        owners = {key: record.user_id if by == "user" else record.sid for key, record in records}
        return [key for key, each in owners.items() if each == owner and self._live(key, at)]

    def _bury(self, key: str, at: float, until: float, *, dirty: bool, successor: str = "") -> None:
        old = self._records.get(key)
        if old is not None and old.gone:
            return
        version = self._next(old.version if old else Version())
        kept_until = max(until, old.expires_at, at + old.idle_timeout) if old else until
        tombstone = Record.tombstone(version=version, at=at, until=kept_until, successor=successor)
        self._records[key] = tombstone.replace(dirty=dirty or (old is not None and old.dirty))

    def _refused(self, key: str, record: Record, delta: Delta) -> Written | None:
        """What keeps a delta from being written, if anything does; not its own first try."""
        if self._commits.get(key) == delta.commit_id:
            return None
        number, holder, until = self._locks.get(key, (0, "", 0.0))
        if delta.fence is not None and (delta.fence != Fence(self.name, number) or not holder or until <= delta.at):
            return Written(unlocked=True, version=record.version)
        conflict = delta.conflicts(record)
        return Written(conflict=conflict, version=record.version) if conflict else None

    def _write(self, key: str, record: Record, delta: Delta) -> Written:
        record = record.written(delta, self._next(record.version))
        self._records[key], self._commits[key] = record, delta.commit_id
        return Written(version=record.version, record=record)

    def _next(self, version: Version) -> Version:
        return Version(version.s + 1, version.r) if self._counts == "s" else Version(version.s, version.r + 1)
