"""Both colours: one coroutine, awaited on an event loop or driven to its end without one."""

import asyncio
import gc
import inspect
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Generator
from typing import Any

import pytest

from vedsess_middleware.concurrency import Maybe, PerLoop, run_blocking, settle


class Promise:
    """Awaitable without being a coroutine, as the futures of some clients are."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return self.value


async def soon(value: str) -> str:
    """The value, after the loop had its turn."""
    await asyncio.sleep(0)
    return value


# -- settle ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "", None, 0, [1]])
def test_a_plain_value_settles_to_itself(value: object) -> None:
    assert run_blocking(settle(value)) is value


@pytest.mark.parametrize("make", [soon, Promise])
def test_an_awaitable_settles_to_what_it_gives(make: Any) -> None:
    async def main() -> str:
        value: Maybe[str] = make("a")
        return await settle(value)

    assert asyncio.run(main()) == "a"


def test_the_error_of_an_awaitable_comes_through() -> None:
    async def fail() -> str:
        raise LookupError("a")

    value: Maybe[str] = fail()
    with pytest.raises(LookupError, match="a"):
        run_blocking(settle(value))


# -- run_blocking ------------------------------------------------------------------------------------------------------


def test_a_coroutine_that_never_suspends_runs_to_its_end() -> None:
    async def inner(value: int) -> int:
        return value + 1

    async def outer() -> int:
        return await inner(await settle(1))

    assert run_blocking(outer()) == 2


def test_it_runs_where_an_event_loop_runs_already() -> None:
    async def main() -> str:
        return run_blocking(settle("a"))

    assert asyncio.run(main()) == "a"


def test_an_error_comes_through_with_its_cause() -> None:
    async def fail() -> None:
        try:
            raise OSError("deep")
        except OSError as error:
            raise LookupError("shallow") from error

    with pytest.raises(LookupError, match="shallow") as caught:
        run_blocking(fail())
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_for_the_interpreter_comes_through() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_blocking(leave())


def test_a_coroutine_that_suspends_is_refused_and_closed() -> None:
    seen: list[str] = []

    async def suspend() -> None:
        try:
            await soon("a")
            seen.append("went on")
        finally:
            seen.append("closed")

    coroutine = suspend()
    with pytest.raises(RuntimeError, match="an asyncio store was used from blocking code"):
        run_blocking(coroutine)
    assert seen == ["closed"]
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


# -- one client for each loop ------------------------------------------------------------------------------------------


class Client:
    """Belongs to the loop that made it."""


async def get(clients: PerLoop[Client]) -> Client:
    """The client of the running loop."""
    return clients.get()


def test_one_loop_keeps_its_client() -> None:
    clients = PerLoop(Client)

    async def main() -> bool:
        return clients.get() is clients.get()

    assert asyncio.run(main())


def test_two_loops_get_two_clients() -> None:
    clients = PerLoop(Client)
    with asyncio.Runner() as one, asyncio.Runner() as other:
        first, second = one.run(get(clients)), other.run(get(clients))
        assert first is not second
        assert one.run(get(clients)) is first
        assert other.run(get(clients)) is second


def test_a_client_goes_with_its_loop() -> None:
    clients = PerLoop(Client)
    reference = weakref.ref(asyncio.run(get(clients)))
    gc.collect()
    assert reference() is None


def test_a_client_that_was_taken_out_is_made_anew() -> None:
    clients = PerLoop(Client)

    async def main() -> tuple[Client | None, Client, Client | None, Client]:
        none, first = clients.pop(), clients.get()
        return none, first, clients.pop(), clients.get()

    none, first, taken, second = asyncio.run(main())
    assert none is None
    assert taken is first
    assert second is not first


def test_nothing_is_made_before_it_is_needed() -> None:
    def make() -> Client:
        raise AssertionError("made too early")

    assert asyncio.run(_pop(PerLoop(make))) is None


async def _pop(clients: PerLoop[Client]) -> Client | None:
    return clients.pop()


def test_without_a_loop_there_is_no_client() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        PerLoop(Client).get()


@pytest.mark.parametrize(("method", "in_the_child"), [("get", "another"), ("pop", "None")])
def test_a_forked_process_never_sees_the_client_of_its_parent(method: str, in_the_child: str) -> None:
    # In a process of its own: this one may have threads, and they do not survive a fork.
    program = f"""
        import asyncio, os
        from vedsess_middleware.concurrency import PerLoop

        async def call(name):
            return getattr(clients, name)()

        clients = PerLoop(object)
        loop = asyncio.new_event_loop()
        first = loop.run_until_complete(call("get"))
        child = os.fork()
        second = loop.run_until_complete(call("{method}"))
        if child:
            os.waitpid(child, 0)
        print("same" if second is first else second and "another", flush=True)
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [in_the_child, "same"]
