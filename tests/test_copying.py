"""Copies that wait are copied together, by one response for the others, and what is wrong with one stops no other."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.stores import a_delta, a_record, key, quiet
from tests.test_failover import AT, KEY, Pair, values_in
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import CorruptRecord, StoreMisconfigured, StoreUnavailable
from vedsess_middleware.events import CopyOwed
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.failover.copies import Copies
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Record, Version
from vedsess_middleware.stores.sql import SQLStore

NAMES = [key(f"n{number}") for number in range(6)]
Rows = dict[str, Record]


def owing(*names: str) -> Pair:
    """A pair whose secondary has yet to get these sessions."""
    pair = Pair()
    pair.after_response()
    for name in names:
        pair.create(name)
    pair.secondary.calls.clear()
    return pair


def mirrors(pair: Pair) -> list[str]:
    """How the secondary was asked to copy."""
    return [name for name in pair.secondary.calls if name.startswith("mirror")]


def landed(pair: Pair, *names: str) -> list[str]:
    return [name for name in names if values_in(pair.secondary, name) is not None]


def before_each(pair: Pair, do: Callable[[], None]) -> None:
    """Do this before each call that copies."""
    store = pair.secondary.store
    one = store.mirror

    def mirror(name: str, record: Record, **options: Any) -> Record:
        do()
        return one(name, record, **options)

    def mirror_all(records: Mapping[str, Record]) -> Rows:
        do()
        return {name: one(name, record) for name, record in records.items()}

    vars(store).update(mirror=mirror, mirror_all=mirror_all)


def test_copies_that_wait_go_together_and_are_confirmed() -> None:
    pair = owing(*NAMES)
    pair.after_response()
    assert mirrors(pair) == ["mirror_all"]
    assert landed(pair, *NAMES) == NAMES
    assert not pair.store.pending
    assert pair.store.health.copies == 0
    pair.heal()
    assert pair.primary.store.unconfirmed(limit=10) == {}


def test_a_copy_that_waits_alone_goes_alone() -> None:
    pair = owing(KEY)
    pair.after_response()
    assert mirrors(pair) == ["mirror"]


def test_a_response_that_comes_while_another_one_copies_leaves_its_copy_to_that_one() -> None:
    pair, names = owing(KEY), iter(NAMES)
    calls: list[int] = []

    def others() -> None:
        if not calls:
            for name in names:
                pair.create(name)
                pair.after_response()
        calls.append(len(landed(pair, *NAMES)))

    before_each(pair, others)
    pair.after_response()
    assert calls == [0, 0], "one with its own, and one with all that came meanwhile"
    assert mirrors(pair) == ["mirror", "mirror_all"]
    assert landed(pair, KEY, *NAMES) == [KEY, *NAMES]


def test_a_response_copies_no_more_than_a_few_rounds_for_the_others() -> None:
    pair, sessions, depth = owing(KEY), list[str](), [0, 0]

    def another() -> None:
        depth[0] += 1
        depth[1] = max(depth)
        if len(sessions) < 20:
            sessions.append(key(f"s{len(sessions)}"))
            pair.create(sessions[-1])
            pair.after_response()
        depth[0] -= 1

    before_each(pair, another)
    pair.after_response()
    assert depth[1] == 5, "after a few rounds the next one takes its turn"
    assert landed(pair, KEY, *sessions) == [KEY, *sessions]
    assert not pair.store.pending


def test_whatever_was_left_to_a_response_it_copies() -> None:
    pair, names = owing(KEY), [key(f"b{number}") for number in range(400)]
    coming = iter(names)

    def others() -> None:
        for name in coming:
            pair.create(name)
            pair.after_response()

    before_each(pair, others)
    pair.after_response()
    assert landed(pair, *names) == names


def test_nothing_is_left_to_a_response_that_has_looked_for_the_last_time() -> None:
    pair = owing(KEY)
    copier = pair.store._upkeep._copier
    look = copier._next

    def look_and_be_overtaken(me: object, *, last: bool) -> Any:
        batch = look(me, last=last)
        if not batch and values_in(pair.secondary, "late") is None:
            del vars(copier)["_next"]
            pair.create("late")
            pair.after_response()
        return batch

    vars(copier)["_next"] = look_and_be_overtaken
    pair.after_response()
    assert landed(pair, KEY, "late") == [KEY, "late"]


def test_a_long_backlog_takes_several_responses() -> None:
    names = [key(f"b{number}") for number in range(700)]
    pair = owing(*names)
    held = []
    while pair.store.health.copies:
        pair.after_response()
        held.append(len(landed(pair, *names)))
    assert held == [320, 640, 700]


def test_a_response_that_was_cut_short_is_not_waited_for_for_ever() -> None:
    pair = owing(KEY, *NAMES)

    class Wait:
        def __await__(self) -> Any:
            yield

    vars(pair.secondary)["mirror_all"] = lambda records: Wait()
    stuck = pair.store.after_response()
    stuck.send(None)
    del vars(pair.secondary)["mirror_all"]
    pair.create("later")
    pair.after_response()
    assert landed(pair, "later") == []
    pair.time += 10.0
    pair.after_response()
    assert landed(pair, "later") == ["later"]
    stuck.close()
    pair.after_response()
    assert landed(pair, KEY, *NAMES) == [KEY, *NAMES]


# -- one that fails ----------------------------------------------------------------------------------------------------


def spoiling(pair: Pair, error: Exception, *names: str) -> None:
    """Fail where one of these is copied."""
    store = pair.secondary.store
    one, many = store.mirror, store.mirror_all

    def mirror(name: str, record: Record, **options: Any) -> Record:
        if name in names:
            raise error
        return one(name, record, **options)

    def mirror_all(records: Mapping[str, Record]) -> Rows:
        if not records.keys().isdisjoint(names):
            raise error
        return many(records)

    vars(store).update(mirror=mirror, mirror_all=mirror_all)


ERRORS: dict[str, Exception] = {
    "locked": StoreUnavailable("somebody's lock", reason="locked"),
    "corrupt": CorruptRecord("no session"),
    "refused": StoreMisconfigured("wrong type", one_key=True),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("bad", NAMES)
def test_what_is_wrong_with_one_copy_keeps_no_other_waiting(error: Exception, bad: str) -> None:
    pair = owing(*NAMES)
    spoiling(pair, error, bad)
    pair.after_response()
    assert landed(pair, *NAMES) == [name for name in NAMES if name != bad]
    assert pair.store.pending
    assert pair.store.health.copies == 1


def test_where_everything_is_locked_only_two_are_tried() -> None:
    pair = owing(*NAMES)
    spoiling(pair, ERRORS["locked"], *NAMES)
    pair.after_response()
    assert mirrors(pair) == ["mirror_all", "mirror", "mirror"]
    assert pair.told(CopyOwed) == [CopyOwed(store="secondary", reason="locked")] * 3
    assert pair.store.health.copies == len(NAMES)


def test_after_a_failure_that_says_nothing_of_one_they_go_one_by_one_once() -> None:
    """One may be what no statement can hold, or all of them too much for the time there is."""
    pair = owing(*NAMES)
    spoiling(pair, ValueError("a mistake of ours"), NAMES[0])
    with pytest.raises(ValueError, match="mistake"):
        pair.after_response()
    assert landed(pair, *NAMES) == []
    with pytest.raises(ValueError, match="mistake"):
        pair.after_response()
    assert landed(pair, *NAMES) == NAMES[1:]
    del vars(pair.secondary.store)["mirror"], vars(pair.secondary.store)["mirror_all"]
    pair.create(KEY)
    pair.after_response()
    pair.create("x")
    pair.create("y")
    pair.secondary.calls.clear()
    pair.after_response()
    assert mirrors(pair) == ["mirror_all"]
    assert landed(pair, *NAMES, KEY, "x", "y") == [*NAMES, KEY, "x", "y"]


def test_a_store_that_is_away_is_asked_once_and_all_copies_wait() -> None:
    pair = owing(*NAMES)
    pair.secondary.always = "refuse"
    pair.after_response()
    assert mirrors(pair) == ["mirror_all"]
    assert pair.told(CopyOwed) == [CopyOwed(store="secondary", reason="unreachable")]
    assert pair.store.health.copies == len(NAMES)
    pair.heal()
    assert landed(pair, *NAMES) == NAMES


def test_copies_whose_reply_was_lost_are_copied_again() -> None:
    pair = owing(*NAMES)
    pair.secondary.next_faults = ["lose the reply"]
    pair.after_response()
    assert landed(pair, *NAMES) == NAMES
    assert pair.store.health.copies == len(NAMES)
    pair.heal()
    assert pair.store.health.copies == 0
    assert pair.owed() == {}


# -- what is probably there --------------------------------------------------------------------------------------------


def test_what_was_there_before_the_first_of_several_writes_is_what_a_copy_of_all_guesses() -> None:
    copies, record = Copies(), a_record(AT).born(Version(1, 1))
    later = record.written(a_delta(AT, put={"a": "2"}), Version(1, 2))
    assert copies.add(KEY, record, 7).before is None
    assert copies.add(KEY, later, 0, before=record) == (later, 7, None)
    assert copies.add("other", later, 0, before=record).before == record
    last = later.written(a_delta(AT, put={"a": "3"}), Version(1, 3))
    assert copies.add("other", last, 0, before=later) == (last, 0, record)


def test_the_secondary_is_told_what_it_probably_holds() -> None:
    pair, told = owing(KEY), list[Record | None]()
    one = pair.secondary.store.mirror

    def mirror(name: str, record: Record, *, before: Record | None) -> Record:
        told.append(before)
        return one(name, record)

    vars(pair.secondary.store)["mirror"] = mirror
    record = pair.primary.held(KEY)
    assert record
    copy = pair.store._pair.copies.add("new", record, 0, before=record)
    run_blocking(pair.store._upkeep.copy("new", copy))
    assert told == [record]


# -- crowds ------------------------------------------------------------------------------------------------------------


class Counting(SQLStore):
    """Counts how often it is visited to copy, and how many copies it gets."""

    visits = records = 0

    async def mirror(self, key: str, record: Record, **options: Any) -> Record:
        self.visits, self.records = self.visits + 1, self.records + 1
        return await super().mirror(key, record, **options)

    async def mirror_all(self, records: Mapping[str, Record]) -> Rows:
        self.visits, self.records = self.visits + 1, self.records + len(records)
        return await super().mirror_all(records)


async def life(store: FailoverStore, name: str) -> None:
    version = await store.create(name, a_record(AT))
    await store.after_response()
    for turn in range(3):
        written = await store.update(name, a_delta(AT, base=version, put={"n": str(turn)}))
        assert written
        version = written.version
        await store.after_response()


def test_the_copies_of_a_crowd_of_tasks_share_their_transactions(sqlite_url: str) -> None:
    async def crowd() -> None:
        sql = Counting.from_url(sqlite_url, is_async=True, timeout=10.0)
        store = FailoverStore(MemoryStore(counts="r"), sql, on_event=quiet)
        await store.after_response()
        names = [key(f"t{number}") for number in range(64)]
        await asyncio.gather(*(life(store, name) for name in names))
        assert store.health.copies == 0
        assert {name: (await sql.peek(name) or a_record(AT)).values["n"] for name in names} == dict.fromkeys(names, "2")
        assert sql.visits < sql.records / 3
        await store.close()

    asyncio.run(crowd())


def test_the_copies_of_a_crowd_of_threads_all_land(sqlite_url: str) -> None:
    sql = Counting.from_url(sqlite_url, is_async=False, timeout=10.0)
    store = FailoverStore(MemoryStore(counts="r"), sql, on_event=quiet)
    run_blocking(store.after_response())
    names, ready = [key(f"t{number}") for number in range(64)], threading.Barrier(16)

    def work(number: int) -> None:
        ready.wait()
        for name in names[number::16]:
            run_blocking(life(store, name))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert store.health.copies == 0, "whoever was last has taken along what was left to it"
    for name in names:
        row = run_blocking(sql.peek(name))
        assert row
        assert row.values["n"] == "2"
    run_blocking(store.close())
