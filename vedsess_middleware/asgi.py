"""Sessions for any ASGI app: http and websocket."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vedsess_middleware.build import configured_manager
from vedsess_middleware.errors import StoreError
from vedsess_middleware.http import (
    UNAVAILABLE_BODY,
    UNAVAILABLE_HEADERS,
    UNAVAILABLE_STATUS,
    is_excluded,
    is_secure,
    session_headers,
)
from vedsess_middleware.manager import SessionManager
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.session import Session, state_of
from vedsess_middleware.settings import Settings

__all__ = ["SessionMiddleware"]

_START = ("http.response.start", "websocket.http.response.start")
_END = ("http.response.body", "http.response.pathsend", "websocket.http.response.body")
_TRY_AGAIN_LATER = 1013


class SessionMiddleware:
    """Puts a loaded `Session` into `scope["session"]`, and commits it before the headers leave.

    The session is loaded before the app, where a genuine cookie came.  The app may put another mapping in its place.
    What it changes after the headers have left is committed when the body ends; it cannot set a cookie any more.  If
    the app raises, or answers with 5xx, its changes are dropped, and only a logout is carried out.  If no store could
    give a session that the app needed, the answer is a 503, whatever the app made of the error.

    On a websocket a cookie travels with the accept; `await session.save()` commits at once, and the close commits what
    is left, unless the session has been ended.

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
        if kind == "lifespan" and self._owns_manager:
            await self.app(scope, receive, self._closing(send))
        elif kind not in ("http", "websocket") or self._is_excluded(scope):
            await self.app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        cookies, info = _read_scope(scope, self.manager.settings.trusted_proxies)
        session = self.manager.begin(cookies)
        await self.manager.load(session)
        scope = {**scope, "session": session}
        exchange = _Exchange(self.manager, session, info, scope, receive, send)
        async with exchange:
            await self.app(scope, exchange.receive, exchange.send)
        await exchange.finish()

    def _is_excluded(self, scope: Scope) -> bool:
        excluded = self.manager.settings.exclude
        return bool(excluded) and is_excluded(_path(scope), excluded)

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


def _read_scope(scope: Scope, trusted_proxies: int) -> tuple[str, RequestInfo]:
    found: dict[bytes, list[bytes]] = {b"cookie": [], b"user-agent": [], b"x-forwarded-proto": []}
    for name, value in scope["headers"]:
        if name in found:
            found[name].append(value)
    cookies, agent, proto = (b"; ".join(found[name]).decode("latin-1") for name in found)
    client = scope.get("client")
    info = RequestInfo(
        path=_path(scope),
        method=scope.get("method", "WEBSOCKET"),
        secure=is_secure(scope.get("scheme", "http"), proto.replace(";", ","), trusted_proxies),
        user_agent=agent or None,
        ip_address=client[0] if client else None,
    )
    return cookies, info


class _Exchange(AbstractAsyncContextManager["_Exchange"]):
    """One request and its response, or one websocket."""

    def __init__(
        self,
        manager: SessionManager,
        session: Session,
        info: RequestInfo,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._manager, self._session, self._info = manager, session, info
        self._scope, self._receive, self._send = scope, receive, send
        self._websocket = scope["type"] == "websocket"
        self._left = self._replaced = self._disconnected = self._server_error = False
        self._cookie: str | None = None
        state_of(session).save = self._save

    @property
    def _failed(self) -> bool:
        return state_of(self._session).refused

    async def receive(self) -> Message:
        message = await self._receive()
        self._disconnected = self._disconnected or message["type"] == "websocket.disconnect"
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._replaced:
            return
        if kind in _START or kind == "websocket.accept":
            await self._leave(message)
        elif kind in _END and not message.get("more_body", False):
            await self._commit_rest()
            await self._send(message)
            await self._after_response()
        else:
            await self._send(message)

    async def finish(self) -> None:
        """The app has returned: write what it changed since, and answer for it if it could not."""
        if self._failed and not self._left:
            await self._replace()
        elif self._left or self._websocket:
            await self._commit_rest()
            await self._after_response()
        else:
            await self._drop_changes()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if self._failed and not self._left:
            return True
        # A websocket ends by an exception when the browser leaves: that is no failure of the app.
        if self._disconnected:
            await self._commit_rest()
        else:
            await self._drop_changes()
        return False

    async def _leave(self, message: Message) -> None:
        self._server_error = message.get("status", 200) >= 500
        if not self._failed:
            with suppress(StoreError):
                await self._commit()
        if self._failed:
            await self._replace()
            return
        self._left = True
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers", [])]
        accessed = state_of(self._session).accessed
        headers = session_headers(texts, accessed=accessed, set_cookie=self._cookie)
        await self._send({**message, "headers": _encoded(headers)})

    async def _commit(self) -> None:
        self._take_replacement()
        commit = self._manager.commit_logout if self._server_error else self._manager.commit
        self._cookie = await commit(self._session, self._info) or self._cookie

    async def _save(self) -> None:
        self._take_replacement()
        cookie = await self._manager.commit(self._session, self._info, headers_left=self._left)
        self._cookie = cookie or self._cookie
        await self._after_response()

    async def _commit_rest(self) -> None:
        if self._server_error:
            await self._drop_changes()
        elif not self._replaced:
            self._take_replacement()
            await self._manager.commit(self._session, self._info, headers_left=True)

    async def _drop_changes(self) -> None:
        """The app failed: only a logout counts."""
        with suppress(StoreError):
            await self._manager.commit_logout(self._session, self._info)

    def _take_replacement(self) -> None:
        """The app may have put another mapping in the session's place."""
        current = self._scope.get("session")
        if current is not self._session and isinstance(current, Mapping):
            self._session.assign(current)

    async def _after_response(self) -> None:
        state = state_of(self._session)
        if (state.tickets or state.touched) and self._manager.pending:
            await self._manager.after_response()

    async def _replace(self) -> None:
        """Answer 503 in the app's place."""
        self._replaced = self._left = True
        prefix = ""
        if self._websocket:
            if "websocket.http.response" not in self._scope.get("extensions", {}):
                await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
                return
            prefix = "websocket."
        headers = _encoded(UNAVAILABLE_HEADERS)
        await self._send({"type": f"{prefix}http.response.start", "status": UNAVAILABLE_STATUS, "headers": headers})
        body = b"" if self._info.method == "HEAD" else UNAVAILABLE_BODY
        await self._send({"type": f"{prefix}http.response.body", "body": body})


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
