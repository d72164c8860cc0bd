"""SQLAlchemy engines whose every wait is bounded, and what their errors mean.

One budget of `timeout` seconds covers one checkout: the wait for a pooled connection (at most half of it), connecting,
every statement, the commit.  A connection whose budget ran out is dropped without asking the server, which may be the
one that does not listen.  So it is for SQLite, psycopg and asyncpg; over PyMySQL and asyncmy each wait has the budget
for itself.  Two waits remain the system's: the look-up of a host name by a blocking engine, and a disk that hangs.

No connection is pinged before use: it may be dead, and then the caller repeats once (`was_disconnected`).
An asyncio engine belongs to one event loop.
"""

import asyncio
import functools
import math
import os
import re
import sqlite3
import ssl
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event, exc, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection, QueuePool, StaticPool

from vedsess_middleware.errors import ConfigurationError, Reason, StoreError, StoreMisconfigured, StoreUnavailable

if TYPE_CHECKING:
    import psycopg
    from psycopg.abc import RV, PQGen, PQGenConn
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "async_engine",
    "budget",
    "for_writes",
    "is_missing_table",
    "sync_engine",
    "translate",
    "was_disconnected",
]

S = TypeVar("S")
T = TypeVar("T")
AnyEngine = TypeVar("AnyEngine", Engine, "AsyncEngine")
Code = int | str | None
Fault = Reason | Literal["misconfigured"]

_WRITE = "vedsess_write"
_ENDS_AT = "vedsess_budget_ends_at"
_TICK = 0.05

# Blocking drivers and asyncio drivers, the default first.
_DRIVERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sqlite": (("pysqlite",), ("aiosqlite",)),
    "postgresql": (("psycopg",), ("psycopg", "asyncpg")),
    "mysql": (("pymysql",), ("asyncmy",)),
    "mariadb": (("pymysql",), ("asyncmy",)),
}
# Result codes of SQLite (below 1000), error numbers of MySQL, SQLSTATEs of PostgreSQL (two characters: the class).
_CODES: dict[Fault, tuple[int | str, ...]] = {
    "busy": (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
    + (1040, 1203, 1205, 1213, "40", "53300", "55P03"),
    "full": (sqlite3.SQLITE_FULL, 1021, 1114, "53"),
    "loading": (1053, "57P01", "57P02", "57P03"),
    "misconfigured": (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
    + (1044, 1045, 1049, 1130, 1142, 1146, 1227, 1698, 2061, "28", "3D", "3F", "42501", "42P01", "55000"),
    "read-only": (sqlite3.SQLITE_READONLY, 1290, 1792, 1836, "25006"),
    "timeout": (1969, 3024, "25P03", "25P04", "57014"),
    "unreachable": (sqlite3.SQLITE_IOERR, 2002, 2003, 2006, 2013, 2055, "08", "57P05", "58"),
}
_FAULTS: dict[Code, Fault] = {code: fault for fault, codes in _CODES.items() for code in codes}
# Where there is no code, or one that says too little; the first match counts.  A double space follows the word that
# libpq copies from a server's refusal, whatever the server's language.
_WORDINGS: tuple[tuple[Fault, str], ...] = (
    ("loading", "database system is"),
    ("busy", "too many clients|too many connections|connection slots"),
    ("unreachable", "server login has been failing"),
    ("timeout", r"time budget|timeout expired|timed out\)"),
    ("misconfigured", r"failed: \S+:  |no password supplied|unsupported startup parameter"),
    ("misconfigured", "certificate|SSL was required|(bad: |^)invalid "),
)
_CODES_WITH_WORDING: tuple[Code, ...] = (None, 2003, 2013, "08P01")

_ends_at: ContextVar[float] = ContextVar("vedsess_sql_budget_ends_at", default=math.inf)


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Let all checkouts of these engines inside the block end within `seconds` together, such as a try and its retry.

    Each keeps its own `timeout` as well; nested budgets only shorten.
    """
    token = _ends_at.set(min(_ends_at.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _ends_at.reset(token)


def sync_engine(url: str, *, timeout: float = 1.0) -> Engine:
    """A blocking engine whose checkouts end within `timeout` seconds; nothing is opened before the first.

    A plain `sqlite://`, `postgresql://`, `mysql://` or `mariadb://` chooses pysqlite, psycopg or PyMySQL.

    Raises:
        ConfigurationError: the URL cannot be used, or its driver is not installed.
    """
    engine = _create(create_engine, url, timeout, is_async=False)
    _listen(engine, timeout)
    return engine


def async_engine(url: str, *, timeout: float = 1.0) -> "AsyncEngine":
    """An asyncio engine for one event loop whose checkouts end within `timeout` seconds; opens nothing before.

    A plain `sqlite://`, `postgresql://`, `mysql://` or `mariadb://` chooses aiosqlite, psycopg or asyncmy.

    Raises:
        ConfigurationError: the URL cannot be used, or its driver is not installed.
    """
    try:
        from sqlalchemy.ext.asyncio import create_async_engine
    except ImportError as error:
        raise ConfigurationError(f"an asyncio engine needs greenlet: {error}") from error
    engine = _create(create_async_engine, url, timeout, is_async=True)
    _listen(engine.sync_engine, timeout)
    return engine


def for_writes(engine: AnyEngine) -> AnyEngine:
    """The same engine over the same pool, for transactions that will write.

    On SQLite they take the write lock when they begin (`BEGIN IMMEDIATE`).  A plain transaction that reads and then
    writes fails as `busy` if anyone wrote in between, whatever the timeout.  Other databases see no difference.
    """
    return engine.execution_options(**{_WRITE: True})


def was_disconnected(error: BaseException) -> bool:
    """Whether a pooled connection turned out to be dead, so that one repeat at once, on a new one, may succeed.

    False for timeouts.  If it happened during the commit, the transaction may have been applied.
    """
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated and _fault(error) != "timeout"


def is_missing_table(error: BaseException) -> bool:
    """Whether a statement failed because its table does not exist."""
    if not isinstance(error, exc.DBAPIError) or error.orig is None:
        return False
    code = _code(error.orig)
    return code in ("42P01", 1146) or (code == sqlite3.SQLITE_ERROR and "no such table" in str(error.orig))


def translate(error: exc.SQLAlchemyError | OSError, what: str) -> StoreError:
    """The store error to raise `from` this one; its message begins with `what`.  (`TimeoutError` is an `OSError`.)

    Raises:
        SQLAlchemyError: the given error itself, where a statement of ours is at fault.
    """
    fault = _fault(error)
    if fault is None:
        raise error
    if fault != "misconfigured":
        return StoreUnavailable(f"{what}: SQL store {fault}", reason=fault)
    cause = str(getattr(error, "orig", None) or error).split("\n", 1)[0]
    mend = " (`vedsess sql-init` makes it)" if is_missing_table(error) else ""
    return StoreMisconfigured(f"{what}: {cause}{mend}")


def _fault(error: BaseException) -> Fault | None:
    match error:
        case exc.TimeoutError():
            return "saturated"
        case TimeoutError():
            return "timeout"
        case exc.NoSuchModuleError() | exc.ArgumentError() | PermissionError() | ssl.SSLCertVerificationError():
            return "misconfigured"
        case OSError():
            return "unreachable"
        case exc.DBAPIError(orig=BaseException() as orig):
            lost = error.connection_invalidated or isinstance(error, exc.OperationalError)
            return "misconfigured" if is_missing_table(error) else _driver_fault(orig, lost=lost)
    return None


def _driver_fault(error: BaseException, *, lost: bool) -> Fault | None:
    code = _code(error)
    if code in _CODES_WITH_WORDING:
        for fault, wording in _WORDINGS:
            if re.search(wording, str(error)):
                return fault
    if code is None:
        return "unreachable" if lost else None
    return _FAULTS.get(code) or (_FAULTS.get(code[:2]) if isinstance(code, str) else None)


def _code(error: BaseException) -> Code:
    """The primary result code of SQLite, the SQLSTATE of PostgreSQL or the error number of MySQL."""
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return int(code) & 0xFF
    if (code := getattr(error, "sqlstate", None)) is not None:
        return str(code)
    return next((arg for arg in error.args[:1] if isinstance(arg, int)), None)


def _create(create: Callable[..., T], text: str, timeout: float, *, is_async: bool) -> T:
    if not 0 < timeout < math.inf:
        raise ConfigurationError(f"the SQL timeout must be a positive number of seconds, not {timeout}")
    url = _with_driver(text, is_async=is_async)
    try:
        connect_args = _connect_args(url, timeout, is_async=is_async)
        return create(url, hide_parameters=True, connect_args=connect_args, **_pool(url, timeout, is_async=is_async))
    except exc.ArgumentError as error:
        raise ConfigurationError(f"database_url: {error}") from error
    except ImportError as error:
        raise ConfigurationError(f"database_url: {error}; {_mend(url)}") from error


def _with_driver(text: str, *, is_async: bool) -> URL:
    try:
        url = make_url(text)
    except exc.ArgumentError as error:
        raise ConfigurationError("database_url is no database URL, such as postgresql://user@host/name") from error
    backend, _, driver = url.drivername.partition("+")
    if backend not in _DRIVERS:
        raise ConfigurationError(f"database_url: {backend!r} is none of {', '.join(_DRIVERS)}")
    drivers = _DRIVERS[backend][is_async]
    if driver and driver not in drivers:
        colour = "asyncio" if is_async else "blocking"
        raise ConfigurationError(f"database_url: the {colour} engine has {' or '.join(drivers)}, not {driver!r}")
    return url.set(drivername=f"{backend}+{driver or drivers[0]}")


def _mend(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "pip install aiosqlite"
    extra = "postgresql" if url.get_backend_name() == "postgresql" else "mysql"
    return f"pip install 'vedsess-middleware[{extra}]'"


def _connect_args(url: URL, timeout: float, *, is_async: bool) -> dict[str, Any]:
    match url.get_driver_name():
        case "pysqlite" | "aiosqlite":
            return {"isolation_level": None, "timeout": 0.0, "check_same_thread": False}
        case "psycopg":
            return _psycopg_args(url, timeout, is_async=is_async)
        case "asyncpg":
            settings = {name: str(value) for name, value in _server_settings(timeout).items()}
            return {"async_creator_fn": _connect_asyncpg, "server_settings": settings | {"application_name": "vedsess"}}
    return {"connect_timeout": timeout, "read_timeout": timeout, "write_timeout": timeout}


def _psycopg_args(url: URL, timeout: float, *, is_async: bool) -> dict[str, Any]:
    own = [f"-c {name}={value}" for name, value in _server_settings(timeout).items()]
    args: dict[str, Any] = {"fallback_application_name": "vedsess", "keepalives_idle": 30}
    args = {name: value for name, value in args.items() if name not in url.query}
    args["options"] = " ".join([*own, *url.normalized_query.get("options", ())])
    args["connect_timeout"] = max(2, math.ceil(timeout))
    if is_async:
        args["async_creator_fn"] = _psycopg_classes()[1].connect
    return args


def _server_settings(timeout: float) -> dict[str, int]:
    """In milliseconds.  The server gives up first, so that a slow statement costs an error and not the connection."""
    shares = {"lock_timeout": 0.8, "statement_timeout": 0.9, "idle_in_transaction_session_timeout": 2.0}
    return {name: max(1, int(timeout * share * 1000)) for name, share in shares.items()}


class _BudgetPool(QueuePool):
    """Starts the budget, which is twice the pool's own timeout, before it looks for a connection."""

    def connect(self) -> PoolProxiedConnection:
        with budget(2 * self.timeout()):
            return super().connect()


class _AsyncBudgetPool(_BudgetPool, AsyncAdaptedQueuePool):
    pass


def _pool(url: URL, timeout: float, *, is_async: bool) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        return {"poolclass": StaticPool}
    size = 10 if is_async else 5
    pool = _AsyncBudgetPool if is_async else _BudgetPool
    return {"poolclass": pool, "pool_size": size, "max_overflow": size, "pool_timeout": timeout / 2}


def _listen(engine: Engine, timeout: float) -> None:
    event.listen(engine, "checkout", _start_budget)
    match engine.driver:
        case "pysqlite" | "aiosqlite":
            _listen_sqlite(engine, timeout)
        case "psycopg" if not engine.dialect.is_async:
            event.listen(engine, "do_connect", _connect_psycopg)
        case "asyncpg":
            event.listen(engine, "checkin", _stop_budget)
            event.listen(engine, "handle_error", _name_timeout)
    _engines.add(engine)


def _start_budget(_: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    entry.info[_ENDS_AT] = _ends_at.get()
    if start := getattr(entry.driver_connection, "start_budget", None):
        start(_ends_at.get())


def _listen_sqlite(engine: Engine, timeout: float) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        with _busy_ignored():  # another process is switching this very moment
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITE):
            _shorten_busy_timeout(connection, timeout)
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")

    event.listen(engine, "do_connect", _create_sqlite_file)


@contextmanager
def _busy_ignored() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if _FAULTS.get(_code(error)) != "busy":
            raise


def _shorten_busy_timeout(connection: Connection, timeout: float) -> None:
    """Leave SQLite what the wait for a connection left over; at no cost when there was none."""
    left = min(timeout, max(0.0, connection.info[_ENDS_AT] - monotonic()))
    if abs(left - connection.info.get("vedsess_busy", timeout)) > timeout / 10:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={int(left * 1000)}")
        connection.info["vedsess_busy"] = left


def _create_sqlite_file(_: object, _entry: ConnectionPoolEntry, args: list[Any], _kwargs: dict[str, Any]) -> None:
    """Make a missing file readable for its owner only; what SQLite cannot open it reports itself."""
    path = str(args[0])
    if path == ":memory:" or path.startswith("file:"):
        return
    with suppress(OSError):
        try:
            # No descriptor: closing one would drop the locks that other connections of this process hold on the file.
            os.mknod(path, stat.S_IFREG | 0o600)
        except FileExistsError:
            return
        except (AttributeError, OSError):  # Windows has it not, macOS allows it to root only
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _connect_psycopg(
    _: object, _entry: ConnectionPoolEntry, args: list[Any], kwargs: dict[str, Any]
) -> DBAPIConnection:
    return cast(DBAPIConnection, _psycopg_classes()[0].connect(*args, **kwargs))


def _until(ends_at: float, steps: "Generator[S, Any, T]", error: type[Exception]) -> "Generator[S, Any, T]":
    """The generator of a psycopg operation, ended by `error` when time is up; it is resumed every tick."""
    ready = None
    try:
        while monotonic() < ends_at:
            ready = yield steps.send(ready)
    except StopIteration as done:
        return cast(T, done.value)
    raise error("the time budget of the SQL store is used up")


@functools.cache
def _psycopg_classes() -> "tuple[type[psycopg.Connection[Any]], type[psycopg.AsyncConnection[Any]]]":
    import psycopg
    from psycopg import waiting

    class Bounded:
        ends_at = math.inf
        pgconn: psycopg.pq.abc.PGconn

        def start_budget(self, ends_at: float) -> None:
            self.ends_at = ends_at

        @contextmanager
        def dropped_when_out_of_step(self) -> Iterator[None]:
            try:
                yield
            except BaseException as error:
                if monotonic() >= self.ends_at or not isinstance(error, psycopg.Error):
                    self.pgconn.finish()
                raise

    class BoundedConnection(Bounded, psycopg.Connection[Any]):
        @classmethod
        def _connect_gen(cls, *args: Any, **kwargs: Any) -> "PQGenConn[Self]":
            ends_at = _ends_at.get()
            steps = super()._connect_gen(*args, **kwargs)
            connection = yield from _until(ends_at, steps, psycopg.errors.ConnectionTimeout)
            connection.start_budget(ends_at)
            return connection

        def wait(self, gen: "PQGen[RV]", interval: float = _TICK, timeout: float | None = None) -> "RV":
            steps = _until(self.ends_at, gen, psycopg.errors.QueryCanceled)
            with self.dropped_when_out_of_step():
                return waiting.wait(steps, self.pgconn.socket, interval=interval)

    class BoundedAsyncConnection(Bounded, psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> "Self":
            ends_at = _ends_at.get()
            try:
                async with asyncio.timeout(ends_at - monotonic()):
                    connection = await super().connect(*args, **kwargs)
            except TimeoutError as error:
                raise psycopg.errors.ConnectionTimeout("connection timeout expired") from error
            connection.start_budget(ends_at)
            return connection

        async def wait(self, gen: "PQGen[RV]", interval: float = _TICK, timeout: float | None = None) -> "RV":
            steps = _until(self.ends_at, gen, psycopg.errors.QueryCanceled)
            with self.dropped_when_out_of_step():
                return await waiting.wait_async(steps, self.pgconn.socket, interval=interval)

    return BoundedConnection, BoundedAsyncConnection


@functools.cache
def _asyncpg_class() -> Any:
    import asyncpg  # type: ignore[import-untyped]

    class BoundedConnection(asyncpg.Connection):  # type: ignore[misc]
        timer: asyncio.TimerHandle | None = None

        def start_budget(self, ends_at: float) -> None:
            self.stop_budget()
            self.timer = asyncio.get_running_loop().call_later(ends_at - monotonic(), self.terminate)

        def stop_budget(self) -> None:
            if self.timer:
                self.timer.cancel()

        async def close(self, *, timeout: float | None = None) -> None:
            # The original waits for the server to hang up.
            self.stop_budget()
            self.terminate()

    return BoundedConnection


async def _connect_asyncpg(*args: Any, **kwargs: Any) -> Any:
    import asyncpg

    ends_at = _ends_at.get()
    async with asyncio.timeout(ends_at - monotonic()):
        connection = await asyncpg.connect(*args, connection_class=_asyncpg_class(), **kwargs)
    connection.start_budget(ends_at)
    return connection


def _stop_budget(_: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    if entry.driver_connection is not None:
        entry.driver_connection.stop_budget()


def _name_timeout(context: ExceptionContext) -> BaseException | None:
    """Tell a connection that we dropped from one that broke."""
    lost = context.is_disconnect and isinstance(context.original_exception, Exception)
    if lost and context.connection and monotonic() >= context.connection.info.get(_ENDS_AT, math.inf):
        return TimeoutError("the time budget of the SQL store is used up")
    return None


_engines: WeakSet[Engine] = WeakSet()
_inherited: list[Pool] = []


def _leave_connections_to_parent() -> None:
    """After a fork, start with an empty pool; the old ones are kept, for closing them would disturb the parent's."""
    for engine in tuple(_engines):
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections_to_parent)
