"""The sessions of one owner, whichever store knows of them."""

from contextlib import suppress
from functools import partial
from typing import Any

from vedsess_middleware.errors import CorruptRecord, StoreUnavailable
from vedsess_middleware.stores.circuit import Circuit
from vedsess_middleware.stores.contract import Owner, Store
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.record import Record, merge

__all__ = ["Owners"]


class Owners:
    """Says which sessions there are of an owner, where either store may know of more than the other.

    Args:
        pair: the two stores.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    async def records_of(self, owner: str, *, at: float, by: Owner = "user") -> dict[str, Record]:
        """Return the live records of an owner by key, as `Store.records_of` does."""
        pair = self._pair
        rows, copies = await self._tried(pair.second, pair.secondary, owner, at, by), None
        if pair.first.breaker.closed or rows is None:
            copies = await self._tried(pair.first, pair.primary, owner, at, by)
        if rows is None and copies is None:
            raise StoreUnavailable("no store can say which sessions there are")
        found = dict(rows or {})
        for key, copy in (copies or {}).items():
            row = rows.get(key) if rows is not None else None
            if rows is not None and row is None:  # ended there, or not there yet
                with suppress(CorruptRecord):
                    row = await pair.second.ask(partial(pair.secondary.peek, key))
            found[key] = merge(row, copy) if row else copy
        for key in found:
            found[key] = merge(found[key], pair.copies.get(key) or found[key])
        return {key: record for key, record in found.items() if not (record.gone or pair.cut_offs.over(record))}

    async def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> list[str]:
        """Take a place, as `Store.reserve` does, in one store: two would choose two oldest sessions.

        With a mirror the secondary knows of every login, and decides while it serves.
        """
        pair = self._pair
        options: dict[str, Any] = {"limit": limit, "deny": deny, "at": at}
        if pair.mirrors:
            with suppress(StoreUnavailable):
                return await pair.second.ask(partial(pair.secondary.reserve, user_id, key, **options))
        view = pair.at_hand or await pair.trusted()
        if view is not None:
            with suppress(StoreUnavailable):
                return await pair.ask(view, partial(view.reserve, user_id, key, **options))
        if pair.mirrors:
            raise StoreUnavailable("no store can say how many sessions there are")
        return await pair.second.ask(partial(pair.secondary.reserve, user_id, key, **options))

    async def _tried(
        self, circuit: Circuit, store: Store, owner: str, at: float, by: Owner
    ) -> dict[str, Record] | None:
        try:
            return await circuit.ask(partial(store.records_of, owner, at=at, by=by))
        except StoreUnavailable:
            return None
