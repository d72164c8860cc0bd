"""Faults between the workers and Redis."""

from tests.rig.faults import Steps, Trouble, fault

EVERY = 7


@fault("F5", "one worker is refused by Redis")
def one_refused(trouble: Trouble) -> Steps:
    link = trouble.one_worker().redis
    link.refuse()
    yield
    link.restore()


@fault("F6", "all workers are refused by Redis")
def all_refused(trouble: Trouble) -> Steps:
    for worker in trouble.rig.workers:
        worker.redis.refuse()
    yield
    for worker in trouble.rig.workers:
        worker.redis.restore()


@fault("F7", "one worker hears nothing of Redis")
def black_hole(trouble: Trouble) -> Steps:
    link = trouble.one_worker().redis
    link.swallow()
    yield
    link.restore()


@fault("F8", "replies of Redis are lost after it has done its work")
def replies_lost(trouble: Trouble) -> Steps:
    for worker in trouble.rig.workers:
        worker.redis.drop_replies(every=EVERY)
    yield
    for worker in trouble.rig.workers:
        worker.redis.restore()


@fault("F9", "requests to Redis are cut at three quarters")
def requests_cut(trouble: Trouble) -> Steps:
    for worker in trouble.rig.workers:
        worker.redis.cut_requests(every=EVERY)
    yield
    for worker in trouble.rig.workers:
        worker.redis.restore()


@fault("F10", "Redis is 300 ms away")
def far_away(trouble: Trouble) -> Steps:
    for worker in trouble.rig.workers:
        worker.redis.slow(0.3)
    yield
    for worker in trouble.rig.workers:
        worker.redis.restore()


@fault("F10n", "Redis is 100 ms away: slow, but within its time", quick=False)
def rather_far_away(trouble: Trouble) -> Steps:
    for worker in trouble.rig.workers:
        worker.redis.slow(0.1)
    yield
    for worker in trouble.rig.workers:
        worker.redis.restore()
