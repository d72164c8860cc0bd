"""SQLAlchemy engines whose every wait is bounded, and what their errors mean.

One budget of `timeout` seconds covers one checkout: the wait for a pooled connection (at most half of it), connecting,
every statement, the commit.  A connection whose budget ran out is dropped without asking the server, which may be the
one that does not listen.  So it is for SQLite, psycopg and asyncpg; over PyMySQL and asyncmy each wait has the budget
for itself.  Two waits remain the system's: the look-up of a host name by a blocking engine, and a disk that hangs.

No connection is pinged before use: it may be dead, and then the caller repeats once (`was_disconnected`).
Drivers are left in autocommit, and transactions are begun by us (`doors`).
An asyncio engine belongs to one event loop.
"""

import math
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, TypeVar, cast
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event, exc, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, StaticPool

from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.stores.sql.bounded import (
    AsyncBudgetPool,
    BudgetPool,
    budget,
    connect_asyncpg,
    ends_at,
    psycopg_classes,
)
from vedsess_middleware.stores.sql.doors import begin_transactions, for_writes, is_marked
from vedsess_middleware.stores.sql.faults import (
    is_locked,
    is_made_already,
    needs_tables,
    translate,
    was_deadlock,
    was_disconnected,
)

__all__ = [
    "async_engine",
    "budget",
    "for_writes",
    "is_made_already",
    "needs_tables",
    "sync_engine",
    "translate",
    "was_deadlock",
    "was_disconnected",
]

T = TypeVar("T")

_ENDS_AT = "vedsess_budget_ends_at"

# Blocking drivers and asyncio drivers, the default first.
_DRIVERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sqlite": (("pysqlite",), ("aiosqlite",)),
    "postgresql": (("psycopg",), ("psycopg", "asyncpg")),
    "mysql": (("pymysql",), ("asyncmy",)),
    "mariadb": (("pymysql",), ("asyncmy",)),
}


def sync_engine(url: str, *, timeout: float = 1.0) -> Engine:
    """A blocking engine whose checkouts end within `timeout` seconds; nothing is opened before the first.

    A plain `sqlite://`, `postgresql://`, `mysql://` or `mariadb://` chooses pysqlite, psycopg or PyMySQL.

    Raises:
        ConfigurationError: the URL cannot be used, or its driver is not installed.
    """
    engine = _create(create_engine, url, timeout, is_async=False)
    _listen(engine, timeout)
    return engine


def async_engine(url: str, *, timeout: float = 1.0) -> AsyncEngine:
    """An asyncio engine, for one event loop, whose checkouts end within `timeout` seconds; see `sync_engine`.

    A plain `sqlite://`, `postgresql://`, `mysql://` or `mariadb://` chooses aiosqlite, psycopg or asyncmy.

    Raises:
        ConfigurationError: the URL cannot be used, or its driver is not installed.
    """
    engine = _create(create_async_engine, url, timeout, is_async=True)
    _listen(engine.sync_engine, timeout)
    return engine


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
            return {"async_creator_fn": connect_asyncpg, "server_settings": settings | {"application_name": "vedsess"}}
        case "asyncmy":
            return {"autocommit": True, "connect_timeout": timeout, "read_timeout": timeout}
    return {"autocommit": True, "connect_timeout": timeout, "read_timeout": timeout, "write_timeout": timeout}


def _psycopg_args(url: URL, timeout: float, *, is_async: bool) -> dict[str, Any]:
    own = [f"-c {name}={value}" for name, value in _server_settings(timeout).items()]
    args: dict[str, Any] = {"fallback_application_name": "vedsess", "keepalives_idle": 30}
    args = {"autocommit": True} | {name: value for name, value in args.items() if name not in url.query}
    args["options"] = " ".join([*own, *url.normalized_query.get("options", ())])
    args["connect_timeout"] = max(2, math.ceil(timeout))
    if is_async:
        args["async_creator_fn"] = psycopg_classes()[1].connect
    return args


def _server_settings(timeout: float) -> dict[str, int]:
    """In milliseconds.  The server gives up first, so that a slow statement costs an error and not the connection."""
    shares = {"lock_timeout": 0.8, "statement_timeout": 0.9, "idle_in_transaction_session_timeout": 2.0}
    return {name: max(1, int(timeout * share * 1000)) for name, share in shares.items()}


def _pool(url: URL, timeout: float, *, is_async: bool) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        return {"poolclass": StaticPool}
    size = 10 if is_async else 5
    pool = AsyncBudgetPool if is_async else BudgetPool
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
    begin_transactions(engine)
    _engines.add(engine)


def _start_budget(_: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
    entry.info[_ENDS_AT] = ends_at()
    if start := getattr(entry.driver_connection, "start_budget", None):
        start(ends_at())


def _listen_sqlite(engine: Engine, timeout: float) -> None:
    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        with _lock_ignored():  # another process is switching this very moment
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def keep_to_budget(connection: Connection) -> None:
        if is_marked(connection):
            _shorten_busy_timeout(connection, timeout)

    event.listen(engine, "do_connect", _create_sqlite_file)


@contextmanager
def _lock_ignored() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if not is_locked(error):
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
    return cast(DBAPIConnection, psycopg_classes()[0].connect(*args, **kwargs))


def _stop_budget(_: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
    if entry.driver_connection is not None:
        entry.driver_connection.stop_budget()


def _name_timeout(context: ExceptionContext) -> BaseException | None:
    """Tell a connection that we dropped from one that broke."""
    lost = context.is_disconnect and isinstance(context.original_exception, Exception)
    if lost and context.connection is not None and monotonic() >= context.connection.info.get(_ENDS_AT, math.inf):
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
