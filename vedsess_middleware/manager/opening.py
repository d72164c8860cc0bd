"""From cookies to a loaded session."""

from collections.abc import Awaitable, Callable
from types import CoroutineType

from vedsess_middleware.concurrency import run_blocking, settle
from vedsess_middleware.cookies import Rejection, Ticket
from vedsess_middleware.errors import CorruptRecord, SerializationError, StoreError
from vedsess_middleware.events import CookieRejected, RecordRejected, UnknownSession
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.session import Session
from vedsess_middleware.state import State

__all__ = ["Opening"]

_TRIED = 3


class Opening:
    """Opens sessions, and does what they leave until they are touched.

    Args:
        parts: of the manager.
        save: commits a session whose front end has nothing better.
    """

    def __init__(self, parts: Parts, *, save: Callable[[Session], Awaitable[object]]) -> None:
        self.codec = parts.codec
        self._parts, self._save = parts, save
        self._cookie_name = parts.settings.cookie_name

    def begin(self, cookie_header: str) -> Session:
        """Return a session that is not loaded yet.  No cookie is judged before it is touched."""
        return Session(State(self, cookie_header, loaded=self._cookie_name not in cookie_header))

    def judge(self, cookie_header: str) -> list[Ticket]:
        """Return the genuine cookies that are worth a try; an event tells of the others."""
        tickets: dict[str, Ticket] = {}
        for verdict in self._parts.jar.read(cookie_header):
            if isinstance(verdict, Rejection):
                self._parts.on_event(CookieRejected(reason=verdict.reason))
            elif len(tickets) < _TRIED:
                tickets.setdefault(verdict.session_id, verdict)
        return list(tickets.values())

    async def load(self, state: State) -> None:
        """Ask the store for the session of each genuine cookie, until one is alive."""
        if state.loaded:
            return
        parts = self._parts
        for ticket in state.tickets:
            at = parts.now
            try:
                found = parts.store.load(
                    ticket.key, at=at, refresh=parts.refresh, token=ticket.token, token_at=ticket.issued_at
                )
                # `settle` would be one coroutine more in the way of every request.
                record = await found if type(found) is CoroutineType else await settle(found)
            except CorruptRecord as error:
                self._tell(ticket, error)
                continue
            except StoreError as error:
                parts.note_failure(state, error)
                return
            # Merged with what an outage hid, a record may say that it lives beyond its deadline.
            if record is not None and not record.gone and at < record.expires_at and at < record.deadline_at:
                state.take(ticket, record)
                return
            if record is not None and record.gone:
                state.tombstone_at = record.updated_at
            parts.on_event(UnknownSession(session=ticket.key[:8]))
        state.tickets, state.loaded = (), True

    def load_now(self, state: State) -> None:
        """Do so from blocking code.

        Raises:
            RuntimeError: the store needs an event loop, where `SessionManager.load` has to come first.
        """
        if self._parts.store.is_async and state.tickets:
            raise RuntimeError("on an event loop a session has to be loaded before it is read")
        run_blocking(self.load(state))

    def reject(self, state: State, error: SerializationError) -> None:
        """Tell that a value cannot be read."""
        assert state.ticket is not None
        self._tell(state.ticket, error)

    async def save(self, session: object) -> None:
        """Commit now."""
        assert isinstance(session, Session)
        await self._save(session)

    def _tell(self, ticket: Ticket, error: CorruptRecord | SerializationError) -> None:
        self._parts.on_event(RecordRejected(session=ticket.key[:8], reason=str(error)))
