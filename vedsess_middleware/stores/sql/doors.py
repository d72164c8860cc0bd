"""The ways into a database: with a transaction, or for statements that need none.

A statement that is a transaction of its own costs one round trip, and one between BEGIN and COMMIT three.  So the
drivers are left in autocommit, and a transaction is begun by us.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypeVar, cast

from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

__all__ = ["Doors", "begin_transactions", "for_writes", "is_marked"]

T = TypeVar("T")
AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)

_BEGIN = "vedsess_begin"
_IN_TRANSACTION = 1  # a flag of what MySQL says of itself with every answer


def for_writes(engine: AnyEngine) -> AnyEngine:
    """The same engine over the same pool, for transactions that will write.

    On SQLite they take the write lock when they begin (`BEGIN IMMEDIATE`).  A plain transaction that reads and then
    writes fails as `locked` if anyone wrote in between, whatever the timeout.  Other databases see no difference.
    """
    return engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "BEGIN"})


def is_marked(connection: Connection) -> bool:
    """Whether it is for writes, or for statements."""
    return _BEGIN in connection.get_execution_options()


class Doors(NamedTuple):
    """The ways into one pool: an engine of either colour, for statements and for transactions that write."""

    engine: Engine | AsyncEngine
    statements: Engine
    writes: Engine

    @classmethod
    def of(cls, engine: Engine | AsyncEngine) -> Self:
        """The ways into the pool of this engine."""
        inner = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        return cls(engine, inner, for_writes(inner))

    async def enter(self, task: Callable[[Connection], T], *, alone: bool) -> T:
        """Do this on a connection; `alone`: each statement is a transaction of its own.

        In an event loop, checkout, task and return share one greenlet: `AsyncConnection` would start four, and a task.
        """
        enter, engine = (_with_statements, self.statements) if alone else (_with_transaction, self.writes)
        if isinstance(self.engine, AsyncEngine):
            return await greenlet_spawn(enter, engine, task)
        return enter(engine, task)

    async def close(self) -> None:
        """Give the connections back."""
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            self.engine.dispose()


def _with_statements(engine: Engine, task: Callable[[Connection], T]) -> T:
    with engine.connect() as connection:
        return task(connection.execution_options(**{_BEGIN: ""}))


def _with_transaction(engine: Engine, task: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return task(connection)


def begin_transactions(engine: Engine) -> None:
    """Begin transactions by ourselves, over a driver in autocommit; none for the statements that come by `Doors`."""
    event.listen(engine, "begin", _choose_autocommit if engine.driver == "asyncpg" else _begin)
    _spare_rollbacks(engine.dialect)


def _begin(connection: Connection) -> None:
    if words := connection.get_execution_options().get(_BEGIN, "BEGIN"):
        connection.exec_driver_sql(words)


def _choose_autocommit(connection: Connection) -> None:
    """SQLAlchemy begins and commits by itself what asyncpg is to do, and has the choice on its own side of the wire."""
    level = None if connection.get_execution_options().get(_BEGIN, "BEGIN") else "autocommit"
    cast(Any, connection.connection.dbapi_connection).set_isolation_level(level)


def _spare_rollbacks(dialect: Dialect) -> None:
    """Do not ask a server to roll back what was never begun: every connection that is given back would."""
    roll_back = dialect.do_rollback

    def if_begun(dbapi_connection: PoolProxiedConnection) -> None:
        if _is_begun(dbapi_connection.driver_connection):
            roll_back(dbapi_connection)

    dialect.do_rollback = if_begun  # type: ignore[method-assign]


def _is_begun(connection: Any) -> bool:
    """Whether the driver knows of a transaction; one that cannot tell is asked to end it."""
    if (protocol := getattr(connection, "pgconn", None)) is not None:
        return bool(protocol.transaction_status)
    if (status := getattr(connection, "server_status", None)) is not None:
        return bool(status & _IN_TRANSACTION)
    return bool(getattr(connection, "in_transaction", True))
