"""The life of a session, from cookie to cookie: the only module that knows both the cookie and the store."""

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vedsess_middleware.codec import Codec, JsonCodec
from vedsess_middleware.concurrency import run_blocking, settle
from vedsess_middleware.cookies import CookieJar, Rejection, Ticket, new_session_id
from vedsess_middleware.errors import CorruptRecord, SerializationError, StoreError, StoreMisconfigured
from vedsess_middleware.events import (
    CookieRejected,
    CopyOwed,
    EventHook,
    IdChanged,
    LateWriteRefused,
    RecordRejected,
    SessionCreated,
    SessionEnded,
    StoreRefused,
    UnknownSession,
    log_event,
)
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Changes, Session, State, state_of
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.contract import Stats, Store, Written
from vedsess_middleware.stores.record import Delta, Field, Record, Version

__all__ = ["SessionInfo", "SessionManager"]

_TRIED = 3
_LABEL = 64
# A request that meets a tombstone as young as this may have been under way when the session ended or changed its id:
# a cookie of its own would undo the newer one.
_RACING = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One session of a user, to be shown and ended.  Instants are epoch seconds.

    Attributes:
        handle: names it to `SessionManager.revoke`; neither id nor key can be had from it.
        created_at: when it began.
        last_activity: when its last use was recorded.
        expires_at: when it ends if it is not used again.
        user_agent: label of the client that created it, or None.
        ip_address: its address, or None.
    """

    handle: str
    created_at: float
    last_activity: float
    expires_at: float
    user_agent: str | None
    ip_address: str | None


class SessionManager:
    """Opens, commits and revokes sessions.

    Its coroutines are awaited on an event loop, and driven by `run_blocking` over blocking stores.

    Args:
        store: where sessions are kept.
        settings: everything else.
        codec: of values.
        clock: epoch seconds.
        new_id: makes session ids of 43 URL-safe characters.
        on_event: told what happens.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        codec: Codec | None = None,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_session_id,
        on_event: EventHook = log_event,
    ) -> None:
        self.store, self.settings = store, settings
        self._codec = codec or JsonCodec()
        self._jar = CookieJar(settings, new_id=new_id)
        self._clock, self._on_event = clock, on_event
        # How exactly the last use is recorded: exact enough for the timeout, and seldom enough to be no cost.
        self._refresh = min(60.0, settings.idle_timeout / 10)

    def __repr__(self) -> str:
        return f"<SessionManager over {self.store!r}>"

    @property
    def is_async(self) -> bool | None:
        """The colour of its store."""
        return self.store.is_async

    # -- open ------------------------------------------------------------------------------------------------------

    def begin(self, cookie_header: str, info: RequestInfo) -> Session:
        """Judge the cookies and return a session that is not loaded yet.  Asks no store.

        Over blocking stores it loads itself on first touch; on an event loop `load` comes first.
        """
        state = State(codec=self._codec)
        session = Session(state)
        for verdict in self._jar.read(cookie_header) if cookie_header else ():
            if isinstance(verdict, Rejection):
                self._on_event(CookieRejected(reason=verdict.reason))
            elif len(state.tickets) < _TRIED and verdict.session_id not in {t.session_id for t in state.tickets}:
                state.tickets.append(verdict)
        state.loaded = not state.tickets
        if not self.is_async:
            state.load = lambda: run_blocking(self.load(session))
        return session

    async def open(self, cookie_header: str = "", info: RequestInfo = RequestInfo()) -> Session:
        """Return the loaded session of these cookies, or a new one.  `load` says what happens without a store."""
        session = self.begin(cookie_header, info)
        await self.load(session)
        return session

    async def load(self, session: Session) -> None:
        """Ask the stores for the session; a no-op if that has been done.

        Where no store can say, the session remembers that, and raises `StoreUnavailable` when it is touched.
        """
        state = state_of(session)
        if state.loaded:
            return
        try:
            for ticket in state.tickets:
                if await self._load(session, ticket):
                    return
        except StoreError as error:
            self._remember(state, error)
            return
        state.tickets.clear()
        session.fill({})

    async def _load(self, session: Session, ticket: Ticket) -> bool:
        state, key = state_of(session), ticket.key
        at = self._now()
        try:
            record = await settle(self.store.load(key, at=at, refresh=self._refresh, token=ticket.token))
        except CorruptRecord as error:
            self._on_event(RecordRejected(session=key[:8], reason=str(error)))
            return False
        if record is None or record.gone or record.expires_at <= at:
            if record is not None and record.gone:
                state.tombstone_at = record.updated_at
            self._on_event(UnknownSession(session=key[:8]))
            return False
        encoded = record.values
        try:
            values = {name: self._codec.decode(text) for name, text in encoded.items()}
        except SerializationError as error:
            self._on_event(RecordRejected(session=key[:8], reason=str(error)))
            return False
        state.ticket, state.record, state.encoded = ticket, record, encoded
        state.tickets = [ticket]
        session.fill(values)
        return True

    # -- commit ----------------------------------------------------------------------------------------------------

    async def commit(self, session: Session, info: RequestInfo, *, headers_left: bool = False) -> str | None:
        """Write what the app changed, and return the Set-Cookie header to answer with, if there has to be one.

        Args:
            session: of this request.
            info: of this request.
            headers_left: no cookie can be set any more: changes to a stored session are written, and nothing that
                would need a cookie is begun.

        Raises:
            StoreUnavailable: no store took it; nothing may be concluded, and the cookie stays as it is.
            SerializationError: a value cannot be stored.
        """
        state = state_of(session)
        if state.refused and state.failure is not None:
            raise state.failure
        if not state.touched:
            return None
        try:
            return await self._commit(session, info, headers_left)
        except StoreError as error:
            self._remember(state, error)
            state.refused = True
            raise

    async def commit_logout(self, session: Session, info: RequestInfo) -> str | None:
        """Carry out only what ends a session: the request failed, and its other changes are dropped.

        Raises:
            StoreUnavailable: no store took it.
        """
        state = state_of(session)
        if not state.ended:
            return None
        await self._end(state)
        return self._jar.remove(secure=info.secure)

    async def _commit(self, session: Session, info: RequestInfo, headers_left: bool) -> str | None:
        state = state_of(session)
        was_ended = bool(state.ended)
        if was_ended:
            await self._end(state)
        changes = session.changes()
        if not state.loaded:
            cookie = await self._write_unread(session, changes, info, headers_left)
        elif state.record is None:
            cookie = await self._create(session, changes, info, headers_left)
        elif state.intent and not headers_left:
            cookie = await self._change_id(session, info)
        else:
            if state.intent:
                self._on_event(LateWriteRefused(session="", reason="the headers had left, so the id could not change"))
            cookie = await self._update(state, changes, info)
        if cookie is None and was_ended and not headers_left:
            return self._jar.remove(secure=info.secure)
        return None if headers_left else cookie

    async def _end(self, state: State) -> None:
        ended = state.ended
        await settle(self.store.end(ended, at=self._now(), until=self._until()))
        state.ended = []
        for key in ended:
            self._on_event(SessionEnded(session=key[:8], reason="logout"))

    async def _create(self, session: Session, changes: Changes, info: RequestInfo, headers_left: bool) -> str | None:
        state = state_of(session)
        if not (changes.put or state.intent == "login"):
            return None
        refusal = self._refusal(state, info, headers_left)
        if refusal:
            self._on_event(LateWriteRefused(session="", reason=refusal))
            return None
        at = self._now()
        record = self._new_record(changes.put, info, at, user_id=state.user_id)
        ticket = Ticket(self._jar.new_id(), Version(), at)
        version = await settle(self.store.create(ticket.key, record))
        self._on_event(SessionCreated(session=ticket.key[:8]))
        return self._settle_new(state, ticket, record.born(version), info)

    def _refusal(self, state: State, info: RequestInfo, headers_left: bool) -> str:
        if headers_left:
            return "the headers had left, so no cookie could be set for a new session"
        if state.intent == "login":
            return ""
        if state.tombstone_at is not None and self._now() - state.tombstone_at < _RACING:
            return "the session had just been ended"
        may_create = self.settings.may_create
        return "may_create said no" if may_create is not None and not may_create(info) else ""

    async def _change_id(self, session: Session, info: RequestInfo) -> str | None:
        state = state_of(session)
        assert state.ticket is not None
        assert state.record is not None
        at, until, login = self._now(), self._until(), state.intent == "login"
        old_key = state.ticket.key
        record = self._new_record(session.encode(), info, at, user_id=state.user_id)
        if not login:
            record = _continued(record, state.record)
        ticket = Ticket(self._jar.new_id(), Version(), at)
        store = self.store
        version = await settle(store.replace(old_key, ticket.key, record, at=at, until=until, even_if_gone=login))
        if version is None:
            self._on_event(LateWriteRefused(session=old_key[:8], reason="the session had been ended"))
            return None
        self._on_event(IdChanged(session=ticket.key[:8], previous=old_key[:8], login=login))
        return self._settle_new(state, ticket, record.born(version), info)

    async def _update(self, state: State, changes: Changes, info: RequestInfo) -> str | None:
        ticket, record = state.ticket, state.record
        assert ticket is not None
        assert record is not None
        version = record.version
        if changes:
            # A stale record is the newest there is: nothing is gained by asking for more.
            base = version if record.stale else ticket.token.join(version)
            delta = self._delta(changes, base, record)
            written = await self._send(ticket.key, delta)
            if written is None or written.gone:
                self._on_event(LateWriteRefused(session=ticket.key[:8], reason="the session had been ended"))
                return None
            version = written.version
            state.record = written.record or record.written(delta, record.version)
            state.encoded = {**state.encoded, **changes.put}
            state.encoded = {name: text for name, text in state.encoded.items() if name not in changes.drop}
        return self._answer(state, ticket, version, info)

    async def _write_unread(
        self, session: Session, changes: Changes, info: RequestInfo, headers_left: bool
    ) -> str | None:
        """The app wrote and never read, so the record was not loaded: one round trip does."""
        state = state_of(session)
        if not changes:
            return None
        ticket = state.tickets[0]
        written = await self._send(ticket.key, self._delta(changes, ticket.token, None))
        if written is not None and not written.gone:
            state.encoded = {**state.encoded, **changes.put}
            return self._answer(state, ticket, written.version, info)
        # Nobody knows that session: find out why, and treat what was written like any other write without one.
        await self.load(session)
        if state.failure is not None:
            raise state.failure
        if state.record is not None:
            return await self._update(state, session.changes(), info)
        return await self._create(session, session.changes(), info, headers_left)

    async def _send(self, key: str, delta: Delta) -> Written | None:
        try:
            return await settle(self.store.update(key, delta))
        except CorruptRecord as error:
            self._on_event(RecordRejected(session=key[:8], reason=str(error)))
            return None

    def _answer(self, state: State, ticket: Ticket, version: Version, info: RequestInfo) -> str | None:
        """A cookie where the browser has to know something new, or the one it has is getting old."""
        at, token = self._now(), ticket.token.join(version)
        aged = at - ticket.issued_at > self.settings.idle_timeout / 2
        if token == ticket.token and ticket.newest_key and not aged:
            return None
        state.ticket = Ticket(ticket.session_id, token, at)
        state.tickets = [state.ticket]
        return self._jar.set(state.ticket, secure=info.secure)

    def _settle_new(self, state: State, ticket: Ticket, record: Record, info: RequestInfo) -> str:
        state.ticket = replace(ticket, token=record.version)
        state.tickets, state.loaded, state.intent = [state.ticket], True, None
        state.record, state.encoded = record, record.values
        return self._jar.set(state.ticket, secure=info.secure)

    # -- users -----------------------------------------------------------------------------------------------------

    async def sessions(self, user_id: str | int) -> list[SessionInfo]:
        """Return the live sessions of a user, the last used first.

        Raises:
            StoreUnavailable: no store can say.
        """
        records = await settle(self.store.records_of(str(user_id), at=self._now()))
        infos = [_info(key, record) for key, record in records.items()]
        return sorted(infos, key=lambda info: info.last_activity, reverse=True)

    async def revoke(self, user_id: str | int, *, handle: str | None = None, keep: Session | None = None) -> int:
        """End all sessions of a user, and return how many were ended.

        Args:
            user_id: whose.
            handle: only the one that `sessions` calls so.
            keep: all but this one.

        Raises:
            StoreUnavailable: no store took it.
        """
        user, at, until = str(user_id), self._now(), self._until()
        if handle is not None:
            keys = [key for key in await settle(self.store.records_of(user, at=at)) if _handle(key) == handle]
            ended = await settle(self.store.end(keys, at=at, until=until)) if keys else []
        else:
            ticket = state_of(keep).ticket if keep is not None else None
            kept = ticket.key if ticket else None
            ended = await settle(self.store.end([], user_id=user, keep=kept, at=at, until=until))
        for key in ended:
            self._on_event(SessionEnded(session=key[:8], reason="revoked"))
        return len(ended)

    # -- upkeep ----------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether `after_response` has something to do.  Costs nothing to ask."""
        return self.store.pending

    async def after_response(self) -> None:
        """Do what must not delay an answer: copies, counters, probes.  A failure is an event, never an error."""
        try:
            await settle(self.store.after_response())
        except StoreError as error:
            self._on_event(CopyOwed(store=self.store.name, reason=str(error)))

    async def stats(self) -> Stats:
        """Count sessions, exactly: this walks all of them.

        Raises:
            StoreUnavailable: no store can say.
        """
        return await settle(self.store.stats(at=self._now()))

    async def cleanup(self) -> int:
        """Remove what has expired, index entries too, and return how many entries went.

        Raises:
            StoreUnavailable: a store does not answer.
        """
        return await settle(self.store.cleanup(at=self._now()))

    async def aclose(self) -> None:
        """Give connections back."""
        await settle(self.store.close())

    def close(self) -> None:
        """The same from blocking code."""
        run_blocking(self.aclose())

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return round(self._clock(), 3)

    def _until(self) -> float:
        """When no copy of a session that is ended now can still be alive."""
        return self._now() + self.settings.idle_timeout

    def _new_record(self, values: Mapping[str, str], info: RequestInfo, at: float, *, user_id: str | None) -> Record:
        settings = self.settings
        record = Record.new(at=at, idle_timeout=settings.idle_timeout, deadline_at=at + settings.absolute_timeout)
        return replace(
            record,
            fields={name: Field(Version(), text) for name, text in values.items()},
            user_id=user_id,
            user_agent=_label(info.user_agent),
            ip_address=_label(info.ip_address),
        )

    def _delta(self, changes: Changes, base: Version, loaded: Record | None) -> Delta:
        return Delta(
            put=changes.put,
            drop=changes.drop,
            forget=changes.forget,
            at=self._now(),
            base=base,
            loaded=loaded,
            refresh=self._refresh,
            commit_id=secrets.token_hex(4),
        )

    def _remember(self, state: State, error: StoreError) -> None:
        state.failure = error
        if isinstance(error, StoreMisconfigured):
            self._on_event(StoreRefused(store=self.store.name, reason=str(error)))


def _continued(record: Record, old: Record) -> Record:
    """A new id for the same login: the deadline does not move."""
    return replace(
        record,
        created_at=old.created_at,
        deadline_at=old.deadline_at,
        expires_at=min(record.expires_at, old.deadline_at),
        user_id=old.user_id,
    )


def _label(text: str | None) -> str | None:
    """At most 64 printable ASCII characters: a longer value doubles the memory of a small hash."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_LABEL]) or None if text else None


def _handle(key: str) -> str:
    return hashlib.sha256(f"handle:{key}".encode()).hexdigest()[:16]


def _info(key: str, record: Record) -> SessionInfo:
    return SessionInfo(
        handle=_handle(key),
        created_at=record.created_at,
        last_activity=record.last_activity,
        expires_at=record.expires_at,
        user_agent=record.user_agent,
        ip_address=record.ip_address,
    )
