"""The circuit: how each failure of a store counts, and who hears of it."""

import asyncio
from collections.abc import Callable
from typing import Any, get_args

import pytest

from vedsess_middleware.breaker import CircuitBreaker
from vedsess_middleware.concurrency import Maybe, run_blocking
from vedsess_middleware.errors import (
    CorruptRecord,
    EpochMissing,
    Reason,
    SessionExists,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)
from vedsess_middleware.events import Event, StoreDegraded, StoreRecovered, StoreRefused
from vedsess_middleware.stores.circuit import Circuit

SAYING_NOTHING: tuple[Reason, ...] = ("saturated", "locked")
OPENING_AT_ONCE = sorted(set(get_args(Reason)) - {"timeout", "saturated", "locked"})


class Rig:
    """A circuit on a clock of its own, over a store that fails as it is told."""

    def __init__(self, *, trial: bool = False) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.breaker = CircuitBreaker(lambda: self.now, first_wait=1.0, jitter=lambda: 1.0)
        self.circuit = Circuit("redis", self.breaker, on_event=self.events.append, trial=trial, clock=lambda: self.now)
        self.calls = 0

    def ask(self, error: BaseException | None = None) -> str:
        """Ask the store, which answers `fine` or raises that error."""
        call: Callable[[], str] = self._failing(error)
        return run_blocking(self.circuit.ask(call))

    def probe(self, error: BaseException | None = None) -> bool:
        """Probe it in the same way."""
        return run_blocking(self.circuit.probe(self._failing(error)))

    def refuse(self, error: StoreError) -> StoreUnavailable:
        """What the caller gets for this error."""
        with pytest.raises(StoreUnavailable) as caught:
            self.ask(error)
        return caught.value

    def open(self) -> "Rig":
        """The same, open, its first probe due, and nothing heard yet."""
        self.refuse(unavailable("unreachable"))
        self.now += 1.0
        self.events.clear()
        self.calls = 0
        return self

    def _failing(self, error: BaseException | None) -> Callable[[], Any]:
        def call() -> str:
            self.calls += 1
            if error is not None:
                raise error
            return "fine"

        return call


def unavailable(reason: Reason, attempts: int = 1) -> StoreUnavailable:
    return StoreUnavailable("no answer", reason=reason, attempts=attempts)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- what counts as what -----------------------------------------------------------------------------------------------


def test_an_answer_is_handed_on_and_nobody_hears_of_it(rig: Rig) -> None:
    assert rig.ask() == "fine"
    assert (rig.breaker.state, rig.events) == ("closed", [])


def test_a_store_of_the_other_colour_is_awaited(rig: Rig) -> None:
    async def answer() -> str:
        await asyncio.sleep(0)
        return "fine"

    call: Callable[[], Maybe[str]] = answer
    assert asyncio.run(rig.circuit.ask(call)) == "fine"


@pytest.mark.parametrize("reason", OPENING_AT_ONCE)
def test_a_store_that_cannot_serve_opens_it_at_once(rig: Rig, reason: Reason) -> None:
    error = unavailable(reason)
    assert rig.refuse(error) is error
    assert rig.breaker.state == "open"
    assert rig.events == [StoreDegraded(store="redis", reason=reason)]


def test_one_timeout_leaves_it_closed_and_a_second_one_opens_it(rig: Rig) -> None:
    rig.refuse(unavailable("timeout"))
    assert (rig.breaker.state, rig.events) == ("closed", [])
    rig.refuse(unavailable("timeout"))
    assert (rig.breaker.state, rig.events) == ("open", [StoreDegraded(store="redis", reason="timeout")])


def test_two_tries_of_one_call_that_timed_out_open_it(rig: Rig) -> None:
    rig.refuse(unavailable("timeout", attempts=2))
    assert rig.breaker.state == "open"


def test_our_own_lack_of_connections_says_nothing_of_the_store(rig: Rig) -> None:
    for _ in range(5):
        for reason in SAYING_NOTHING:
            rig.refuse(unavailable(reason, attempts=2))
    assert (rig.breaker.state, rig.events) == ("closed", [])


@pytest.mark.parametrize("error", [CorruptRecord("no session"), SessionExists("taken")])
def test_a_store_that_found_something_wrong_has_answered(rig: Rig, error: StoreError) -> None:
    rig.refuse(unavailable("timeout"))
    with pytest.raises(type(error)):
        rig.ask(error)
    rig.refuse(unavailable("timeout"))
    assert rig.breaker.state == "closed", "the answer between them parts the two timeouts"


def test_a_store_that_lacks_the_epoch_has_answered(rig: Rig) -> None:
    rig.refuse(unavailable("timeout"))
    error = EpochMissing()
    assert rig.refuse(error) is error
    assert (error.reason, rig.events) == ("restarted", [])
    rig.refuse(unavailable("timeout"))
    assert rig.breaker.state == "closed", "the answer between them parts the two timeouts"


def test_a_store_may_lack_the_epoch_as_often_as_it_likes(rig: Rig) -> None:
    for _ in range(10):
        rig.refuse(EpochMissing())
    assert (rig.breaker.state, rig.calls, rig.events) == ("closed", 10, [])


def test_on_trial_a_store_that_lacks_the_epoch_is_back() -> None:
    rig = Rig(trial=True).open()
    assert isinstance(rig.refuse(EpochMissing()), EpochMissing)
    assert (rig.breaker.state, rig.events) == ("closed", [StoreRecovered(store="redis")])
    assert rig.ask() == "fine"


def test_a_probe_that_meets_a_store_without_the_epoch_brings_it_back(rig: Rig) -> None:
    rig.open().probe(EpochMissing())
    assert (rig.breaker.state, rig.events) == ("closed", [StoreRecovered(store="redis")])


def test_a_programming_error_comes_through_and_counts_for_nothing(rig: Rig) -> None:
    with pytest.raises(ZeroDivisionError):
        rig.ask(ZeroDivisionError())
    assert (rig.breaker.state, rig.events) == ("closed", [])


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_refusal_is_an_error_in_the_log_before_another_store_takes_over(rig: Rig) -> None:
    refusal = StoreMisconfigured("Redis refused the password")
    error = rig.refuse(refusal)
    assert error.__cause__ is refusal
    assert str(error) == "redis refuses: Redis refused the password"
    assert rig.breaker.state == "open"
    assert rig.events == [
        StoreRefused(store="redis", reason="Redis refused the password"),
        StoreDegraded(store="redis", reason="refused"),
    ]


def test_a_refusal_of_one_key_is_said_and_opens_nothing(rig: Rig) -> None:
    rig.refuse(StoreMisconfigured("a foreign value", one_key=True))
    assert rig.breaker.state == "closed"
    assert rig.events == [StoreRefused(store="redis", reason="a foreign value")]
    assert rig.ask() == "fine"


def test_the_same_refusal_is_said_at_once_and_then_once_a_minute(rig: Rig) -> None:
    heard: list[float] = []
    for _ in range(1201):
        rig.refuse(StoreMisconfigured("a foreign value", one_key=True))
        heard += [rig.now - 1000.0 for _ in rig.events]
        rig.events.clear()
        rig.now += 0.125
    assert heard == [0.0, 60.0, 120.0]


def test_another_refusal_is_said_at_once(rig: Rig) -> None:
    for words in ("one", "other", "one", "other"):
        rig.refuse(StoreMisconfigured(words, one_key=True))
    assert rig.events == [StoreRefused(store="redis", reason="one"), StoreRefused(store="redis", reason="other")]


def test_a_probe_that_is_refused_is_said_too(rig: Rig) -> None:
    assert not rig.open().probe(StoreMisconfigured("Redis refused the password"))
    assert rig.events == [StoreRefused(store="redis", reason="Redis refused the password")]
    assert (rig.breaker.state, rig.breaker.retry_after) == ("open", 2.0)


# -- open --------------------------------------------------------------------------------------------------------------


def test_an_open_store_is_not_asked(rig: Rig) -> None:
    error = rig.open().refuse(unavailable("timeout"))
    assert (error.reason, error.attempts) == ("open", 0)
    assert (rig.calls, rig.events) == (0, [])


def test_a_probe_is_due_when_the_wait_is_over(rig: Rig) -> None:
    assert not rig.circuit.probe_due
    rig.refuse(unavailable("unreachable"))
    assert not rig.circuit.probe_due
    assert not rig.probe()
    rig.now += 1.0
    assert rig.circuit.probe_due
    assert rig.calls == 1, "a probe that was not due asked nobody"


def test_a_probe_that_succeeds_brings_the_store_back(rig: Rig) -> None:
    assert rig.open().probe()
    assert rig.events == [StoreRecovered(store="redis")]
    assert rig.ask() == "fine"
    assert not rig.circuit.probe_due


def test_a_probe_that_fails_is_no_news(rig: Rig) -> None:
    assert not rig.open().probe(unavailable("unreachable"))
    assert rig.events == []
    assert (rig.breaker.state, rig.breaker.retry_after) == ("open", 2.0)


def test_a_probe_that_our_own_lack_of_connections_ended_may_be_made_again(rig: Rig) -> None:
    assert not rig.open().probe(unavailable("saturated"))
    assert rig.circuit.probe_due
    assert rig.probe()


def test_on_trial_one_request_is_the_probe() -> None:
    rig = Rig(trial=True).open()
    assert rig.ask() == "fine"
    assert rig.events == [StoreRecovered(store="redis")]


def test_on_trial_a_request_before_its_time_asks_nobody() -> None:
    rig = Rig(trial=True).open()
    rig.now -= 0.5
    assert rig.refuse(unavailable("timeout")).reason == "open"
    assert rig.calls == 0


def test_on_trial_a_request_that_fails_is_no_news() -> None:
    rig = Rig(trial=True).open()
    assert rig.refuse(unavailable("timeout")).reason == "timeout"
    assert (rig.breaker.state, rig.breaker.retry_after, rig.events) == ("open", 2.0, [])


# -- cancelled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), GeneratorExit()])
def test_a_probe_that_is_cancelled_gives_up_its_place(rig: Rig, error: BaseException) -> None:
    with pytest.raises(type(error)):
        rig.open().probe(error)
    assert (rig.breaker.state, rig.events) == ("open", [])
    assert rig.probe(), "and the next one may try at once"


def test_a_request_that_is_cancelled_says_nothing_of_the_store(rig: Rig) -> None:
    rig.refuse(unavailable("timeout"))
    with pytest.raises(asyncio.CancelledError):
        rig.ask(asyncio.CancelledError())
    assert rig.breaker.closed
    rig.refuse(unavailable("timeout"))
    assert rig.breaker.state == "open", "nor did it part the two timeouts"


def test_a_task_cancelled_in_the_middle_of_a_probe_gives_up_its_place(rig: Rig) -> None:
    rig.open()

    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(rig.circuit.probe(hang))
        await asyncio.sleep(0)
        assert rig.breaker.state == "half-open"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert rig.circuit.probe_due
