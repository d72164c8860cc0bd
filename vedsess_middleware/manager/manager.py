"""The manager: every step of a session's life, for the front ends, for workers and for scripts."""

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from vedsess_middleware.codec import Codec, JsonCodec
from vedsess_middleware.concurrency import run_blocking, settle
from vedsess_middleware.cookies import CookieJar, new_session_id
from vedsess_middleware.errors import StoreError
from vedsess_middleware.events import CopyOwed, EventCounts, EventHook, log_event
from vedsess_middleware.manager import users
from vedsess_middleware.manager.committing import Commit
from vedsess_middleware.manager.opening import Opening
from vedsess_middleware.manager.parts import Parts
from vedsess_middleware.manager.users import SessionInfo
from vedsess_middleware.request import RequestInfo
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

    def begin(self, cookie_header: str) -> Session:
        """Return a session that is not loaded yet.  Asks no store, and judges no cookie before it is touched.

        Over blocking stores it loads itself on first touch; on an event loop `load` comes first.
        """
        return self._opening.begin(cookie_header)

    async def open(self, cookie_header: str = "") -> Session:
        """Return the loaded session of these cookies, or a new one.  `load` says what happens without a store."""
        session = self.begin(cookie_header)
        await self.load(session)
        return session

    def load(self, session: Session) -> Coroutine[Any, Any, None]:
        """Ask the stores for the session; a no-op if that has been done.

        Where no store can say, the session remembers that, and raises `StoreUnavailable` when it is touched.
        """
        return self._opening.load(state_of(session))

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
        return self._parts.renews(ticket, record.version, stale=record.stale)

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
        """
        return await Commit(self._parts, self._opening, session, info, headers_left).run()

    async def commit_logout(self, session: Session, info: RequestInfo = RequestInfo()) -> str | None:
        """Carry out only what ends a session: the request failed, and its other changes are dropped.

        Raises:
            StoreUnavailable: no store took it.
        """
        return await Commit(self._parts, self._opening, session, info).end()

    # -- users -----------------------------------------------------------------------------------------------------

    async def sessions(self, user_id: str | int) -> list[SessionInfo]:
        """Return the live sessions of a user, the last used first.

        Raises:
            StoreUnavailable: no store can say.
        """
        return await users.sessions_of(self._parts, str(user_id))

    async def revoke(self, user_id: str | int, *, handle: str | None = None, keep: Session | None = None) -> int:
        """End all sessions of a user, and return how many were ended.

        Args:
            user_id: whose.
            handle: only the one that `sessions` calls so.
            keep: all but this one.

        Raises:
            StoreUnavailable: no store took it.
        """
        return await users.revoke(self._parts, str(user_id), handle=handle, keep=keep)

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
