"""Sessions in a SQL database."""

from vedsess_middleware.stores.sql.store import SQLStore

__all__ = ["SQLStore"]
