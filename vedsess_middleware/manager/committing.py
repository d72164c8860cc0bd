"""From a changed session to the stores, and to the cookie that the browser is answered with."""

import math
from functools import partial

from vedsess_middleware import events
from vedsess_middleware.concurrency import settle
from vedsess_middleware.errors import SessionExists, SessionLimitReached, StoreError
from vedsess_middleware.manager import places
from vedsess_middleware.manager.answering import Answer
from vedsess_middleware.manager.births import continued
from vedsess_middleware.manager.carrying import carried
from vedsess_middleware.manager.writing import Place, catch_up, delta_of, rewritten, send
from vedsess_middleware.session import user_text
from vedsess_middleware.state import Changes, IdChange
from vedsess_middleware.stores.record import Record

__all__ = ["Commit"]

# A request that meets a tombstone as young as this may have been under way when the session ended or changed its id:
# a cookie of its own would undo the newer one.
_RACING = 10.0


class Commit(Answer):
    """One commit, step by step.  Each returns the Set-Cookie header that it asks for, or None."""

    __slots__ = ()

    async def run(self) -> str | None:
        """Carry out what the app asked for, logout first."""
        state = self._state
        if state.refused and state.failure is not None:
            raise state.failure
        if not state.touched:
            return None
        try:
            removal = await self.end() if state.ended else None
            if self._parts.settings.user_id_field is not None:
                await self._follow_user()
            edits, changes = state.edits, self._session.changes()
            cookie = await self._written(changes)
        except StoreError as error:
            self._parts.note_failure(state, error)
            state.refused = True
            raise
        except SessionLimitReached:
            state.intent = None  # whoever catches this goes on with nobody logged in
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
        for key in await settle(parts.store.end(state.ended, at=parts.now, until=parts.until)):
            parts.on_event(events.SessionEnded(session=key[:8], reason="logout"))
        state.ended = ()
        return parts.jar.remove(secure=self._info.secure)

    async def _written(self, changes: Changes) -> str | None:
        state = self._state
        if not state.loaded:
            return await self._write_unread(changes)
        if state.is_new:
            return await self._create(changes)
        change = self._change()
        if change is None:
            return await self._update(changes) if changes else self._confirm()
        if state.expected or state.fence:  # a change of id asks nobody what was written meanwhile
            cookie = await self._update(changes)
            changes = self._session.changes()
            return await self._change_id(changes, change) or cookie
        return await self._change_id(changes, change)

    def _change(self) -> IdChange | None:
        """The change of id that is to be made."""
        state = self._state
        change, record = state.intent, state.record
        assert record is not None
        if change is not None and self._headers_left:
            self._refuse("", "the headers had left, so the id could not change")
            return None
        if change is not None and state.moved and not change.sealed:
            state.intent = None  # that has just been done
            return None
        if change is None and not (self._headers_left or state.moved) and self._parts.renews_id(record):
            change = IdChange(reason="renewal")
        return None if change is not None and change.by_itself and state.saving else change

    # -- a session begins ------------------------------------------------------------------------------------------

    async def _create(self, changes: Changes) -> str | None:
        state, parts = self._state, self._parts
        change = state.intent
        if not (changes.put or change):
            return None
        refusal = self._refusal()
        if refusal:
            self._refuse("", refusal)
            return None
        at = parts.now
        ticket, record, sealed = self._first(changes, change, at=at)
        if record.user_id is not None:
            await places.take(parts, record.user_id, ticket.key, at=at)
        try:
            version = await settle(parts.store.create(ticket.key, record))
        except SessionExists:
            if not places.limited(parts):
                raise
            return self._crowd_out(ticket.key, record)
        parts.on_event(events.SessionCreated(session=ticket.key[:8], user_id=record.user_id))
        return self._begun(ticket, version, record, changes, sealed)

    def _refusal(self) -> str:
        """Why no new session may begin here; empty if it may."""
        state, may_create = self._state, self._parts.settings.may_create
        if self._headers_left:
            return "the headers had left, so no cookie could be set for a new session"
        if state.intent is not None:
            return ""
        if state.tombstone_at is not None and self._parts.now - state.tombstone_at < _RACING:
            return "the session had just been ended"
        return "may_create said no" if may_create is not None and not may_create(self._info) else ""

    def _crowd_out(self, key: str, record: Record) -> str:
        """The place was taken, and lost to a later login before the session was stored."""
        limit = self._parts.settings.max_sessions_per_user or 0
        self._parts.on_event(events.SessionLimitHit(user_id=record.user_id or "", limit=limit, denied=True))
        self._refuse(key, "later logins of the same user were quicker")
        return ""

    # -- a session goes on under another id ------------------------------------------------------------------------

    async def _change_id(self, changes: Changes, change: IdChange) -> str | None:
        state = self._state
        ticket, old = state.ticket, state.record
        assert ticket is not None
        assert old is not None
        found: tuple[str, Record] | None = (ticket.key, old)
        while found is not None:
            cookie = await self._replaced(*found, changes, change)
            if cookie is not None:
                return cookie
            # Another request has ended the session, or changed its id, a moment ago.
            found = await self._moved(found[0])
            if found is not None and not change.sealed:
                state.intent = None
                state.move(ticket.moved(found[0]), found[1])
                return await self._update(changes) if changes else None
        if change.reason == "login":
            cookie = await self._replaced(ticket.key, old, changes, change, even_if_gone=True)
        if cookie is None:
            self._refuse_ended(ticket.key)
        return cookie

    async def _replaced(
        self, old_key: str, old: Record, changes: Changes, change: IdChange, *, even_if_gone: bool = False
    ) -> str | None:
        """Store the session under a new id; None: the old one was gone already."""
        parts, at = self._parts, self._parts.now
        whole, written = changes, bool(changes.put)
        if change.user_id is None or old.user_id in (None, change.user_id):  # else what is there is another user's
            whole = carried(parts, old_key, old, changes)
        ticket, record, sealed = self._first(whole, change, at=at, limited=written)
        if not change.is_login:
            record = continued(record, old, change)
        elif record.user_id is not None:
            await places.take(parts, record.user_id, ticket.key, at=at, instead=None if even_if_gone else old)
        until = at + old.idle_timeout
        moving = partial(parts.store.replace, at=at, until=until, even_if_gone=even_if_gone, known=old.version)
        try:
            replaced = await settle(moving(old_key, ticket.key, record))
        except SessionExists:
            if record.user_id is None or not places.limited(parts):
                raise
            return self._crowd_out(ticket.key, record)
        if replaced is None:
            await places.leave(parts, record.user_id, ticket.key, at=at)
            return None
        told = events.IdChanged(
            session=ticket.key[:8],
            previous=old_key[:8],
            login=change.reason == "login",
            reason=change.reason,
            user_id=old.user_id if change.reason == "logout" else record.user_id,
        )
        parts.on_event(told)
        version = replaced.version
        if replaced.missed is not None:
            there, here = Place(old_key, old), Place(ticket.key, record.born(version))
            mine = {*changes.put, *changes.drop}
            version = await catch_up(parts, self._state, replaced.missed, there, here, mine=mine)
        return self._begun(ticket, version, record, changes, sealed)

    def _refuse_ended(self, key: str) -> None:
        self._refuse(key, "the session had been ended")
        self._state.outdated = True

    async def _moved(self, key: str) -> tuple[str, Record] | None:
        """Where the session goes on, if another request has changed its id since this one began, however long ago."""
        at = self._parts.now
        record = await settle(self._parts.store.load(key, at=at, refresh=math.inf))
        return await self._opening.trail.followed(record, at=at) if record is not None and record.gone else None

    # -- a session is written to -----------------------------------------------------------------------------------

    async def _update(self, changes: Changes) -> str | None:
        state = self._state
        ticket, record = state.ticket, state.record
        assert ticket is not None
        assert record is not None
        # A stale record is the newest there is: nothing is gained by asking for more.
        base = record.version if record.stale else ticket.token.join(record.version)
        sealed = self._parts.sealed(ticket.key, changes, state.encoded)
        delta = delta_of(self._parts, state, sealed, changes, base=base, loaded=record)
        written = await send(self._parts, ticket.key, delta)
        if written is None or written.gone:
            moved = await self._moved(ticket.key) if written is not None else None
            if moved is None:
                self._refuse_ended(ticket.key)
                return None
            state.move(ticket.moved(moved[0]), moved[1])
            return await self._update(changes)
        state.record = lambda: rewritten(record, delta, written)
        state.note_stored(changes, sealed)
        return self._answer(ticket, written.version, stale=record.stale)

    async def _write_unread(self, changes: Changes) -> str | None:
        """The app wrote and never read, so the record was not loaded: one round trip does, if any client may write."""
        state = self._state
        if not changes:
            return None
        if state.request is not None:
            return await self._write_loaded()
        ticket = state.tickets[0]
        sealed = self._parts.sealed(ticket.key, changes, {})
        delta = delta_of(self._parts, state, sealed, changes, base=ticket.token, loaded=None)
        written = await send(self._parts, ticket.key, delta)
        if written is not None and not written.gone:
            state.note_stored(changes, sealed)
            return self._answer(ticket, written.version)
        # Nobody knows that session: find out why, and treat what was written like any other write without one.
        return await self._write_loaded()

    async def _write_loaded(self) -> str | None:
        await self._opening.load(self._state)
        if self._state.failure is not None:
            raise self._state.failure
        return await self._written(self._session.changes())

    # -- users -----------------------------------------------------------------------------------------------------

    async def _follow_user(self) -> None:
        """Take what a framework keeps in a field of its own for a login, or for its end."""
        state, field = self._state, self._parts.settings.user_id_field
        assert field is not None
        changed, value = self._session.changed(field)
        if not changed or (state.intent is not None and state.intent.is_login):
            return
        await self._opening.load(state)
        if state.failure is not None:
            raise state.failure
        user = state.record.user_id if state.record else None
        if value is None and user is not None:
            state.intent = IdChange(reason="logout", sealed=True)
        elif value is not None and user_text(value) != user:
            state.intent = IdChange(reason="login", user_id=user_text(value), sealed=True)
        else:
            return
        if self._headers_left:  # under the old id nobody may get in, and nobody stay
            self._session.take_back(field)
            if value is None:
                self._session.invalidate()
                await self.end()
