"""Which processors a process runs on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def split() -> tuple[set[int], set[int]]:
    """The last processor, and all the others; both sets are empty if there is only one."""
    *others, last = sorted(os.sched_getaffinity(0))
    return ({last}, set(others)) if others else (set(), set())


@contextmanager
def on_processors(numbers: set[int]) -> Iterator[None]:
    """Run on these only, with all that is started meanwhile; on all that there are if the set is empty."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
