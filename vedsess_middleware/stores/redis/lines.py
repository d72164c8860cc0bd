"""Commands on their way: on redis-py's connections, below its client and its pipelines.

Pooling, packing, sending and reading are redis-py's; what its client does around each command is left out.  A Cluster
is asked through its client.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from redis import Connection
from redis.exceptions import ResponseError

from vedsess_middleware.batching import Batcher
from vedsess_middleware.concurrency import Maybe
from vedsess_middleware.stores.redis.client import Client, is_cluster

__all__ = ["Lines", "Words", "lines_of"]

Words = Sequence[Any]
"""A command as it is sent: its name and its arguments."""

Replies = list[Any]
"""One for each command, as it came; an error reply is an exception in its place."""


class Lines(Protocol):
    """Sends commands in one round trip.  What it raises is redis-py's."""

    def exchange(self, commands: Sequence[Words]) -> Maybe[Replies]:
        """Send all, and return a reply for each."""


def lines_of(client: Client, *, is_async: bool, timeout: float) -> Lines:
    """The shortest way that a client has.

    Args:
        client: of redis-py.
        is_async: for an event loop, or blocking.
        timeout: seconds that an exchange may take on an event loop; blocking connections have their own.
    """
    if not is_async:
        return _ClusterLines(client) if is_cluster(client) else _BlockingLines(client)
    carry: Any = _ClusterLines(client).exchange if is_cluster(client) else _AsyncLines(client).exchange
    return _SharedLines(Batcher(carry, timeout=timeout))


class _BlockingLines:
    """For any number of threads.

    Args:
        client: whose pool is used.
    """

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool

    def exchange(self, commands: Sequence[Words]) -> Replies:
        connection = self._pool.get_connection()
        try:
            packed = connection.pack_command(*commands[0]) if len(commands) == 1 else connection.pack_commands(commands)
            connection.send_packed_command(packed, check_health=False)
            return [_read(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # whatever happened, nobody may read what this request was answered
            raise
        finally:
            self._pool.release(connection)


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class _AsyncLines:
    """For one event loop.

    Args:
        client: whose pool is used.
    """

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool
        # The blocking one packs in C where it can, and is never connected.
        self._pack: Callable[[Sequence[Words]], list[bytes]] = Connection().pack_commands  # type: ignore[no-untyped-call]

    async def exchange(self, commands: Sequence[Words]) -> Replies:
        connection = await self._pool.get_connection()
        try:
            await connection.send_packed_command(self._pack(commands), check_health=False)
            return [await _read_async(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)


async def _read_async(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class _ClusterLines:
    """Asks a Cluster, which knows what is where; both colours.

    Args:
        client: a Cluster client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def exchange(self, commands: Sequence[Words]) -> Maybe[Replies]:
        pipe = self._client.pipeline(transaction=False)
        for words in commands:
            pipe.execute_command(*words)
        replies: Maybe[Replies] = pipe.execute(raise_on_error=False)
        return replies


class _SharedLines:
    """Lets the commands of concurrent requests ride together, two batches at a time.  For one event loop.

    Args:
        batcher: which carries them.
    """

    def __init__(self, batcher: Batcher[Words, Any]) -> None:
        self.exchange = batcher.ask
