"""The scripts of Redis: each touches one session, and is known only where its epoch was installed."""

from typing import NamedTuple

from tests.model.records import Records
from tests.model.state import NO_TAG, TOMB_TAG, Copy, Op, Row, Snapshot, State, Version, Worker, join, with_master


class Reply(NamedTuple):
    """What a script answers, and the state after it."""

    word: str
    state: State
    record: Snapshot | None = None


def as_snapshot(copy: Copy) -> Snapshot:
    """Return the record of a live copy."""
    return Snapshot(copy.version, copy.fields)


class Scripts(Records):
    """Load, fill, commit, tombstone."""

    def obstacle(self, st: State, worker: Worker, epoch: int | None = None) -> str:
        """Say why this process gets no answer from Redis: "error", "noscript", or nothing."""
        if not worker.link:
            return "error"
        known = st.masters[worker.home].installed
        return "noscript" if self.rules.epoch and (epoch or worker.epoch) not in known else ""

    def current(self, copy: Copy, epoch: int) -> bool:
        """Tell whether this copy counts under the epoch."""
        return copy.kind == "live" and (not self.rules.epoch or copy.epoch == epoch)

    def copy_seen_by(self, st: State, w: int) -> Copy:
        """Return the copy on the master of this process."""
        return st.masters[st.workers[w].home].copy

    def stored(self, st: State, home: int, copy: Copy, todo: int | None = None) -> State:
        """Return the state with another copy on a master, and another entry of its to-do list if one is given."""
        master = st.masters[home]
        return with_master(st, home, master._replace(copy=copy, todo=master.todo if todo is None else todo))

    def redis_load(self, st: State, op: Op) -> Reply:
        """Read the copy; a miss without a live copy leaves a stub with the lease of this request."""
        me = st.workers[op.worker]
        bad, copy = self.obstacle(st, me), self.copy_seen_by(st, op.worker)
        if bad or copy.kind == "tomb":
            return Reply(bad or "gone", st)
        if copy.kind != "live":
            return Reply("miss", self.stored(st, me.home, Copy("stub", lease=op.number)))
        enough = not self.rules.token or self.covers(copy.version, op.token)
        hit = self.trusted(me) and self.current(copy, me.epoch) and enough
        return Reply("hit" if hit else "miss", st, as_snapshot(copy))

    def redis_fill(self, st: State, w: int, row: Snapshot, lease: int = 0) -> Reply:
        """Merge a row into the copy; without a live copy, create one for the holder of the lease only."""
        me = st.workers[w]
        bad, copy = self.obstacle(st, me), self.copy_seen_by(st, w)
        if bad:
            return Reply(bad, st)
        if copy.kind == "tomb":
            return Reply("gone", st)
        if row.tomb:
            tomb = Copy("tomb", row.version) if self.rules.redis_tomb else Copy()
            return Reply("ok", self.stored(st, me.home, tomb), row)
        if copy.kind == "live":
            return self.filled_over(st, w, row)
        if not lease:  # a drain removes the lease of a slow reader
            return Reply("nothing live", self.stored(st, me.home, Copy() if self.rules.fill_lease else copy), row)
        if self.rules.fill_lease and copy.lease != lease:
            return Reply("no lease", st)
        return Reply("ok", self.stored(st, me.home, Copy("live", row.version, row.fields, me.epoch)), row)

    def filled_over(self, st: State, w: int, row: Snapshot) -> Reply:
        """Merge a row into a live copy, which becomes one of the current epoch."""
        me, copy = st.workers[w], self.copy_seen_by(st, w)
        version, fields = join(copy.version, row.version), self.merged(as_snapshot(copy), row)
        if not self.rules.merge_fill:
            if self.current(copy, me.epoch) and self.covers(copy.version, row.version):
                return Reply("newer", st, as_snapshot(copy))
            version, fields = row.version, row.fields
        new = Copy("live", version, fields, me.epoch)
        return Reply("ok", self.stored(st, me.home, new), as_snapshot(new))

    def redis_commit(self, st: State, home: int, epoch: int, base: Version, writer: int, deletes: bool) -> Reply:
        """Write one request's changes into a copy that is live, new enough, and of the same line of SQL writes."""
        if self.rules.epoch and epoch not in st.masters[home].installed:
            return Reply("noscript", st)
        copy = st.masters[home].copy
        if not self.current(copy, epoch) or not self.covers(copy.version, base):
            return Reply("refused", st)
        if self.rules.lineage and copy.version[0] != base[0]:
            return Reply("refused", st)
        version = copy.version[0], copy.version[1] + 1
        fields = self.written(copy.fields, version, writer, deletes)
        done = self.stored(st, home, copy._replace(version=version, fields=fields), writer)
        return Reply("ok", done, Snapshot(version, fields, writer, writer))

    def redis_tomb(self, st: State, w: int, to_mirror: bool = False) -> Reply:
        """Leave a tombstone."""
        me = st.workers[w]
        bad, copy = self.obstacle(st, me), self.copy_seen_by(st, w)
        if bad:
            return Reply(bad, st)
        tomb = Copy("tomb", copy.version) if self.rules.redis_tomb else Copy()
        return Reply("ok", self.stored(st, me.home, tomb, TOMB_TAG if to_mirror else None))

    def confirmed(self, st: State, w: int, tag: int) -> State:
        """Remove the entry of a mirrored commit from the to-do list."""
        me = st.workers[w]
        master = st.masters[me.home]
        if tag == NO_TAG or self.obstacle(st, me) or (self.rules.confirm_tag and master.todo != tag):
            return st
        return with_master(st, me.home, master._replace(todo=NO_TAG))


def as_row(snap: Snapshot, dirty: bool) -> Row:
    """Return the row that holds this record."""
    return Row(snap.version, snap.fields, dirty, snap.tomb)
