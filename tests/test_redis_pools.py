"""The pools: connections at hand, as many as before, and no dead one twice."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.servers import RedisServer, RedisServers, eventually
from vedsess_middleware.stores.redis.pools import AsyncKeptPool, KeptPool


@pytest.fixture
def server(redis_servers: RedisServers) -> RedisServer:
    return redis_servers["valkey-9.1"]


@pytest.fixture
def pool(server: RedisServer) -> Iterator[KeptPool]:
    pool = KeptPool(host="127.0.0.1", port=server.port, max_connections=2, timeout=5.0)
    yield pool
    pool.disconnect()


def async_pool(server: RedisServer) -> AsyncKeptPool:
    return AsyncKeptPool(host="127.0.0.1", port=server.port, max_connections=2, timeout=5.0)


def test_the_connection_that_was_given_back_last_is_taken_first(pool: KeptPool) -> None:
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(second)
    pool.release(first)
    assert pool.get_connection() is first
    assert pool.get_connection() is second


def test_where_one_connection_broke_the_others_connect_anew(pool: KeptPool) -> None:
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(second)
    first.disconnect()
    pool.release(first)
    assert not second.is_connected
    again = {pool.get_connection(), pool.get_connection()}
    assert again == {first, second}


def test_who_waits_for_a_connection_gets_the_next_one_that_is_given_back(pool: KeptPool) -> None:
    first, _ = pool.get_connection(), pool.get_connection()
    got = list[object]()
    thread = threading.Thread(target=lambda: got.append(pool.get_connection()))
    thread.start()
    eventually(lambda: pool._waiting)
    pool.release(first)
    thread.join()
    assert got == [first]
    assert pool._waiting == 0


def test_the_child_of_a_fork_leaves_its_parents_connections_alone(pool: KeptPool) -> None:
    kept, used = pool.get_connection(), pool.get_connection()
    pool.release(kept)
    pool.pid = -1  # as a child would find it
    assert pool.get_connection() not in (kept, used)
    assert kept.is_connected
    assert used.is_connected
    for connection in (kept, used):
        connection.disconnect()


def test_on_an_event_loop_the_same_connection_is_taken_again(server: RedisServer) -> None:
    async def body() -> None:
        pool = async_pool(server)
        first, second = await pool.get_connection(), await pool.get_connection()
        await pool.release(second)
        await pool.release(first)
        assert await pool.get_connection() is first
        await first.disconnect()
        await pool.release(first)
        assert not second.is_connected
        assert {await pool.get_connection(), await pool.get_connection()} == {first, second}
        await pool.disconnect()

    asyncio.run(body())


def test_on_an_event_loop_who_waits_gets_the_next_one(server: RedisServer) -> None:
    async def body() -> None:
        pool = async_pool(server)
        first, _ = await pool.get_connection(), await pool.get_connection()
        waiting = asyncio.create_task(pool.get_connection())
        await asyncio.sleep(0)
        await pool.release(first)
        assert await waiting is first
        await pool.disconnect()

    asyncio.run(body())
