"""What only SQL can show: statements, transactions, the table on first use, locks, lost connections."""

import asyncio
import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event, insert, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.servers import PostgresServer, eventually, free_port
from tests.stores import (
    IDLE,
    NEVER,
    Proxy,
    Subject,
    a_delta,
    a_record,
    a_tombstone,
    driven,
    emptied_database,
    key,
    now,
    proxied,
    running,
)
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import CorruptRecord, StoreError, StoreMisconfigured, StoreUnavailable
from vedsess_middleware.stores.contract import News
from vedsess_middleware.stores.record import Fence, Record, Version, merge
from vedsess_middleware.stores.sql import SQLStore
from vedsess_middleware.stores.sql.engines import async_engine, sync_engine
from vedsess_middleware.stores.sql.tables import sessions, to_row

KEY, OTHER, THIRD = key("one"), key("other"), key("third")
KINDS = {
    "sqlite": ("sqlite", False),
    "sqlite-asyncio": ("sqlite", True),
    "postgres-psycopg": ("postgresql", False),
    "postgres-psycopg-asyncio": ("postgresql+psycopg", True),
    "postgres-asyncpg": ("postgresql+asyncpg", True),
}
POSTGRES = [kind for kind in KINDS if kind.startswith("postgres")]
on_postgres = pytest.mark.parametrize("kind", POSTGRES, indirect=True)


@dataclass(slots=True)
class Clock:
    """Seconds that pass when a test says so."""

    at: float = 100.0

    def __call__(self) -> float:
        return self.at


@dataclass(slots=True)
class Ledger:
    """What an engine sent: the statements, without those that only begin, and in how many visits."""

    statements: list[str] = field(default_factory=list)
    visits: int = 0

    def listen(self, engine: Engine | AsyncEngine) -> None:
        target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        event.listen(target, "before_cursor_execute", self._note)
        event.listen(target, "begin", self._begin)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            self.statements.append(statement)

    def _begin(self, _connection: Any) -> None:
        self.visits += 1

    def taken(self) -> tuple[int, int]:
        """How many statements and visits there were since the last time."""
        counts = len(self.statements), self.visits
        self.statements.clear()
        self.visits = 0
        return counts


def engine_for(kind: str, url: str, timeout: float) -> Engine | AsyncEngine:
    scheme, is_async = KINDS[kind]
    url = f"{scheme}://{url.partition('://')[2]}"
    return async_engine(url, timeout=timeout) if is_async else sync_engine(url, timeout=timeout)


def engine_of(store: Subject) -> Any:
    return store.raw._database._doors.engine


@contextmanager
def opened(kind: str, url: str, *, timeout: float = 10.0, **options: Any) -> Iterator[Subject]:
    with running(SQLStore(engine_for(kind, url, timeout), timeout=timeout, **options)) as store:
        yield store


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_url(kind: str, request: pytest.FixtureRequest) -> str:
    """A database without a table."""
    return str(request.getfixturevalue("sqlite_url" if kind.startswith("sqlite") else "postgres_url"))


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """A database whose table, if there is one, is empty."""
    if kind.startswith("sqlite"):
        return str(request.getfixturevalue("sqlite_url"))
    server: PostgresServer = request.getfixturevalue("postgres")
    return emptied_database(server.start().url)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(kind: str, url: str, ledger: Ledger, clock: Clock) -> Iterator[Subject]:
    engine = engine_for(kind, url, 10.0)
    with running(SQLStore(engine, timeout=10.0, clock=clock)) as store:
        store.run(store.create_tables())
        ledger.listen(engine)
        yield store


def written(at: float, version: Version, **values: str) -> Record:
    return a_record(at, fields=values).born(version)


# -- statements --------------------------------------------------------------------------------------------------------

AT = now()
ADA = a_record(AT, user_id="ada")
KNOWN = a_record(AT).born(Version(1, 0)).used(AT + 100.0)
FOURTH, FIFTH, SIXTH = (written(AT, Version(1, number), a=str(number)) for number in (4, 5, 6))
MANY = written(AT, Version(0, 1), n="1")
OPERATIONS: dict[str, tuple[int, Callable[[Subject], Coroutine[Any, Any, Any]]]] = {
    "create": (1, lambda store: store.create(KEY, a_record(AT))),
    "load of nothing": (1, lambda store: store.load(OTHER, at=AT, refresh=60.0)),
    "load": (1, lambda store: store.load(KEY, at=AT, refresh=60.0)),
    "load when a use is due": (1, lambda store: store.load(KEY, at=AT + 100.0, refresh=60.0)),
    "after response": (1, lambda store: store.after_response()),
    "after another": (0, lambda store: store.after_response()),
    "update of what was loaded": (
        1,
        lambda store: store.update(KEY, a_delta(AT + 100.0, loaded=KNOWN, put={"c": "3"})),
    ),
    "update": (2, lambda store: store.update(KEY, a_delta(AT + 100.0, put={"b": "2"}))),
    "update of nothing": (1, lambda store: store.update(OTHER, a_delta(AT, put={"b": "2"}))),
    "merge into nothing": (2, lambda store: store.merge(OTHER, written(AT, Version(0, 1), a="1"))),
    "merge of news": (2, lambda store: store.merge(OTHER, written(AT, Version(0, 2), a="2"))),
    "merge of what is known": (1, lambda store: store.merge(OTHER, written(AT, Version(0, 1), a="1"))),
    "take over": (2, lambda store: store.take_over(OTHER, a_delta(AT, put={"b": "2"}))),
    "owe": (2, lambda store: store.owe({KEY: ADA, OTHER: written(AT, Version(4, 4))})),
    "owed": (1, lambda store: store.owed({KEY, OTHER})),
    "poll": (1, lambda store: store.poll()),
    "first epoch": (1, lambda store: store.set_epoch("one", missing="")),
    "next epoch": (1, lambda store: store.set_epoch("two", missing="one")),
    "poll with an epoch": (1, lambda store: store.poll()),
    "paid": (1, lambda store: store.paid(OTHER, Version(4, 4), record=written(AT, Version(4, 4)), epoch="two")),
    "paid under any epoch": (1, lambda store: store.paid(KEY, Version(3, 0), record=ADA, epoch="")),
    "mirror of nothing": (2, lambda store: store.mirror(key("m"), written(AT, Version(1, 1), a="1"))),
    "mirror of news": (2, lambda store: store.mirror(key("m"), written(AT, Version(1, 2), a="2"))),
    "mirror of what is known": (1, lambda store: store.mirror(key("m"), written(AT, Version(1, 1), a="1"))),
    "mirror after a right guess": (
        1,
        lambda store: store.mirror(key("m"), FOURTH, before=written(AT, Version(1, 2), a="2")),
    ),
    "mirror after a wrong guess": (3, lambda store: store.mirror(key("m"), FIFTH, before=ADA)),
    "mirror of many": (3, lambda store: store.mirror_all({key(f"m{n}"): MANY for n in range(9)} | {key("m"): SIXTH})),
    "mirror of what is owed then": (2, lambda store: store.mirror(key("m"), written(AT, Version(0, 9), b="9"))),
    "claim": (1, lambda store: store.claim(key("m0"), Version(0, 1))),
    "forget": (1, lambda store: store.forget(key("m0"), Version(1, 1))),
    "replace": (4, lambda store: store.replace(KEY, THIRD, ADA, at=AT, until=AT + IDLE)),
    "replace of an ended one": (2, lambda store: store.replace(KEY, key("x"), ADA, at=AT, until=AT + IDLE)),
    "records of a user": (1, lambda store: store.records_of("ada", at=AT)),
    "records of a sid": (1, lambda store: store.records_of("s1", at=AT, by="sid")),
    "lock": (2, lambda store: store.lock(THIRD, "word", at=AT, until=AT + 5.0)),
    "lock of what is held": (1, lambda store: store.lock(THIRD, "other", at=AT, until=AT + 5.0)),
    "unlock": (1, lambda store: store.unlock(THIRD, Fence("sql", 1))),
    "unlock of what another store gave out": (0, lambda store: store.unlock(THIRD, Fence("redis", 1))),
    "cut-offs": (1, lambda store: store.cut_offs(after=0)),
    "end": (2, lambda store: store.end([OTHER], at=AT, until=AT + IDLE)),
    "end of what is unknown": (2, lambda store: store.end([key("y")], at=AT, until=AT + IDLE)),
    "end again": (1, lambda store: store.end([OTHER], at=AT, until=AT + IDLE)),
    "end of a user": (2, lambda store: store.end([], user_id="ada", at=AT, until=AT + IDLE)),
    "cleanup": (2, lambda store: store.cleanup(at=AT)),
}


@driven
async def test_every_operation_is_one_visit_of_few_statements(store: Subject, ledger: Ledger) -> None:
    for name, (statements, operation) in OPERATIONS.items():
        await operation(store)
        assert ledger.taken() == (statements, min(statements, 1)), name


@driven
async def test_no_statement_holds_a_key_or_a_value(store: Subject, ledger: Ledger) -> None:
    for _, operation in OPERATIONS.values():
        await operation(store)
    text = "".join(ledger.statements)
    assert ledger.statements
    assert not any(word in text for word in (KEY, OTHER, THIRD, "ada", "0.1:1"))


@driven
async def test_uses_are_recorded_in_at_most_one_statement_a_second(
    store: Subject, ledger: Ledger, clock: Clock
) -> None:
    at, flushes = now(), []
    for number in range(5):
        await store.create(key(f"n{number}"), a_record(at))
    ledger.taken()
    for second in (0.0, 0.3, 0.99, 1.0, 1.5, 1.99, 2.0):
        clock.at = 100.0 + second
        for number in range(5):
            store.raw.note_use(key(f"n{number}"), a_record(at + 10.0 + second))
        assert store.raw.pending is (second in (0.0, 1.0, 2.0))
        await store.after_response()
        flushes.append(ledger.taken()[0])
    assert flushes == [1, 0, 0, 1, 0, 0, 1]
    for number in range(5):
        record = await store.load(key(f"n{number}"), at=at + 12.0, refresh=NEVER)
        assert record.last_activity == pytest.approx(at + 12.0, abs=0.001)


@driven
async def test_loading_sends_nothing_but_its_own_select(store: Subject, ledger: Ledger) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    ledger.taken()
    await store.load(KEY, at=at + 100.0, refresh=60.0)
    assert [statement.split()[0] for statement in ledger.statements] == ["SELECT"]


# -- the table ---------------------------------------------------------------------------------------------------------

FIRST: dict[str, Callable[[Subject], Coroutine[Any, Any, Any]]] = {
    name: OPERATIONS[name][1]
    for name in (
        *("create", "load of nothing", "update of nothing", "owe", "end", "cleanup"),
        *("poll", "first epoch", "mirror of nothing", "claim", "paid", "owed"),
    )
}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("kind", ["sqlite", "sqlite-asyncio"], indirect=True)
def test_whatever_comes_first_makes_the_table(kind: str, new_url: str, first: str) -> None:
    with opened(kind, new_url) as store:
        store.run(FIRST[first](store))
        made = {"create": 1, "owe": 2, "mirror of nothing": 1}
        assert store.run(store.stats(at=AT)).active == made.get(first, 0)
        assert store.run(store.poll()).epoch == ("one" if first == "first epoch" else "")


def test_the_first_use_of_a_new_database_makes_the_table(kind: str, new_url: str) -> None:
    with opened(kind, new_url) as store:
        assert not store.run(store.has_table())
        assert store.run(store.load(KEY, at=AT, refresh=60.0)) is None
        assert store.run(store.has_table())
        store.run(store.create_tables())


def execute(url: str, statement: str) -> None:
    """Run a statement of somebody else."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(statement)
    else:
        with psycopg.connect(url, autocommit=True) as server:
            server.execute(statement.encode())


@pytest.mark.parametrize("table", ["vedsess_facts", "vedsess_sessions"])
def test_a_database_that_lacks_one_of_the_tables_gets_it(kind: str, new_url: str, table: str) -> None:
    with opened(kind, new_url) as store:
        store.run(store.create_tables())
        execute(new_url, f"DROP TABLE {table}")
        assert not store.run(store.has_table())
        assert store.run(store.poll()).epoch == ""
        assert store.run(store.has_table())
        assert store.run(store.set_epoch("one", missing=""))


USE_AT_ONCE = """
import sys, time
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.sql import SQLStore
store, at = SQLStore.from_url(sys.argv[1], is_async=False, timeout=10.0), time.time()
record = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 1800.0)
print("ready", flush=True)
sys.stdin.readline()
run_blocking(store.create(sys.argv[2], record))
assert run_blocking(store.load(sys.argv[2], at=at, refresh=60.0))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres-psycopg"], indirect=True)
def test_processes_that_meet_at_a_new_database_all_get_their_sessions_in(kind: str, new_url: str) -> None:
    command = [sys.executable, "-c", USE_AT_ONCE, new_url]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([*command, f"n{number}"], text=True, **pipes) for number in range(3)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate(timeout=30)[1] for process in processes] == [""] * 3
    with opened(kind, new_url) as store:
        assert store.run(store.stats(at=now())).active == 3


@pytest.mark.parametrize("kind", ["sqlite", *POSTGRES[:1]], indirect=True)
def test_many_engines_that_meet_at_a_new_database_make_one_table(kind: str, new_url: str) -> None:
    stores = [SQLStore.from_url(new_url, is_async=False, timeout=10.0) for _ in range(6)]
    with running(stores[0]) as store:
        works = [partial(each.create, key(f"n{number}"), a_record(AT)) for number, each in enumerate(stores)]
        assert store.run(store.together(works)) == [(1, 0)] * 6
        assert store.run(store.stats(at=AT)).active == 6
    for each in stores[1:]:
        run_blocking(each.close())


@on_postgres
def test_a_person_can_read_a_session_in_sql(kind: str, url: str) -> None:
    record = a_record(1_900_000_000.007, idle=60.0, life=3600.0, user_id="ada", fields={"cart": '["Brot 🍞"]'})
    with opened(kind, url) as store:
        store.run(store.create(KEY, record.replace(user_agent="Firefox", ip_address="192.0.2.7")))
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT row_to_json(t) FROM vedsess_sessions t").fetchone()
        assert row
        assert row[0] | {"fields": json.loads(row[0]["fields"])} == {
            "session_id": KEY,
            "user_id": "ada",
            "session_fingerprint": None,
            "created_at": "2030-03-17T17:46:40.007",
            "updated_at": "2030-03-17T17:46:40.007",
            "last_activity": "2030-03-17T17:46:40.007",
            "expires_at": "2030-03-17T17:47:40.007",
            "is_active": True,
            "user_agent": "Firefox",
            "ip_address": "192.0.2.7",
            "idle_timeout": 60,
            "deadline_at": "2030-03-17T18:46:40.007",
            "s": 1,
            "r": 0,
            "dirty": False,
            "fields": {"cart": '1.0:["Brot 🍞"]'},
            "sid": None,
            "origin": None,
            "successor": None,
            "lock_holder": None,
            "commit_id": None,
        }


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def weak_url(new_url: str) -> str:
    """The same database for a role that may do nothing there."""
    role = f"weak_{make_url(new_url).database}"
    with psycopg.connect(new_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    return new_url.replace("postgres@", f"{role}@")


def failure(store: Subject, call: Coroutine[Any, Any, Any]) -> StoreError:
    with pytest.raises(StoreError) as raised:
        store.run(call)
    assert KEY not in str(raised.value)
    return raised.value


@on_postgres
def test_a_role_that_may_not_make_the_table_is_told_how_to_get_it(kind: str, weak_url: str) -> None:
    with opened(kind, weak_url) as store:
        error = failure(store, store.load(KEY, at=AT, refresh=60.0))
    assert isinstance(error, StoreMisconfigured)
    assert "permission denied" in str(error)


@on_postgres
def test_a_role_that_may_not_use_the_table_is_a_misconfiguration(kind: str, new_url: str, weak_url: str) -> None:
    with opened(kind, new_url) as owner, opened(kind, weak_url) as store:
        owner.run(owner.create(KEY, a_record(AT)))
        for call in (store.load(KEY, at=AT, refresh=60.0), store.end([KEY], at=AT, until=AT + IDLE)):
            error = failure(store, call)
            assert isinstance(error, StoreMisconfigured)
            assert "permission denied" in str(error)


@on_postgres
def test_a_database_that_takes_no_writes_can_still_be_read(kind: str, new_url: str) -> None:
    with opened(kind, new_url) as store:
        store.run(store.create(KEY, a_record(AT)))
        with psycopg.connect(new_url, autocommit=True) as connection:
            name = str(make_url(new_url).database)
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        store.run(store.close())
        error = failure(store, store.end([KEY], at=AT, until=AT + IDLE))
        assert isinstance(error, StoreUnavailable)
        assert error.reason == "read-only"
        assert store.run(store.load(KEY, at=AT, refresh=60.0)).values == {"a": "1"}


@on_postgres
def test_a_database_that_nobody_serves_is_unreachable(kind: str) -> None:
    with opened(kind, f"postgresql://postgres@127.0.0.1:{free_port()}/postgres") as store:
        error = failure(store, store.load(KEY, at=AT, refresh=60.0))
    assert isinstance(error, StoreUnavailable)
    assert error.reason == "unreachable"


def spoil(url: str, name: str) -> None:
    """Make a row unreadable."""
    execute(url, f"UPDATE vedsess_sessions SET fields = '{{\"a\": \"no stamp\"}}' WHERE session_id = '{name}'")


@driven
async def test_a_row_that_is_no_session_is_a_corrupt_record_and_stops_no_other(store: Subject, url: str) -> None:
    at = now()
    for name in (KEY, OTHER):
        await store.owe({name: written(at, Version(1, 0), a="1")})
        await store.merge(name, written(at, Version(1, 1), b="1").replace(user_id="ada"))
    spoil(url, KEY)
    with pytest.raises(CorruptRecord) as raised:
        await store.load(KEY, at=at, refresh=60.0)
    assert KEY not in str(raised.value)
    assert set(await store.records_of("ada", at=at)) == {OTHER}
    assert set(await store.owed([KEY, OTHER])) == {OTHER}
    assert (await store.poll()).dirty == {KEY, OTHER}
    assert sorted(await store.end([], user_id="ada", at=at, until=at + IDLE)) == sorted([KEY, OTHER])
    assert (await store.load(KEY, at=at, refresh=60.0)).gone


@driven
async def test_a_copy_mends_a_row_that_is_no_session(store: Subject, url: str) -> None:
    at = now()
    await store.mirror(KEY, copy := written(at, Version(1, 1), a="1"))
    spoil(url, KEY)
    assert await store.mirror(KEY, copy) == copy
    assert await store.load(KEY, at=at, refresh=NEVER) == copy


# -- news --------------------------------------------------------------------------------------------------------------


@driven
async def test_a_poll_reads_once_and_names_no_more_than_it_can(store: Subject, ledger: Ledger) -> None:
    at = now()
    rows = [to_row(f"{number:064x}", a_tombstone(at), dirty=True) for number in range(1001)]
    await store.raw._database.visit(lambda connection: connection.execute(insert(sessions), rows[:1000]))
    await store.set_epoch("one", missing="")
    ledger.taken()
    news = await store.poll()
    assert ledger.statements[0].split()[0] == "SELECT"
    assert ledger.taken() == (1, 1)
    assert (news.epoch, len(news.dirty), news.complete) == ("one", 1000, True)
    await store.raw._database.visit(lambda connection: connection.execute(insert(sessions), rows[1000:]))
    news = await store.poll()
    assert (news.epoch, news.complete) == ("one", False)
    assert len(news.dirty) >= 1000


@driven
async def test_a_poll_reads_the_epoch_and_no_other_fact(store: Subject, url: str) -> None:
    execute(url, "INSERT INTO vedsess_facts (name, value) VALUES ('other', 'x')")
    assert (await store.poll()).epoch == ""
    await store.set_epoch("one", missing="")
    assert (await store.poll()) == News(epoch="one")


@on_postgres
def test_a_role_that_may_not_read_the_facts_is_a_misconfiguration(kind: str, new_url: str, weak_url: str) -> None:
    with opened(kind, new_url) as owner, opened(kind, weak_url) as store:
        owner.run(owner.create_tables())
        execute(new_url, f"GRANT ALL ON vedsess_sessions TO {make_url(weak_url).username}")
        for call in (store.poll(), store.set_epoch("one", missing="")):
            error = failure(store, call)
            assert isinstance(error, StoreMisconfigured)
            assert "permission denied" in str(error)


# -- locks and crowds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "sqlite-asyncio"], indirect=True)
def test_a_locked_sqlite_says_so_within_the_budget_and_can_be_read(kind: str, new_url: str) -> None:
    with opened(kind, new_url, timeout=0.3) as store:
        store.run(store.create(KEY, a_record(AT)))
        with closing(sqlite3.connect(new_url.removeprefix("sqlite:///"))) as lock:
            lock.execute("BEGIN IMMEDIATE")
            started_at = time.monotonic()
            error = failure(store, store.update(KEY, a_delta(AT, put={"a": "2"})))
            assert time.monotonic() - started_at < 0.9
            assert store.run(store.load(KEY, at=AT, refresh=60.0)).values == {"a": "1"}
        assert isinstance(error, StoreUnavailable)
        assert error.reason == "locked"
        assert store.run(store.update(KEY, a_delta(AT, put={"a": "2"}))).version == (2, 0)


@driven
async def test_uses_that_could_not_be_recorded_are_recorded_later(store: Subject, clock: Clock, kind: str) -> None:
    at = now()
    await store.create(KEY, record := a_record(at))
    store.raw.note_use(KEY, record.used(at + 100.0))
    target = engine_of(store) if kind in ("sqlite", "postgres-psycopg") else engine_of(store).sync_engine

    def refuse(*_: Any) -> None:
        raise TimeoutError

    event.listen(target, "before_cursor_execute", refuse)
    with pytest.raises(StoreUnavailable):
        await store.after_response()
    event.remove(target, "before_cursor_execute", refuse)
    assert not store.raw.pending
    clock.at += 1.0
    assert store.raw.pending
    await store.after_response()
    assert (await store.load(KEY, at=at + 100.0, refresh=NEVER)).last_activity == at + 100.0


@driven
async def test_eight_at_once_lose_nothing(store: Subject, clock: Clock) -> None:
    at, shared = now(), key("shared")
    await store.create(shared, a_record(at, fields={}))

    async def life(number: int) -> None:
        for turn in range(4):
            name = key(f"n{number}-{turn}")
            version = await store.create(name, a_record(at, user_id=f"u{number}"))
            await store.update(name, a_delta(at, base=version, put={"b": "2"}))
            await store.update(shared, a_delta(at, put={f"f{number}-{turn}": "1"}))
            store.raw.note_use(shared, a_record(at + turn))
            clock.at += 1.0
            await store.after_response()
            if turn % 2:
                await store.end([name], at=at, until=at + IDLE)

    assert await store.together([partial(life, number) for number in range(8)]) == [None] * 8
    stats = await store.stats(at=at)
    assert (stats.active, stats.users) == (17, 8)
    assert len((await store.load(shared, at=at, refresh=NEVER)).values) == 32


@driven
async def test_of_many_who_insert_one_row_at_once_none_fails(store: Subject) -> None:
    at = now()
    records = [written(at, Version(0, number + 1), **{f"f{number}": "1"}) for number in range(6)]
    results = await store.together([partial(store.merge, KEY, record) for record in records])
    assert all(isinstance(result, Record) for result in results)
    everything = records[0]
    for record in records:
        everything = merge(everything, record)
    assert await store.load(KEY, at=at, refresh=NEVER) == everything
    deltas = [a_delta(at, loaded=record, put={"b": "2"}) for record in records]
    taken = await store.together([partial(store.take_over, OTHER, delta) for delta in deltas])
    assert sorted(each.version.s for each in taken) == [1, 2, 3, 4, 5, 6]
    mirrored = await store.together([partial(store.mirror, key("m"), record) for record in records])
    assert all(isinstance(result, Record) for result in mirrored)
    assert (await store.load(key("m"), at=at, refresh=NEVER)).fields == everything.fields
    assert (await store.poll()).dirty == {OTHER, key("m")}
    ends = [partial(store.end, [THIRD], at=at, until=at + IDLE), partial(store.owe, {THIRD: a_tombstone(at)})]
    assert not any(isinstance(result, Exception) for result in await store.together(ends * 3))
    assert (await store.load(THIRD, at=at, refresh=NEVER)).gone


@on_postgres
@driven
async def test_flushes_that_meet_at_the_same_rows_do_not_lock_each_other_out(store: Subject, kind: str) -> None:
    at, names = now(), [key(f"n{number}") for number in range(40)]
    await store.owe({name: written(at, Version(1, 0)) for name in names})
    others = [SQLStore(engine_of(store), timeout=5.0) for _ in range(4)]
    for number, other in enumerate(others):
        for name in names if number % 2 else reversed(names):
            other.note_use(name, a_record(at + 1.0 + number))
    assert await store.together([other.after_response for other in others]) == [None] * 4


# -- lost connections --------------------------------------------------------------------------------------------------


def terminate_all(postgres: PostgresServer) -> int:
    """End every other connection to the server, and return how many there were."""
    query = b"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'vedsess'"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
        gone = query.replace(b"pg_terminate_backend(pid)", b"*")
        eventually(lambda: connection.execute(gone).fetchone() == (0,))
    assert row
    return int(row[0])


@on_postgres
@driven
async def test_connections_that_died_while_idle_cost_nobody_a_failure(store: Subject, postgres: PostgresServer) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    loads = [partial(store.load, KEY, at=at, refresh=NEVER)] * 5
    await store.together(loads)
    assert terminate_all(postgres) >= 1
    assert (await store.update(KEY, a_delta(at, put={"b": "2"}))).version == (2, 0)
    terminate_all(postgres)
    found = await store.together(loads)
    assert [record.values for record in found] == [{"a": "1", "b": "2"}] * 5


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[Proxy]:
    with proxied(postgres.start().port) as proxy:
        yield proxy


@pytest.fixture
def behind_proxy(kind: str, url: str, proxy: Proxy) -> Iterator[Subject]:
    with opened(kind, make_url(url).set(port=proxy.port).render_as_string(hide_password=False)) as store:
        store.run(store.create_tables())
        yield store


@on_postgres
def test_a_write_whose_reply_was_lost_is_found_again(behind_proxy: Subject, proxy: Proxy) -> None:
    store, at, owing = behind_proxy, now(), key("owed")

    def losing(what: bytes, call: Coroutine[Any, Any, Any]) -> Any:
        proxy.lose_reply_to = what
        answer = store.run(call)
        assert proxy.lose_reply_to is None
        return answer

    def row(name: str) -> Any:
        return store.run(store.load(name, at=at, refresh=NEVER))

    assert losing(b"1.0:1", store.create(KEY, a_record(at, user_id="ada"))) == (1, 0)
    losing(b"2.0:2", store.update(KEY, a_delta(at, put={"b": "2"})))
    assert row(KEY).values == {"a": "1", "b": "2"}
    losing(b'"c":"', store.update(KEY, a_delta(at, loaded=row(KEY), put={"c": "3"})))
    assert row(KEY).values == {"a": "1", "b": "2", "c": "3"}
    alone = a_delta(at, loaded=row(KEY), put={"d": "4"}, expected={"d": Version()})
    assert losing(b'"d":"', store.update(KEY, alone)).version == (4, 0), "its own write is no conflict"
    assert row(KEY).values == {"a": "1", "b": "2", "c": "3", "d": "4"}
    fence = losing(b"drawn", store.lock(KEY, "drawn", at=at, until=at + 5.0))
    assert fence == store.run(store.lock(KEY, "drawn", at=at, until=at + 5.0))
    losing(KEY.encode(), store.unlock(KEY, fence))
    assert store.run(store.lock(KEY, "other", at=at, until=at + 5.0)).number > fence.number
    for _ in range(2):
        assert losing(b"COMMIT", store.reserve("ada", key("place"), limit=2, deny=True, at=at)) == []
    assert losing(b"COMMIT", store.replace(KEY, OTHER, a_record(at), at=at, until=at + IDLE)).version == (1, 0)
    assert row(OTHER).values == {"a": "1"}
    login = store.replace(OTHER, THIRD, a_record(at), at=at, until=at + IDLE, even_if_gone=True)
    assert losing(b"COMMIT", login).version == (1, 0)
    assert row(THIRD).values == {"a": "1"}
    assert losing(b"COMMIT", store.end([THIRD, key("new")], at=at, until=at + IDLE)) == [THIRD, key("new")]
    losing(b"COMMIT", store.cut_off("eve", at=at, until=at + IDLE))
    assert store.run(store.cut_offs(after=0)) == {"eve": at}
    losing(b"0.3:1", store.owe({owing: written(at, Version(0, 3), a="1")}))
    assert store.run(store.poll()).dirty == {owing}
    losing(b"0.4:2", store.mirror(owing, written(at, Version(0, 4), b="2")))
    owed = store.run(store.owed([owing]))[owing]
    assert (owed.values, owed.version) == ({"a": "1", "b": "2"}, (1, 4)), "counted once"
    losing(b"0.4:2", store.paid(owing, owed.version, record=owed, epoch=""))
    assert store.run(store.poll()).dirty == frozenset()
    losing(owing.encode(), store.forget(owing, owed.version))
    assert row(owing) is None


@on_postgres
@pytest.mark.parametrize("guessed", [True, False])
def test_a_copy_whose_reply_was_lost_is_followed_once(behind_proxy: Subject, proxy: Proxy, guessed: bool) -> None:
    store, at = behind_proxy, now()
    first, second = written(at, Version(0, 1), a="1"), written(at, Version(0, 2), a="2")
    store.run(store.mirror(KEY, first))
    proxy.lose_reply_to = b"0.2:2"
    assert store.run(store.mirror(KEY, second, before=first if guessed else None)) == second
    assert proxy.lose_reply_to is None
    assert store.run(store.load(KEY, at=at, refresh=NEVER)) == second
    assert store.run(store.poll()).dirty == frozenset()
    many = {key(f"n{number}"): written(at, Version(0, 3), a="3") for number in range(5)} | {KEY: second}
    proxy.lose_reply_to = b"COMMIT"
    assert store.run(store.mirror_all(many)) == many
    assert proxy.lose_reply_to is None
    assert store.run(store.poll()).dirty == frozenset()


@on_postgres
def test_a_claim_whose_reply_was_lost_is_a_claim_that_nobody_has(behind_proxy: Subject, proxy: Proxy) -> None:
    store = behind_proxy
    store.run(store.mirror(KEY, written(now(), Version(1, 1), a="1")))
    proxy.lose_reply_to = KEY.encode()
    assert store.run(store.claim(KEY, Version(1, 1))) is None
    assert proxy.lose_reply_to is None
    assert store.run(store.claim(KEY, Version(2, 1))) == (3, 1)


@pytest.mark.parametrize("missing", ["", "old"])
@on_postgres
def test_who_set_an_epoch_hears_so_though_the_reply_was_lost(behind_proxy: Subject, proxy: Proxy, missing: str) -> None:
    store = behind_proxy
    if missing:
        store.run(store.set_epoch(missing, missing=""))
    proxy.lose_reply_to = b"brandnew"
    assert store.run(store.set_epoch("brandnew", missing=missing))
    assert proxy.lose_reply_to is None
    assert store.run(store.poll()).epoch == "brandnew"


# -- round trips -------------------------------------------------------------------------------------------------------


@on_postgres
def test_a_read_costs_one_round_trip_and_so_does_a_write_whose_row_is_known(
    behind_proxy: Subject, proxy: Proxy
) -> None:
    store, at = behind_proxy, now()
    version = itertools.count(1)

    def copy() -> Record:
        number = next(version)
        return written(at, Version(0, number), a=str(number))

    def known(**options: Any) -> Coroutine[Any, Any, Any]:
        return store.mirror(KEY, copy(), before=store.run(store.peek(KEY)), **options)

    def loaded() -> Coroutine[Any, Any, Any]:
        record = store.run(store.load(OTHER, at=at, refresh=NEVER))
        return store.update(OTHER, a_delta(at, loaded=record, put={"n": str(next(version))}))

    def locked() -> Coroutine[Any, Any, Any]:
        fence = store.run(store.lock(OTHER, "word", at=at, until=at + 5.0))
        return store.update(OTHER, a_delta(at, put={"n": str(next(version))}, fence=fence))

    store.run(store.create(OTHER, a_record(at)))
    calls: dict[str, tuple[int, Callable[[], Coroutine[Any, Any, Any]]]] = {
        "create": (1, lambda: store.create(key(f"n{next(version)}"), a_record(at))),
        "peek": (1, lambda: store.peek(KEY)),
        "poll": (1, store.poll),
        "records of a user": (1, lambda: store.records_of("ada", at=at)),
        "owed": (1, lambda: store.owed([KEY])),
        "claim": (1, lambda: store.claim(KEY, Version(7, 7))),
        "lock": (2, lambda: store.lock(OTHER, "word", at=at, until=at + 5.0)),
        "update under a lock": (2, locked),
        "unlock": (1, lambda: store.unlock(OTHER, Fence("sql", 7))),
        "mirror of what is known": (1, known),
        "update of what was loaded": (1, loaded),
        "mirror": (2, lambda: store.mirror(KEY, copy())),
        "take over": (2, lambda: store.take_over(OTHER, a_delta(at, put={"b": "2"}))),
        "mirror of many": (6, lambda: store.mirror_all({key(f"m{number}"): copy() for number in range(64)})),
    }
    for _ in range(8):  # until every statement is prepared
        for _, call in calls.values():
            store.run(call())
    for name, (trips, call) in calls.items():
        made = call()
        with proxy.counting() as taken:
            store.run(made)
        assert taken[0] <= trips, name


CUT_SHORT: dict[str, Callable[[SQLStore], Coroutine[Any, Any, Any]]] = {
    "a read": lambda store: store.peek(KEY),
    "a write": lambda store: store.mirror(KEY, written(AT, Version(0, 2))),
    "a transaction": lambda store: store.end([KEY], at=AT, until=AT + IDLE),
}


@pytest.mark.parametrize("call", CUT_SHORT.values(), ids=CUT_SHORT)
@pytest.mark.parametrize("kind", POSTGRES[1:], indirect=True)
def test_a_cancelled_operation_ends_at_once_and_leaves_the_pool_usable(
    kind: str, new_url: str, postgres: PostgresServer, call: Callable[[SQLStore], Coroutine[Any, Any, Any]]
) -> None:
    with opened(kind, new_url, timeout=60.0) as store:
        store.run(store.create(KEY, a_record(AT)))
        with psycopg.connect(new_url) as connection:
            query = (
                b"SELECT pid FROM pg_stat_activity WHERE application_name = 'vedsess' AND datname = current_database()"
            )
            [(pid,)] = connection.execute(query).fetchall()
        postgres.freeze_backend(pid)

        async def impatient() -> None:
            async with asyncio.timeout(0.1):
                await call(store.raw)

        started_at = time.monotonic()
        with pytest.raises(TimeoutError):
            store.run(impatient())
        assert time.monotonic() - started_at < 5.0
        assert store.run(store.peek(KEY)).values == {"a": "1"}
        assert engine_of(store).pool.checkedout() == 0


# -- event loops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][1]], indirect=True)
def test_an_asyncio_store_serves_one_event_loop_after_another(kind: str, url: str) -> None:
    at, scheme = now(), KINDS[kind][0]
    store = SQLStore.from_url(f"{scheme}://{url.partition('://')[2]}", is_async=True, timeout=10.0)

    async def once(number: int) -> Record | None:
        await store.merge(KEY, written(at, Version(0, number), n=str(number)))
        found = await store.load(KEY, at=at, refresh=NEVER)
        await store.close()
        return found

    found = [asyncio.run(once(number)) for number in (1, 2, 3)]
    assert [record and record.values for record in found] == [{"n": "1"}, {"n": "2"}, {"n": "3"}]


@pytest.mark.parametrize("kind", ["sqlite", *POSTGRES[:1]], indirect=True)
def test_a_closed_store_holds_no_connection(kind: str, url: str) -> None:
    with opened(kind, url) as store:
        store.run(store.load(KEY, at=AT, refresh=60.0))
        assert engine_of(store).pool.checkedin() == 1
        store.run(store.close())
        assert engine_of(store).pool.checkedin() == 0


def test_a_constraint_that_is_not_ours_is_for_a_person_to_mend_and_shows_no_value(sqlite_url: str) -> None:
    store, at = SQLStore.from_url(sqlite_url, is_async=False, timeout=5.0), now()
    run_blocking(store.create_tables())
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        body = "BEGIN SELECT RAISE(ABORT, 'canary'); END"
        connection.execute(f"CREATE TRIGGER not_ours BEFORE INSERT ON vedsess_sessions {body}")
    for writing in (store.create(KEY, a_record(at)), store.owe({KEY: a_record(at).born(Version(0, 1))})):
        with pytest.raises(StoreMisconfigured, match="constraints") as caught:
            run_blocking(writing)
        assert caught.value.__cause__ is caught.value.__context__ is None
    run_blocking(store.close())
