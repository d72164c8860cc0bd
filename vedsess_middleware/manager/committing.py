"""From a changed session to the stores, and to the cookie that the browser is answered with."""

from dataclasses import replace
from types import CoroutineType

from vedsess_middleware.concurrency import settle
from vedsess_middleware.cookies import Ticket
from vedsess_middleware.errors import CorruptRecord, StoreError
from vedsess_middleware.events import IdChanged, RecordRejected, SessionCreated, SessionEnded, WriteRefused
from vedsess_middleware.manager.opening import Opening
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.state import Changes
from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.record import Delta, Record, Version

__all__ = ["Commit"]

# A request that meets a tombstone as young as this may have been under way when the session ended or changed its id:
# a cookie of its own would undo the newer one.
_RACING = 10.0


class Commit:
    """One commit.  Each step returns the Set-Cookie header that it asks for, or None.

    Args:
        parts: of the manager.
        opening: of the manager.
        session: of the request.
        info: of the request.
        headers_left: no cookie can be set any more.
    """

    __slots__ = ("_headers_left", "_info", "_opening", "_parts", "_session", "_state")

    def __init__(
        self, parts: Parts, opening: Opening, session: Session, info: RequestInfo, headers_left: bool = False
    ) -> None:
        self._parts, self._opening, self._session, self._info = parts, opening, session, info
        self._headers_left = headers_left
        self._state = state_of(session)

    async def run(self) -> str | None:
        """Carry out what the app asked for, logout first."""
        state = self._state
        if state.refused and state.failure is not None:
            raise state.failure
        if not state.touched:
            return None
        try:
            removal = await self.end() if state.ended else None
            edits, changes = state.edits, self._session.changes()
            if not state.loaded:
                cookie = await self._write_unread(changes)
            elif state.is_new:
                cookie = await self._create(changes)
            elif state.intent and not self._headers_left:
                cookie = await self._change_id(changes)
            else:
                if state.intent:
                    self._refuse("", "the headers had left, so the id could not change")
                cookie = await self._update(changes) if changes else self._confirm()
        except StoreError as error:
            self._parts.note_failure(state, error)
            state.refused = True
            raise
        # Another task may have committed more meanwhile.
        if not state.editable and edits > state.committed:
            state.committed = edits
        return None if self._headers_left else cookie or removal

    async def end(self) -> str | None:
        """End what the app logged out of."""
        state, parts = self._state, self._parts
        if not state.ended:
            return None
        await settle(parts.store.end(state.ended, at=parts.now, until=parts.until))
        for key in state.ended:
            parts.on_event(SessionEnded(session=key[:8], reason="logout"))
        state.ended = ()
        return parts.jar.remove(secure=self._info.secure)

    async def _create(self, changes: Changes) -> str | None:
        state, parts = self._state, self._parts
        if not (changes.put or state.intent == "login"):
            return None
        refusal = self._refusal()
        if refusal:
            self._refuse("", refusal)
            return None
        at = parts.now
        record = parts.first_record(changes.put, self._info, at=at, user_id=state.user_id)
        ticket = Ticket(parts.jar.new_id(), Version(), at)
        version = await settle(parts.store.create(ticket.key, record))
        parts.on_event(SessionCreated(session=ticket.key[:8]))
        return self._begun(ticket, version, record, changes)

    def _refusal(self) -> str:
        """Why no new session may begin here; empty if it may."""
        state, may_create = self._state, self._parts.settings.may_create
        if self._headers_left:
            return "the headers had left, so no cookie could be set for a new session"
        if state.intent == "login":
            return ""
        if state.tombstone_at is not None and self._parts.now - state.tombstone_at < _RACING:
            return "the session had just been ended"
        return "may_create said no" if may_create is not None and not may_create(self._info) else ""

    async def _change_id(self, changes: Changes) -> str | None:
        state, parts = self._state, self._parts
        assert state.ticket is not None
        assert state.record is not None
        at, old_key, login = parts.now, state.ticket.key, state.intent == "login"
        values = state.stored_after(changes)
        record = parts.first_record(values, self._info, at=at, user_id=state.user_id)
        if not login:
            record = _continued(record, state.record)
        ticket = Ticket(parts.jar.new_id(), Version(), at)
        replacing = parts.store.replace(old_key, ticket.key, record, at=at, until=parts.until, even_if_gone=login)
        version = await settle(replacing)
        if version is None:
            self._refuse(old_key, "the session had been ended")
            return None
        parts.on_event(IdChanged(session=ticket.key[:8], previous=old_key[:8], login=login))
        return self._begun(ticket, version, record, changes)

    async def _update(self, changes: Changes) -> str | None:
        state = self._state
        ticket, record = state.ticket, state.record
        assert ticket is not None
        assert record is not None
        # A stale record is the newest there is: nothing is gained by asking for more.
        base = record.version if record.stale else ticket.token.join(record.version)
        delta = self._parts.delta(changes, base, record)
        written = await self._send(ticket.key, delta)
        if written is None or written.gone:
            self._refuse(ticket.key, "the session had been ended")
            return None
        state.record = lambda: _rewritten(record, delta, written)
        state.note_stored(changes)
        return self._answer(ticket, written.version, stale=record.stale)

    async def _write_unread(self, changes: Changes) -> str | None:
        """The app wrote and never read, so the record was not loaded: one round trip does."""
        state = self._state
        if not changes:
            return None
        ticket = state.tickets[0]
        written = await self._send(ticket.key, self._parts.delta(changes, ticket.token, None))
        if written is not None and not written.gone:
            state.note_stored(changes)
            return self._answer(ticket, written.version)
        # Nobody knows that session: find out why, and treat what was written like any other write without one.
        await self._opening.load(state)
        if state.failure is not None:
            raise state.failure
        changes = self._session.changes()
        if state.is_new:
            return await self._create(changes)
        return await self._update(changes) if changes else self._confirm()

    async def _send(self, key: str, delta: Delta) -> Written | None:
        try:
            written = self._parts.store.update(key, delta)
            return await written if type(written) is CoroutineType else await settle(written)
        except CorruptRecord as error:
            self._parts.on_event(RecordRejected(session=key[:8], reason=str(error)))
            return None

    def _refuse(self, key: str, reason: str) -> None:
        """Say that the changes are dropped; the same ones are not tried again when the body ends."""
        self._state.intent = None
        self._state.note_stored(self._session.changes())
        self._parts.on_event(WriteRefused(session=key[:8], reason=reason))

    def _confirm(self) -> str | None:
        """Nothing had to be written: at most the cookie is renewed."""
        state = self._state
        if self._headers_left or state.ticket is None or state.record is None:
            return None
        return self._answer(state.ticket, state.record.version, stale=state.record.stale)

    def _answer(self, ticket: Ticket, version: Version, *, stale: bool = False) -> str | None:
        """A new cookie, where it has to be renewed."""
        if not self._parts.renews(ticket, version, stale=stale):
            return None
        token = version if stale else ticket.token.join(version)
        return self._give(Ticket(ticket.session_id, token, self._parts.now))

    def _begun(self, ticket: Ticket, version: Version, record: Record, changes: Changes) -> str | None:
        state = self._state
        state.loaded, state.intent, state.record = True, None, lambda: record.born(version)
        state.note_stored(changes)
        return self._give(replace(ticket, token=version))

    def _give(self, ticket: Ticket) -> str | None:
        state = self._state
        state.ticket, state.tickets = ticket, (ticket,)
        return None if self._headers_left else self._parts.jar.set(ticket, secure=self._info.secure)


def _rewritten(record: Record, delta: Delta, written: Written) -> Record:
    """What a session knows of its record after a write."""
    # Without the whole record, what others wrote is not in it: then it keeps its version.
    newest = written.record or record.written(delta, record.version)
    return newest.replace(served_by=record.served_by)


def _continued(record: Record, old: Record) -> Record:
    """A new id for the same login: the deadline does not move."""
    return record.replace(
        created_at=old.created_at,
        deadline_at=old.deadline_at,
        expires_at=min(record.expires_at, old.deadline_at),
        user_id=old.user_id,
    )
