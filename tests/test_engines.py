"""Every wait of the SQL engines ends within its budget, and every failure has the right name."""

import asyncio
import contextvars
import gc
import logging
import os
import signal
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR, socket
from time import monotonic
from typing import Any, Literal, Protocol

import psycopg
import pytest
from sqlalchemy import Engine, exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.servers import PostgresServer, free_port
from vedsess_middleware.errors import ConfigurationError, StoreError, StoreMisconfigured, StoreUnavailable
from vedsess_middleware.stores.sql.engines import (
    async_engine,
    budget,
    for_writes,
    is_made_already,
    needs_tables,
    sync_engine,
    translate,
    was_deadlock,
    was_disconnected,
)

Kind = Literal["blocking", "asyncio", "asyncpg"]
Build = Callable[[str], Engine | AsyncEngine]

HANGS = 1.8  # seconds; most budgets here are 0.5, and libpq by itself gives up after 2
PID = "SELECT pg_backend_pid()"
CREATE = ("CREATE TABLE t (x)", "INSERT INTO t VALUES (1)", "SELECT count(*) FROM t")
INSERT = ("INSERT INTO t VALUES (2)", "SELECT count(*) FROM t")

both_colours = pytest.mark.parametrize("kind", ["blocking", "asyncio"])
all_kinds = pytest.mark.parametrize("kind", ["blocking", "asyncio", "asyncpg"])
asyncio_kinds = pytest.mark.parametrize("kind", ["asyncio", "asyncpg"])
both_builders = pytest.mark.parametrize("build", [sync_engine, async_engine])


class Client:
    """An engine of either colour, used from blocking test code; a call that hangs fails the test."""

    def __init__(self, url: str, kind: Kind, run: Callable[[Coroutine[Any, Any, Any]], Any], timeout: float) -> None:
        url = url.replace("postgresql:", "postgresql+asyncpg:") if kind == "asyncpg" else url
        self.engine = (sync_engine if kind == "blocking" else async_engine)(url, timeout=timeout)
        self.run = run

    def ask(self, *statements: str, write: bool = False, then: Callable[[Any], object] = lambda answer: None) -> Any:
        """The last answer of one transaction; `then` is called with it before the commit."""
        started_at = monotonic()
        try:
            return self.run(self.answer(*statements, write=write, then=then))
        finally:
            assert monotonic() - started_at < HANGS

    async def answer(
        self, *statements: str, write: bool = False, then: Callable[[Any], object] = lambda answer: None
    ) -> Any:
        if isinstance(self.engine, Engine):
            with (for_writes(self.engine) if write else self.engine).begin() as blocking:
                results = [blocking.execute(text(statement)) for statement in statements]
                then(answer := results[-1].scalar())
        else:
            async with (for_writes(self.engine) if write else self.engine).begin() as connection:
                results = [await connection.execute(text(statement)) for statement in statements]
                then(answer := results[-1].scalar())
        return answer

    def error(self, *statements: str, **options: Any) -> exc.SQLAlchemyError | OSError:
        try:
            answer = self.ask(*statements, **options)
        except (exc.SQLAlchemyError, OSError) as error:
            return error
        pytest.fail(f"should have failed, answered {answer}")

    def reason(self, *statements: str, **options: Any) -> str:
        """What the error becomes: the reason of a `StoreUnavailable`, or "misconfigured"."""
        return reason(translate(self.error(*statements, **options), "test"))

    def check_out(self) -> Callable[[], object]:
        """Take a connection out of the pool; the function returned gives it back."""
        if isinstance(self.engine, Engine):
            return self.engine.connect().close
        connection = self.run(self.engine.connect().start())
        return lambda: self.run(connection.close())

    def close(self) -> None:
        if isinstance(self.engine, Engine):
            self.engine.dispose()
        else:
            self.run(self.engine.dispose())


class Connect(Protocol):
    """Makes clients whose budget is half a second."""

    def __call__(self, url: str, kind: Kind, *, timeout: float = 0.5) -> Client: ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[Client] = []

    def make(url: str, kind: Kind, *, timeout: float = 0.5) -> Client:
        clients.append(Client(url, kind, run, timeout))
        return clients[-1]

    def run(answer: Coroutine[Any, Any, Any]) -> Any:
        return runner.run(answer, context=contextvars.copy_context())

    with asyncio.Runner() as runner:
        before = set(threading.enumerate())
        yield make
        for client in clients:
            client.close()
        for thread in set(threading.enumerate()) - before:  # aiosqlite's need the loop until they end
            thread.join(HANGS)


def reason(error: StoreError) -> str:
    assert isinstance(error, StoreUnavailable | StoreMisconfigured)
    return error.reason if isinstance(error, StoreUnavailable) else "misconfigured"


@pytest.mark.parametrize(
    ("build", "url", "drivername"),
    [
        (sync_engine, "sqlite:///x", "sqlite+pysqlite"),
        (async_engine, "sqlite:///x", "sqlite+aiosqlite"),
        (sync_engine, "postgresql://h/d", "postgresql+psycopg"),
        (async_engine, "postgresql://h/d", "postgresql+psycopg"),
        (async_engine, "postgresql+asyncpg://h/d", "postgresql+asyncpg"),
    ],
)
def test_a_plain_url_gets_the_driver_of_its_colour(build: Build, url: str, drivername: str) -> None:
    engine = build(url)
    assert engine.url.drivername == drivername
    assert engine.dialect.is_async is isinstance(engine, AsyncEngine)


@pytest.mark.parametrize(
    ("build", "url", "module", "mend"),
    [
        (sync_engine, "postgresql://h/d", "psycopg", "vedsess-middleware[postgresql]"),
        (async_engine, "postgresql://h/d", "psycopg", "vedsess-middleware[postgresql]"),
        (async_engine, "postgresql+asyncpg://h/d", "asyncpg", "vedsess-middleware[postgresql]"),
        (sync_engine, "mariadb://h/d", "pymysql", "vedsess-middleware[mysql]"),
        (async_engine, "mysql://h/d", "asyncmy", "vedsess-middleware[mysql]"),
        (async_engine, "sqlite:///x", "aiosqlite", "pip install aiosqlite"),
    ],
)
def test_a_missing_driver_is_an_error_that_names_what_to_install(
    build: Build, url: str, module: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=module) as caught:
        build(url)
    assert mend in str(caught.value)


@both_builders
@pytest.mark.parametrize("url", ["nonsense", "oracle://h/d", "postgresql+pg8000://h/d", "sqlite://host/x"])
def test_a_url_that_cannot_be_used_or_bounded_is_refused(build: Build, url: str) -> None:
    with pytest.raises(ConfigurationError, match="database_url"):
        build(url)


@pytest.mark.parametrize(("build", "driver"), [(sync_engine, "aiosqlite"), (async_engine, "pysqlite")])
def test_a_driver_of_the_other_colour_is_refused(build: Build, driver: str) -> None:
    with pytest.raises(ConfigurationError, match=driver):
        build(f"sqlite+{driver}:///x")


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf"), float("nan")])
def test_a_timeout_that_is_no_bound_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        sync_engine("sqlite://", timeout=timeout)


@both_builders
def test_building_an_engine_opens_nothing(build: Build, tmp_path: Path) -> None:
    build(f"sqlite:///{tmp_path}/x.sqlite3")
    build(f"postgresql://127.0.0.1:{free_port()}/x")
    assert list(tmp_path.iterdir()) == []


@both_builders
@pytest.mark.parametrize("url", ["sqlite://", "postgresql://h/d"])
def test_an_engine_is_freed_when_nobody_holds_it(build: Build, url: str) -> None:
    engine = weakref.ref(build(url))
    gc.collect()
    assert engine() is None


def test_an_error_does_not_show_what_was_to_be_stored() -> None:
    with pytest.raises(exc.SQLAlchemyError) as caught, sync_engine("sqlite://").begin() as connection:
        connection.execute(text("INSERT INTO nowhere VALUES (:value)"), {"value": "a secret"})
    assert "a secret" not in str(caught.value)


@contextmanager
def write_lock(url: str) -> Iterator[None]:
    """Another process holds the write lock of the file."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, url.removeprefix("sqlite:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        yield
        process.communicate()


@both_colours
def test_the_sqlite_file_and_its_companions_are_for_the_owner_only(
    kind: Kind, sqlite_url: str, tmp_path: Path, connect: Connect
) -> None:
    umask = os.umask(0)
    try:
        connect(sqlite_url, kind).ask(*CREATE, write=True)
    finally:
        os.umask(umask)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {".sqlite3": 0o600, ".sqlite3-wal": 0o600, ".sqlite3-shm": 0o600}


@both_colours
def test_sqlite_writes_ahead_and_syncs_every_commit(kind: Kind, sqlite_url: str, connect: Connect) -> None:
    client = connect(sqlite_url, kind)
    assert client.ask("PRAGMA journal_mode") == "wal"
    assert client.ask("PRAGMA synchronous") == 2


@both_colours
def test_while_another_process_writes_sqlite_is_read_and_a_write_ends_as_busy(
    kind: Kind, sqlite_url: str, connect: Connect
) -> None:
    client = connect(sqlite_url, kind)
    client.ask(*CREATE, write=True)
    with write_lock(sqlite_url):
        assert client.reason(*INSERT, write=True) == "locked"
        assert client.ask("SELECT count(*) FROM t") == 1
    assert client.ask(*INSERT, write=True) == 2


@both_colours
def test_a_sqlite_file_that_another_process_is_making_can_be_opened(
    kind: Kind, sqlite_url: str, connect: Connect
) -> None:
    with write_lock(sqlite_url):
        assert connect(sqlite_url, kind).ask("SELECT 1") == 1


def test_a_write_transaction_of_sqlite_takes_the_lock_at_its_start_and_a_plain_one_does_not(sqlite_url: str) -> None:
    engine = sync_engine(sqlite_url, timeout=0.1)
    with engine.begin(), for_writes(engine).begin():
        with pytest.raises(exc.OperationalError, match="locked"), for_writes(engine).begin():
            pytest.fail("two writers")
        with engine.begin() as reader:
            assert reader.scalar(text("SELECT 1")) == 1


@both_colours
def test_a_failed_transaction_leaves_nothing_in_sqlite(kind: Kind, sqlite_url: str, connect: Connect) -> None:
    client = connect(sqlite_url, kind)
    client.ask(*CREATE, write=True)
    client.error(*INSERT, "nonsense", write=True)
    assert client.ask("SELECT count(*) FROM t") == 1


@both_colours
def test_all_checkouts_of_a_sqlite_in_memory_see_the_same_tables(kind: Kind, connect: Connect) -> None:
    client = connect("sqlite://", kind)
    client.ask(*CREATE, write=True)
    give_back = client.check_out()
    assert client.ask(*INSERT, write=True) == 2
    give_back()


def test_a_cancelled_write_to_a_locked_sqlite_ends_and_leaves_the_pool_usable(
    sqlite_url: str, connect: Connect
) -> None:
    client = connect(sqlite_url, "asyncio")
    client.ask(*CREATE, write=True)
    with write_lock(sqlite_url):
        cancel_after(0.05, client, *INSERT, write=True)
    assert client.ask(*INSERT, write=True) == 2


def test_processes_that_meet_at_a_new_sqlite_file_all_get_their_writes_in(sqlite_url: str, connect: Connect) -> None:
    script = (
        "import sys; from sqlalchemy import text; from vedsess_middleware.stores.sql.engines import *\n"
        "engine = for_writes(sync_engine(sys.argv[1], timeout=10.0))\n"
        "for _ in range(20):\n"
        "    with engine.begin() as c:\n"
        "        c.execute(text('CREATE TABLE IF NOT EXISTS t (x)')); c.execute(text('INSERT INTO t VALUES (1)'))\n"
    )
    command = [sys.executable, "-c", script, sqlite_url]
    with ThreadPoolExecutor() as threads:
        ended = threads.map(lambda command: subprocess.run(command, capture_output=True, check=True), [command] * 4)
        assert [process.stderr for process in ended] == [b""] * 4
    assert connect(sqlite_url, "blocking").ask("SELECT count(*) FROM t") == 80


@both_colours
@pytest.mark.parametrize("name", ["missing/x.sqlite3", ".", "junk"])
def test_a_sqlite_file_that_cannot_be_opened_is_a_misconfiguration(
    kind: Kind, name: str, tmp_path: Path, connect: Connect
) -> None:
    (tmp_path / "junk").write_text("no database " * 100)
    assert connect(f"sqlite:///{tmp_path}/{name}", kind).reason("SELECT 1") == "misconfigured"


def cancel_after(seconds: float, client: Client, *statements: str, write: bool = False) -> None:
    async def impatient() -> None:
        async with asyncio.timeout(seconds):
            await client.answer(*statements, write=write)

    started_at = monotonic()
    with pytest.raises(TimeoutError):
        client.run(impatient())
    assert monotonic() - started_at < HANGS


@all_kinds
def test_a_frozen_backend_costs_one_budget_and_its_connection(
    kind: Kind, postgres_url: str, postgres: PostgresServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(postgres_url, kind)
    frozen = client.ask(PID)
    postgres.freeze_backend(frozen)
    error = client.error("SELECT 1")
    assert reason(translate(error, "test")) == "timeout"
    assert not was_disconnected(error)
    assert client.ask(PID) != frozen
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@all_kinds
def test_a_backend_that_freezes_before_the_commit_costs_one_budget(
    kind: Kind, postgres_url: str, postgres: PostgresServer, connect: Connect
) -> None:
    client = connect(postgres_url, kind)
    assert client.reason(PID, then=postgres.freeze_backend) == "timeout"
    assert client.ask("SELECT 1") == 1


@all_kinds
def test_the_statements_of_one_checkout_share_its_budget(kind: Kind, postgres_url: str, connect: Connect) -> None:
    assert connect(postgres_url, kind).reason(*["SELECT pg_sleep(0.2)"] * 50) == "timeout"


@all_kinds
def test_a_budget_around_several_checkouts_ends_them_together(
    kind: Kind, postgres_url: str, postgres: PostgresServer, connect: Connect
) -> None:
    client = connect(postgres_url, kind, timeout=60.0)
    postgres.freeze_backend(client.ask(PID))
    with budget(0.3):
        assert client.reason("SELECT 1") == "timeout"
    assert client.ask("SELECT 1") == 1


@all_kinds
def test_a_slow_statement_and_a_locked_table_cost_an_error_but_no_connection(
    kind: Kind, postgres_url: str, connect: Connect
) -> None:
    client = connect(postgres_url, kind)
    pid = client.ask(PID)
    assert client.reason("SELECT pg_sleep(60)") == "timeout"
    with psycopg.connect(postgres_url) as other:
        other.execute("CREATE TABLE t (x int)")
        other.commit()
        other.execute("LOCK TABLE t")
        assert client.reason("SELECT count(*) FROM t") == "locked"
    assert client.ask(PID) == pid


@asyncio_kinds
def test_a_task_cancelled_on_a_frozen_backend_ends_at_once(
    kind: Kind, postgres_url: str, postgres: PostgresServer, connect: Connect
) -> None:
    client = connect(postgres_url, kind, timeout=60.0)
    postgres.freeze_backend(client.ask(PID))
    cancel_after(0.1, client, "SELECT 1")
    assert client.ask("SELECT 1") == 1


def test_a_call_that_a_signal_handler_breaks_off_leaves_no_connection_out_of_step(
    postgres_url: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(postgres_url, "blocking", timeout=60.0)

    class BrokenOff(BaseException):
        """As gevent's Timeout is."""

    def break_off(*_: object) -> None:
        raise BrokenOff

    handler = signal.signal(signal.SIGALRM, break_off)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(BrokenOff):
            client.ask("SELECT pg_sleep(60)")
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert client.ask("SELECT 1") == 1
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@all_kinds
def test_a_connection_idle_for_longer_than_the_budget_is_used_again(
    kind: Kind, postgres_url: str, connect: Connect
) -> None:
    client = connect(postgres_url, kind, timeout=0.3)
    pid = client.ask(PID)
    connect(postgres_url, kind, timeout=60.0).ask("SELECT pg_sleep(0.5)")
    assert client.ask(PID) == pid


@all_kinds
def test_closing_the_pool_does_not_wait_for_a_frozen_backend(
    kind: Kind, postgres_url: str, postgres: PostgresServer, connect: Connect
) -> None:
    client = connect(postgres_url, kind, timeout=60.0)
    postgres.freeze_backend(client.ask(PID))
    started_at = monotonic()
    client.close()
    assert monotonic() - started_at < HANGS


@contextmanager
def port_that_never_accepts(backlog: int = 50) -> Iterator[int]:
    with closing(socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield server.getsockname()[1]


@contextmanager
def port_that_swallows_packets() -> Iterator[int]:
    """Its queue of connections is full, so that the next one is not even answered."""
    with port_that_never_accepts(backlog=0) as port:
        waiting = [socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
        yield port
        for one in waiting:
            one.close()


@all_kinds
@pytest.mark.parametrize("trap", [port_that_never_accepts, port_that_swallows_packets])
def test_connecting_to_a_server_that_does_not_answer_ends_within_the_budget(
    kind: Kind, trap: Any, connect: Connect
) -> None:
    with trap() as port:
        assert connect(f"postgresql://x@127.0.0.1:{port}/x", kind).reason("SELECT 1") == "timeout"


@all_kinds
@pytest.mark.parametrize("place", ["127.0.0.1:{port}/x", "/x?host=/nowhere"])
def test_a_server_that_is_not_there_is_unreachable(kind: Kind, place: str, connect: Connect) -> None:
    url = f"postgresql://x@{place.format(port=free_port())}"
    assert connect(url, kind).reason("SELECT 1") == "unreachable"


@all_kinds
def test_after_a_restart_of_the_server_one_repeat_is_enough(
    kind: Kind, postgres_url: str, postgres: PostgresServer, connect: Connect
) -> None:
    client = connect(postgres_url, kind)
    client.ask("SELECT 1")
    postgres.restart()
    error = client.error("SELECT 1")
    assert was_disconnected(error)
    assert reason(translate(error, "test")) in {"loading", "unreachable"}
    assert client.ask("SELECT 1") == 1


@all_kinds
def test_a_pool_without_a_free_connection_is_saturated_and_recovers(
    kind: Kind, postgres_url: str, connect: Connect
) -> None:
    client = connect(postgres_url, kind, timeout=3.0)
    held = [client.check_out() for _ in range(10 if kind == "blocking" else 20)]
    assert client.reason("SELECT 1") == "saturated"
    for give_back in held:
        give_back()
    assert client.ask("SELECT 1") == 1


@all_kinds
def test_the_server_knows_us_and_our_bounds(kind: Kind, postgres_url: str, connect: Connect) -> None:
    client = connect(postgres_url, kind, timeout=2.0)
    assert client.ask("SHOW application_name") == "vedsess"
    assert client.ask("SHOW statement_timeout") == "1800ms"


@both_colours
def test_the_options_of_the_url_are_kept_beside_ours(kind: Kind, postgres_url: str, connect: Connect) -> None:
    client = connect(f"{postgres_url}?application_name=mine&options=-c%20work_mem%3D1MB", kind, timeout=2.0)
    assert client.ask("SHOW application_name") == "mine"
    assert client.ask("SHOW work_mem") == "1MB"
    assert client.ask("SHOW statement_timeout") == "1800ms"


@contextmanager
def refusing(code: str, message: str) -> Iterator[int]:
    """The port of a PostgreSQL that answers every connection with one error."""
    body = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()

    def serve() -> None:
        with suppress(OSError):
            while True:
                with server.accept()[0] as connection:
                    while len(connection.recv(1024)) == 8:  # asks for TLS or GSSAPI
                        connection.sendall(b"N")
                    connection.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)

    with closing(socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(SHUT_RDWR)
        thread.join()


@all_kinds
@pytest.mark.parametrize(
    ("code", "message", "name"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen", "misconfigured"),
        ("08P01", "unsupported startup parameter in options: lock_timeout", "misconfigured"),
        ("57P03", "the database system is starting up", "loading"),
        ("57P03", "the database system is shutting down", "loading"),
        ("53300", "sorry, too many clients already", "busy"),
        ("08P01", "server login has been failing, try again later (server_login_retry)", "unreachable"),
    ],
)
def test_what_a_server_says_at_the_door_is_understood(
    kind: Kind, code: str, message: str, name: str, connect: Connect
) -> None:
    with refusing(code, message) as port:
        error = translate(connect(f"postgresql://x:y@127.0.0.1:{port}/x", kind).error("SELECT 1"), "test")
    assert reason(error) == name
    assert (message in str(error)) == (name == "misconfigured")


@all_kinds
def test_an_unknown_role_or_database_and_a_missing_permission_are_misconfigurations(
    kind: Kind, postgres_url: str, connect: Connect
) -> None:
    for wrong in (postgres_url.replace("postgres@", "nobody@"), f"{postgres_url}_not"):
        assert connect(wrong, kind).reason("SELECT 1") == "misconfigured"
    forbidden = ("CREATE TABLE t (x int)", "SET ROLE pg_monitor", "SELECT count(*) FROM t")
    assert connect(postgres_url, kind).reason(*forbidden) == "misconfigured"


@all_kinds
def test_a_read_only_transaction_is_read_only(kind: Kind, postgres_url: str, connect: Connect) -> None:
    client = connect(postgres_url, kind)
    assert client.reason("SET TRANSACTION READ ONLY", "CREATE TABLE t (x int)") == "read-only"


@pytest.mark.parametrize(
    ("database", "kind"),
    [("sqlite", "blocking"), ("sqlite", "asyncio"), ("pg", "blocking"), ("pg", "asyncio"), ("pg", "asyncpg")],
)
def test_what_is_missing_is_recognised_and_a_mistake_of_ours_is_raised_as_it_is(
    database: str, kind: Kind, sqlite_url: str, postgres_url: str, connect: Connect
) -> None:
    client = connect(sqlite_url if database == "sqlite" else postgres_url, kind)
    client.ask("CREATE TABLE t (x INTEGER)", "SELECT count(*) FROM t")
    for missing in ("SELECT * FROM nowhere", "SELECT y FROM t", "INSERT INTO t (x, y) VALUES (1, 1)"):
        error = client.error(missing)
        assert needs_tables(error)
        assert isinstance(translate(error, "test"), StoreMisconfigured)
        assert "vedsess sql-init" in str(translate(error, "test"))
    for mistake in ("SELEKT 1", "SELECT count(1, 2, 3)"):
        error = client.error(mistake)
        assert not needs_tables(error)
        with pytest.raises(exc.DBAPIError) as raised:
            translate(error, "test")
        assert raised.value is error


@pytest.mark.parametrize(
    ("database", "kind"),
    [("sqlite", "blocking"), ("sqlite", "asyncio"), ("pg", "blocking"), ("pg", "asyncio"), ("pg", "asyncpg")],
)
def test_what_somebody_else_has_made_is_recognised(
    database: str, kind: Kind, sqlite_url: str, postgres_url: str, connect: Connect
) -> None:
    client = connect(sqlite_url if database == "sqlite" else postgres_url, kind)
    client.ask("CREATE TABLE t (x INTEGER)", "CREATE INDEX ix ON t (x)", "SELECT count(*) FROM t")
    for again in ("CREATE TABLE t (x INTEGER)", "CREATE INDEX ix ON t (x)", "ALTER TABLE t ADD COLUMN x INTEGER"):
        assert is_made_already(client.error(again))
    assert not is_made_already(client.error("SELECT * FROM nowhere"))
    assert not is_made_already(TimeoutError())


def test_whoever_may_not_make_tables_is_told_who_may() -> None:
    refused = exc.ProgrammingError("ALTER", {}, DriverError("must be owner of table t", sqlstate="42501"))
    assert "vedsess sql-init" not in str(translate(refused, "test"))
    told = translate(refused, "test", making=True)
    assert isinstance(told, StoreMisconfigured)
    assert "must be owner of table t" in str(told)
    assert str(told).endswith("(`vedsess sql-init` makes it)")


class DriverError(Exception):
    """As drivers raise them: a SQLSTATE, a result code of SQLite, or the number of MySQL before the words."""

    def __init__(self, *args: object, **codes: object) -> None:
        super().__init__(*args, *codes.values())
        vars(self).update(codes)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (DriverError("x", sqlstate="53100"), "full"),
        (DriverError("x", sqlstate="40001"), "locked"),
        (DriverError("x", sqlstate="57P01"), "loading"),
        (DriverError("x", sqlstate="08006"), "unreachable"),
        (DriverError("x", sqlite_errorcode=sqlite3.SQLITE_FULL), "full"),
        (DriverError("x", sqlite_errorcode=sqlite3.SQLITE_READONLY_DIRECTORY), "read-only"),
        (DriverError("x", sqlite_errorcode=sqlite3.SQLITE_BUSY_SNAPSHOT), "locked"),
        (DriverError(1205, "Lock wait timeout exceeded"), "locked"),
        (DriverError(1290, "running with the --read-only option"), "read-only"),
        (DriverError(2013, "Lost connection to MySQL server during query (timed out)"), "timeout"),
        (DriverError(2013, "Lost connection to MySQL server during query"), "unreachable"),
        (DriverError(1045, "Access denied for user"), "misconfigured"),
        (DriverError(1146, "Table 'x.t' doesn't exist"), "misconfigured"),
        (DriverError("failed to resolve host 'x'"), "unreachable"),
        (DriverError("server does not support SSL, but SSL was required"), "misconfigured"),
    ],
    ids=str,
)
def test_every_code_has_its_name(error: DriverError, name: str) -> None:
    translated = translate(exc.OperationalError("SELECT", {}, error), "loading a session")
    assert reason(translated) == name
    assert str(translated).startswith("loading a session: ")


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (DriverError("x", sqlstate="40P01"), True),
        (DriverError("x", sqlstate="40001"), True),
        (DriverError(1213, "Deadlock found when trying to get lock"), True),
        (DriverError("x", sqlstate="55P03"), False),
        (DriverError(1205, "Lock wait timeout exceeded"), False),
        (DriverError("x", sqlite_errorcode=sqlite3.SQLITE_BUSY), False),
    ],
    ids=str,
)
def test_a_deadlock_is_told_from_a_lock_that_was_waited_for(error: DriverError, found: bool) -> None:
    assert was_deadlock(exc.OperationalError("SELECT", {}, error)) == found


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ConnectionResetError(), "unreachable"),
        (TimeoutError(), "timeout"),
        (PermissionError(), "misconfigured"),
        (ssl.SSLCertVerificationError(), "misconfigured"),
        (exc.NoSuchModuleError("x"), "misconfigured"),
    ],
    ids=repr,
)
def test_errors_from_outside_a_statement_have_their_names_too(error: OSError, name: str) -> None:
    assert reason(translate(error, "test")) == name


def test_a_duplicate_key_is_raised_as_it_is() -> None:
    duplicate = exc.IntegrityError("INSERT", {}, DriverError("x", sqlstate="23505"))
    with pytest.raises(exc.IntegrityError) as raised:
        translate(duplicate, "test")
    assert raised.value is duplicate


def in_child(answer: Callable[[], object]) -> str:
    """What the function returns in a forked child; nothing where it raises."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(writer, str(answer()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, encoding="utf-8") as answers:
        return answers.read()


@all_kinds
def test_a_forked_child_connects_anew_and_leaves_its_parents_connection_alone(
    kind: Kind, postgres_url: str, connect: Connect
) -> None:
    client = connect(postgres_url, kind)
    pid = client.ask(PID)
    children = {in_child(lambda: asyncio.run(client.answer(PID))) for _ in range(2)}
    assert len(children - {str(pid), ""}) == 2
    assert client.ask(PID) == pid
