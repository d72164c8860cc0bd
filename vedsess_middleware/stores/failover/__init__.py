"""Two stores as one: the primary while it serves, the secondary when it does not, decided for each request."""

from vedsess_middleware.stores.failover.pair import Mirror
from vedsess_middleware.stores.failover.store import FailoverStore, Health

__all__ = ["FailoverStore", "Health", "Mirror"]
