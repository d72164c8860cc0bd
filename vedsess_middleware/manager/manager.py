"""The manager: every step of a session's life, for the front ends, for workers and for scripts."""

import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from vedsess_middleware.codec import Codec, JsonCodec
from vedsess_middleware.concurrency import run_blocking, settle
from vedsess_middleware.cookies import CookieJar, new_session_id
from vedsess_middleware.errors import LogoutRefused, StoreError
from vedsess_middleware.events import CopyOwed, EventCounts, EventHook, LogoutTokenRefused, log_event
from vedsess_middleware.manager import users
from vedsess_middleware.manager.committing import Commit
from vedsess_middleware.manager.opening import Opening
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.manager.users import SessionInfo
from vedsess_middleware.oidc import read_logout_token, session_name
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.sealing import Sealer, field_sealer
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.contract import Stats, Store

__all__ = ["SessionManager"]


class SessionManager:
    """Opens, commits and revokes sessions.

    Its coroutines are awaited on an event loop, and driven by `run_blocking` over blocking stores.

    Args:
        store: where sessions are kept.
        settings: everything that is a value.
        codec: of values; by default a `JsonCodec` without enums.
        sealer: of values at rest; by default as the settings have it.
        clock: epoch seconds.
        new_id: makes session ids of 43 URL-safe characters.
        on_event: told what happens; must be quick, and must not raise.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        codec: Codec | None = None,
        sealer: Sealer | None = None,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = new_session_id,
        on_event: EventHook = log_event,
    ) -> None:
        self.store, self.settings = store, settings
        self._counts = EventCounts.around(on_event, settings.secret_keys)
        self._parts = Parts(
            store=store,
            settings=settings,
            jar=CookieJar(settings, new_id=new_id),
            codec=codec or JsonCodec(),
            sealer=sealer or _sealer(settings),
            clock=clock,
            on_event=self._counts,
        )
        self._opening = Opening(self._parts, save=partial(self.commit, headers_left=True))

    def __repr__(self) -> str:
        return f"<SessionManager over {self.store!r}>"

    @property
    def is_async(self) -> bool | None:
        """The colour of its store."""
        return self.store.is_async

    # -- open ------------------------------------------------------------------------------------------------------

    def begin(self, cookie_header: str, request: Callable[[], RequestInfo] | None = None) -> Session:
        """Return a session that is not loaded yet.  Asks no store, and judges no cookie before it is touched.

        Over blocking stores it loads itself on first touch; on an event loop `load` comes first.

        Args:
            cookie_header: as it came.
            request: tells of the request; asked only where the settings have clients watched.
        """
        return self._opening.begin(cookie_header, request)

    async def open(self, cookie_header: str = "", info: RequestInfo | None = None) -> Session:
        """Return the loaded session of these cookies, or a new one.  `load` says what happens without a store."""
        session = self.begin(cookie_header, None if info is None else lambda: info)
        await self.load(session)
        return session

    def load(self, session: Session) -> Coroutine[Any, Any, None]:
        """Ask the stores for the session; a no-op if that has been done.

        Where no store can say, the session remembers that, and raises `StoreUnavailable` when it is touched.
        """
        return self._opening.load(state_of(session))

    async def ended(self, session: Session, *, used: bool = False) -> str:
        """Ask the store why a session that was loaded a while ago is over: `expired`, `ended`; empty: it lives.

        Also empty where no store can say.  For connections that outlive a request, such as websockets.

        Args:
            session: which.
            used: asking counts as a use of it.
        """
        return await self._opening.ended(state_of(session), used=used)

    # -- commit ----------------------------------------------------------------------------------------------------

    def needs_commit(self, session: Session, *, headers_left: bool = False) -> bool:
        """Whether `commit` would have anything to do.  Costs next to nothing to ask."""
        state = state_of(session)
        if state.edits != state.committed or state.ended or state.intent or state.refused:
            return True
        if headers_left or not state.accessed:
            return False
        ticket, record = state.ticket, state.record
        if ticket is None or record is None:
            return False
        if state.moved:
            return False
        return self._parts.renews(ticket, record.version, stale=record.stale) or self._parts.renews_id(record)

    async def commit(
        self, session: Session, info: RequestInfo = RequestInfo(), *, headers_left: bool = False
    ) -> str | None:
        """Write what the app changed, and return the Set-Cookie header to answer with, if there has to be one.

        Args:
            session: of this request.
            info: of this request.
            headers_left: no cookie can be set any more: changes to a stored session are written, and nothing that
                would need a cookie is begun.

        Raises:
            StoreUnavailable: no store took it; nothing may be concluded, and the cookie stays as it is.
            SerializationError: a value cannot be stored.
            CommitRefused: another request was quicker, or the user has too many sessions.
        """
        return await Commit(self._parts, self._opening, session, info, headers_left).run()

    async def commit_logout(self, session: Session, info: RequestInfo = RequestInfo()) -> str | None:
        """Carry out only what ends a session: the request failed, and its other changes are dropped.

        Raises:
            StoreUnavailable: no store took it.
        """
        return await Commit(self._parts, self._opening, session, info).end()

    # -- users -----------------------------------------------------------------------------------------------------

    async def sessions(self, user_id: str | int, *, current: Session | None = None) -> list[SessionInfo]:
        """Return the live sessions of a user, the last used first (ASVS 7.5.2).

        Args:
            user_id: whose.
            current: the one of this request, which is marked.

        Raises:
            StoreUnavailable: no store can say.
        """
        if current is not None:
            await self.load(current)
        return await users.sessions_of(self._parts, str(user_id), current=current)

    async def revoke(self, user_id: str | int, *, handle: str | None = None, keep: Session | None = None) -> int:
        """End all sessions of a user, and return how many were ended.

        Args:
            user_id: whose.
            handle: only the one that `sessions` calls so.
            keep: all but this one.

        Raises:
            StoreUnavailable: no store took it.
        """
        if keep is not None:
            await self.load(keep)
        return await users.revoke(self._parts, str(user_id), handle=handle, keep=keep)

    async def cut_off(self, user_id: str | int) -> int:
        """End everything of a user that began until now, and return how many sessions were known (ASVS 7.4.2).

        For a stolen or disabled account: also what no index names any more.  It holds everywhere within two seconds,
        and costs later requests nothing.

        Raises:
            StoreUnavailable: no store took it, or not all of it.
        """
        return await users.cut_off(self._parts, str(user_id))

    async def end_by_provider(
        self, claims: Mapping[str, object], *, issuer: str, audience: str, typ: str | None = None
    ) -> int:
        """Do what a logout token of OpenID Connect asks for, and return how many sessions were ended.

        With a `sid` it is those that were begun with `login(oidc=(issuer, sid))`, otherwise all of the user whose id is
        the `sub`.

        Args:
            claims: of the token, whose signature has been verified.
            issuer: of the provider.
            audience: the client id.
            typ: of the token's header, where it is to be checked.

        Raises:
            LogoutRefused: it is no logout token for this app, or too old (ASVS 10.5.5).
            StoreUnavailable: no store took it.
        """
        try:
            token = read_logout_token(claims, issuer=issuer, audience=audience, now=self._parts.now, typ=typ)
        except LogoutRefused as error:
            self._parts.on_event(LogoutTokenRefused(reason=str(error)))
            raise
        if token.sid is not None:
            return await users.revoke_named(self._parts, session_name(token.issuer, token.sid))
        return await users.revoke(self._parts, token.subject or "", handle=None, keep=None)

    async def export(self, user_id: str | int) -> list[dict[str, Any]]:
        """Return all that is kept of a user's sessions, values included, one dict each (GDPR article 15).

        Raises:
            StoreUnavailable: no store can say.
        """
        return await users.export(self._parts, str(user_id))

    async def erase(self, user_id: str | int) -> int:
        """Remove all that is kept of a user, and return how many sessions that ended (GDPR article 17).

        What remains of a session is that there was one: no user, no client, no value.

        Raises:
            StoreUnavailable: no store took it, or not all of it.
        """
        return await self.cut_off(user_id)

    async def check_keys(self) -> None:
        """Find out at start-up whether the encryption keys fit to what is stored, by any session.

        The ASGI middleware does so when the server starts; a WSGI app may call it where it is made.  Where there is no
        session yet, or no store answers, nothing is found out: later a session that cannot be opened is a 503.

        Raises:
            StoreMisconfigured: they do not; names the setting and the mend.
        """
        await users.check_keys(self._parts)

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
            self._parts.on_event(CopyOwed(store=self.store.name, reason=str(error)))

    @property
    def counters(self) -> dict[str, int]:
        """How many events of each kind this process has seen, by the name of the class; for a metrics page."""
        return dict(self._counts.counts)

    async def stats(self) -> Stats:
        """Count sessions, exactly: this walks all of them.

        Raises:
            StoreUnavailable: no store can say.
        """
        return await settle(self.store.stats(at=self._parts.now))

    async def cleanup(self) -> int:
        """Remove what has expired, index entries too, and return how many entries went.

        Raises:
            StoreUnavailable: a store does not answer.
        """
        return await settle(self.store.cleanup(at=self._parts.now))

    async def aclose(self) -> None:
        """Give connections back."""
        await settle(self.store.close())

    def close(self) -> None:
        """The same from blocking code."""
        run_blocking(self.aclose())


def _sealer(settings: Settings) -> Sealer:
    return field_sealer(
        encryption_keys=settings.encryption_keys,
        accepts_plain=settings.encryption_accepts_plain,
        compress_above=settings.compress_above,
    )
