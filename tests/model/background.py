"""What processes do after a response: mirror, fill, poll, drain, pick up."""

from collections.abc import Iterator

from tests.model.scripts import Scripts, as_row, as_snapshot
from tests.model.search import Violation
from tests.model.state import (
    ALIVE,
    IDLE,
    NO_TAG,
    Fields,
    Fill,
    News,
    Op,
    Snapshot,
    State,
    Task,
    raised,
    with_master,
    with_worker,
)

Moves = Iterator[tuple[str, State]]


class Background(Scripts):
    """Mirror, fill, poll, drain, pick up."""

    # -- mirrors -------------------------------------------------------------------------------------------------
    def mirror_later(self, st: State, w: int, snap: Snapshot) -> State:
        """Note a snapshot for after the response."""
        me = st.workers[w]
        return with_worker(st, w, me._replace(pending=me.pending + (snap,)))

    def held(self, st: State) -> bool:
        """Tell whether a live process has a mirror under way."""
        return any(me.pending for me in st.workers) or any(op and op.step == "mirror" for op in (st.a, st.b))

    def mirror_under_way(self, st: State) -> bool:
        """Tell whether a waiting reader will see a mirror land; the pick-up is slower than a reader waits."""
        double = st.killed and self.bounds.n_faults - st.faults > 1  # then it is late, and declared so
        return self.held(st) or (double and self.rules.pick_up and any(m.todo != NO_TAG for m in st.masters))

    def mirrors(self, st: State, w: int) -> Moves:
        """Mirror one of the pending snapshots, in any order."""
        me = st.workers[w]
        for i, snap in enumerate(me.pending):
            if st.sql_up:
                rest = with_worker(st, w, me._replace(pending=me.pending[:i] + me.pending[i + 1 :]))
                yield f"w{w} mirrors v{snap.version}", self.confirmed(self.mirrored(rest, w, snap), w, snap.tag)

    # -- fills ---------------------------------------------------------------------------------------------------
    def claimed(self, st: State, row: Snapshot) -> State | None:
        """Raise the SQL counter where the row has not moved."""
        if not self.rules.claim:
            return st
        if not st.sql_up or st.row.version != row.version or st.row.tomb:
            return None
        return st._replace(row=st.row._replace(version=raised(row.version)))

    def filled(self, st: State, w: int, row: Snapshot, lease: int) -> tuple[str, State]:
        """Put a row into Redis; what the copy held beyond it is mirrored later."""
        reply = self.redis_fill(st, w, row, lease)
        if reply.word in ("error", "noscript"):
            return reply.word, self.distrusted(st, w)
        if reply.word == "ok" and reply.record and reply.record[:2] != row[:2]:
            return reply.word, self.mirror_later(reply.state, w, reply.record)
        return reply.word, reply.state

    def fills(self, st: State, w: int) -> Moves:
        """Claim, then fill, what a read has left."""
        me = st.workers[w]
        for i, fill in enumerate(me.fills):
            rest = with_worker(st, w, me._replace(fills=me.fills[:i] + me.fills[i + 1 :]))
            if fill.claimed:
                word, nxt = self.filled(rest, w, fill.row, fill.lease)
                yield f"w{w} fills v{fill.row.version}: {word}", nxt
                continue
            claimed = self.claimed(rest, fill.row)
            if claimed is None:
                yield f"w{w} claim fails", rest
                continue
            new = Fill(fill.row._replace(version=claimed.row.version), fill.lease, claimed=True)
            fills = me.fills[:i] + (new,) + me.fills[i + 1 :]
            yield f"w{w} claims v{new.row.version}", with_worker(claimed, w, me._replace(fills=fills))

    # -- polls ---------------------------------------------------------------------------------------------------
    def news(self, st: State) -> News:
        """Return what a poll reads in SQL."""
        return News(st.epoch, st.row.dirty, st.logout > ALIVE)

    def polls(self, st: State, w: int) -> Moves:
        """Poll where that may change anything."""
        me = st.workers[w]
        if me.poll:
            yield f"w{w} poll: {me.poll}", self.polled(st, w, me.poll)
        elif st.sql_up and self.may_learn(st, w):
            if self.bounds.split_poll:
                yield f"w{w} poll: SQL answers", with_worker(st, w, me._replace(poll=self.news(st)))
            else:
                yield f"w{w} poll: {self.news(st)}", self.polled_now(st, w)

    def may_learn(self, st: State, w: int) -> bool:
        """Tell whether a poll would be more than a repetition."""
        me, news = st.workers[w], self.news(st)
        return self.bounds.split_poll or not me.trust or (me.epoch, me.deny, me.saw_logout) != news

    def polled_now(self, st: State, w: int) -> State:
        """Poll in one step."""
        return self.polled(st, w, self.news(st))

    def polled(self, st: State, w: int, news: News) -> State:
        """Take over the news; the process is trusted where the script of the epoch answers."""
        me = st.workers[w]
        works = news.epoch > 0 and not self.obstacle(st, me, news.epoch)
        worked = works or (me.worked and me.epoch == news.epoch)
        new = me._replace(epoch=news.epoch, worked=worked, trust=works, deny=news.dirty, saw_logout=news.logout)
        return with_worker(st, w, new._replace(poll=None))

    # -- drain ---------------------------------------------------------------------------------------------------
    def drains(self, st: State, w: int) -> Moves:
        """Bring a dirty row and its copy together, then clear the mark."""
        me = st.workers[w]
        task = me.task
        if not task.step and me.deny and st.row.dirty and st.sql_up and not self.obstacle(st, me):
            yield f"w{w} drain: reads the row", with_worker(st, w, me._replace(task=Task("drain", me.epoch, st.row)))
        elif task.step == "drain" and task.row:
            yield from self.drain_into_redis(st, w, task)
        elif task.step == "clear" and task.row and task.merged and st.sql_up:
            yield self.clear(with_worker(st, w, me._replace(task=IDLE)), w, task)

    def drain_into_redis(self, st: State, w: int, task: Task) -> Moves:
        """Merge the row into Redis."""
        assert task.row
        row = Snapshot(task.row.version, task.row.fields, tomb=task.row.tomb)
        reply = self.redis_fill(st, w, row)
        if reply.word in ("error", "noscript"):
            idle = with_worker(st, w, st.workers[w]._replace(task=IDLE))
            yield f"w{w} drain: {reply.word}", self.distrusted(idle, w)
            return
        merged = row._replace(tomb=True) if reply.word == "gone" else reply.record
        nxt = task._replace(step="clear", merged=merged)
        yield f"w{w} drain: merges, {reply.word}", with_worker(reply.state, w, st.workers[w]._replace(task=nxt))

    def clear(self, st: State, w: int, task: Task) -> tuple[str, State]:
        """Store what the drain has merged, and clear the mark, where neither the row nor the epoch has moved."""
        assert task.row
        assert task.merged
        same_epoch = st.epoch == task.epoch or not self.rules.epoch_guard
        if st.row.version != task.row.version or not same_epoch:
            return f"w{w} drain: the row or the epoch has moved", st
        return f"w{w} drain: stores v{task.merged.version}", st._replace(row=as_row(task.merged, dirty=False))

    # -- pick-up -------------------------------------------------------------------------------------------------
    def picks_up(self, st: State, w: int) -> Moves:
        """Mirror a commit that no live process is mirroring."""
        me = st.workers[w]
        master = st.masters[me.home]
        if not self.rules.pick_up or master.todo == NO_TAG or self.obstacle(st, me) or not st.sql_up or self.held(st):
            return
        copy = master.copy
        if copy.kind in ("absent", "stub"):
            yield f"w{w} picks up nothing", with_master(st, me.home, master._replace(todo=NO_TAG))
            return
        snap = as_snapshot(copy)._replace(tag=master.todo, tomb=copy.kind == "tomb")
        yield f"w{w} picks up v{copy.version}", self.mirror_later(st, w, snap)

    # -- checks of the answers -----------------------------------------------------------------------------------
    def check_contains(self, st: State, fields: Fields, must: int, what: str) -> None:
        """Complain where a record lacks one of these writes, or has put an earlier write over a later one."""
        missing = must & ~fields.own
        if missing:
            raise Violation(f"{what}: writes {missing:b} are missing")
        for n in range(1, len(st.past)):
            if must >> n & 1 and st.past[n] >> fields.writer & 1:
                raise Violation(f"{what}: write {fields.writer} has replaced the later write {n}")

    def ops_at(self, st: State, step: str) -> tuple[Op, ...]:
        """Return the requests before this step."""
        return tuple(op for op in (st.a, st.b) if op and op.step == step)
