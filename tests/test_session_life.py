"""Sessions in any order of what can happen to them, over every store, in both colours, and while stores come and go."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.clients import Protocol as ServerProtocol
from tests.life.machine import Lives
from tests.life.worlds import NAMES, World, world_of

CALM = settings(
    database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), report_multiple_bugs=False
)
ENCRYPTED = ("memory", "failover-sqlite")
PAIRS = tuple(name for name in NAMES if name.startswith("failover"))
POLICIES: dict[str, dict[str, Any]] = {"any": {}, "end-oldest": {"limit": 2}, "deny": {"limit": 2, "deny": True}}
EXAMPLES = {"memory": 30, "redis": 10, "sqlite": 6, "postgres": 8, "failover-memory": 24, "failover-sqlite": 4}
"""Lives for each policy: some of what there is in each world, and most where it costs least."""
STEPS = 25


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def protocol(request: pytest.FixtureRequest) -> ServerProtocol:
    protocol: ServerProtocol = request.param
    return protocol


@pytest.fixture(scope="module", params=NAMES)
def world(request: pytest.FixtureRequest, protocol: ServerProtocol, runner: asyncio.Runner) -> Iterator[World]:
    world, close = world_of(request, request.param, protocol, runner)
    yield world
    close()


def live(world: World, *, faults: bool) -> None:
    """The same lives in every run, and others in every world."""
    for name, policy in POLICIES.items():
        number = crc32(f"{world.name} {world.protocol} {faults} {name}".encode())
        calm = settings(CALM, max_examples=EXAMPLES[world.name], stateful_step_count=STEPS)
        run_state_machine_as_test(seed(number)(machine_of(world, faults=faults, policy=policy)), settings=calm)


def live_long(world: World, *, faults: bool) -> None:
    """Many lives, and others in every run."""
    many = settings(CALM, max_examples=100 * EXAMPLES[world.name], stateful_step_count=2 * STEPS)
    for policy in POLICIES.values():
        machine = machine_of(world, faults=faults, policy=policy)
        run_state_machine_as_test(machine, settings=settings(many, derandomize=False, print_blob=True))


def machine_of(world: World, *, faults: bool, policy: Mapping[str, Any]) -> type[Lives]:
    return Lives.lived_in(world, faults=faults, encrypted=world.name in ENCRYPTED, policy=policy)


def test_every_browser_sees_its_own_session_and_nothing_else(world: World) -> None:
    live(world, faults=False)


@pytest.mark.parametrize("world", PAIRS, indirect=True)
def test_every_browser_sees_its_own_session_while_stores_go_away_and_come_back(world: World) -> None:
    live(world, faults=True)


@pytest.mark.long
def test_every_browser_sees_its_own_session_in_many_more_lives(world: World) -> None:
    live_long(world, faults=False)


@pytest.mark.long
@pytest.mark.parametrize("world", PAIRS, indirect=True)
def test_every_browser_sees_its_own_session_in_many_more_lives_with_outages(world: World) -> None:
    live_long(world, faults=True)
