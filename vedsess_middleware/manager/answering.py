"""What every way to commit a session needs: a first record under a new id, and the cookie to answer with."""

from collections.abc import Mapping
from dataclasses import replace

from vedsess_middleware.cookies import Ticket
from vedsess_middleware.events import WriteRefused
from vedsess_middleware.manager.births import first_record
from vedsess_middleware.manager.opening import Opening
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.state import Changes, IdChange
from vedsess_middleware.stores.record import Origin, Record, Version

__all__ = ["Answer"]


class Answer:
    """What a commit tells the browser.

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

    def _first(
        self, changes: Changes, change: IdChange | None, *, at: float, limited: bool = True
    ) -> tuple[Ticket, Record, dict[str, str]]:
        """A new id, and a first record of these values; `limited`: they may be too large, as they were not before."""
        parts = self._parts
        ticket = Ticket(parts.jar.new_id(), Version(), at)
        sealed = parts.sealed(ticket.key, changes, {}, limited=limited)
        record = first_record(parts.settings, sealed, self._info, at=at, change=change)
        return ticket, record.replace(session_fingerprint=parts.fingerprint(self._info)), sealed

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
        """A new cookie, where it has to be renewed; not where another request gives the browser one of a new id."""
        if self._state.moved or not self._parts.renews(ticket, version, stale=stale):
            return None
        token = version if stale else ticket.token.join(version)
        return self._give(Ticket(ticket.session_id, token, self._parts.now, lifetime=ticket.lifetime))

    def _begun(
        self, ticket: Ticket, version: Version, record: Record, changes: Changes, sealed: Mapping[str, str]
    ) -> str | None:
        """Go on with what has just been stored under a new id."""
        state = self._state
        state.loaded, state.intent, state.moved, state.outdated = True, None, False, False
        state.rename(ticket, lambda: record.born(version))
        state.note_stored(changes, {name: sealed[name] for name in changes.put})
        in_browser = Origin.parse(record.origin).in_browser
        lifetime = self._parts.jar.lifetime(record.idle_timeout, in_browser=in_browser)
        return self._give(replace(ticket, token=version, lifetime=lifetime))

    def _give(self, ticket: Ticket) -> str | None:
        state = self._state
        state.ticket, state.tickets = ticket, (ticket,)
        return None if self._headers_left else self._parts.jar.set(ticket, secure=self._info.secure)
