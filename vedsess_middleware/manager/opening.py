"""From cookies to a loaded session, and what a session leaves until it is touched."""

import math
import secrets
from collections.abc import Awaitable, Callable
from types import CoroutineType

from vedsess_middleware.concurrency import Wait, run_blocking, settle, waiting
from vedsess_middleware.cookies import Rejection, Ticket
from vedsess_middleware.errors import (
    CorruptRecord,
    SerializationError,
    StoreError,
    StoreMisconfigured,
    WriteConflict,
)
from vedsess_middleware.events import (
    CookieRejected,
    FingerprintMismatch,
    RecordRejected,
    SessionExpired,
    SocketClosed,
    UnknownSession,
)
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.manager.trail import Trail
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.sealing import Opened
from vedsess_middleware.session import Session
from vedsess_middleware.state import IdChange, State
from vedsess_middleware.stores.record import Fence, Record

__all__ = ["Opening"]

_TRIED = 3
_ASKS_EVERY = 0.05


class Opening:
    """Opens sessions, and does what they leave until they are touched.

    Args:
        parts: of the manager.
        save: commits a session whose front end has nothing better.
    """

    def __init__(self, parts: Parts, *, save: Callable[[Session], Awaitable[object]]) -> None:
        self.codec = parts.codec
        self.seals = not parts.sealer.transparent
        self.longest_timeout = parts.settings.longest_timeout
        self.trail = Trail(parts)
        self._parts, self._save = parts, save
        self._cookie_name = parts.settings.cookie_name
        self._wait: Wait = waiting(is_async=parts.store.is_async)

    @property
    def now(self) -> float:
        """Epoch seconds."""
        return self._parts.now

    def begin(self, cookie_header: str, request: Callable[[], RequestInfo] | None = None) -> Session:
        """Return a session that is not loaded yet.  No cookie is judged before it is touched."""
        state = State(self, cookie_header, loaded=self._cookie_name not in cookie_header)
        if request is not None and self._parts.watches_clients:
            state.request = request
        return Session(state)

    def judge(self, cookie_header: str) -> list[Ticket]:
        """Return the genuine cookies that are worth a try; an event tells of the others."""
        tickets: dict[str, Ticket] = {}
        for verdict in self._parts.jar.read(cookie_header):
            if isinstance(verdict, Rejection):
                self._parts.on_event(CookieRejected(reason=verdict.reason))
            elif len(tickets) < _TRIED:
                tickets.setdefault(verdict.session_id, verdict)
        return list(tickets.values())

    # -- loading ---------------------------------------------------------------------------------------------------

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
                # Merged with what an outage hid, a record may say that it lives beyond its deadline.
                if record is not None and not record.gone and at < record.expires_at and at < record.deadline_at:
                    if parts.notes_use(record, at=at):
                        record = await self._used(ticket, record, at=at)
                    if self._take(state, ticket, record):
                        return
                elif await self._take_successor(state, ticket, record, at=at):
                    return
            except CorruptRecord as error:
                self._tell(ticket, error)
            except StoreError as error:
                parts.note_failure(state, error)
                return
        state.tickets, state.loaded = (), True

    async def _used(self, ticket: Ticket, record: Record, *, at: float) -> Record:
        """Have the use recorded of a session that has a shorter life than most."""
        store, refresh = self._parts.store, self._parts.refresh_of(record)
        used = store.load(ticket.key, at=at, refresh=refresh, token=ticket.token, token_at=ticket.issued_at)
        found = await settle(used)
        return record if found is None or found.gone else found

    def _take(self, state: State, ticket: Ticket, record: Record) -> bool:
        """Give the session its record, unless its client is another one, and that is not allowed."""
        parts = self._parts
        if parts.watches_clients and state.request is not None and not parts.is_client(record, state.request()):
            policy = parts.settings.fingerprint_policy
            parts.on_event(FingerprintMismatch(session=ticket.key[:8], policy=policy))
            if policy == "reject":
                return False
            if policy == "rotate":
                state.intent = IdChange(reason="fingerprint", sealed=True)
        state.take(ticket, record)
        return True

    async def _take_successor(self, state: State, ticket: Ticket, record: Record | None, *, at: float) -> bool:
        """The session is over, or goes on under another id, which the browser is about to have."""
        parts = self._parts
        if record is not None and record.gone:
            moved = await self.trail.entered(ticket.key, record, at=at)
            if moved is not None:
                key, successor = moved
                state.moved = state.outdated = self._take(state, ticket.moved(key), successor)
                return state.moved
            state.tombstone_at, state.outdated = record.updated_at, True
        if record is not None and not record.gone:
            parts.on_event(SessionExpired(session=ticket.key[:8], reason="absolute"))
        elif record is None or not record.successor:
            parts.on_event(UnknownSession(session=ticket.key[:8]))
        return False

    def load_now(self, state: State) -> None:
        """Do so from blocking code.

        Raises:
            RuntimeError: the store needs an event loop, where `SessionManager.load` has to come first.
        """
        if self._parts.store.is_async and state.tickets:
            raise RuntimeError("on an event loop a session has to be loaded before it is read")
        run_blocking(self.load(state))

    async def ended(self, state: State, *, used: bool) -> str:
        """Why a session that was loaded a while ago is over; empty: it is not, or nobody can say.

        Args:
            state: of the session, which moves to the new id where another request has changed it.
            used: whether this counts as a use.
        """
        parts, ticket = self._parts, state.ticket
        if ticket is None:
            return ""
        at, refresh = parts.now, parts.refresh_of(state.record) if used else math.inf
        try:
            record = await settle(parts.store.load(ticket.key, at=at, refresh=refresh))
            moved = await self.trail.followed(record, at=at) if record is not None and record.gone else None
            if moved is not None:
                state.move(ticket.moved(moved[0]), moved[1])
        except StoreError:
            return ""
        if moved is not None:
            return ""
        over = ""
        if record is None or at >= min(record.expires_at, record.deadline_at):
            over = "expired"
        elif record.gone:
            over = "ended"
        if over:
            parts.on_event(SocketClosed(session=ticket.key[:8], reason=over))
        return over

    # -- values at rest --------------------------------------------------------------------------------------------

    def opened(self, state: State, name: str) -> Opened:
        """Open a value that is sealed at rest, or has a lifetime of its own."""
        known = state.opened.get(name)
        if known is not None:
            return known
        assert state.ticket is not None
        try:
            opened = self._parts.sealer.open(state.ticket.key, name, state.encoded[name])
        except StoreMisconfigured as error:
            self._parts.note_failure(state, error)
            state.refused = True
            raise
        state.opened = {**state.opened, name: opened}
        return opened

    def reject(self, state: State, error: SerializationError) -> None:
        """Tell that a value cannot be read."""
        assert state.ticket is not None
        self._tell(state.ticket, error)

    # -- what is done in between -----------------------------------------------------------------------------------

    async def save(self, session: object) -> None:
        """Commit now."""
        assert isinstance(session, Session)
        await self._save(session)

    async def lock(self, state: State, *, wait: float, hold: float) -> Fence | None:
        """Wait for the lock of a session that is stored.

        Raises:
            WriteConflict: somebody else held it all the time.
        """
        await self.load(state)
        if state.failure is not None:
            state.refused = True
            raise state.failure
        if state.ticket is None:
            return None
        parts, word = self._parts, secrets.token_hex(8)
        for _ in range(max(1, round(wait / _ASKS_EVERY))):
            at = parts.now
            fence = await settle(parts.store.lock(state.ticket.key, word, at=at, until=at + hold))
            if fence is not None:
                return fence
            await settle(self._wait(_ASKS_EVERY))
        raise WriteConflict("another request holds the lock of this session, or it has ended")

    async def unlock(self, state: State, fence: Fence) -> None:
        """Give the lock back."""
        if state.ticket is not None:
            await settle(self._parts.store.unlock(state.ticket.key, fence))

    def _tell(self, ticket: Ticket, error: CorruptRecord | SerializationError) -> None:
        self._parts.on_event(RecordRejected(session=ticket.key[:8], reason=str(error)))
