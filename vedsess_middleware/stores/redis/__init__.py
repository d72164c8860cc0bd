"""Sessions in Redis."""

from vedsess_middleware.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
