"""The Redis store: a hash per session, changed by guarded scripts that one key each and may be repeated."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Self

from vedsess_middleware.errors import CorruptRecord, SessionExists
from vedsess_middleware.events import EventHook, StoreRestarted, log_event
from vedsess_middleware.stores.contract import Found, Stats, Written
from vedsess_middleware.stores.record import Delta, Record, Version
from vedsess_middleware.stores.redis.census import Census
from vedsess_middleware.stores.redis.client import Client, redis_client
from vedsess_middleware.stores.redis.hashes import from_hash, iso, milliseconds, to_arguments, to_hash
from vedsess_middleware.stores.redis.scripts import session_script
from vedsess_middleware.stores.redis.wire import Argument, Call, Command, Wire

__all__ = ["RedisStore"]

_ANYWAY = "*"
"""Instead of a lease: a store that is alone has nobody who could know better."""


@dataclass(slots=True)
class _Later:
    """What is to change after a response: entries of indexes, and of the list of owed copies.

    Attributes:
        used: uses, by key: whose, when (0: it is recorded), and when the session ends now.
        ended: users of sessions that have ended, by key.
        confirmed: copies that have arrived, with their number, by key.
    """

    used: dict[str, tuple[str | None, float, float]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.used or self.ended or self.confirmed)

    def take(self) -> "_Later":
        """All of it; it is empty afterwards."""
        taken = _Later(self.used, self.ended, self.confirmed)
        self.used, self.ended, self.confirmed = {}, {}, {}
        return taken


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
        self._wire = Wire(client, timeout=timeout, clock=clock, on_missing_script=self._report_restart)
        probe_client = client if probe_client is None else probe_client
        self._probe = Wire(probe_client, timeout=probe_timeout or timeout, clock=clock)
        self._session, self._user = f"{prefix}session:", f"{prefix}user_sessions:"
        self._all, self._probe_key = f"{prefix}session_index:all", f"{prefix}probe"
        self._longest, self._on_event = ceil(longest_life) + 1, on_event
        self._census = Census(self._wire, session=self._session, user=self._user, everyone=self._all)
        self._owing, self._epoch_key = f"{prefix}to_mirror", f"{prefix}epoch"
        self._later = _Later()
        self.epoch, self._script = "", session_script()

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
        view = copy(self)
        view.epoch, view._script, view._wire = epoch, session_script(epoch), self._wire.as_strict()
        return view

    async def identity(self) -> str:
        return await self._census.processes()

    async def install(self) -> None:
        await self.installed()  # a connection that an earlier process left dead is found out by what may be repeated
        await self._wire.install(self._script)
        await self._wire.exchange(self._renewing())

    async def ping(self) -> None:
        if self.epoch:
            await self._wire.ping(self._script)

    async def installed(self) -> str:
        epoch = await self._wire.execute("GET", self._epoch_key)
        return epoch.decode() if epoch else ""

    async def find(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), denied: bool = False
    ) -> Found:
        if not denied:
            *_, reply = await self._wire.exchange(*self._looking(key))
            found = self._seen(key, reply, at, refresh, token)
            if found is not None:
                return found
        return await self._find(key, at, refresh, token, denied)

    async def peek(self, key: str) -> Record | None:
        [raw] = await self._wire.exchange(("HGETALL", self._session + key))
        return from_hash(key, _pairs(raw))

    async def fill(self, key: str, record: Record, *, lease: str = "") -> Record | None:
        ttl = milliseconds(record.expires_at - (record.updated_at if record.gone else record.last_activity))
        fields = {"version": str(record.version)} if record.gone else to_hash(key, record)
        about = milliseconds(record.updated_at), max(1, ttl), int(record.gone), lease
        merging = self._call("merge", key, *about, *(text for pair in fields.items() for text in pair))
        raw, *_ = await self._wire.exchange(merging, *([] if record.gone else self._indexed(key, record)))
        return from_hash(key, _pairs(raw))

    async def unconfirmed(self, *, limit: int) -> dict[str, int]:
        # Said again while it is at hand: it has to outlive whoever installed it.
        listing = ("ZRANGE", self._owing, 0, limit - 1, "WITHSCORES")
        *_, listed = await self._wire.exchange(*([self._renewing()] if self.epoch else []), listing)
        return {member.decode(): int(float(score)) for member, score in _scored(listed)}

    def confirm(self, key: str, due: int) -> None:
        self._later.confirmed[key] = due

    async def probe(self) -> None:
        await self._probe.once(lambda client: client.set(self._probe_key, 1, px=1000))

    # -- the contract ----------------------------------------------------------------------------------------------

    async def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Record | None:
        *_, reply = await self._wire.exchange(*self._looking(key))
        found = self._seen(key, reply, at, refresh, token)
        return found.record if found else None

    async def create(self, key: str, record: Record, *, due: int = 0) -> Version:
        version, _ = await self._create(key, record.born(Version(0, 1)), self._due(due, key))
        return version

    async def replace(
        self,
        old_key: str,
        new_key: str,
        record: Record,
        *,
        at: float,
        until: float,
        even_if_gone: bool = False,
        due: int = 0,
    ) -> Version | None:
        ending = [*self._ending(old_key, at, until), *self._due(due, old_key, new_key)]
        version, replies = await self._create(new_key, record.born(Version(0, 1)), ending)
        first, user = replies[0]
        self._unlist(old_key, user)
        if first or even_if_gone:
            return version
        await self.end([new_key], at=at, until=until)
        return None

    async def update(self, key: str, delta: Delta, *, due: int = 0) -> Written | None:
        known = str(delta.loaded.version) if delta.loaded else ""
        # What the request loaded says whether the use is due; without it, the script looks.
        lately = delta.at - delta.refresh
        due_before = "" if delta.loaded and delta.loaded.last_activity >= lately else iso(lately)
        times = iso(delta.at), due_before, milliseconds(delta.at)
        about = *delta.base, known, delta.commit_id, int(delta.whole)
        arguments: list[Argument] = [*times, *about, *to_arguments(delta), "update"]
        (outcome, *facts), *_ = await self._wire.exchange(*self._listing(due, key, arguments))
        if outcome == b"gone":
            return Written(gone=True)
        if outcome != b"ok":
            return None
        version, *facts = facts
        if len(facts) > 1:
            expires, user, *facts = facts
            self._later.used[key] = user.decode() or None, 0.0, expires / 1000
        return self._written(key, delta, Version.parse(version.decode()), facts)

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
        ended = list(keys)
        if user_id is not None:
            ended += [key for key in await self._keys_of(user_id) if key != keep and key not in ended]
        endings = [self._ending(key, at, until) for key in ended]
        listing = self._due(due, *ended)
        replies = await self._wire.exchange(*(command for ending in endings for command in ending), *listing)
        replies = replies[: 2 * len(ended) : 2]
        for key, (_, user) in zip(ended, replies, strict=True):
            self._unlist(key, user)
        # The index may still name sessions that ended before.
        return [key for key, (first, _) in zip(ended, replies, strict=True) if first or key in keys]

    async def merge(self, key: str, record: Record) -> Record:
        return await self.fill(key, record, lease=_ANYWAY) or record

    async def records_of(self, user_id: str, *, at: float) -> dict[str, Record]:
        keys = await self._keys_of(user_id)
        hashes = await self._wire.exchange(*(("HGETALL", self._session + key) for key in keys))
        found = {key: _readable(key, raw) for key, raw in zip(keys, hashes, strict=True)}
        return {key: record for key, record in found.items() if record and not record.gone and record.expires_at > at}

    async def stats(self, *, at: float) -> Stats:
        active, users = await self._census.count(at=at)
        return Stats(store=self.name, active=active, users=users, details=await self._census.server())

    async def cleanup(self, *, at: float) -> int:
        return await self._census.trim(at=at)

    async def after_response(self) -> None:
        later = self._later.take()
        used, ended = list(later.used.items()), list(later.ended.items())  # another thread may be about to add one
        touching = [self._call("touch", key, milliseconds(at)) for key, (_, at, _) in used if at]
        listing = [command for key, (user, _, end) in used for command in self._index(key, user, end)]
        unlisting = [("ZREM", self._user + user, key) for key, user in ended]
        commands = [*touching, *listing, *unlisting]
        if later.confirmed:
            pairs = [argument for pair in list(later.confirmed.items()) for argument in pair]
            commands.append(Call(self._script, [self._owing], [*pairs, "confirm"]))
        await self._wire.exchange(*commands)

    async def close(self) -> None:
        await self._probe.close()
        await self._wire.close()

    def _report_restart(self) -> None:
        self._on_event(StoreRestarted(store=self.name))

    def _looking(self, key: str) -> list[Command]:
        """Look without a trace.

        Whether the process knows the epoch is asked on the same connection, just before: what answers then is the same
        process.  So what is read needs no script, and costs Redis a tenth of one.
        """
        name = self._session + key
        return [Call(self._script, [name]), ("HGETALL", name)] if self.epoch else [("HGETALL", name)]

    def _seen(self, key: str, reply: Any, at: float, refresh: float, token: Version) -> Found | None:
        """What was found; None: it may not be served, and under an epoch that asks for a lease."""
        raw = _pairs(reply)
        if self.epoch and b"gone" not in raw and raw.get(b"epoch") != self.epoch.encode():
            return None
        record = from_hash(key, raw, served_by=self.name)
        if record is None or record.gone:
            return Found(record=record)
        covered = record.version.covers(token)
        if record.expires_at > at and covered:
            return Found(record=self._noted(key, record, at, refresh), hit=True)
        if self.epoch:
            return None
        if record.expires_at <= at:
            return Found()
        return Found(record=self._noted(key, record.replace(stale=True), at, refresh))

    async def _find(self, key: str, at: float, refresh: float, token: Version, denied: bool) -> Found:
        """Look, and leave a lease where nothing is."""
        lease = secrets.token_hex(4)
        asking = self._call("load", key, str(token), int(denied), lease), ("ZSCORE", self._owing, key)
        (outcome, reply), score = await self._wire.exchange(*asking)
        record, due = from_hash(key, _pairs(reply), served_by=self.name), score is not None
        if record is not None and record.gone:
            return Found(record=record)
        if record is None or record.expires_at <= at:
            return Found(lease=lease, due=due)
        record = record.replace(stale=not record.version.covers(token))
        if outcome != b"hit":
            return Found(record=record, lease=lease, due=due)
        return Found(record=self._noted(key, record, at, refresh), hit=True)

    def _noted(self, key: str, record: Record, at: float, refresh: float) -> Record:
        """The record as used now, if that is to be recorded: after the response."""
        if record.last_activity >= at - refresh:
            return record
        record = record.used(at)
        self._later.used[key] = record.user_id, at, record.expires_at
        return record

    async def _create(self, key: str, record: Record, also: list[Command]) -> tuple[Version, list[Any]]:
        fields = [text for pair in to_hash(key, record).items() for text in pair]
        ttl = milliseconds(record.expires_at - record.last_activity)
        # The random word tells a repeated create from a collision.
        creating = [self._call("create", key, ttl, secrets.token_hex(4), *fields), *self._indexed(key, record)]
        replies = await self._wire.exchange(*creating, *also)
        if not replies[0]:
            raise SessionExists("a record exists under this key")
        return record.version, replies[len(creating) :]

    def _written(self, key: str, delta: Delta, version: Version, rest: Sequence[Any]) -> Written:
        if rest:
            return Written(version=version, record=from_hash(key, _pairs(rest[0])))
        if not delta.whole or delta.loaded is None:
            return Written(version=version)
        # Nobody wrote since the request loaded it, so what is stored is what it loaded and this delta.
        return Written(version=version, record=delta.loaded.written(delta, version))

    def _call(self, name: str, key: str, *arguments: Argument) -> Command:
        return Call(self._script, [self._session + key], [*arguments, name])

    def _renewing(self) -> Command:
        return Call(self._script, [self._epoch_key], [self._longest, "renew"])

    def _listing(self, due: int, key: str, arguments: list[Argument]) -> list[Command]:
        """Call the script, and list what is due: in the same step where one server has both keys."""
        name = self._session + key
        if not due or self._wire.is_cluster:
            return [Call(self._script, [name], arguments), *self._due(due, key)]
        return [Call(self._script, [name, self._owing], [key, due, self._longest, *arguments])]

    def _due(self, due: int, *keys: str) -> list[Command]:
        if not due or not keys:
            return []
        listing = ("ZADD", self._owing, *(argument for key in keys for argument in (due, key)))
        return [listing, ("EXPIRE", self._owing, self._longest)]

    def _index(self, key: str, user_id: str | None, expires_at: float) -> list[Command]:
        names = [self._all] if user_id is None else [self._all, self._user + user_id]
        adding: list[Command] = [("ZADD", name, "GT", expires_at, key) for name in names]
        return [*adding, *(("EXPIRE", name, self._longest) for name in names)]

    def _indexed(self, key: str, record: Record) -> list[Command]:
        names = [self._all] if record.user_id is None else [self._all, self._user + record.user_id]
        trimming: list[Command] = [("ZREMRANGEBYSCORE", name, "-inf", record.last_activity) for name in names]
        return [*trimming, *self._index(key, record.user_id, record.expires_at)]

    def _ending(self, key: str, at: float, until: float) -> list[Command]:
        ending = self._call("finish", key, milliseconds(at), max(1, milliseconds(until - at)), secrets.token_hex(4))
        return [ending, ("ZREM", self._all, key)]

    def _unlist(self, key: str, user: bytes) -> None:
        """Take a session that has ended from its user's index, after the response."""
        self._later.used.pop(key, None)
        if user:
            self._later.ended[key] = user.decode()

    async def _keys_of(self, user_id: str) -> list[str]:
        [members] = await self._wire.exchange(("ZRANGE", self._user + user_id, 0, -1))
        return [member.decode() for member in members]


def _pairs(raw: Any) -> Mapping[bytes, bytes]:
    return dict(zip(raw[::2], raw[1::2], strict=True)) if type(raw) is list else raw


def _scored(raw: Any) -> list[tuple[bytes, Any]]:
    """Members with scores, as RESP2 or a client that pairs them gives them."""
    return raw if raw and not isinstance(raw[0], bytes) else list(zip(raw[::2], raw[1::2], strict=True))


def _readable(key: str, raw: Any) -> Record | None:
    try:
        return from_hash(key, _pairs(raw))
    except CorruptRecord:
        return None
