"""Ending sessions in two stores, and moving them to another id: nobody may bring them back."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from vedsess_middleware.concurrency import Maybe, settle
from vedsess_middleware.errors import StoreUnavailable
from vedsess_middleware.stores.contract import Replaced, Store
from vedsess_middleware.stores.failover.pair import Pair
from vedsess_middleware.stores.failover.reading import both
from vedsess_middleware.stores.failover.trust import TRUST_LASTS
from vedsess_middleware.stores.failover.writing import FIRST, Writer
from vedsess_middleware.stores.record import Record, Version

__all__ = ["Ender", "Moving"]

_HALF_DONE = "sessions that only one store knows of could not be ended"


@dataclass(frozen=True, slots=True)
class Moving:
    """A session on its way to another key, in the words of `Store.replace`."""

    old_key: str
    new_key: str
    record: Record
    at: float
    until: float
    even_if_gone: bool
    known: Version | None

    def born(self, version: Version) -> "Moving":
        """The same, as a first write of this version."""
        return replace(self, record=self.record.born(version))

    @property
    def records(self) -> dict[str, Record]:
        """What is to be under either key then."""
        successor = self.record.named(self.new_key)
        tombstone = Record.tombstone(version=FIRST, at=self.at, until=self.until, successor=successor)
        return {self.new_key: self.record, self.old_key: tombstone}

    def carry_out(self, store: Store, **options: Any) -> Maybe[Replaced | None]:
        """Do so in one store."""
        return store.replace(
            self.old_key,
            self.new_key,
            self.record,
            at=self.at,
            until=self.until,
            even_if_gone=self.even_if_gone,
            known=self.known,
            **options,
        )


class Ender:
    """Leaves tombstones in two stores.

    Args:
        pair: the two stores.
        writer: writes what only one of them could be told.
    """

    def __init__(self, pair: Pair, writer: Writer) -> None:
        self._pair, self._writer = pair, writer

    async def replace(self, moving: Moving) -> Replaced | None:
        """Move a session to a new key, as `Store.replace` does."""
        pair, moving = self._pair, moving.born(FIRST)
        first = None
        if pair.mirrors:
            with suppress(StoreUnavailable):
                first = await pair.second.ask(partial(moving.carry_out, pair.secondary, dirty=True))
                if first is None:
                    pair.dirty.add(moving.old_key)  # the primary may not have heard of it
                    return None
        due = pair.due(moving.at) if first is None else 0
        view = pair.at_hand or await pair.trusted()
        replaced, told = None, False
        if view is not None:
            with suppress(StoreUnavailable):
                replaced = await pair.ask(view, partial(moving.carry_out, view, due=due))
                told = True
        if view is None or not told:
            if first is not None:
                self._writer.past(moving.old_key)
            else:
                await self._writer.owe(moving.records)
            return first or Replaced(version=moving.record.version)
        if first is not None:
            pair.buried[moving.old_key] = view.epoch
            if replaced is None:  # the secondary had not heard of the logout yet
                ending = partial(pair.secondary.end, [moving.new_key], at=moving.at, until=moving.until)
                await pair.second.ask(ending)
                return None
            missed = both(first.missed, replaced.missed)
            return Replaced(version=replaced.version, missed=missed.past(moving.known) if missed else None)
        if replaced is not None and pair.mirrors:
            for key, record in moving.records.items():
                await self._writer.mirrored(key, record, due)
        return replaced

    async def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> list[str]:
        """End sessions, as `Store.end` does."""
        pair, first = self._pair, None
        if pair.mirrors or user_id is not None:
            ending = partial(pair.secondary.end, keys, user_id=user_id, keep=keep, at=at, until=until)
            first = partial(ending, dirty=pair.mirrors)
        return await self._end(first, keys, user_id=user_id, keep=keep, at=at, until=until)

    async def cut_off(self, user_id: str, *, at: float, until: float) -> list[str]:
        """End every session of a user, as `Store.cut_off` does.

        Those that an index names end now; of the others each process hears before it trusts the primary any longer.
        """
        pair = self._pair
        if not pair.mirrors:
            return await self._cut_off_in_each(user_id, at, until)
        first = partial(pair.secondary.cut_off, user_id, at=at, until=until, dirty=True)
        ended = await self._end(first, [], user_id=user_id, keep=None, at=at, until=until)
        pair.cut_offs.note(user_id, at)
        return ended

    async def _cut_off_in_each(self, user_id: str, at: float, until: float) -> list[str]:
        """Nobody polls, so each store looks at all that it holds."""
        pair, ended = self._pair, list[list[str]]()
        with suppress(StoreUnavailable):
            ended.append(await pair.second.ask(partial(pair.secondary.cut_off, user_id, at=at, until=until)))
        with suppress(StoreUnavailable):
            cutting = partial(pair.primary.cut_off, user_id, at=at, until=until)
            ended.append(await pair.ask(pair.primary, cutting))
        if len(ended) < 2:
            raise StoreUnavailable(_HALF_DONE)
        return list(dict.fromkeys(chain.from_iterable(ended)))

    async def _end(
        self,
        first: Callable[[], Maybe[list[str]]] | None,
        keys: Sequence[str],
        *,
        user_id: str | None,
        keep: str | None,
        at: float,
        until: float,
    ) -> list[str]:
        """Tell the secondary, if that is to be told, and then the primary; return when nobody can see an old copy."""
        pair, ended, committed = self._pair, list(keys), False
        if first is not None:
            with suppress(StoreUnavailable):
                ended = await pair.second.ask(first)
                committed = True
        committed_at, due = pair.clock(), 0 if committed else pair.due(at)
        view, everywhere = pair.at_hand or await pair.trusted(), None
        if view is not None:
            ending = partial(view.end, ended, user_id=user_id, keep=keep, at=at, until=until, due=due)
            with suppress(StoreUnavailable):
                everywhere = await pair.ask(view, ending)
        if not (committed and pair.mirrors):
            tombstone = Record.tombstone(version=FIRST, at=at, until=until)
            ended = await self._ended_in_one(ended, everywhere, tombstone, due)
            if user_id is not None and not (committed and everywhere is not None):
                raise StoreUnavailable(_HALF_DONE)
            return ended
        unseen = [key for key in everywhere or () if key not in ended]
        if unseen:  # logins that the secondary has not heard of yet
            await pair.second.ask(partial(pair.secondary.end, unseen, at=at, until=until, dirty=True))
            committed_at = pair.clock()
        ended += unseen
        if view is None or everywhere is None or not (pair.trust.held and pair.trust.epoch == view.epoch):
            await self._outlived(committed_at)
            pair.dirty.update(ended)
        else:  # the primary was told under an epoch that is still the one that every process asks for
            pair.buried.update(dict.fromkeys(ended, view.epoch))
        return ended

    async def _ended_in_one(
        self, ended: list[str], everywhere: list[str] | None, tombstone: Record, due: int
    ) -> list[str]:
        """The secondary was not told: because it is away, or keeps no copies."""
        if everywhere is None:
            await self._writer.owe(dict.fromkeys(ended, tombstone))
            return ended
        for key in everywhere:
            await self._writer.mirrored(key, tombstone, due)
        return everywhere

    async def _outlived(self, committed_at: float) -> None:
        """Return when no process can trust an old copy any more: each polls before that, and finds the key dirty."""
        self._pair.trust.distrust()
        left = committed_at + TRUST_LASTS - self._pair.clock()
        if left > 0:
            await settle(self._pair.wait(left))
