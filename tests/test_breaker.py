"""The breaker: when a store may be asked, on a clock of the test's own."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vedsess_middleware.breaker import CircuitBreaker

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Clock:
    """Monotonic seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    """With the defaults, and probes as late as jitter makes them: after 1 second at first."""
    return CircuitBreaker(clock, jitter=lambda: 1.0, first_wait=1.0, longest_wait=8.0)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    """The same, open."""
    assert breaker.failed(hard=True)
    return breaker


# -- closed ------------------------------------------------------------------------------------------------------------


def test_it_begins_closed_and_has_nothing_to_probe(breaker: CircuitBreaker) -> None:
    assert (breaker.state, breaker.closed, breaker.retry_after) == ("closed", True, 0.0)
    assert not breaker.claim_probe()


def test_one_failed_attempt_leaves_it_closed(breaker: CircuitBreaker) -> None:
    assert not breaker.failed()
    assert breaker.closed


def test_two_failed_attempts_open_it(breaker: CircuitBreaker) -> None:
    breaker.failed()
    assert breaker.failed()
    assert (breaker.state, breaker.closed) == ("open", False)


def test_the_attempts_of_one_call_count_each(breaker: CircuitBreaker) -> None:
    assert breaker.failed(attempts=2)
    assert breaker.state == "open"


def test_a_hard_failure_opens_it_at_once(breaker: CircuitBreaker) -> None:
    assert breaker.failed(hard=True)
    assert breaker.state == "open"


def test_the_threshold_is_a_setting(clock: Clock) -> None:
    breaker = CircuitBreaker(clock, threshold=3)
    assert [breaker.failed() for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("pause", "state"), [(2.0, "open"), (2.001, "closed")])
def test_failures_count_together_within_the_window(
    breaker: CircuitBreaker, clock: Clock, pause: float, state: str
) -> None:
    breaker.failed()
    clock.advance(pause)
    breaker.failed()
    assert breaker.state == state


def test_a_success_forgets_the_failures_before_it(breaker: CircuitBreaker) -> None:
    breaker.failed()
    assert not breaker.succeeded()
    breaker.failed()
    assert breaker.closed


def test_giving_up_a_probe_that_nobody_has_changes_nothing(breaker: CircuitBreaker) -> None:
    breaker.give_up()
    assert breaker.closed


# -- open --------------------------------------------------------------------------------------------------------------


def test_no_probe_starts_before_the_wait_is_over(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    assert breaker.retry_after == 1.0
    clock.advance(0.75)
    assert breaker.retry_after == 0.25
    assert not breaker.claim_probe()
    clock.advance(0.25)
    assert breaker.retry_after == 0.0
    assert breaker.claim_probe()


def test_what_began_before_it_opened_proves_nothing(breaker: CircuitBreaker) -> None:
    opened(breaker)
    assert not breaker.succeeded()
    assert breaker.state == "open"


def test_further_failures_neither_open_it_again_nor_put_the_probe_off(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    clock.advance(0.5)
    assert not breaker.failed(attempts=2, hard=True)
    assert breaker.retry_after == 0.5


# -- half-open ---------------------------------------------------------------------------------------------------------


def probing(breaker: CircuitBreaker, clock: Clock) -> CircuitBreaker:
    """The same, half-open."""
    clock.advance(breaker.retry_after)
    assert breaker.claim_probe()
    return breaker


def test_there_is_one_prober_and_no_request_meanwhile(breaker: CircuitBreaker, clock: Clock) -> None:
    probing(opened(breaker), clock)
    assert (breaker.state, breaker.closed) == ("half-open", False)
    assert not breaker.claim_probe()


class ThreadedClock(Clock):
    """The same; each look at it lets another thread run."""

    def __call__(self) -> float:
        os.sched_yield()
        return super().__call__()


def test_of_many_threads_one_becomes_the_prober() -> None:
    clock = ThreadedClock()
    breaker = opened(CircuitBreaker(clock, first_wait=1.0, longest_wait=1.0))
    together = Barrier(8)

    def claim(_: int) -> bool:
        together.wait(10.0)
        return breaker.claim_probe()

    with ThreadPoolExecutor(8) as threads:
        for _ in range(50):
            clock.advance(1.0)
            assert sum(threads.map(claim, range(8))) == 1
            breaker.failed()


def test_a_probe_that_succeeds_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    probing(opened(breaker), clock)
    assert breaker.succeeded()
    assert breaker.closed
    assert not breaker.failed(), "the failures before are forgotten"


def test_a_probe_that_fails_opens_it_without_saying_so_again(breaker: CircuitBreaker, clock: Clock) -> None:
    probing(opened(breaker), clock)
    assert not breaker.failed()
    assert breaker.state == "open"
    assert not breaker.claim_probe()


def test_a_probe_that_was_given_up_may_be_made_at_once(breaker: CircuitBreaker, clock: Clock) -> None:
    probing(opened(breaker), clock)
    breaker.give_up()
    assert (breaker.state, breaker.retry_after) == ("open", 0.0)
    assert breaker.claim_probe()


# -- how long it waits -------------------------------------------------------------------------------------------------


def test_the_wait_doubles_after_each_failed_probe_up_to_its_limit(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    waits = [breaker.retry_after]
    for _ in range(5):
        probing(breaker, clock).failed()
        waits.append(breaker.retry_after)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_the_wait_starts_small_again_after_a_success(breaker: CircuitBreaker, clock: Clock) -> None:
    probing(opened(breaker), clock).failed()
    probing(breaker, clock).succeeded()
    assert opened(breaker).retry_after == 1.0


def test_a_probe_given_up_does_not_double_the_wait(breaker: CircuitBreaker, clock: Clock) -> None:
    probing(opened(breaker), clock).give_up()
    probing(breaker, clock).failed()
    assert breaker.retry_after == 2.0


def test_a_store_that_is_away_for_years_is_still_probed(breaker: CircuitBreaker, clock: Clock) -> None:
    opened(breaker)
    for _ in range(2000):
        probing(breaker, clock).failed()
    assert breaker.retry_after == pytest.approx(8.0)


@CALM
@given(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 6))
def test_jitter_takes_away_up_to_half_of_the_wait(jitter: float, probes: int) -> None:
    clock = Clock()
    breaker = opened(CircuitBreaker(clock, jitter=lambda: jitter, first_wait=0.5, longest_wait=5.0))
    for _ in range(probes):
        clock.advance(8.0)
        assert breaker.claim_probe()
        breaker.failed()
    longest = min(5.0, 0.5 * 2**probes)
    assert breaker.retry_after == pytest.approx(longest * (0.5 + jitter / 2))


def test_two_processes_do_not_probe_in_step(clock: Clock) -> None:
    waits = {opened(CircuitBreaker(clock)).retry_after for _ in range(20)}
    assert len(waits) > 1
    assert all(0.25 <= wait <= 0.5 for wait in waits)


def test_it_can_be_printed(breaker: CircuitBreaker) -> None:
    assert repr(breaker) == "<CircuitBreaker closed>"


# -- any order of events -----------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Requests, probes and time in any order, beside the fewest words that say what has to come of them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = CircuitBreaker(self.clock, jitter=lambda: 1.0, first_wait=1.0, longest_wait=4.0)
        self.state = "closed"
        self.failures: list[float] = []
        self.wait = 1.0
        self.probe_at = 0.0

    def expect_open(self) -> None:
        self.state, self.failures = "open", []
        self.probe_at = self.clock.now + self.wait
        self.wait = min(4.0, 2 * self.wait)

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0, 2.25, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(attempts=st.integers(1, 2), hard=st.booleans())
    def a_request_fails(self, attempts: int, hard: bool) -> None:
        recent = [at for at in self.failures if self.clock.now - at <= 2.0] + [self.clock.now] * attempts
        opens = self.state == "closed" and (hard or len(recent) >= 2)
        assert self.breaker.failed(attempts=attempts, hard=hard) == opens
        if opens or self.state == "half-open":
            self.expect_open()
        elif self.state == "closed":
            self.failures = recent

    @rule()
    def a_request_succeeds(self) -> None:
        assert self.breaker.succeeded() == (self.state == "half-open")
        if self.state != "open":
            self.state, self.failures, self.wait = "closed", [], 1.0

    @rule()
    def a_probe_is_claimed(self) -> None:
        due = self.state == "open" and self.clock.now >= self.probe_at
        assert self.breaker.claim_probe() == due
        if due:
            self.state = "half-open"

    @precondition(lambda self: self.state != "closed")
    @rule()
    def a_probe_is_given_up(self) -> None:
        self.breaker.give_up()
        self.state = "open"

    @invariant()
    def it_is_where_it_has_to_be(self) -> None:
        assert self.breaker.state == self.state
        assert self.breaker.closed == (self.state == "closed")
        wait = 0.0 if self.state == "closed" else max(0.0, self.probe_at - self.clock.now)
        assert self.breaker.retry_after == wait


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(CALM, max_examples=60, stateful_step_count=40)
