"""One write to a session that is stored: sealed, sent, and said to be refused where it was."""

import secrets
from collections.abc import Collection, Mapping
from contextlib import suppress
from types import CoroutineType
from typing import NamedTuple

from vedsess_middleware import events
from vedsess_middleware.concurrency import settle
from vedsess_middleware.errors import CorruptRecord, SerializationError, WriteConflict
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.state import Changes, State
from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.record import Delta, Record, Version

__all__ = ["Place", "catch_up", "delta_of", "rewritten", "send"]


def delta_of(
    parts: Parts, state: State, sealed: Mapping[str, str], changes: Changes, *, base: Version, loaded: Record | None
) -> Delta:
    """The changes as a store takes them.

    Args:
        parts: of the manager.
        state: of the session.
        sealed: what is put, as it is to be at rest.
        changes: what is to be written.
        base: see `Delta`.
        loaded: the same.
    """
    return Delta(
        put=sealed,
        drop=changes.drop,
        forget=changes.forget,
        at=parts.now,
        base=base,
        loaded=loaded,
        refresh=parts.refresh,
        commit_id=secrets.token_hex(4),
        expected=state.expected,
        fence=state.fence,
    )


async def send(parts: Parts, key: str, delta: Delta) -> Written | None:
    """Write; None: there is nothing to write to.

    Raises:
        WriteConflict: others were quicker.
    """
    try:
        writing = parts.store.update(key, delta)
        written = await writing if type(writing) is CoroutineType else await settle(writing)
    except CorruptRecord as error:
        parts.on_event(events.RecordRejected(session=key[:8], reason=str(error)))
        return None
    if written is not None and written.unlocked:
        parts.on_event(events.LockLost(session=key[:8]))
        raise WriteConflict("the lock of this session had run out, or its store was away")
    if written is not None and written.conflict:
        parts.on_event(events.WriteConflict(session=key[:8], fields=written.conflict))
        raise WriteConflict("another request has written what was expected to stay", fields=written.conflict)
    return written


def rewritten(record: Record, delta: Delta, written: Written) -> Record:
    """What a session knows of its record after a write."""
    # Without the whole record, what others wrote is not in it: then it keeps its version.
    newest = written.record or record.written(delta, written.version).replace(version=record.version)
    return newest.replace(served_by=record.served_by)


class Place(NamedTuple):
    """A record, and where it is."""

    key: str
    record: Record


async def catch_up(
    parts: Parts, state: State, missed: Record, there: Place, here: Place, *, mine: Collection[str]
) -> Version:
    """Take along what others wrote to a session after it was loaded, and before its id changed.

    Args:
        parts: of the manager.
        state: of the session.
        missed: what the old record was in the end.
        there: the old record, as it was loaded.
        here: the new one.
        mine: what the request that changes the id wrote itself, later than all others.

    Returns:
        the version of the new record then.
    """
    if there.record.user_id not in (None, here.record.user_id):
        return here.record.version  # the session of a user who has left
    put, until, drop = dict[str, str](), dict[str, float](), list[str]()
    for name, item in missed.fields.items():
        if name in mine or there.record.version.covers(item.stamp):
            continue
        if item.value is None:
            drop.append(name)
            continue
        with suppress(SerializationError):
            put[name], ends, _ = parts.sealer.open(there.key, name, item.value)
            if ends is not None:
                until[name] = ends
    changes = Changes(put=put, drop=tuple(drop), until=until)
    if not changes:
        return here.record.version
    sealed = parts.sealed(here.key, changes, {})
    delta = delta_of(parts, state, sealed, changes, base=here.record.version, loaded=here.record)
    written = await send(parts, here.key, delta.replace(expected={}, fence=None))
    return here.record.version if written is None or written.gone else written.version
