"""What goes wrong."""

from tests.model.background import Moves
from tests.model.fencing import Fencing
from tests.model.state import IDLE, NO_TAG, Copy, Master, State, with_master, with_op, with_worker


class Faults(Fencing):
    """Faults, and the events that end them."""

    def held_writes(self, st: State) -> int:
        """Return the writes that are still somewhere."""
        held = st.row.fields.own
        for master in st.masters:
            held |= master.copy.fields.own if master.copy.kind == "live" else 0
        for me in st.workers:
            for snap in me.pending + ((me.task.merged,) if me.task.merged else ()):
                held |= snap.fields.own
        for op in (st.a, st.b):
            held |= op.old.fields.own if op and op.old else 0
        return held

    def excuse(self, st: State) -> State:
        """Excuse what a double failure loses, and no more than that."""
        if st.killed or not st.sql_up:
            return st._replace(excused=st.excused | st.acked & ~self.held_writes(st))
        return st

    def faults(self, st: State) -> Moves:
        """Every fault that may happen now."""
        yield from self.evictions(st)
        if st.faults:
            spent = st._replace(faults=st.faults - 1)
            for label, nxt in (*self.data_faults(spent), *self.sql_faults(spent), *self.worker_faults(spent)):
                yield f"FAULT {label}", self.excuse(nxt)
        if self.bounds.saves and st.faults and {"rewind", "failover"} & set(self.bounds.faults):
            dump = st.masters[0]._replace(installed=frozenset())
            if st.saved != dump:
                yield "Redis saves a dump", st._replace(saved=dump)

    def evictions(self, st: State) -> Moves:
        """Redis makes room."""
        master = st.masters[0]
        if st.evictions and master.copy.kind != "absent" and (not self.bounds.calm_evictions or master.todo == NO_TAG):
            spent = st._replace(evictions=st.evictions - 1)
            yield "Redis evicts the copy", with_master(spent, 0, master._replace(copy=Copy()))

    def data_faults(self, st: State) -> Moves:
        """Redis loses something."""
        kinds, master = self.bounds.faults, st.masters[0]
        if "empty" in kinds:
            yield "Redis restarts empty", with_master(st, 0, Master(Copy()))
        if "rewind" in kinds:
            yield f"Redis restarts from v{st.saved.copy.version}", with_master(st, 0, st.saved)
        if "evict" in kinds and master.copy.kind != "absent":
            yield "Redis evicts the copy", with_master(st, 0, master._replace(copy=Copy()))
        if "flush" in kinds:
            yield "FLUSHALL", with_master(st, 0, master._replace(copy=Copy(), todo=NO_TAG))
        if "failover" in kinds and len(st.masters) == 1:
            for w, me in enumerate(st.workers):
                zombie = st.zombie._replace(home=1) if st.zombie else None
                two = st._replace(masters=(st.saved, master), zombie=zombie)
                label = f"a replica with v{st.saved.copy.version} takes over, the old master keeps w{w}"
                yield label, with_worker(two, w, me._replace(home=1))

    def sql_faults(self, st: State) -> Moves:
        """SQL fails."""
        if "sql" in self.bounds.faults and st.sql_up:
            yield "SQL goes down", st._replace(sql_up=False)
        if "sql_rewind" in self.bounds.faults:
            first = self.start()
            yield "SQL is restored from a backup", st._replace(row=first.row, epoch=first.epoch)

    def worker_faults(self, st: State) -> Moves:
        """A process fails."""
        for w, me in enumerate(st.workers):
            if "link" in self.bounds.faults and me.link:
                yield f"w{w} is cut off from Redis", with_worker(st, w, me._replace(link=False))
            if "kill" in self.bounds.faults:
                yield f"w{w} is killed", self.killed_worker(st, w)

    def killed_worker(self, st: State, w: int) -> State:
        """Kill a process with its requests; another one takes its place."""
        for slot, op in (("a", st.a), ("b", st.b)):
            if op and op.worker == w:
                st = with_op(st, slot, None)
        new = st.workers[w]._replace(trust=False, worked=False, poll=None, task=IDLE, pending=(), fills=())
        return with_worker(st._replace(killed=True), w, new)

    def start(self) -> State:
        """Return the state before anything has happened."""
        raise NotImplementedError

    # -- ends of faults ------------------------------------------------------------------------------------------
    def recoveries(self, st: State) -> Moves:
        """What ends by itself."""
        if not st.sql_up:
            yield "SQL is back", st._replace(sql_up=True)
        for w, me in enumerate(st.workers):
            if not me.link:
                yield f"link of w{w} heals", with_worker(st, w, me._replace(link=True))
            if me.home:
                yield f"w{w} moves to the new master", self.moved(st, w)
        if st.zombie:
            z = st.zombie
            reply = self.redis_commit(st, z.home, z.epoch, z.base, z.writer, False)
            nxt = reply.state if reply.word == "ok" else st
            yield f"Redis executes the old commit: {reply.word}", nxt._replace(zombie=None)

    def moved(self, st: State, w: int) -> State:
        """The last worker leaves the old master, with which its data goes."""
        st = with_worker(st, w, st.workers[w]._replace(home=0))
        if any(me.home for me in st.workers):
            return st
        zombie = st.zombie if st.zombie and not st.zombie.home else None
        return self.excuse(st._replace(masters=st.masters[:1], zombie=zombie))
