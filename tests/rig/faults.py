"""The faults, by code: what comes before the `yield` begins one, what comes after it mends it."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.rig.browsers import Crowd
from tests.rig.rig import Rig, Worker

__all__ = ["FAULTS", "Fault", "Trouble", "fault"]


@dataclass
class Trouble:
    """What a fault is given.

    Attributes:
        rig: to be troubled.
        seconds: how long the fault is to last.
        random: the only source of choices.
        crowd: that suffers.
        hit: the workers that do not answer because of it.
    """

    rig: Rig
    seconds: float
    random: random.Random
    crowd: Crowd
    hit: set[str] = field(default_factory=set)

    def one_worker(self) -> Worker:
        """Any worker."""
        return self.random.choice(self.rig.workers)

    def live(self, seconds: float) -> None:
        """Let the browsers go on for a while."""
        time.sleep(seconds)

    def invite(self, workers: Iterable[Worker]) -> None:
        """Let the browsers go to these as well."""
        self.crowd.stage.ports.update({worker.name: worker.port for worker in workers})

    def dismiss(self, workers: Iterable[Worker]) -> None:
        """Let nobody go there any more, and end them."""
        for worker in workers:
            del self.crowd.stage.ports[worker.name]
            self.hit.add(worker.name)
        self.live(0.5)
        for worker in workers:
            worker.close()


Steps = Iterator[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault.

    Attributes:
        code: a number for each kind, with a letter where there are variants.
        title: in words.
        steps: begins it, yields, mends it.
        unavailable: no store can serve meanwhile.
        stores: the databases on which it makes sense.
        event: the name of an event that some worker has to emit.
        loses: Redis's data, or the last of it.
        kills: a worker, with what it had not copied yet.
        double: two failures in one: reads may lack writes until it is over.
        quick: belongs to the ordinary test run; the others are much like one that does.
        place: faults in different places can be had at once.
    """

    code: str
    title: str
    steps: Callable[[Trouble], Steps]
    unavailable: bool = False
    stores: tuple[str, ...] = ("postgres", "sqlite")
    event: str = ""
    loses: bool = False
    kills: bool = False
    double: bool = False
    quick: bool = True
    place: str = ""

    def goes_with(self, other: "Fault") -> bool:
        """Whether both at once break nothing that is promised for each alone.

        Not so a store away while another one fails, nor a worker's death together with the loss of Redis's data.
        """
        places = {self.place, other.place}
        if len(places) == 1 or places == {"redis", "sql"} or places == {"wire", "sql"}:
            return False
        return not ((self.loses and other.kills) or (self.kills and other.loses))


FAULTS: dict[str, Fault] = {}
"""By code."""


def fault(code: str, title: str, **facts: Any) -> Callable[[Callable[[Trouble], Steps]], Callable[[Trouble], Steps]]:
    """Put a fault into the list; `facts` are attributes, its place is that of its module."""

    def register(steps: Callable[[Trouble], Steps]) -> Callable[[Trouble], Steps]:
        place = steps.__module__.rpartition(".")[2].partition("_")[0]
        FAULTS[code] = Fault(code=code, title=title, steps=steps, **{"place": place, **facts})
        return steps

    return register
