"""The statements that make the table, for those who make their tables themselves."""

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.stores.sql.tables import metadata

__all__ = ["table_statements"]


def table_statements(url: str) -> list[str]:
    """What `SQLStore.create_tables` would run on a database of this kind.  Connects to nothing.

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
    return [_text(statement.compile(dialect=dialect)) for statement in statements]


def _text(compiled: object) -> str:
    return "\n".join(line.rstrip() for line in str(compiled).strip().splitlines())
