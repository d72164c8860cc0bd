"""What may be switched off in the protocol, and how far a run explores it."""

from dataclasses import dataclass

FAULTS = (
    "empty",  # Redis restarts without data
    "rewind",  # Redis restarts with an older dump
    "evict",  # Redis drops the copy
    "flush",  # FLUSHALL: the copy and the list go, the scripts stay
    "link",  # one worker is cut off from Redis
    "ambiguous",  # Redis has executed a call, its reply is lost
    "zombie",  # Redis executes a commit after its worker has given it up
    "kill",  # a worker dies and starts again
    "sql",  # SQL is down
    "sql_rewind",  # SQL is restored from a backup
    "failover",  # a replica takes over, the old master goes on serving one worker
)


@dataclass(frozen=True)
class Rules:
    """The protocol, one switch for each mechanism.

    `own_pending`, `carry_pending` and `peek` save a reader the wait for a mirror.  It has a bound in the code and none
    here, so the model needs at most one of them.  Without `peek` a logout that SQL has yet to hear of would not count
    in a process that another session has cost its trust; there is one session here.
    """

    mirror: str = "after"  # "after" or "before" the response
    token: bool = True  # the cookie carries the newest version that this browser saw
    pair: bool = True  # a version is a pair; False: one counter that both stores raise
    stamps: bool = True  # merge by field stamps; False: the whole record where newer, else the own field of the commit
    deletion_stamp: bool = True  # a deleted field keeps its stamp
    absorb: bool = True  # a miss merges the old copy that it found into SQL
    merge_fill: bool = True  # a fill merges into a live copy; False: it replaces a copy that is not newer
    own_pending: bool = True  # a reader of the row also sees the snapshots that its own process has yet to mirror
    peek: bool = True  # a process that does not trust Redis merges what is there with the row that it reads
    lineage: bool = True  # Redis refuses a commit when SQL took a write since the record was loaded
    wait: bool = True  # a reader whose token is ahead of SQL waits for the mirror under way
    carry: bool = True  # a degraded commit merges the record that it had loaded
    carry_pending: bool = True  # ... and the snapshots that its process has yet to mirror
    rebase_fields: bool = True  # ... and what its own fill has found in Redis
    fill_lease: bool = True  # only the reader that saw the miss creates a copy, and only while its lease is there
    fill_heeds_list: bool = True  # a miss of a session that the to-do list names is not filled
    claim: bool = True  # a fill first raises the SQL counter
    redis_tomb: bool = True  # a logout leaves a tombstone in Redis; False: it deletes the copy
    dirty: bool = True  # SQL marks a record of which Redis may hold something older
    distrust: bool = True  # a degraded write voids the trust of its process, and the poll under way
    lease_wait: bool = True  # a degraded logout waits until no process can still trust its copy
    logout_check: bool = True  # a logout that began trusted ends at once only if it is trusted at its end
    logout_epoch: bool = True  # ... under the epoch in which it wrote the tombstone
    login_wait: bool = False  # a degraded change of the id waits like a degraded logout
    epoch: bool = True  # copies count only under the epoch installed in this Redis process
    bump: bool = True  # an epoch is installed once; False: the current one is installed again
    install_wait: bool = True  # an epoch is installed only when no process can still trust the one before
    mirrors_land: bool = True  # no mirror is under way for longer than that wait; False: a process is stalled
    epoch_guard: bool = True  # a drain clears the mark only while its epoch is the one in SQL
    pick_up: bool = True  # a commit that no process is mirroring is mirrored by anyone
    confirm_tag: bool = True  # confirm removes an entry only if it is that of the mirrored commit
    sql_first_logout: bool = True  # the tombstone is in SQL before the answer


@dataclass(frozen=True)
class Bounds:
    """How much happens in one run."""

    ops: tuple[str, ...] = ("read", "write", "logout")  # what the browser does, one after the other
    others: tuple[str, ...] = ("parallel", "replay")  # what runs beside it
    n_ops: int = 2
    n_others: int = 1
    n_faults: int = 1
    n_evictions: int = 0  # "lru": evictions that do not count as faults
    calm_evictions: bool = False  # only a copy whose commits are mirrored is evicted
    n_workers: int = 2
    faults: tuple[str, ...] = FAULTS
    unmirrored_at_start: bool = False  # the session was created a moment ago, its first mirror is pending
    cold_start: bool = False  # the record is in SQL only
    split_at_start: int = -1  # two masters at the start, the old one keeps this worker
    first_start: bool = False  # no epoch in SQL yet
    check_reads: bool = True  # False: only what is left when all is quiet
    split_poll: bool = False  # a poll is two steps: SQL answers, later the process acts on it
    in_order: bool = False  # the browser does its requests in the order given, else any of them each time
    pinned: bool = False  # the browser meets the first worker only, the requests beside it the second
    saves: bool = True  # Redis saves dumps on the way; False: a dump is as old as the start
    max_epochs: int = 4
    states: int = 1_500_000
