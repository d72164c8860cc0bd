"""From cookies to a loaded session."""

from vedsess_middleware.concurrency import settle
from vedsess_middleware.cookies import Rejection, Ticket
from vedsess_middleware.errors import CorruptRecord, SerializationError, StoreError
from vedsess_middleware.events import CookieRejected, RecordRejected, UnknownSession
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.state import State

__all__ = ["begin", "load"]

_TRIED = 3


def begin(parts: Parts, cookie_header: str) -> Session:
    """Judge the cookies and return a session that is not loaded yet.  Asks no store."""
    state = State(codec=parts.codec)
    for verdict in parts.jar.read(cookie_header) if cookie_header else ():
        if isinstance(verdict, Rejection):
            parts.on_event(CookieRejected(reason=verdict.reason))
        elif len(state.tickets) < _TRIED and all(verdict.session_id != each.session_id for each in state.tickets):
            state.tickets.append(verdict)
    state.loaded = not state.tickets
    return Session(state)


async def load(parts: Parts, session: Session) -> None:
    """Ask the store for the session of each genuine cookie, until one is alive."""
    state = state_of(session)
    if state.loaded:
        return
    try:
        for ticket in state.tickets:
            if await _load(parts, session, ticket):
                return
    except StoreError as error:
        parts.note_failure(state, error)
        return
    state.tickets.clear()
    session.fill({})


async def _load(parts: Parts, session: Session, ticket: Ticket) -> bool:
    state, key, at = state_of(session), ticket.key, parts.now
    try:
        loading = parts.store.load(key, at=at, refresh=parts.refresh, token=ticket.token, token_at=ticket.issued_at)
        record = await settle(loading)
        # Merged with what an outage hid, a record may say that it lives beyond its deadline.
        if record is None or record.gone or min(record.expires_at, record.deadline_at) <= at:
            if record is not None and record.gone:
                state.tombstone_at = record.updated_at
            parts.on_event(UnknownSession(session=key[:8]))
            return False
        encoded = record.values
        values = {name: parts.codec.decode(text) for name, text in encoded.items()}
    except (CorruptRecord, SerializationError) as error:
        parts.on_event(RecordRejected(session=key[:8], reason=str(error)))
        return False
    state.ticket, state.record, state.encoded = ticket, record, encoded
    state.tickets = [ticket]
    session.fill(values)
    return True
