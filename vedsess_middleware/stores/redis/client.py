"""The client, with the waits that a request path can bear: redis-py's own defaults hang for up to a minute."""

from typing import Any

import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from vedsess_middleware.stores.redis.pools import AsyncKeptPool, KeptPool

__all__ = ["Client", "is_asyncio", "is_cluster", "redis_client"]

Client = Any
"""A redis-py client: the blocking and the asyncio ones, plain or Cluster, share no type."""


def redis_client(url: str, *, is_async: bool, timeout: float) -> Client:
    """A client with short waits and no retry of its own.

    Args:
        url: `redis://`, `rediss://` (certificates are verified) or `unix://`; options of redis-py in its query.
        is_async: for an event loop, or blocking.
        timeout: seconds for connecting, and for each answer of a blocking one; on an event loop whoever asks keeps the
            time, once for all that is asked.
    """
    # Over TLS 1.3 the server's session tickets arrive after the handshake.  Unless a command is answered while the
    # connection is made, the pool takes them for a reply that nobody read, and gives the connection up.
    unanswered = url.startswith("rediss://") and "@" not in url
    pool: Any = AsyncKeptPool if is_async else KeptPool
    pool = pool.from_url(
        url,
        timeout=timeout,
        max_connections=64,
        socket_timeout=None if is_async else timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        protocol=2,
        driver_info=None,
        client_name="vedsess" if unanswered else None,
    )
    return redis.asyncio.Redis.from_pool(pool) if is_async else redis.Redis.from_pool(pool)


def is_asyncio(client: Client) -> bool:
    """Whether it is for an event loop."""
    return isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster)


def is_cluster(client: Client) -> bool:
    """Whether it talks to a Cluster."""
    return isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster)
