"""Requests within one process for each peer, in rounds that interleave all of them."""

import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from statistics import median
from typing import Any

from tests.benchmarks.crew import Backends, Process, crew
from tests.benchmarks.figures import Key, Timing
from tests.benchmarks.peers import PEERS, Peer
from tests.benchmarks.work import ROWS, Row

Wanted = Callable[[str], bool]
"""Whether something is to be measured, by its name."""
WARM_UP = 8
QUICK_ROWS = frozenset({"read", "write", "write, paused", "read+write", "create"})
"""Rows in which a quick run measures what copies in SQL cost."""


def cells(section: str, wanted: Wanted, *, quick: bool) -> list[Key]:
    """What a section is asked to measure: the bare frameworks come along with those that need them."""
    found = [
        (peer.id, row.name)
        for peer in PEERS.values()
        for row in ROWS
        if not peer.is_bare and peer.takes(row) and wanted(f"{section} {peer.id} {row.name}")
        if not (row.pause and section == "counted")
        if not quick or _is_quick(peer, row)
    ]
    bare = {(PEERS[peer].base, row): None for peer, row in found}
    return [*bare, *found]


def _is_quick(peer: Peer, row: Row) -> bool:
    if peer.is_ours and row.action == "login":
        return peer.framework in ("WSGI", "ASGI")
    if peer.name == "vedsess after-response":
        return row.name in QUICK_ROWS and peer.framework in ("WSGI", "Flask", "ASGI", "Starlette")
    return peer.is_ours or not peer.uses_sql


def measure(backends: Backends, keys: Iterable[Key], *, rounds: int, requests: int) -> dict[Key, Timing]:
    """Time every cell once in each round, in random order, while all the other processes are idle.

    Args:
        backends: the stores.
        keys: peers and rows.
        rounds: how often.
        requests: of each cell in each round; a third of it where SQL takes its time or a pause does.
    """
    order = list(keys)
    slow = {(peer, row) for peer, row in order if PEERS[peer].waits_for_sql or row == "write, paused"}
    blocks: dict[Key, list[dict[str, Any]]] = {key: [] for key in order}
    with ExitStack() as stack:
        stores = {peer: backends.stores(PEERS[peer]) for peer in dict.fromkeys(peer for peer, _ in order)}
        processes = stack.enter_context(crew(stores))
        for _ in range(rounds):
            random.shuffle(order)
            for key in order:
                count = requests // 3 if key in slow else requests
                blocks[key].append(_block(processes[key[0]], key, count))
    return {key: _timing(found) for key, found in blocks.items()}


def _block(process: Process, key: Key, requests: int) -> dict[str, Any]:
    block: dict[str, Any] = process.ask("block", row=key[1], count=requests, warm_up=WARM_UP)
    if not block["redis"]:
        raise RuntimeError(f"{' '.join(key)} was not served by Redis to the end")
    return block


def _timing(blocks: list[dict[str, Any]]) -> Timing:
    last_byte, whole, cpu = ([block[name] for block in blocks] for name in ("last_byte", "whole", "cpu"))
    return Timing(min(last_byte), min(whole), median(last_byte), median(whole), median(cpu))
