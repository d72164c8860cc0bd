"""What only Redis can show: times to live, round trips, restarts, foreign values, what a person reads."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import RedisFactory, RedisServer, RedisServers, eventually, redis_binary, redis_ids
from tests.stores import IDLE, NEVER, Proxy, Subject, a_delta, a_record, a_tombstone, driven, key, now, proxied, running
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import CorruptRecord, EpochMissing, StoreMisconfigured, StoreUnavailable
from vedsess_middleware.events import Event, StoreRestarted
from vedsess_middleware.stores.contract import RESERVED_FOR, Replaced
from vedsess_middleware.stores.record import Fence, Field, Origin, Record, Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.redis.client import redis_client
from vedsess_middleware.stores.redis.hashes import from_hash, to_hash

KEY, OTHER, THIRD = key("one"), key("other"), key("third")
PREFIX = "t:"
HASH = f"{PREFIX}session:{KEY}"
ALL, OF_ADA = f"{PREFIX}session_index:all", f"{PREFIX}user_sessions:ada"
OF_SID = f"{PREFIX}sid_sessions:s1"
TO_MIRROR, EPOCH_KEY = f"{PREFIX}to_mirror", f"{PREFIX}epoch"
EPOCH, LATER_EPOCH = "0f1e2d3c4b5a6978", "8796a5b4c3d2e1f0"


@pytest.fixture(params=["blocking", "asyncio"])
def is_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "asyncio")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with proxied(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, is_async: bool, events: list[Event]) -> Iterator[Subject]:
    url = f"redis://127.0.0.1:{proxy.port}/0"
    options: dict[str, Any] = {"timeout": 2.0, "probe_timeout": 4.0, "prefix": PREFIX, "on_event": events.append}
    with running(RedisStore.from_url(url, is_async=is_async, **options)) as store:
        yield store


def under(store: Subject, epoch: str = EPOCH) -> Subject:
    """The same store under an epoch."""
    return Subject(store.raw.under(epoch), store.run)


def epoch_of(store: Subject) -> str:
    """An epoch for the process that answers, as it is made where the script cache does not tell it from another."""
    process = store.run(store.identity())
    return f"{EPOCH}.{process}" if process else EPOCH


async def warmed(store: Subject) -> Subject:
    """The same, connected, and its script known."""
    assert await store.update(key("nobody"), a_delta(now(), put={"a": "1"})) is None
    return store


# -- times to live -----------------------------------------------------------------------------------------------------

AT = now()
ADA = a_record(AT, user_id="ada", sid="s1")
OPERATIONS: dict[str, Callable[[Subject], Coroutine[Any, Any, Any]]] = {
    "create": lambda store: store.create(KEY, a_record(AT)),
    "create of a user": lambda store: store.create(OTHER, ADA),
    "load of nothing": lambda store: store.load(THIRD, at=AT, refresh=60.0),
    "load": lambda store: store.load(KEY, at=AT, refresh=60.0),
    "load when a use is due": lambda store: store.load(OTHER, at=AT + 100.0, refresh=60.0),
    "after response": lambda store: store.after_response(),
    "update of nothing": lambda store: store.update(THIRD, a_delta(AT, put={"b": "2"})),
    "update": lambda store: store.update(KEY, a_delta(AT + 1.0, base=Version(0, 1), put={"b": "2"}, drop=("a",))),
    "update from behind": lambda store: store.update(KEY, a_delta(AT + 1.0, base=Version(4, 1), put={"b": "3"})),
    "lock": lambda store: store.lock(KEY, "one", at=AT, until=AT + 5.0),
    "lock of nothing": lambda store: store.lock(THIRD, "one", at=AT, until=AT + 5.0),
    "update with a lock": lambda store: store.update(KEY, a_delta(AT, base=Version(0, 2), fence=Fence("redis", 7))),
    "unlock": lambda store: store.unlock(KEY, Fence("redis", round(AT * 1000))),
    "unlock of nothing": lambda store: store.unlock(THIRD, Fence("redis", 1)),
    "merge": lambda store: store.merge(KEY, a_record(AT).replace(version=Version(2, 0))),
    "merge into nothing": lambda store: store.merge(key("four"), ADA.replace(version=Version(2, 0))),
    "merge of an old record": lambda store: store.merge(key("five"), a_record(AT - IDLE).born(Version(1, 0))),
    "merge of a tombstone": lambda store: store.merge(key("four"), a_tombstone(AT)),
    "reserve": lambda store: store.reserve("ada", key("eight"), limit=9, deny=True, at=AT),
    "reserve for another": lambda store: store.reserve("bob", key("nine"), limit=1, deny=True, at=AT),
    "reserve of a taken place": lambda store: store.reserve("ada", key("ten"), limit=1, deny=False, at=AT),
    "records of a user": lambda store: store.records_of("ada", at=AT),
    "records of a sid": lambda store: store.records_of("s1", at=AT, by="sid"),
    "replace": lambda store: store.replace(OTHER, THIRD, ADA, at=AT, until=AT + IDLE),
    "replace of an ended one": lambda store: store.replace(OTHER, key("six"), ADA, at=AT, until=AT + IDLE),
    "end": lambda store: store.end([KEY, key("seven")], at=AT, until=AT + IDLE),
    "end of a user": lambda store: store.end([], user_id="ada", at=AT, until=AT + IDLE),
    "cut off": lambda store: store.cut_off("ada", at=AT, until=AT + IDLE),
    "update of an ended one": lambda store: store.update(KEY, a_delta(AT, base=Version(2, 2), put={"b": "2"})),
    "merge into an ended one": lambda store: store.merge(KEY, ADA.replace(version=Version(9, 9))),
    "after the last response": lambda store: store.after_response(),
    "stats": lambda store: store.stats(at=AT),
    "cleanup": lambda store: store.cleanup(at=AT),
    "probe": lambda store: store.probe(),
}
ROW = ADA.replace(version=Version(2, 0))
LEASES: dict[str, str] = {}


async def leased(view: Subject, key: str) -> None:
    """Miss this key, and remember the lease."""
    LEASES[key] = (await view.find(key, at=AT, refresh=60.0)).lease


UNDER_AN_EPOCH: dict[str, Callable[[Subject], Coroutine[Any, Any, Any]]] = {
    "install": lambda view: view.install(),
    "ping": lambda view: view.ping(),
    "installed": lambda view: view.installed(),
    "find of nothing": lambda view: leased(view, key("filled")),
    "find of nothing again": lambda view: leased(view, key("filled")),
    "fill": lambda view: view.fill(key("filled"), ROW, lease=LEASES[key("filled")]),
    "find of what was filled": lambda view: view.find(key("filled"), at=AT, refresh=60.0),
    "find of a copy of no epoch": lambda view: leased(view, key("old")),
    "find of what is denied": lambda view: view.find(key("filled"), at=AT, refresh=60.0, denied=True),
    "fill over a copy of no epoch": lambda view: view.fill(key("old"), ROW),
    "find of nothing else": lambda view: leased(view, key("void")),
    "fill that voids a lease": lambda view: view.fill(key("void"), ROW),
    "fill without the lease": lambda view: view.fill(key("void"), ROW, lease=LEASES[key("void")]),
    "fill with a tombstone": lambda view: view.fill(key("void"), a_tombstone(AT)),
    "fill over a tombstone": lambda view: view.fill(key("void"), ROW),
    "create, due": lambda view: view.create(KEY, ADA, due=5),
    "update, due": lambda view: view.update(KEY, a_delta(AT, base=Version(0, 1), put={"b": "2"}), due=6),
    "update of an older epoch": lambda view: view.update(key("older"), a_delta(AT, put={"b": "2"}), due=6),
    "replace, due": lambda view: view.replace(KEY, THIRD, ADA, at=AT, until=AT + IDLE, due=7),
    "unconfirmed": lambda view: view.unconfirmed(limit=10),
    "peek": lambda view: view.peek(THIRD),
    "reserve": lambda view: view.reserve("ada", key("eight"), limit=9, deny=True, at=AT),
    "end, due": lambda view: view.end([THIRD, key("new")], at=AT, until=AT + IDLE, due=8),
    "confirm": lambda view: view.confirm(KEY, 7),
    "after a confirmation": lambda view: view.after_response(),
    "find of nothing at last": lambda view: leased(view, key("stub")),
    "end of where a lease is": lambda view: view.end([key("stub")], at=AT, until=AT + IDLE),
}


@driven
async def test_no_operation_ever_leaves_a_key_without_a_time_to_live(store: Subject, redis_server: RedisServer) -> None:
    seen = set[str]()
    for name, operation in OPERATIONS.items():
        await operation(store)
        ttls = {found: redis_server.cli("PTTL", found) for found in redis_server.cli("KEYS", "*")}
        assert all(ttl > 0 for ttl in ttls.values()), (name, ttls)
        seen |= ttls.keys()
    assert {HASH, ALL, OF_ADA, OF_SID, f"{PREFIX}probe"} <= seen


@driven
async def test_no_operation_under_an_epoch_leaves_a_key_without_a_time_to_live(
    store: Subject, redis_server: RedisServer
) -> None:
    seen, view = set[str](), under(store)
    for name in ("old", "older"):
        await store.create(key(name), ADA)
    for name, operation in UNDER_AN_EPOCH.items():
        await operation(view)
        ttls = {found: redis_server.cli("PTTL", found) for found in redis_server.cli("KEYS", "*")}
        assert all(ttl > 0 for ttl in ttls.values()), (name, ttls)
        seen |= ttls.keys()
    assert {HASH, ALL, OF_ADA, OF_SID, TO_MIRROR, EPOCH_KEY, f"{PREFIX}session:{key('stub')}"} <= seen


@driven
async def test_the_list_of_what_is_due_and_the_epoch_outlive_any_session(
    store: Subject, redis_server: RedisServer
) -> None:
    view, week = under(store), 7 * 86400
    await view.install()
    await view.create(KEY, a_record(now()), due=5)
    for name in (TO_MIRROR, EPOCH_KEY):
        assert week < redis_server.cli("TTL", name) <= week + 1
        redis_server.cli("EXPIRE", name, 100)
    await view.unconfirmed(limit=10)
    assert redis_server.cli("TTL", EPOCH_KEY) > week - 10, "said again, for those who start while the other is away"
    await view.create(OTHER, a_record(now()), due=6)
    assert redis_server.cli("TTL", TO_MIRROR) > week - 10
    assert redis_server.cli("GET", EPOCH_KEY) == EPOCH


@driven
async def test_a_lease_where_nothing_is_lasts_three_seconds_from_the_last_miss(
    store: Subject, redis_server: RedisServer
) -> None:
    view = under(store)
    await view.install()
    for _ in range(2):
        answer = await view.find(KEY, at=now(), refresh=60.0)
        assert 2000 < redis_server.cli("PTTL", HASH) <= 3000
        assert redis_server.cli("HGETALL", HASH) == {"lease": answer.lease}
        redis_server.cli("PEXPIRE", HASH, 1000)
    redis_server.cli("PEXPIRE", HASH, 1)
    eventually(lambda: redis_server.cli("EXISTS", HASH) == 0)
    assert await view.fill(KEY, ROW, lease=answer.lease) is None
    assert redis_server.cli("EXISTS", HASH) == 0


@driven
async def test_a_miss_leaves_a_copy_that_is_there_as_it_is(store: Subject, redis_server: RedisServer) -> None:
    view, at = under(store), now()
    await view.install()
    await store.create(KEY, a_record(at))
    before = redis_server.cli("HGETALL", HASH)
    answer = await view.find(KEY, at=at, refresh=NEVER)
    assert IDLE - 10.0 < redis_server.cli("PTTL", HASH) / 1000 <= IDLE
    assert redis_server.cli("HGETALL", HASH) == before
    await view.fill(KEY, a_record(at).born(Version(0, 1)), lease=answer.lease)
    assert redis_server.cli("HGETALL", HASH) == before | {"epoch": EPOCH}


@driven
async def test_what_is_filled_in_lives_as_long_as_it_says(store: Subject, redis_server: RedisServer) -> None:
    view, at = under(store), now()
    await view.install()
    lease = (await view.find(KEY, at=at, refresh=60.0)).lease
    await view.fill(KEY, a_record(at).born(Version(1, 0)), lease=lease)
    assert IDLE - 10.0 < redis_server.cli("PTTL", HASH) / 1000 <= IDLE


@driven
async def test_a_record_lives_in_redis_as_long_as_it_says(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at, life=IDLE + 100.0))
    assert IDLE - 10.0 < redis_server.cli("PTTL", HASH) / 1000 <= IDLE
    await store.load(KEY, at=at + 1000.0, refresh=60.0)
    assert redis_server.cli("PTTL", HASH) / 1000 > IDLE - 10.0, "a read waits for nothing that may come later"
    await store.after_response()
    assert IDLE - 910.0 < redis_server.cli("PTTL", HASH) / 1000 <= IDLE - 900.0


@driven
async def test_a_tombstone_lives_as_long_as_the_session_could(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.end([KEY], at=at, until=at + 1.0)
    assert redis_server.cli("PTTL", HASH) / 1000 > IDLE - 10.0


@driven
async def test_a_tombstone_lives_as_long_as_a_session_that_is_used_elsewhere_could(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at))
        redis_server.cli("PEXPIRE", f"{PREFIX}session:{name}", 5000)
    await store.end([KEY], at=at, until=at + 1.0)
    await store.replace(OTHER, THIRD, a_record(at), at=at, until=at + 1.0)
    for name in (KEY, OTHER):
        assert redis_server.cli("PTTL", f"{PREFIX}session:{name}") / 1000 > IDLE - 10.0


@driven
async def test_a_read_that_records_no_use_writes_nothing(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    redis_server.cli("CONFIG", "RESETSTAT")
    await store.load(KEY, at=at + 60.0, refresh=60.0)
    await store.after_response()
    calls = redis_server.cli("INFO", "commandstats")
    assert calls["cmdstat_hgetall"]["calls"] == 1
    writing = ("evalsha", "eval", "hset", "pexpire", "del", "zadd", "expire", "zrem")
    assert not calls.keys() & {f"cmdstat_{name}" for name in writing}


# -- late writes -------------------------------------------------------------------------------------------------------


@driven
async def test_a_late_write_never_recreates_a_record(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await store.load(KEY, at=at, refresh=NEVER)
    redis_server.cli("DEL", HASH)
    assert await store.update(KEY, a_delta(at, loaded=loaded, put={"a": "2"})) is None
    assert redis_server.cli("EXISTS", HASH) == 0


@driven
async def test_no_late_write_leaves_anything_beside_a_tombstone(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await store.load(KEY, at=at, refresh=NEVER)
    await store.end([KEY], at=at, until=at + IDLE)
    await store.update(KEY, a_delta(at, loaded=loaded, put={"a": "2"}))
    await store.merge(KEY, loaded.replace(version=Version(9, 9)))
    await store.load(KEY, at=at + 100.0, refresh=60.0)
    assert redis_server.cli("HKEYS", HASH) == ["gone"]
    assert redis_server.cli("ZSCORE", OF_ADA, KEY) is None


@driven
async def test_the_same_commit_twice_is_one_commit(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await store.load(KEY, at=at, refresh=NEVER)
    delta = a_delta(at + 1.0, loaded=loaded, put={"a": "2"}, whole=True)
    first = await store.update(KEY, delta)
    stored = redis_server.cli("HGETALL", HASH)
    assert await store.update(KEY, delta) == first
    assert first.version == (0, 2)
    assert redis_server.cli("HGETALL", HASH) == stored


# -- places ------------------------------------------------------------------------------------------------------------


@driven
async def test_a_place_is_kept_in_the_index_of_its_user_until_its_session_takes_it(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    await store.reserve("ada", KEY, limit=1, deny=True, at=at)
    assert redis_server.cli("KEYS", "*") == [OF_ADA]
    assert redis_server.cli("ZRANGE", OF_ADA, 0, -1) == [KEY], "no longer than a key: a small set stays small"
    assert float(redis_server.cli("ZSCORE", OF_ADA, KEY)) == pytest.approx(-(at + RESERVED_FOR), abs=0.001)
    assert redis_server.cli("TTL", OF_ADA) > 7 * 86400 - 10
    await store.create(KEY, a_record(at, user_id="ada"))
    assert redis_server.cli("ZRANGE", OF_ADA, 0, -1) == [KEY]
    assert float(redis_server.cli("ZSCORE", OF_ADA, KEY)) == pytest.approx(at + IDLE, abs=0.001)
    await store.reserve("ada", KEY, limit=1, deny=True, at=at)
    assert float(redis_server.cli("ZSCORE", OF_ADA, KEY)) > 0, "what is stored has its place"


@driven
async def test_places_that_were_not_used_are_tidied_away_when_their_time_is_over(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    await store.reserve("ada", KEY, limit=9, deny=True, at=at)
    await store.reserve("ada", OTHER, limit=9, deny=True, at=at + 5.0)
    assert await store.cleanup(at=at + RESERVED_FOR - 0.5) == 0
    assert await store.cleanup(at=at + RESERVED_FOR + 0.5) == 1
    assert redis_server.cli("ZRANGE", OF_ADA, 0, -1) == [OTHER]
    await store.create(THIRD, a_record(at + 20.0, user_id="ada"))
    assert redis_server.cli("ZRANGE", OF_ADA, 0, -1) == [THIRD]


@driven
async def test_a_place_is_taken_by_a_session_whose_record_is_not_there(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada"))
    redis_server.cli("DEL", HASH)
    await store.end([OTHER], at=at, until=at + IDLE)
    assert await store.reserve("ada", THIRD, limit=1, deny=False, at=at) == [KEY], "it may live on in another store"
    named = {KEY, f"x:{KEY}", THIRD}
    assert set(redis_server.cli("ZRANGE", OF_ADA, 0, -1)) == named, "what has ended is known to have"


@pytest.mark.parametrize("deny", [True, False])
@driven
async def test_what_has_ended_drives_nobody_out_though_no_index_was_told(store: Subject, deny: bool) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada", idle=100.0))
    for name in (OTHER, THIRD):
        await store.create(name, a_record(at, user_id="ada"))
    await store.end([OTHER, THIRD], at=at, until=at + IDLE)
    store.raw._later.take()  # the process dies
    assert await store.reserve("ada", key("new"), limit=2, deny=deny, at=at) == []


@driven
async def test_a_place_whose_reply_was_lost_drives_out_the_same_sessions(store: Subject, proxy: Proxy) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada"))
    await store.reserve("bob", THIRD, limit=1, deny=True, at=at)
    proxy.lose_reply_to = b"gone"  # the first answer, and the look at those who are there
    assert set(await store.reserve("ada", THIRD, limit=1, deny=False, at=at)) == {KEY, OTHER}
    assert proxy.lose_reply_to is None
    proxy.lose_reply_to = b"reserve"
    assert set(await store.reserve("ada", THIRD, limit=1, deny=False, at=at)) == {KEY, OTHER}
    assert proxy.lose_reply_to is None
    assert set(await store.records_of("ada", at=at)) == {KEY, OTHER}, "and so they can be found and ended"


@driven
async def test_thousands_of_sessions_may_have_to_leave(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    with redis.Redis.from_url(redis_server.url) as client:
        client.zadd(OF_ADA, {f"k{number}": at + number for number in range(1, 9001)})
    lost = await store.reserve("ada", KEY, limit=10, deny=False, at=at)
    assert lost == [f"k{number}" for number in range(1, 8992)]


# -- cut off -----------------------------------------------------------------------------------------------------------


@driven
async def test_a_cut_off_finds_what_no_index_names(store: Subject, redis_server: RedisServer) -> None:
    at, names = now(), [f"k{number}" for number in range(1200)]
    raw = to_hash("", a_record(at).born(Version(0, 1)))
    with redis.Redis.from_url(redis_server.url) as client, client.pipeline(transaction=False) as pipe:
        for number, name in enumerate(names):
            mapping: Any = {**raw, "session_id": name, "user_id": "bob" if number % 3 else "ada"}
            pipe.hset(f"{PREFIX}session:{name}", mapping=mapping)
        pipe.execute()
    await store.create(KEY, a_record(at, user_id="ada"))
    ended = await store.cut_off("ada", at=at, until=at + IDLE)
    assert sorted(ended) == sorted([KEY, *names[::3]])
    for number, name in enumerate(names[:9]):
        assert redis_server.cli("HEXISTS", f"{PREFIX}session:{name}", "gone") == (0 if number % 3 else 1)
    assert await store.cut_off("ada", at=at, until=at + IDLE) == []


@driven
async def test_a_cut_off_ends_no_session_that_began_later(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    for name, seconds in ((KEY, 0.0), (OTHER, 0.001), (THIRD, -10.0)):
        await store.create(name, a_record(round(at + seconds, 3), user_id="ada"))
    redis_server.cli("ZREM", OF_ADA, THIRD)
    assert sorted(await store.cut_off("ada", at=at, until=at + IDLE)) == sorted([KEY, THIRD])
    assert set(await store.records_of("ada", at=at)) == {OTHER}


@driven
async def test_a_cut_off_passes_by_what_is_no_session_of_this_store(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    mapping = [text for pair in to_hash(OTHER, a_record(at, user_id="ada")).items() for text in pair]
    redis_server.cli("HSET", f"{PREFIX}session:session:{OTHER}", *mapping)
    redis_server.cli("HSET", f"{PREFIX}session:{THIRD}", "user_id", "ada")
    redis_server.cli("SET", f"{PREFIX}session:text", "foreign")
    redis_server.cli("RPUSH", f"{PREFIX}session:list", "foreign")
    await store.end([key("ended")], at=at, until=at + IDLE)
    redis_server.cli("DEL", OF_ADA)
    assert await store.cut_off("ada", at=at, until=at + IDLE) == [KEY]
    assert redis_server.cli("HEXISTS", f"{PREFIX}session:session:{OTHER}", "gone") == 0


@driven
async def test_a_cut_off_fails_where_the_process_is_another_one_at_its_end(
    store: Subject, redis_server: RedisServer
) -> None:
    view, at = under(store), now()
    await view.install()
    redis_server.cli("SCRIPT", "FLUSH")
    with pytest.raises(EpochMissing):
        await view.cut_off("ada", at=at, until=at + IDLE)


# -- locks, and what is expected to stay -------------------------------------------------------------------------------


@driven
async def test_a_person_can_read_who_holds_a_lock(store: Subject, redis_server: RedisServer) -> None:
    await store.create(KEY, a_record(AT))
    before = redis_server.cli("HGETALL", HASH)
    fence = await store.lock(KEY, "c0ffee", at=AT, until=AT + 5.0)
    assert fence.number >= round(AT * 1000)
    held = f"{fence.number} {round(AT * 1000) + 5000} c0ffee"
    assert redis_server.cli("HGETALL", HASH) == before | {"lock": held}
    await store.unlock(KEY, fence)
    assert redis_server.cli("HGETALL", HASH) == before | {"lock": f"{fence.number} 0 -"}
    await store.end([KEY], at=AT, until=AT + IDLE)
    assert redis_server.cli("HKEYS", HASH) == ["gone"]


@driven
async def test_a_lock_that_was_lost_with_its_hash_is_not_given_out_again(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    lost = await store.lock(KEY, "one", at=at, until=at + 5.0)
    redis_server.cli("DEL", HASH)
    await store.merge(KEY, record := a_record(at).born(Version(0, 1)))
    later = round(at + 0.001, 3)
    fence = await store.lock(KEY, "two", at=later, until=at + 5.0)
    assert fence.number > lost.number
    assert (await store.update(KEY, a_delta(later, loaded=record, put={"a": "2"}, fence=lost))).unlocked


@driven
async def test_a_lock_whose_reply_was_lost_is_given_out_once(store: Subject, proxy: Proxy) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    assert await store.lock(OTHER, "none", at=at, until=at + 5.0) is None
    proxy.lose_reply_to = b"c0ffee"
    fence = await store.lock(KEY, "c0ffee", at=at, until=at + 5.0)
    assert proxy.lose_reply_to is None
    assert await store.lock(KEY, "c0ffee", at=at, until=at + 5.0) == fence


@driven
async def test_a_guarded_update_whose_reply_was_lost_is_counted_once(store: Subject, proxy: Proxy) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await store.load(KEY, at=at, refresh=NEVER)
    guards: dict[str, Any] = {"fence": await store.lock(KEY, "one", at=at, until=at + 5.0)}
    guards["expected"] = {"a": loaded.fields["a"].stamp}
    delta = a_delta(at, loaded=loaded, put={"a": "2"}, whole=True, **guards)
    proxy.lose_reply_to = b"guarded"
    written = await store.update(KEY, delta)
    assert proxy.lose_reply_to is None
    assert (written.refused, written.version, written.record.values) == (False, (0, 2), {"a": "2"})
    await store.unlock(KEY, guards["fence"])
    assert await store.update(KEY, delta) == written


@driven
async def test_a_guarded_update_writes_and_returns_what_a_plain_one_does(store: Subject) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, fields={"a": "1", "b": "1", "c": "1"}, user_id="ada"))
    answers, guarded = [], {"expected": {"a": Version(0, 1), "n": Version()}}
    sides: list[tuple[str, dict[str, Any]]] = [(KEY, {}), (OTHER, guarded)]
    for name, guards in sides:
        first = a_delta(at, base=Version(0, 1), drop=("b",), **guards)
        await store.update(name, first)
        options: dict[str, Any] = {"put": {"c": "2"}, "forget": ("b",), "refresh": 60.0, "whole": True}
        delta = a_delta(at + 100.0, base=Version(0, 2), **options, **guards)
        answers.append(await store.update(name, delta))
        assert store.raw._later.used[name].expires_at == round(at + 100.0 + IDLE, 3)
    assert answers[0] == answers[1]
    assert answers[0].record == answers[1].record
    assert set(answers[0].record.fields) == {"a", "c"}


@driven
async def test_what_is_refused_is_not_due_and_what_was_due_before_stays_so(store: Subject) -> None:
    view, at = under(store), now()
    await view.install()
    await view.create(KEY, a_record(at))
    refused: dict[str, Any] = {"base": Version(0, 1), "put": {"a": "2"}, "expected": {"a": Version()}}
    assert (await view.update(KEY, a_delta(at, **refused), due=5)).conflict == ("a",)
    assert await view.unconfirmed(limit=10) == {}
    written: dict[str, Any] = {"base": Version(0, 1), "put": {"b": "2"}, "expected": {"a": Version(0, 1)}}
    assert not (await view.update(KEY, a_delta(at, **written), due=6)).refused
    assert (await view.update(KEY, a_delta(at, **refused), due=7)).conflict == ("a",)
    assert await view.unconfirmed(limit=10) == {KEY: 6}


@driven
async def test_thousands_of_fields_may_be_expected_to_stay(store: Subject) -> None:
    at = now()
    names = [f"f{number}" for number in range(5000)]
    await store.create(KEY, a_record(at, fields=dict.fromkeys(names, "1")))
    expected = dict.fromkeys(names, Version(0, 1))
    written = await store.update(KEY, a_delta(at, base=Version(0, 1), put=dict.fromkeys(names, "2"), expected=expected))
    assert not written.refused
    refused = await store.update(KEY, a_delta(at, base=Version(0, 2), put={"n": "1"}, expected=expected))
    assert refused.conflict == tuple(names)


@driven
async def test_a_field_without_a_stamp_is_not_what_was_expected(store: Subject, redis_server: RedisServer) -> None:
    await store.create(KEY, a_record(AT))
    for foreign in ("1", "none", "0.0", ""):
        redis_server.cli("HSET", HASH, "d:a", foreign)
        for stamp in (Version(), Version(0, 1)):
            refused = await store.update(KEY, a_delta(AT, base=Version(0, 1), put={"b": "2"}, expected={"a": stamp}))
            assert refused.conflict == ("a",)


@driven
async def test_an_update_without_guards_costs_one_look_and_one_write(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await store.load(KEY, at=at, refresh=NEVER)
    redis_server.cli("CONFIG", "RESETSTAT")
    await store.update(KEY, a_delta(at, loaded=loaded, put={"a": "2"}, refresh=60.0))
    calls = redis_server.cli("INFO", "commandstats")
    own = {name: calls[f"cmdstat_{name}"]["calls"] for name in ("evalsha", "hmget", "hset")}
    assert own == {"evalsha": 1, "hmget": 1, "hset": 1}
    assert not calls.keys() & {f"cmdstat_{name}" for name in ("hget", "hgetall", "hdel", "zadd", "expire", "pexpire")}


# -- round trips -------------------------------------------------------------------------------------------------------

TRIPS = dict.fromkeys(OPERATIONS, 1) | {
    "replace of an ended one": 2,  # the new one is taken back
    "end of a user": 2,
    "reserve of a taken place": 3,  # the index may lag behind: who is there, are they, and again
    "cut off": 99,
    "records of a user": 2,
    "records of a sid": 2,
    "stats": 3,  # the index, the records, INFO
    "cleanup": 99,
}


@driven
async def test_every_operation_of_a_request_takes_one_round_trip(store: Subject, proxy: Proxy) -> None:
    await warmed(store)
    taken = {}
    for name, operation in OPERATIONS.items():
        before = proxy.trips
        await operation(store)
        taken[name] = proxy.trips - before
    assert {name: trips for name, trips in taken.items() if trips > TRIPS[name]} == {}
    assert taken["create"] == taken["load"] == taken["update"] == taken["replace"] == taken["end"] == 1


@driven
async def test_every_operation_under_an_epoch_takes_one_round_trip(store: Subject, proxy: Proxy) -> None:
    view = under(await warmed(store))
    for name in ("old", "older"):
        await store.create(key(name), ADA)
    taken = {}
    for name, operation in UNDER_AN_EPOCH.items():
        before = proxy.trips
        await operation(view)
        taken[name] = proxy.trips - before
    # Where nothing is that may be served, a lease is left: before SQL is asked, one trip more is not what counts.
    missed = dict.fromkeys((name for name in UNDER_AN_EPOCH if name.startswith(("find of no", "find of a copy"))), 2)
    assert taken == dict.fromkeys(UNDER_AN_EPOCH, 1) | missed | {"install": 3, "confirm": 0}


@driven
async def test_a_hit_under_an_epoch_writes_nothing(store: Subject, redis_server: RedisServer) -> None:
    view, at = under(store), now()
    await view.install()
    await view.create(KEY, a_record(at))
    redis_server.cli("CONFIG", "RESETSTAT")
    assert (await view.find(KEY, at=at + 60.0, refresh=60.0)).hit
    await view.after_response()
    calls = redis_server.cli("INFO", "commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert not calls.keys() & {f"cmdstat_{name}" for name in ("eval", "hset", "hdel", "pexpire", "del", "zadd")}


@driven
async def test_nothing_is_sent_after_a_response_that_recorded_no_use(store: Subject, proxy: Proxy) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await store.load(KEY, at=at, refresh=60.0)
    assert not store.raw.pending
    before = proxy.trips
    await store.after_response()
    assert proxy.trips == before


@driven
async def test_a_new_connection_costs_no_round_trip_of_its_own(store: Subject, proxy: Proxy) -> None:
    await warmed(store)
    await store.close()
    before = proxy.trips, proxy.connections
    await store.load(KEY, at=now(), refresh=60.0)
    assert (proxy.trips - before[0], proxy.connections - before[1]) == (1, 1)


# -- the script --------------------------------------------------------------------------------------------------------


@driven
async def test_a_forgotten_script_is_reported_and_installed_once_by_eval(
    store: Subject, redis_server: RedisServer, events: list[Event]
) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    events.clear()
    redis_server.cli("SCRIPT", "FLUSH")
    redis_server.cli("CONFIG", "RESETSTAT")
    for number in range(3):
        assert await store.update(KEY, a_delta(at, base=Version(0, 1), put={"a": str(number)}))
    assert events == [StoreRestarted(store="redis")]
    calls = redis_server.cli("INFO", "commandstats")
    assert calls["cmdstat_eval"]["calls"] == 1
    assert not any(name.startswith("cmdstat_script") for name in calls)


@driven
async def test_a_forgotten_script_in_the_middle_of_a_batch_loses_nothing(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    redis_server.cli("SCRIPT", "FLUSH")
    assert await store.replace(KEY, OTHER, a_record(at, user_id="ada"), at=at, until=at + IDLE) == Replaced(
        version=Version(0, 1)
    )
    redis_server.cli("SCRIPT", "FLUSH")
    assert set(await store.records_of("ada", at=at)) == {OTHER}
    assert await store.end([OTHER], at=at, until=at + IDLE) == [OTHER]


def test_a_restart_with_all_data_is_noticed(fresh_redis: RedisFactory) -> None:
    server, events, at = fresh_redis(), list[Event](), now()
    with running(RedisStore.from_url(server.url, is_async=False, on_event=events.append)) as store:
        store.run(store.create(KEY, a_record(at)))
        events.clear()
        server.restart(empty=False)
        assert store.run(store.update(KEY, a_delta(at, base=Version(0, 1), put={"a": "2"})))
    assert events == [StoreRestarted(store="redis")]


# -- the script of an epoch --------------------------------------------------------------------------------------------


async def asked(view: Subject) -> str:
    """What this store says under its epoch."""
    try:
        await view.ping()
    except EpochMissing:
        return "missing"
    return "installed"


@driven
async def test_a_missing_epoch_is_never_installed_by_asking(
    store: Subject, redis_server: RedisServer, events: list[Event]
) -> None:
    view, at = under(await warmed(store)), now()
    await store.create(KEY, a_record(at))
    events.clear()
    redis_server.cli("CONFIG", "RESETSTAT")
    for _ in range(2):
        for call in (
            view.ping(),
            view.find(KEY, at=at, refresh=60.0),
            view.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE, due=5),
            view.load(KEY, at=at, refresh=60.0),
            view.merge(KEY, a_record(at).born(Version(1, 0))),
        ):
            with pytest.raises(EpochMissing):
                await call
    calls = redis_server.cli("INFO", "commandstats")
    assert not any(name in calls for name in ("cmdstat_eval", "cmdstat_script", "cmdstat_script|load", "cmdstat_hset"))
    assert events == [], "who finds an epoch missing says so itself"
    assert redis_server.cli("EXISTS", EPOCH_KEY) == 0


@driven
async def test_installing_runs_the_script_once_and_loads_none(store: Subject, redis_server: RedisServer) -> None:
    redis_server.cli("CONFIG", "RESETSTAT")
    await under(store).install()
    calls = redis_server.cli("INFO", "commandstats")
    assert calls["cmdstat_eval"]["calls"] == calls["cmdstat_set"]["calls"] == 1
    assert not any(name.startswith("cmdstat_script") for name in calls)
    assert await asked(under(store)) == "installed"


@driven
async def test_an_installation_whose_reply_was_lost_is_not_repeated(
    store: Subject, proxy: Proxy, redis_server: RedisServer
) -> None:
    redis_server.cli("CONFIG", "RESETSTAT")
    proxy.lose_reply_to = EPOCH.encode()
    with pytest.raises(StoreUnavailable):
        await under(store).install()
    assert proxy.lose_reply_to is None
    assert redis_server.cli("INFO", "commandstats")["cmdstat_eval"]["calls"] == 1


@driven
async def test_a_flushed_script_is_missed_by_its_epoch_and_by_no_other_way(
    store: Subject, redis_server: RedisServer
) -> None:
    view, at = under(store), now()
    await view.install()
    await view.create(KEY, a_record(at), due=5)
    redis_server.cli("SCRIPT", "FLUSH")
    for call in (view.ping(), view.find(KEY, at=at, refresh=60.0), view.update(KEY, a_delta(at, put={"b": "2"}))):
        with pytest.raises(EpochMissing):
            await call
    assert (await store.load(KEY, at=at, refresh=60.0)).values == {"a": "1"}
    assert await asked(view) == "missing", "the script of no epoch is another one"


@driven
async def test_the_confirmation_of_a_copy_is_kept_from_a_server_that_lacks_the_epoch(
    store: Subject, redis_server: RedisServer
) -> None:
    view = under(store)
    await view.install()
    await view.create(KEY, a_record(now()), due=5)
    redis_server.cli("SCRIPT", "FLUSH")
    view.raw.confirm(KEY, 5)
    assert view.raw.pending
    assert store.raw.pending
    with pytest.raises(EpochMissing):
        await view.after_response()
    assert redis_server.cli("ZRANGE", TO_MIRROR, 0, -1) == [KEY]


@driven
async def test_an_update_under_an_epoch_whose_reply_was_lost_is_counted_once(store: Subject, proxy: Proxy) -> None:
    view, at = under(store), now()
    await view.install()
    await view.create(KEY, a_record(at))
    loaded = (await view.find(KEY, at=at, refresh=NEVER)).record
    proxy.lose_reply_to = b"update"
    written = await view.update(KEY, a_delta(at, loaded=loaded, put={"a": "2"}, whole=True), due=5)
    assert proxy.lose_reply_to is None
    assert written.version == (0, 2)
    assert (await view.peek(KEY)) == written.record
    assert await view.unconfirmed(limit=10) == {KEY: 5}


@driven
async def test_a_fill_whose_reply_was_lost_is_a_merge_with_itself(store: Subject, proxy: Proxy) -> None:
    view, at = under(store), now()
    await view.install()
    row = a_record(at).born(Version(2, 0))
    lease = (await view.find(KEY, at=at, refresh=NEVER)).lease
    proxy.lose_reply_to = b"merge"
    assert await view.fill(KEY, row, lease=lease) == row
    assert proxy.lose_reply_to is None


@pytest.mark.parametrize("server_id", redis_ids())
@pytest.mark.parametrize("empty", [True, False])
def test_a_restart_with_or_without_data_misses_the_epoch(
    fresh_redis: RedisFactory, server_id: str, empty: bool, is_async: bool
) -> None:
    server, at = fresh_redis(server_id), now()
    with running(RedisStore.from_url(server.url, is_async=is_async, timeout=2.0, prefix=PREFIX)) as store:
        view = under(store)
        store.run(view.install())
        store.run(view.create(KEY, a_record(at), due=5))
        server.restart(empty=empty)
        with pytest.raises(EpochMissing):
            store.run(view.find(KEY, at=at, refresh=60.0))
        assert store.run(store.installed()) == ("" if empty else EPOCH)
        later = under(store, LATER_EPOCH)
        store.run(later.install())
        answer = store.run(later.find(KEY, at=at, refresh=60.0))
        assert (answer.record is None, answer.hit) == (empty, False)
        assert store.run(asked(view)) == "missing"


def test_a_server_that_was_rewound_misses_the_epoch(fresh_redis: RedisFactory) -> None:
    server, at = fresh_redis(), now()
    with running(RedisStore.from_url(server.url, is_async=False, timeout=2.0)) as store:
        view = under(store)
        store.run(view.install())
        store.run(view.create(KEY, a_record(at)))
        server.cli("SAVE")
        store.run(view.end([KEY], at=at, until=at + IDLE))
        server.kill()
        server.start()
        with pytest.raises(EpochMissing):
            store.run(view.find(KEY, at=at, refresh=60.0))


# -- a replica that was promoted


NOW = "--repl-diskless-sync-delay", "0"


def synced(replica: RedisServer, master: RedisServer) -> RedisServer:
    """The replica, when it holds what its master holds."""
    replica.cli("REPLICAOF", "127.0.0.1", master.port)
    eventually(lambda: replica.cli("INFO", "replication")["master_link_status"] == "up")
    return caught_up(replica, master)


def caught_up(replica: RedisServer, master: RedisServer) -> RedisServer:
    """The replica, when it has taken all that its master sent."""

    def offset(server: RedisServer, name: str) -> int:
        return int(server.cli("INFO", "replication")[name])

    wanted = offset(master, "master_repl_offset")
    eventually(lambda: offset(replica, "slave_repl_offset") >= wanted)
    return replica


@pytest.mark.parametrize("server_id", redis_ids())
def test_a_replica_that_is_promoted_misses_the_epoch_and_holds_the_copies(
    fresh_redis: RedisFactory, server_id: str
) -> None:
    master, replica, at = fresh_redis(server_id, *NOW), fresh_redis(server_id, *NOW), now()
    synced(replica, master)
    url = partial(RedisStore.from_url, is_async=False, timeout=2.0, on_event=lambda _: None)
    with running(url(master.url)) as old, running(url(replica.url)) as new:
        view = under(old)
        old.run(view.install())
        version = old.run(view.create(KEY, a_record(at), due=5))
        old.run(view.update(KEY, a_delta(at, base=version, put={"b": "2"})))
        caught_up(replica, master)
        assert new.run(asked(under(new))) == "missing"
        replica.cli("REPLICAOF", "NO", "ONE")
        with pytest.raises(EpochMissing):
            new.run(under(new).find(KEY, at=at, refresh=60.0))
        assert new.run(under(new).installed()) == EPOCH
        later = under(new, LATER_EPOCH)
        new.run(later.install())
        answer = new.run(later.find(KEY, at=at, refresh=60.0))
        assert (answer.record.values, answer.hit) == ({"a": "1", "b": "2"}, False)
        assert new.run(later.unconfirmed(limit=10)) == {KEY: 5}


@pytest.mark.parametrize("server_id", redis_ids())
def test_a_replica_that_joined_after_the_installation_misses_the_epoch_when_it_is_promoted(
    fresh_redis: RedisFactory, server_id: str
) -> None:
    master, replica = fresh_redis(server_id, *NOW), fresh_redis(server_id, *NOW)
    url = partial(RedisStore.from_url, is_async=False, timeout=2.0, on_event=lambda _: None)
    with running(url(master.url)) as old, running(url(replica.url)) as new:
        epoch = epoch_of(old)
        old.run(under(old, epoch).install())
        old.run(under(old, epoch).create(KEY, a_record(now())))
        synced(replica, master)
        replica.cli("REPLICAOF", "NO", "ONE")
        assert new.run(asked(under(new, epoch))) == "missing"
        with pytest.raises(EpochMissing):
            new.run(under(new, epoch).find(KEY, at=now(), refresh=60.0))
        later = under(new, epoch_of(new).replace(EPOCH, LATER_EPOCH))
        new.run(later.install())
        assert new.run(asked(later)) == "installed"


@pytest.mark.parametrize("server_id", redis_ids())
def test_a_master_with_a_replica_misses_the_epoch_after_a_restart(fresh_redis: RedisFactory, server_id: str) -> None:
    master, replica = fresh_redis(server_id, *NOW), fresh_redis(server_id, *NOW)
    with running(RedisStore.from_url(master.url, is_async=False, timeout=2.0)) as store:
        view = under(store, epoch_of(store))
        store.run(view.install())
        store.run(view.create(KEY, a_record(now())))
        synced(replica, master)
        master.restart(empty=False)
        assert store.run(asked(view)) == "missing"


# -- a cluster


@pytest.fixture(scope="module", params=redis_ids())
def running_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RedisServer]]:
    """A Cluster of two servers, half of the keys on each."""
    folder, binary = tmp_path_factory.mktemp("cluster"), redis_binary(request.param)
    options = "--cluster-enabled", "yes"
    servers = [RedisServer(binary, directory=folder / str(number), extra_args=options).start() for number in range(2)]
    for server, slots in zip(servers, (range(8192), range(8192, 16384)), strict=True):
        server.cli("CLUSTER", "ADDSLOTS", *slots)
    servers[0].cli("CLUSTER", "MEET", "127.0.0.1", servers[1].port)
    for server in servers:
        eventually(partial(_is_whole, server))
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def cluster(running_cluster: list[RedisServer]) -> list[RedisServer]:
    """The same, empty."""
    return [server.empty() for server in running_cluster]


def _is_whole(server: RedisServer) -> bool:
    return bool(server.cli("CLUSTER INFO")["cluster_state"] == "ok")


@contextmanager
def store_on(cluster: list[RedisServer], *, is_async: bool) -> Iterator[Subject]:
    """A store on that Cluster, which knows one of its servers."""
    options: dict[str, Any] = {"host": "127.0.0.1", "port": cluster[0].port, "socket_timeout": 2.0}
    client = partial(redis.asyncio.RedisCluster, **options) if is_async else redis.RedisCluster(**options)
    with running(RedisStore(client, timeout=2.0, on_event=lambda _: None)) as store:
        yield store


def test_an_epoch_is_installed_in_every_server_of_a_cluster(cluster: list[RedisServer], is_async: bool) -> None:
    names, at = [key(f"n{number}") for number in range(12)], now()
    with store_on(cluster, is_async=is_async) as store:
        view = under(store)
        store.run(view.install())
        store.run(view.ping())
        for name in names:
            assert store.run(view.create(name, a_record(at), due=5)) == (0, 1)
            assert store.run(view.find(name, at=at, refresh=60.0)).hit
        assert store.run(view.unconfirmed(limit=20)) == dict.fromkeys(names, 5)
        assert all(server.cli("DBSIZE") > 3 for server in cluster), "each has some of the keys"


def test_concurrent_requests_of_a_cluster_get_each_their_own(cluster: list[RedisServer], is_async: bool) -> None:
    names, at = [key(f"n{number}") for number in range(24)], now()
    with store_on(cluster, is_async=is_async) as store:
        view = under(store)
        store.run(view.install())
        for number, name in enumerate(names):
            store.run(view.create(name, a_record(at, fields={"n": str(number)})))
        foreign = f"vedsess:session:{names[5]}"
        for server in cluster:
            with suppress(redis.exceptions.ResponseError):  # the other one has it
                server.cli("DEL", foreign)
                server.cli("SET", foreign, "foreign")

        async def found(name: str) -> str:
            try:
                return str((await view.find(name, at=at, refresh=60.0)).record.values["n"])
            except StoreMisconfigured:
                return "refused"

        expected = [str(number) for number in range(24)]
        expected[5] = "refused"
        assert store.run(store.together([partial(found, name) for name in names])) == expected


def test_cleanup_takes_lost_records_out_of_every_index_of_a_cluster(cluster: list[RedisServer], is_async: bool) -> None:
    owners, at = range(12), now()
    with store_on(cluster, is_async=is_async) as store:
        for number in owners:
            store.run(store.create(key(f"n{number}"), a_record(at, user_id=f"u{number}", sid=f"s{number}", idle=0.002)))
        later = now() + 1.0
        eventually(lambda: not any(server.cli("KEYS", "vedsess:session:*") for server in cluster))
        assert store.run(store.cleanup(at=later)) == 36
        assert not any(server.cli("KEYS", "*") for server in cluster)


def test_what_concerns_all_sessions_of_a_user_works_on_a_cluster(cluster: list[RedisServer], is_async: bool) -> None:
    names, at = [key(f"n{number}") for number in range(12)], now()
    with store_on(cluster, is_async=is_async) as store:
        view = under(store)
        store.run(view.install())
        for number, name in enumerate(names):
            user, record = f"u{number % 2}", a_record(at, idle=IDLE + number)
            assert store.run(view.reserve(user, name, limit=6, deny=True, at=at)) == []
            store.run(view.create(name, record.replace(user_id=user, sid="s1")))
            assert store.run(view.lock(name, "one", at=at, until=at + 5.0)) is not None
        assert store.run(view.reserve("u0", KEY, limit=6, deny=False, at=at)) == [names[0]]
        assert set(store.run(view.records_of("s1", at=at, by="sid"))) == set(names)
        for server in cluster:
            for index in server.cli("KEYS", "*_sessions:*"):
                server.cli("DEL", index)
        assert sorted(store.run(view.cut_off("u1", at=at, until=at + IDLE))) == sorted(names[1::2])
        assert all(server.cli("KEYS", "vedsess:session:*") for server in cluster), "each has some of them"
        gone = [store.run(view.load(name, at=at, refresh=NEVER)).gone for name in names]
        assert gone == [False, True] * 6
        cluster[1].cli("SCRIPT", "FLUSH")
        with pytest.raises(EpochMissing):
            store.run(view.cut_off("nobody", at=at, until=at + IDLE))


@pytest.mark.parametrize("restarted", [0, 1])
def test_an_epoch_that_one_server_of_a_cluster_lacks_is_missing(
    cluster: list[RedisServer], is_async: bool, restarted: int
) -> None:
    with store_on(cluster, is_async=is_async) as store:
        view = under(store)
        store.run(view.install())
        cluster[restarted].cli("SCRIPT", "FLUSH")
        assert store.run(asked(view)) == "missing"


@pytest.mark.parametrize("server_id", redis_ids())
def test_the_process_of_a_cluster_of_one_server_is_known(
    fresh_redis: RedisFactory, server_id: str, is_async: bool
) -> None:
    server = fresh_redis(server_id, "--cluster-enabled", "yes")
    server.cli("CLUSTER", "ADDSLOTS", *range(16384))
    eventually(partial(_is_whole, server))
    with store_on([server], is_async=is_async) as store:
        run_id = server.cli("INFO", "server")["run_id"]
        assert store.run(store.identity()) == (run_id[:8] if server_id == "redis-6.2" else "")
        view = under(store, epoch_of(store))
        store.run(view.install())
        assert store.run(asked(view)) == "installed"


def test_an_epoch_that_names_another_process_is_missing_when_it_is_installed(redis_servers: RedisServers) -> None:
    url = redis_servers["redis-6.2"].empty().url
    with running(RedisStore.from_url(url, is_async=False, timeout=2.0)) as store, pytest.raises(EpochMissing):
        store.run(under(store, f"{EPOCH}.00000000").install())


# -- shared trips ------------------------------------------------------------------------------------------------------


def test_concurrent_requests_of_an_event_loop_share_their_trips_and_nothing_else(valkey: RedisServer) -> None:
    async def body(store: RedisStore, proxy: Proxy) -> None:
        at, names = now(), [key(f"n{number}") for number in range(40)]
        for number, name in enumerate(names):
            await store.create(name, a_record(at, fields={"n": str(number)}))
        valkey.cli("SET", f"{PREFIX}session:{names[7]}", "foreign")
        before = proxy.trips
        tasks = [asyncio.create_task(store.load(name, at=at, refresh=60.0)) for name in names]
        await asyncio.sleep(0)
        tasks[9].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert proxy.trips - before <= 3
        assert isinstance(outcomes[7], StoreMisconfigured)
        assert isinstance(outcomes[9], asyncio.CancelledError)
        for number, outcome in enumerate(outcomes):
            if number not in (7, 9):
                assert isinstance(outcome, Record)
                assert outcome.values == {"n": str(number)}

    async def opened(proxy: Proxy) -> None:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        store = RedisStore.from_url(url, is_async=True, timeout=2.0, prefix=PREFIX)
        try:
            await body(store, proxy)
        finally:
            await store.close()

    with proxied(valkey.empty().port) as proxy:
        asyncio.run(opened(proxy))


def test_a_request_that_is_broken_off_leaves_its_answer_to_nobody(valkey: RedisServer) -> None:
    client, at = redis_client(valkey.empty().url, is_async=False, timeout=2.0), now()
    with running(RedisStore(client, prefix=PREFIX)) as store:
        for name, value in ((KEY, "1"), (OTHER, "2")):
            store.run(store.create(name, a_record(at, fields={"n": value})))
        connection = client.connection_pool.get_connection()
        client.connection_pool.release(connection)

        def broken_off() -> None:
            del connection.read_response
            raise KeyboardInterrupt

        connection.read_response = broken_off
        with pytest.raises(KeyboardInterrupt):
            store.run(store.load(KEY, at=at, refresh=60.0))
        assert client.connection_pool.get_connection() is connection
        client.connection_pool.release(connection)
        assert store.run(store.load(OTHER, at=at, refresh=60.0)).values == {"n": "2"}


# -- lost replies and dead connections ---------------------------------------------------------------------------------


@driven
async def test_a_create_whose_reply_was_lost_is_no_collision(store: Subject, proxy: Proxy) -> None:
    at = now()
    await warmed(store)
    proxy.lose_reply_to = b"create"
    assert await store.create(KEY, a_record(at)) == (0, 1)
    assert proxy.lose_reply_to is None
    assert (await store.load(KEY, at=at, refresh=NEVER)).values == {"a": "1"}


@driven
async def test_an_update_whose_reply_was_lost_is_counted_once(store: Subject, proxy: Proxy) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loaded = await store.load(KEY, at=at, refresh=NEVER)
    proxy.lose_reply_to = b"update"
    written = await store.update(KEY, a_delta(at, loaded=loaded, put={"a": "2"}, whole=True))
    assert proxy.lose_reply_to is None
    assert written.version == (0, 2)
    assert await store.load(KEY, at=at, refresh=NEVER) == written.record


@driven
async def test_a_replacement_whose_reply_was_lost_is_carried_out_once(store: Subject, proxy: Proxy) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    proxy.lose_reply_to = b"finish"
    assert await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE) == Replaced(version=Version(0, 1))
    assert proxy.lose_reply_to is None
    assert not (await store.load(OTHER, at=at, refresh=NEVER)).gone
    assert (await store.load(KEY, at=at, refresh=NEVER)).gone


def clients(server: RedisServer) -> int:
    """How many connections there are beside this one."""
    return len(server.cli("CLIENT", "LIST").splitlines()) - 1


def opened(store: Subject, server: RedisServer, count: int) -> int:
    """Keep many requests in the air at once, and return how many connections stay idle after them."""

    async def work() -> None:
        server.cli("CLIENT", "PAUSE", 300)
        await store.together([partial(store.load, KEY, at=now(), refresh=60.0)] * count)

    store.run(work())
    return clients(server)


def test_stale_pooled_connections_cost_nobody_a_failure(fresh_redis: RedisFactory, is_async: bool) -> None:
    server = fresh_redis()
    with running(RedisStore.from_url(server.url, is_async=is_async, timeout=2.0)) as store:
        assert opened(store, server, 6) >= (1 if is_async else 5)
        server.restart()
        assert store.run(store.load(KEY, at=now(), refresh=60.0)) is None
        server.kill()
        server.start()
        calls = [partial(store.load, KEY, at=now(), refresh=60.0)] * 6
        assert store.run(store.together(calls)) == [None] * 6


def test_who_finds_an_epoch_missing_can_install_the_next_one_though_other_connections_are_stale(
    fresh_redis: RedisFactory, is_async: bool
) -> None:
    server = fresh_redis()
    with running(RedisStore.from_url(server.url, is_async=is_async, timeout=2.0)) as store:
        assert opened(store, server, 6) >= (1 if is_async else 5)
        server.restart()
        assert store.run(asked(under(store))) == "missing"
        store.run(under(store, LATER_EPOCH).install())
        assert store.run(asked(under(store, LATER_EPOCH))) == "installed"


def test_closing_gives_every_connection_back(fresh_redis: RedisFactory, is_async: bool) -> None:
    server = fresh_redis()
    with running(RedisStore.from_url(server.url, is_async=is_async)) as store:
        store.run(store.load(KEY, at=now(), refresh=60.0))
        store.run(store.probe())
        assert clients(server) == 2
        store.run(store.close())
        eventually(lambda: clients(server) == 0)


# -- bounded waits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_frozen_server_costs_two_tries_of_a_fifth_of_a_second(
    fresh_redis: RedisFactory, is_async: bool, warm: bool
) -> None:
    server = fresh_redis()
    with running(RedisStore.from_url(server.url, is_async=is_async)) as store:
        if warm:
            store.run(store.load(KEY, at=now(), refresh=60.0))
        server.freeze()
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable) as raised:
            store.run(store.load(KEY, at=now(), refresh=60.0))
        assert 0.35 < time.monotonic() - started_at < 0.8
        server.thaw()
    assert (raised.value.reason, raised.value.attempts) == ("timeout", 2)


def test_a_probe_of_a_frozen_server_costs_a_fiftieth_of_a_second(fresh_redis: RedisFactory, is_async: bool) -> None:
    server = fresh_redis()
    with running(RedisStore.from_url(server.url, is_async=is_async)) as store:
        server.freeze()
        started_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="timeout"):
            store.run(store.probe())
        assert time.monotonic() - started_at < 0.19
        server.thaw()
        store.run(store.probe())


def test_a_first_try_that_took_long_is_not_repeated(valkey: RedisServer) -> None:
    ticks = iter([0.0, 0.26, 0.0, 0.24])
    for tries in (1, 2):
        with proxied(valkey.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            with running(RedisStore.from_url(url, is_async=False, clock=lambda: next(ticks))) as store:
                proxy.shutdown()
                proxy.server_close()
                with pytest.raises(StoreUnavailable) as raised:
                    store.run(store.load(KEY, at=now(), refresh=60.0))
                assert raised.value.attempts == tries


def test_a_pool_without_a_free_connection_is_our_own_lack(valkey: RedisServer) -> None:
    client = redis_client(valkey.url + "?max_connections=1", is_async=False, timeout=0.05)
    with running(RedisStore(client, timeout=0.05)) as store:
        taken = client.connection_pool.get_connection()
        with pytest.raises(StoreUnavailable) as raised:
            store.run(store.load(KEY, at=now(), refresh=60.0))
        assert (raised.value.reason, raised.value.attempts) == ("saturated", 1)
        client.connection_pool.release(taken)
        assert store.run(store.load(KEY, at=now(), refresh=60.0)) is None


def test_an_asyncio_pool_without_a_free_connection_is_our_own_lack(valkey: RedisServer) -> None:
    async def body() -> None:
        client = redis_client(valkey.url + "?max_connections=1", is_async=True, timeout=0.05)
        store = RedisStore(client, timeout=2.0)
        taken = await client.connection_pool.get_connection()
        with pytest.raises(StoreUnavailable) as raised:
            await store.load(KEY, at=now(), refresh=60.0)
        assert (raised.value.reason, raised.value.attempts) == ("saturated", 1)
        await client.connection_pool.release(taken)
        assert await store.load(KEY, at=now(), refresh=60.0) is None
        await store.close()

    asyncio.run(body())


def test_many_stores_share_the_connections_of_one_client(valkey: RedisServer) -> None:
    client = redis_client(valkey.url + "?max_connections=2", is_async=False, timeout=0.05)
    for _ in range(5):
        assert run_blocking(RedisStore(client).load(KEY, at=now(), refresh=60.0)) is None
    client.close()


def test_a_cancelled_command_leaves_no_connection_out_of_step(valkey: RedisServer) -> None:
    async def body() -> None:
        store = RedisStore.from_url(valkey.url, is_async=True, timeout=2.0)
        at = now()
        await store.create(KEY, a_record(at, fields={"n": "1"}))
        await store.create(OTHER, a_record(at, fields={"n": "2"}))
        valkey.cli("CLIENT", "PAUSE", 100)
        task = asyncio.create_task(store.load(KEY, at=at, refresh=60.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        record = await store.load(OTHER, at=at, refresh=60.0)
        assert record
        assert record.values == {"n": "2"}
        await store.close()

    asyncio.run(body())


def test_an_asyncio_store_serves_one_event_loop_after_another(valkey: RedisServer) -> None:
    store, at = RedisStore.from_url(valkey.url, is_async=True), now()

    async def once(number: int) -> Record | None:
        await store.merge(KEY, a_record(at, fields={"n": str(number)}).born(Version(0, number)))
        found = await store.load(KEY, at=at, refresh=60.0)
        await store.close()
        return found

    found = [asyncio.run(once(number)) for number in (1, 2, 3)]
    assert [record and record.values for record in found] == [{"n": "1"}, {"n": "2"}, {"n": "3"}]


# -- what is not a record ----------------------------------------------------------------------------------------------


@driven
async def test_a_value_of_another_type_under_a_key_refuses_that_key_only(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    await store.create(OTHER, a_record(at))
    redis_server.cli("SET", HASH, "foreign", "EX", 1000)
    calls = [
        store.load(KEY, at=at, refresh=60.0),
        store.update(KEY, a_delta(at, put={"a": "2"})),
        store.end([KEY], at=at, until=at + IDLE),
        store.merge(KEY, a_record(at)),
        store.replace(KEY, THIRD, a_record(at), at=at, until=at + IDLE),
    ]
    for call in calls:
        with pytest.raises(StoreMisconfigured) as raised:
            await call
        assert raised.value.one_key
        assert KEY not in str(raised.value)
    assert redis_server.cli("GET", HASH) == "foreign"
    assert (await store.load(OTHER, at=at, refresh=60.0)).values == {"a": "1"}


FOREIGN: dict[str, dict[bytes | str, bytes | str]] = {
    "another session's": {"session_id": OTHER},
    "a value that is no text": {"user_agent": b"\xff\xfe"},
    "a name that is no text": {b"d:\xff\xfe": "0.1:1"},
    "a version that is none": {"version": "seven"},
    "a field without a stamp": {"d:a": "1"},
    "a field with a bad stamp": {"d:a": "x.y:1"},
    "an instant that is none": {"last_activity": "yesterday"},
    "a life that is none": {"life": "long"},
    "a life without end": {"life": "9" * 400 + ":" + "9" * 400},
    "a tombstone that is none": {"gone": "yes"},
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@driven
async def test_a_hash_that_is_no_session_is_a_corrupt_record_and_stops_no_other(
    store: Subject, redis_server: RedisServer, foreign: dict[str, str]
) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada"))
    for name, value in foreign.items():
        redis_server.cli("HSET", HASH, name, value)
    with pytest.raises(CorruptRecord) as raised:
        await store.load(KEY, at=at + 100.0, refresh=60.0)
    assert KEY not in str(raised.value)
    assert set(await store.records_of("ada", at=at)) == {OTHER}
    await store.end([KEY], at=at, until=at + IDLE)
    assert redis_server.cli("HEXISTS", HASH, "gone") == 1
    assert (await store.load(OTHER, at=at, refresh=60.0)).values == {"a": "1"}


@pytest.mark.parametrize("missing", sorted(to_hash(KEY, a_record(AT)).keys() - {"d:a", "is_active", "sid", "origin"}))
@driven
async def test_a_hash_without_one_of_its_own_fields_is_a_corrupt_record(
    store: Subject, redis_server: RedisServer, missing: str
) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    redis_server.cli("HDEL", HASH, missing)
    with pytest.raises(CorruptRecord):
        await store.load(KEY, at=at, refresh=60.0)


NOISE = st.one_of(
    st.binary(max_size=30),
    st.text(max_size=30).map(str.encode),
    st.text("0123456789.:-+TZ ", max_size=400).map(str.encode),
    st.just(b"9" * 5000),
    st.datetimes().map(lambda moment: moment.isoformat().encode()),
)
RAW = {name.encode(): value.encode() for name, value in to_hash(KEY, a_record(AT)).items()}


@given(st.dictionaries(st.sampled_from([*RAW, b"gone", b"d:x", b"other"]), NOISE, min_size=1), st.booleans())
def test_whatever_a_hash_holds_it_is_a_record_or_corrupt(noise: dict[bytes, bytes], whole: bool) -> None:
    try:
        record = from_hash(KEY, {**(RAW if whole else {}), **noise})
    except CorruptRecord:
        return
    assert isinstance(record, Record)


# -- layout ------------------------------------------------------------------------------------------------------------


@driven
async def test_a_person_can_read_a_session_in_redis(store: Subject, redis_server: RedisServer) -> None:
    at = datetime(2031, 2, 28, 23, 59, 59, 7000, UTC).timestamp()
    record = a_record(at, idle=60.0, life=3600.0, user_id="ada", user_agent="Firefox", ip_address="192.0.2.7")
    record = record.replace(fields={"cart": Field(Version(), '["Brot 🍞"]')}, session_fingerprint="f00")
    record = record.replace(sid="s1", origin=str(Origin("0f1e2d3c4b5a6978", 1_700_000_000.0, in_browser=True)))
    await store.create(KEY, record)
    await store.update(KEY, a_delta(at + 1.5, base=Version(0, 1), put={"n": "1"}, drop=("old",), commit_id="c0ffee"))
    assert redis_server.cli("HGETALL", HASH) == {
        "session_id": KEY,
        "user_id": "ada",
        "session_fingerprint": "f00",
        "created_at": "2031-02-28T23:59:59.007+00:00",
        "updated_at": "2031-03-01T00:00:00.507+00:00",
        "last_activity": "2031-03-01T00:00:00.507+00:00",
        "expires_at": "2031-03-01T00:01:00.507+00:00",
        "is_active": "true",
        "user_agent": "Firefox",
        "ip_address": "192.0.2.7",
        "sid": "s1",
        "origin": "0f1e2d3c4b5a6978 1700000000000 0 b",
        "version": "0.2",
        "life": f"60000:{round(at * 1000) + 3_600_000}",
        "commit": "c0ffee",
        "epoch": "",
        "d:cart": '0.1:["Brot 🍞"]',
        "d:n": "0.2:1",
        "d:old": "0.2:",
    }


@driven
async def test_a_hash_from_before_there_were_names_and_origins_is_read_and_written(
    store: Subject, redis_server: RedisServer
) -> None:
    at = now()
    version = await store.create(KEY, record := a_record(at, user_id="ada"))
    redis_server.cli("HDEL", HASH, "sid", "origin")
    assert await store.load(KEY, at=at, refresh=NEVER) == record.born(version)
    assert await store.update(KEY, a_delta(at + 100.0, base=version, put={"b": "2"}, refresh=60.0)) is not None
    merged = await store.merge(KEY, record.replace(version=Version(1, 0), sid="s1", origin="f 0 0 -"))
    assert (merged.sid, merged.origin) == ("s1", "f 0 0 -")
    redis_server.cli("HDEL", HASH, "sid", "origin")
    assert await store.end([KEY], at=at, until=at + IDLE) == [KEY]


@driven
async def test_a_tombstone_names_a_successor_only_where_there_is_one(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)
    await store.end([THIRD], at=at, until=at + IDLE)
    words = [redis_server.cli("HGET", f"{PREFIX}session:{name}", "gone").split(" ") for name in (KEY, THIRD)]
    assert [len(each) for each in words] == [5, 4]
    assert words[0][4] == OTHER


@driven
async def test_a_person_can_read_of_which_epoch_a_copy_is_and_what_is_due(
    store: Subject, redis_server: RedisServer
) -> None:
    view, at = under(store), now()
    await view.install()
    await view.create(KEY, a_record(at), due=1_900_000_000_123_456)
    await view.fill(OTHER, a_record(at).born(Version(1, 0)), lease="*")
    for name in (KEY, OTHER):
        assert redis_server.cli("HGET", f"{PREFIX}session:{name}", "epoch") == EPOCH
    assert redis_server.cli("ZRANGE", TO_MIRROR, 0, -1) == [KEY]
    assert redis_server.cli("ZSCORE", TO_MIRROR, KEY) == 1_900_000_000_123_456.0
    assert redis_server.cli("GET", EPOCH_KEY) == EPOCH


@driven
async def test_a_session_is_in_the_indexes_by_its_end(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada", sid="s1"))
    await store.create(OTHER, a_record(at))
    assert sorted(redis_server.cli("ZRANGE", ALL, 0, -1)) == sorted([KEY, OTHER])
    for name in (OF_ADA, OF_SID):
        assert redis_server.cli("ZRANGE", name, 0, -1) == [KEY]
        assert float(redis_server.cli("ZSCORE", name, KEY)) == pytest.approx(at + IDLE, abs=0.001)
    await store.load(KEY, at=at + 100.0, refresh=60.0)
    assert store.raw.pending
    await store.after_response()
    assert not store.raw.pending
    for name in (ALL, OF_ADA, OF_SID):
        assert float(redis_server.cli("ZSCORE", name, KEY)) == pytest.approx(at + 100.0 + IDLE, abs=0.001)
    await store.update(KEY, a_delta(at + 200.0, base=Version(0, 1), put={"b": "2"}, refresh=60.0))
    await store.after_response()
    for name in (ALL, OF_ADA, OF_SID):
        assert float(redis_server.cli("ZSCORE", name, KEY)) == pytest.approx(at + 200.0 + IDLE, abs=0.001)


@driven
async def test_an_ended_session_leaves_the_indexes(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada", sid="s1"))
    await store.end([KEY], at=at, until=at + IDLE)
    await store.after_response()
    for index in (ALL, OF_ADA, OF_SID):
        assert redis_server.cli("ZRANGE", index, 0, -1) == [OTHER]
    await store.replace(OTHER, THIRD, a_record(at, user_id="ada", sid="s1"), at=at, until=at + IDLE)
    await store.after_response()
    for index in (ALL, OF_ADA, OF_SID):
        assert redis_server.cli("ZRANGE", index, 0, -1) == [THIRD]


@driven
async def test_cleanup_takes_lost_records_out_of_every_index(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.create(name, a_record(at, user_id="ada", sid="s1"))
    await store.create(THIRD, a_record(at, user_id="bob", sid="s2"))
    redis_server.cli("DEL", HASH, f"{PREFIX}session:{THIRD}")
    assert (await store.stats(at=at)).active == 1
    assert await store.cleanup(at=at) == 6
    assert [redis_server.cli("ZRANGE", name, 0, -1) for name in (ALL, OF_ADA, OF_SID)] == [[OTHER]] * 3
    assert redis_server.cli("EXISTS", f"{PREFIX}user_sessions:bob", f"{PREFIX}sid_sessions:s2") == 0


@driven
async def test_counting_and_tidying_walk_thousands_of_sessions(store: Subject, redis_server: RedisServer) -> None:
    at = now()
    raw = to_hash("", a_record(at, user_id="ada"))
    with redis.Redis.from_url(redis_server.url) as client, client.pipeline(transaction=False) as pipe:
        for number in range(1200):
            pipe.zadd(ALL, {f"k{number}": at})
            if number % 3:
                pipe.hset(f"{PREFIX}session:k{number}", mapping={**raw, "user_id": f"u{number % 7}"})
        pipe.execute()
    stats = await store.stats(at=at)
    assert (stats.active, stats.users) == (800, 7)
    assert await store.cleanup(at=at) == 400


@driven
async def test_stats_tell_what_the_server_says_of_itself(store: Subject, redis_server: RedisServer) -> None:
    details = (await store.stats(at=now())).details
    assert details["memory used (bytes)"] > 0
    assert details["connections"] >= 1
    assert {"keyspace hits", "keyspace misses", "evicted keys"} <= details.keys()


@pytest.mark.parametrize("prefix", ["u:", "t:u:", "?:", "[a-z]:", "*", ""])
def test_stores_with_other_prefixes_see_and_touch_nothing_of_each_other(valkey: RedisServer, prefix: str) -> None:
    at = now()
    mine, theirs = (RedisStore.from_url(valkey.url, is_async=False, prefix=name) for name in (PREFIX, prefix))
    with running(mine) as store, running(theirs) as other:
        store.run(store.create(KEY, a_record(at, user_id="ada", sid="s1")))
        before = {name: valkey.cli("DUMP", name) for name in valkey.cli("KEYS", "*")}
        assert other.run(other.load(KEY, at=at, refresh=60.0)) is None
        assert other.run(other.update(KEY, a_delta(at, base=Version(0, 1), put={"a": "2"}))) is None
        assert other.run(other.end([], user_id="ada", at=at, until=at + IDLE)) == []
        assert other.run(other.cut_off("ada", at=at, until=at + IDLE)) == []
        assert other.run(other.lock(KEY, "one", at=at, until=at + 5.0)) is None
        assert other.run(other.records_of("ada", at=at)) == {}
        assert other.run(other.records_of("s1", at=at, by="sid")) == {}
        assert other.run(other.stats(at=at)).active == 0
        assert other.run(other.cleanup(at=at)) == 0
        assert {name: valkey.cli("DUMP", name) for name in valkey.cli("KEYS", "*")} == before
