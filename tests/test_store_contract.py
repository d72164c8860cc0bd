"""What every store promises, in both colours: one set of test bodies over all of them."""

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from tests.stores import (
    IDLE,
    NEVER,
    ON_THE_SYSTEM,
    PRIMARIES,
    SECONDARIES,
    STORES,
    SYSTEM_STORES,
    Subject,
    a_delta,
    a_record,
    a_tombstone,
    driven,
    key,
    now,
    running,
)
from vedsess_middleware.errors import EpochMissing, SessionExists, SessionLimitReached
from vedsess_middleware.stores.contract import ENDED_WITHIN, RESERVED_FOR, Found, News
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Fence, Field, Origin, Record, Version, merge

KEY, OTHER, THIRD = key("one"), key("other"), key("third")
TEXTS = {
    "unicode": '"Ünïcödé ✓ 𝄞 \\u0000 \u2028"',
    "läng ñame 𝄞 with:colons, spaces\nand lines": '"x"',
    "empty": '""',
    "long": '"' + "é" * 40_000 + '"',
    "nested": '{"a":[1,2.5,null,{"!tuple":[true]}],"1.2:x":"3.4:y"}',
    "": "0",
}


@pytest.fixture(params=[*STORES, *ON_THE_SYSTEM])
def store(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with running((STORES | SYSTEM_STORES)[request.param](request)) as store:
        yield store


as_primary = pytest.mark.parametrize("store", PRIMARIES, indirect=True)
as_secondary = pytest.mark.parametrize("store", [*SECONDARIES, *ON_THE_SYSTEM], indirect=True)


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
    record = a_record(at).replace(version=Version(3, 9), fields=fields)
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
    await held(store, OTHER, at)  # two stores have agreed on their epoch then

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
    replaced = await store.replace(KEY, OTHER, record, at=at, until=at + IDLE)
    assert await held(store, OTHER, at) == record.born(replaced.version)
    assert (await held(store, KEY, at)).gone
    assert set(await store.records_of("ada", at=at)) == {OTHER}


@driven
async def test_what_others_wrote_past_the_caller_comes_back_when_a_session_is_replaced(store: Subject) -> None:
    at = now()
    known = await store.create(KEY, a_record(at))
    other = await store.update(KEY, a_delta(at, base=known, put={"b": "2"}, drop=("a",)))
    replaced = await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, known=known)
    assert replaced.missed.fields == {"a": Field(other.version, None), "b": Field(other.version, "2")}
    assert (await held(store, OTHER, at)).values == {"a": "1"}


@driven
async def test_nothing_comes_back_of_a_session_that_nobody_else_wrote_to(store: Subject) -> None:
    at = now()
    known = await store.create(KEY, a_record(at))
    replaced = await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, known=known)
    assert replaced.missed is None
    unknown = await store.replace(THIRD, key("new"), a_record(at), at=at, until=at + IDLE, known=Version(0, 1))
    assert unknown.missed is None


@driven
async def test_a_session_that_has_ended_is_not_replaced(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.end([KEY], at=at, until=at + IDLE)
    assert await store.replace(KEY, OTHER, a_record(at, user_id="ada"), at=at, until=at + IDLE) is None
    assert is_over(await held(store, OTHER, at))
    assert await store.records_of("ada", at=at) == {}


@driven
async def test_an_end_finds_a_session_that_has_gone_on_twice(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    await store.replace(OTHER, THIRD, a_record(at), at=at, until=at + IDLE)
    assert set(await store.end([KEY], at=at, until=at + IDLE)) == {KEY, OTHER, THIRD}
    assert is_over(await held(store, THIRD, at))


@driven
async def test_an_end_comes_to_an_end_although_tombstones_name_each_other(store: Subject) -> None:
    at = now()
    for name, successor in ((KEY, OTHER), (OTHER, KEY)):
        await store.merge(name, a_tombstone(at).replace(successor=successor))
    assert set(await store.end([KEY], at=at, until=at + IDLE)) >= {KEY}


@driven
async def test_a_login_replaces_a_session_that_has_ended(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    record = a_record(at, user_id="ada")
    replaced = await store.replace(KEY, OTHER, record, at=at, until=at + IDLE, even_if_gone=True)
    assert await held(store, OTHER, at) == record.born(replaced.version)
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


@pytest.mark.parametrize("store", ["memory-r", *SECONDARIES], indirect=True)
@driven
async def test_a_replacement_that_meets_a_taken_key_leaves_the_old_one_alive(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.create(OTHER, a_record(at, fields={"mine": "1"}))
    with pytest.raises(SessionExists):
        await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    assert not is_over(await held(store, KEY, at))


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
    return a_record(at).replace(version=version, fields={name: Field(version, v) for name, v in values.items()})


@driven
async def test_a_record_merged_into_nothing_is_stored_as_it_is(store: Subject) -> None:
    at = now()
    record = written_by(at, Version(4, 2), a="1", b=None).replace(user_id="ada", created_at=at - 5.0)
    assert await store.merge(KEY, record) == record
    assert await held(store, KEY, at) == record
    assert set(await store.records_of("ada", at=at)) == {KEY}


@driven
async def test_two_records_merge_field_by_field_and_the_result_is_stored(store: Subject) -> None:
    at = now()
    mine = written_by(at, Version(0, 2), both="1", mine="1", dropped=None)
    theirs = written_by(at, Version(1, 1), both="2", theirs="3", dropped="4").replace(last_activity=at + 9.0)
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
    await store.after_response()
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
async def test_a_record_that_was_merged_in_late_counts_no_longer_than_it_lives(store: Subject) -> None:
    at = now()
    record = a_record(at - 1000.0, user_id="ada").replace(expires_at=round(at + 0.005, 3))
    await store.merge(KEY, record.born(Version(1, 0)))
    while now() <= record.expires_at:
        pass
    stats = await store.stats(at=now())
    assert (stats.active, stats.users) == (0, 0)


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


# -- where a session comes from, and where it went ---------------------------------------------------------------------


def an_origin(at: float, family: str = "0f1e2d3c4b5a6978") -> str:
    """Where an id of now comes from."""
    return str(Origin(family=family, issued_at=at, authenticated_at=at - 5.0, in_browser=True, sealed=True))


@driven
async def test_a_record_comes_back_with_its_origin_and_its_name_at_an_identity_provider(store: Subject) -> None:
    at = now()
    record = a_record(at, user_id="ada", sid="sid ✓ @:{}*", origin=an_origin(at))
    version = await store.create(KEY, record)
    assert await held(store, KEY, at) == record.born(version)
    written = await store.update(KEY, a_delta(at, base=version, put={"b": "2"}, whole=True))
    for each in (written.record, await held(store, KEY, at)):
        assert (each.sid, each.origin) == (record.sid, record.origin)


@driven
async def test_the_tombstone_of_a_replaced_session_names_the_one_that_it_went_on_as(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.replace(KEY, OTHER, a_record(at, sid="s1", origin=an_origin(at)), at=at, until=at + IDLE)
    assert (await held(store, KEY, at)).goes_on == (OTHER, True)
    replaced = await held(store, OTHER, at)
    assert (replaced.sid, replaced.origin, replaced.successor) == ("s1", an_origin(at), "")
    await store.replace(THIRD, key("new"), a_record(at), at=at, until=at + IDLE)
    assert (await held(store, THIRD, at)).successor == key("new"), "also where nobody had the old one"


@driven
async def test_a_session_that_was_ended_went_on_as_nothing(store: Subject) -> None:
    at = now()
    for name in (KEY, THIRD):
        await store.create(name, a_record(at, user_id="ada"))
    await store.end([KEY, OTHER], user_id="ada", at=at, until=at + IDLE)
    assert [(await held(store, name, at)).successor for name in (KEY, OTHER, THIRD)] == ["", "", ""]


@driven
async def test_an_end_over_a_replaced_session_keeps_what_it_went_on_as(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    before = await held(store, KEY, at)
    await store.end([KEY], at=at + 5.0, until=at + IDLE)
    await store.replace(KEY, THIRD, a_record(at), at=at + 5.0, until=at + IDLE, even_if_gone=True)
    assert await held(store, KEY, at) == before
    assert before.successor == OTHER


@driven
async def test_a_login_over_a_session_that_had_ended_is_not_what_it_went_on_as(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, even_if_gone=True)
    assert (await held(store, KEY, at)).successor == ""


@driven
async def test_merging_keeps_where_a_session_comes_from(store: Subject) -> None:
    at = now()
    known = written_by(at, Version(0, 1), a="1").replace(sid="s1", origin=an_origin(at))
    unknown = written_by(at, Version(1, 0), b="1")
    for name, first, second in ((KEY, known, unknown), (OTHER, unknown, known)):
        await store.merge(name, first)
        assert await store.merge(name, second) == merge(known, unknown)
        record = await held(store, name, at)
        assert (record.sid, record.origin) == ("s1", an_origin(at))
    other = known.replace(sid="s2", origin=an_origin(at, "8796a5b4c3d2e1f0"))
    assert await store.merge(KEY, other) == merge(merge(known, unknown), other)


@driven
async def test_merging_keeps_what_a_session_went_on_as(store: Subject) -> None:
    at = now()
    replaced = a_tombstone(at).replace(successor=THIRD)
    others = written_by(at, Version(2, 0), a="1"), a_tombstone(at + 1.0, Version(0, 2))
    for name, other in zip((KEY, OTHER), others, strict=True):
        assert await store.merge(name, replaced) == replaced
        assert await store.merge(name, other) == await held(store, name, at) == merge(replaced, other)
        assert (await held(store, name, at)).successor == THIRD
    for name, other in zip((key("new"), key("newer")), others, strict=True):
        await store.merge(name, other)
        assert await store.merge(name, replaced) == await held(store, name, at) == merge(other, replaced)
        assert (await held(store, name, at)).successor == THIRD


@pytest.mark.parametrize("replaced", [True, False])
@driven
async def test_a_tombstone_outlives_a_copy_of_its_session_that_was_used_just_then(
    store: Subject, replaced: bool
) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    ended_at = round(at + 100.0, 3)
    if replaced:
        await store.replace(KEY, OTHER, a_record(ended_at), at=ended_at, until=ended_at + 1.0)
    else:
        await store.end([KEY], at=ended_at, until=ended_at + 1.0)
    assert (await held(store, KEY, ended_at)).expires_at >= round(ended_at + IDLE, 3)
    await store.cleanup(at=round(ended_at + IDLE - 0.001, 3))
    assert (await held(store, KEY, round(ended_at + IDLE - 0.001, 3))).gone


@driven
async def test_a_tombstone_is_kept_as_long_as_it_was_asked_to_be(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.end([KEY, OTHER], at=at, until=round(at + 2 * IDLE, 3))
    for name in (KEY, OTHER):
        assert (await held(store, name, at)).expires_at == round(at + 2 * IDLE, 3)


@driven
async def test_records_of_a_name_at_an_identity_provider_are_the_live_ones(store: Subject) -> None:
    at = now()
    first = a_record(at, user_id="ada", sid="s1 ✓ @:{}*")
    version = await store.create(KEY, first)
    await store.create(OTHER, a_record(at, user_id="bob", sid=first.sid, idle=10.0))
    await store.create(THIRD, a_record(at, user_id="ada", sid="s2"))
    await store.create(key("ended"), a_record(at, sid=first.sid))
    await store.create(key("none"), a_record(at, user_id=first.sid))
    await store.end([key("ended")], at=at, until=at + IDLE)
    assert set(await store.records_of(first.sid, at=at, by="sid")) == {KEY, OTHER}
    assert await store.records_of(first.sid, at=at + 10.0, by="sid") == {KEY: first.born(version)}
    assert set(await store.records_of("s2", at=at, by="sid")) == {THIRD}
    for nobody in ("", "ada", "s3"):
        assert await store.records_of(nobody, at=at, by="sid") == {}
    assert set(await store.records_of("ada", at=at, by="user")) == {KEY, THIRD}


@driven
async def test_a_session_is_listed_by_its_sid_from_wherever_it_comes(store: Subject) -> None:
    at = now()
    await store.merge(KEY, written_by(at, Version(1, 0), a="1").replace(sid="s1"))
    await store.replace(OTHER, THIRD, a_record(at, sid="s1"), at=at, until=at + IDLE)
    assert set(await store.records_of("s1", at=at, by="sid")) == {KEY, THIRD}
    await store.replace(KEY, key("new"), a_record(at, sid="s1"), at=at, until=at + IDLE)
    await store.merge(THIRD, a_tombstone(at))
    assert set(await store.records_of("s1", at=at, by="sid")) == {key("new")}


# -- what nobody may have written since --------------------------------------------------------------------------------


async def stamps(store: Subject, at: float) -> dict[str, Version]:
    """The stamps of all fields that are stored, or remembered as deleted."""
    return {name: item.stamp for name, item in (await held(store, KEY, at)).fields.items()}


async def told(store: Subject, at: float, **options: Any) -> Any:
    """What became of an update of the record as it is now."""
    return await store.update(KEY, a_delta(at, base=(await held(store, KEY, at)).version, **options))


@driven
async def test_a_field_that_was_expected_to_stay_and_did_is_written(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"a": "1", "b": "1", "läng ñame: 1.2": "1"}))
    expected = await stamps(store, at)
    del expected["b"]
    await told(store, at, put={"b": "2"})
    written = await told(store, at, put={"a": "3"}, expected=expected)
    assert (written.refused, written.conflict) == (False, ())
    assert written.version == (await held(store, KEY, at)).version
    assert (await held(store, KEY, at)).values == {"a": "3", "b": "2", "läng ñame: 1.2": "1"}


@driven
async def test_an_update_is_refused_where_another_has_written_what_was_to_stay(store: Subject) -> None:
    at = now()
    names = "a", "b", "läng ñame: 1.2", "d"
    await store.create(KEY, a_record(at, fields=dict.fromkeys(names, "1")))
    expected = await stamps(store, at)
    await told(store, at, put={"a": "2", "läng ñame: 1.2": "2"})
    before = await held(store, KEY, at)
    written = await told(store, at + 5.0, put={"a": "3", "e": "3"}, drop=("d",), forget=("b",), expected=expected)
    assert set(written.conflict) == {"a", "läng ñame: 1.2"}
    assert (written.refused, written.gone, written.unlocked) == (True, False, False)
    assert await held(store, KEY, at) == before


@driven
async def test_an_update_is_refused_where_a_field_has_come_or_gone_since(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, fields={"dropped": "1", "forgotten": "1", "stays": "1"}))
    expected = {**await stamps(store, at), "new": Version(), "dropped when new": Version()}
    await told(store, at, put={"new": "1", "dropped when new": "1"}, drop=("dropped", "forgotten"))
    await told(store, at, drop=("dropped when new",), forget=("forgotten",))
    before = await held(store, KEY, at)
    written = await told(store, at, put={"a": "2"}, expected=expected)
    assert set(written.conflict) == expected.keys() - {"stays"}
    assert await held(store, KEY, at) == before


@driven
async def test_where_a_field_never_was_none_is_expected(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    assert not (await told(store, at, put={"n": "1"}, expected={"n": Version(), "m": Version()})).refused
    assert (await told(store, at, put={"n": "2"}, expected={"n": Version()})).conflict == ("n",)
    assert (await held(store, KEY, at)).values == {"a": "1", "n": "1"}


@driven
async def test_a_field_that_was_deleted_may_be_expected_to_stay_so(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await told(store, at, drop=("a",))
    assert not (await told(store, at, put={"b": "1"}, expected=await stamps(store, at))).refused
    assert (await told(store, at, put={"b": "2"}, expected={"a": Version()})).conflict == ("a",)


@driven
async def test_a_repeat_of_an_update_that_was_written_is_no_conflict(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at, fields={"a": "1", "b": "1"}))
    expected = {**await stamps(store, at), "n": Version()}
    delta = a_delta(at, base=version, put={"a": "2", "n": "2"}, drop=("b",), expected=expected)
    for _ in range(2):
        assert not (await store.update(KEY, delta)).refused
        assert (await held(store, KEY, at)).values == {"a": "2", "n": "2"}


@driven
async def test_of_many_who_expect_the_same_field_to_stay_one_is_written(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await held(store, KEY, at)
    expected = await stamps(store, at)

    async def write(number: int) -> Any:
        return await store.update(KEY, a_delta(at, loaded=loaded, put={"a": str(number)}, expected=expected))

    written = await store.together([partial(write, number) for number in range(6)])
    assert sorted(each.conflict for each in written) == [(), *[("a",)] * 5]
    winner = [each.refused for each in written].index(False)
    assert (await held(store, KEY, at)).values == {"a": str(winner)}


@driven
async def test_what_was_expected_of_a_session_that_is_over_does_not_matter(store: Subject) -> None:
    at = now()
    expected = {"a": Version(7, 7)}
    assert await store.update(KEY, a_delta(at, put={"a": "2"}, expected=expected)) is None
    await store.create(KEY, a_record(at))
    assert await store.update(KEY, a_delta(at + IDLE, put={"a": "2"}, expected=expected)) is None
    await store.end([KEY], at=at, until=at + IDLE)
    written = await store.update(KEY, a_delta(at, put={"a": "2"}, expected=expected))
    assert (written.gone, written.conflict) == (True, ())


# -- places ------------------------------------------------------------------------------------------------------------


def reserving(store: Subject, name: str, *, at: float, **options: Any) -> Coroutine[Any, Any, list[str]]:
    """Reserve one of two places of Ada's."""
    user = options.pop("user", "ada")
    return store.reserve(user, name, at=at, **{"limit": 2, "deny": False, **options})


async def is_denied(store: Subject, name: str, *, at: float, **options: Any) -> bool:
    """Whether all places are taken, for those who would drive nobody out."""
    try:
        assert await reserving(store, name, at=at, deny=True, **options) == []
    except SessionLimitReached:
        return True
    return False


@driven
async def test_places_are_given_out_until_all_are_taken(store: Subject) -> None:
    at = now()
    for name in (KEY, OTHER):
        assert await reserving(store, name, at=at, deny=True) == []
        await store.create(name, a_record(at, user_id="ada"))
    with pytest.raises(SessionLimitReached) as raised:
        await reserving(store, THIRD, at=at, deny=True)
    assert not any(word in str(raised.value) for word in ("ada", KEY, OTHER, THIRD))
    assert not await is_denied(store, THIRD, at=at, limit=3)


@driven
async def test_who_is_denied_takes_no_place_and_drives_nobody_out(store: Subject) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada"))
    for _ in range(3):
        assert await is_denied(store, THIRD, at=at)
    assert set(await store.records_of("ada", at=at)) == {KEY, OTHER}
    await store.end([KEY], at=at, until=at + IDLE)
    assert not await is_denied(store, key("new"), at=at)


@driven
async def test_where_all_places_are_taken_whoever_ends_first_has_to_leave(store: Subject) -> None:
    at = now()
    for name, idle in ((KEY, 300.0), (OTHER, 100.0), (THIRD, 200.0)):
        await store.create(name, a_record(at, user_id="ada", idle=idle))
    assert await reserving(store, key("new"), at=at, limit=4) == []
    assert await reserving(store, key("new"), at=at, limit=3) == [OTHER]
    assert set(await reserving(store, key("new"), at=at, limit=2)) == {OTHER, THIRD}
    assert set(await reserving(store, key("new"), at=at, limit=1)) == {OTHER, THIRD, KEY}
    assert len(await store.records_of("ada", at=at)) == 3, "who has lost a place lives until the caller ends it"


@driven
async def test_a_session_that_was_used_later_stays_longer(store: Subject) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada"))
    await store.load(KEY, at=at + 100.0, refresh=60.0)
    await store.after_response()
    assert await reserving(store, THIRD, at=at + 100.0) == [OTHER]


@driven
async def test_a_place_is_taken_before_its_session_is_stored_and_not_twice_afterwards(store: Subject) -> None:
    at = now()
    assert await reserving(store, KEY, at=at, deny=True) == []
    assert await is_denied(store, THIRD, at=at, limit=1)
    await store.create(KEY, a_record(at, user_id="ada"))
    assert not await is_denied(store, OTHER, at=at)
    assert await is_denied(store, THIRD, at=at)


@driven
async def test_a_place_that_is_not_used_is_free_again(store: Subject) -> None:
    at = now()
    assert await reserving(store, KEY, at=at, limit=1) == []
    assert await is_denied(store, OTHER, at=round(at + RESERVED_FOR - 0.001, 3), limit=1)
    assert not await is_denied(store, OTHER, at=round(at + RESERVED_FOR, 3), limit=1)


@driven
async def test_a_place_is_kept_from_the_last_time_that_it_was_asked_for(store: Subject) -> None:
    at = now()
    for seconds in (0.0, 5.0):
        assert await reserving(store, KEY, at=at + seconds, limit=1, deny=True) == []
    assert await is_denied(store, OTHER, at=at + RESERVED_FOR, limit=1)


@driven
async def test_a_session_has_to_leave_before_one_that_is_about_to_be_stored(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    await reserving(store, OTHER, at=at)
    assert await reserving(store, THIRD, at=at + 1.0) == [KEY]
    await store.end([KEY], at=at + 1.0, until=at + IDLE)
    assert await reserving(store, key("new"), at=at + 2.0) == [OTHER], "and of those the one that has waited longest"


@driven
async def test_a_session_that_lost_its_place_before_it_was_stored_cannot_be_stored(store: Subject) -> None:
    at = now()
    await reserving(store, KEY, at=at, limit=1)
    lost = await reserving(store, OTHER, at=at, limit=1)
    assert lost == [KEY]
    await store.end(lost, at=at, until=at + IDLE)
    with pytest.raises(SessionExists):
        await store.create(KEY, a_record(at, user_id="ada"))
    await store.create(OTHER, a_record(at, user_id="ada"))
    assert set(await store.records_of("ada", at=at)) == {OTHER}
    assert not await is_denied(store, THIRD, at=at), "what has been ended takes no place"


@driven
async def test_a_place_that_is_asked_for_again_is_the_same_place(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    for _ in range(3):
        assert await reserving(store, OTHER, at=at, limit=1) == [KEY]
    assert await reserving(store, KEY, at=at, limit=1, deny=False) != [KEY], "nobody drives itself out"


@driven
async def test_sessions_that_are_over_take_no_place(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada", idle=5.0))
    await store.create(OTHER, a_record(at, user_id="ada"))
    assert await is_denied(store, THIRD, at=round(at + 4.999, 3))
    assert not await is_denied(store, THIRD, at=at + 5.0)
    await store.end([OTHER], at=at, until=at + IDLE)
    assert not await is_denied(store, key("new"), at=at + 5.0)


@driven
async def test_a_session_that_was_replaced_has_left_its_place_to_the_other_one(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    await store.replace(KEY, OTHER, a_record(at, user_id="ada"), at=at, until=at + IDLE)
    assert not await is_denied(store, THIRD, at=at)
    assert await is_denied(store, key("new"), at=at)


@driven
async def test_each_user_has_places_of_its_own(store: Subject) -> None:
    at = now()
    for name, user in ((KEY, "ada"), (OTHER, "bob"), (key("anon"), None)):
        await store.create(name, a_record(at, user_id=user))
    assert not await is_denied(store, THIRD, at=at)
    assert await is_denied(store, key("new"), at=at)
    assert not await is_denied(store, key("newer"), at=at, user="bob")


@driven
async def test_a_place_is_no_session(store: Subject) -> None:
    at = now()
    await reserving(store, KEY, at=at)
    assert await store.records_of("ada", at=at) == {}
    stats = await store.stats(at=at)
    assert (stats.active, stats.users) == (0, 0)
    assert await store.end([], user_id="ada", at=at, until=at + IDLE) == []
    assert await store.cleanup(at=at) == 0
    await store.create(OTHER, a_record(at, user_id="ada"))
    assert set(await store.records_of("ada", at=at)) == {OTHER}
    assert await is_denied(store, THIRD, at=at), "it was kept all the while"
    assert await store.create(KEY, a_record(at, user_id="ada"))


@driven
async def test_who_has_lost_a_place_counts_no_more_and_is_named_again_when_nobody_has_ended_it(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada", idle=100.0))
    await store.create(OTHER, a_record(at, user_id="ada"))
    reserving = partial(store.reserve, "ada", limit=2, deny=False)
    assert await reserving(key("n1"), at=at) == [KEY]
    assert await reserving(key("n1"), at=at) == [KEY], "a repeat names the same"
    assert await reserving(key("n2"), at=at + 0.5) == [OTHER]
    assert set(await reserving(key("n3"), at=at + 0.5 + ENDED_WITHIN)) == {KEY, OTHER, key("n1")}


@pytest.mark.parametrize("taken", [0, 3])
@driven
async def test_however_many_log_in_at_once_no_more_stay_than_there_are_places(store: Subject, taken: int) -> None:
    at = now()
    living = [key(f"old{number}") for number in range(taken)]
    for name in living:
        await store.create(name, a_record(at, user_id="ada"))
    names = [key(f"n{number}") for number in range(50)]
    answers = await store.together([partial(reserving, store, name, at=at, limit=3) for name in names])
    lost = {name for answer in answers for name in answer}
    assert lost >= set(living)
    assert len({*names} - lost) == 3


@driven
async def test_however_many_log_in_at_once_no_more_are_let_in_than_there_are_places(store: Subject) -> None:
    at = now()
    names = [key(f"n{number}") for number in range(12)]
    answers = await store.together([partial(reserving, store, name, at=at, limit=3, deny=True) for name in names])
    assert [answer for answer in answers if not isinstance(answer, SessionLimitReached)] == [[]] * 3


# -- cut off -----------------------------------------------------------------------------------------------------------


@driven
async def test_who_is_cut_off_has_no_session_left(store: Subject) -> None:
    at = now()
    for name, user in ((KEY, "ada"), (OTHER, "ada"), (THIRD, "bob"), (key("anon"), None)):
        await store.create(name, a_record(at, user_id=user))
    assert sorted(await store.cut_off("ada", at=at, until=at + IDLE)) == sorted([KEY, OTHER])
    assert await store.records_of("ada", at=at) == {}
    lives = [not is_over(await held(store, name, at)) for name in (KEY, OTHER, THIRD, key("anon"))]
    assert lives == [False, False, True, True]
    assert [(await held(store, name, at)).successor for name in (KEY, OTHER)] == ["", ""]


@driven
async def test_who_is_cut_off_may_log_in_again(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    await store.cut_off("ada", at=at, until=at + IDLE)
    await store.create(OTHER, a_record(at + 1.0, user_id="ada"))
    assert set(await store.records_of("ada", at=at + 1.0)) == {OTHER}
    assert await store.cut_off("nobody", at=at, until=at + IDLE) == []


# -- lock --------------------------------------------------------------------------------------------------------------


def locking(store: Subject, word: str, at: float, *, seconds: float = 5.0) -> Coroutine[Any, Any, Any]:
    """Try to lock the session for so many seconds."""
    return store.lock(KEY, word, at=at, until=round(at + seconds, 3))


@driven
async def test_a_lock_is_given_to_one_at_a_time(store: Subject) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at))
    fence = await locking(store, "one", at)
    assert fence.store == getattr(store.raw, "primary", store.raw).name
    assert await locking(store, "two", at) is None
    await store.unlock(KEY, fence)
    assert await locking(store, "two", at) is not None
    assert await store.lock(OTHER, "three", at=at, until=at + 5.0) is not None, "each session has its own"


@driven
async def test_each_lock_has_a_higher_number_than_any_before_it(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fences = []
    for number in range(5):
        fences.append(await locking(store, f"word{number}", at))
        await store.unlock(KEY, fences[-1])
    fences += [await locking(store, f"late{number}", at + 5.0 * number) for number in range(3)]  # none is given back
    numbers = [fence.number for fence in fences]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


@driven
async def test_a_repeat_with_the_same_word_gets_the_same_fence(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fence = await locking(store, "one", at)
    assert await locking(store, "one", at + 4.0) == fence
    assert await locking(store, "two", at + 8.0) is None, "held for as long as the repeat asked for"
    assert await locking(store, "two", at + 9.0) != fence


@driven
async def test_a_lock_that_is_not_given_back_is_free_when_its_time_is_over(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await locking(store, "one", at)
    assert await locking(store, "two", round(at + 4.999, 3)) is None
    assert await locking(store, "two", at + 5.0) is not None


@driven
async def test_a_lock_that_is_somebody_elses_is_not_given_back(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    old = await locking(store, "one", at)
    held_now = await locking(store, "two", at + 5.0)
    await store.unlock(KEY, old)
    await store.unlock(KEY, Fence("elsewhere", held_now.number))
    assert await locking(store, "three", at + 6.0) is None
    await store.unlock(KEY, held_now)
    await store.unlock(KEY, held_now)
    assert await locking(store, "three", at + 6.0) is not None


@driven
async def test_giving_back_what_nobody_has_leaves_nothing(store: Subject) -> None:
    at = now()
    await store.unlock(KEY, Fence(store.raw.name, 1))
    assert await held(store, KEY, at) is None
    await store.create(KEY, a_record(at))
    await store.unlock(KEY, Fence(store.raw.name, 1))
    assert await locking(store, "one", at) is not None


@driven
async def test_there_is_no_lock_without_a_live_session(store: Subject) -> None:
    at = now()
    assert await locking(store, "one", at) is None
    assert await held(store, KEY, at) is None
    await store.create(KEY, a_record(at))
    assert await locking(store, "one", at + IDLE) is None
    assert await locking(store, "one", at) is not None
    await store.end([KEY], at=at, until=at + IDLE)
    for word in ("one", "two"):
        assert await locking(store, word, at) is None
    assert (await held(store, KEY, at)).gone


@driven
async def test_a_lock_is_no_part_of_the_record_and_survives_its_writes(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    before = await held(store, KEY, at)
    await locking(store, "one", at)
    record = await held(store, KEY, at)
    assert record == before
    assert before.contains(record)
    await told(store, at, put={"b": "2"}, drop=("a",))
    await store.load(KEY, at=at + 1.0, refresh=0.5)
    await store.after_response()
    assert await locking(store, "two", at + 2.0) is None


@pytest.mark.parametrize("store", [*PRIMARIES, *SECONDARIES], indirect=True)
@driven
async def test_a_lock_survives_what_is_merged_in(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fence = await locking(store, "one", at)
    await store.merge(KEY, written_by(at, Version(5, 5), c="3"))
    assert await locking(store, "two", at) is None
    assert not (await told(store, at, put={"a": "2"}, fence=fence)).refused


@driven
async def test_of_many_who_want_a_lock_at_once_one_gets_it(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fences = await store.together([partial(locking, store, f"word{number}", at) for number in range(8)])
    assert len([fence for fence in fences if fence is not None]) == 1


@driven
async def test_who_holds_the_lock_may_write(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fence = await locking(store, "one", at)
    for seconds in (0.0, 4.999):
        written = await told(store, round(at + seconds, 3), put={"b": str(seconds)}, fence=fence)
        assert not written.refused
    assert (await held(store, KEY, at)).values == {"a": "1", "b": "4.999"}
    assert not (await told(store, at, put={"b": "1"})).refused, "who needs no lock asks for none"


@pytest.mark.parametrize(
    "lost", ["expired", "taken", "given back", "of another store", "never held", "of an old number"]
)
@driven
async def test_who_has_lost_the_lock_writes_nothing(store: Subject, lost: str) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fence = Fence(getattr(store.raw, "primary", store.raw).name, 1)
    written_at = at + 5.0 if lost in ("expired", "taken") else at
    if lost != "never held":
        fence = await locking(store, "one", at)
    if lost == "taken":
        await locking(store, "two", at + 5.0)
    if lost == "given back":
        await store.unlock(KEY, fence)
    if lost == "of another store":
        fence = Fence("elsewhere", fence.number)
    if lost == "of an old number":
        fence = Fence(fence.store, fence.number - 1)
    before = await held(store, KEY, at)
    written = await told(store, written_at, put={"b": "2"}, fence=fence)
    assert (written.unlocked, written.refused, written.gone, written.conflict) == (True, True, False, ())
    assert await held(store, KEY, at) == before


@driven
async def test_who_holds_the_lock_may_expect_a_field_to_stay_too(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fence, expected = await locking(store, "one", at), await stamps(store, at)
    assert not (await told(store, at, put={"a": "2"}, fence=fence, expected=expected)).refused
    assert (await told(store, at, put={"a": "3"}, fence=fence, expected=expected)).conflict == ("a",)
    assert (await told(store, at + 5.0, put={"a": "3"}, fence=fence, expected=expected)).unlocked
    assert (await held(store, KEY, at)).values == {"a": "2"}


@driven
async def test_the_lock_of_a_session_that_is_over_does_not_matter(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    fence = await locking(store, "one", at)
    await store.end([KEY], at=at, until=at + IDLE)
    written = await store.update(KEY, a_delta(at, put={"a": "2"}, fence=fence))
    assert (written.gone, written.unlocked) == (True, False)
    assert await store.update(OTHER, a_delta(at, put={"a": "2"}, fence=fence)) is None


# -- as a primary ------------------------------------------------------------------------------------------------------

ONE, TWO = "0f1e2d3c4b5a6978", "8796a5b4c3d2e1f0"
"""Two epochs."""


def under(store: Subject, epoch: str) -> Subject:
    """The same store under an epoch."""
    return Subject(store.raw.under(epoch), store.run)


async def installed(store: Subject, epoch: str = ONE) -> Subject:
    """The same store under an epoch that it knows."""
    view = under(store, epoch)
    await view.install()
    return view


async def forget_epochs(store: Subject) -> None:
    """What a restart that keeps the data does."""
    if isinstance(store.raw, MemoryStore):
        store.raw._installed.clear()
    else:
        await store.raw._wire.execute("SCRIPT FLUSH")


async def found(store: Subject, key: str, at: float, **options: Any) -> Found:
    """What is found, without recording a use."""
    answer = await store.find(key, at=at, refresh=NEVER, **options)
    assert isinstance(answer, Found)
    return answer


async def confirmed(store: Subject, *pairs: tuple[str, int]) -> dict[str, int]:
    """Confirm these copies, and return which are listed then."""
    for name, due in pairs:
        await store.confirm(name, due)
    await store.after_response()
    listed: dict[str, int] = await store.unconfirmed(limit=100)
    return listed


Call = Callable[[Subject, float], Coroutine[Any, Any, Any]]
FENCED: dict[str, Call] = {
    "ping": lambda view, _: view.ping(),
    "find": lambda view, at: view.find(KEY, at=at, refresh=60.0),
    "create": lambda view, at: view.create(THIRD, a_record(at, user_id="ada"), due=7),
    "update": lambda view, at: view.update(KEY, a_delta(at, base=Version(0, 1), put={"b": "2"}), due=7),
    "replace": lambda view, at: view.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, due=7),
    "end": lambda view, at: view.end([KEY], at=at, until=at + IDLE, due=7),
    "end of a user": lambda view, at: view.end([], user_id="ada", at=at, until=at + IDLE),
    "fill": lambda view, at: view.fill(KEY, a_record(at).born(Version(1, 0))),
    "fill with a tombstone": lambda view, at: view.fill(KEY, a_tombstone(at)),
    "unconfirmed": lambda view, _: view.unconfirmed(limit=10),
    "reserve": lambda view, at: view.reserve("ada", THIRD, limit=1, deny=False, at=at),
    "cut off": lambda view, at: view.cut_off("ada", at=at, until=at + IDLE),
    "cut off of nobody": lambda view, at: view.cut_off("nobody", at=at, until=at + IDLE),
    "lock": lambda view, at: view.lock(KEY, "word", at=at, until=at + 5.0),
}


@pytest.mark.parametrize("call", FENCED.values(), ids=FENCED)
@as_primary
@driven
async def test_whatever_is_asked_under_an_epoch_fails_where_it_is_not_installed(store: Subject, call: Call) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    before = await store.peek(KEY)
    await installed(store, TWO)
    view = under(store, ONE)
    with pytest.raises(EpochMissing):
        await call(view, at)
    await view.install()
    await call(view, at)
    await forget_epochs(store)
    with pytest.raises(EpochMissing) as raised:
        await call(view, at)
    assert raised.value.reason == "restarted"
    assert KEY not in str(raised.value)
    assert before is not None


@as_primary
@driven
async def test_a_write_under_an_epoch_that_is_missing_changes_no_record(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    before, view = await store.peek(KEY), under(store, ONE)
    changing = "find", "create", "update", "replace", "end", "fill", "fill with a tombstone", "cut off", "lock"
    for name in changing:
        with pytest.raises(EpochMissing):
            await FENCED[name](view, at + 100.0)
    assert await store.peek(KEY) == before
    assert [await store.peek(name) for name in (OTHER, THIRD)] == [None, None]


@as_primary
@driven
async def test_a_store_that_is_alone_needs_no_epoch(store: Subject) -> None:
    at = now()
    assert store.raw.epoch == ""
    await store.ping()
    await store.create(KEY, a_record(at))
    await forget_epochs(store)
    await store.ping()
    assert (await found(store, KEY, at)).hit


@as_primary
@driven
async def test_a_view_names_its_epoch_and_is_the_same_store_otherwise(store: Subject) -> None:
    view = under(store, ONE)
    assert (view.raw.epoch, store.raw.epoch) == (ONE, "")
    assert (view.raw.name, view.raw.is_async, view.raw.pending) == (store.raw.name, store.raw.is_async, False)
    assert view.raw.under(TWO).epoch == TWO


@as_primary
@driven
async def test_the_epoch_that_was_installed_last_is_named(store: Subject) -> None:
    names = [await store.installed()]
    for epoch in (ONE, TWO):
        await installed(store, epoch)
        names.append(await store.installed())
    assert names == ["", ONE, TWO]


@as_primary
@driven
async def test_an_epoch_stays_installed_beside_a_later_one(store: Subject) -> None:
    first, second = await installed(store, ONE), await installed(store, TWO)
    for view in (first, second, first):
        await view.ping()


# -- find


@as_primary
@driven
async def test_a_copy_of_the_epoch_that_covers_the_token_is_a_hit(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, record := a_record(at, user_id="ada"))
    for token in (Version(), version):
        answer = await found(view, KEY, at, token=token)
        assert (answer.record, answer.hit) == (record.born(version), True)
        assert answer.record
        assert (answer.record.served_by, answer.record.stale) == (store.raw.name, False)


@as_primary
@driven
async def test_a_copy_of_another_epoch_is_a_miss_that_shows_it(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    version = await first.create(KEY, record := a_record(at))
    answer = await found(second, KEY, at, token=version)
    assert (answer.record, answer.hit) == (record.born(version), False)
    assert answer.lease
    assert (await found(first, KEY, at, token=version)).hit


@as_primary
@driven
async def test_a_copy_from_before_any_epoch_is_a_miss_that_shows_it(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, record := a_record(at))
    answer = await found(await installed(store), KEY, at)
    assert (answer.record, answer.hit) == (record.born(version), False)


@as_primary
@driven
async def test_without_an_epoch_any_copy_counts(store: Subject) -> None:
    at = now()
    await (await installed(store)).create(KEY, a_record(at))
    await store.create(OTHER, a_record(at))
    for name in (KEY, OTHER):
        assert (await found(store, name, at)).hit


@as_primary
@driven
async def test_a_copy_that_does_not_cover_the_token_is_a_stale_miss(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, record := a_record(at))
    for token in (Version(1, 0), Version(0, 2), Version(1, 1)):
        answer = await found(view, KEY, at, token=token)
        assert (answer.record, answer.hit) == (record.born(version), False)
        assert answer.record
        assert answer.record.stale
        assert answer.lease


@as_primary
@driven
async def test_of_a_denied_key_only_a_tombstone_counts(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, record := a_record(at))
    answer = await found(view, KEY, at, denied=True)
    assert (answer.record, answer.hit) == (record.born(version), False)
    assert (await found(view, KEY, at)).hit
    await view.end([KEY], at=at, until=at + IDLE)
    answer = await found(view, KEY, at, denied=True)
    assert answer.record
    assert (answer.record.gone, answer.hit) == (True, False)


@as_primary
@driven
async def test_a_tombstone_counts_whatever_its_epoch_and_whatever_the_token(store: Subject) -> None:
    at = now()
    await store.end([KEY], at=at, until=at + IDLE)
    await (await installed(store, ONE)).end([OTHER], at=at, until=at + IDLE)
    view = await installed(store, TWO)
    for name in (KEY, OTHER):
        answer = await found(view, name, at, token=Version(9, 9), denied=True)
        assert answer.record
        assert (answer.record.gone, answer.record.stale, answer.hit) == (True, False, False)


@as_primary
@driven
async def test_a_copy_that_nobody_used_in_time_is_a_miss_that_shows_nothing(store: Subject) -> None:
    at, view = now(), await installed(store)
    await view.create(KEY, a_record(at))
    answer = await found(view, KEY, at + IDLE)
    assert (answer.record, answer.hit) == (None, False)


@as_primary
@driven
async def test_finding_records_a_use_when_it_is_due(store: Subject) -> None:
    at, view = now(), await installed(store)
    await view.create(KEY, record := a_record(at))
    answers = [await view.find(KEY, at=at + seconds, refresh=60.0) for seconds in (60.0, 61.0)]
    assert [answer.record.last_activity for answer in answers] == [at, at + 61.0]
    assert answers[1].record.expires_at == round(at + 61.0 + IDLE, 3)
    assert (await view.peek(KEY)).version == record.born(Version(0, 1)).version


@as_primary
@driven
async def test_peeking_shows_what_is_there_of_any_epoch_and_changes_nothing(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    await first.create(KEY, record := a_record(at))
    await first.end([OTHER], at=at, until=at + IDLE)
    for view in (first, second, store):
        assert await view.peek(KEY) == record.born(Version(0, 1))
        assert (await view.peek(OTHER)).gone
        assert await view.peek(THIRD) is None
    assert not store.raw.pending


# -- write under an epoch


@as_primary
@driven
async def test_a_copy_of_another_epoch_is_not_written_to(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    version = await first.create(KEY, record := a_record(at))
    assert await second.update(KEY, a_delta(at, base=version, put={"b": "2"})) is None
    assert await store.peek(KEY) == record.born(version)
    assert await first.update(KEY, a_delta(at, base=version, put={"b": "2"})) is not None


@as_primary
@driven
async def test_a_late_write_of_an_old_epoch_is_refused_once_the_copy_is_of_a_new_one(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    version = await first.create(KEY, record := a_record(at))
    await second.fill(KEY, record.born(version))
    assert await first.update(KEY, a_delta(at, base=version, put={"b": "2"})) is None
    assert (await found(second, KEY, at)).record == record.born(version)


@as_primary
@driven
async def test_an_ended_session_is_gone_for_the_writes_of_every_epoch(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    await first.create(KEY, a_record(at))
    await first.end([KEY], at=at, until=at + IDLE)
    assert (await second.update(KEY, a_delta(at, put={"b": "2"}))).gone


@as_primary
@driven
async def test_what_is_written_under_an_epoch_is_of_that_epoch(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, a_record(at))
    assert (await found(view, KEY, at)).hit
    await view.update(KEY, a_delta(at, base=version, put={"b": "2"}))
    assert (await found(view, KEY, at)).hit
    await view.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    assert (await found(view, OTHER, at)).hit
    await view.merge(THIRD, a_record(at).born(Version(1, 0)))
    assert (await found(view, THIRD, at)).hit


# -- fill


@as_primary
@driven
async def test_who_has_missed_something_may_fill_it(store: Subject) -> None:
    at, view = now(), await installed(store)
    row = written_by(at, Version(3, 4), a="1", b=None).replace(user_id="ada")
    answer = await found(view, KEY, at)
    assert (answer.record, answer.hit) == (None, False)
    assert await view.fill(KEY, row, lease=answer.lease) == row
    answer = await found(view, KEY, at, token=row.version)
    assert (answer.record, answer.hit) == (row, True)
    assert set(await store.records_of("ada", at=at)) == {KEY}


@as_primary
@driven
async def test_nothing_is_filled_without_the_lease(store: Subject) -> None:
    at, view = now(), await installed(store)
    row = written_by(at, Version(3, 4), a="1")
    assert await view.fill(KEY, row) is None
    assert await view.fill(KEY, row, lease="made up") is None
    await found(view, OTHER, at)
    assert await view.fill(OTHER, row) is None
    await found(view, THIRD, at)
    assert await view.fill(THIRD, row, lease="made up") is None
    assert [await view.peek(name) for name in (KEY, OTHER, THIRD)] == [None] * 3


@as_primary
@driven
async def test_a_second_miss_takes_the_lease_away(store: Subject) -> None:
    at, view = now(), await installed(store)
    early, late = written_by(at, Version(1, 0), a="old"), written_by(at, Version(2, 0), a="new")
    first, second = await found(view, KEY, at), await found(view, KEY, at)
    assert await view.fill(KEY, late, lease=second.lease) == late
    assert await view.fill(KEY, early, lease=first.lease) == late
    first = await found(view, OTHER, at)
    await found(view, OTHER, at)
    assert await view.fill(OTHER, early, lease=first.lease) is None
    assert await view.peek(OTHER) is None


@as_primary
@driven
async def test_a_lease_on_one_key_is_none_on_another(store: Subject) -> None:
    at, view = now(), await installed(store)
    leases = [(await found(view, name, at)).lease for name in (KEY, OTHER)]
    assert await view.fill(OTHER, written_by(at, Version(1, 0), a="1"), lease=leases[0]) is None
    assert leases[0] != leases[1]


@as_primary
@driven
async def test_who_brings_what_is_owed_creates_nothing_and_voids_the_lease(store: Subject) -> None:
    at, view = now(), await installed(store)
    answer = await found(view, KEY, at)
    assert await view.fill(KEY, written_by(at, Version(2, 0), a="new")) is None
    assert await view.fill(KEY, written_by(at, Version(1, 0), a="old"), lease=answer.lease) is None
    assert await view.peek(KEY) is None
    answer = await found(view, KEY, at)
    assert await view.fill(KEY, row := written_by(at, Version(2, 0), a="new"), lease=answer.lease) == row


@pytest.mark.parametrize("leased", [True, False])
@as_primary
@driven
async def test_what_is_filled_in_is_merged_with_a_copy_of_any_epoch_and_makes_it_current(
    store: Subject, leased: bool
) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    copy = written_by(at, Version(1, 4), a="copy", b="copy")
    await first.merge(KEY, copy)
    await store.merge(OTHER, copy)
    row = written_by(at, Version(2, 1), a="row", c="row")
    for name in (KEY, OTHER):
        lease = (await found(second, name, at)).lease if leased else ""
        assert await second.fill(name, row, lease=lease) == merge(copy, row)
        answer = await found(second, name, at, token=Version(2, 4))
        assert (answer.record, answer.hit) == (merge(copy, row), True)
        assert not (await found(first, name, at)).hit


@as_primary
@driven
async def test_filling_in_what_is_known_changes_only_whose_copy_it_is(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    copy = written_by(at, Version(1, 4), a="new")
    await first.merge(KEY, copy)
    assert await second.fill(KEY, written_by(at, Version(1, 1), a="old")) == copy
    assert (await found(second, KEY, at)).record == copy


@as_primary
@driven
async def test_a_filled_copy_is_written_to_as_any_other(store: Subject) -> None:
    at, view = now(), await installed(store)
    row = written_by(at, Version(3, 4), a="1")
    await view.fill(KEY, row, lease=(await found(view, KEY, at)).lease)
    written = await view.update(KEY, a_delta(at, loaded=row, put={"b": "2"}, whole=True))
    assert written.version == (3, 5)
    assert written.record == (await found(view, KEY, at)).record


@as_primary
@driven
async def test_a_tombstone_is_always_written_and_always_stays(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    await first.create(KEY, a_record(at, user_id="ada"))
    lease = (await found(second, OTHER, at)).lease
    for name in (KEY, OTHER, THIRD):
        assert (await second.fill(name, a_tombstone(at))).gone
    assert (await first.fill(OTHER, written_by(at, Version(9, 9), a="1"), lease=lease)).gone
    for name in (KEY, OTHER, THIRD):
        assert (await second.fill(name, written_by(at, Version(9, 9), a="1"))).gone
        with pytest.raises(SessionExists):
            await second.create(name, a_record(at))
        for view in (first, second, store):
            answer = await found(view, name, at)
            assert answer.record
            assert answer.record.gone
    assert await store.records_of("ada", at=at) == {}
    assert (await store.stats(at=at)).active == 0


# -- the place that a lease is on


@as_primary
@driven
async def test_a_lease_where_nothing_is_makes_no_record(store: Subject) -> None:
    at, view = now(), await installed(store)
    assert (await found(view, KEY, at)).lease
    for each in (view, store):
        assert await each.load(KEY, at=at, refresh=60.0) is None
        assert await each.peek(KEY) is None
        assert await each.update(KEY, a_delta(at, put={"b": "2"})) is None
    assert (await found(view, KEY, at)).record is None
    stats = await store.stats(at=at)
    assert (stats.active, stats.users) == (0, 0)
    assert await store.cleanup(at=at) == 0
    assert await store.peek(KEY) is None


@as_primary
@driven
async def test_a_lease_where_nothing_is_takes_no_key(store: Subject) -> None:
    at, view = now(), await installed(store)
    await found(view, KEY, at)
    assert await view.create(KEY, record := a_record(at)) == (0, 1)
    assert (await found(view, KEY, at)).record == record.born(Version(0, 1))


@as_primary
@driven
async def test_a_session_that_is_ended_where_only_a_lease_is_leaves_a_tombstone(store: Subject) -> None:
    at, view = now(), await installed(store)
    lease = (await found(view, KEY, at)).lease
    assert await view.end([KEY], at=at, until=at + IDLE) == [KEY]
    assert (await view.fill(KEY, written_by(at, Version(1, 0), a="1"), lease=lease)).gone
    assert (await view.peek(KEY)).gone


# -- what is asked for beside a write


@as_primary
@driven
async def test_a_copy_that_may_not_be_written_to_says_nothing_of_what_was_expected(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    version = await first.create(KEY, a_record(at))
    guards: dict[str, Any] = {"expected": {"a": Version(7, 7)}, "fence": Fence(store.raw.name, 1)}
    assert await second.update(KEY, a_delta(at, base=version, put={"a": "2"}, **guards)) is None
    assert await first.update(KEY, a_delta(at, base=Version(0, 9), put={"a": "2"}, **guards)) is None
    assert (await first.update(KEY, a_delta(at, base=version, put={"a": "2"}, **guards))).unlocked


@as_primary
@driven
async def test_an_update_that_is_refused_under_an_epoch_leaves_the_copy_as_it_was(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, record := a_record(at))
    assert (await view.update(KEY, a_delta(at, base=version, put={"a": "2"}, expected={"a": Version()}))).conflict
    assert (await found(view, KEY, at)).record == record.born(version)


@as_primary
@driven
async def test_a_lock_holds_under_every_epoch_that_is_installed(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    version = await first.create(KEY, a_record(at))
    fence = await locking(first, "one", at)
    assert fence is not None
    assert await locking(second, "two", at) is None
    assert not (await first.update(KEY, a_delta(at, base=version, put={"a": "2"}, fence=fence))).refused
    await first.unlock(KEY, fence)
    assert await locking(first, "two", at) is not None


@as_primary
@driven
async def test_what_is_filled_in_comes_with_its_names_and_its_successor(store: Subject) -> None:
    at, view = now(), await installed(store)
    row = written_by(at, Version(3, 4), a="1").replace(user_id="ada", sid="s1", origin=an_origin(at))
    assert await view.fill(KEY, row, lease=(await found(view, KEY, at)).lease) == row
    assert (await found(view, KEY, at)).record == await view.peek(KEY) == row
    assert set(await view.records_of("s1", at=at, by="sid")) == {KEY}
    replaced = a_tombstone(at).replace(successor=THIRD)
    assert await view.fill(OTHER, replaced) == await view.peek(OTHER) == replaced
    assert (await found(view, OTHER, at)).record == replaced


@as_primary
@driven
async def test_places_are_the_same_under_every_epoch_that_is_installed(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    await first.create(KEY, a_record(at, user_id="ada"))
    assert await reserving(first, OTHER, at=at) == []
    assert await reserving(second, THIRD, at=at) == [KEY]
    assert await is_denied(store, key("new"), at=at)


# -- what is due


@as_primary
@driven
async def test_every_write_lists_what_is_due(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, a_record(at), due=11)
    assert await view.unconfirmed(limit=10) == {KEY: 11}
    await view.update(KEY, a_delta(at, base=version, put={"b": "2"}), due=12)
    assert await view.unconfirmed(limit=10) == {KEY: 12}
    await view.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, due=13)
    assert await view.unconfirmed(limit=10) == {KEY: 13, OTHER: 13}
    assert await view.end([OTHER, THIRD], at=at, until=at + IDLE, due=14) == [OTHER, THIRD]
    assert await view.unconfirmed(limit=10) == {KEY: 13, OTHER: 14, THIRD: 14}


@as_primary
@driven
async def test_what_is_not_due_is_not_listed(store: Subject) -> None:
    at, view = now(), await installed(store)
    version = await view.create(KEY, a_record(at))
    await view.update(KEY, a_delta(at, base=version, put={"b": "2"}))
    await view.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    await view.end([OTHER], at=at, until=at + IDLE)
    await view.end([], at=at, until=at + IDLE, due=5)
    await view.fill(THIRD, a_tombstone(at))
    assert await view.unconfirmed(limit=10) == {}


@as_primary
@driven
async def test_the_end_of_all_sessions_of_a_user_is_due_for_each(store: Subject) -> None:
    at, view = now(), await installed(store)
    for name in (KEY, OTHER, THIRD):
        await view.create(name, a_record(at, user_id="ada"))
    await view.end([], user_id="ada", keep=OTHER, at=at, until=at + IDLE, due=5)
    assert await view.unconfirmed(limit=10) == {KEY: 5, THIRD: 5}


@as_primary
@driven
async def test_what_waits_longest_comes_first_and_no_more_than_asked_for(store: Subject) -> None:
    at, view = now(), await installed(store)
    start = int(at * 1000) * 1000  # as large as real ones
    waiting = {key(f"n{number}"): start + number for number in (5, 1, 4, 2, 3)}
    for name, due in waiting.items():
        await view.create(name, a_record(at), due=due)
    ordered = sorted(waiting.items(), key=lambda item: item[1])
    assert list((await view.unconfirmed(limit=10)).items()) == ordered
    assert list((await view.unconfirmed(limit=2)).items()) == ordered[:2]


@as_primary
@driven
async def test_a_confirmed_copy_is_listed_no_longer(store: Subject) -> None:
    at, view = now(), await installed(store)
    start = int(at * 1000) * 1000
    for number, name in enumerate((KEY, OTHER, THIRD)):
        await view.create(name, a_record(at), due=start + number)
    assert await confirmed(view, (KEY, start), (THIRD, start + 2)) == {OTHER: start + 1}
    assert not store.raw.pending
    assert await confirmed(view, (KEY, start)) == {OTHER: start + 1}


@as_primary
@driven
async def test_a_copy_that_became_due_again_stays_listed(store: Subject) -> None:
    at, view = now(), await installed(store)
    start = int(at * 1000) * 1000
    version = await view.create(KEY, a_record(at), due=start)
    await view.update(KEY, a_delta(at, base=version, put={"b": "2"}), due=start + 1)
    assert await confirmed(view, (KEY, start)) == {KEY: start + 1}
    assert await confirmed(view, (KEY, start + 2)) == {KEY: start + 1}
    assert await confirmed(view, (KEY, start + 1)) == {}


@as_primary
@driven
async def test_a_copy_may_be_confirmed_through_the_store_or_through_a_view_of_it(store: Subject) -> None:
    at, view = now(), await installed(store)
    for name in (KEY, OTHER):
        await view.create(name, a_record(at), due=7)
    await store.confirm(KEY, 7)
    await view.confirm(OTHER, 7)
    await view.after_response()
    assert await view.unconfirmed(limit=10) == {}


@as_primary
@driven
async def test_what_is_due_is_listed_for_every_epoch(store: Subject) -> None:
    at = now()
    first, second = await installed(store, ONE), await installed(store, TWO)
    await first.create(KEY, a_record(at), due=7)
    assert await second.unconfirmed(limit=10) == {KEY: 7}
    assert await confirmed(second, (KEY, 7)) == {}


# -- as a secondary ----------------------------------------------------------------------------------------------------


async def owed_to(store: Subject) -> dict[str, Record]:
    """All that is owed."""
    news = await store.poll()
    owed: dict[str, Record] = await store.owed(news.dirty)
    assert set(owed) == news.dirty
    assert all(record.dirty for record in owed.values())
    return owed


async def pay(store: Subject, key: str, version: Version, *, epoch: str = "") -> None:
    """Say that the primary holds what is owed at this version."""
    record = (await owed_to(store)).get(key)
    await store.paid(key, version, record=record or a_record(now()), epoch=epoch)


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
    loaded = written_by(at, Version(0, 5), a="1", b="2").replace(user_id="ada")
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
    await store.paid(KEY, owed[KEY].version, record=owed[KEY], epoch="")
    assert set(await owed_to(store)) == {OTHER}
    assert (await held(store, KEY, at)).values == {"a": "1", "b": "2"}
    assert not (await held(store, KEY, at)).dirty
    await store.paid(OTHER, owed[OTHER].version, record=owed[OTHER], epoch="")
    assert await owed_to(store) == {}
    assert (await held(store, OTHER, at)).gone


@as_secondary
@driven
async def test_a_record_that_was_written_meanwhile_stays_owed(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(0, 1), a="1")})
    seen = (await owed_to(store))[KEY].version
    await store.take_over(KEY, a_delta(at, base=seen, put={"b": "2"}))
    await pay(store, KEY, seen)
    await store.forget(KEY, seen)
    assert (await owed_to(store))[KEY].values == {"a": "1", "b": "2"}


@as_secondary
@driven
async def test_a_paid_record_is_what_the_primary_holds(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(2, 0), a="row")})
    copy = written_by(at, Version(2, 5), a="row", b="copy", c=None).replace(user_id="ada")
    await store.paid(KEY, Version(2, 0), record=copy, epoch="")
    assert await held(store, KEY, at) == copy
    assert set(await store.records_of("ada", at=at)) == {KEY}
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_a_record_is_paid_only_under_the_epoch_that_counts(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(2, 0), a="row")})
    await pay(store, KEY, Version(2, 0), epoch="one")
    assert set(await owed_to(store)) == {KEY}
    await store.set_epoch("one", missing="")
    await store.set_epoch("two", missing="one")
    copy = written_by(at, Version(2, 5), a="copy")
    await store.paid(KEY, Version(2, 0), record=copy, epoch="one")
    assert (await owed_to(store))[KEY].values == {"a": "row"}
    await store.paid(KEY, Version(2, 0), record=copy, epoch="two")
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_nothing_is_paid_of_what_is_not_there(store: Subject) -> None:
    at = now()
    await store.paid(KEY, Version(1, 0), record=a_record(at), epoch="")
    assert await held(store, KEY, at) is None


@as_secondary
@driven
async def test_a_record_that_the_primary_has_may_be_forgotten(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(1, 0), a="1")})
    await store.create(OTHER, a_record(at))
    for name in (KEY, OTHER):
        await store.forget(name, Version(1, 0))
        assert await held(store, name, at) is None
    await store.forget(THIRD, Version(1, 0))
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_only_what_is_asked_for_and_owed_is_returned(store: Subject) -> None:
    at = now()
    names = [key(f"n{number}") for number in range(5)]
    await store.owe({name: a_tombstone(at) for name in names})
    await store.create(KEY, a_record(at))
    for asked in ([*names[:2], KEY, OTHER], {*names[:2]}, frozenset(names[:2]), tuple(names[:2])):
        assert set(await store.owed(asked)) == set(names[:2])
    assert await store.owed([]) == {}


@as_secondary
@driven
async def test_ordinary_writes_leave_a_record_owed_or_not_as_it_was(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(1, 0), a="1")})
    await store.update(KEY, a_delta(at, base=Version(1, 0), put={"a": "2"}))
    await store.merge(KEY, written_by(at, Version(0, 5), b="1"))
    assert set(await owed_to(store)) == {KEY}
    await store.merge(OTHER, written_by(at, Version(0, 5), b="1").replace(dirty=True))
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
    store.raw.note_use(KEY, record.replace(last_activity=at - 50.0, expires_at=at + 5.0))
    store.raw.note_use(OTHER, record.used(at + 100.0))
    await store.after_response()
    assert (await held(store, KEY, at)).expires_at == record.expires_at
    assert (await held(store, OTHER, at)).gone


@as_secondary
@driven
async def test_an_end_is_owed_where_that_is_asked_for(store: Subject) -> None:
    at = now()
    for name in (KEY, key("clean")):
        await store.create(name, a_record(at, user_id="ada"))
    await store.create(OTHER, a_record(at, user_id="bob"))
    assert await store.end([KEY, THIRD], user_id="bob", at=at, until=at + IDLE, dirty=True) == [KEY, THIRD, OTHER]
    await store.end([key("clean")], at=at, until=at + IDLE)
    owed = await owed_to(store)
    assert set(owed) == {KEY, OTHER, THIRD}
    assert all(record.gone for record in owed.values())
    await store.end([KEY], at=at, until=at + IDLE)
    assert set(await owed_to(store)) == {KEY, OTHER, THIRD}


@as_secondary
@driven
async def test_the_end_of_what_is_owed_is_owed(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(1, 3), a="1")})
    await store.end([KEY], at=at, until=at + IDLE)
    owed = (await owed_to(store))[KEY]
    assert (owed.gone, owed.version) == (True, (2, 3))


@as_secondary
@driven
async def test_of_a_replacement_the_tombstone_is_owed_where_that_is_asked_for(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, dirty=True)
    assert set(owed := await owed_to(store)) == {KEY}
    assert owed[KEY].gone
    await store.replace(OTHER, THIRD, a_record(at), at=at, until=at + IDLE)
    assert set(await owed_to(store)) == {KEY}


# -- what is asked for beside a write


@as_secondary
@driven
async def test_a_write_is_not_taken_over_where_another_has_written_what_was_to_stay(store: Subject) -> None:
    at = now()
    await store.merge(KEY, written_by(at, Version(2, 1), a="row", b="row"))
    loaded = written_by(at, Version(1, 4), a="copy", c="copy")
    expected = {"a": Version(1, 4), "b": Version(), "c": Version(1, 4), "d": Version()}
    refused = await store.take_over(KEY, a_delta(at, loaded=loaded, put={"a": "3"}, expected=expected))
    assert set(refused.conflict) == {"a", "b"}
    assert refused.refused
    assert (await held(store, KEY, at)).values.get("a") == "row"
    assert await owed_to(store) == {}
    expected = {"a": Version(2, 1), "c": Version(1, 4), "d": Version()}
    written = await store.take_over(KEY, a_delta(at, loaded=loaded, put={"a": "3"}, expected=expected))
    assert not written.refused
    assert (await held(store, KEY, at)).values == {"a": "3", "b": "row", "c": "copy"}


@as_secondary
@driven
async def test_a_write_is_taken_over_while_its_lock_is_held_here(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    fence = await locking(store, "one", at)
    for lost in (Fence("elsewhere", fence.number), Fence(fence.store, fence.number + 1)):
        assert (await store.take_over(KEY, a_delta(at, base=version, put={"a": "2"}, fence=lost))).unlocked
    assert (await store.take_over(KEY, a_delta(at + 5.0, base=version, put={"a": "2"}, fence=fence))).unlocked
    assert await owed_to(store) == {}
    assert not (await store.take_over(KEY, a_delta(at, base=version, put={"a": "2"}, fence=fence))).refused
    assert (await held(store, KEY, at)).values == {"a": "2"}


@as_secondary
@driven
async def test_a_mirrored_copy_comes_with_its_names_and_its_successor(store: Subject) -> None:
    at = now()
    copy = written_by(at, Version(0, 3), a="1").replace(user_id="ada", sid="s1", origin=an_origin(at))
    await store.mirror(KEY, copy)
    assert await held(store, KEY, at) == copy
    assert set(await store.records_of("s1", at=at, by="sid")) == {KEY}
    replaced = a_tombstone(at, Version(0, 4)).replace(successor=THIRD)
    for name in (KEY, OTHER):
        assert (await store.mirror(name, replaced)).successor == THIRD
        assert (await held(store, name, at)).successor == THIRD
    await store.owe({THIRD: copy, key("new"): replaced})
    assert {name: (each.sid, each.successor) for name, each in (await owed_to(store)).items()} == {
        KEY: (None, THIRD),
        THIRD: ("s1", ""),
        key("new"): (None, THIRD),
    }


@as_secondary
@driven
async def test_the_tombstone_of_a_replaced_session_is_owed_with_its_successor(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, dirty=True)
    assert (await owed_to(store))[KEY].successor == OTHER


# -- cut off


@as_secondary
@driven
async def test_a_cut_off_is_owed_and_every_poll_counts_it(store: Subject) -> None:
    at = now()
    assert (await store.poll()).cut_offs == 0
    await store.create(KEY, a_record(at, user_id="ada"))
    await store.cut_off("ada", at=at, until=at + IDLE, dirty=True)
    assert set(await owed_to(store)) == {KEY}
    assert (await store.poll()).cut_offs == 1
    await store.cut_off("nobody", at=at, until=at + IDLE)
    assert (await store.poll()).cut_offs == 2


@as_secondary
@driven
async def test_who_was_cut_off_since_is_told_with_the_time(store: Subject) -> None:
    at = now()
    users = "ada", "bob ✓ @:{}*", "ada", "eve"
    for number, user in enumerate(users):
        await store.cut_off(user, at=round(at + number, 3), until=at + IDLE)
    assert await store.cut_offs(after=0) == {"ada": at + 2.0, "bob ✓ @:{}*": at + 1.0, "eve": at + 3.0}
    assert await store.cut_offs(after=2) == {"ada": at + 2.0, "eve": at + 3.0}
    assert await store.cut_offs(after=3) == {"eve": at + 3.0}
    assert await store.cut_offs(after=4) == {}


# -- mirror


def chain(at: float, length: int) -> list[Record]:
    """What one primary held after each of so many writes."""
    copies = [written_by(at, Version(1, 1), a="1")]
    for number in range(2, length + 1):
        delta = a_delta(at + number, put={"last": str(number), f"f{number}": "1"})
        copies.append(copies[-1].written(delta, Version(1, number)))
    return copies


@as_secondary
@driven
async def test_a_copy_without_a_row_becomes_the_row(store: Subject) -> None:
    at = now()
    copy = written_by(at, Version(0, 3), a="1", b=None).replace(user_id="ada", created_at=at - 5.0)
    mirrored = await store.mirror(KEY, copy.replace(dirty=True, stale=True, served_by="redis"))
    assert mirrored == copy
    assert await held(store, KEY, at) == copy
    assert (await store.mirror(OTHER, a_tombstone(at))).gone
    assert (await held(store, OTHER, at)).gone
    assert KEY not in await owed_to(store)
    assert set(await store.records_of("ada", at=at)) == {KEY}


@as_secondary
@driven
async def test_a_row_follows_a_copy_that_knows_all_that_it_knows(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, written_by(at, Version(2, 1), a="1", b="1"))
    newer = written_by(at, Version(2, 4), a="4", b=None, c="4").replace(updated_at=at + 4.0, last_activity=at + 4.0)
    mirrored = await store.mirror(KEY, newer)
    assert (mirrored, mirrored.dirty) == (newer, False)
    assert await held(store, KEY, at) == newer
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_a_row_follows_a_copy_that_differs_in_nothing_but_its_version(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, row := written_by(at, Version(2, 1), a="1"))
    await store.mirror(KEY, row.replace(version=Version(2, 2)))
    assert (await held(store, KEY, at)).version == (2, 2)
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_a_late_or_repeated_copy_changes_nothing(store: Subject) -> None:
    at = now()
    copies = chain(at, 4)
    for copy in copies:
        await store.mirror(KEY, copy)
    for copy in (*reversed(copies), copies[-1]):
        assert await store.mirror(KEY, copy) == copies[-1]
    assert await held(store, KEY, at) == copies[-1]
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_a_late_copy_neither_marks_a_row_nor_clears_its_mark(store: Subject) -> None:
    at = now()
    copy = written_by(at, Version(1, 1), a="1")
    await store.mirror(KEY, written_by(at, Version(1, 2), a="2"))
    await store.owe({OTHER: written_by(at, Version(1, 2), a="2")})
    for name in (KEY, OTHER):
        assert (await store.mirror(name, copy)).version == (1, 2)
    assert set(await owed_to(store)) == {OTHER}


@as_secondary
@driven
async def test_a_copy_that_was_used_later_keeps_the_row_alive(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, copy := written_by(at, Version(1, 2), a="1"))
    used = copy.used(at + 900.0)
    assert (await store.mirror(KEY, used)).expires_at == used.expires_at
    assert not is_over(await held(store, KEY, at + IDLE + 1.0))
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_where_each_had_something_that_the_other_lacked_the_row_counts_one_more_and_is_owed(
    store: Subject,
) -> None:
    at = now()
    await store.mirror(KEY, row := written_by(at, Version(2, 1), a="row", c="row"))
    copy = written_by(at, Version(1, 4), a="copy", b="copy").replace(last_activity=at + 9.0)
    mirrored = await store.mirror(KEY, copy)
    both = merge(row, copy)
    assert mirrored == both.replace(version=Version(3, 4))
    assert mirrored.dirty
    assert await owed_to(store) == {KEY: mirrored}
    assert mirrored.values == {"a": "row", "b": "copy", "c": "row"}


@as_secondary
@driven
async def test_two_copies_that_were_made_of_one_row_do_not_follow_one_another(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, written_by(at, Version(1, 2), a="1", b="first"))
    mirrored = await store.mirror(KEY, written_by(at, Version(1, 3), a="1", c="second"))
    assert (mirrored.version, mirrored.dirty) == ((2, 3), True)
    assert mirrored.values == {"a": "1", "b": "first", "c": "second"}


@as_secondary
@driven
async def test_a_row_that_is_owed_does_not_follow_and_stays_owed(store: Subject) -> None:
    at = now()
    await store.owe({KEY: written_by(at, Version(2, 1), a="1")})
    mirrored = await store.mirror(KEY, written_by(at, Version(2, 4), a="4"))
    assert (mirrored.version, mirrored.dirty, mirrored.values) == ((3, 4), True, {"a": "4"})
    assert await owed_to(store) == {KEY: mirrored}


@as_secondary
@driven
async def test_a_tombstone_of_the_primary_ends_the_row_and_is_owed(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, written_by(at, Version(1, 1), a="1"))
    mirrored = await store.mirror(KEY, a_tombstone(at + 1.0, Version(1, 2)))
    assert (mirrored.gone, mirrored.version, mirrored.dirty) == (True, (2, 2), True)
    assert await owed_to(store) == {KEY: mirrored}
    assert await held(store, KEY, at) == mirrored


@as_secondary
@driven
async def test_no_copy_brings_an_ended_row_back(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    await store.end([KEY], at=at, until=at + IDLE)
    ended = await held(store, KEY, at)
    for copy in (written_by(at, Version(9, 9), a="1"), a_tombstone(at, Version(9, 9))):
        assert (await store.mirror(KEY, copy)).gone
    assert await held(store, KEY, at) == ended
    assert await store.records_of("ada", at=at) == {}
    await store.end([OTHER], at=at, until=at + IDLE, dirty=True)
    await store.mirror(OTHER, written_by(at, Version(9, 9), a="1"))
    assert set(await owed_to(store)) == {OTHER}


@as_secondary
@driven
async def test_a_late_copy_does_not_bring_a_deleted_field_back(store: Subject) -> None:
    at = now()
    before = written_by(at, Version(0, 1), a="1", b="1")
    after = written_by(at, Version(0, 2), b=None).replace(fields={**before.fields, "b": Field(Version(0, 2), None)})
    for copy in (before, after, before):
        await store.mirror(KEY, copy)
    row = await held(store, KEY, at)
    assert row.fields == after.fields
    assert (row.version, row.values) == ((0, 2), {"a": "1"})
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_copies_that_come_at_once_and_in_any_order_lose_nothing(store: Subject) -> None:
    at = now()
    copies = chain(at, 7)
    mirrored = await store.together([partial(store.mirror, KEY, copy) for copy in (*copies[::2], *copies[::-3])])
    assert all(isinstance(row, Record) for row in mirrored)
    await store.mirror(KEY, copies[-1])
    row = await held(store, KEY, at)
    assert (row.fields, row.version) == (copies[-1].fields, (1, 7))
    assert await owed_to(store) == {}, "each copy knows all that an earlier one knows"


# -- claim


@as_secondary
@driven
async def test_a_claim_counts_one_write_and_leaves_the_rest(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, row := written_by(at, Version(2, 5), a="1"))
    assert await store.claim(KEY, Version(2, 5)) == (3, 5)
    assert await held(store, KEY, at) == row.replace(version=Version(3, 5))
    assert await owed_to(store) == {}


@as_secondary
@driven
async def test_only_a_live_row_that_is_clean_and_has_not_moved_is_claimed(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, moved := written_by(at, Version(2, 5), a="1"))
    await store.owe({OTHER: written_by(at, Version(2, 5), a="1")})
    await store.mirror(THIRD, a_tombstone(at, Version(2, 5)))
    for name in (OTHER, THIRD, key("unknown")):
        assert await store.claim(name, Version(2, 5)) is None
    for version in (Version(1, 5), Version(2, 4), Version(3, 5), Version(2, 6), Version(5, 2)):
        assert await store.claim(KEY, version) is None
    assert await held(store, KEY, at) == moved
    assert (await owed_to(store))[OTHER].version == (2, 5)
    assert await held(store, key("unknown"), at) is None


@as_secondary
@driven
async def test_of_many_who_claim_one_row_at_once_one_succeeds(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, written_by(at, Version(2, 5), a="1"))
    claims = await store.together([partial(store.claim, KEY, Version(2, 5))] * 6)
    assert sorted(claims, key=str) == [(3, 5), *[None] * 5]
    assert (await held(store, KEY, at)).version == (3, 5)


@as_secondary
@driven
async def test_a_copy_that_was_made_of_a_claimed_row_is_followed_and_an_earlier_one_is_not(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, row := written_by(at, Version(1, 1), a="1"))
    await store.claim(KEY, Version(1, 1))
    filled = row.replace(version=Version(2, 1))
    await store.mirror(KEY, filled.written(a_delta(at, put={"b": "2"}), Version(2, 2)))
    assert await owed_to(store) == {}
    late = await store.mirror(KEY, row.written(a_delta(at, put={"c": "3"}), Version(1, 2)))
    assert (late.version, late.dirty) == ((3, 2), True)
    assert late.values == {"a": "1", "b": "2", "c": "3"}


@as_secondary
@driven
async def test_a_copy_from_before_a_claim_is_news_to_the_one_that_was_made_since(store: Subject) -> None:
    at = now()
    await store.mirror(KEY, row := written_by(at, Version(1, 1), a="1"))
    await store.claim(KEY, Version(1, 1))
    late = await store.mirror(KEY, row.written(a_delta(at, put={"c": "3"}), Version(1, 2)))
    assert (late.version, late.dirty, late.values) == ((3, 2), True, {"a": "1", "c": "3"})
    assert set(await owed_to(store)) == {KEY}


# -- poll and epoch


@as_secondary
@driven
async def test_a_poll_of_an_empty_store_says_nothing(store: Subject) -> None:
    assert await store.poll() == News(epoch="", dirty=frozenset(), complete=True)


@as_secondary
@driven
async def test_a_poll_tells_the_epoch_and_what_is_dirty(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.owe({OTHER: a_record(at).born(Version(1, 0)), THIRD: a_tombstone(at)})
    assert await store.poll() == News(epoch="", dirty=frozenset({OTHER, THIRD}), complete=True)
    await store.set_epoch("one", missing="")
    assert await store.poll() == News(epoch="one", dirty=frozenset({OTHER, THIRD}), complete=True)
    await pay(store, OTHER, Version(1, 0), epoch="one")
    await store.set_epoch("two", missing="one")
    assert await store.poll() == News(epoch="two", dirty=frozenset({THIRD}), complete=True)


@as_secondary
@driven
async def test_an_epoch_takes_the_place_of_the_one_that_was_found_missing_and_of_no_other(store: Subject) -> None:
    turns = [("x", "none"), ("one", ""), ("x", ""), ("x", "none"), ("two", "one"), ("x", "one"), ("x", "")]
    answers = [await store.set_epoch(epoch, missing=missing) for epoch, missing in turns]
    assert answers == [False, True, False, False, True, False, False]
    assert (await store.poll()).epoch == "two"


@pytest.mark.parametrize("missing", ["", "old"])
@as_secondary
@driven
async def test_of_many_who_set_an_epoch_at_once_one_succeeds(store: Subject, missing: str) -> None:
    if missing:
        await store.set_epoch(missing, missing="")
    epochs = [f"new{number}" for number in range(6)]
    answers = await store.together([partial(store.set_epoch, epoch, missing=missing) for epoch in epochs])
    assert sorted(answers) == [False] * 5 + [True]
    assert (await store.poll()).epoch == epochs[answers.index(True)]


@as_secondary
@driven
async def test_neither_cleanup_nor_stats_take_an_epoch_for_a_session(store: Subject) -> None:
    at = now()
    await store.set_epoch("one", missing="")
    assert await store.cleanup(at=at + 1e6) == 0
    assert (await store.stats(at=at)).active == 0
    assert (await store.poll()).epoch == "one"


# -- a sample ----------------------------------------------------------------------------------------------------------


@driven
async def test_a_sample_is_a_live_record_with_values_and_its_key(store: Subject) -> None:
    at = now()
    assert await store.sample(at=at) is None
    await store.create(KEY, a_record(at, fields={}))
    await store.end([OTHER], at=at, until=at + IDLE)
    assert await store.sample(at=at) is None
    await store.create(THIRD, a_record(at))
    name, record = await store.sample(at=at)
    assert (name, record.values) == (THIRD, {"a": "1"})
