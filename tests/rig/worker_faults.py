"""Faults of the workers: they die or stand still at a step of the protocol, have a wrong clock, or fork."""

import os
import signal
from contextlib import suppress

import psutil

from tests.rig.faults import Steps, Trouble, fault
from tests.rig.rig import Worker
from tests.servers import eventually

DULL = ("poll", "ping", "probe", "note_use", "confirm")
TEN_MINUTES = 600.0


@fault("F25", "a worker is killed at a step of the protocol", kills=True)
def killed_at_step(trouble: Trouble) -> Steps:
    worker = trouble.one_worker()
    trouble.hit.add(worker.name)
    for _ in range(max(1, int(trouble.seconds))):
        worker.order(arm=_a_step(trouble, worker), action="kill")
        with suppress(TimeoutError):
            eventually(lambda: not worker.server.running, timeout=1.0)
        worker.server.kill()
        worker.start()
    yield


@fault("F25r", "a worker is killed at a step of the recovery from an empty restart", kills=True, place="redis")
def killed_while_recovering(trouble: Trouble) -> Steps:
    worker = trouble.one_worker()
    trouble.hit.add(worker.name)
    trouble.rig.redis.kill()
    trouble.live(0.3)
    worker.order(arm=_a_step(trouble, worker, all_of_them=True), action="kill")
    trouble.rig.redis.restart()
    with suppress(TimeoutError):
        eventually(lambda: not worker.server.running, timeout=2.0)
    yield
    worker.server.kill()
    worker.start()


@fault("F26", "a worker stands still at a step of the protocol, and goes on much later")
def stopped_at_step(trouble: Trouble) -> Steps:
    worker = trouble.one_worker()
    trouble.hit.add(worker.name)
    worker.order(arm=_a_step(trouble, worker), action="stop")
    with suppress(TimeoutError):
        eventually(lambda: _is_stopped(worker), timeout=1.0)
    yield
    _go_on(worker)


@fault("F26r", "a worker stands still at a step of the protocol while Redis restarts empty", double=True, place="redis")
def stopped_while_restarted(trouble: Trouble) -> Steps:
    worker = trouble.one_worker()
    trouble.hit.add(worker.name)
    worker.order(arm=_a_step(trouble, worker), action="stop")
    with suppress(TimeoutError):
        eventually(lambda: _is_stopped(worker), timeout=1.0)
    trouble.rig.redis.kill()
    trouble.rig.redis.restart()
    yield
    _go_on(worker)


@fault("F27", "the clocks of two workers are ten minutes wrong")
def wrong_clocks(trouble: Trouble) -> Steps:
    early, late = trouble.random.sample(trouble.rig.workers, k=2)
    early.order(skew=str(-TEN_MINUTES))
    late.order(skew=str(TEN_MINUTES))
    yield
    early.order(skew="0")
    late.order(skew="0")


@fault(
    "F28",
    "a server forks after first use, one runs greenlets, and two loops share an app, while Redis restarts empty",
    place="redis",
)
def forked_and_looped(trouble: Trouble) -> Steps:
    rig = trouble.rig
    guests = rig.add_workers("forked", "gevent", "looped")
    rig.workers += guests
    trouble.invite(guests)
    trouble.live(1.0)
    rig.redis.kill()
    yield
    rig.redis.restart()
    trouble.live(1.0)
    trouble.dismiss(guests)
    for guest in guests:
        rig.workers.remove(guest)


def _a_step(trouble: Trouble, worker: Worker, *, all_of_them: bool = False) -> str:
    """A step that this worker has passed before, so that it will again."""
    passed = sorted(worker.order()["steps"])
    telling = [step for step in passed if all_of_them or step.rpartition(".")[2] not in DULL]
    return str(trouble.random.choice(telling or passed or ["before:primary.update"]))


def _go_on(worker: Worker) -> None:
    """Let it go on, and not stop at the step any more if it has never come there."""
    os.kill(worker.server.pid, signal.SIGCONT)
    worker.order(arm="nowhere", action="stop")
    os.kill(worker.server.pid, signal.SIGCONT)


def _is_stopped(worker: Worker) -> bool:
    return bool(psutil.Process(worker.server.pid).status() == psutil.STATUS_STOPPED)
