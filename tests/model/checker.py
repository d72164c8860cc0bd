"""The search: all interleavings of steps and faults, breadth first, so that the first violation is a shortest one."""

from tests.model.faults import Faults
from tests.model.search import Verdict, Violation, search, wander
from tests.model.state import (
    ALIVE,
    LEFT,
    MOVED,
    NO_TAG,
    NOTHING,
    Copy,
    Fields,
    Master,
    Op,
    Row,
    Snapshot,
    State,
    Steps,
    Worker,
    with_op,
)

WRITERS = "write", "parallel", "delete"
ENDINGS = "logout", "login"


class Checker(Faults):
    """Starts, checks, and the search."""

    def start(self) -> State:
        """Return the state before anything has happened."""
        b, first = self.bounds, Fields((0, 1), 0, 1)
        copy, row, epoch = Copy("live", (0, 1), first, 1), Row((0, 1), first), 1
        workers, todo, installed = (Worker(),) * b.n_workers, NO_TAG, frozenset({1})
        if b.unmirrored_at_start:
            row, todo = Row((0, 0), NOTHING), 0
            workers = (Worker(pending=(Snapshot((0, 1), first, tag=0),)), *workers[1:])
        if b.cold_start:
            copy = Copy()
        if b.first_start:
            copy, epoch, installed = copy._replace(epoch=0), 0, frozenset()
            workers = (Worker(trust=False, epoch=0, worked=False),) * b.n_workers
        master = Master(copy, todo, installed)
        saved = master._replace(installed=frozenset())
        masters: tuple[Master, ...] = (master,)
        if b.split_at_start >= 0:
            masters = (master._replace(installed=frozenset()), master)
            workers = tuple(me._replace(home=int(w == b.split_at_start)) for w, me in enumerate(workers))
        rest = b.n_ops, b.n_others, b.n_faults, b.n_evictions
        return State(
            masters,
            saved,
            row,
            epoch,
            True,
            workers,
            None,
            None,
            (0, 1),
            1,
            1,
            (0,),
            ALIVE,
            0,
            False,
            None,
            epoch,
            *rest,
        )

    # -- requests ------------------------------------------------------------------------------------------------
    def starts(self, st: State) -> Steps:
        """Every request that may begin now; the first one at the first worker, since all are alike."""
        b, out = self.bounds, []
        alike = not b.unmirrored_at_start and b.split_at_start < 0
        fresh = alike and st.ops == b.n_ops and st.others == b.n_others
        everywhere = tuple(range(1 if fresh else b.n_workers))
        here, beside = ((0,), (1,)) if b.pinned else (everywhere, everywhere)
        if not st.a and st.ops and st.logout == ALIVE:
            ops = b.ops[b.n_ops - st.ops :][:1] if b.in_order else b.ops
            out += [self.begin(st._replace(ops=st.ops - 1), "a", kind, w) for kind in ops for w in here]
        if not st.b and st.others:
            kinds = [kind for kind in b.others if kind == "replay" or st.logout == ALIVE]
            out += [self.begin(st._replace(others=st.others - 1), "b", kind, w) for kind in kinds for w in beside]
        return out

    def begin(self, st: State, slot: str, kind: str, w: int) -> tuple[str, State]:
        """Begin a request."""
        writer, token, seen = 0, st.token, st.seen
        if kind in WRITERS:
            writer = len(st.past)
            st = st._replace(past=st.past + (st.seen & ~(1 << writer) | 1,))
        if kind == "replay":
            token, seen = (0, 1), st.logout
        number = 1 + self.bounds.n_ops + self.bounds.n_others - st.ops - st.others
        op = Op(kind, number, w, "end" if kind in ENDINGS else "load", token, seen, writer=writer)
        return f"{kind} begins at w{w}, token {token}", with_op(st, slot, op)

    # -- checks --------------------------------------------------------------------------------------------------
    def check_quiet(self, st: State) -> None:
        """Complain where, nothing being under way, SQL or a copy that counts lacks an acknowledged write."""
        if st.a or st.b:
            raise Violation("a request waits for ever")
        rewound = "sql_rewind" in self.bounds.faults and st.faults < self.bounds.n_faults
        if st.logout == ALIVE:
            self.check_alive(st, rewound)
        buried = rewound and st.masters[0].copy.kind == "tomb"
        if st.logout in (LEFT, MOVED) and not st.row.tomb and not buried:
            raise Violation("resurrection: the session lives on in SQL")
        if st.row.dirty and st.epochs < self.bounds.max_epochs:
            raise Violation("the dirty mark stays")

    def check_alive(self, st: State, rewound: bool) -> None:
        """Check a session that was not ended."""
        must = st.acked & ~st.excused
        if st.row.tomb or (not st.row.fields.own and not rewound):
            raise Violation("logged out for good")
        if not rewound:
            self.check_contains(st, st.row.fields, must, "lost write (SQL)")
        for me in st.workers:
            copy = st.masters[me.home].copy
            if self.trusted(me) and not self.obstacle(st, me) and self.current(copy, me.epoch):
                self.check_contains(st, copy.fields, must, "lost write (Redis)")

    # -- exploration ---------------------------------------------------------------------------------------------
    def next_of(self, st: State) -> Steps:
        """Return every step that may come next."""
        progress: Steps = []
        for slot, op in (("a", st.a), ("b", st.b)):
            if op:
                steps: Steps = getattr(self, op.step)(st, op, slot)
                progress += [(f"{op.kind}@w{op.worker} {op.step}: {label}", nxt) for label, nxt in steps]
        idle: Steps = []
        for w, me in enumerate(st.workers):
            for moves in (self.mirrors, self.fills, self.refences, self.drains, self.picks_up, self.lapses):
                progress += moves(st, w)
            news = self.news(st)
            repeats = me.trust and (me.epoch, me.deny, me.saw_logout) == news and me.poll in (None, news)
            (idle if repeats else progress).extend(self.polls(st, w))
        progress += self.recoveries(st)
        if all(nxt == st for _, nxt in progress):
            self.check_quiet(st)
        return progress + idle + self.starts(st) + list(self.faults(st))

    def check(self) -> Verdict:
        """Search."""
        return search(self.start(), self.next_of, self.bounds.states)

    def wander(self, walks: int) -> Verdict:
        """Take random walks."""
        return wander(self.start(), self.next_of, walks)
