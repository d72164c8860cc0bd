"""What every store promises, in both colours: one set of test bodies over all of them."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from tests.servers import PostgresServer
from tests.stores import (
    IDLE,
    NEVER,
    SECONDARIES,
    STORES,
    SYSTEM_STORES,
    Subject,
    a_delta,
    a_record,
    a_tombstone,
    driven,
    emptied_database,
    key,
    now,
    running,
)
from vedsess_middleware.errors import SessionExists
from vedsess_middleware.stores.record import Field, Record, Version, merge

KEY, OTHER, THIRD = key("one"), key("other"), key("third")
TEXTS = {
    "unicode": '"Ünïcödé ✓ 𝄞 \\u0000 \u2028"',
    "läng ñame 𝄞 with:colons, spaces\nand lines": '"x"',
    "empty": '""',
    "long": '"' + "é" * 40_000 + '"',
    "nested": '{"a":[1,2.5,null,{"!tuple":[true]}],"1.2:x":"3.4:y"}',
    "": "0",
}


@pytest.fixture
def shared_database(postgres: PostgresServer) -> str:
    return emptied_database(postgres.start().url)


@pytest.fixture(params=[*STORES, *(pytest.param(name, marks=pytest.mark.system) for name in SYSTEM_STORES)])
def store(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with running((STORES | SYSTEM_STORES)[request.param](request)) as store:
        yield store


as_secondary = pytest.mark.parametrize("store", SECONDARIES, indirect=True)


def is_over(record: Record | None) -> bool:
    return record is None or record.gone


async def held(store: Subject, key: str, at: float, token: Version = Version()) -> Any:
    """What is stored, without recording a use."""
    return await store.load(key, at=at, refresh=NEVER, token=token)


async def until_few(store: Subject, *, left: int) -> float:
    """Wait for records of a few milliseconds to expire: Redis goes by its own clock.  Returns the time then."""
    while (await store.stats(at=(at := now()))).active > left:
        pass
    return at


# -- create and load ---------------------------------------------------------------------------------------------------


@driven
async def test_a_record_comes_back_whole_and_to_the_millisecond(store: Subject) -> None:
    at = now()
    record = a_record(
        at,
        fields=TEXTS,
        created_at=round(at - 1000.001, 3),
        updated_at=round(at - 0.001, 3),
        expires_at=round(at + 999.999, 3),
        idle_timeout=1234.567,
        user_id="ada ✓ @:{}*",
        session_fingerprint="f" * 64,
        user_agent="Firefox 140, on 'Linux' \\ \"x\"",
        ip_address="2001:db8::1",
    )
    version = await store.create(KEY, record)
    loaded = await held(store, KEY, at)
    assert loaded == record.born(version)
    assert loaded.values == TEXTS


@driven
async def test_a_record_without_anything_optional_comes_back_as_it_was(store: Subject) -> None:
    at = now()
    record = a_record(at, fields={})
    version = await store.create(KEY, record)
    assert await held(store, KEY, at) == record.born(version)


@driven
async def test_a_first_write_counts_one_and_stamps_every_field(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    assert sum(version) == 1
    assert (await held(store, KEY, at)).fields == {"a": Field(version, "1")}


@driven
async def test_a_record_that_has_a_version_keeps_it_and_its_stamps(store: Subject) -> None:
    at = now()
    fields = {"a": Field(Version(2, 9), "1"), "b": Field(Version(3, 1), None)}
    record = replace(a_record(at), version=Version(3, 9), fields=fields)
    assert await store.create(KEY, record) == (3, 9)
    assert await held(store, KEY, at) == record


@driven
async def test_create_never_overwrites_a_record(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": "1"}))
    with pytest.raises(SessionExists):
        await store.create(KEY, a_record(at, fields={"a": "2"}))
    assert (await held(store, KEY, at)).values == {"a": "1"}


@driven
async def test_create_never_overwrites_a_tombstone(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    with pytest.raises(SessionExists):
        await store.create(KEY, a_record(at))
    assert (await held(store, KEY, at)).gone


@driven
async def test_of_many_who_create_one_key_at_once_exactly_one_succeeds(store: Subject) -> None:
    at = now()

    async def create(number: int) -> int:
        await store.create(KEY, a_record(at, fields={"n": str(number)}))
        return number

    results = await store.together([partial(create, number) for number in range(6)])
    winners = [result for result in results if isinstance(result, int)]
    assert len(winners) == 1
    assert all(isinstance(result, SessionExists) for result in results if result not in winners)
    assert (await held(store, KEY, at)).values == {"n": str(winners[0])}


@driven
async def test_an_unknown_key_is_nothing(store: Subject) -> None:
    assert await store.load(KEY, at=now(), refresh=60.0) is None


@driven
async def test_a_loaded_record_says_which_store_served_it(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    raw = store.raw
    assert (await held(store, KEY, at)).served_by == getattr(raw, "primary", raw).name


@driven
async def test_a_record_that_nobody_used_in_time_is_over(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    assert is_over(await store.load(KEY, at=at + IDLE, refresh=60.0))
    assert await store.update(KEY, a_delta(at + IDLE, put={"b": "2"})) is None
    assert is_over(await store.load(KEY, at=at + IDLE, refresh=60.0))


@driven
async def test_a_record_is_there_until_the_last_millisecond(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    assert not is_over(await held(store, KEY, round(at + IDLE - 0.001, 3)))


@driven
async def test_a_use_is_recorded_when_it_is_due(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    used_at = round(at + 60.001, 3)
    loaded = await store.load(KEY, at=used_at, refresh=60.0)
    assert (loaded.last_activity, loaded.expires_at) == (used_at, round(used_at + IDLE, 3))
    await store.after_response()
    again = await held(store, KEY, at + 61.0)
    assert (again.last_activity, again.expires_at) == (loaded.last_activity, loaded.expires_at)
    assert again.version == loaded.version


@driven
async def test_a_use_is_not_recorded_before_it_is_due(store: Subject) -> None:
    at = now()
    await store.create(KEY, record := a_record(at))
    loaded = await store.load(KEY, at=at + 60.0, refresh=60.0)
    await store.after_response()
    for found in (loaded, await held(store, KEY, at + 60.0)):
        assert (found.last_activity, found.expires_at) == (at, record.expires_at)


@driven
async def test_no_use_extends_a_session_past_its_deadline(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, life=IDLE + 100.0))
    loaded = await store.load(KEY, at=at + 500.0, refresh=60.0)
    assert loaded.expires_at == loaded.deadline_at == round(at + IDLE + 100.0, 3)
    await store.update(KEY, a_delta(at + 900.0, put={"a": "2"}, base=loaded.version))
    assert (await held(store, KEY, at + 900.0)).expires_at == loaded.deadline_at
    assert is_over(await held(store, KEY, loaded.deadline_at))


@driven
async def test_a_record_that_the_browser_has_seen_more_of_is_stale(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    for token, stale in (
        (Version(), False),
        (version, False),
        (Version(version.s + 1, 0), True),
        (Version(0, 9), True),
    ):
        assert (await held(store, KEY, at, token)).stale is stale


@driven
async def test_a_tombstone_is_never_stale(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    record = await held(store, KEY, at, Version(9, 9))
    assert record.gone
    assert not record.stale


# -- update ------------------------------------------------------------------------------------------------------------


@driven
async def test_an_update_changes_what_it_names_and_nothing_else(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, record := a_record(at, fields={"a": "1", "b": "2", "c": "3"}, user_id="ada"))
    written = await store.update(KEY, a_delta(at + 5.0, base=version, put={"a": "9", "d": "4"}, drop=("b",)))
    stored = await held(store, KEY, at + 5.0)
    assert stored.values == {"a": "9", "c": "3", "d": "4"}
    assert (stored.version, stored.updated_at) == (written.version, at + 5.0)
    assert (stored.user_id, stored.created_at, stored.deadline_at) == ("ada", at, record.deadline_at)


@driven
async def test_an_update_stamps_what_it_wrote_and_remembers_what_it_deleted(store: Subject) -> None:
    at = now()
    first = await store.create(KEY, a_record(at, fields={"a": "1", "b": "2"}))
    second = (await store.update(KEY, a_delta(at, base=first, put={"a": "3"}, drop=("b",)))).version
    fields = {"a": Field(second, "3"), "b": Field(second, None)}
    assert (await held(store, KEY, at)).fields == fields


@driven
async def test_a_deletion_that_need_not_be_remembered_leaves_no_trace(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at, fields={"a": "1", "b": "2", "c": "3"}))
    version = (await store.update(KEY, a_delta(at, base=version, drop=("a", "b")))).version
    await store.update(KEY, a_delta(at, base=version, put={"c": "4"}, forget=("a", "b", "never there")))
    assert set((await held(store, KEY, at)).fields) == {"c"}


@driven
async def test_each_update_raises_the_version(store: Subject) -> None:
    at = now()
    versions = [await store.create(KEY, a_record(at))]
    for number in range(4):
        versions.append((await store.update(KEY, a_delta(at, base=versions[-1], put={"a": str(number)}))).version)
    assert all(after.covers(before) and after != before for before, after in pairwise(versions))
    assert (await held(store, KEY, at)).version == versions[-1]


@driven
async def test_an_update_counts_as_a_use(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    await store.update(KEY, a_delta(at + 100.0, base=version, put={"a": "2"}))
    record = await held(store, KEY, at + 100.0)
    assert (record.last_activity, record.expires_at) == (at + 100.0, round(at + 100.0 + IDLE, 3))


@driven
async def test_an_update_of_nothing_writes_nothing(store: Subject) -> None:
    at = now()
    assert await store.update(KEY, a_delta(at, put={"a": "1"})) is None
    assert await held(store, KEY, at) is None


@driven
async def test_an_update_never_brings_an_ended_session_back(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await held(store, KEY, at)
    await store.end([KEY], at=at, until=at + IDLE)
    assert (await store.update(KEY, a_delta(at, loaded=loaded, put={"a": "2"}))).gone
    assert (await held(store, KEY, at)).gone


@driven
async def test_a_repeated_update_changes_no_field(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at, fields={"a": "1", "b": "2"}))
    delta = a_delta(at, base=version, put={"a": "3"}, drop=("b",))
    await store.update(KEY, delta)
    written = await store.update(KEY, delta)
    record = await held(store, KEY, at)
    assert record.values == {"a": "3"}
    assert record.version == written.version


@driven
async def test_an_older_record_is_not_written_to_where_another_store_knows_more(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    ahead = [Version(version.s + 1, version.r), Version(version.s, version.r + 1)]
    written = [await store.update(KEY, a_delta(at, base=base, put={"a": "2"})) for base in ahead]
    if counts_r(store.raw):
        assert written == [None, None]
        assert (await held(store, KEY, at)).values == {"a": "1"}
    else:
        assert (await held(store, KEY, at, written[-1].version)).values == {"a": "2"}


def counts_r(store: Any) -> bool:
    return store.name == "redis" or getattr(store, "_counts", "") == "r"


@driven
async def test_a_record_that_has_taken_more_writes_than_the_browser_saw_is_written_to(store: Subject) -> None:
    at = now()
    first = await store.create(KEY, a_record(at))
    second = (await store.update(KEY, a_delta(at, base=first, put={"b": "2"}))).version
    base = first if counts_r(store.raw) else second
    assert await store.update(KEY, a_delta(at, base=base, put={"c": "3"})) is not None
    assert (await held(store, KEY, at)).values == {"a": "1", "b": "2", "c": "3"}


@driven
async def test_the_record_that_an_update_returns_is_the_one_that_is_stored(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": "1", "b": "2"}, user_id="ada"))
    loaded = await held(store, KEY, at)
    alone = await store.update(KEY, a_delta(at + 1.0, loaded=loaded, put={"a": "3"}, drop=("b",), whole=True))
    assert alone.record == await held(store, KEY, at + 1.0)
    beside = await store.update(KEY, a_delta(at + 2.0, loaded=loaded, put={"c": "4"}, whole=True))
    assert beside.record == await held(store, KEY, at + 2.0)
    unread = await store.update(KEY, a_delta(at + 3.0, base=beside.version, put={"d": "5"}, whole=True))
    assert unread.record == await held(store, KEY, at + 3.0)
    assert unread.record.values == {"a": "3", "c": "4", "d": "5"}


@driven
async def test_a_record_may_hold_five_hundred_fields(store: Subject) -> None:
    at = now()
    fields = {f"field {number}": str(number) for number in range(500)}
    version = await store.create(KEY, a_record(at, fields=fields))
    changed = {name: f"[{value}]" for name, value in fields.items()}
    await store.update(KEY, a_delta(at, base=version, put=changed))
    assert (await held(store, KEY, at)).values == changed


@driven
async def test_overlapping_updates_of_different_fields_lose_none(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await held(store, KEY, at)

    async def write(number: int) -> Any:
        return await store.update(KEY, a_delta(at, loaded=loaded, put={f"f{number}": str(number)}))

    written = await store.together([partial(write, number) for number in range(12)])
    record = await held(store, KEY, at)
    assert record.values == {"a": "1", **{f"f{number}": str(number) for number in range(12)}}
    assert len({each.version for each in written}) == 12


@driven
async def test_no_update_beside_a_logout_undoes_it(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await held(store, KEY, at)
    deltas = [a_delta(at, loaded=loaded, put={"a": str(number)}) for number in range(6)]
    works = [partial(store.update, KEY, delta) for delta in deltas]
    works.insert(3, partial(store.end, [KEY], at=at, until=at + IDLE))
    await store.together(works)
    assert (await held(store, KEY, at)).gone


# -- replace and end ---------------------------------------------------------------------------------------------------


@driven
async def test_a_replaced_session_goes_on_under_the_new_key_and_ends_under_the_old(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    record = a_record(at, fields={"b": "2"}, user_id="ada")
    version = await store.replace(KEY, OTHER, record, at=at, until=at + IDLE)
    assert await held(store, OTHER, at) == record.born(version)
    assert (await held(store, KEY, at)).gone
    assert set(await store.records_of("ada", at=at)) == {OTHER}


@driven
async def test_a_session_that_has_ended_is_not_replaced(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.end([KEY], at=at, until=at + IDLE)
    assert await store.replace(KEY, OTHER, a_record(at, user_id="ada"), at=at, until=at + IDLE) is None
    assert is_over(await held(store, OTHER, at))
    assert await store.records_of("ada", at=at) == {}


@driven
async def test_a_login_replaces_a_session_that_has_ended(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    record = a_record(at, user_id="ada")
    version = await store.replace(KEY, OTHER, record, at=at, until=at + IDLE, even_if_gone=True)
    assert await held(store, OTHER, at) == record.born(version)
    assert (await held(store, KEY, at)).gone


@driven
async def test_a_session_that_nobody_has_is_replaced_and_cannot_come_back(store: Subject) -> None:
    at = now()
    assert await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE) is not None
    assert not (await held(store, OTHER, at)).gone
    assert (await held(store, KEY, at)).gone


@driven
async def test_replacing_never_overwrites_what_has_the_new_key(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.create(OTHER, a_record(at, fields={"mine": "1"}))
    with pytest.raises(SessionExists):
        await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    assert (await held(store, OTHER, at)).values == {"mine": "1"}


@driven
async def test_end_leaves_a_tombstone_for_every_key_known_or_not(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.create(THIRD, a_record(at))
    assert await store.end([KEY, OTHER], at=at, until=at + IDLE) == [KEY, OTHER]
    for ended in (KEY, OTHER):
        record = await held(store, ended, at)
        assert (record.gone, record.updated_at, record.fields) == (True, at, {})
    assert not (await held(store, THIRD, at)).gone


@driven
async def test_ending_twice_is_ending_once(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.end([KEY], at=at, until=at + IDLE)
    assert await store.end([KEY], at=at + 5.0, until=at + IDLE) == [KEY]
    assert (await held(store, KEY, at)).updated_at == at


@driven
async def test_end_of_a_user_ends_each_of_the_users_sessions_but_the_kept_one(store: Subject) -> None:
    at = now()
    for name, user in ((KEY, "ada"), (OTHER, "ada"), (THIRD, "ada"), (key("bob"), "bob"), (key("anon"), None)):
        await store.create(name, a_record(at, user_id=user))
    ended = await store.end([], user_id="ada", keep=OTHER, at=at, until=at + IDLE)
    assert sorted(ended) == sorted([KEY, THIRD])
    assert set(await store.records_of("ada", at=at)) == {OTHER}
    keys = KEY, OTHER, THIRD, key("bob"), key("anon")
    lives = [not is_over(await held(store, name, at)) for name in keys]
    assert lives == [False, True, False, True, True]


@driven
async def test_end_of_a_user_names_no_session_that_had_ended_before(store: Subject) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada"))
    await store.end([KEY], at=at, until=at + IDLE)
    assert await store.end([], user_id="ada", at=at, until=at + IDLE) == [OTHER]
    assert await store.end([], user_id="ada", at=at, until=at + IDLE) == []


@driven
async def test_end_of_nothing_is_nothing(store: Subject) -> None:
    at = now()
    assert await store.end([], at=at, until=at + IDLE) == []
    assert await store.end([], user_id="nobody", at=at, until=at + IDLE) == []


@driven
async def test_a_tombstone_outlives_every_copy_of_its_session(store: Subject) -> None:
    at = now()
    await store.create(KEY, record := a_record(at))
    await store.end([KEY], at=at, until=at + 1.0)
    await store.cleanup(at=round(record.expires_at - 0.001, 3))
    assert (await held(store, KEY, round(record.expires_at - 0.001, 3))).gone


# -- merge -------------------------------------------------------------------------------------------------------------


def written_by(at: float, version: Version, **values: str | None) -> Record:
    """A record whose fields that version wrote."""
    return replace(a_record(at), version=version, fields={name: Field(version, v) for name, v in values.items()})


@driven
async def test_a_record_merged_into_nothing_is_stored_as_it_is(store: Subject) -> None:
    at = now()
    record = replace(written_by(at, Version(4, 2), a="1", b=None), user_id="ada", created_at=at - 5.0)
    assert await store.merge(KEY, record) == record
    assert await held(store, KEY, at) == record
    assert set(await store.records_of("ada", at=at)) == {KEY}


@driven
async def test_two_records_merge_field_by_field_and_the_result_is_stored(store: Subject) -> None:
    at = now()
    mine = written_by(at, Version(0, 2), both="1", mine="1", dropped=None)
    theirs = replace(written_by(at, Version(1, 1), both="2", theirs="3", dropped="4"), last_activity=at + 9.0)
    await store.merge(KEY, mine)
    assert await store.merge(KEY, theirs) == merge(mine, theirs)
    assert await held(store, KEY, at) == merge(mine, theirs)
    assert merge(mine, theirs).version == (1, 2)


@driven
async def test_a_late_or_repeated_merge_changes_nothing(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": "1"}))
    old = await held(store, KEY, at)
    await store.update(KEY, a_delta(at + 1.0, loaded=old, put={"a": "2"}, drop=("b",)))
    new = await held(store, KEY, at + 1.0)
    for copy in (old, new, old):
        assert await store.merge(KEY, copy) == new
    assert await held(store, KEY, at + 1.0) == new


@driven
async def test_a_tombstone_wins_whichever_comes_first(store: Subject) -> None:
    at = now()
    alive = written_by(at, Version(9, 9), a="1")
    await store.merge(KEY, alive)
    assert (await store.merge(KEY, a_tombstone(at))).gone
    await store.merge(OTHER, a_tombstone(at))
    assert (await store.merge(OTHER, alive)).gone
    for name in (KEY, OTHER):
        assert (await held(store, name, at)).gone


@driven
async def test_a_merged_tombstone_ends_the_session_for_its_user_too(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    await store.merge(KEY, a_tombstone(at))
    assert await store.records_of("ada", at=at) == {}
    assert (await store.stats(at=at)).active == 0


# -- users, counts, upkeep ---------------------------------------------------------------------------------------------


@driven
async def test_records_of_a_user_are_the_live_ones(store: Subject) -> None:
    at = now()
    first = a_record(at, user_id="ada", fields={"n": "1"})
    version = await store.create(KEY, first)
    await store.create(OTHER, a_record(at, user_id="ada", idle=10.0))
    await store.create(THIRD, a_record(at, user_id="ada"))
    await store.create(key("bob"), a_record(at, user_id="bob"))
    await store.end([THIRD], at=at, until=at + IDLE)
    assert await store.records_of("ada", at=at + 10.0) == {KEY: first.born(version)}
    assert await store.records_of("nobody", at=at) == {}


@driven
async def test_stats_count_live_sessions_and_their_users_exactly(store: Subject) -> None:
    at = now()
    for number in range(7):
        await store.create(key(f"n{number}"), a_record(at, user_id=("ada", "bob", None)[number % 3]))
    await store.end([key("n1"), key("n4"), key("new")], at=at, until=at + IDLE)
    stats = await store.stats(at=at)
    assert (stats.active, stats.users) == (5, 1)


@driven
async def test_stats_of_an_empty_store_are_zero(store: Subject) -> None:
    stats = await store.stats(at=now())
    assert (stats.active, stats.users) == (0, 0)


@driven
async def test_cleanup_removes_what_has_expired_and_leaves_the_rest(store: Subject) -> None:
    at = now()
    for number in range(3):
        await store.create(key(f"n{number}"), a_record(at, user_id="ada", idle=0.002))
    await store.create(KEY, a_record(at, user_id="ada"))
    later = await until_few(store, left=1)
    assert await store.cleanup(at=later) >= 3
    assert await store.cleanup(at=later) == 0
    assert set(await store.records_of("ada", at=later)) == {KEY}
    assert (await store.stats(at=later)).active == 1


@driven
async def test_a_closed_store_can_be_used_again(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.close()
    await store.update(KEY, a_delta(at, put={"b": "2"}, base=(await held(store, KEY, at)).version))
    assert (await held(store, KEY, at)).values == {"a": "1", "b": "2"}


@driven
async def test_nothing_is_due_after_a_response_that_did_nothing(store: Subject) -> None:
    await store.after_response()
    await store.after_response()
    assert not store.raw.pending


@driven
async def test_no_repr_shows_a_key_or_a_value(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": '"secret value"'}))
    loaded = await held(store, KEY, at)
    shown = repr(store.raw) + repr(loaded) + repr(a_delta(at, put={"a": '"secret value"'}))
    assert KEY not in shown
    assert "secret value" not in shown


# -- as a secondary ----------------------------------------------------------------------------------------------------


async def owed_to(store: Subject) -> dict[str, Record]:
    owed: dict[str, Record] = await store.owed(limit=100)
    return owed


@as_secondary
@driven
async def test_a_write_that_is_taken_over_is_owed(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    assert await owed_to(store) == {}
    written = await store.take_over(KEY, a_delta(at, base=version, put={"b": "2"}))
    assert written.version == (version.s + 1, version.r)
    assert await owed_to(store) == {KEY: written.record}
    assert written.record == await held(store, KEY, at)
    assert written.record.values == {"a": "1", "b": "2"}


@as_secondary
@driven
async def test_a_write_is_taken_over_with_what_its_request_had_loaded(store: Subject) -> None:
    at = now()
    loaded = replace(written_by(at, Version(0, 5), a="1", b="2"), user_id="ada")
    written = await store.take_over(KEY, a_delta(at, loaded=loaded, put={"b": "3"}))
    assert written.version == (1, 5)
    record = await held(store, KEY, at)
    assert record.fields == {"a": Field(Version(0, 5), "1"), "b": Field(Version(1, 5), "3")}
    assert record.user_id == "ada"


@as_secondary
@driven
async def test_what_the_request_had_loaded_is_merged_with_the_row(store: Subject) -> None:
    at = now()
    await store.merge(KEY, written_by(at, Version(2, 1), a="row", c="row"))
    loaded = written_by(at, Version(1, 4), a="copy", b="copy")
    written = await store.take_over(KEY, a_delta(at, loaded=loaded, put={"d": "new"}))
    assert written.version == (3, 4)
    assert written.record.values == {"a": "row", "b": "copy", "c": "row", "d": "new"}


@as_secondary
@driven
async def test_a_write_to_a_session_that_nobody_knows_is_not_taken_over(store: Subject) -> None:
    at = now()
    assert await store.take_over(KEY, a_delta(at, put={"a": "1"})) is None
    assert await held(store, KEY, at) is None


@as_secondary
@driven
async def test_a_write_to_an_ended_session_is_not_taken_over(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    assert (await store.take_over(KEY, a_delta(at, loaded=a_record(at), put={"a": "1"}))).gone
    assert (await held(store, KEY, at)).gone


@as_secondary
@driven
async def test_a_write_to_an_expired_session_is_not_taken_over(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    later = at + IDLE
    assert await store.take_over(KEY, a_delta(later, put={"a": "2"})) is None
    assert await store.take_over(KEY, a_delta(later, loaded=a_record(at), put={"a": "2"})) is None
    assert is_over(await held(store, KEY, later))


@as_secondary
@driven
async def test_a_session_in_use_elsewhere_is_taken_over_though_its_row_expired(
    store: Subject,
) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": "1"}))
    later = at + IDLE + 1.0
    loaded = a_record(at).born(Version(0, 1)).used(at + 900.0)
    assert (await store.take_over(KEY, a_delta(later, loaded=loaded, put={"b": "2"}))).version.s > 0
    assert (await held(store, KEY, later)).values == {"a": "1", "b": "2"}


@as_secondary
@driven
async def test_owed_records_are_merged_and_owed_until_paid(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": "1"}))
    await store.owe({KEY: written_by(at, Version(0, 7), b="2"), OTHER: a_tombstone(at)})
    owed = await owed_to(store)
    assert set(owed) == {KEY, OTHER}
    assert owed[KEY].values == {"a": "1", "b": "2"}
    assert owed[OTHER].gone
    await store.paid(KEY, owed[KEY].version)
    assert set(await owed_to(store)) == {OTHER}
    assert (await held(store, KEY, at)).values == {"a": "1", "b": "2"}


@as_secondary
@driven
async def test_a_record_that_was_written_meanwhile_stays_owed(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(0, 1), a="1")})
    seen = (await owed_to(store))[KEY].version
    await store.take_over(KEY, a_delta(at, base=seen, put={"b": "2"}))
    await store.paid(KEY, seen)
    await store.paid(KEY, seen, remove=True)
    assert (await owed_to(store))[KEY].values == {"a": "1", "b": "2"}


@as_secondary
@driven
async def test_a_paid_record_may_be_removed(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(1, 0), a="1")})
    await store.paid(KEY, Version(1, 0), remove=True)
    assert await held(store, KEY, at) is None
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_no_more_records_are_owed_at_a_time_than_asked_for(store: Subject) -> None:
    at = now()
    await store.owe({key(f"n{number}"): a_tombstone(at) for number in range(5)})
    assert len(await store.owed(limit=3)) == 3


@as_secondary
@driven
async def test_ordinary_writes_leave_a_record_owed_or_not_as_it_was(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(1, 0), a="1")})
    await store.update(KEY, a_delta(at, base=Version(1, 0), put={"a": "2"}))
    await store.merge(KEY, written_by(at, Version(0, 5), b="1"))
    assert set(await owed_to(store)) == {KEY}
    await store.merge(OTHER, replace(written_by(at, Version(0, 5), b="1"), dirty=True))
    await store.update(OTHER, a_delta(at, base=Version(0, 5), put={"a": "2"}))
    assert set(await owed_to(store)) == {KEY}


@as_secondary
@driven
async def test_a_noted_use_is_recorded_after_the_response(store: Subject) -> None:
    at = now()
    await store.create(KEY, record := a_record(at))
    store.raw.note_use(KEY, record.used(at + 100.0))
    store.raw.note_use(OTHER, record.used(at + 100.0))
    await store.after_response()
    stored = await held(store, KEY, at + 100.0)
    assert (stored.last_activity, stored.expires_at) == (at + 100.0, round(at + 100.0 + IDLE, 3))
    assert stored.version == record.born(stored.version).version
    assert await held(store, OTHER, at) is None


@as_secondary
@driven
async def test_a_noted_use_neither_goes_back_in_time_nor_revives_a_session(store: Subject) -> None:
    at = now()
    await store.create(KEY, record := a_record(at))
    await store.end([OTHER], at=at, until=at + IDLE)
    store.raw.note_use(KEY, replace(record, last_activity=at - 50.0, expires_at=at + 5.0))
    store.raw.note_use(OTHER, record.used(at + 100.0))
    await store.after_response()
    assert (await held(store, KEY, at)).expires_at == record.expires_at
    assert (await held(store, OTHER, at)).gone
