"""What makes the tables, and adds to those of an earlier release what they lack."""

from collections.abc import Iterator

from sqlalchemy import Column, Connection, Dialect, inspect, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable, DDLElement

from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.stores.sql.tables import LATER, metadata, sessions

__all__ = ["MOST_MADE", "are_made", "make_indexes", "make_tables", "table_statements"]

MOST_MADE = sum(1 + len(table.columns) + len(table.indexes) for table in metadata.tables.values())
"""How many things there are to be made."""


def are_made(connection: Connection) -> bool:
    """Whether all tables are there, with all columns."""
    return all(map(inspect(connection).has_table, metadata.tables)) and not any(_lacking(connection))


def make_tables(connection: Connection) -> None:
    """Make the tables that are not there, and the columns that they lack."""
    metadata.create_all(connection)
    for column in _lacking(connection):
        connection.exec_driver_sql(_addition(column, connection.dialect))


def make_indexes(connection: Connection) -> None:
    """Make the indexes that are not there."""
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        there = {index["name"] for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in there:
                index.create(connection)


def table_statements(url: str) -> list[str]:
    """What `SQLStore.create_tables` would run on a database of this kind.  Connects to nothing.

    The last one is a comment: what to run instead where the table of sessions is of an earlier release.

    Raises:
        ConfigurationError: the URL is of no database that SQLAlchemy knows.
    """
    try:
        dialect = make_url(url).get_dialect()()
    except ArgumentError as error:
        raise ConfigurationError("database_url is no database URL, such as postgresql://user@host/name") from error
    statements: list[DDLElement] = []
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [CreateTable(table), *(CreateIndex(index) for index in indexes)]
    return [*(_text(statement.compile(dialect=dialect)) for statement in statements), _later_additions(dialect)]


def _lacking(connection: Connection) -> Iterator[Column[object]]:
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        yield from (column for column in table.columns if column.name not in there)


def _addition(column: Column[object], dialect: Dialect) -> str:
    return f"ALTER TABLE {column.table.name} ADD COLUMN {_text(CreateColumn(column).compile(dialect=dialect))}"


def _later_additions(dialect: Dialect) -> str:
    statements = ";\n".join(_addition(sessions.c[name], dialect) for name in LATER)
    intro = f"Where {sessions.name} is of an earlier release, instead of its CREATE TABLE:"
    return "\n".join(f"-- {line}" for line in (intro, *statements.splitlines()))


def _text(compiled: object) -> str:
    return "\n".join(line.rstrip() for line in str(compiled).strip().splitlines())
