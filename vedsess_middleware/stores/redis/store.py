"""The Redis store: a hash per session, changed by guarded scripts that one key each and may be repeated."""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from copy import copy
from functools import partial
from math import ceil
from typing import Any, Self

from vedsess_middleware.events import EventHook, StoreRestarted, log_event
from vedsess_middleware.stores.contract import Found, Owner, Replaced, Stats, Written
from vedsess_middleware.stores.record import Delta, Fence, Record, Version
from vedsess_middleware.stores.redis.census import Census
from vedsess_middleware.stores.redis.client import Client, redis_client
from vedsess_middleware.stores.redis.hashes import from_hash, milliseconds, pairs, readable, to_hash
from vedsess_middleware.stores.redis.indexes import Indexes, Later, scored
from vedsess_middleware.stores.redis.listing import Listing
from vedsess_middleware.stores.redis.reading import Reader
from vedsess_middleware.stores.redis.view import View
from vedsess_middleware.stores.redis.wire import Command, Wire
from vedsess_middleware.stores.redis.writing import Writer

__all__ = ["RedisStore"]

_ANYWAY = "*"
"""Instead of a lease: a store that is alone has nobody who could know better."""


class RedisStore:
    """Keeps sessions in Redis 6.2 or later, Valkey, or a Cluster of them.

    Every method raises `StoreUnavailable` or `StoreMisconfigured` when Redis does not serve.

    Args:
        client: a redis-py client with short timeouts and no retry of its own, as `redis_client` makes it; or a callable
            that makes an asyncio client, called once for each event loop.
        probe_client: the same for `probe`; by default `client`.
        prefix: of every key.
        longest_life: of any session, in seconds: the indexes live as long after their last change.
        timeout: seconds of one try.  A second one follows at once if both fit into twice this time.
        probe_timeout: seconds that `probe` may take on an event loop; by default `timeout`.
        clock: monotonic seconds.
        on_event: told when Redis does not know our scripts.
    """

    name = "redis"

    def __init__(
        self,
        client: Client | Callable[[], Client],
        *,
        probe_client: Client | Callable[[], Client] | None = None,
        prefix: str = "vedsess:",
        longest_life: float = 7 * 86400.0,
        timeout: float = 0.2,
        probe_timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: EventHook = log_event,
    ) -> None:
        wire = Wire(client, timeout=timeout, clock=clock, on_missing_script=self._report_restart)
        probe_client = client if probe_client is None else probe_client
        self._probe = Wire(probe_client, timeout=probe_timeout or timeout, clock=clock)
        self._on_event, self._probe_key, self._epoch_key = on_event, f"{prefix}probe", f"{prefix}epoch"
        self._indexes, self._later = Indexes(prefix=prefix, life=ceil(longest_life) + 1), Later()
        self._census = Census(wire, session=f"{prefix}session:", indexes=self._indexes)
        self._see(View(wire, session=f"{prefix}session:"))

    @classmethod
    def from_url(
        cls, url: str, *, is_async: bool, timeout: float = 0.2, probe_timeout: float = 0.02, **options: Any
    ) -> Self:
        """A store with clients of its own.  Connects on first use.

        Args:
            url: as `redis_client` takes it.
            is_async: for an event loop, or blocking.
            timeout: seconds of one try.
            probe_timeout: seconds that `probe` may take.
            options: of the class.
        """

        def make(seconds: float) -> Client | Callable[[], Client]:
            if is_async:
                return lambda: redis_client(url, is_async=True, timeout=seconds)
            return redis_client(url, is_async=False, timeout=seconds)

        # Connecting and answering are two waits.
        probe = make(probe_timeout / 2)
        return cls(make(timeout), probe_client=probe, timeout=timeout, probe_timeout=probe_timeout, **options)

    def __repr__(self) -> str:
        return f"<RedisStore {'asyncio' if self.is_async else 'blocking'}>"

    @property
    def is_async(self) -> bool:
        return self._wire.is_async

    @property
    def pending(self) -> bool:
        return bool(self._later)

    # -- as a primary ----------------------------------------------------------------------------------------------

    def under(self, epoch: str) -> "RedisStore":
        other = copy(self)
        other._see(self._view.under(epoch))
        return other

    async def identity(self) -> str:
        return await self._census.processes()

    async def install(self) -> None:
        await self.installed()  # a connection that an earlier process left dead is found out by what may be repeated
        await self._wire.install(self._view.script)
        await self._wire.exchange(self._renewing())

    async def ping(self) -> None:
        if self.epoch:
            await self._wire.ping(self._view.script)

    async def installed(self) -> str:
        epoch = await self._wire.execute("GET", self._epoch_key)
        return epoch.decode() if epoch else ""

    async def find(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), denied: bool = False
    ) -> Found:
        return await self._reader.find(key, at, refresh, token, denied)

    async def peek(self, key: str) -> Record | None:
        return await self._reader.peek(key)

    async def fill(self, key: str, record: Record, *, lease: str = "") -> Record | None:
        ttl = milliseconds(record.expires_at - (record.updated_at if record.gone else record.last_activity))
        fields = to_hash(key, record)
        about = milliseconds(record.updated_at), max(1, ttl), int(record.gone), lease
        merging = self._view.call("merge", key, *about, *(text for pair in fields.items() for text in pair))
        raw, *_ = await self._wire.exchange(merging, *([] if record.gone else self._indexes.new(key, record)))
        return from_hash(key, pairs(raw))

    async def unconfirmed(self, *, limit: int) -> dict[str, int]:
        # Said again while it is at hand: it has to outlive whoever installed it.
        listing = ("ZRANGE", self._indexes.owing, 0, limit - 1, "WITHSCORES")
        *_, listed = await self._wire.exchange(*([self._renewing()] if self.epoch else []), listing)
        return {member.decode(): int(float(score)) for member, score in scored(listed)}

    def confirm(self, key: str, due: int) -> None:
        self._later.confirmed[key] = due

    async def probe(self) -> None:
        await self._probe.once(lambda client: client.set(self._probe_key, 1, px=1000))

    # -- the contract ----------------------------------------------------------------------------------------------

    async def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Record | None:
        return await self._reader.load(key, at, refresh, token)

    async def create(self, key: str, record: Record, *, due: int = 0) -> Version:
        record = record.born(Version(0, 1))
        await self._writer.create(key, record, self._indexes.owed(due, key))
        return record.version

    async def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        known: Version | None = None,
        due: int = 0,
    ) -> Replaced | None:
        ending = self._ending(old_key, at, until, record.named(new_key), known)
        record = record.born(Version(0, 1))
        also = [*ending, *self._indexes.owed(due, old_key, new_key)]
        (first, user, sid, raw, _), *_ = await self._writer.create(new_key, record, also)
        self._later.note_end(old_key, user, sid)
        if first or even_if_gone:
            old = readable(old_key, raw)
            return Replaced(version=record.version, missed=old.past(known) if old else None)
        await self.end([new_key], at=at, until=until)
        return None

    async def update(self, key: str, delta: Delta, *, due: int = 0) -> Written | None:
        return await self._writer.update(key, delta, due)

    async def end(
        self,
        keys: Sequence[str],
        *,
        user_id: str | None = None,
        keep: str | None = None,
        at: float,
        until: float,
        due: int = 0,
    ) -> list[str]:
        named, asked, ended = list(keys), list[str](), list[str]()
        ending = list(keys)
        if user_id is not None:
            ending += [key for key in await self._listing.keys(user_id) if key != keep and key not in ending]
        while ending:
            asked += ending
            found = zip(ending, await self._finished(ending, at, until, due), strict=True)
            # The index may still name sessions that ended before.
            told = [(key, first, successor) for key, (first, successor) in found if first or key in named]
            ended += [key for key, _, _ in told]
            gone_on = [successor for key, first, successor in told if key in named and not first]
            named = ending = [key for key in gone_on if key[:1] not in ("", "!") and key not in asked]
        return ended

    async def _finished(self, keys: Sequence[str], at: float, until: float, due: int) -> list[tuple[int, str]]:
        """End these, and tell of each whether this call did, and which key it had gone on under otherwise."""
        endings = [command for key in keys for command in self._ending(key, at, until)]
        replies = (await self._wire.exchange(*endings, *self._indexes.owed(due, *keys)))[: len(endings) : 2]
        for key, (_, user, sid, _, _) in zip(keys, replies, strict=True):
            self._later.note_end(key, user, sid)
        return [(first, successor.decode(errors="replace")) for first, _, _, _, successor in replies]

    async def cut_off(self, user_id: str, *, at: float, until: float) -> list[str]:
        begun, session = partial(self._listing.begun, user_id=user_id, at=at), self._view.session
        ended = await self.end(await begun(await self._listing.keys(user_id)), at=at, until=until)
        # An index may have been evicted, and its sessions not.
        async with aclosing(self._wire.scan(session, kind="hash")) as pages:
            async for names in pages:
                keys = await begun([name.removeprefix(session) for name in names])
                ended += await self.end(keys, at=at, until=until)
        await self.ping()  # whoever knows the epoch now has answered all of that
        return ended

    async def merge(self, key: str, record: Record) -> Record:
        return await self.fill(key, record, lease=_ANYWAY) or record

    async def records_of(self, owner: str, *, at: float, by: Owner = "user") -> dict[str, Record]:
        return await self._listing.records(owner, by, at)

    async def reserve(self, user_id: str, key: str, *, limit: int, deny: bool, at: float) -> list[str]:
        return await self._listing.reserve(user_id, key, limit=limit, deny=deny, at=at)

    async def lock(self, key: str, word: str, *, at: float, until: float) -> Fence | None:
        return await self._writer.lock(key, word, at, until)

    async def unlock(self, key: str, fence: Fence) -> None:
        await self._writer.unlock(key, fence)

    async def sample(self, *, at: float) -> tuple[str, Record] | None:
        return await self._listing.sample(at)

    async def stats(self, *, at: float) -> Stats:
        active, users = await self._census.count(at=at)
        return Stats(store=self.name, active=active, users=users, details=await self._census.server())

    async def cleanup(self, *, at: float) -> int:
        return await self._census.trim(at=at)

    async def after_response(self) -> None:
        later = self._later.take()
        used, ended = list(later.used.items()), list(later.ended.items())  # another thread may be about to add one
        touching = [self._view.call("touch", key, milliseconds(use.at)) for key, use in used if use.at]
        listing = [each for key, use in used for each in self._indexes.used(key, use.owners, use.expires_at)]
        unlisting = [each for key, owners in ended for each in self._indexes.ended(key, owners)]
        commands = [*touching, *listing, *unlisting]
        if later.confirmed:
            confirmed = [argument for pair in list(later.confirmed.items()) for argument in pair]
            commands.append(self._view.call_on("confirm", self._indexes.owing, *confirmed))
        await self._wire.exchange(*commands)

    async def close(self) -> None:
        await self._probe.close()
        await self._wire.close()

    def _report_restart(self) -> None:
        self._on_event(StoreRestarted(store=self.name))

    def _see(self, view: View) -> None:
        self._view, self._wire, self.epoch = view, view.wire, view.epoch
        self._reader = Reader(view, self._later, owing=self._indexes.owing, name=self.name)
        self._writer = Writer(view, self._indexes, self._later, name=self.name)
        self._listing = Listing(view, self._indexes)

    def _renewing(self) -> Command:
        return self._view.call_on("renew", self._epoch_key, self._indexes.life)

    def _ending(
        self, key: str, at: float, until: float, successor: str = "", known: Version | None = None
    ) -> list[Command]:
        times, version = (milliseconds(at), max(1, milliseconds(until - at))), "" if known is None else str(known)
        ending = self._view.call("finish", key, *times, secrets.token_hex(4), successor, version)
        return [ending, ("ZREM", self._indexes.everyone, key)]
