"""The state of the model: one session, its copies, and the processes that serve it."""

from typing import NamedTuple

Version = tuple[int, int]

NO_TAG = -1
TOMB_TAG = 99


class Fields(NamedTuple):
    """The fields of a record."""

    stamp: Version  # of the one field that every write sets
    writer: int  # its value: the number of the write
    own: int  # bit n: the field that only write n sets; bit 0: the login


NOTHING = Fields((0, 0), 0, 0)


class Snapshot(NamedTuple):
    """A record on its way between the stores."""

    version: Version
    fields: Fields
    writer: int = 0  # the write that this is the mirror of, 0: none in particular
    tag: int = NO_TAG  # the entry of the to-do list that it settles
    tomb: bool = False


class Copy(NamedTuple):
    """The record in Redis."""

    kind: str = "absent"  # absent, stub (only a fill lease), live, tomb
    version: Version = (0, 0)
    fields: Fields = NOTHING
    epoch: int = 0
    lease: int = 0  # of a stub: the request that may fill it


class Master(NamedTuple):
    """One Redis server: its data and, as long as its process lives, the scripts it was given."""

    copy: Copy
    todo: int = NO_TAG  # the list `to_mirror`: the tag of the last commit
    installed: frozenset[int] = frozenset()


class Row(NamedTuple):
    """The record in SQL; no fields at all: no row."""

    version: Version
    fields: Fields
    dirty: bool = False
    tomb: bool = False


class Fill(NamedTuple):
    """A row that a miss has read, to be put into Redis."""

    row: Snapshot
    lease: int
    claimed: bool = False


class News(NamedTuple):
    """What a poll has read."""

    epoch: int
    dirty: bool
    logout: bool


class Task(NamedTuple):
    """A drain or a refence under way."""

    step: str = ""
    epoch: int = 0
    row: Row | None = None
    merged: Snapshot | None = None


IDLE = Task()


class Worker(NamedTuple):
    """One process."""

    trust: bool = True  # it may answer from Redis
    epoch: int = 1
    worked: bool = True  # the script of this epoch has answered this process
    deny: bool = False  # the last poll found the record dirty
    saw_logout: bool = False
    poll: News | None = None
    task: Task = IDLE
    pending: tuple[Snapshot, ...] = ()
    fills: tuple[Fill, ...] = ()
    home: int = 0  # 0: the master; 1: the old master, after a failover
    link: bool = True


class Op(NamedTuple):
    """A request."""

    kind: str
    number: int
    worker: int
    step: str
    token: Version
    seen: int  # what the browser had seen when it sent the request
    base: Snapshot | None = None
    old: Snapshot | None = None  # the copy found on a miss
    leased: bool = False
    asked: bool = False  # Redis has answered
    writer: int = 0
    polled: bool = False
    epoch: int = 0  # of a logout: the epoch in which it wrote the tombstone


class Zombie(NamedTuple):
    """A commit given up by its worker, that Redis may still execute."""

    home: int
    epoch: int
    base: Version
    writer: int


class State(NamedTuple):
    """Everything."""

    masters: tuple[Master, ...]  # the master, and the old one while it still serves a worker
    saved: Master  # what a restart from an older dump brings back, and what a lagging replica holds
    row: Row
    epoch: int  # in SQL, 0: none yet
    sql_up: bool
    workers: tuple[Worker, ...]
    a: Op | None  # of the browser
    b: Op | None  # beside it
    token: Version  # in the jar: the last response wins
    seen: int  # writes that the owner of this jar knows of
    acked: int
    past: tuple[int, ...]  # past[n]: writes that write n came after
    logout: int  # ALIVE, LEAVING, LEFT, ...
    excused: int  # acknowledged writes lost by a declared double failure
    killed: bool
    zombie: Zombie | None
    epochs: int  # handed out so far
    ops: int
    others: int
    faults: int
    evictions: int


ALIVE, LEAVING, LEFT, DECLARED_LOST, MOVED = range(5)

Steps = list[tuple[str, State]]


def join(x: Version, y: Version) -> Version:
    """Return the larger of each number."""
    return max(x[0], y[0]), max(x[1], y[1])


def raised(version: Version) -> Version:
    """Return the version after one more write of SQL."""
    return version[0] + 1, version[1]


def with_worker(st: State, w: int, worker: Worker) -> State:
    """Return the state with another worker `w`."""
    return st._replace(workers=st.workers[:w] + (worker,) + st.workers[w + 1 :])


def with_op(st: State, slot: str, op: Op | None) -> State:
    """Return the state with another request in this slot."""
    return st._replace(a=op) if slot == "a" else st._replace(b=op)


def with_master(st: State, home: int, master: Master) -> State:
    """Return the state with another Redis server."""
    return st._replace(masters=st.masters[:home] + (master,) + st.masters[home + 1 :])
