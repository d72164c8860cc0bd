"""What of the values that an app has in its hands differs from what is stored."""

from collections.abc import Iterable
from contextlib import suppress

from vedsess_middleware.errors import SerializationError
from vedsess_middleware.sealing import MARKS, Opened
from vedsess_middleware.state import NO_CHANGES, Changes, State
from vedsess_middleware.stores.record import KEPT_DELETIONS, Record

__all__ = ["changes_of"]

_NEITHER = object()


def changes_of(state: State, suspects: Iterable[tuple[str, object]], drop: tuple[str, ...]) -> Changes:
    """Compare values with what is stored, by their encoded text.

    Args:
        state: of the session.
        suspects: values that may differ, by name.
        drop: names that are stored, and not there any more.

    Raises:
        SerializationError: a value cannot be stored; names the field and the type.
    """
    stored, encode = state.encoded, state.opener.codec.encode
    put: dict[str, str] = {}
    until: dict[str, float] = {}
    for name, value in suspects:
        text = encode(name, value)
        if _is_plain(state, name):
            if text != stored.get(name):
                put[name] = text
            continue
        kept, ends = _kept(state, name), _lifetime(state, name, value)
        if kept is None or text != kept.text or ends != kept.until:
            _put(name, text, ends, put, until)
    if not (put or drop):
        return NO_CHANGES
    for name, kept in state.opened.items():  # sealed as it would not be any more: it is written along
        if not (kept.current or name in put or name in drop):
            _put(name, kept.text, kept.until, put, until)
    return Changes(
        put=put, drop=drop, forget=_forgotten(state.record, len(stored), {*put, *drop}), until=until or NO_CHANGES.until
    )


def _put(name: str, text: str, ends: float | None, put: dict[str, str], until: dict[str, float]) -> None:
    put[name] = text
    if ends is not None:
        until[name] = ends


def _is_plain(state: State, name: str) -> bool:
    """Whether what is stored of a value is its encoded text, and nothing is said of its lifetime."""
    if state.opener.seals or name in state.lifetimes or name in state.opened:
        return False
    stored = state.encoded.get(name)
    return stored is None or stored[0] not in MARKS


def _kept(state: State, name: str) -> Opened | None:
    """What is stored of a value; None: nothing, or nothing that can be read, which is replaced like anything else."""
    if name not in state.opened and name not in state.encoded:
        return None
    with suppress(SerializationError):
        return state.opened.get(name) or state.opener.opened(state, name)
    return None


def _lifetime(state: State, name: str, value: object) -> float | None:
    """When this value ends; one that was put in the place of another has no end of its own."""
    given, ends = state.lifetimes.get(name, (_NEITHER, None))
    return ends if given is value else None


def _forgotten(record: Record | None, living: int, changed: set[str]) -> tuple[str, ...]:
    """Deletions beyond those that a record remembers, the oldest."""
    if record is None or len(record.fields) - living <= KEPT_DELETIONS:
        return ()
    deleted = [(item.stamp, name) for name, item in record.fields.items() if item.value is None and name not in changed]
    deleted.sort(reverse=True)
    return tuple(name for _, name in deleted[KEPT_DELETIONS:])
