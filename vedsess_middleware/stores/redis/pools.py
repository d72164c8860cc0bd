"""redis-py's pools, with the connections that are not in use at hand: taken and given back without a question asked.

A dead connection is found out by using it.  It comes back disconnected, and then the others may be dead as well: they
connect anew, so whoever tries again has a live one.  As many connections as before, and the same wait for one.
"""

import threading
from collections import deque
from typing import Any

import redis
import redis.asyncio

__all__ = ["AsyncKeptPool", "KeptPool"]


class KeptPool(redis.BlockingConnectionPool):
    """For any number of threads."""

    def __init__(self, **options: Any) -> None:
        self._waiting, self._counting = 0, threading.Lock()
        super().__init__(**options)

    def reset(self) -> None:
        """Begin anew, also in the child of a fork: the connections stay its parent's."""
        self._at_hand = deque[Any]()
        super().reset()

    def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        self._checkpid()
        try:
            return self._at_hand.pop()
        except IndexError:
            pass
        with self._counting:
            self._waiting += 1
        try:
            return super().get_connection()
        finally:
            with self._counting:
                self._waiting -= 1

    def release(self, connection: Any) -> None:
        self._checkpid()
        if not connection.is_connected:
            for other in tuple(self._at_hand):
                self._drop(other)
        if self._waiting or not self.owns_connection(connection):
            super().release(connection)
        else:
            self._at_hand.append(connection)

    def _drop(self, connection: Any) -> None:
        try:
            self._at_hand.remove(connection)
        except ValueError:  # another thread was quicker, and will see for itself
            return
        connection.disconnect()
        super().release(connection)


class AsyncKeptPool(redis.asyncio.BlockingConnectionPool):
    """For one event loop."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._at_hand: list[Any] = []
        self._waiting = 0

    async def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        if self._at_hand:
            return self._at_hand.pop()
        self._waiting += 1
        try:
            return await super().get_connection()
        finally:
            self._waiting -= 1

    async def release(self, connection: Any) -> None:
        if not connection.is_connected:
            others, self._at_hand = self._at_hand, []
            for other in others:
                await other.disconnect(nowait=True)
                await super().release(other)
        if self._waiting:
            await super().release(connection)
        else:
            self._at_hand.append(connection)
