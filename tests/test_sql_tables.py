"""The tables of an earlier release get what they lack on first use, and lose nothing."""

import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Double,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    create_engine,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import mysql

from tests.stores import IDLE, NEVER, Subject, a_delta, a_record, a_tombstone, key, now, running
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import StoreError, StoreMisconfigured, StoreUnavailable
from vedsess_middleware.stores.record import Record, Version
from vedsess_middleware.stores.sql import SQLStore, ddl
from vedsess_middleware.stores.sql.tables import LATER, sessions, to_row

KEY, ENDED, OTHER = key("one"), key("ended"), key("other")
AT = now()
ADA = a_record(AT, user_id="ada").born(Version(1, 0))
TOMBSTONE = a_tombstone(AT)

_old = MetaData()
_Instant = DateTime().with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
OLD = Table(
    "vedsess_sessions",
    _old,
    Column("session_id", String(64), primary_key=True),
    Column("user_id", String(255), index=True),
    Column("session_fingerprint", String(255)),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("last_activity", _Instant, nullable=False),
    Column("expires_at", _Instant, nullable=False, index=True),
    Column("is_active", Boolean, nullable=False),
    Column("user_agent", String(64)),
    Column("ip_address", String(64)),
    Column("idle_timeout", Double, nullable=False),
    Column("deadline_at", _Instant, nullable=False),
    Column("s", BigInteger, nullable=False),
    Column("r", BigInteger, nullable=False),
    Column("dirty", Boolean, nullable=False, index=True),
    Column("fields", Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    mysql_charset="utf8mb4",
    mariadb_charset="utf8mb4",
)
FACTS = Table(
    "vedsess_facts", _old, Column("name", String(32), primary_key=True), Column("value", String(255), nullable=False)
)

KINDS = {
    "sqlite": ("sqlite", False),
    "sqlite-asyncio": ("sqlite", True),
    "postgres-psycopg": ("postgresql", False),
    "postgres-psycopg-asyncio": ("postgresql+psycopg", True),
    "postgres-asyncpg": ("postgresql+asyncpg", True),
    "mariadb": ("mariadb", False),
    "mariadb-asyncio": ("mariadb", True),
}
FIXTURES = {"sqlite": "sqlite_url", "postgres": "postgres_url", "mariadb": "mariadb_url"}


def of_kinds(*kinds: str) -> pytest.MarkDecorator:
    """One test for each kind; those of the operating system carry its marker."""
    marked = [pytest.param(kind, marks=pytest.mark.system if kind.startswith("mariadb") else ()) for kind in kinds]
    return pytest.mark.parametrize("kind", marked, indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    """A database with the tables of an earlier release, and a row of each sort."""
    url = str(request.getfixturevalue(FIXTURES[kind.partition("-")[0]]))
    with connected(url) as connection:
        _old.create_all(connection)
        for name, record in ((KEY, ADA), (ENDED, TOMBSTONE)):
            connection.execute(insert(OLD), old_row(name, record))
        connection.execute(insert(FACTS), {"name": "epoch", "value": "one"})
    return url


def old_row(name: str, record: Record) -> dict[str, Any]:
    """A row as an earlier release writes it."""
    return {name: value for name, value in to_row(name, record, dirty=False).items() if name not in LATER}


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """A transaction of SQLAlchemy, with nothing of ours."""
    drivers = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql", "sqlite": "sqlite"}
    address = make_url(url)
    with create_engine(address.set(drivername=drivers[address.drivername]), poolclass=NullPool).begin() as connection:
        yield connection


def the_store(kind: str, url: str, *, timeout: float = 10.0) -> SQLStore:
    scheme, is_async = KINDS[kind]
    return SQLStore.from_url(f"{scheme}://{url.partition('://')[2]}", is_async=is_async, timeout=timeout)


def columns_and_indexes(url: str) -> tuple[list[str], set[str | None]]:
    """What a table of sessions has."""
    with connected(url) as connection:
        inspector = inspect(connection)
        columns = [column["name"] for column in inspector.get_columns("vedsess_sessions")]
        return columns, {index["name"] for index in inspector.get_indexes("vedsess_sessions")}


everywhere = of_kinds(*KINDS)
FIRST: dict[str, Callable[[Subject], Coroutine[Any, Any, Any]]] = {
    "load": lambda store: store.load(KEY, at=AT, refresh=60.0),
    "create": lambda store: store.create(OTHER, a_record(AT)),
    "update": lambda store: store.update(KEY, a_delta(AT, put={"b": "2"})),
    "update of what was loaded": lambda store: store.update(KEY, a_delta(AT, loaded=ADA, put={"b": "2"})),
    "take over": lambda store: store.take_over(KEY, a_delta(AT, put={"b": "2"})),
    "mirror of many": lambda store: store.mirror_all({KEY: ADA, OTHER: ADA}),
    "owe": lambda store: store.owe({KEY: ADA, OTHER: ADA}),
    "owed": lambda store: store.owed([KEY]),
    "paid": lambda store: store.paid(KEY, ADA.version, record=ADA, epoch="one"),
    "replace": lambda store: store.replace(ENDED, OTHER, ADA, at=AT, until=AT + IDLE, even_if_gone=True),
    "end": lambda store: store.end([OTHER], at=AT, until=AT + IDLE),
    "records of a user": lambda store: store.records_of("ada", at=AT),
    "records of a sid": lambda store: store.records_of("s1", at=AT, by="sid"),
    "lock": lambda store: store.lock(KEY, "word", at=AT, until=AT + 5.0),
    "reserve": lambda store: store.reserve("ada", OTHER, limit=3, deny=False, at=AT),
    "cut off": lambda store: store.cut_off("eve", at=AT, until=AT + IDLE),
    "cleanup": lambda store: store.cleanup(at=AT),
}


@everywhere
def test_the_rows_of_an_earlier_release_are_sessions_as_before(kind: str, url: str) -> None:
    with running(the_store(kind, url)) as store:
        assert store.run(store.load(KEY, at=AT, refresh=NEVER)) == ADA
        assert store.run(store.load(ENDED, at=AT, refresh=NEVER)) == TOMBSTONE
        record = store.run(store.load(KEY, at=AT, refresh=NEVER))
        assert (record.sid, record.origin, record.successor) == (None, "", "")
        assert store.run(store.poll()).epoch == "one"
        assert store.run(store.update(KEY, a_delta(AT, put={"b": "2"}))).version == (2, 0)
        store.run(store.create(OTHER, a_record(AT, sid="s1", origin="- 0 0 -")))
        assert set(store.run(store.records_of("s1", at=AT, by="sid"))) == {OTHER}


@everywhere
def test_the_first_use_adds_every_column_and_index(kind: str, url: str) -> None:
    with running(the_store(kind, url)) as store:
        store.run(store.load(KEY, at=AT, refresh=NEVER))
    columns, indexes = columns_and_indexes(url)
    assert columns == sessions.c.keys()
    assert {index.name for index in sessions.indexes} <= indexes


@pytest.mark.parametrize("first", FIRST)
@of_kinds("sqlite", "postgres-psycopg")
def test_whatever_comes_first_adds_what_is_missing(kind: str, url: str, first: str) -> None:
    with running(the_store(kind, url)) as store:
        store.run(FIRST[first](store))
        assert store.run(store.load(KEY, at=AT, refresh=NEVER)).user_id == "ada"


@everywhere
def test_whoever_makes_the_tables_mends_old_ones(kind: str, url: str) -> None:
    with running(the_store(kind, url)) as store:
        assert not store.run(store.has_table())
        for _ in range(2):
            store.run(store.create_tables())
            assert store.run(store.has_table())
    assert columns_and_indexes(url)[0] == sessions.c.keys()


@everywhere
def test_users_whose_names_differ_in_nothing_but_case_are_two_in_an_old_table_too(kind: str, url: str) -> None:
    with running(the_store(kind, url)) as store:
        store.run(store.create(OTHER, a_record(AT, user_id="Ada", sid="S1")))
        assert set(store.run(store.records_of("ada", at=AT))) == {KEY}
        assert set(store.run(store.records_of("Ada", at=AT))) == {OTHER}
        assert store.run(store.records_of("s1", at=AT, by="sid")) == {}
        assert store.run(store.end([], user_id="Ada", at=AT, until=AT + IDLE)) == [OTHER]
        assert not store.run(store.load(KEY, at=AT, refresh=NEVER)).gone


@everywhere
def test_a_process_of_the_earlier_release_goes_on_beside_the_new_one(kind: str, url: str) -> None:
    with running(the_store(kind, url)) as store:
        store.run(store.create_tables())
        with connected(url) as connection:
            connection.execute(insert(OLD), old_row(OTHER, ADA))
            assert connection.execute(select(OLD).where(OLD.c.session_id == KEY)).one().user_id == "ada"
        assert store.run(store.load(OTHER, at=AT, refresh=NEVER)) == ADA
        assert store.run(store.lock(OTHER, "word", at=AT, until=AT + 5.0)) is not None


USE_AT_ONCE = """
import sys, time
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.stores.record import Record
from vedsess_middleware.stores.sql import SQLStore
store, at = SQLStore.from_url(sys.argv[1], is_async=False, timeout=10.0), time.time()
print("ready", flush=True)
sys.stdin.readline()
assert run_blocking(store.peek(sys.argv[2])).user_id == "ada"
run_blocking(store.create(sys.argv[3], Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 1800.0)))
"""


@of_kinds("sqlite", "postgres-psycopg", "mariadb")
def test_processes_that_meet_at_an_old_table_mend_it_once(kind: str, url: str) -> None:
    command = [sys.executable, "-c", USE_AT_ONCE, url, KEY]
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
    assert columns_and_indexes(url)[0] == sessions.c.keys()


@of_kinds("sqlite", "postgres-psycopg", "mariadb")
@pytest.mark.parametrize("made", [True, False])
def test_many_who_meet_at_tables_that_lack_something_all_get_in(
    kind: str, url: str, made: bool, request: pytest.FixtureRequest
) -> None:
    if not made:
        with connected(url) as connection:
            _old.drop_all(connection)
    stores = [the_store(kind, url) for _ in range(8)]
    with running(stores[0]) as store:
        works = [partial(each.create, key(f"n{number}"), a_record(AT)) for number, each in enumerate(stores)]
        assert store.run(store.together(works)) == [(1, 0)] * 8
    for each in stores[1:]:
        run_blocking(each.close())
    columns, indexes = columns_and_indexes(url)
    assert columns == sessions.c.keys()
    assert {index.name for index in sessions.indexes} <= indexes


@of_kinds("postgres-psycopg", "postgres-psycopg-asyncio", "postgres-asyncpg")
def test_a_role_that_may_not_alter_the_table_is_told_who_makes_it(kind: str, url: str) -> None:
    role = f"app_{make_url(url).database}"
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (f"CREATE ROLE {role} LOGIN", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"):
            connection.execute(statement.encode())
    with running(the_store(kind, url.replace("postgres@", f"{role}@"))) as store:
        with pytest.raises(StoreError) as raised:
            store.run(store.load(KEY, at=AT, refresh=NEVER))
        assert isinstance(raised.value, StoreMisconfigured)
        assert "vedsess sql-init" in str(raised.value)
        assert KEY not in str(raised.value)
        with running(the_store(kind, url)) as owner:
            owner.run(owner.create_tables())
        assert store.run(store.load(KEY, at=AT, refresh=NEVER)) == ADA


@of_kinds("sqlite", "postgres-psycopg")
def test_an_index_that_takes_too_long_keeps_nobody_out_for_long(
    kind: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(_: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(ddl, "make_indexes", too_long)
    with running(the_store(kind, url)) as store:
        with pytest.raises(StoreUnavailable):
            store.run(store.load(KEY, at=AT, refresh=NEVER))
        assert store.run(store.load(KEY, at=AT, refresh=NEVER)) == ADA
        monkeypatch.undo()
        store.run(store.create_tables())
    assert "ix_vedsess_sessions_sid" in columns_and_indexes(url)[1]


@of_kinds("sqlite", "postgres-psycopg", "mariadb")
def test_the_printed_statements_say_how_an_old_table_is_mended(kind: str, url: str) -> None:
    *statements, additions = ddl.table_statements(url)
    assert all(line.startswith("-- ") for line in additions.splitlines())
    mending = [line.removeprefix("-- ").rstrip(";") for line in additions.splitlines()[1:]]
    others = [statement for statement in statements if "CREATE TABLE vedsess_sessions" not in statement]
    missing = [each for each in others if "vedsess_users" in each or "sessions_sid" in each]
    with connected(url) as connection:
        for statement in [*mending, *missing]:
            connection.execute(text(statement))
    with running(the_store(kind, url)) as store:
        assert store.run(store.has_table())
        assert store.run(store.load(KEY, at=AT, refresh=NEVER)) == ADA
