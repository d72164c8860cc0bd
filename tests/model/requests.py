"""The steps of one request: each is one access to a store."""

from tests.model.background import Background
from tests.model.scripts import as_snapshot
from tests.model.search import Violation
from tests.model.state import (
    ALIVE,
    LEFT,
    MOVED,
    NO_TAG,
    Fill,
    Op,
    Snapshot,
    State,
    Steps,
    Zombie,
    join,
    raised,
    with_op,
    with_worker,
)

PASSIVE = "read", "replay"


class Requests(Background):
    """Load and commit."""

    def to(self, st: State, slot: str, op: Op, step: str) -> State:
        """Return the state with the request before its next step."""
        return with_op(st, slot, op._replace(step=step))

    def load(self, st: State, op: Op, slot: str) -> Steps:
        """Poll first where the process is not trusted."""
        if st.workers[op.worker].trust:
            return self.load_redis(st, op, slot)
        if op.polled or not st.sql_up:
            return self.read_row(st, op, slot)
        return [("polls first", self.to(self.polled_now(st, op.worker), slot, op._replace(polled=True), "load"))]

    def load_redis(self, st: State, op: Op, slot: str) -> Steps:
        """Ask Redis."""
        word, st, record = self.redis_load(st, op)
        if word in ("hit", "gone"):
            return self.loaded(st, op._replace(base=record), slot, word)
        if word == "miss":
            old = record if self.rules.absorb else None
            op = op._replace(old=old, leased=self.may_fill(st, op), asked=True)
            return [("miss", self.to(st, slot, op, "read_row"))]
        return [(word, self.to(self.distrusted(st, op.worker), slot, op, "read_row"))]

    def may_fill(self, st: State, op: Op) -> bool:
        """Tell whether a miss may be filled: not where a commit that was never mirrored may have been evicted."""
        return not self.rules.fill_heeds_list or st.masters[st.workers[op.worker].home].todo == NO_TAG

    def read_row(self, st: State, op: Op, slot: str) -> Steps:
        """Read the row; first look into a Redis that is not trusted, and merge what is there or what a miss found."""
        if self.rules.peek and not op.asked and st.workers[op.worker].link:
            seen = op._replace(old=self.peeked(st, op), asked=True)
            return [("looks into Redis", self.to(st, slot, seen, "read_row"))]
        if not st.sql_up:
            return self.unavailable(st, op, slot)
        if op.old:
            st = self.mirrored(st, op.worker, op.old)
        record = self.with_own_pending(st, op)
        if record.tomb:
            return self.loaded(st, op, slot, "tombstone")
        if self.lacks(record, op) and self.rules.wait and self.mirror_under_way(st):
            return []
        if not record.fields.own:
            return self.loaded(st, op, slot, "no row")
        untouched = record.version == st.row.version and not st.row.dirty
        return self.loaded(st, op._replace(base=record, old=None, leased=op.leased and untouched), slot, "row")

    def lacks(self, record: Snapshot, op: Op) -> bool:
        """Tell whether the browser has seen more than this record holds."""
        behind = self.rules.token and not self.covers(record.version, op.token)
        return not record.tomb and (behind or not record.fields.own)

    def peeked(self, st: State, op: Op) -> Snapshot | None:
        """Return the copy that is in Redis, of whatever epoch."""
        copy = self.copy_seen_by(st, op.worker)
        if copy.kind == "tomb":
            return Snapshot(copy.version, st.row.fields, tomb=True)
        return as_snapshot(copy) if copy.kind == "live" else None

    def with_own_pending(self, st: State, op: Op) -> Snapshot:
        """Return the row together with the snapshots that this process has yet to mirror."""
        record = Snapshot(st.row.version, st.row.fields, tomb=st.row.tomb)
        for snap in st.workers[op.worker].pending if self.rules.own_pending else ():
            if snap.tomb or record.tomb:
                record = record._replace(tomb=True)
            elif record.fields.own:
                record = Snapshot(join(record.version, snap.version), self.merged(record, snap))
            else:
                record = Snapshot(snap.version, snap.fields)
        return record

    def loaded(self, st: State, op: Op, slot: str, source: str) -> Steps:
        """Answer a read; go on to the commit of a write."""
        if op.base is None:
            if op.kind != "replay" and st.logout == ALIVE:
                raise Violation(f"logged out: a live user sees no session ({source})")
            return [(f"no session, {source}", with_op(st, slot, None))]
        label = f"{source} v{op.base.version}"
        if op.kind not in PASSIVE:
            return [(label, self.to(st, slot, op, "claim" if op.leased else "commit"))]
        if op.leased:
            st = self.fill_later(st, op.worker, Fill(op.base, op.number))
        if op.kind == "replay":
            if op.seen == LEFT and st.logout == LEFT:
                raise Violation("resurrection: the logout was acknowledged before this request began")
            return [(label, with_op(st, slot, None))]
        if st.logout == ALIVE and self.bounds.check_reads:
            self.check_contains(st, op.base.fields, op.seen & ~st.excused, "stale read")
        return [(f"answers {label}", self.answered(st, slot, op, op.base))]

    def claim(self, st: State, op: Op, slot: str) -> Steps:
        """Raise the SQL counter of the row that was read, before it goes into Redis."""
        assert op.base
        claimed = self.claimed(st, op.base)
        if claimed is None:
            return [("fails", self.to(st, slot, op, "commit"))]
        base = op.base._replace(version=claimed.row.version)
        return [("", self.to(claimed, slot, op._replace(base=base), "fill"))]

    def fill(self, st: State, op: Op, slot: str) -> Steps:
        """Put the row into Redis right before the commit."""
        assert op.base
        word, st = self.filled(st, op.worker, op.base, op.number)
        return [(word, self.to(st, slot, op._replace(base=self.rebased(st, op, word)), "commit"))]

    def rebased(self, st: State, op: Op, word: str) -> Snapshot:
        """Return the record that was loaded, with the version of the copy that the fill has left."""
        assert op.base
        if word != "ok":
            return op.base
        copy = self.copy_seen_by(st, op.worker)
        if self.rules.rebase_fields:
            return as_snapshot(copy)
        return op.base._replace(version=join(op.base.version, copy.version))

    def commit(self, st: State, op: Op, slot: str) -> Steps:
        """Write into Redis where the process is trusted."""
        me = st.workers[op.worker]
        if not self.trusted(me):
            return [("not trusted", self.to(st, slot, op, "commit_sql"))]
        assert op.base
        base = join(op.token, op.base.version) if self.rules.token else op.base.version
        reply = self.redis_commit(st, me.home, me.epoch, base, op.writer, op.kind == "delete")
        word = reply.word if me.link else "error"
        if word == "refused":
            return [(word, self.to(st, slot, op, "commit_sql"))]
        lost = self.to(self.distrusted(st, op.worker), slot, op, "commit_sql")
        if word != "ok" or not reply.record:
            return [(word, lost)]
        zombie = Zombie(me.home, me.epoch, base, op.writer)
        return [
            self.committed(reply.state, op, slot, reply.record),
            *self.lost_replies(st, lost, reply.state, zombie),
        ]

    def committed(self, st: State, op: Op, slot: str, snap: Snapshot) -> tuple[str, State]:
        """Answer a commit that Redis has taken, or mirror it first."""
        if self.rules.mirror == "before":
            return f"v{snap.version}", self.to(st, slot, op._replace(old=snap), "mirror")
        return f"ACK v{snap.version}", self.acked(self.mirror_later(st, op.worker, snap), op, slot, snap)

    def mirror(self, st: State, op: Op, slot: str) -> Steps:
        """Mirror before the answer."""
        assert op.old
        snap = op.old
        if not st.sql_up:
            st = self.mirror_later(st, op.worker, snap)
            return [(f"later, ACK v{snap.version}", self.acked(st, op, slot, snap))]
        st = self.mirrored(st, op.worker, snap)
        if st.row.tomb:
            return [("destroyed meanwhile", with_op(st, slot, None))]
        st = self.confirmed(st, op.worker, snap.tag)
        snap = snap._replace(version=join(snap.version, st.row.version))
        return [(f"ACK v{snap.version}", self.acked(st, op, slot, snap))]

    def commit_sql(self, st: State, op: Op, slot: str) -> Steps:
        """Write into SQL: the degraded commit."""
        if not st.sql_up:
            return self.unavailable(st, op, slot)
        if st.row.tomb:
            return [("destroyed meanwhile", with_op(st, slot, None))]
        assert op.base
        known = st.row
        for snap in self.carried(st, op):
            fields = self.merged(known, snap) if self.rules.stamps else known.fields
            known = known._replace(version=join(known.version, snap.version), fields=fields)
        version = raised(known.version) if self.rules.pair else (known.version[0], known.version[1] + 1)
        fields = self.written(known.fields, version, op.writer, op.kind == "delete")
        row = known._replace(version=version, fields=fields, dirty=self.rules.dirty)
        st = self.distrusted(st._replace(row=row), op.worker)
        return [(f"ACK v{version}", self.acked(st, op, slot, Snapshot(version, fields)))]

    def carried(self, st: State, op: Op) -> tuple[Snapshot, ...]:
        """Return what a degraded commit merges beside its own change."""
        assert op.base
        pending = st.workers[op.worker].pending if self.rules.carry_pending else ()
        return ((op.base,) if self.rules.carry else ()) + pending

    def acked(self, st: State, op: Op, slot: str, snap: Snapshot) -> State:
        """Acknowledge a write."""
        return self.answered(st._replace(acked=st.acked | 1 << op.writer), slot, op, snap)

    def answered(self, st: State, slot: str, op: Op, snap: Snapshot) -> State:
        """Answer; the cookie is set where its token has grown."""
        assert op.base
        known = op.base.fields.own | (1 << op.writer if op.writer else 0)
        token = join(op.token, snap.version) if self.rules.pair else max(op.token, snap.version, key=sum)
        if token != op.token:
            if st.logout == MOVED:
                raise Violation("the old cookie is set again after the id has changed")
            st = st._replace(token=token, seen=(op.seen | known) & st.acked)
        return with_op(st, slot, None)

    def unavailable(self, st: State, op: Op, slot: str) -> Steps:
        """Answer 503."""
        if self.bounds.n_faults - st.faults < 2 and op.kind != "replay" and st.logout == ALIVE:
            raise Violation("unavailable although only one thing has failed")
        return [("503", with_op(st, slot, None))]

    def lost_replies(self, before: State, lost: State, done: State, zombie: Zombie) -> Steps:
        """A commit whose worker hears nothing: executed already, or later."""
        if not before.faults:
            return []
        lost, out = lost._replace(faults=before.faults - 1), []
        if "ambiguous" in self.bounds.faults:
            out.append(("FAULT applied, but the reply is lost", lost._replace(masters=done.masters)))
        if "zombie" in self.bounds.faults:
            out.append(("FAULT times out, still in flight", lost._replace(zombie=zombie)))
        return out

    def fill_later(self, st: State, w: int, fill: Fill) -> State:
        """Note a fill for after the response."""
        me = st.workers[w]
        return with_worker(st, w, me._replace(fills=me.fills + (fill,)))
