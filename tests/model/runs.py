"""The runs: the protocol must hold in each of its own, and each ablation must be refuted."""

from dataclasses import replace as but
from typing import NamedTuple

from tests.model.rules import FAULTS, Bounds, Rules


class Run(NamedTuple):
    """One run."""

    name: str
    rules: Rules
    bounds: Bounds
    breaks: str = ""  # of an ablation: the promise that it breaks


ALL = tuple(kind for kind in FAULTS if kind != "failover")
NOT_EVICT = tuple(kind for kind in ALL if kind not in ("evict", "flush"))
SINGLE = tuple(kind for kind in NOT_EVICT if kind != "sql_rewind")
NOT_SQL = tuple(kind for kind in SINGLE if kind != "sql")

RULES = Rules()
BEFORE = Rules(mirror="before")
LEAN = Rules(own_pending=False, carry_pending=False)

LOGOUT = Bounds(ops=("logout",), others=("replay",), n_ops=1, n_others=2, faults=())
WRITES = Bounds(ops=("read", "write"), others=("parallel",), faults=())
ONE_WRITE = but(WRITES, ops=("write",), n_ops=1)
THEN_READ = but(WRITES, ops=("write", "read"), in_order=True)
DELETION = but(WRITES, ops=("delete", "read"), in_order=True)
LOGIN = Bounds(ops=("login",), others=("parallel",), n_ops=1, faults=())
LRU = but(WRITES, n_faults=0, n_evictions=2)
SPLIT = but(LOGOUT, n_faults=0, max_epochs=2, pinned=True, split_at_start=0)

# too wide to be searched: for random walks
WIDE = Bounds(ops=("read", "write", "delete", "logout"), n_ops=3, n_others=2, n_workers=3, faults=(*SINGLE, "failover"))
MIXED = Bounds(n_ops=3, n_others=2, faults=(*NOT_SQL, "failover"), n_evictions=2, calm_evictions=True)

PROTOCOL = (
    Run("logout, 2 replays, 1 fault", RULES, but(LOGOUT, faults=ALL)),
    Run("logout, 2 evictions", RULES, but(LOGOUT, n_faults=0, n_evictions=2)),
    Run("logout, polls of two steps, 1 fault", RULES, but(LOGOUT, n_others=1, faults=ALL, split_poll=True)),
    Run("logout, failover", RULES, but(LOGOUT, faults=("failover",), max_epochs=3)),
    Run("logout, two masters", RULES, SPLIT),
    Run(
        "logout, two masters and 1 fault", RULES, but(LOGOUT, n_others=1, split_at_start=0, faults=NOT_SQL, pinned=True)
    ),
    Run("logout, 3 workers, 1 fault", RULES, but(LOGOUT, n_others=1, n_workers=3, faults=ALL)),
    Run("2 requests and 1 beside, 1 fault", RULES, Bounds(faults=NOT_EVICT)),
    Run("1 request and 1 beside, 2 faults", RULES, Bounds(n_ops=1, n_faults=2, faults=SINGLE)),
    Run("3 requests, 1 fault", RULES, Bounds(n_ops=3, n_others=0, faults=ALL)),
    Run("a read after the restart", RULES, but(THEN_READ, pinned=True, faults=("empty",), max_epochs=2)),
    Run("writes, not in Redis yet, 1 fault", RULES, but(WRITES, cold_start=True, faults=NOT_SQL)),
    Run("writes, 2 evictions, losses only", RULES, but(LRU, check_reads=False)),
    Run("writes, 2 evictions of mirrored copies", RULES, but(LRU, calm_evictions=True)),
    Run("writes, 2 evictions", RULES, LRU),
    Run("writes, failover", RULES, but(WRITES, faults=("failover",), max_epochs=3)),
    Run("writes, two masters", RULES, but(WRITES, split_at_start=1, n_faults=0, max_epochs=3)),
    Run("writes, 3 workers, 1 fault", RULES, but(ONE_WRITE, n_workers=3, faults=SINGLE)),
    Run("writes, polls of two steps, 1 fault", RULES, but(ONE_WRITE, faults=SINGLE, split_poll=True)),
    Run("just created, 1 fault", RULES, Bounds(n_ops=1, faults=NOT_EVICT, unmirrored_at_start=True)),
    Run("first start, 1 fault", RULES, but(ONE_WRITE, first_start=True, faults=NOT_SQL)),
    Run("deletion, 1 fault", RULES, but(DELETION, faults=SINGLE)),
    Run("login, no fault", RULES, LOGIN),
    Run("login, waiting, 1 fault", Rules(login_wait=True), but(LOGIN, faults=SINGLE)),
    Run("login, waiting, failover", Rules(login_wait=True), but(LOGIN, faults=("failover",), max_epochs=3)),
    Run("before-response: 2 requests and 1 beside, 1 fault", BEFORE, Bounds(faults=ALL)),
    Run("before-response: writes, failover", BEFORE, but(WRITES, faults=("failover",), max_epochs=3)),
    Run("before-response: writes, 2 evictions", BEFORE, LRU),
    Run("lean: 2 requests and 1 beside, 1 fault", LEAN, Bounds(faults=NOT_EVICT)),
    Run("lean: 1 request and 1 beside, 2 faults", LEAN, Bounds(n_ops=1, n_faults=2, faults=SINGLE)),
    Run("lean: writes, not in Redis yet, 1 fault", LEAN, but(WRITES, cold_start=True, faults=NOT_SQL)),
    Run("lean: writes, failover", LEAN, but(WRITES, faults=("failover",), max_epochs=3)),
)

WALKS = (
    Run("3 workers, 1 fault", RULES, WIDE),
    Run("2 workers, 1 fault, evictions of mirrored copies", RULES, MIXED),
    Run("two masters from the start, 1 fault", RULES, but(WIDE, n_workers=2, split_at_start=1, faults=NOT_SQL)),
    Run("before-response: 3 workers, 1 fault", BEFORE, WIDE),
    Run("lean: 3 workers, 1 fault", LEAN, WIDE),
    Run("lean: 2 workers, 1 fault, evictions of mirrored copies", LEAN, MIXED),
)

OBVIOUS = Rules(
    pair=False,
    stamps=False,
    absorb=False,
    merge_fill=False,
    own_pending=False,
    carry_pending=False,
    lineage=False,
    wait=False,
    carry=False,
    rebase_fields=False,
    fill_heeds_list=False,
    claim=False,
    redis_tomb=False,
)

ABLATIONS = (
    Run("no token", Rules(token=False), but(THEN_READ, n_others=0, faults=("link",)), breaks="stale read"),
    Run("one counter instead of the pair", Rules(pair=False), but(THEN_READ, faults=("link",)), breaks="stale read"),
    Run("no field stamps", Rules(stamps=False), but(THEN_READ, faults=("empty",)), breaks="stale read"),
    Run("no deletion stamp", Rules(deletion_stamp=False), but(DELETION, n_others=0, n_faults=0), breaks="stale read"),
    Run(
        "no absorb",
        Rules(absorb=False),
        but(THEN_READ, cold_start=True, faults=("kill",), pinned=True),
        breaks="stale read",
    ),
    Run(
        "no merge in a fill",
        Rules(merge_fill=False),
        but(ONE_WRITE, n_faults=2, faults=("link", "kill"), pinned=True),
        breaks="lost write (SQL)",
    ),
    Run(
        "nothing of the pending in SQL first",
        Rules(own_pending=False, carry_pending=False, rebase_fields=False),
        but(THEN_READ, cold_start=True, faults=("link",), n_workers=1),
        breaks="stale read",
    ),
    Run(
        "no lineage guard",
        Rules(lineage=False),
        but(WRITES, ops=("write",), n_others=0, faults=("zombie",)),
        breaks="lost write (SQL)",
    ),
    Run(
        "no wait for the mirror", Rules(wait=False), but(THEN_READ, n_others=0, faults=("empty",)), breaks="stale read"
    ),
    Run("no carry", Rules(carry=False), but(THEN_READ, faults=("empty",)), breaks="stale read"),
    Run(
        "no claim",
        Rules(claim=False),
        but(ONE_WRITE, ops=("read",), faults=("flush",), check_reads=False),
        breaks="lost write (Redis)",
    ),
    Run(
        "no claim, before-response",
        Rules(claim=False, mirror="before"),
        but(ONE_WRITE, ops=("read",), faults=("flush",)),
        breaks="lost write (Redis)",
    ),
    Run(
        "no fill lease",
        Rules(fill_lease=False),
        but(ONE_WRITE, others=("replay",), faults=("evict",)),
        breaks="lost write (Redis)",
    ),
    Run(
        "no Redis tombstone",
        Rules(redis_tomb=False),
        but(LOGOUT, n_others=1, faults=("sql_rewind",)),
        breaks="resurrection",
    ),
    Run("no dirty mark", Rules(dirty=False), but(LOGOUT, n_others=1, faults=("link",)), breaks="resurrection"),
    Run(
        "no distrust",
        Rules(distrust=False),
        but(LOGOUT, n_others=1, faults=("link",), split_poll=True),
        breaks="resurrection",
    ),
    Run("no lease wait", Rules(lease_wait=False), but(LOGOUT, n_others=1, faults=("link",)), breaks="resurrection"),
    Run(
        "no check at the end of a trusted logout",
        Rules(logout_check=False),
        but(SPLIT, n_others=1),
        breaks="resurrection",
    ),
    Run("the check without the epoch", Rules(logout_epoch=False), but(SPLIT, n_others=1), breaks="resurrection"),
    Run("no epoch", Rules(epoch=False), but(LOGOUT, n_others=1, faults=("rewind",)), breaks="resurrection"),
    Run("epoch installed again", Rules(bump=False), but(LOGOUT, n_others=1, faults=("rewind",)), breaks="resurrection"),
    Run(
        "no wait before the install",
        Rules(install_wait=False),
        but(SPLIT, n_others=0, split_at_start=1),
        breaks="resurrection",
    ),
    Run(
        "no epoch guard in a drain",
        Rules(epoch_guard=False),
        but(SPLIT, ops=("write",), n_ops=2, n_others=0, split_at_start=1),
        breaks="lost write (Redis)",
    ),
    Run("no pick-up", Rules(pick_up=False), but(ONE_WRITE, n_others=0, faults=("kill",)), breaks="lost write (SQL)"),
    Run(
        "confirm removes whatever tag",
        Rules(confirm_tag=False),
        but(ONE_WRITE, faults=("kill",)),
        breaks="lost write (SQL)",
    ),
    Run(
        "logout in Redis first",
        Rules(sql_first_logout=False),
        but(LOGOUT, n_others=1, faults=("empty",)),
        breaks="resurrection",
    ),
    Run(
        "a fill that does not heed the list",
        Rules(fill_heeds_list=False),
        but(THEN_READ, faults=("evict",)),
        breaks="stale read",
    ),
    Run("the obvious form", OBVIOUS, but(THEN_READ, faults=("empty",)), breaks="stale read"),
    Run("the obvious form, no fault", OBVIOUS, but(WRITES, ops=("write",), n_faults=0), breaks="lost write (SQL)"),
)

EXCEPTIONS = (
    Run("FLUSHALL before the mirror", RULES, but(THEN_READ, faults=("flush",)), breaks="stale read"),
    Run(
        "Redis restarts while a process is stalled with its mirror pending",
        Rules(mirrors_land=False),
        but(THEN_READ, pinned=True, faults=("empty",), max_epochs=2),
        breaks="stale read",
    ),
    Run(
        "login while cut off",
        RULES,
        but(LOGIN, faults=("link",)),
        breaks="the old cookie is set again after the id has changed",
    ),
)
