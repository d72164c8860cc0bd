"""The record: replicas are brought together by merging, in Python and in Redis alike."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from importlib import resources
from itertools import count, permutations, product
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers import RedisFactory, RedisServer
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.stores.record import Delta, Field, Record, Stamped, Version, merge
from vedsess_middleware.stores.redis import RedisStore

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

AT = 1_700_000_000
NEVER = 1e9
DAY = 86_400_000
COMMON = (resources.files("vedsess_middleware.stores.redis") / "lua" / "common.lua").read_text()


def instants(first: int, last: int) -> st.SearchStrategy[float]:
    """Instants between so many seconds after AT, exact to the millisecond."""
    return st.integers((AT + first) * 1000, (AT + last) * 1000).map(lambda ms: ms / 1000)


# Few of each, so that two replicas meet.
COUNTERS = st.sampled_from([0, 1, 2, 9, 10, 10_000_000_000_000])
VERSIONS = st.builds(Version, COUNTERS, COUNTERS)
NAMES = st.sampled_from(["a", "b", "cart", "é", "", "x:1.2"]) | st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.sampled_from(["1", "2", "10", '"a"', '"B"', '"é"', '"\U0001f600"', '"\n:"']) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1
)
LABELS = st.none() | st.sampled_from(["ada", "Bob", "é"])
STAMPED = st.builds(Field, VERSIONS, st.none() | VALUES)
LIVE = st.builds(
    Record,
    version=VERSIONS,
    fields=st.dictionaries(NAMES, STAMPED, max_size=5),
    created_at=instants(0, 1),
    updated_at=instants(0, 100),
    last_activity=instants(0, 100),
    expires_at=instants(2000, 2100),
    idle_timeout=st.integers(1, 10_000_000).map(lambda ms: ms / 1000),
    deadline_at=instants(3000, 3100),
    user_id=LABELS,
    session_fingerprint=LABELS,
    user_agent=LABELS,
    ip_address=LABELS,
    sid=LABELS,
    origin=st.sampled_from(
        ["", "0f1e2d3c4b5a6978 1700000000000 0 -", "8796a5b4c3d2e1f0 1700000000001 1700000000000 bs"]
    ),
)
TOMBSTONES = st.builds(
    Record.tombstone,
    version=VERSIONS,
    at=instants(0, 100),
    until=instants(2000, 2100),
    successor=st.sampled_from(["", "0" * 64, "f" * 64]),
)
RECORDS = LIVE | TOMBSTONES
DELTAS = st.builds(
    Delta,
    put=st.dictionaries(NAMES, VALUES, max_size=3),
    drop=st.lists(NAMES, max_size=3).map(tuple),
    at=instants(-50, 5000),
    commit_id=st.just("c"),
)


def a_record(**changes: Any) -> Record:
    """A record of AT with half an hour of idle time and an hour in all."""
    return Record.new(at=AT, idle_timeout=1800.0, deadline_at=AT + 3600.0).replace(**changes)


def with_field(stamp: Version, value: str | None) -> Record:
    """A record with one field."""
    return a_record(version=stamp, fields={"a": Field(stamp, value)})


# -- versions and fields -----------------------------------------------------------------------------------------------


@CALM
@given(VERSIONS)
def test_a_version_comes_back_from_its_text(version: Version) -> None:
    assert Version.parse(str(version)) == version


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1",
        "1.",
        ".1",
        "1.2.3",
        "-1.2",
        "+1.2",
        " 1.2",
        "1.2 ",
        "1_0.2",
        "1,2",
        "a.b",
        "\u0661.\u0662",
        "\u00b2.1",
    ],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="two counters"):
        Version.parse(text)


@CALM
@given(VERSIONS, st.none() | VALUES)
def test_a_field_comes_back_from_its_text(stamp: Version, value: str | None) -> None:
    assert Field.parse(str(Field(stamp, value))) == Field(stamp, value)


@pytest.mark.parametrize("text", ["", "1.2", "1:2", ":1", "1.2;x", "x.y:1"])
def test_what_is_no_field_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a stamp, a colon|two counters"):
        Field.parse(text)


@CALM
@given(VERSIONS, VERSIONS, VERSIONS)
def test_versions_form_a_lattice(x: Version, y: Version, z: Version) -> None:
    assert x.covers(x)
    assert (x.covers(y) and y.covers(x)) == (x == y)
    assert not (x.covers(y) and y.covers(z)) or x.covers(z)
    assert x.join(y).covers(x)
    assert x.join(y).covers(y)
    assert z.covers(x.join(y)) == (z.covers(x) and z.covers(y))


@CALM
@given(VERSIONS, VERSIONS, VERSIONS)
def test_joining_is_commutative_associative_and_idempotent(x: Version, y: Version, z: Version) -> None:
    assert x.join(y) == y.join(x)
    assert x.join(y).join(z) == x.join(y.join(z))
    assert x.join(x) == x


def test_of_two_counters_neither_alone_covers() -> None:
    assert not Version(2, 0).covers(Version(0, 1))
    assert not Version(0, 2).covers(Version(1, 0))


def test_versions_are_ordered_as_numbers() -> None:
    assert Version(0, 9) < Version(0, 10) < Version(1, 0) < Version(10, 0)


# -- merging -----------------------------------------------------------------------------------------------------------


@CALM
@given(RECORDS, RECORDS)
def test_merging_is_commutative(x: Record, y: Record) -> None:
    assert merge(x, y) == merge(y, x)


@settings(CALM, max_examples=300)
@given(RECORDS, RECORDS, RECORDS)
def test_merging_is_associative(x: Record, y: Record, z: Record) -> None:
    assert merge(merge(x, y), z) == merge(x, merge(y, z))


@CALM
@given(RECORDS, RECORDS)
def test_merging_is_idempotent(x: Record, y: Record) -> None:
    assert merge(x, x) == x
    assert merge(merge(x, y), y) == merge(x, y)


@CALM
@given(RECORDS, RECORDS)
def test_what_is_merged_covers_both(x: Record, y: Record) -> None:
    assert merge(x, y).version == x.version.join(y.version)


@CALM
@given(LIVE, TOMBSTONES)
def test_a_tombstone_wins_over_any_copy(live: Record, tombstone: Record) -> None:
    merged = merge(live, tombstone)
    assert merged.gone
    assert (merged.fields, merged.user_id) == ({}, None)
    assert merged.updated_at == tombstone.updated_at
    assert merged.expires_at == max(live.expires_at, tombstone.expires_at)


@pytest.mark.parametrize(("x", "y"), [*permutations([Version(2, 0), Version(1, 9), Version(1, 10)], 2)])
def test_of_two_values_the_later_stamp_wins(x: Version, y: Version) -> None:
    merged = merge(with_field(x, str(x)), with_field(y, str(y)))
    assert merged.fields == {"a": Field(max(x, y), str(max(x, y)))}


def test_a_deletion_wins_over_an_older_value_and_loses_to_a_newer_one() -> None:
    deleted = with_field(Version(0, 2), None)
    assert merge(deleted, with_field(Version(0, 1), "1")).values == {}
    assert merge(deleted, with_field(Version(0, 3), "3")).values == {"a": "3"}


def test_of_one_stamp_given_out_twice_the_greater_value_wins() -> None:
    lower, upper, deleted = (with_field(Version(0, 1), value) for value in ('"B"', '"a"', None))
    assert merge(lower, upper).values == merge(upper, lower).values == {"a": '"a"'}
    assert merge(lower, deleted).values == merge(deleted, lower).values == {"a": '"B"'}


def test_fields_of_both_replicas_stay() -> None:
    x = a_record(fields={"a": Field(Version(0, 1), "1")})
    y = a_record(fields={"b": Field(Version(1, 0), "2")})
    assert merge(x, y).values == {"a": "1", "b": "2"}


def test_the_shorter_life_and_the_later_use_count() -> None:
    x = a_record(idle_timeout=100.0, deadline_at=AT + 900.0, last_activity=AT + 1.0, expires_at=AT + 101.0)
    y = a_record(idle_timeout=200.0, deadline_at=AT + 800.0, last_activity=AT + 2.0, expires_at=AT + 50.0)
    merged = merge(x, y)
    assert (merged.idle_timeout, merged.deadline_at) == (100.0, AT + 800.0)
    assert (merged.last_activity, merged.expires_at) == (AT + 2.0, AT + 101.0)


@CALM
@given(LIVE, DELTAS)
def test_an_old_copy_that_comes_late_changes_nothing(record: Record, delta: Delta) -> None:
    record = record.replace(version=_join(record))
    newer = record.written(delta, record.version._replace(r=record.version.r + 1))
    assert merge(newer, record) == newer


# -- containing --------------------------------------------------------------------------------------------------------


def _relatives(record: Record) -> st.SearchStrategy[Record]:
    """Records that are like this one: of it, or with a part of what it has, or with more."""
    fields = record.fields
    parts = st.sets(st.sampled_from(sorted(fields))) if fields else st.just(set[str]())
    part = parts.map(lambda names: record.replace(fields={name: fields[name] for name in names}))
    counted = st.tuples(part, COUNTERS, COUNTERS).map(lambda each: each[0].replace(version=Version(*each[1:])))
    return st.one_of(st.just(record), part, counted, LIVE.map(lambda other: merge(record, other)), RECORDS)


PAIRS = RECORDS.flatmap(lambda record: st.tuples(st.just(record), _relatives(record)))


@settings(CALM, max_examples=500)
@given(PAIRS, st.booleans())
def test_a_record_contains_what_merging_would_add_nothing_of(pair: tuple[Record, Record], turned: bool) -> None:
    x, y = reversed(pair) if turned else pair
    both = merge(x, y)
    adds_nothing = (both.gone, both.version, both.fields) == (x.gone, x.version, x.fields)
    assert x.contains(y) is (x.gone or adds_nothing)


@CALM
@given(PAIRS)
def test_what_is_merged_contains_both(pair: tuple[Record, Record]) -> None:
    x, y = pair
    both = merge(x, y)
    assert both.contains(x)
    assert both.contains(y)
    assert x.contains(x)


@settings(CALM, max_examples=300)
@given(PAIRS, RECORDS)
def test_what_contains_one_that_contains_another_contains_it(pair: tuple[Record, Record], other: Record) -> None:
    x, y = pair
    for z in (other, merge(x, other), merge(y, other)):
        assert not (z.contains(x) and x.contains(y)) or z.contains(y)


@CALM
@given(PAIRS)
def test_two_live_records_that_contain_one_another_say_the_same(pair: tuple[Record, Record]) -> None:
    x, y = pair
    if x.contains(y) and y.contains(x) and not (x.gone or y.gone):
        assert (x.version, x.fields) == (y.version, y.fields)


@CALM
@given(RECORDS, TOMBSTONES)
def test_a_tombstone_contains_everything_and_nothing_but_a_tombstone_contains_it(
    record: Record, tombstone: Record
) -> None:
    assert tombstone.contains(record)
    assert record.contains(tombstone) is record.gone


@CALM
@given(LIVE, instants(0, 5000), LABELS)
def test_neither_uses_nor_labels_are_anything_to_add(record: Record, at: float, label: str | None) -> None:
    other = record.used(at).replace(updated_at=record.updated_at + 1.0, user_id=label, ip_address=label)
    assert record.contains(other)
    assert other.contains(record)


@CALM
@given(LIVE, DELTAS)
def test_a_record_contains_what_it_was_before_a_write_and_not_the_other_way_round(record: Record, delta: Delta) -> None:
    record = record.replace(version=_join(record))
    newer = record.written(delta, record.version._replace(r=record.version.r + 1))
    assert newer.contains(record)
    assert not record.contains(newer)


def test_a_write_that_changed_no_field_is_knowledge_too() -> None:
    record = with_field(Version(1, 1), "1")
    for version in (Version(1, 2), Version(2, 1), Version(0, 2)):
        assert not record.contains(record.replace(version=version))


def test_a_deletion_is_a_field_to_add() -> None:
    record, deleted = a_record(version=Version(0, 2)), with_field(Version(0, 2), None)
    assert not record.contains(deleted)
    assert deleted.contains(record)
    assert deleted.contains(with_field(Version(0, 1), "1").replace(version=Version(0, 1)))


def _join(record: Record) -> Version:
    version = record.version
    for item in record.fields.values():
        version = version.join(item.stamp)
    return version


# -- one record --------------------------------------------------------------------------------------------------------


def test_a_new_record_ends_with_its_idle_time_or_at_its_deadline() -> None:
    assert Record.new(at=AT, idle_timeout=60.0, deadline_at=AT + 90.0).expires_at == AT + 60.0
    assert Record.new(at=AT, idle_timeout=60.0, deadline_at=AT + 30.0).expires_at == AT + 30.0


@CALM
@given(LIVE, instants(-50, 5000))
def test_a_use_never_moves_backwards_and_never_past_the_deadline(record: Record, at: float) -> None:
    used = record.used(at)
    assert used.last_activity == max(record.last_activity, at)
    assert record.expires_at <= used.expires_at <= record.deadline_at
    assert used.expires_at >= min(at + record.idle_timeout, record.deadline_at)
    assert used.replace(last_activity=record.last_activity, expires_at=record.expires_at) == record


def test_a_use_extends_the_life_by_the_idle_time() -> None:
    assert a_record().used(AT + 600.0).expires_at == AT + 2400.0
    assert a_record().used(AT + 3000.0).expires_at == AT + 3600.0


def test_a_delta_puts_drops_and_forgets() -> None:
    old = {name: Field(Version(0, 1), value) for name, value in {"a": "1", "b": "2", "c": "3", "d": None}.items()}
    delta = Delta(put={"a": "9", "n": "5"}, drop=("b",), forget=("d", "unheard of"), at=AT + 10.0, commit_id="c")
    written = a_record(version=Version(0, 1), fields=old).written(delta, Version(0, 2))
    assert written.version == Version(0, 2)
    assert written.fields == {
        "a": Field(Version(0, 2), "9"),
        "b": Field(Version(0, 2), None),
        "c": Field(Version(0, 1), "3"),
        "n": Field(Version(0, 2), "5"),
    }
    assert written.values == {"a": "9", "c": "3", "n": "5"}
    assert (written.updated_at, written.last_activity) == (AT + 10.0, AT + 10.0)
    assert old["a"].value == "1"


@CALM
@given(LIVE, DELTAS)
def test_a_write_is_a_use(record: Record, delta: Delta) -> None:
    written, used = record.written(delta, Version(99, 99)), record.used(delta.at)
    assert (written.last_activity, written.expires_at) == (used.last_activity, used.expires_at)
    assert written.updated_at == max(record.updated_at, delta.at)


def test_a_record_is_born_once() -> None:
    fresh = a_record(fields={"a": Field(Version(), "1"), "b": Field(Version(), None)})
    born = fresh.born(Version(0, 1))
    assert born.version == Version(0, 1)
    assert born.fields == {"a": Field(Version(0, 1), "1"), "b": Field(Version(0, 1), None)}
    assert born.born(Version(5, 5)) == born


def test_neither_a_record_nor_a_delta_shows_what_it_holds() -> None:
    record = with_field(Version(3, 14), '"hunter2"')
    delta = Delta(put={"a": "hunter2"}, drop=("hunter2",), at=AT, commit_id="hunter2", loaded=record)
    assert repr(record) == "<Record 3.14 1 fields>"
    assert repr(Record.tombstone(version=Version(3, 14), at=AT, until=AT)) == "<Record 3.14 tombstone>"
    assert repr(delta) == "<Delta 1 put, 1 dropped>"


def test_where_a_record_was_read_makes_it_no_other_one() -> None:
    assert a_record() == a_record(served_by="sql", stale=True, dirty=True)
    assert a_record() != a_record(user_id="ada")


# -- the same in Redis -------------------------------------------------------------------------------------------------


@contextmanager
def store_on(server: RedisServer) -> Iterator[RedisStore]:
    """A store on that server, patient and silent."""
    store = RedisStore.from_url(server.url, is_async=False, timeout=5.0, on_event=lambda event: None)
    yield store
    run_blocking(store.close())


def keys() -> Iterator[str]:
    """Keys that nobody has used."""
    return (f"{number:064x}" for number in count())


def test_merging_in_redis_is_merging_in_python(redis_server: RedisServer) -> None:
    _check_merging(redis_server)


def _check_merging(server: RedisServer) -> None:
    unused = keys()
    with store_on(server) as store:

        @settings(CALM, max_examples=300)
        @given(RECORDS, RECORDS)
        def check(x: Record, y: Record) -> None:
            key = next(unused)
            assert run_blocking(store.merge(key, x)) == x
            assert run_blocking(store.merge(key, y)) == merge(x, y)
            assert run_blocking(store.load(key, at=AT, refresh=NEVER)) == merge(x, y)
            assert run_blocking(store.merge(key, x)) == merge(x, y)

        check()


def test_a_value_longer_than_a_scripts_stack_merges_by_bytes(valkey: RedisServer) -> None:
    long = "é" * 50_000
    with store_on(valkey) as store:
        key = next(keys())
        run_blocking(store.merge(key, with_field(Version(0, 1), f'"{long}a"')))
        merged = run_blocking(store.merge(key, with_field(Version(0, 1), f'"{long}B"')))
    assert merged.values == {"a": f'"{long}a"'}


def test_of_every_two_fields_redis_keeps_the_one_that_python_keeps(redis_server: RedisServer) -> None:
    stamps = [Version(0, 9), Version(0, 10), Version(1, 0), Version(9, 1), Version(10, 1)]
    fields = [Field(stamp, value) for stamp in stamps for value in (None, '"B"', '"a"', '"ab"', '"é"', '"\n"')]
    pairs = {f"{number}": pair for number, pair in enumerate(product(fields, repeat=2))}
    x, y = (a_record(fields={name: pair[place] for name, pair in pairs.items()}) for place in (0, 1))
    with store_on(redis_server) as store:
        key = next(keys())
        run_blocking(store.merge(key, x))
        assert run_blocking(store.merge(key, y)) == merge(x, y)


@pytest.mark.system
def test_merging_in_redis_does_not_follow_the_locale_of_the_server(
    fresh_redis: RedisFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["localedef", "-i", "en_US", "-f", "UTF-8", tmp_path / "en_US.UTF-8"], check=True)
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    server = fresh_redis()
    assert server.cli("EVAL", "return 'a' < 'B' and 'dictionary' or 'bytes'", 0) == "dictionary"
    _check_merging(server)


@pytest.mark.parametrize("longer_first", [True, False])
def test_a_tombstone_in_redis_lives_as_long_as_any_copy_could(valkey: RedisServer, longer_first: bool) -> None:
    tombstone = Record.tombstone(version=Version(0, 2), at=AT, until=AT + 100.0)
    live = a_record(version=Version(0, 1), expires_at=AT + 1800.0)
    with store_on(valkey) as store, redis.Redis.from_url(valkey.url) as client:
        key = next(keys())
        for record in (live, tombstone) if longer_first else (tombstone, live):
            run_blocking(store.merge(key, record))
        assert 1_000_000 < client.pttl(f"vedsess:session:{key}") <= 1_800_000


def lua_instants(client: redis.Redis, milliseconds: list[int]) -> list[str]:
    """What the scripts make of these instants."""
    script = (
        "local processes = ''\n"
        + COMMON
        + "local out = {} for i = 1, #ARGV do out[i] = iso(tonumber(ARGV[i])) end return out"
    )
    replies: Any = client.eval(script, 1, "any", *milliseconds)
    return [reply.decode() for reply in replies]


def python_instant(milliseconds: int) -> str:
    """The same instant as Python writes it."""
    seconds, rest = divmod(milliseconds, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000).isoformat(timespec="milliseconds")


def test_redis_writes_every_day_of_two_centuries_as_python_does(redis_server: RedisServer) -> None:
    days = (date(2201, 1, 1) - date(1970, 1, 1)).days
    midnights = [day * DAY for day in range(days)]
    with redis.Redis.from_url(redis_server.url) as client:
        for start in range(0, days, 5000):
            some = [midnight + midnight // DAY * 997 % DAY for midnight in midnights[start : start + 5000]]
            assert lua_instants(client, some) == [python_instant(ms) for ms in some]


def test_redis_writes_the_edges_of_days_and_leap_years_as_python_does(valkey: RedisServer) -> None:
    years = [1970, 1972, 1999, 2000, 2023, 2024, 2038, 2099, 2100, 2104, 2200]
    noons = [int(datetime(year, month, 28, tzinfo=UTC).timestamp()) * 1000 for year in years for month in range(1, 13)]
    edges = [noon + day * DAY + offset for noon in noons for day in range(5) for offset in (0, 1, 999, 1000, DAY - 1)]
    with redis.Redis.from_url(valkey.url) as client:
        written = lua_instants(client, edges)
    assert written == [python_instant(ms) for ms in edges]
    assert "2000-02-29T23:59:59.999+00:00" in written
    assert "2100-02-28T23:59:59.999+00:00" in written
    assert "2100-02-29T00:00:00.000+00:00" not in written


def test_redis_writes_any_instant_as_python_does(valkey: RedisServer) -> None:
    unused = keys()
    with store_on(valkey) as store:

        @settings(CALM, max_examples=200)
        @given(st.integers(0, 7_289_654_399_999), st.integers(1000, 10 * 365 * DAY))
        def check(at: int, life: int) -> None:
            key = next(unused)
            run_blocking(store.end([key], at=at / 1000, until=(at + life) / 1000))
            tombstone = run_blocking(store.load(key, at=at / 1000, refresh=NEVER))
            assert tombstone is not None
            assert (tombstone.updated_at, tombstone.expires_at) == (at / 1000, (at + life) / 1000)

        check()


def test_where_a_record_came_from_makes_it_no_other() -> None:
    record = Record.new(at=1.0, idle_timeout=60.0, deadline_at=600.0, version=Version(0, 1))
    for changes in ({"served_by": "sql"}, {"stale": True}, {"dirty": True}):
        assert record == record.replace(**changes)
        assert not record != record.replace(**changes)  # noqa: SIM202
    assert record != record.replace(user_id="ada")
    assert record != "a record"


def test_fields_as_they_are_written_are_the_same_fields() -> None:
    fields = {"a": Field(Version(0, 1), '"x:y"'), "b": Field(Version(2, 3), None)}
    stamped = Stamped({"a": '0.1:"x:y"', "b": "2.3:"})
    assert stamped == fields
    assert Stamped.of(fields) == stamped
    assert Stamped.of(stamped) is stamped
    assert stamped.encoded == {"a": '"x:y"'}
    assert stamped.deleted == {"b": Version(2, 3)}
    assert stamped.written({"c": "1"}, ["a"], ["b"], Version(0, 4)) == {
        "a": Field(Version(0, 4), None),
        "c": Field(Version(0, 4), "1"),
    }


@pytest.mark.parametrize("text", ["", "1", "0.1", "x.y:1", ".1:1", "0.:1", "-1.0:1", " 0.1:1", "\u0660.1:1"])
def test_a_text_without_a_stamp_is_no_field(text: str) -> None:
    with pytest.raises(ValueError, match="stamp"):
        Stamped({"a": "0.1:1", "b": text})
