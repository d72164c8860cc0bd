"""The steps of a logout and of a change of the id."""

from tests.model.requests import Requests
from tests.model.search import Violation
from tests.model.state import (
    DECLARED_LOST,
    LEAVING,
    LEFT,
    MOVED,
    TOMB_TAG,
    Op,
    Snapshot,
    State,
    Steps,
    raised,
    with_op,
)


class Endings(Requests):
    """Logout: SQL, Redis, then the answer; login and regenerate_id: the same without a wait."""

    def end(self, st: State, op: Op, slot: str) -> Steps:
        """Ask whether the process is trusted; poll first where it is not."""
        trusted = st.workers[op.worker].trust
        if trusted or op.polled or not st.sql_up:
            word = "trusted" if trusted else "not trusted"
            return [(word, self.to(st, slot, op._replace(leased=trusted), "tomb_sql"))]
        return [("polls first", self.to(self.polled_now(st, op.worker), slot, op._replace(polled=True), "end"))]

    def tomb_sql(self, st: State, op: Op, slot: str) -> Steps:
        """Put the tombstone into SQL."""
        st = st._replace(logout=LEAVING)
        trusted = op.leased
        if not st.sql_up or not self.rules.sql_first_logout:
            if trusted:
                return self.redis_only(st, op, slot)
            if not st.sql_up:
                return self.unavailable(st, op, slot)
        row = st.row._replace(version=raised(st.row.version), tomb=True, dirty=self.rules.dirty)
        return [("", self.to(st._replace(row=row), slot, op, "tomb_redis" if trusted else "degraded"))]

    def redis_only(self, st: State, op: Op, slot: str) -> Steps:
        """End the session in Redis, its mirror follows."""
        reply = self.redis_tomb(st, op.worker, to_mirror=True)
        if reply.word != "ok":
            return self.unavailable(st, op, slot)
        version = self.copy_seen_by(reply.state, op.worker).version
        tomb = Snapshot(version, st.row.fields, tag=TOMB_TAG, tomb=True)
        st = self.mirror_later(reply.state, op.worker, tomb)
        lost = self.bounds.n_faults > 1 and not st.sql_up
        return [("ACK, Redis only", with_op(st._replace(logout=DECLARED_LOST if lost else LEFT), slot, None))]

    def tomb_redis(self, st: State, op: Op, slot: str) -> Steps:
        """Put the tombstone into Redis."""
        me = st.workers[op.worker]
        reply = self.redis_tomb(st, op.worker)
        if reply.word != "ok":
            return [(reply.word, self.to(st, slot, op, "degraded"))]
        return [("", self.to(reply.state, slot, op._replace(epoch=me.epoch), "finish"))]

    def finish(self, st: State, op: Op, slot: str) -> Steps:
        """Answer at once where the process is still trusted."""
        me = st.workers[op.worker]
        same = op.epoch == me.epoch or not self.rules.logout_epoch
        if self.never_waits(op) or (me.trust and same) or not self.rules.logout_check:
            return self.ended(st, op, slot)
        return self.degraded(st, op, slot)

    def degraded(self, st: State, op: Op, slot: str) -> Steps:
        """Distrust, then wait."""
        if self.never_waits(op):
            return self.ended(self.distrusted(st, op.worker), op, slot)
        return [("distrusts itself", self.to(self.distrusted(st, op.worker), slot, op, "wait_for_leases"))]

    def wait_for_leases(self, st: State, op: Op, slot: str) -> Steps:
        """Answer when no other process can still trust what it polled before the tombstone."""
        if self.rules.lease_wait and any(self.trusts_old_news(st, w) for w in self.others_than(st, op.worker)):
            return []
        return self.ended(st, op, slot)

    def trusts_old_news(self, st: State, w: int) -> bool:
        """Tell whether this process acts on a poll from before the logout."""
        return st.workers[w].trust and not st.workers[w].saw_logout

    def others_than(self, st: State, w: int) -> tuple[int, ...]:
        """Return the other processes."""
        return tuple(other for other in range(len(st.workers)) if other != w)

    def moves(self, op: Op) -> bool:
        """Tell whether this request gives the session a new id."""
        return op.kind == "login"

    def never_waits(self, op: Op) -> bool:
        """Tell whether this request answers without a wait."""
        return self.moves(op) and not self.rules.login_wait

    def ended(self, st: State, op: Op, slot: str) -> Steps:
        """Answer."""
        kind = st.logout if st.logout in (LEFT, DECLARED_LOST) else MOVED if self.moves(op) else LEFT
        if kind == LEFT:
            self.check_nobody_trusts(st)
        return [("ACK", with_op(st._replace(logout=kind), slot, None))]

    def check_nobody_trusts(self, st: State) -> None:
        """Complain where a process would still find the session in Redis: that request need not be awaited."""
        for w, me in enumerate(st.workers):
            found = self.trusted(me) and not self.obstacle(st, me)
            if found and self.current(self.copy_seen_by(st, w), me.epoch):
                raise Violation(f"resurrection: w{w} trusts a copy although the logout is acknowledged")
