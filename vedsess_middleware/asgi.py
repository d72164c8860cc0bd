"""Sessions for any ASGI app: http and websocket."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vedsess_middleware.build import configured_manager
from vedsess_middleware.errors import CommitRefused, StoreError, StoreMisconfigured
from vedsess_middleware.http import (
    CACHING,
    CONFLICT,
    UNAVAILABLE,
    client_address,
    is_excluded,
    is_secure,
    session_headers,
)
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.settings import Settings
from vedsess_middleware.sockets import SessionOver, Socket

__all__ = ["SessionMiddleware"]

_START = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})
_END = frozenset({"http.response.body", "http.response.pathsend", "websocket.http.response.body"})
_CACHING = frozenset(name.encode() for name in CACHING)


class SessionMiddleware:
    """Puts a loaded `Session` into `scope["session"]`, and commits it before the headers leave.

    The session is loaded before the app, where a genuine cookie came.  The app may put another mapping in its place.
    What it changes after the headers have left is committed when the body ends; it cannot set a cookie any more.  If
    the app raises, or answers with 5xx, its changes are dropped, and only a logout is carried out.  If no store could
    give a session that the app needed, the answer is a 503, whatever the app made of the error.

    On a websocket a cookie travels with the accept; `await session.save()` commits at once, and the close commits what
    is left, unless the session has been ended.  An open websocket asks the stores every `websocket_check` seconds, and
    is closed with 1008 where its session is over.

    Args:
        app: any ASGI app.
        config: `Settings` or a `SessionManager`; otherwise the keywords are.
        options: the fields of `Settings`, and `codec`, `clock`, `new_id`, `on_event` of `SessionManager`.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """

    def __init__(self, app: ASGIApp, /, config: Settings | SessionManager | None = None, **options: Any) -> None:
        self.app = app
        self.manager = configured_manager(config, options, is_async=True)
        self._owns_manager = not isinstance(config, SessionManager)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        if kind not in ("http", "websocket") or self._is_excluded(scope):
            await self.app(scope, receive, send)
            return
        facts = partial(_request_info, scope, self.manager.settings.trusted_proxies)
        session = self.manager.begin(_cookies(scope), facts)
        if not state_of(session).loaded:
            await self.manager.load(session)
        exchange = _Exchange(self.manager, session, scope, receive, send)
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            if not await exchange.replaces(error):
                raise
        finally:
            exchange.stop()
        if exchange.has_work():
            await exchange.finish()
        state_of(session).save = None  # no cycle: all of this goes with the request

    def _is_excluded(self, scope: Scope) -> bool:
        excluded = self.manager.settings.exclude
        return bool(excluded) and is_excluded(_path(scope), excluded)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and end with the server; keys that do not fit to what is stored let nobody start."""
        try:
            await self.manager.check_keys()
        except StoreMisconfigured as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await self.app(scope, receive, self._closing(send) if self._owns_manager else send)

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self.manager.aclose()
            await send(message)

        return closing


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    return path.removeprefix(mount) if path == mount or path.startswith(f"{mount}/") else path


def _cookies(scope: Scope) -> str:
    return b"; ".join([value for name, value in scope["headers"] if name == b"cookie"]).decode("latin-1")


def _header(scope: Scope, wanted: bytes) -> str:
    return b", ".join([value for name, value in scope["headers"] if name == wanted]).decode("latin-1")


def _request_info(scope: Scope, trusted_proxies: int) -> RequestInfo:
    client = scope.get("client")
    proto = forwarded_for = None
    if trusted_proxies:
        proto, forwarded_for = _header(scope, b"x-forwarded-proto"), _header(scope, b"x-forwarded-for")
    return RequestInfo(
        path=_path(scope),
        method=scope.get("method", "WEBSOCKET"),
        secure=is_secure(scope.get("scheme", "http"), proto, trusted_proxies),
        user_agent=_header(scope, b"user-agent") or None,
        ip_address=client_address(client[0] if client else None, forwarded_for, trusted_proxies),
    )


class _Exchange:
    """One request and its response, or one websocket."""

    _left = _ended = _replaced = _server_error = False
    _cookie: str | None = None

    def __init__(self, manager: SessionManager, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        self._manager, self._session, self._state = manager, session, state_of(session)
        self._request, self.receive, self._send = scope, receive, send
        self._socket = Socket(manager, session, receive, send) if scope["type"] == "websocket" else None
        if self._socket is not None:
            self.receive, self._send = self._socket.receive, self._socket.send
        self.scope = {**scope, "session": session}
        self._state.save = self._save

    def stop(self) -> None:
        """The app receives no more."""
        if self._socket is not None:
            self._socket.stop()

    def has_work(self) -> bool:
        """Whether anything is left to be done, now that the app has returned."""
        return self._needs_commit() or (not self._ended and self._has_upkeep())

    # -- what the app calls ----------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        kind = message["type"]
        if kind in _START:
            self._server_error = message.get("status", 200) >= 500
            if self._needs_commit():
                self._cookie = await self._commit() or self._cookie
                if self._state.refused:
                    await self._replace()
                    return
            if self._state.outdated:
                self._cookie = None
            self._left = True
            if self._state.accessed or self._cookie:
                message = self._with_session_headers(message)
            await self._send(message)
        elif kind in _END and not message.get("more_body", False):
            if self._needs_commit():
                await self._commit_rest()
            await self._send(message)
            self._ended = True
            if self._has_upkeep():
                await self._manager.after_response()
        else:
            await self._send(message)

    async def _save(self) -> None:
        self._take_replacement()
        cookie = await self._manager.commit(self._session, self._info, headers_left=self._left)
        self._cookie = cookie or self._cookie
        if self._has_upkeep():
            await self._manager.after_response()

    # -- what comes of it ------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """The app has returned: write what it changed since, and answer for it if it could not."""
        if self._state.refused and not self._left:
            await self._replace()
        elif self._left or self._is_websocket:
            await self._commit_rest()
            if self._has_upkeep():
                await self._manager.after_response()
        else:
            await self._drop_changes()

    async def replaces(self, error: Exception) -> bool:
        """Whether an answer of ours takes the place of what the app raised; if not, its changes go."""
        if isinstance(error, CommitRefused) and not self._left:
            self._state.failure, self._state.refused = error, True
        if (self._state.refused and not self._left) or isinstance(error, SessionOver):
            return True
        # A websocket ends by an exception when the browser leaves: that is no failure of the app.
        if self._socket is not None and self._socket.left:
            await self._commit_rest()
        else:
            await self._drop_changes()
        return False

    def _needs_commit(self) -> bool:
        if self.scope.get("session") is not self._session:
            return True
        return self._manager.needs_commit(self._session, headers_left=self._left)

    async def _commit(self) -> str | None:
        if self._state.refused:
            return None
        commit = self._manager.commit_logout if self._server_error else self._manager.commit
        try:
            self._take_replacement()
            return await commit(self._session, self._info)
        except StoreError:
            return None  # where that means a 503, the manager has noted it
        except CommitRefused as error:
            self._state.failure, self._state.refused = error, True
            return None

    async def _commit_rest(self) -> None:
        if self._server_error:
            await self._drop_changes()
        elif not self._replaced:
            self._take_replacement()
            await self._manager.commit(self._session, headers_left=True)

    async def _drop_changes(self) -> None:
        """The app failed: only a logout counts."""
        if self._state.ended:
            with suppress(StoreError):
                await self._manager.commit_logout(self._session)

    def _take_replacement(self) -> None:
        """The app may have put another mapping in the session's place."""
        current = self.scope.get("session")
        if current is not self._session and isinstance(current, Mapping):
            self._session.assign(current)

    def _has_upkeep(self) -> bool:
        """Whether work waits for the end of the response; one that had nothing to do with a session does none."""
        if not self._manager.pending:
            return False
        state = self._state
        return state.ticket is not None or state.failure is not None or state.touched

    async def _replace(self) -> None:
        """Answer in the app's place."""
        self._replaced = self._left = True
        stand_in = CONFLICT if isinstance(self._state.failure, CommitRefused) else UNAVAILABLE
        prefix = ""
        if self._is_websocket:
            if "websocket.http.response" not in self._request.get("extensions", {}):
                await self._send({"type": "websocket.close", "code": stand_in.close_code})
                return
            prefix = "websocket."
        headers = _encoded(stand_in.headers)
        await self._send({"type": f"{prefix}http.response.start", "status": stand_in.code, "headers": headers})
        body = b"" if self._request.get("method") == "HEAD" else stand_in.body
        await self._send({"type": f"{prefix}http.response.body", "body": body})

    def _with_session_headers(self, message: Message) -> Message:
        headers = list(message.get("headers", ()))
        caching = [pair for pair in headers if pair[0].lower() in _CACHING]
        if caching:
            headers = [pair for pair in headers if pair not in caching]
            decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in caching]
            headers += _encoded(session_headers(decoded, accessed=self._state.accessed, set_cookie=self._cookie))
        elif self._cookie:
            headers += (_VARY, _NO_STORE, (b"set-cookie", self._cookie.encode("latin-1")))
        else:
            headers.append(_VARY)
        return {**message, "headers": headers}

    @property
    def _is_websocket(self) -> bool:
        return self._request["type"] == "websocket"  # type: ignore[no-any-return]

    @property
    def _info(self) -> RequestInfo:
        return _request_info(self._request, self._manager.settings.trusted_proxies)


def _encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


# What is added where the app says nothing of caching.
[_VARY, _NO_STORE, _] = _encoded(session_headers([], accessed=True, set_cookie="any"))
