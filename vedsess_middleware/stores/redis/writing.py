"""Writing a record: a first one, and what one request changed."""

import secrets
from collections.abc import Sequence
from typing import Any

from vedsess_middleware.errors import SessionExists
from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.record import Delta, Fence, Record, Version
from vedsess_middleware.stores.redis.hashes import (
    VALUE,
    from_hash,
    iso,
    milliseconds,
    pairs,
    to_arguments,
    to_guards,
    to_hash,
)
from vedsess_middleware.stores.redis.indexes import Indexes, Later, Owners, Use
from vedsess_middleware.stores.redis.view import View
from vedsess_middleware.stores.redis.wire import Argument, Call, Command

__all__ = ["Writer"]


class Writer:
    """Writes records under an epoch.

    Args:
        view: where.
        indexes: that name them.
        later: is told of uses that the script has recorded, and no index yet.
        name: of the store, as the fences that it gives out have it.
    """

    def __init__(self, view: View, indexes: Indexes, later: Later, *, name: str) -> None:
        self._view, self._indexes, self._later, self._name = view, indexes, later, name

    async def create(self, key: str, record: Record, also: Sequence[Command]) -> list[Any]:
        """Store a first record, and return the replies to what is sent along.

        Raises:
            SessionExists: there is a record, or a tombstone.
        """
        fields = [text for pair in to_hash(key, record).items() for text in pair]
        ttl = milliseconds(record.expires_at - record.last_activity)
        # The random word tells a repeated create from a collision.
        creating = self._view.call("create", key, ttl, secrets.token_hex(4), *fields)
        commands = [creating, *self._indexes.new(key, record)]
        replies = await self._view.wire.exchange(*commands, *also)
        if not replies[0]:
            raise SessionExists("a record exists under this key")
        return replies[len(commands) :]

    async def update(self, key: str, delta: Delta, due: int) -> Written | None:
        """Write the changed fields, and list the copy that is due; None: nothing was written."""
        known = str(delta.loaded.version) if delta.loaded else ""
        # What the request loaded says whether the use is due; without it, the script looks.
        lately = delta.at - delta.refresh
        due_before = "" if delta.loaded and delta.loaded.last_activity >= lately else iso(lately)
        times = iso(delta.at), due_before, milliseconds(delta.at)
        about = *delta.base, known, delta.commit_id, int(delta.whole)
        is_guarded = delta.fence is not None or delta.expected
        command = [*to_guards(delta, self._name), "guarded"] if is_guarded else ["update"]
        arguments: list[Argument] = [*times, *about, *to_arguments(delta), *command]
        (outcome, *facts), *_ = await self._view.wire.exchange(*self._listing(due, key, arguments))
        if outcome != b"ok":
            return _refused(outcome, facts)
        version, *facts = facts
        if len(facts) > 1:
            expires, user, sid, *facts = facts
            self._later.used[key] = Use(Owners.parse(user, sid), 0.0, expires / 1000)
        return _written(key, delta, Version.parse(version.decode()), facts)

    async def lock(self, key: str, word: str, at: float, until: float) -> Fence | None:
        """Give out the lock of a session, if nobody has it."""
        about = iso(at), milliseconds(at), milliseconds(until), word
        [number] = await self._view.wire.exchange(self._view.call("lock", key, *about))
        return Fence(self._name, int(number)) if number else None

    async def unlock(self, key: str, fence: Fence) -> None:
        """Give a lock back, if it is still its holder's."""
        if fence.store == self._name:
            await self._view.wire.exchange(self._view.call("unlock", key, fence.number))

    def _listing(self, due: int, key: str, arguments: list[Argument]) -> list[Command]:
        """Call the script, and list what is due: in the same step where one server has both keys."""
        view, indexes, name = self._view, self._indexes, self._view.session + key
        if not due or view.wire.is_cluster:
            return [Call(view.script, [name], arguments), *indexes.owed(due, key)]
        return [Call(view.script, [name, indexes.owing], [key, due, indexes.life, *arguments])]


def _refused(outcome: bytes, facts: Sequence[bytes]) -> Written | None:
    if outcome == b"gone":
        return Written(gone=True)
    if outcome not in (b"conflict", b"unlocked"):
        return None
    version, *names = facts
    conflict = tuple(name.decode().removeprefix(VALUE) for name in names)
    return Written(version=Version.parse(version.decode()), conflict=conflict, unlocked=outcome == b"unlocked")


def _written(key: str, delta: Delta, version: Version, rest: Sequence[Any]) -> Written:
    if rest:
        return Written(version=version, record=from_hash(key, pairs(rest[0])))
    if not delta.whole or delta.loaded is None:
        return Written(version=version)
    # Nobody wrote since the request loaded it, so what is stored is what it loaded and this delta.
    return Written(version=version, record=delta.loaded.written(delta, version))
