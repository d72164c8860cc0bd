"""What a session takes along when its id changes."""

from vedsess_middleware.errors import SerializationError
from vedsess_middleware.events import RecordRejected
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.sealing import MARKS
from vedsess_middleware.state import Changes
from vedsess_middleware.stores.record import Record

__all__ = ["carried"]


def carried(parts: Parts, key: str, record: Record, changes: Changes) -> Changes:
    """All values, as the codec has them: they are sealed anew for each key.  One that cannot be read stays behind.

    Args:
        parts: of the manager.
        key: of the record.
        record: what is stored of the session.
        changes: what is to be written in the same step.

    Raises:
        StoreMisconfigured: the settings do not fit to a value.
    """
    put, until = dict(changes.put), dict(changes.until)
    for name, text in record.values.items():
        if name in put or name in changes.drop:
            continue
        if parts.sealer.transparent and text[0] not in MARKS:
            put[name] = text
            continue
        try:
            put[name], ends, _ = parts.sealer.open(key, name, text)
        except SerializationError as error:
            parts.on_event(RecordRejected(session=key[:8], reason=str(error)))
            continue
        if ends is not None:
            until[name] = ends
    return Changes(put=put, until=until)
