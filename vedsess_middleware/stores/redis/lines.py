"""Commands on their way: on redis-py's connections, below its client and its pipelines.

Packing, sending and reading are redis-py's.  What is left out is what its client does around each command: taking a
connection out of the pool, asking whether it is alive, putting it back.  A dead connection is found out by using it,
and whoever tries again then has a new one.  A Cluster is asked through its client.
"""

import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from redis import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from vedsess_middleware.batching import Batcher
from vedsess_middleware.concurrency import Maybe, settle
from vedsess_middleware.stores.redis.client import Client, is_cluster

__all__ = ["Lines", "Words", "lines_of"]

Words = Sequence[Any]
"""A command as it is sent: its name and its arguments."""

Replies = list[Any]
"""One for each command, as it came; an error reply is an exception in its place."""


class Lines(Protocol):
    """Sends commands in one round trip.  What they raise is redis-py's."""

    def exchange(self, commands: Sequence[Words]) -> Maybe[Replies]:
        """Send all, and return a reply for each."""

    def rest(self) -> Maybe[None]:
        """Let go of the connections that nobody is using."""


def lines_of(client: Client, *, is_async: bool, timeout: float) -> Lines:
    """The shortest way that a client has.

    Args:
        client: of redis-py.
        is_async: for an event loop, or blocking.
        timeout: seconds that an exchange may take on an event loop; blocking connections have their own.
    """
    if is_async:
        return SharedLines(ClusterLines(client) if is_cluster(client) else KeptLines(client), timeout=timeout)
    return ClusterLines(client) if is_cluster(client) else BlockingLines(client)


class BlockingLines:
    """Keeps idle connections at hand, the last used first.  For any number of threads.

    Args:
        client: a blocking client; its pool says how many connections there may be, and how long to wait for one.
    """

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool
        self._idle, self._pid = deque[Any](), os.getpid()
        self._lock, self._waiting = threading.Lock(), 0

    def exchange(self, commands: Sequence[Words]) -> Replies:
        connection = self._take()
        try:
            packed = connection.pack_command(*commands[0]) if len(commands) == 1 else connection.pack_commands(commands)
            connection.send_packed_command(packed, check_health=False)
            return [_read(connection) for _ in commands]
        except BaseException as error:
            # Whatever happened, nobody may read what this request was answered.
            connection.disconnect()
            if isinstance(error, RedisConnectionError):
                self._drop_idle()  # of the same server, which is gone
            raise
        finally:
            self._give(connection)

    def rest(self) -> None:
        while self._idle:
            self._pool.release(self._idle.pop())

    def _take(self) -> Any:
        if self._pid != os.getpid():  # a child leaves its parent's connections alone
            self._idle, self._pid = deque(), os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with self._lock:
            self._waiting += 1
        try:
            return self._pool.get_connection()
        finally:
            with self._lock:
                self._waiting -= 1

    def _give(self, connection: Any) -> None:
        if self._waiting:
            self._pool.release(connection)
        else:
            self._idle.append(connection)

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, deque()
        while idle:
            connection = idle.pop()
            connection.disconnect()
            self._pool.release(connection)


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class KeptLines:
    """Connections of its own, beside the pool: as many as are used at once.  For one event loop.

    Args:
        client: an asyncio client, whose pool knows how to make a connection.
    """

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool
        # The blocking one packs in C where it can, and is never connected.
        self._pack: Callable[[Sequence[Words]], list[bytes]] = Connection().pack_commands  # type: ignore[no-untyped-call]
        self._idle: list[Any] = []

    async def exchange(self, commands: Sequence[Words]) -> Replies:
        connection = self._idle.pop() if self._idle else self._made()
        try:
            await connection.send_packed_command(self._pack(commands), check_health=False)
            return [await _read_async(connection) for _ in commands]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, RedisConnectionError):
                await self.rest()
            raise
        finally:
            self._idle.append(connection)

    async def rest(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    def _made(self) -> Any:
        connection = self._pool.make_connection()
        connection.socket_timeout = None  # who asks keeps the time, once for all that is asked
        return connection


async def _read_async(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


class ClusterLines:
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

    def rest(self) -> None:
        """Nothing: the client has all connections."""


class SharedLines:
    """Lets the commands of concurrent requests ride together, two batches at a time.  For one event loop.

    Args:
        lines: what carries them.
        timeout: seconds that an exchange may take.
    """

    def __init__(self, lines: Lines, *, timeout: float) -> None:
        self._lines = lines
        self._batcher = Batcher[Words, Any](self._carry, timeout=timeout)

    def exchange(self, commands: Sequence[Words]) -> Awaitable[Replies]:
        return self._batcher.ask(commands)

    def _carry(self, commands: list[Words]) -> Awaitable[Replies]:
        return settle(self._lines.exchange(commands))

    async def rest(self) -> None:
        await settle(self._lines.rest())
