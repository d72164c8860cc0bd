"""Two stores as one, each failing in every way that there is, by a script: what is answered, and what is held where."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.servers import RedisFactory
from tests.stores import IDLE, NEVER, Fault, Faulty, a_delta, a_record, key, now, quiet
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import (
    ConfigurationError,
    CorruptRecord,
    SessionExists,
    SessionLimitReached,
    StoreMisconfigured,
    StoreUnavailable,
)
from vedsess_middleware.events import (
    CopyOwed,
    CopyPickedUp,
    Event,
    RecordDrained,
    StoreDegraded,
    StoreRecovered,
    StoreRefenced,
    StoreRefused,
    StoreRestarted,
    WritesLost,
)
from vedsess_middleware.stores.failover import FailoverStore, Mirror
from vedsess_middleware.stores.failover.cutoffs import CutOffs
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Fence, Record, Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

KEY, OTHER, NEW = key("one"), key("other"), key("new")
AT = now()
UNTIL = AT + IDLE
MODES: tuple[Mirror, ...] = get_args(Mirror)
MIRRORING: tuple[Mirror, ...] = ("after-response", "before-response")
OUTAGES: tuple[Fault, ...] = ("refuse", "time out", "lose the reply", "misconfigured")
FAULTS: tuple[Fault, ...] = (*OUTAGES, "saturated", "one key")

in_each_mode = pytest.mark.parametrize("mode", MODES)
in_each_mirroring_mode = pytest.mark.parametrize("mode", MIRRORING)


class Pair:
    """A failover store over two memory stores that fail as they are told, and a clock that only moves when told."""

    def __init__(self, mode: Mirror = "after-response", *, beside: "Pair | None" = None) -> None:
        self.primary: Faulty = beside.primary.seen_by_another_process() if beside else Faulty("r", "primary")
        self.secondary: Faulty = beside.secondary.seen_by_another_process() if beside else Faulty("s", "secondary")
        self.time = 1000.0
        self.events: list[Event] = []
        stores: tuple[Any, Any] = (self.primary, self.secondary)
        self.waited: list[float] = []
        self.store = FailoverStore(
            *stores, mirror=mode, clock=lambda: self.time, wait=self.wait, on_event=self.events.append
        )

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.time += seconds

    def after_response(self) -> None:
        run_blocking(self.store.after_response())

    def heal(self) -> None:
        """Both stores serve again, every wait is over, and responses come until nothing is left to do."""
        self.primary.always = self.secondary.always = None
        for _ in range(20):
            self.time += 10.0
            self.after_response()
            if self.store.serving == self.primary.name and not self.store.pending:
                return
        raise AssertionError("there is always something left to do")

    def settle(self, *names: str) -> None:
        """Both serve again, and these sessions are seen by everybody: what one store lacks it is given on sight."""
        self.heal()
        for name in names:
            self.load(name)
        self.heal()

    def load(self, name: str = KEY, token: Version = Version()) -> Record | None:
        return run_blocking(self.store.load(name, at=AT, refresh=NEVER, token=token))

    def values(self, name: str = KEY, token: Version = Version()) -> dict[str, str] | None:
        """What an app would see; None: no session."""
        record = self.load(name, token)
        return None if record is None or record.gone else record.values

    def create(self, name: str = KEY, **changes: Any) -> Version:
        return run_blocking(self.store.create(name, a_record(AT, **changes)))

    def write(
        self, token: Version, name: str = KEY, *, read: bool = True, drop: tuple[str, ...] = (), **put: str
    ) -> Any:
        """A request that writes, after reading or not."""
        loaded = self.load(name, token) if read else None
        delta = a_delta(AT, base=token, loaded=loaded, put=put, drop=drop)
        return run_blocking(self.store.update(name, delta))

    def end(self, *names: str, **options: Any) -> list[str]:
        return run_blocking(self.store.end(names, at=AT, until=UNTIL, **options))

    def replace(self, old: str, new: str, *, login: bool = False, **changes: Any) -> Version | None:
        record = a_record(AT, **changes)
        replaced = run_blocking(self.store.replace(old, new, record, at=AT, until=UNTIL, even_if_gone=login))
        return replaced.version if replaced else None

    def owed(self) -> dict[str, Record]:
        return self.secondary.store.owed(self.secondary.store.poll().dirty)

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def values_in(store: Faulty, name: str = KEY) -> dict[str, str] | str | None:
    """What one store holds: the values, `gone`, or None."""
    record = store.held(name)
    if record is None:
        return None
    return "gone" if record.gone else record.values


# -- healthy -----------------------------------------------------------------------------------------------------------


@in_each_mode
def test_while_both_serve_only_the_primary_is_asked_for_what_a_request_needs(mode: Mirror) -> None:
    pair = Pair(mode)
    pair.after_response()
    token = pair.create()
    for number in range(3):
        token = pair.write(token, a=str(number)).version
    assert pair.primary.calls[-7:] == ["create", "find", "update", "find", "update", "find", "update"]
    copies = {"off": 0, "after-response": 0, "before-response": 4}[mode]
    first = {"off": ["poll"]}.get(mode, ["poll", "set_epoch", "poll"])
    assert pair.secondary.calls == first + ["mirror"] * copies
    assert pair.store.serving == "primary"


def test_a_copy_lands_after_the_response_and_holds_everything() -> None:
    pair = Pair()
    token = pair.create(fields={"a": "1", "b": "2"})
    token = pair.write(token, a="3", drop=("b",)).version
    assert pair.secondary.held(KEY) is None
    assert pair.store.pending
    pair.after_response()
    assert pair.secondary.held(KEY) == pair.primary.held(KEY)
    assert pair.secondary.calls.count("mirror") == 1
    assert not pair.store.pending
    assert pair.owed() == {}


def test_before_response_has_the_copy_before_it_returns() -> None:
    pair = Pair("before-response")
    token = pair.create()
    assert pair.secondary.held(KEY) == pair.primary.held(KEY)
    pair.write(token, b="2")
    assert pair.secondary.held(KEY) == pair.primary.held(KEY)
    pair.write(token, c="3", read=False)
    assert pair.secondary.held(KEY) == pair.primary.held(KEY)
    assert values_in(pair.secondary) == {"a": "1", "b": "2", "c": "3"}


def test_mirror_off_keeps_no_copy() -> None:
    pair = Pair("off")
    pair.write(pair.create(user_id="ada"), b="2")
    pair.replace(KEY, OTHER, user_id="ada")
    pair.heal()
    assert pair.secondary.held(KEY) is None
    assert pair.secondary.held(OTHER) is None


@in_each_mirroring_mode
def test_logins_logouts_and_id_changes_are_in_the_secondary_before_they_return(mode: Mirror) -> None:
    pair = Pair(mode)
    pair.create(user_id="ada")
    assert values_in(pair.secondary) == {"a": "1"}
    pair.replace(KEY, OTHER, user_id="ada")
    assert (values_in(pair.secondary), values_in(pair.secondary, OTHER)) == ("gone", {"a": "1"})
    pair.replace(OTHER, NEW, login=True, user_id="ada", fields={"b": "2"})
    assert (values_in(pair.secondary, OTHER), values_in(pair.secondary, NEW)) == ("gone", {"b": "2"})
    pair.end(NEW)
    assert values_in(pair.secondary, NEW) == "gone"
    pair.create(key("four"), user_id="bob")
    assert pair.end(user_id="bob") == [key("four")]
    assert values_in(pair.secondary, key("four")) == "gone"


@in_each_mirroring_mode
def test_a_recorded_use_reaches_the_secondary(mode: Mirror) -> None:
    pair = Pair(mode)
    pair.create()
    pair.heal()
    run_blocking(pair.store.load(KEY, at=AT + 100.0, refresh=60.0))
    pair.heal()
    held = pair.secondary.held(KEY)
    assert held
    assert held.last_activity == AT + 100.0


# -- the primary fails in the middle of an operation -------------------------------------------------------------------


def loads(pair: Pair, token: Version) -> Version:
    record = pair.load(token=token)
    assert record
    assert record.values == {"a": "1", "b": "2"}
    assert record.served_by == "secondary"
    assert not record.stale
    return record.version


def writes(pair: Pair, token: Version) -> Version:
    loaded = a_record(AT, fields={"a": "1", "b": "2"}, user_id="ada").replace(version=token)
    delta = a_delta(AT, loaded=pair.primary.held(KEY) or loaded, put={"a": "3"}, drop=("b",))
    written = run_blocking(pair.store.update(KEY, delta))
    assert written
    assert written.version.s == 1
    return written.version


def moves(pair: Pair, token: Version) -> Version:
    version = pair.replace(KEY, NEW, user_id="ada", fields={"a": "4"})
    assert version is not None
    return version


def ends(pair: Pair, token: Version) -> Version:
    assert pair.end(KEY) == [KEY]
    return Version()


def ends_all(pair: Pair, token: Version) -> Version:
    assert pair.end(user_id="ada") == [KEY]
    return Version()


def creates(pair: Pair, token: Version) -> Version:
    version = pair.create(NEW, fields={"a": "5"})
    assert sum(version) == 1
    return version


def logs_in(pair: Pair, token: Version) -> Version:
    return pair.create(NEW, fields={"a": "5"}, user_id="bob")


Held = dict[str, str] | str | None
OLD: Held = {"a": "1", "b": "2"}
OPERATIONS: dict[str, tuple[Callable[[Pair, Version], Version], Held, Held]] = {
    "load": (loads, OLD, None),
    "write": (writes, {"a": "3"}, None),
    "id change": (moves, "gone", {"a": "4"}),
    "logout": (ends, "gone", None),
    "revocation": (ends_all, "gone", None),
    "create": (creates, OLD, {"a": "5"}),
    "login": (logs_in, OLD, {"a": "5"}),
}


def started(mode: Mirror) -> tuple[Pair, Version]:
    """A pair with one session of a user, of which both stores know all that they are to know."""
    pair = Pair(mode)
    token = pair.create(fields={"a": "1", "b": "2"}, user_id="ada")
    pair.heal()
    pair.events.clear()
    pair.primary.calls.clear()
    pair.secondary.calls.clear()
    return pair, token


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_whatever_happens_to_the_primary_the_operation_is_carried_out_and_both_agree_in_the_end(
    mode: Mirror, fault: Fault, name: str
) -> None:
    operation, at_key, at_new = OPERATIONS[name]
    pair, token = started(mode)
    pair.primary.next_faults = [fault]
    version = operation(pair, token)
    alive = NEW if at_new else KEY
    if version != Version():  # the same browser reads what was just acknowledged, from whichever store
        assert pair.values(alive, version) == (at_new or at_key)
    pair.settle(KEY, NEW)
    for place in (pair.primary, pair.secondary):
        assert (values_in(place), values_in(place, NEW)) == (at_key, at_new)
    assert pair.owed() == {}
    if version != Version():
        held = pair.primary.held(alive)
        assert held
        assert held.version.covers(version)
    refused = [StoreRefused] * (fault in ("misconfigured", "one key"))
    changed = [StoreDegraded, StoreRecovered] * (fault in OUTAGES)
    told = [type(event) for event in pair.events if not isinstance(event, RecordDrained | CopyPickedUp)]
    assert told == [*refused, *changed]


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"load", "revocation"}))
@pytest.mark.parametrize("fault", OUTAGES)
def test_without_a_mirror_too_nothing_acknowledged_is_lost(fault: Fault, name: str) -> None:
    operation, at_key, at_new = OPERATIONS[name]
    pair, token = started("off")
    pair.primary.next_faults = [fault]
    version = operation(pair, token)
    alive = NEW if at_new else KEY
    if version != Version():
        assert pair.values(alive, version) == (at_new or at_key)
    pair.heal()
    assert (values_in(pair.primary), values_in(pair.primary, NEW)) == (at_key, at_new)
    assert values_in(pair.secondary, NEW) is None
    assert pair.owed() == {}


@pytest.mark.parametrize("fault", OUTAGES)
def test_an_outage_is_reported_once_and_so_is_its_end(fault: Fault) -> None:
    pair, token = started("after-response")
    pair.primary.always = fault
    for _ in range(5):
        token = pair.write(token, c="3").version
        pair.after_response()
    reason = {"refuse": "unreachable", "misconfigured": "refused"}.get(fault, "timeout")
    refused = [StoreRefused(store="primary", reason="wrong password")] if fault == "misconfigured" else []
    assert pair.events == [*refused, StoreDegraded(store="primary", reason=reason)]
    assert pair.store.serving == "secondary"
    pair.events.clear()
    pair.heal()
    assert pair.events == [StoreRecovered(store="primary"), RecordDrained(session=KEY[:8])]
    assert pair.store.serving == "primary"


def test_after_one_failure_the_primary_is_left_alone() -> None:
    pair, token = started("after-response")
    pair.primary.always = "time out"
    for _ in range(5):
        token = pair.write(token, c="3").version
    pair.create(NEW)
    pair.end(NEW)
    assert pair.primary.calls == ["find"]


def test_a_single_try_that_timed_out_does_not_open_the_breaker_and_two_do() -> None:
    pair, token = started("after-response")
    once = StoreUnavailable("no answer", reason="timeout", attempts=1)

    async def hang(*_: Any, **__: Any) -> None:
        raise once

    vars(pair.primary)["call"] = lambda name, epoch: hang
    for served in ("primary", "secondary"):
        assert pair.values(token=token) == OLD
        assert pair.store.serving == served


@pytest.mark.parametrize("fault", ["saturated", "one key"])
def test_what_says_nothing_about_the_primary_does_not_open_its_breaker(fault: Fault) -> None:
    pair, token = started("after-response")
    pair.primary.next_faults = [fault]
    assert pair.values(token=token) == OLD
    assert pair.store.serving == "primary"
    assert pair.told(StoreDegraded) == []
    assert pair.values(token=token) == OLD
    assert pair.primary.calls == ["find", "find"]


def test_a_refusal_is_said_at_once_and_then_once_a_minute() -> None:
    pair, token = started("after-response")
    pair.primary.always = "one key"
    for seconds in (0.0, 30.0, 29.0, 2.0, 30.0):
        pair.time += seconds
        pair.values(token=token)
    assert pair.events == [StoreRefused(store="primary", reason="wrong type")] * 2


@in_each_mirroring_mode
def test_a_session_born_while_the_primary_is_away_moves_there_when_it_is_back(mode: Mirror) -> None:
    pair = Pair(mode)
    pair.primary.always = "refuse"
    token = pair.create()
    assert token == (1, 0)
    token = pair.write(token, b="2").version
    assert token == (2, 0)
    assert set(pair.owed()) == {KEY}
    pair.settle(KEY)
    assert pair.primary.held(KEY) == pair.secondary.held(KEY)
    pair.secondary.always = "refuse"
    held = pair.primary.held(KEY)
    assert held
    assert pair.values(token=held.version) == {"a": "1", "b": "2"}


def test_a_login_that_is_in_the_secondary_already_keeps_its_version_when_the_primary_fails() -> None:
    pair = Pair()
    pair.primary.always = "refuse"
    assert pair.create(user_id="ada") == (0, 1)
    assert pair.owed() == {}


def test_a_session_of_which_the_primary_was_never_told_is_not_owed() -> None:
    pair, token = started("after-response")
    pair.primary.always = "refuse"
    pair.values(token=token)
    pair.create(NEW)
    assert pair.owed() == {}
    pair.settle(NEW)
    assert values_in(pair.primary, NEW) == {"a": "1"}


def test_a_create_never_overwrites_in_an_outage_either() -> None:
    pair, _ = started("after-response")
    pair.primary.always = "refuse"
    with pytest.raises(SessionExists):
        pair.create(user_id="ada")
    assert values_in(pair.secondary) == OLD


# -- probes ------------------------------------------------------------------------------------------------------------


def test_a_probe_comes_after_the_response_and_not_before_its_time() -> None:
    pair, token = started("after-response")
    pair.primary.always = "refuse"
    pair.values(token=token)
    pair.primary.calls.clear()
    pair.after_response()
    assert pair.primary.calls == []
    pair.time += 0.5
    assert pair.store.pending
    for _ in range(3):
        assert pair.values(token=token) == OLD
    assert pair.primary.calls == []
    pair.after_response()
    pair.after_response()
    assert pair.primary.calls == ["probe"]


def test_while_one_probes_nobody_else_does() -> None:
    pair, token = started("after-response")
    pair.primary.next_faults = ["refuse"]
    pair.values(token=token)
    pair.time += 10.0

    async def body() -> int:
        started, answer, probes = asyncio.Event(), asyncio.Event(), count()

        async def probe() -> None:
            next(probes)
            started.set()
            await answer.wait()

        vars(pair.primary)["probe"] = probe
        first = asyncio.create_task(pair.store.after_response())
        await started.wait()
        for _ in range(3):
            await pair.store.after_response()
            assert (await pair.store.load(KEY, at=AT, refresh=NEVER, token=token)) is not None
        answer.set()
        await first
        return next(probes)

    assert asyncio.run(body()) == 1
    assert pair.store.serving == "primary"


def test_a_failed_probe_is_followed_by_a_longer_wait() -> None:
    pair, token = started("after-response")
    pair.primary.always = "refuse"
    pair.values(token=token)
    pair.primary.calls.clear()
    for _ in range(400):
        pair.time += 0.1
        pair.after_response()
    assert 18 <= pair.primary.calls.count("probe") <= 42
    assert pair.primary.calls.count("probe") == len(pair.primary.calls)


def test_a_cancelled_probe_lets_the_next_one_try() -> None:
    pair, token = started("after-response")
    pair.primary.next_faults = ["refuse", "cancel"]
    pair.values(token=token)
    pair.time += 10.0
    with pytest.raises(asyncio.CancelledError):
        pair.after_response()
    assert pair.store.serving == "secondary"
    pair.after_response()
    assert pair.store.serving == "primary"


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_what_another_process_wrote_in_the_outage_is_drained_too() -> None:
    pair, token = started("after-response")
    dead = Pair(beside=pair)
    pair.primary.always = dead.primary.always = "refuse"
    dead.write(token, a="9")
    assert values_in(pair.primary) == OLD
    pair.values(token=token)
    pair.heal()
    assert values_in(pair.primary) == {"a": "9", "b": "2"}
    assert pair.owed() == {}


def test_what_an_earlier_process_left_behind_is_drained_by_a_new_one() -> None:
    pair, token = started("after-response")
    pair.primary.always = "refuse"
    pair.write(token, a="9")
    pair.primary.always = None
    new = Pair(beside=pair)
    assert new.store.pending
    new.after_response()
    assert values_in(pair.primary) == {"a": "9", "b": "2"}
    assert not new.store.pending


def test_a_single_write_that_was_taken_over_is_drained_without_any_probe() -> None:
    pair, token = started("after-response")
    pair.primary.next_faults = [None, "saturated"]
    pair.write(token, a="9")
    assert pair.store.serving == "primary"
    pair.after_response()
    assert values_in(pair.primary) == {"a": "9", "b": "2"}
    assert pair.owed() == {}


def in_an_outage(*names: str) -> Pair:
    """Sessions that were written to while the primary was away, which answers again."""
    pair = Pair()
    tokens = [pair.create(name) for name in names]
    pair.heal()
    pair.primary.always = "refuse"
    for name, token in zip(names, tokens, strict=True):
        pair.write(token, name, a="2")
    pair.primary.always, pair.time = None, pair.time + 10.0
    return pair


def test_a_long_outage_is_drained_over_several_responses() -> None:
    names = [key(f"n{number}") for number in range(40)]
    pair, left = in_an_outage(*names), []
    while pair.store.pending:
        pair.after_response()
        left.append(len(pair.owed()))
    assert left == [24, 8, 0]
    assert all(values_in(pair.primary, name) == {"a": "2"} for name in names)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_drain_that_was_broken_off_is_taken_up_again(fault: Fault) -> None:
    pair = in_an_outage(*(key(f"n{number}") for number in range(5)))
    pair.primary.next_faults = [None, None, fault]
    pair.after_response()
    assert 0 < len(pair.owed()) < 5
    pair.heal()
    assert pair.owed() == {}


def test_one_record_that_the_primary_cannot_read_keeps_no_other_from_being_drained() -> None:
    pair = in_an_outage(*(key(f"n{number}") for number in range(5)))
    pair.primary.next_faults = [None, "corrupt"]
    pair.after_response()
    assert len(pair.owed()) == 1


def test_more_dirty_records_than_a_poll_names_keep_the_primary_from_being_trusted() -> None:
    pair, token = started("after-response")
    poll = pair.secondary.store.poll
    vars(pair.secondary.store)["poll"] = lambda: replace(poll(), complete=False)
    pair.time += 10.0
    record = pair.load(token=token)
    assert record
    assert record.served_by == "secondary"
    del vars(pair.secondary.store)["poll"]
    pair.heal()
    record = pair.load(token=token)
    assert record
    assert record.served_by == "primary"


@in_each_mirroring_mode
def test_what_both_stores_took_meanwhile_is_brought_together_and_paid_in_one_go(mode: Mirror) -> None:
    pair, token = started(mode)
    other = Pair(mode, beside=pair)
    other.after_response()
    pair.primary.next_faults = [None, "refuse"]
    mine = pair.write(token, mine="1").version
    theirs = other.write(token, theirs="2").version
    assert (mine, theirs) == ((1, 1), (0, 2) if mode == "after-response" else (2, 2))
    other.after_response()
    pair.time += 10.0
    pair.after_response()
    expected = {"a": "1", "b": "2", "mine": "1", "theirs": "2"}
    assert values_in(pair.primary) == values_in(pair.secondary) == expected
    assert pair.owed() == {}
    assert pair.values(token=mine.join(theirs)) == expected


def test_a_row_that_is_written_to_while_it_is_drained_stays_owed() -> None:
    pair, token = started("after-response")
    pair.primary.store.merge(KEY, a_record(AT, fields={"copy": "1"}).born(Version(0, 9)).replace(user_id="ada"))
    pair.primary.next_faults = ["refuse"]
    token = pair.write(token, a="9").version
    pair.time += 10.0
    pay = pair.secondary.store.paid

    def pay_late(*args: Any, **options: Any) -> None:
        del vars(pair.secondary.store)["paid"]
        pair.secondary.store.take_over(KEY, a_delta(AT, put={"late": "1"}))
        pay(*args, **options)

    vars(pair.secondary.store)["paid"] = pay_late
    pair.after_response()
    assert set(pair.owed()) == {KEY}
    Pair(beside=pair).heal()
    assert values_in(pair.primary) == {"a": "9", "b": "2", "copy": "1", "late": "1"}
    assert pair.owed() == {}


def test_a_logout_in_an_outage_reaches_the_old_live_copy_when_it_is_back() -> None:
    pair, token = started("after-response")
    pair.primary.always = "refuse"
    pair.end(KEY)
    assert pair.values(token=token) is None
    pair.primary.always = None
    assert values_in(pair.primary) == OLD
    pair.heal()
    assert values_in(pair.primary) == "gone"
    pair.secondary.always = "refuse"
    assert pair.values(token=token) is None


@in_each_mirroring_mode
def test_a_primary_that_lost_everything_is_filled_again_on_sight(mode: Mirror) -> None:
    pair, token = started(mode)
    token = pair.write(token, c="3").version
    pair.primary.lose_everything()
    assert pair.values(token=token) == {"a": "1", "b": "2", "c": "3"}
    assert pair.store.serving == "secondary"
    pair.settle(KEY)
    assert values_in(pair.primary) == {"a": "1", "b": "2", "c": "3"}
    assert pair.primary.held(KEY) == pair.secondary.held(KEY)
    assert len(pair.told(StoreRefenced)) == 1


def test_a_copy_that_the_browser_has_seen_more_of_is_not_served() -> None:
    pair, token = started("after-response")
    old = pair.primary.held(KEY)
    assert old
    token = pair.write(token, a="9").version
    pair.after_response()
    pair.primary.lose_everything()
    pair.primary.store.merge(KEY, old)
    assert pair.values(token=token) == {"a": "9", "b": "2"}
    assert pair.write(token, c="3").version.covers(token)
    pair.heal()
    assert values_in(pair.primary) == {"a": "9", "b": "2", "c": "3"}


def test_what_nobody_has_is_served_as_stale() -> None:
    pair, token = started("after-response")
    record = pair.load(token=Version(token.s, token.r + 1))
    assert record
    assert (record.stale, record.values) == (True, OLD)


# -- the secondary fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - {"load"}))
@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_whatever_happens_to_the_secondary_the_primary_serves_and_the_copy_lands_later(
    mode: Mirror, fault: Fault, name: str
) -> None:
    operation, at_key, at_new = OPERATIONS[name]
    pair, token = started(mode)
    pair.secondary.always = fault
    if name == "write":
        assert pair.write(token, a="3", drop=("b",)).version == (0, 2)
    elif name == "revocation":  # there may be sessions that only the secondary knows of
        with pytest.raises(StoreUnavailable):
            operation(pair, token)
    else:
        operation(pair, token)
    for _ in range(3):
        pair.after_response()
    assert (values_in(pair.primary), values_in(pair.primary, NEW)) == (at_key, at_new)
    pair.heal()
    for place in (pair.primary, pair.secondary):
        assert (values_in(place), values_in(place, NEW)) == (at_key, at_new)


@in_each_mirroring_mode
def test_copies_survive_a_long_outage_of_the_secondary(mode: Mirror) -> None:
    pair, token = started(mode)
    pair.secondary.always = "refuse"
    names = [key(f"n{number}") for number in range(40)]
    for name in names:
        pair.create(name)
    for number in range(5):
        token = pair.write(token, n=str(number)).version
        pair.after_response()
    assert pair.store.pending
    pair.heal()
    assert values_in(pair.secondary) == {"a": "1", "b": "2", "n": "4"}
    assert all(values_in(pair.secondary, name) == {"a": "1"} for name in names)


def test_a_secondary_that_is_away_is_asked_once_and_then_left_alone() -> None:
    pair, token = started("after-response")
    pair.secondary.always = "refuse"
    for _ in range(5):
        token = pair.write(token, a="3").version
        pair.after_response()
    assert pair.secondary.calls == ["mirror"]
    assert pair.events == [
        StoreDegraded(store="secondary", reason="unreachable"),
        CopyOwed(store="secondary", reason="unreachable"),
    ]


def test_a_secondary_that_refuses_is_said_once_and_sessions_go_on() -> None:
    pair, token = started("after-response")
    pair.secondary.always = "misconfigured"
    for _ in range(5):
        token = pair.write(token, a="3").version
        pair.create(key(f"n{token.r}"), user_id="bob")
        pair.after_response()
    assert pair.told(StoreRefused) == [StoreRefused(store="secondary", reason="wrong password")]
    assert pair.values(token=token) == {"a": "3", "b": "2"}
    pair.heal()
    assert values_in(pair.secondary) == {"a": "3", "b": "2"}


def test_a_write_that_comes_while_its_session_is_copied_is_copied_after_it() -> None:
    pair, token = started("after-response")
    token = pair.write(token, a="3").version
    mirror, held = pair.secondary.store.mirror, []

    def mirror_slowly(name: str, record: Record, **options: Any) -> Record:
        del vars(pair.secondary.store)["mirror"]
        pair.write(token, a="4")
        row = mirror(name, record, **options)
        held.append(values_in(pair.secondary))
        return row

    vars(pair.secondary.store)["mirror"] = mirror_slowly
    pair.after_response()
    assert held == [{"a": "3", "b": "2"}]
    assert values_in(pair.secondary) == {"a": "4", "b": "2"}
    assert not pair.store.pending


def test_a_copy_that_comes_late_does_not_push_out_a_tombstone_that_waits() -> None:
    pair, token = started("after-response")
    pair.secondary.always = "refuse"
    writer = pair.store._writer
    mirror_later = writer.mirrored

    async def mirror_slowly(*copy: Any, **options: Any) -> Record:
        del vars(writer)["mirrored"]
        await pair.store.end([KEY], at=AT, until=UNTIL)
        return await mirror_later(*copy, **options)

    vars(writer)["mirrored"] = mirror_slowly
    pair.write(token, a="3")
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


def test_a_login_while_the_secondary_was_away_is_found_by_a_revocation_elsewhere() -> None:
    pair = Pair()
    pair.after_response()
    pair.secondary.always = "refuse"
    pair.create(user_id="ada")
    pair.secondary.always = None
    elsewhere = Pair(beside=pair)
    assert elsewhere.end(user_id="ada") == [KEY]
    assert values_in(pair.primary) == "gone"
    elsewhere.heal()
    pair.heal()
    assert values_in(pair.secondary) == "gone"


@in_each_mirroring_mode
def test_a_logout_while_the_secondary_was_away_is_not_undone_by_an_id_change_elsewhere(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.secondary.always = "refuse"
    pair.end(KEY)
    pair.secondary.always = None
    elsewhere = Pair(mode, beside=pair)
    assert elsewhere.replace(KEY, NEW, user_id="ada") is None
    elsewhere.heal()
    pair.heal()
    assert [values_in(place, name) for place in (pair.primary, pair.secondary) for name in (KEY, NEW)] == [
        "gone",
        None,
        "gone",
        "gone",
    ]
    assert run_blocking(elsewhere.store.records_of("ada", at=AT)) == {}


@in_each_mirroring_mode
def test_a_tombstone_that_overtakes_the_move_that_left_it_ends_nothing(mode: Mirror) -> None:
    """Another process finds it in the secondary, and tells the primary of it first."""
    pair = Pair(mode)
    pair.create(user_id="ada")
    elsewhere, moves = Pair(mode, beside=pair), pair.secondary.store.replace

    def overtaken(*args: Any, **options: Any) -> Any:
        replaced = moves(*args, **options)
        elsewhere.heal()
        return replaced

    vars(pair.secondary.store)["replace"] = overtaken
    assert pair.replace(KEY, NEW, user_id="ada") is not None
    assert (pair.values(KEY), pair.values(NEW)) == (None, {"a": "1"})
    pair.settle(KEY, NEW)
    assert [values_in(store, NEW) for store in (pair.primary, pair.secondary)] == [{"a": "1"}] * 2


@in_each_mirroring_mode
def test_whoever_comes_second_is_led_to_where_the_session_has_gone(mode: Mirror) -> None:
    """The secondary has decided, and the primary has yet to hear of it."""
    pair = Pair(mode)
    pair.create(user_id="ada")
    other, seen, moves = Pair(mode, beside=pair), list[Any](), pair.secondary.store.replace

    def followed(*args: Any, **options: Any) -> Any:
        replaced = moves(*args, **options)
        if args[1] == NEW:
            seen.append(other.replace(KEY, OTHER, user_id="ada"))
            seen.append(other.load(KEY))
        return replaced

    vars(pair.secondary.store)["replace"] = followed
    other.load(KEY)
    pair.replace(KEY, NEW, user_id="ada")
    assert seen[0] is None
    assert (seen[1].gone, seen[1].successor) == (True, NEW)


def test_a_logout_while_the_secondary_was_away_shows_in_the_list_at_once() -> None:
    pair, _ = started("after-response")
    pair.secondary.always = "refuse"
    pair.end(KEY)
    pair.secondary.always, pair.time = None, pair.time + 10.0
    assert run_blocking(pair.store.records_of("ada", at=AT)) == {}


def test_more_copies_than_may_wait_cost_the_oldest_which_are_picked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vedsess_middleware.stores.failover.copies._MOST", 3)
    pair = Pair()
    names = [key(f"n{number}") for number in range(5)]
    for name in names:
        pair.create(name)
    pair.after_response()
    held = [values_in(pair.secondary, name) is not None for name in names]
    assert held == [False, False, True, True, True]
    pair.heal()
    pair.heal()
    assert all(values_in(pair.secondary, name) for name in names)
    assert {event.session for event in pair.events if isinstance(event, CopyPickedUp)} == {
        name[:8] for name in names[:2]
    }


def test_copies_of_many_threads_are_all_there_in_the_end() -> None:
    pair = Pair()
    version = pair.create(fields={})
    before = sys.getswitchinterval()

    def work(number: int) -> None:
        for turn in range(25):
            delta = a_delta(AT, base=version, put={f"f{number}-{turn}": "1"})
            run_blocking(pair.store.update(KEY, delta))
            pair.after_response()

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
    finally:
        sys.setswitchinterval(before)
    pair.heal()
    assert pair.secondary.held(KEY) == pair.primary.held(KEY)
    assert len(values_in(pair.secondary) or ()) == 200


# -- both fail ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("fault", OUTAGES)
@in_each_mode
def test_without_any_store_nobody_is_told_that_there_is_no_session(mode: Mirror, fault: Fault, name: str) -> None:
    pair, token = started(mode)
    pair.primary.always = pair.secondary.always = fault
    with pytest.raises(StoreUnavailable):
        OPERATIONS[name][0](pair, token)


@in_each_mode
def test_what_the_primary_does_not_know_is_not_taken_for_unknown_while_the_secondary_is_away(mode: Mirror) -> None:
    pair = Pair(mode)
    pair.secondary.always = "refuse"
    with pytest.raises(StoreUnavailable):
        pair.load()
    with pytest.raises(StoreUnavailable):
        pair.write(Version(0, 1), a="1", read=False)


@in_each_mode
def test_what_neither_store_knows_is_unknown(mode: Mirror) -> None:
    pair = Pair(mode)
    assert pair.load() is None
    assert pair.write(Version(0, 1), a="1", read=False) is None
    assert pair.secondary.held(KEY) is None


@in_each_mirroring_mode
def test_in_an_outage_too_what_nobody_mirrored_is_unknown(mode: Mirror) -> None:
    pair = Pair(mode)
    pair.primary.always = "refuse"
    assert pair.load() is None


def test_stats_and_lists_come_from_the_store_that_serves() -> None:
    pair, _ = started("after-response")
    for faulty, serving in ((pair.secondary, "primary"), (pair.primary, "secondary")):
        faulty.always = "refuse"
        assert run_blocking(pair.store.stats(at=AT)).active == 1
        assert run_blocking(pair.store.stats(at=AT)).store in ("memory", serving)
        assert set(run_blocking(pair.store.records_of("ada", at=AT))) == {KEY}
        pair.heal()
    pair.primary.always = pair.secondary.always = "refuse"
    for call in (pair.store.stats(at=AT), pair.store.records_of("ada", at=AT), pair.store.cleanup(at=AT)):
        with pytest.raises(StoreUnavailable):
            run_blocking(call)


# -- what a tombstone leads to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["primary", "secondary"])
@pytest.mark.parametrize("fault", [None, *FAULTS])
@in_each_mirroring_mode
def test_the_old_id_leads_to_the_new_one_in_both_stores(mode: Mirror, fault: Fault | None, place: str) -> None:
    pair, _ = started(mode)
    getattr(pair, place).always = fault
    pair.replace(KEY, NEW, user_id="ada")
    seen = pair.load()
    assert seen
    assert (seen.gone, seen.successor) == (True, NEW)
    pair.settle(KEY, NEW)
    for store in (pair.primary, pair.secondary):
        tombstone = store.held(KEY)
        assert tombstone
        assert (tombstone.gone, tombstone.successor) == (True, NEW)
    assert pair.values(NEW) == {"a": "1"}


@pytest.mark.parametrize("fault", [None, *OUTAGES])
def test_without_a_mirror_too_the_old_id_leads_to_the_new_one(fault: Fault | None) -> None:
    pair, _ = started("off")
    pair.primary.always = fault
    pair.replace(KEY, NEW, user_id="ada")
    pair.heal()
    tombstone = pair.primary.held(KEY)
    assert tombstone
    assert (tombstone.gone, tombstone.successor) == (True, NEW)


@in_each_mirroring_mode
def test_a_logout_leads_nowhere(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.end(KEY)
    pair.heal()
    assert [record.successor for record in (pair.primary.held(KEY), pair.secondary.held(KEY)) if record] == ["", ""]


@pytest.mark.parametrize("away", ["neither", "primary", "secondary"])
@in_each_mode
def test_the_sessions_of_a_sid_are_found_in_the_store_that_serves(mode: Mirror, away: str) -> None:
    pair = Pair(mode)
    pair.after_response()
    if away != "neither":
        getattr(pair, away).always = "refuse"
    pair.create(user_id="ada", sid="s1")
    pair.create(OTHER, user_id="ada", sid="s2")
    pair.create(NEW, user_id="s1")
    assert set(run_blocking(pair.store.records_of("s1", at=AT, by="sid"))) == {KEY}
    assert set(run_blocking(pair.store.records_of("ada", at=AT))) == {KEY, OTHER}
    pair.heal()
    assert set(run_blocking(pair.store.records_of("s1", at=AT, by="sid"))) == {KEY}


# -- writes that expect something --------------------------------------------------------------------------------------


def stamp_of(record: Record | None, name: str = "a") -> Version:
    assert record
    return record.fields[name].stamp


def expecting(pair: Pair, loaded: Record | None, value: str, *, stamp: Version | None = None) -> Any:
    """A request that writes `a` if nobody has since it was loaded."""
    expected = {"a": stamp_of(loaded) if stamp is None else stamp}
    return run_blocking(pair.store.update(KEY, a_delta(AT, loaded=loaded, put={"a": value}, expected=expected)))


@in_each_mode
def test_a_write_that_meets_what_it_expects_is_taken(mode: Mirror) -> None:
    pair, token = started(mode)
    for value in ("2", "3"):
        written = expecting(pair, pair.load(token=token), value)
        assert not written.refused
        token = token.join(written.version)
    assert pair.values(token=token) == {"a": "3", "b": "2"}
    assert "take_over" not in pair.secondary.calls


@in_each_mode
def test_a_conflict_that_the_primary_finds_is_an_answer_and_no_reason_to_ask_the_other(mode: Mirror) -> None:
    pair, token = started(mode)
    loaded = pair.load(token=token)
    token = token.join(pair.write(token, a="9").version)
    written = expecting(pair, loaded and loaded.replace(version=token), "2", stamp=stamp_of(loaded))
    assert written.conflict == ("a",)
    assert "take_over" not in pair.secondary.calls
    assert pair.told(StoreDegraded) == []
    assert pair.store.health.dirty == 0
    pair.heal()
    for place in (pair.primary, pair.secondary) if mode != "off" else (pair.primary,):
        assert values_in(place) == {"a": "9", "b": "2"}


@in_each_mirroring_mode
def test_in_an_outage_too_a_conflict_is_an_answer_and_writes_nothing(mode: Mirror) -> None:
    pair, token = started(mode)
    loaded = pair.load(token=token)
    pair.primary.always = "refuse"
    token = token.join(pair.write(token, a="9").version)
    held = pair.secondary.held(KEY)
    assert expecting(pair, loaded, "2").conflict == ("a",)
    assert pair.secondary.held(KEY) == held
    assert not expecting(pair, pair.load(token=token), "3").refused
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == {"a": "3", "b": "2"}


@in_each_mirroring_mode
def test_a_refusal_in_an_outage_costs_nobody_any_trust(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.primary.next_faults = [None, "one key"]
    assert expecting(pair, pair.load(), "2", stamp=Version(7, 7)).conflict == ("a",)
    assert pair.store.health.dirty == 0
    assert pair.store._pair.trust.held


@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_what_is_expected_is_judged_after_merging_when_the_secondary_takes_over(mode: Mirror, fault: Fault) -> None:
    pair, token = started(mode)
    token = token.join(pair.write(token, a="7").version)  # in `after-response`, the secondary has yet to hear of it
    loaded = pair.load(token=token)
    pair.primary.next_faults = [fault]
    written = expecting(pair, loaded, "8")
    assert not written.refused
    assert pair.values(token=token.join(written.version)) == {"a": "8", "b": "2"}
    pair.settle(KEY)
    assert values_in(pair.primary) == values_in(pair.secondary) == {"a": "8", "b": "2"}


def test_a_commit_that_meets_itself_is_refused_and_stays_written() -> None:
    pair, token = started("after-response")
    loaded = pair.load(token=token)
    take_over = pair.secondary.store.take_over

    def take_over_late(*args: Any) -> Any:
        held = pair.primary.held(KEY)
        assert held
        pair.secondary.store.mirror(KEY, held)  # another process has picked it up
        return take_over(*args)

    vars(pair.secondary.store)["take_over"] = take_over_late
    pair.primary.next_faults = ["lose the reply"]
    assert expecting(pair, loaded, "8").conflict == ("a",)
    pair.heal()
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == {"a": "8", "b": "2"}
    assert not expecting(pair, pair.load(), "9").refused


def locked(pair: Pair, word: str = "w") -> Any:
    """Take the lock of a session."""
    return run_blocking(pair.store.lock(KEY, word, at=AT, until=AT + 30.0))


def unlocked(pair: Pair, fence: Fence) -> None:
    """Give it back."""
    run_blocking(pair.store.unlock(KEY, fence))


def fenced(pair: Pair, fence: Any, **put: str) -> Any:
    """A request that writes under a lock."""
    return run_blocking(pair.store.update(KEY, a_delta(AT, loaded=pair.load(), put=put, fence=fence)))


@in_each_mode
def test_a_lock_that_is_somebody_elses_by_now_is_an_answer_of_the_primary(mode: Mirror) -> None:
    pair, _ = started(mode)
    mine = locked(pair)
    assert not fenced(pair, mine, a="2").refused
    unlocked(pair, mine)
    theirs = locked(pair, "v")
    assert fenced(pair, mine, a="3").unlocked
    assert "take_over" not in pair.secondary.calls
    assert not fenced(pair, theirs, a="4").refused
    assert pair.values() == {"a": "4", "b": "2"}


@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_no_lock_is_held_across_an_outage(mode: Mirror, fault: Fault) -> None:
    pair, token = started(mode)
    mine = locked(pair)
    loaded = pair.load(token=token)
    pair.primary.next_faults = [fault]
    written = run_blocking(pair.store.update(KEY, a_delta(AT, loaded=loaded, put={"a": "2"}, fence=mine)))
    assert written
    assert written.unlocked
    assert pair.owed() == {}
    pair.settle(KEY)
    held = "2" if fault == "lose the reply" else "1"  # nobody knew
    assert values_in(pair.primary) == values_in(pair.secondary) == {"a": held, "b": "2"}


@in_each_mode
def test_nor_is_one_of_an_outage_held_after_it(mode: Mirror) -> None:
    pair, token = started(mode)
    pair.primary.always = "refuse"
    token = token.join(pair.write(token, c="3").version)
    theirs = locked(pair)
    assert not fenced(pair, theirs, c="4").refused
    pair.settle(KEY)
    assert fenced(pair, theirs, c="5").unlocked
    value = pair.values()
    assert value
    assert value["c"] == "4"


@in_each_mode
def test_a_lock_is_given_out_once_in_all_processes(mode: Mirror) -> None:
    pair, _ = started(mode)
    elsewhere = Pair(mode, beside=pair)
    mine = locked(pair)
    assert mine.store == "primary"
    assert locked(pair) == mine  # a repeat of the same attempt
    assert locked(elsewhere, "v") is None
    unlocked(elsewhere, Fence("primary", mine.number + 1))
    assert locked(elsewhere, "v") is None
    unlocked(pair, mine)
    theirs = locked(elsewhere, "v")
    assert theirs.number > mine.number
    assert pair.secondary.calls.count("lock") == elsewhere.secondary.calls.count("lock") == 0


@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_while_the_primary_is_away_the_secondary_gives_out_locks(mode: Mirror, fault: Fault) -> None:
    pair, _ = started(mode)
    elsewhere = Pair(mode, beside=pair)
    pair.primary.always = elsewhere.primary.always = fault
    mine = locked(pair)
    assert mine.store == "secondary"
    assert locked(elsewhere, "v") is None
    assert not fenced(pair, mine, a="2").refused
    assert fenced(elsewhere, Fence("secondary", mine.number + 1), a="3").unlocked
    unlocked(pair, mine)
    assert locked(elsewhere, "v").store == "secondary"
    pair.settle(KEY)
    assert values_in(pair.primary) == values_in(pair.secondary) == {"a": "2", "b": "2"}


@pytest.mark.parametrize("place", ["primary", "secondary"])
@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_a_lock_that_cannot_be_given_back_runs_out(mode: Mirror, fault: Fault, place: str) -> None:
    pair, _ = started(mode)
    if place == "secondary":
        pair.primary.always = "refuse"
    mine = locked(pair)
    assert mine.store == place
    getattr(pair, place).always = fault
    unlocked(pair, mine)
    getattr(pair, place).always = None
    elsewhere = Pair(mode, beside=pair)
    elsewhere.primary.always = pair.primary.always
    later = run_blocking(elsewhere.store.lock(KEY, "v", at=AT + 30.0, until=AT + 60.0))
    assert later
    assert (later.store, later.number > mine.number) == (place, True)


@in_each_mode
def test_without_any_store_nobody_gets_a_lock(mode: Mirror) -> None:
    pair, _ = started(mode)
    mine = locked(pair)
    pair.primary.always = pair.secondary.always = "refuse"
    with pytest.raises(StoreUnavailable):
        locked(pair, "v")
    unlocked(pair, mine)


@in_each_mode
def test_of_a_session_that_is_over_there_is_no_lock(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.end(KEY)
    assert locked(pair) is None


@in_each_mirroring_mode
def test_a_session_that_the_primary_lacks_is_put_back_before_it_is_locked(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.primary.store._records.clear()
    mine = locked(pair)
    assert mine.store == "primary"
    assert not fenced(pair, mine, a="2").refused
    assert "take_over" not in pair.secondary.calls


@in_each_mirroring_mode
def test_what_the_primary_has_yet_to_hear_it_hears_before_it_gives_out_a_lock(mode: Mirror) -> None:
    pair, token = started(mode)
    dead = Pair(mode, beside=pair)
    dead.primary.always = "refuse"
    token = token.join(dead.write(token, a="9").version)
    pair.time += 2.0
    mine = locked(pair)
    assert mine.store == "primary"
    assert pair.owed() == {}
    assert not fenced(pair, mine, a="8").refused
    assert "take_over" not in pair.secondary.calls


def test_whoever_waits_for_a_lock_costs_the_secondary_nothing() -> None:
    pair, _ = started("after-response")
    locked(pair)
    held = pair.primary.held(KEY)
    pair.secondary.calls.clear()
    for seconds in (1.0, 2.0):
        assert run_blocking(pair.store.lock(KEY, "v", at=AT + seconds, until=UNTIL)) is None
    assert pair.secondary.calls == []
    assert pair.primary.held(KEY) == held


def test_a_copy_that_cannot_be_read_is_locked_in_the_secondary() -> None:
    pair, _ = started("after-response")
    pair.primary.always = "corrupt"
    mine = locked(pair)
    assert mine.store == "secondary"
    assert not fenced(pair, mine, a="2").refused


# -- places ------------------------------------------------------------------------------------------------------------


def reserved(pair: Pair, name: str = NEW, *, limit: int = 2, deny: bool = False) -> list[str]:
    """Take a place of ada's."""
    return run_blocking(pair.store.reserve("ada", name, limit=limit, deny=deny, at=AT))


@in_each_mode
def test_while_there_is_a_place_nobody_has_to_leave(mode: Mirror) -> None:
    pair, _ = started(mode)
    assert reserved(pair) == []
    pair.create(NEW, user_id="ada", idle=IDLE / 2)
    assert reserved(pair, OTHER) == [NEW]
    assert reserved(pair, OTHER) == [NEW]
    assert set(reserved(pair, key("four"), limit=1)) == {KEY, OTHER}


@in_each_mode
def test_a_login_that_is_under_way_in_another_process_has_its_place(mode: Mirror) -> None:
    pair, _ = started(mode)
    other = Pair(mode, beside=pair)
    reserved(other, OTHER)
    with pytest.raises(SessionLimitReached):
        reserved(pair, NEW, deny=True)
    assert reserved(pair, NEW) == [KEY]


@pytest.mark.parametrize("place", ["primary", "secondary"])
@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_while_one_store_is_away_the_other_one_knows_who_has_to_leave(mode: Mirror, fault: Fault, place: str) -> None:
    pair, _ = started(mode)
    getattr(pair, place).always = fault
    assert reserved(pair, limit=1) == [KEY]
    with pytest.raises(SessionLimitReached):
        reserved(pair, OTHER, limit=1, deny=True)


@in_each_mode
def test_without_any_store_nobody_takes_a_place(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.primary.always = pair.secondary.always = "refuse"
    with pytest.raises(StoreUnavailable):
        reserved(pair)


@in_each_mirroring_mode
def test_who_logged_in_while_the_secondary_was_away_counts_when_it_has_heard_of_it(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.secondary.always = "refuse"
    pair.create(OTHER, user_id="ada", idle=IDLE / 2)
    pair.secondary.always = None
    pair.settle(OTHER)
    elsewhere = Pair(mode, beside=pair)
    assert reserved(elsewhere) == [OTHER]
    with pytest.raises(SessionLimitReached):
        reserved(elsewhere, key("four"), deny=True)


@in_each_mode
def test_who_logged_in_while_the_primary_was_away_counts_when_it_is_back(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.primary.always = "refuse"
    pair.create(OTHER, user_id="ada", idle=IDLE / 2)
    pair.primary.always = None
    elsewhere = Pair(mode, beside=pair)
    if mode == "off":  # each store counts what it holds, until it is moved
        elsewhere.heal()
    assert reserved(elsewhere) == [OTHER]


@in_each_mode
def test_one_store_decides_who_has_to_leave(mode: Mirror) -> None:
    pair, _ = started(mode)
    reserved(pair)
    asked = [place.calls.count("reserve") for place in (pair.primary, pair.secondary)]
    assert asked == ([1, 0] if mode == "off" else [0, 1])


@in_each_mode
def test_that_a_limit_is_reached_is_an_answer_of_a_store_that_serves(mode: Mirror) -> None:
    pair, _ = started(mode)
    for _ in range(5):
        with pytest.raises(SessionLimitReached):
            reserved(pair, limit=1, deny=True)
    assert pair.events == []
    assert pair.store.serving == "primary"
    assert (pair.store.health.primary, pair.store.health.secondary) == ("closed", "closed")


# -- users who are cut off ---------------------------------------------------------------------------------------------


def cut_off(pair: Pair, *, at: float = AT + 5.0) -> list[str]:
    """End all that ada began until then."""
    return run_blocking(pair.store.cut_off("ada", at=at, until=at + IDLE))


def unlisted(mode: Mirror = "after-response") -> tuple[Pair, Version]:
    """A session of ada's that both stores hold, and neither names as hers."""
    pair, token = started(mode)
    for place in (pair.primary, pair.secondary):
        vars(place.store)["_of"] = lambda *_: []
    return pair, token


@in_each_mode
def test_whoever_is_cut_off_is_out_at_once_and_may_come_back(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.create(OTHER, user_id="bob")
    elsewhere = Pair(mode, beside=pair)
    elsewhere.load(OTHER)
    assert cut_off(pair) == [KEY]
    assert pair.waited == []
    assert pair.values() is elsewhere.values() is None
    assert run_blocking(pair.store.create(NEW, a_record(AT + 6.0, user_id="ada")))
    pair.settle(KEY, OTHER, NEW)
    elsewhere.heal()
    for each in (pair, elsewhere):
        assert (each.values(OTHER), each.values(NEW)) == ({"a": "1"}, {"a": "1"})
    assert values_in(pair.primary) == "gone"
    assert pair.owed() == {}
    assert "cut_off" not in pair.primary.calls or mode == "off"


@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_whoever_is_cut_off_while_the_primary_is_away_is_out_everywhere_in_the_end(mode: Mirror, fault: Fault) -> None:
    pair, _ = started(mode)
    pair.primary.next_faults = [fault]
    assert cut_off(pair) == [KEY]
    assert pair.waited == [2.0]
    assert set(pair.owed()) == {KEY}
    assert pair.values() is None
    pair.settle(KEY)
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


@pytest.mark.parametrize("fault", FAULTS)
@in_each_mirroring_mode
def test_with_the_secondary_away_the_primary_does_what_it_can_and_it_is_said_that_this_is_not_all(
    mode: Mirror, fault: Fault
) -> None:
    pair, _ = started(mode)
    pair.secondary.next_faults = [fault]
    with pytest.raises(StoreUnavailable):
        cut_off(pair)
    assert values_in(pair.primary) == "gone"
    pair.heal()
    assert values_in(pair.secondary) == "gone"


def test_a_login_while_the_secondary_was_away_is_cut_off_too() -> None:
    pair = Pair()
    pair.after_response()
    pair.secondary.always = "refuse"
    pair.create(user_id="ada")
    pair.secondary.always = None
    elsewhere = Pair(beside=pair)
    assert cut_off(elsewhere) == [KEY]
    elsewhere.heal()
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


@in_each_mirroring_mode
def test_what_no_index_names_is_cut_off_here_at_once_and_elsewhere_within_two_seconds(mode: Mirror) -> None:
    pair, token = unlisted(mode)
    elsewhere = Pair(mode, beside=pair)
    assert elsewhere.values() == OLD
    assert cut_off(pair) == []
    assert pair.values(token=token) is None
    elsewhere.time += 2.0
    elsewhere.primary.calls.clear()
    elsewhere.secondary.calls.clear()
    assert [elsewhere.values(token=token) for _ in range(3)] == [None, None, None]
    assert elsewhere.primary.calls == ["find"] * 3
    assert elsewhere.secondary.calls == ["poll", "cut_offs"]
    elsewhere.time += 2.0
    elsewhere.values(token=token)
    assert elsewhere.secondary.calls == ["poll", "cut_offs", "poll"]


@in_each_mirroring_mode
def test_what_is_met_that_was_cut_off_is_ended_for_good(mode: Mirror) -> None:
    pair, _ = unlisted(mode)
    cut_off(pair)
    assert not pair.store.pending
    seen = pair.load()
    assert seen
    assert (seen.gone, seen.updated_at, seen.expires_at) == (True, AT + 5.0, UNTIL)
    assert pair.store.pending
    pair.heal()
    for place in (pair.primary, pair.secondary):
        tombstone = place.held(KEY)
        assert tombstone
        assert (tombstone.gone, tombstone.expires_at) == (True, UNTIL)
    assert pair.owed() == {}


def test_what_could_not_be_ended_for_good_is_met_again() -> None:
    pair, _ = unlisted()
    cut_off(pair)
    pair.load()
    pair.secondary.next_faults = ["saturated"]
    pair.after_response()
    assert values_in(pair.secondary) == OLD
    assert pair.values() is None
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


@in_each_mirroring_mode
def test_what_only_the_primary_holds_is_ended_for_good_in_both(mode: Mirror) -> None:
    pair, _ = unlisted(mode)
    cut_off(pair)
    pair.secondary.store._records.clear()
    assert pair.values() is None
    pair.heal()
    for place in (pair.primary, pair.secondary):
        tombstone = place.held(KEY)
        assert tombstone
        assert (tombstone.gone, tombstone.expires_at) == (True, UNTIL)


@in_each_mirroring_mode
def test_it_makes_no_difference_which_store_holds_what_was_cut_off(mode: Mirror) -> None:
    pair, token = unlisted(mode)
    cut_off(pair)
    pair.primary.store._records.clear()
    assert pair.values(token=token) is None
    pair.settle(KEY)
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


@in_each_mirroring_mode
def test_in_an_outage_too_what_was_cut_off_stays_out(mode: Mirror) -> None:
    pair, token = unlisted(mode)
    cut_off(pair)
    pair.primary.always = "refuse"
    assert pair.values(token=token) is None
    assert pair.write(token, read=False, a="9").gone
    pair.settle(KEY)
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


@in_each_mirroring_mode
def test_a_write_that_did_not_look_first_finds_out(mode: Mirror) -> None:
    pair, token = unlisted(mode)
    cut_off(pair)
    assert pair.write(token, read=False, a="9").gone
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


def test_the_sessions_of_a_user_who_was_cut_off_are_not_listed() -> None:
    pair, _ = unlisted()
    cut_off(pair)
    for place in (pair.primary, pair.secondary):
        del vars(place.store)["_of"]
    run_blocking(pair.store.create(NEW, a_record(AT + 6.0, user_id="ada")))
    assert set(run_blocking(pair.store.records_of("ada", at=AT))) == {NEW}


def test_a_process_that_starts_later_hears_of_all_who_were_ever_cut_off() -> None:
    pair, token = unlisted()
    cut_off(pair)
    for number in range(3):
        run_blocking(pair.store.cut_off(f"user {number}", at=AT, until=UNTIL))
    later, asked = Pair(beside=pair), list[int]()
    cut_offs = pair.secondary.store.cut_offs

    def note(*, after: int) -> dict[str, float]:
        asked.append(after)
        return cut_offs(after=after)

    vars(pair.secondary.store)["cut_offs"] = note
    assert later.values(token=token) is None
    run_blocking(pair.store.cut_off("bob", at=AT, until=UNTIL))
    later.time += 2.0
    later.load()
    assert asked == [0, 4]


def test_the_last_time_counts_in_whatever_order_one_hears_of_it() -> None:
    pair, token = unlisted()
    elsewhere = Pair(beside=pair)
    for seconds in (5.0, -5.0):
        cut_off(pair, at=AT + seconds)
        elsewhere.time += 2.0
        assert elsewhere.values(token=token) is None


def test_a_process_that_polls_while_a_cut_off_comes_asks_again() -> None:
    pair, token = unlisted()
    elsewhere = Pair(beside=pair)
    elsewhere.load()
    cut_offs = pair.secondary.store.cut_offs

    def cut_off_meanwhile(*, after: int) -> dict[str, float]:
        del vars(pair.secondary.store)["cut_offs"]
        known = cut_offs(after=after)
        cut_off(pair)
        return known

    run_blocking(pair.store.cut_off("bob", at=AT, until=UNTIL))
    vars(pair.secondary.store)["cut_offs"] = cut_off_meanwhile
    elsewhere.time += 2.0
    assert elsewhere.values(token=token) == OLD
    elsewhere.time += 2.0
    assert elsewhere.values(token=token) is None


def test_a_secondary_that_was_restored_to_an_older_state_takes_nothing_back() -> None:
    pair, token = unlisted()
    elsewhere = Pair(beside=pair)
    for user in ("bob", "ada"):
        run_blocking(pair.store.cut_off(user, at=AT + 1.0, until=UNTIL))
        elsewhere.time += 2.0
        elsewhere.load()
    pair.secondary.store._cut_offs.clear()
    elsewhere.time += 2.0
    assert elsewhere.values(token=token) is None
    pair.create(OTHER, user_id="eve")
    run_blocking(pair.store.cut_off("eve", at=AT + 1.0, until=UNTIL))
    elsewhere.time += 2.0
    assert elsewhere.values(OTHER) is None


@pytest.mark.parametrize("fault", ["saturated", "refuse"])
def test_who_cannot_ask_who_was_cut_off_asks_again_before_it_polls_the_next_time(fault: Fault) -> None:
    pair, token = unlisted()
    elsewhere = Pair(beside=pair)
    elsewhere.load()
    cut_off(pair)
    elsewhere.time += 2.0
    elsewhere.secondary.next_faults = [None, fault]
    record = elsewhere.load(token=token)
    assert record
    # For want of a connection of its own it trusts nobody; while SQL is away it goes on.
    assert record.served_by == {"saturated": "secondary", "refuse": "primary"}[fault]
    elsewhere.heal()
    assert elsewhere.values(token=token) is None


def test_a_process_that_waits_for_a_new_epoch_hears_of_it_meanwhile() -> None:
    pair, token = unlisted()
    elsewhere = Pair(beside=pair)
    elsewhere.load()
    cut_off(pair)
    restarted(pair)
    assert elsewhere.values(token=token) == OLD
    assert elsewhere.store.health.refencing
    elsewhere.after_response()
    assert elsewhere.store.health.refencing
    assert elsewhere.values(token=token) is None


def test_what_nobody_can_need_any_more_is_forgotten() -> None:
    cut_offs, old = CutOffs(3600.0), a_record(AT, user_id="ada")
    cut_offs.learn(1, {"ada": AT + 1.0})
    assert cut_offs.over(old)
    cut_offs.learn(2, {"bob": AT + 3600.0})
    assert cut_offs.over(old)
    cut_offs.learn(3, {"bob": AT + 3601.0})
    assert not cut_offs.over(old)
    assert cut_offs.over(a_record(AT + 2.0, user_id="bob"))


def test_nobody_is_cut_off_with_another() -> None:
    cut_offs = CutOffs(3600.0)
    cut_offs.learn(1, {"ada": AT + 1.0, "": AT + 1.0})
    assert [cut_offs.over(a_record(AT, user_id=user)) for user in ("ada", "bob", None)] == [True, False, False]
    assert not cut_offs.over(a_record(AT + 1.0, user_id="ada")), "a login right after a cut-off"


@pytest.mark.parametrize("away", ["neither", "primary", "secondary"])
def test_without_a_mirror_each_store_looks_at_all_it_holds(away: str) -> None:
    pair, _ = started("off")
    pair.primary.always = "refuse"
    pair.create(NEW, user_id="ada")
    elsewhere = Pair("off", beside=pair)
    if away == "neither":
        assert set(cut_off(elsewhere)) == {KEY, NEW}
    else:
        getattr(elsewhere, away).always = "refuse"
        with pytest.raises(StoreUnavailable):
            cut_off(elsewhere)
    pair.heal()
    ended = {KEY: away != "primary", NEW: away != "secondary"}
    assert {name: values_in(pair.primary, name) == "gone" for name in (KEY, NEW)} == ended


# -- records that cannot be read ---------------------------------------------------------------------------------------


def test_a_corrupt_copy_is_as_good_as_none() -> None:
    pair, token = started("after-response")
    pair.primary.next_faults = ["corrupt"]
    assert pair.values(token=token) == OLD
    pair.primary.next_faults = ["corrupt", "corrupt"]
    assert pair.write(token, a="9").version.covers(Version(1, 1))
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == {"a": "9", "b": "2"}
    assert pair.store.serving == "primary"
    assert pair.told(StoreDegraded) == []


def test_a_copy_that_stays_corrupt_costs_its_session_and_no_other() -> None:
    pair, token = started("after-response")
    pair.create(OTHER)
    pair.after_response()
    pair.primary.always = "corrupt"
    assert pair.values(token=token) == OLD
    pair.after_response()
    pair.primary.always = None
    assert pair.values(OTHER) == {"a": "1"}


def test_a_corrupt_row_under_a_missing_copy_is_an_error_of_that_session() -> None:
    pair = Pair()
    pair.secondary.next_faults = ["corrupt"]
    with pytest.raises(CorruptRecord):
        pair.load()
    assert pair.told(StoreDegraded) == []


# -- trust, and who is waited for --------------------------------------------------------------------------------------


def fresh(pair: Pair, token: Version, name: str = KEY) -> Record | None:
    """A read by a browser that was answered this very moment."""
    return run_blocking(pair.store.load(name, at=AT, refresh=NEVER, token=token, token_at=AT))


@in_each_mirroring_mode
def test_a_logout_that_the_primary_was_told_of_waits_for_nobody(mode: Mirror) -> None:
    pair, _ = started(mode)
    pair.end(KEY)
    assert pair.waited == []
    assert set(pair.owed()) == {KEY}
    pair.after_response()
    assert pair.owed() == {}


@pytest.mark.parametrize("fault", OUTAGES)
@in_each_mirroring_mode
def test_a_logout_that_the_primary_was_not_told_of_waits_until_nobody_can_trust_it(mode: Mirror, fault: Fault) -> None:
    pair, _ = started(mode)
    pair.primary.always = fault
    pair.end(KEY)
    assert pair.waited == [2.0]


def test_a_logout_under_an_epoch_that_was_replaced_meanwhile_waits_too() -> None:
    pair, _ = started("after-response")
    end = pair.primary.store.end

    def slow_end(*args: Any, **options: Any) -> list[str]:
        del vars(pair.primary.store)["end"]
        ended = end(*args, **options)
        news = pair.secondary.store.poll()
        pair.secondary.store.set_epoch("another", missing=news.epoch)
        run_blocking(pair.store._pair.poll())
        return ended

    vars(pair.primary.store)["end"] = slow_end
    pair.end(KEY)
    assert pair.waited == [2.0]


def test_a_copy_that_is_under_way_in_another_process_is_waited_for() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    token = other.write(token, a="9").version
    pair.primary.always = "refuse"

    def wait(seconds: float) -> None:
        if len(pair.waited) == 3:
            other.after_response()
        pair.waited.append(seconds)

    pair.store._pair.wait = wait
    record = fresh(pair, token)
    assert record
    assert (record.values, record.stale) == ({"a": "9", "b": "2"}, False)
    assert len(pair.waited) == 4
    assert pair.told(WritesLost) == []


def test_a_copy_that_never_comes_is_waited_for_one_second_and_said_to_be_lost() -> None:
    pair, token = started("after-response")
    record = fresh(pair, Version(token.s, token.r + 1))
    assert record
    assert (record.values, record.stale) == (OLD, True)
    assert sum(pair.waited) == pytest.approx(1.0)
    assert pair.told(WritesLost) == [WritesLost(session=KEY[:8])]


def test_a_new_session_whose_first_copy_never_comes_is_unknown_after_the_same_second() -> None:
    pair = Pair()
    assert fresh(pair, Version(0, 1)) is None
    assert sum(pair.waited) == pytest.approx(1.0)


def test_a_browser_that_was_answered_long_ago_waits_for_nobody() -> None:
    pair, token = started("after-response")
    assert pair.load(token=Version(token.s, token.r + 1))
    assert pair.waited == []
    assert pair.told(WritesLost) == [WritesLost(session=KEY[:8])]


def test_of_a_session_that_is_over_nothing_is_waited_for() -> None:
    pair, token = started("after-response")
    pair.primary.always = "refuse"
    ahead, late = Version(token.s, token.r + 1), AT + 2 * IDLE
    assert run_blocking(pair.store.load(KEY, at=late, refresh=NEVER, token=ahead, token_at=late)) is None
    pair.end(KEY)
    pair.waited.clear()
    assert fresh(pair, ahead, KEY) is not None
    assert pair.values(token=ahead) is None
    assert pair.waited == []


def test_what_another_process_wrote_past_the_primary_is_read_after_one_poll() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    other.primary.always = "refuse"
    other.write(token, a="9")
    pair.time += 2.0
    record = pair.load(token=token)  # of a browser that has not seen it
    assert record
    assert (record.values, record.served_by) == ({"a": "9", "b": "2"}, "secondary")
    pair.heal()
    record = pair.load(token=token)
    assert record
    assert (record.values, record.served_by) == ({"a": "9", "b": "2"}, "primary")


def test_a_poll_that_began_before_trust_was_lost_does_not_bring_it_back() -> None:
    pair, _ = started("after-response")
    trust = pair.store._pair.trust
    begun = trust.begin_poll()
    trust.distrust()
    trust.polled(begun, pair.secondary.store.poll())
    assert not trust.held
    trust.polled(trust.begin_poll(), pair.secondary.store.poll())
    assert trust.held


def test_while_the_secondary_is_away_trust_is_kept() -> None:
    pair, token = started("after-response")
    pair.secondary.always = "refuse"
    for _ in range(5):
        pair.time += 10.0
        record = pair.load(token=token)
        assert record
        assert record.served_by == "primary"
        pair.after_response()


def test_a_process_that_starts_while_the_secondary_is_away_learns_the_epoch_from_the_primary() -> None:
    pair, token = started("after-response")
    new = Pair(beside=pair)
    new.secondary.always = "refuse"
    for _ in range(3):
        record = new.load(token=token)
        assert record
        assert (record.values, record.served_by) == (OLD, "primary")
        new.after_response()
    token = new.write(token, a="9").version
    new.secondary.always = None
    new.heal()
    assert values_in(new.secondary) == {"a": "9", "b": "2"}


def restarted(pair: Pair) -> None:
    """The primary comes back with its data, in another process."""
    pair.primary.store.restart(pair.primary.store.dump())


def test_a_new_epoch_is_installed_once_and_not_before_nobody_can_trust_the_old_one() -> None:
    pair, token = started("after-response")
    restarted(pair)
    pair.values(token=token)
    pair.after_response()
    assert len(pair.told(StoreRefenced)) == 1
    for _ in range(19):
        pair.time += 0.1
        pair.after_response()
        assert pair.store.serving == "secondary"
    pair.time += 0.2
    pair.after_response()
    assert pair.store.serving == "primary"
    assert pair.primary.calls.count("install") == 1


def test_the_others_wait_for_the_epoch_that_one_has_made() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    other.values(token=token)
    restarted(pair)
    for each in (pair, other):
        each.values(token=token)
        each.after_response()
    for _ in range(40):
        for each in (pair, other):
            each.time += 0.1
            each.after_response()
    assert pair.store.serving == other.store.serving == "primary"
    assert len(pair.told(StoreRefenced)) + len(other.told(StoreRefenced)) == 1
    assert "install" not in other.primary.calls


def test_an_epoch_whose_maker_has_died_is_replaced() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    other.values(token=token)
    restarted(pair)
    other.values(token=token)
    other.after_response()
    assert len(other.told(StoreRefenced)) == 1
    pair.values(token=token)
    for _ in range(60):
        pair.time += 0.1
        pair.after_response()
    assert pair.store.serving == "primary"
    assert len(pair.told(StoreRefenced)) == 1


def test_an_installation_without_an_answer_is_not_repeated() -> None:
    pair, token = started("after-response")
    restarted(pair)
    pair.values(token=token)
    pair.after_response()
    pair.time += 2.1
    pair.primary.next_faults = ["lose the reply"]
    pair.after_response()
    installed = list(pair.primary.store._installed)
    pair.heal()
    assert pair.primary.store._installed == installed
    assert pair.primary.calls.count("install") == 1


def test_an_old_copy_counts_again_when_it_has_been_compared_with_its_row() -> None:
    pair, token = started("after-response")
    old = pair.primary.store.dump()
    token = pair.write(token, a="9").version
    pair.after_response()
    pair.primary.store.restart(old)
    pair.heal()
    record = pair.load(token=Version())  # of somebody who has seen nothing yet
    assert record
    assert (record.values, record.served_by) == ({"a": "9", "b": "2"}, "secondary")
    pair.after_response()
    record = pair.load(token=token)
    assert record
    assert (record.values, record.served_by) == ({"a": "9", "b": "2"}, "primary")


def test_an_old_copy_that_knows_more_than_the_row_is_absorbed() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    token = other.write(token, a="9").version  # and it dies before it copies that
    restarted(pair)
    pair.heal()
    assert pair.values(token=token) == {"a": "9", "b": "2"}
    assert values_in(pair.secondary) == {"a": "9", "b": "2"}


def test_what_only_a_primary_holds_that_is_not_trusted_is_found_there_all_the_same() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    token = other.write(token, a="9").version  # and it dies before it copies that
    other.create(NEW, fields={"b": "1"})
    restarted(pair)
    pair.load(OTHER)
    assert pair.store.serving == "secondary"
    record = fresh(pair, token)
    assert record
    assert (record.values, record.stale, pair.waited) == ({"a": "9", "b": "2"}, False, [])
    assert pair.values(NEW, Version(0, 1)) == {"b": "1"}
    assert values_in(pair.secondary, NEW) == {"b": "1"}


@in_each_mirroring_mode
def test_what_was_missed_is_filled_in_before_the_same_request_writes_to_it(mode: Mirror) -> None:
    pair, token = started(mode)
    pair.primary.store._records.clear()
    written = pair.write(token, c="3").version
    assert written == (1, 2)
    assert pair.owed() == {}
    assert values_in(pair.primary) == {"a": "1", "b": "2", "c": "3"}
    pair.heal()
    assert pair.primary.held(KEY) == pair.secondary.held(KEY)


def test_of_two_that_missed_the_same_only_one_fills() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    pair.primary.store._records.clear()
    for each in (pair, other):
        assert each.values(token=token) == OLD
    other.after_response()
    held = pair.primary.held(KEY)
    pair.after_response()
    assert held
    assert pair.primary.held(KEY) == held


def test_a_copy_that_its_process_gets_to_late_is_not_picked_up_at_once() -> None:
    pair, token = started("after-response")
    other = Pair(beside=pair)
    other.values(token=token)
    pair.write(token, a="9")
    other.time += 1.0
    other.after_response()
    assert other.told(CopyPickedUp) == []
    assert values_in(pair.secondary) == OLD
    other.time += 1.0
    other.after_response()
    assert other.told(CopyPickedUp) == [CopyPickedUp(session=KEY[:8])]
    assert values_in(pair.secondary) == {"a": "9", "b": "2"}
    other.after_response()
    assert pair.primary.store.unconfirmed(limit=9) == {}


@in_each_mirroring_mode
def test_a_logout_that_only_the_primary_has_heard_of_counts_where_it_is_not_trusted_too(mode: Mirror) -> None:
    pair, token = started(mode)
    other = Pair(mode, beside=pair)
    other.values(token=token)
    pair.secondary.always = "refuse"
    pair.end(KEY)
    for spoil in (other.store._pair.trust.distrust, lambda: restarted(other)):
        spoil()
        other.secondary.next_faults = ["saturated"]  # the poll; then the row is read, which still lives
        assert other.values(token=token) is None


def test_a_write_to_a_session_that_is_over_costs_no_trust() -> None:
    pair, _ = started("after-response")
    assert pair.write(Version(0, 1), OTHER, a="1", read=False) is None
    assert pair.store.health.dirty == 0
    assert pair.store._pair.trust.held


def test_one_key_that_the_primary_refuses_costs_no_other_session_its_trust() -> None:
    pair, token = started("after-response")
    pair.primary.next_faults = ["one key"] * 3
    assert pair.values(token=token) == OLD
    assert pair.store._pair.trust.held
    pair.write(token, a="9")
    pair.create(OTHER)
    fill = pair.primary.store.fill

    def refuse_one(name: str, record: Record, *, lease: str = "") -> Record | None:
        if name == KEY:
            raise StoreMisconfigured("wrong type", one_key=True)
        return fill(name, record, lease=lease)

    vars(pair.primary.store)["fill"] = refuse_one
    for _ in range(3):
        pair.time += 1.0
        pair.after_response()
        record = pair.load(OTHER)
        assert record
        assert record.served_by == "primary"
    assert set(pair.owed()) == {KEY}


def test_for_want_of_a_connection_of_ours_trust_is_not_kept() -> None:
    pair, token = started("after-response")
    pair.time += 10.0
    pair.secondary.next_faults = ["saturated"]
    record = pair.load(token=token)
    assert record
    assert record.served_by == "secondary"


def test_a_secondary_that_lost_the_epoch_gets_a_new_one() -> None:
    pair, token = started("after-response")
    restarted(pair)
    pair.values(token=token)
    pair.secondary.store._news.clear()
    pair.heal()
    assert len(pair.secondary.store._news) == 1
    pair.settle(KEY)
    record = pair.load(token=token)
    assert record
    assert record.served_by == "primary"


def test_two_primaries_with_processes_of_their_own_do_not_chase_each_other() -> None:
    pair, token = started("after-response")
    other = Pair()
    other.secondary.store = pair.secondary.store
    for _ in range(6000):
        for each in (pair, other):
            each.time += 0.1
            each.values(token=token)
            each.after_response()
    epochs = len(pair.told(StoreRefenced)) + len(other.told(StoreRefenced))
    assert 2 <= epochs <= 40


def test_an_epoch_is_given_out_once_to_be_installed() -> None:
    pair, token = started("after-response")
    restarted(pair)
    pair.values(token=token)
    pair.after_response()
    trust = pair.store._pair.trust
    missing = trust.missing
    assert missing
    pair.time += 2.1
    assert [bool(trust.installing(missing)) for _ in range(2)] == [True, False]


def test_the_health_says_what_is_the_matter() -> None:
    pair, token = started("after-response")
    assert pair.store.health.settled
    pair.secondary.always = "refuse"
    token = pair.write(token, a="3").version
    pair.after_response()
    health = pair.store.health
    assert (health.copies, health.secondary, health.settled) == (1, "open", False)
    pair.heal()
    restarted(pair)
    pair.values(token=token)
    health = pair.store.health
    assert (health.refencing, health.serving, health.primary) == (True, "secondary", "closed")
    pair.heal()
    pair.primary.always = "refuse"
    pair.write(token, a="4")
    assert (pair.store.health.dirty, pair.store.health.primary) == (1, "open")
    pair.heal()
    pair.heal()
    assert pair.store.health.settled


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("place", ["primary", "secondary"])
def test_a_cancelled_operation_ends_as_cancelled_and_blames_nobody(name: str, place: str) -> None:
    pair, token = started("before-response")
    getattr(pair, place).next_faults = ["cancel"]
    if place == "secondary" and name in ("load", "write"):
        pair.primary.store._records.clear()
    with pytest.raises(asyncio.CancelledError):
        OPERATIONS[name][0](pair, token)
    assert pair.events == []
    assert pair.store.serving == "primary"


def test_a_copy_whose_merge_was_cancelled_is_not_lost() -> None:
    pair, token = started("after-response")
    pair.write(token, a="3")
    pair.secondary.next_faults = ["cancel"]
    with pytest.raises(asyncio.CancelledError):
        pair.after_response()
    assert pair.store.pending
    pair.after_response()
    assert values_in(pair.secondary) == {"a": "3", "b": "2"}


# -- mirror off --------------------------------------------------------------------------------------------------------


def test_without_a_mirror_an_outage_hides_a_session_and_brings_it_back() -> None:
    pair, token = started("off")
    pair.primary.always = "refuse"
    hidden = pair.load(token=token)
    assert hidden
    assert not hidden.gone
    assert (hidden.values, hidden.served_by, hidden.user_id) == ({}, "secondary", None)
    assert hidden.expires_at > AT
    written = pair.write(token, c="3")
    assert written.version.s == 1
    assert pair.values(token=written.version) == {"c": "3"}
    pair.heal()
    record = pair.load(token=token.join(written.version))
    assert record
    assert (record.values, record.user_id, record.stale) == ({"a": "1", "b": "2", "c": "3"}, "ada", False)
    assert pair.secondary.held(KEY) is None


def test_without_a_mirror_a_primary_that_answers_is_believed() -> None:
    pair = Pair("off")
    assert pair.load(token=Version(0, 4)) is None


def test_without_a_mirror_a_logout_in_an_outage_holds_when_the_primary_is_back() -> None:
    pair, token = started("off")
    pair.primary.always = "refuse"
    pair.end(KEY)
    pair.heal()
    assert values_in(pair.primary) == "gone"
    assert pair.values(token=token) is None
    pair.primary.always = "refuse"
    assert pair.values(token=token) is None


@pytest.mark.parametrize("away", ["primary", "secondary"])
def test_without_a_mirror_a_revocation_that_one_store_does_not_hear_of_is_refused(away: str) -> None:
    pair, _ = started("off")
    pair.primary.always = "refuse"
    pair.create(NEW, user_id="ada")
    elsewhere = Pair("off", beside=pair)
    getattr(elsewhere, away).always = "refuse"
    with pytest.raises(StoreUnavailable):
        elsewhere.end(user_id="ada")
    pair.heal()
    ended = {KEY: away == "secondary", NEW: away == "primary"}
    assert {name: values_in(pair.primary, name) == "gone" for name in (KEY, NEW)} == ended
    assert set(pair.end(user_id="ada")) == {name for name, over in ended.items() if not over}


# -- expiry ------------------------------------------------------------------------------------------------------------


def test_a_copy_that_waits_is_not_served_after_its_end() -> None:
    pair = Pair()
    pair.create()
    assert run_blocking(pair.store.load(KEY, at=UNTIL, refresh=NEVER)) is None
    assert run_blocking(pair.store.update(KEY, a_delta(UNTIL, put={"a": "2"}))) is None


def test_a_tombstone_that_waits_counts_for_a_write_in_an_outage() -> None:
    pair, token = started("after-response")
    loaded = pair.load(token=token)
    pair.secondary.always = "refuse"
    pair.end(KEY)
    pair.secondary.always, pair.primary.always = None, "refuse"
    pair.time += 10.0
    written = run_blocking(pair.store.update(KEY, a_delta(AT, loaded=loaded, put={"a": "9"})))
    assert written
    assert written.gone
    pair.heal()
    assert values_in(pair.primary) == values_in(pair.secondary) == "gone"


# -- wiring ------------------------------------------------------------------------------------------------------------


def test_stores_of_two_colours_are_refused() -> None:
    blocking = SQLStore.from_url("sqlite://", is_async=False)
    asyncio_one = RedisStore.from_url("redis://localhost", is_async=True)
    with pytest.raises(ConfigurationError, match="colours"):
        FailoverStore(asyncio_one, blocking)
    assert FailoverStore(MemoryStore(), blocking).is_async is False
    assert FailoverStore(asyncio_one, MemoryStore(counts="s")).is_async is True
    assert FailoverStore(MemoryStore(), MemoryStore(counts="s")).is_async is None


def test_real_stores_change_places_without_losing_a_write(fresh_redis: RedisFactory, sqlite_url: str) -> None:
    server, events = fresh_redis(), list[Event]()
    redis = RedisStore.from_url(server.url, is_async=False, probe_timeout=2.0, on_event=quiet)
    sql, time = SQLStore.from_url(sqlite_url, is_async=False, timeout=10.0), [0.0]
    store = FailoverStore(redis, sql, clock=lambda: time[0], on_event=events.append)

    def write(token: Version, name: str) -> Version:
        loaded = run_blocking(store.load(KEY, at=AT, refresh=NEVER, token=token))
        written = run_blocking(store.update(KEY, a_delta(AT, base=token, loaded=loaded, put={name: "1"})))
        time[0] += 10.0
        run_blocking(store.after_response())
        assert written
        return token.join(written.version)

    token = write(run_blocking(store.create(KEY, a_record(AT, user_id="ada"))), "before")
    server.kill()
    token = write(write(token, "during"), "again")
    server.start()
    for _ in range(4):
        time[0] += 10.0
        run_blocking(store.after_response())
    assert store.serving == "redis"
    token = write(token, "after")
    expected = {"a": "1", "before": "1", "during": "1", "again": "1", "after": "1"}
    for place in (store, redis, sql):
        record = run_blocking(place.load(KEY, at=AT, refresh=NEVER, token=token))
        assert record
        assert (record.values, record.stale, record.user_id) == (expected, False, "ada")
    assert [type(event) for event in events] == [
        StoreDegraded,
        StoreRecovered,
        StoreRestarted,
        StoreRefenced,
        StoreRecovered,
        RecordDrained,
    ]
    run_blocking(store.close())


# -- one browser, any order of events ----------------------------------------------------------------------------------

NAMES, VALUES, SECONDS = st.sampled_from("abc"), st.integers(0, 9).map(str), st.sampled_from([0.0, 0.3, 2.0, 10.0])
FAILS = st.sampled_from(["refuse", "lose the reply"])
PLACES = st.integers(0, 2)
failed = object()


class Browsing(RuleBasedStateMachine):
    """One browser with its cookie, a plain dict beside it, and either store failing, never both at once.

    What was acknowledged is read back; what was not may or may not have happened.
    """

    secondary_may_fail = True

    def __init__(self) -> None:
        super().__init__()
        self.processes = [Pair()]
        self.keys = (key(f"k{number}") for number in count())
        self.key: str | None = None
        self.user: str | None = None
        self.token = Version()
        self.known: dict[str, set[str | None]] = {}
        self.doubtful = self.unsure = False
        self.ended: set[str] = set()
        self.saved: dict[str, Any] = {}

    # Requests.

    @precondition(lambda self: self.key is None)
    @rule(place=PLACES, values=st.dictionaries(NAMES, VALUES, min_size=1), user=st.sampled_from([None, "ada"]))
    def create(self, place: int, values: dict[str, str], user: str | None) -> None:
        name, pair = next(self.keys), self.at(place)
        record = a_record(self.now(pair), fields=values, user_id=user)
        version = self.answer(pair, pair.store.create(name, record))
        if version is not failed:
            self.begin(name, values, version)
            self.user = user

    @precondition(lambda self: self.key is not None)
    @rule(place=PLACES)
    def read(self, place: int) -> None:
        self.look(self.at(place))

    @precondition(lambda self: self.key is not None)
    @rule(place=PLACES, name=NAMES, value=st.one_of(st.none(), VALUES), read=st.booleans())
    def write(self, place: int, name: str, value: str | None, read: bool) -> None:
        pair = self.at(place)
        loaded = self.look(pair) if read else None
        if loaded is failed:
            return
        assert self.key
        change: dict[str, Any] = {"drop": (name,)} if value is None else {"put": {name: value}}
        delta = a_delta(self.now(pair), base=self.token, loaded=loaded, **change)
        written = self.answer(pair, pair.store.update(self.key, delta))
        if written is failed:
            self.known[name] = self.known.get(name, {None}) | {value}
            self.unsure = True
        elif written is None or written.gone:
            assert self.doubtful
        else:
            self.known[name] = {value}
            self.unsure = False
            self.token = self.token.join(written.version)

    @precondition(lambda self: self.key is not None)
    @rule(place=PLACES, kind=st.sampled_from(["login", "new id", "logout", "logout everywhere", "cut off"]))
    def leave(self, place: int, kind: str) -> None:
        if kind.startswith("logout"):
            self.log_out(self.at(place), everywhere=kind != "logout")
        elif kind == "cut off":
            self.cut_off(self.at(place))
        else:
            self.change_id(self.at(place), login=kind == "login")

    def change_id(self, pair: Pair, *, login: bool) -> None:
        record = self.look(pair)
        if record is failed:
            return
        new, old, at = next(self.keys), self.key, self.now(pair)
        assert old
        moved = a_record(at, fields=record.values, user_id="ada" if login else record.user_id)
        replaced = self.answer(pair, pair.store.replace(old, new, moved, at=at, until=at + IDLE, even_if_gone=login))
        if replaced is failed:
            self.doubtful = True
        elif replaced is None:
            assert self.doubtful
        else:
            self.ended.add(old)
            self.begin(new, record.values, replaced.version)
            self.user = moved.user_id

    def log_out(self, pair: Pair, *, everywhere: bool) -> None:
        assert self.key
        whose, at = "ada" if everywhere else None, self.now(pair)
        if self.answer(pair, pair.store.end([self.key], user_id=whose, at=at, until=at + IDLE)) is failed:
            self.doubtful = True
        else:
            self.ended.add(self.key)
            self.forget()

    def cut_off(self, pair: Pair) -> None:
        assert self.key
        self.set_clocks()  # what began until now began before, and what begins now after it, by every clock
        at = self.now(pair)
        answer = self.answer(pair, pair.store.cut_off("ada", at=at, until=at + IDLE))
        self.set_clocks(0.001)
        if answer is failed:
            self.doubtful = True
        elif self.user == "ada":
            self.ended.add(self.key)
            self.forget()

    # Events.

    @rule(place=PLACES, fault=FAILS, which=st.sampled_from(["primary", "secondary", "neither"]))
    def fails(self, place: int, fault: Fault, which: str) -> None:
        pair = self.at(place)
        pair.primary.always = pair.secondary.always = None
        if which == "primary" and all(each.secondary.always is None for each in self.processes):
            pair.primary.always = fault
        if which == "secondary" and self.secondary_may_fail and all(e.primary.always is None for e in self.processes):
            pair.secondary.always = fault

    @precondition(lambda self: all(each.secondary.always is None for each in self.processes))
    @rule(how=st.sampled_from(["empty", "as it is", "as it was saved", "only flushed"]))
    def primary_restarts(self, how: str) -> None:
        memory = self.processes[0].primary.store
        if how == "only flushed":
            memory.restart({}, scripts=True)
        else:
            memory.restart({"empty": {}, "as it is": memory.dump(), "as it was saved": self.saved}[how])

    @rule()
    def primary_saves(self) -> None:
        self.saved = self.processes[0].primary.store.dump()

    @rule(place=PLACES, seconds=SECONDS)
    def after_response(self, place: int, seconds: float) -> None:
        for pair in self.processes:
            pair.time += seconds
        self.at(place).after_response()

    def teardown(self) -> None:
        for pair in self.processes * 2:
            pair.heal()
        pair = self.processes[0]
        assert pair.owed() == {}
        for name in self.ended:
            assert values_in(pair.secondary, name) in ("gone", None)
            assert pair.values(name) is None
        if self.key is not None and self.look(pair) is not failed and not (self.unsure or self.doubtful):
            pair.heal()
            self.look(pair)
            pair.heal()
            assert pair.primary.held(self.key) == pair.secondary.held(self.key)

    # What a browser and a process know.

    def at(self, place: int) -> Pair:
        return self.processes[place % len(self.processes)]

    def now(self, pair: Pair) -> float:
        return AT + pair.time - 1000.0

    def set_clocks(self, seconds: float = 0.0) -> None:
        latest = max(pair.time for pair in self.processes)
        for pair in self.processes:
            pair.time = latest + seconds

    def forget(self) -> None:
        self.key, self.token, self.known = None, Version(), {}
        self.doubtful = self.unsure = False

    def begin(self, name: str, values: dict[str, str], version: Version) -> None:
        self.forget()
        self.key, self.token = name, version
        self.known = {field: {value} for field, value in values.items()}

    def is_out(self, pair: Pair) -> bool:
        """Whether a store is away, or believed to be: only then may nobody be able to say."""
        believed = pair.store._pair.first.breaker.closed and pair.store._pair.second.breaker.closed
        return not believed or any(each.primary.always or each.secondary.always for each in self.processes)

    def answer(self, pair: Pair, call: Coroutine[Any, Any, Any]) -> Any:
        """The answer, or `failed`, which is possible only in an outage."""
        out = self.is_out(pair)
        try:
            return run_blocking(call)
        except StoreUnavailable:
            assert out
            return failed

    def look(self, pair: Pair) -> Any:
        """Read; what is read agrees with what was acknowledged."""
        assert self.key
        call = pair.store.load(self.key, at=self.now(pair), refresh=1.0, token=self.token)
        record = self.answer(pair, call)
        if record is failed:
            return failed
        if record is None or record.gone:
            assert self.doubtful
            self.forget()
            return failed
        assert not record.stale
        assert all(record.values.get(name) in allowed for name, allowed in self.known.items())
        assert record.values.keys() <= self.known.keys()
        self.token = self.token.join(record.version)
        return record


class BrowsingThreeProcesses(Browsing):
    """The same browser, whose requests go to any of three processes that are cut off from Redis one by one.

    Each finishes its copies after the response; a process that waits with them is another promise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.processes = [self.processes[0], *(Pair(beside=self.processes[0]) for _ in range(2))]

    secondary_may_fail = False

    def answer(self, pair: Pair, call: Coroutine[Any, Any, Any]) -> Any:
        answer = super().answer(pair, call)
        pair.after_response()
        return answer


_some = settings(max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TestBrowsing = Browsing.TestCase
TestBrowsing.settings = _some
TestBrowsingThreeProcesses = BrowsingThreeProcesses.TestCase
TestBrowsingThreeProcesses.settings = _some
