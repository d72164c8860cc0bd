"""From a changed session to the stores, and to the cookie that the browser is answered with."""

from dataclasses import dataclass, replace

from vedsess_middleware.concurrency import settle
from vedsess_middleware.cookies import Ticket
from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.events import IdChanged, RecordRejected, SessionCreated, SessionEnded, WriteRefused
from vedsess_middleware.manager.opening import load
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


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit.  Each step returns the Set-Cookie header that it asks for, or None.

    Attributes:
        parts: of the manager.
        session: of the request.
        info: of the request.
        headers_left: no cookie can be set any more.
    """

    parts: Parts
    session: Session
    info: RequestInfo
    headers_left: bool = False

    async def run(self) -> str | None:
        """Carry out what the app asked for, logout first."""
        state = state_of(self.session)
        removal = await self.end()
        changes = self.session.changes()
        if not state.loaded:
            cookie = await self._write_unread(changes)
        elif state.record is None:
            cookie = await self._create(changes)
        elif state.intent and not self.headers_left:
            cookie = await self._change_id()
        else:
            if state.intent:
                self._refuse("", "the headers had left, so the id could not change")
            cookie = await self._update(changes)
        return None if self.headers_left else cookie or removal

    async def end(self) -> str | None:
        """End what the app logged out of."""
        state, parts = state_of(self.session), self.parts
        if not state.ended:
            return None
        await settle(parts.store.end(state.ended, at=parts.now, until=parts.until))
        for key in state.ended:
            parts.on_event(SessionEnded(session=key[:8], reason="logout"))
        state.ended = []
        return parts.jar.remove(secure=self.info.secure)

    async def _create(self, changes: Changes) -> str | None:
        state, parts = state_of(self.session), self.parts
        if not (changes.put or state.intent == "login"):
            return None
        refusal = self._refusal()
        if refusal:
            self._refuse("", refusal)
            return None
        at = parts.now
        record = parts.first_record(changes.put, self.info, at=at, user_id=state.user_id)
        ticket = Ticket(parts.jar.new_id(), Version(), at)
        version = await settle(parts.store.create(ticket.key, record))
        parts.on_event(SessionCreated(session=ticket.key[:8]))
        return self._begun(ticket, record.born(version))

    def _refusal(self) -> str:
        """Why no new session may begin here; empty if it may."""
        state, may_create = state_of(self.session), self.parts.settings.may_create
        if self.headers_left:
            return "the headers had left, so no cookie could be set for a new session"
        if state.intent == "login":
            return ""
        if state.tombstone_at is not None and self.parts.now - state.tombstone_at < _RACING:
            return "the session had just been ended"
        return "may_create said no" if may_create is not None and not may_create(self.info) else ""

    async def _change_id(self) -> str | None:
        state, parts = state_of(self.session), self.parts
        assert state.ticket is not None
        assert state.record is not None
        at, old_key, login = parts.now, state.ticket.key, state.intent == "login"
        record = parts.first_record(self.session.encode(), self.info, at=at, user_id=state.user_id)
        if not login:
            record = _continued(record, state.record)
        ticket = Ticket(parts.jar.new_id(), Version(), at)
        replacing = parts.store.replace(old_key, ticket.key, record, at=at, until=parts.until, even_if_gone=login)
        version = await settle(replacing)
        if version is None:
            self._refuse(old_key, "the session had been ended")
            return None
        parts.on_event(IdChanged(session=ticket.key[:8], previous=old_key[:8], login=login))
        return self._begun(ticket, record.born(version))

    async def _update(self, changes: Changes) -> str | None:
        state = state_of(self.session)
        ticket, record = state.ticket, state.record
        assert ticket is not None
        assert record is not None
        if not changes:
            return self._answer(ticket, record.version, stale=record.stale)
        # A stale record is the newest there is: nothing is gained by asking for more.
        base = record.version if record.stale else ticket.token.join(record.version)
        delta = self.parts.delta(changes, base, record)
        written = await self._send(ticket.key, delta)
        if written is None or written.gone:
            self._refuse(ticket.key, "the session had been ended")
            return None
        # Without the whole record, what others wrote is not in it: then it keeps its version.
        newest = written.record or record.written(delta, record.version)
        state.record = newest.replace(served_by=record.served_by)
        known = {**state.encoded, **changes.put}
        state.encoded = {name: text for name, text in known.items() if name not in changes.drop}
        return self._answer(ticket, written.version, stale=record.stale)

    async def _write_unread(self, changes: Changes) -> str | None:
        """The app wrote and never read, so the record was not loaded: one round trip does."""
        state = state_of(self.session)
        if not changes:
            return None
        ticket = state.tickets[0]
        written = await self._send(ticket.key, self.parts.delta(changes, ticket.token, None))
        if written is not None and not written.gone:
            state.encoded = {**state.encoded, **changes.put}
            return self._answer(ticket, written.version)
        # Nobody knows that session: find out why, and treat what was written like any other write without one.
        await load(self.parts, self.session)
        if state.failure is not None:
            raise state.failure
        changes = self.session.changes()
        return await (self._create(changes) if state.record is None else self._update(changes))

    async def _send(self, key: str, delta: Delta) -> Written | None:
        try:
            return await settle(self.parts.store.update(key, delta))
        except CorruptRecord as error:
            self.parts.on_event(RecordRejected(session=key[:8], reason=str(error)))
            return None

    def _refuse(self, key: str, reason: str) -> None:
        """Say that the changes are dropped; the same ones are not tried again when the body ends."""
        state = state_of(self.session)
        state.intent, state.encoded = None, self.session.encode()
        self.parts.on_event(WriteRefused(session=key[:8], reason=reason))

    def _answer(self, ticket: Ticket, version: Version, *, stale: bool = False) -> str | None:
        """A cookie where the browser has to know something new, or the one it has is getting old.

        What is lost, and said to be, is not looked for again: then the cookie tells what there is.
        """
        state, at = state_of(self.session), self.parts.now
        token = version if stale else ticket.token.join(version)
        aged = at - ticket.issued_at > self.parts.settings.idle_timeout / 2
        if token == ticket.token and ticket.newest_key and not aged:
            return None
        state.ticket = Ticket(ticket.session_id, token, at)
        state.tickets = [state.ticket]
        return self.parts.jar.set(state.ticket, secure=self.info.secure)

    def _begun(self, ticket: Ticket, record: Record) -> str:
        state = state_of(self.session)
        state.ticket = replace(ticket, token=record.version)
        state.tickets, state.loaded, state.intent = [state.ticket], True, None
        state.record, state.encoded = record, record.values
        return self.parts.jar.set(state.ticket, secure=self.info.secure)


def _continued(record: Record, old: Record) -> Record:
    """A new id for the same login: the deadline does not move."""
    return record.replace(
        created_at=old.created_at,
        deadline_at=old.deadline_at,
        expires_at=min(record.expires_at, old.deadline_at),
        user_id=old.user_id,
    )
