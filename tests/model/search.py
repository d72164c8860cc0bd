"""The search: breadth first, so that the first violation found is a shortest one."""

import gc
import random
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Violation(Exception):
    """The promise is broken."""


class Verdict(NamedTuple):
    """What a search has found."""

    word: str  # VIOLATION, exhausted (nothing, in all states), bounded (nothing, in as many states as allowed)
    what: str
    trace: tuple[str, ...]
    states: int


def search(first: S, next_of: Callable[[S], Iterable[tuple[str, S]]], most: int) -> Verdict:
    """Visit states until one breaks the promise, all are seen, or there are too many."""
    gc.disable()  # millions of tuples, no cycles
    try:
        return _search(first, next_of, most)
    finally:
        gc.enable()


def _search(first: S, next_of: Callable[[S], Iterable[tuple[str, S]]], most: int) -> Verdict:
    came: dict[S, tuple[str, S] | None] = {first: None}
    queue = deque([first])
    while queue:
        st = queue.popleft()
        try:
            successors = next_of(st)
        except Violation as bad:
            return Verdict("VIOLATION", str(bad), _trace_to(came, st), len(came))
        for label, nxt in successors:
            if nxt not in came:
                came[nxt] = label, st
                queue.append(nxt)
        if len(came) > most:
            return Verdict("bounded", "nothing found", (), len(came))
    return Verdict("exhausted", "nothing found", (), len(came))


def wander(first: S, next_of: Callable[[S], Iterable[tuple[str, S]]], walks: int, depth: int = 80) -> Verdict:
    """Take random walks, the same ones every time: far from the start, where a search does not come."""
    choice, visited = random.Random(7), 0
    for _ in range(walks):
        st = first
        trace: list[str] = []
        for _ in range(depth):
            visited += 1
            try:
                successors = [(label, nxt) for label, nxt in next_of(st) if nxt != st]
            except Violation as bad:
                return Verdict("VIOLATION", str(bad), tuple(trace), visited)
            if not successors:
                break
            label, st = choice.choice(successors)
            trace.append(label)
    return Verdict("bounded", "nothing found", (), visited)


def _trace_to(came: dict[S, tuple[str, S] | None], st: S) -> tuple[str, ...]:
    """Return the steps that led to a state."""
    trace: list[str] = []
    while (step := came[st]) is not None:
        label, st = step
        trace.append(label)
    return tuple(reversed(trace))
