"""A small model of its own: the end of a session by idle time and by its deadline, in two stores.

Time goes on in ticks, each longer than the copying of a use into SQL takes while SQL is up and the process lives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.search import Verdict, Violation, search

IDLE = 2
DEADLINE = 5


@dataclass(frozen=True)
class ExpiryRules:
    """The rules of expiry, one switch for each."""

    copies_use: bool = True  # a use that Redis took is copied into SQL after the response
    later_wins: bool = True  # storing a merged record keeps a later use that came meanwhile (a use moves no version)
    deadline_kept: bool = True  # a copy has the deadline of its row; False: a fill counts anew


class Times(NamedTuple):
    """When a record was last used, and when it ends at the latest."""

    used: int
    deadline: int = DEADLINE

    def alive(self, now: int) -> bool:
        """Tell whether the record still counts."""
        return now - self.used < IDLE and now < self.deadline


class Clocks(NamedTuple):
    """Everything."""

    now: int
    used: int  # the last use that was answered
    copy: Times | None
    row: Times | None
    pending: tuple[int, ...]  # the use that each process has yet to copy, -1: none
    links: tuple[bool, ...]
    sql_up: bool
    faults: int
    killed: bool
    drained: Times | None = None  # what a drain has merged and is about to store


Moves = Iterator[tuple[str, Clocks]]


def at(values: tuple[int, ...], w: int, value: int) -> tuple[int, ...]:
    """Return the values with another one at `w`."""
    return values[:w] + (value,) + values[w + 1 :]


class Expiry:
    """Requests, copying of uses, time."""

    def __init__(self, rules: ExpiryRules, faults: tuple[str, ...], n_faults: int = 1, states: int = 500_000) -> None:
        """Take the rules and the faults of a run."""
        self.rules, self.faults, self.n_faults, self.states = rules, faults, n_faults, states

    def check(self) -> Verdict:
        """Search."""
        first = Clocks(0, 0, Times(0), Times(0), (-1, -1), (True, True), True, self.n_faults, False)
        return search(first, lambda st: [*self.moves(st)], self.states)

    def moves(self, st: Clocks) -> Moves:
        """Every step that may come next."""
        for w in (0, 1):
            yield from self.request(st, w)
            if st.pending[w] >= 0 and st.sql_up:
                yield f"w{w} copies the use", self.copied(st, w)
        if st.now <= DEADLINE + 1 and (not st.sql_up or max(st.pending) < 0):
            yield "time goes on", st._replace(now=st.now + 1)
        if st.row and not st.row.alive(st.now) and st.sql_up:
            yield "SQL purges the row", st._replace(row=None)
        if st.copy and not st.copy.alive(st.now):
            yield "Redis drops the copy", st._replace(copy=None)
        yield from self.drain(st)
        if not st.sql_up:
            yield "SQL is back", st._replace(sql_up=True)
        yield from self.fault(st)

    def copied(self, st: Clocks, w: int) -> Clocks:
        """Copy a use into SQL."""
        row = st.row and st.row._replace(used=max(st.row.used, st.pending[w]))
        if not row and st.copy:
            row = st.copy  # no row: the mirror inserts the record
        return st._replace(row=row, pending=at(st.pending, w, -1))

    def drain(self, st: Clocks) -> Moves:
        """Merge row and copy, then store the result in SQL."""
        if st.drained and st.row and st.sql_up:
            used = max(st.drained.used, st.row.used) if self.rules.later_wins else st.drained.used
            yield "drain: stores", st._replace(row=st.row._replace(used=used), drained=None)
        elif not st.drained and st.row and st.sql_up:
            merged = max(st.row, st.copy or st.row)
            yield "drain: merges", st._replace(copy=merged if st.copy else None, drained=merged)

    def request(self, st: Clocks, w: int) -> Moves:
        """Ask Redis, then SQL."""
        if st.links[w] and st.copy and st.copy.alive(st.now):
            hit = self.answered(st, w, "Redis")._replace(copy=st.copy._replace(used=st.now))
            yield f"w{w} answers from Redis", hit._replace(pending=at(hit.pending, w, self.use_to_copy(st)))
        elif not st.sql_up:
            yield f"w{w} answers 503", st
        elif st.row and st.row.alive(st.now):
            yield f"w{w} answers from SQL", self.from_row(self.answered(st, w, "SQL"), w)
        else:
            self.check_ended(st)

    def use_to_copy(self, st: Clocks) -> int:
        """Return what Redis's answer leaves to copy."""
        return st.now if self.rules.copies_use else -1

    def from_row(self, st: Clocks, w: int) -> Clocks:
        """Touch the row, and fill Redis."""
        assert st.row
        row = st.row._replace(used=st.now)
        deadline = row.deadline if self.rules.deadline_kept else st.now + DEADLINE
        copy = row._replace(deadline=deadline) if st.links[w] else st.copy
        return st._replace(row=row, copy=copy)

    def answered(self, st: Clocks, w: int, source: str) -> Clocks:
        """Check that the session may live, and note its use."""
        if st.now - st.used >= IDLE or st.now >= DEADLINE:
            raise Violation(f"w{w} finds a session whose time is over in {source}")
        return st._replace(used=st.now)

    def check_ended(self, st: Clocks) -> None:
        """Complain where a session ends before its time."""
        declared = st.killed and self.n_faults - st.faults > 1
        if st.now - st.used < IDLE and st.now < DEADLINE and not declared:
            raise Violation("a session that was used lately is gone")

    def fault(self, st: Clocks) -> Moves:
        """What goes wrong."""
        if not st.faults:
            return
        spent = st._replace(faults=st.faults - 1)
        if "empty" in self.faults:
            yield "FAULT Redis restarts empty", spent._replace(copy=None)
        if "sql" in self.faults and st.sql_up:
            yield "FAULT SQL goes down", spent._replace(sql_up=False)
        for w in (0, 1):
            if "link" in self.faults and st.links[w]:
                links = tuple(up and other != w for other, up in enumerate(st.links))
                yield f"FAULT w{w} is cut off from Redis", spent._replace(links=links)
            if "kill" in self.faults:
                yield f"FAULT w{w} is killed", spent._replace(pending=at(st.pending, w, -1), killed=True)
