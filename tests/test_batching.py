"""The batcher: what is asked for at once travels together, and nobody answers for another."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vedsess_middleware.batching import Batcher


class Carrier:
    """Answers each item with itself, when it is let; remembers what travelled together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.held: asyncio.Event | None = None
        self.under_way = self.most = 0
        self.error: BaseException | None = None

    async def __call__(self, items: list[str]) -> list[str]:
        self.batches.append(items)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            if self.held is not None:
                await self.held.wait()
            if self.error is not None:
                raise self.error
            return [item.upper() for item in items]
        finally:
            self.under_way -= 1

    def hold(self) -> asyncio.Event:
        """From now on, nothing is answered before this is set."""
        self.held = asyncio.Event()
        return self.held


Body = Callable[[Carrier, Batcher[str, str]], Coroutine[Any, Any, None]]


def run(body: Body, *, timeout: float = 5.0) -> Carrier:
    """Run the body of a test on a loop of its own."""
    carrier = Carrier()
    asyncio.run(body(carrier, Batcher(carrier, timeout=timeout)))
    return carrier


async def turns(count: int = 3) -> None:
    """Let everybody else have so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def busy(carrier: Carrier, batcher: Batcher[str, str]) -> tuple[asyncio.Event, list[asyncio.Task[list[str]]]]:
    """Let two batches be under way until the event is set."""
    release, tasks = carrier.hold(), []
    for name in ("first", "second"):
        tasks.append(asyncio.create_task(batcher.ask([name])))
        await turns()
    return release, tasks


def test_who_asks_alone_is_answered_alone() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        assert await batcher.ask(["a", "b"]) == ["A", "B"]
        assert await batcher.ask(["c"]) == ["C"]

    assert run(body).batches == [["a", "b"], ["c"]]


def test_who_asks_alone_waits_for_no_turn_of_the_loop() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        sent = list[int]()
        asyncio.get_running_loop().call_soon(lambda: sent.append(len(carrier.batches)))
        await batcher.ask(["a"])
        assert sent == [1], "it had left before the next turn"

    run(body)


def test_what_is_asked_for_in_one_turn_travels_together() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        for _ in range(2):
            replies = await asyncio.gather(*(batcher.ask([f"x{n}", f"y{n}"]) for n in range(10)))
            assert replies == [[f"X{n}", f"Y{n}"] for n in range(10)]

    carrier = run(body)
    assert [len(batch) for batch in carrier.batches] == [2, 18, 20], "only the very first one thought it was alone"


def test_no_more_than_two_batches_are_under_way_and_the_next_one_grows() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        for number in range(20):
            tasks.append(asyncio.create_task(batcher.ask([f"n{number}"])))
            await turns()
        assert len(carrier.batches) == 2
        release.set()
        assert [reply for [reply] in await asyncio.gather(*tasks)][2:] == [f"N{n}" for n in range(20)]

    carrier = run(body)
    assert carrier.most == 2
    assert [len(batch) for batch in carrier.batches] == [1, 1, 20]


def test_an_error_of_the_carrier_is_raised_for_everybody_in_that_batch_and_nobody_else() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        await asyncio.gather(batcher.ask(["a"]), batcher.ask(["b"]))
        carrier.error = OSError("the line is cut")
        outcomes = await asyncio.gather(*(batcher.ask([name]) for name in "cde"), return_exceptions=True)
        assert all(outcome is carrier.error for outcome in outcomes)
        carrier.error = None
        assert await batcher.ask(["f"]) == ["F"]

    run(body)


def test_a_batch_that_takes_too_long_is_a_timeout_for_everybody_in_it() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        carrier.hold()
        outcomes = await asyncio.gather(*(batcher.ask([name]) for name in "abc"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 3
        carrier.held = None
        assert await batcher.ask(["d"]) == ["D"]

    run(body, timeout=0.02)


def test_a_batch_that_cannot_leave_in_time_is_a_timeout_too() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        batcher._timeout = 0.02
        outcomes = await asyncio.gather(*(batcher.ask([name]) for name in "ab"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 2
        release.set()
        assert await asyncio.gather(*tasks) == [["FIRST"], ["SECOND"]]

    assert run(body).batches == [["first"], ["second"]]


def test_who_follows_may_be_cancelled_before_the_batch_leaves() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        leader, follower, other = [asyncio.create_task(batcher.ask([name])) for name in "abc"]
        await turns()
        follower.cancel()
        release.set()
        assert (await leader, await other) == (["A"], ["C"])
        with pytest.raises(asyncio.CancelledError):
            await follower
        await asyncio.gather(*tasks)

    assert run(body).batches[2] == ["a", "c"]


def test_who_follows_may_be_cancelled_on_the_way() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        tasks += [asyncio.create_task(batcher.ask([name])) for name in "abc"]
        await turns()
        carrier.held = asyncio.Event()
        held = carrier.held
        release.set()
        await turns(10)
        tasks[3].cancel()
        held.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [list, list, list, asyncio.CancelledError, list]
        assert outcomes[2::2] == [["A"], ["C"]]

    run(body)


def test_who_leads_may_be_cancelled_before_the_batch_leaves_and_the_next_one_leads() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        leader, second, third = [asyncio.create_task(batcher.ask([name])) for name in "abc"]
        await turns()
        leader.cancel()
        await turns()
        second.cancel()
        release.set()
        assert await third == ["C"]
        for task in (leader, second):
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.gather(*tasks)

    assert run(body).batches[2] == ["c"]


def test_who_is_to_lead_may_be_cancelled_in_the_same_turn() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        leader, second, third = [asyncio.create_task(batcher.ask([name])) for name in "abc"]
        await turns()
        leader.cancel()
        second.cancel()
        release.set()
        assert await third == ["C"]
        await asyncio.gather(*tasks, leader, second, return_exceptions=True)

    assert run(body).batches[2] == ["c"]


def test_who_leads_alone_may_be_cancelled_and_leaves_nothing_behind() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        leader = asyncio.create_task(batcher.ask(["a"]))
        await turns()
        leader.cancel()
        release.set()
        await asyncio.gather(*tasks, leader, return_exceptions=True)
        assert await batcher.ask(["b"]) == ["B"]

    assert run(body).batches == [["first"], ["second"], ["b"]]


def test_who_leads_may_be_cancelled_on_the_way_and_the_others_ask_again() -> None:
    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        release, tasks = await busy(carrier, batcher)
        leader, *others = [asyncio.create_task(batcher.ask([name])) for name in "abc"]
        await turns()
        carrier.held = asyncio.Event()
        held = carrier.held
        release.set()
        await turns(10)
        leader.cancel()
        await turns()
        held.set()
        assert await asyncio.gather(*others) == [["B"], ["C"]]
        with pytest.raises(asyncio.CancelledError):
            await leader
        await asyncio.gather(*tasks)

    assert run(body).batches[2:] == [["a", "b", "c"], ["b", "c"]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(-1, 12)), min_size=1, max_size=25))
def test_whoever_is_cancelled_when_everybody_else_gets_what_they_asked_for(plan: list[tuple[int, int, int]]) -> None:
    """Each asks after so many turns for so many items, and is cancelled after so many more, if at all."""

    async def body(carrier: Carrier, batcher: Batcher[str, str]) -> None:
        async def one(number: int, start: int, count: int) -> list[str]:
            await turns(start)
            return await batcher.ask([f"i{number}.{item}" for item in range(count)])

        async def cancel(task: asyncio.Task[list[str]], after: int) -> None:
            await turns(after)
            task.cancel()

        async def slow(items: list[str]) -> list[str]:
            await turns(2)
            return await carrier(items)

        batcher._carry = slow
        tasks = [asyncio.create_task(one(number, start, count)) for number, (start, count, _) in enumerate(plan)]
        ends = [cancel(task, after) for task, (*_, after) in zip(tasks, plan, strict=True) if after >= 0]
        await asyncio.gather(*ends)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, (outcome, (_, count, after)) in enumerate(zip(outcomes, plan, strict=True)):
            if isinstance(outcome, list):
                assert outcome == [f"I{number}.{item}" for item in range(count)]
            else:
                assert after >= 0
                assert isinstance(outcome, asyncio.CancelledError)
        assert await asyncio.wait_for(batcher.ask(["last"]), 1.0) == ["LAST"]

    assert run(body).most <= 2
