"""Epochs: a Redis process that has lost its scripts is given a new one, once; and the lapse of trust."""

from tests.model.background import Moves
from tests.model.endings import Endings
from tests.model.state import IDLE, State, Task, Worker, with_master, with_worker


class Fencing(Endings):
    """Bump, wait, install."""

    def refences(self, st: State, w: int) -> Moves:
        """Take the next step of a refence."""
        me = st.workers[w]
        if not self.rules.epoch:
            return
        if not me.task.step and not me.trust and me.epoch == 0 and st.epoch == 0 and st.sql_up:
            yield from self.first_epoch(st, w, me)
        elif me.task.step == "name" and st.sql_up:
            yield from self.name(st, w, me.task.epoch)
        elif me.task.step in ("", "bump") and st.sql_up and self.may_bump(st, me):
            yield from self.bump(self.distrusted(st, w), w, me.task.epoch or me.epoch)
        elif me.task.step == "install" and self.may_install(st, w, me.task.epoch):
            yield from self.install(st, w, me.task.epoch)

    def at(self, st: State, w: int, task: Task) -> State:
        """Return the state with another task of this process."""
        return with_worker(st, w, st.workers[w]._replace(task=task))

    def may_bump(self, st: State, me: Worker) -> bool:
        """An epoch that has worked here is replaced at once; another one after patience with whoever installs it."""
        if me.task.step:
            return True
        if self.obstacle(st, me) != "noscript" or st.epochs >= self.bounds.max_epochs:
            return False
        return me.worked or not any(other.task[:2] == ("install", me.epoch) for other in st.workers)

    def first_epoch(self, st: State, w: int, me: Worker) -> Moves:
        """Install a first epoch, of which nobody has heard; nobody can trust an earlier one."""
        if not me.link or st.epochs >= self.bounds.max_epochs:
            return
        epoch, master = st.epochs + 1, st.masters[me.home]
        nxt = with_master(st._replace(epochs=epoch), me.home, master._replace(installed=master.installed | {epoch}))
        yield f"w{w} installs a first epoch", self.at(nxt, w, Task("name", epoch))

    def name(self, st: State, w: int, epoch: int) -> Moves:
        """Insert the first epoch into SQL, unless another process was quicker."""
        if st.epoch:
            yield f"w{w} finds epoch {st.epoch}", self.at(st, w, IDLE)
        else:
            yield f"w{w} inserts the first epoch", self.at(st._replace(epoch=epoch), w, IDLE)

    def bump(self, st: State, w: int, missing: int) -> Moves:
        """Replace the epoch in SQL where it is still the missing one."""
        if st.epoch != missing:
            yield f"w{w} finds a newer epoch", self.at(st, w, IDLE)
        elif not self.rules.bump:
            yield f"w{w} keeps epoch {st.epoch}", self.at(st, w, Task("install", st.epoch))
        elif st.epochs < self.bounds.max_epochs:
            nxt = st._replace(epoch=st.epochs + 1, epochs=st.epochs + 1)
            yield (
                f"w{w} finds epoch {missing} missing, bumps it to {nxt.epoch}",
                self.at(nxt, w, Task("install", nxt.epoch)),
            )
        else:
            yield f"w{w} gives up", self.at(st, w, IDLE)

    def may_install(self, st: State, w: int, epoch: int) -> bool:
        """Tell whether no process can still trust an earlier epoch, and older mirrors have landed in that time."""
        if self.rules.mirrors_land and any(other.pending for other in st.workers):
            return False
        if not self.rules.install_wait:
            return True
        return not any(other.trust and other.epoch != epoch for other in st.workers)

    def install(self, st: State, w: int, epoch: int) -> Moves:
        """Install the epoch once; in doubt it is given up."""
        me = st.workers[w]
        done = self.at(st, w, IDLE)
        if not me.link:
            yield f"w{w} cannot install epoch {epoch}", done
            return
        master = st.masters[me.home]
        new = master._replace(installed=master.installed | {epoch})
        yield f"w{w} installs epoch {epoch}", with_master(done, me.home, new)
        if st.faults and "ambiguous" in self.bounds.faults:
            doubt = self.at(st._replace(faults=st.faults - 1), w, Task("bump", epoch))
            yield f"FAULT w{w} installs epoch {epoch}, but hears nothing", with_master(doubt, me.home, new)

    def lapses(self, st: State, w: int) -> Moves:
        """The trust of a process ends where somebody waits for that."""
        me = st.workers[w]
        if not me.trust:
            return
        waits = any(op.worker != w for op in self.ops_at(st, "wait_for_leases"))
        if waits and not me.saw_logout:
            new = me._replace(trust=False, poll=me.poll if me.poll and me.poll.logout else None)
            yield f"trust of w{w} lapses", with_worker(st, w, new)
        if any(other.task.step == "install" and other.task.epoch != me.epoch for other in st.workers):
            new = me._replace(trust=False, poll=me.poll if me.poll and me.poll.epoch != me.epoch else None)
            yield f"trust of w{w} lapses", with_worker(st, w, new)
