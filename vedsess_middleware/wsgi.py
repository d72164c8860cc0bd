"""Sessions for any WSGI app, as PEP 3333 has it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from vedsess_middleware.build import configured_manager
from vedsess_middleware.concurrency import run_blocking
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

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["ENVIRON_KEY", "SessionMiddleware"]

ENVIRON_KEY = "vedsess.session"

_Headers = list[tuple[str, str]]
_ExcInfo = Any  # sys.exc_info() as PEP 3333 hands it on


class SessionMiddleware:
    """Puts a `Session` into `environ["vedsess.session"]`, and commits it before the headers leave.

    The session is loaded when it is first touched.  What a streaming app changes after the first chunk is committed
    when the body ends; it cannot set a cookie any more.  If the app raises, or answers with 5xx, its changes are
    dropped, and only a logout is carried out.  If no store could give a session that the app needed, the answer is a
    503, whatever the app made of the error.

    Args:
        app: any WSGI app.
        config: `Settings` or a `SessionManager`; otherwise the keywords are.
        options: the fields of `Settings`, and `codec`, `clock`, `new_id`, `on_event` of `SessionManager`.

    Raises:
        ConfigurationError: a setting is wrong; the message names it.
    """

    def __init__(
        self, app: "WSGIApplication", /, config: Settings | SessionManager | None = None, **options: Any
    ) -> None:
        self.app = app
        self.manager = configured_manager(config, options, is_async=False)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        settings = self.manager.settings
        if settings.exclude and is_excluded(_path(environ), settings.exclude):
            return self.app(environ, start_response)
        info = _request_info(environ, settings.trusted_proxies)
        session = self.manager.begin(environ.get("HTTP_COOKIE", ""))
        environ[ENVIRON_KEY] = session
        response = _Response(self.manager, session, info, start_response)
        body: Iterable[bytes] = ()
        with response.guard:
            body = self.app(environ, response.start)
        return response.finish(body, environ.get("wsgi.file_wrapper"))


def _path(environ: "WSGIEnvironment") -> str:
    path: str = environ.get("PATH_INFO", "")
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")


def _request_info(environ: "WSGIEnvironment", trusted_proxies: int) -> RequestInfo:
    return RequestInfo(
        path=_path(environ),
        method=environ["REQUEST_METHOD"],
        secure=is_secure(environ["wsgi.url_scheme"], environ.get("HTTP_X_FORWARDED_PROTO"), trusted_proxies),
        user_agent=environ.get("HTTP_USER_AGENT"),
        ip_address=environ.get("REMOTE_ADDR"),
    )


class _Response:
    """One response: holds the app's headers back until the session is committed."""

    def __init__(
        self, manager: SessionManager, session: Session, info: RequestInfo, start_response: "StartResponse"
    ) -> None:
        self._manager, self._session, self._info = manager, session, info
        self._start_response = start_response
        self._status, self._headers, self._exc_info = "", [], None  # type: tuple[str, _Headers, _ExcInfo]
        self._server_write: Callable[[bytes], object] | None = None
        self._cookie: str | None = None
        self.replaced = False
        self.guard = _Guard(self)
        state_of(session).save = self._save

    @property
    def left(self) -> bool:
        """Whether the headers have been given to the server."""
        return self._server_write is not None

    @property
    def failed(self) -> bool:
        """Whether the app needed a session that no store could give."""
        return state_of(self._session).refused

    # -- what the app calls ----------------------------------------------------------------------------------------

    def start(self, status: str, headers: _Headers, exc_info: _ExcInfo = None, /) -> Callable[[bytes], object]:
        if self._status and not exc_info:
            raise RuntimeError("start_response was called again without exc_info")
        self._status, self._headers, self._exc_info = status, list(headers), exc_info
        del exc_info  # no cycle with the traceback
        if self.left:
            # PEP 3333: the server raises the app's error, unless it has seen nothing but empty chunks.
            self._send_headers()
        return self._write

    def _write(self, data: bytes) -> None:
        first = not self.left
        self.leave()
        assert self._server_write is not None
        if not self.replaced:
            self._server_write(data)
        elif first and self.replacement:
            self._server_write(self.replacement)

    # -- leaving ---------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Commit, then give the headers to the server."""
        if self.left:
            return
        if not self.failed:
            with suppress(StoreError):
                self._commit()
        self.replaced = self.failed
        if not (self._status or self.replaced):
            raise RuntimeError("the app sent a body before it called start_response")
        self._send_headers()

    def _send_headers(self) -> None:
        if self.replaced:
            status, headers = f"{UNAVAILABLE_STATUS} Service Unavailable", list(UNAVAILABLE_HEADERS)
        else:
            accessed = state_of(self._session).accessed
            status, headers = self._status, session_headers(self._headers, accessed=accessed, set_cookie=self._cookie)
        exc_info, self._exc_info = self._exc_info, None
        try:
            self._server_write = self._start_response(status, headers, *([exc_info] if exc_info else []))
        finally:
            del exc_info

    @property
    def replacement(self) -> bytes:
        """The body of the 503."""
        return b"" if self._info.method == "HEAD" else UNAVAILABLE_BODY

    def _commit(self) -> None:
        server_error = self._status[:1] == "5"
        commit = self._manager.commit_logout if server_error else self._manager.commit
        self._cookie = run_blocking(commit(self._session, self._info)) or self._cookie

    async def _save(self) -> None:
        cookie = await self._manager.commit(self._session, self._info, headers_left=self.left)
        self._cookie = cookie or self._cookie

    def commit_rest(self) -> None:
        """Write what changed after the headers had left."""
        if self._status[:1] == "5":
            self.drop_changes()
        elif not self.replaced:
            run_blocking(self._manager.commit(self._session, self._info, headers_left=True))

    def drop_changes(self) -> None:
        """The app raised: only a logout counts."""
        with suppress(StoreError):
            run_blocking(self._manager.commit_logout(self._session, self._info))

    @property
    def pending(self) -> bool:
        """Whether there is work that must not delay the answer; a request that left its session alone does none."""
        return state_of(self._session).touched and self._manager.pending

    def after_response(self) -> None:
        """Do what must not delay the answer."""
        if self.pending:
            run_blocking(self._manager.after_response())

    # -- the body --------------------------------------------------------------------------------------------------

    def finish(self, body: Iterable[bytes], file_wrapper: object) -> Iterable[bytes]:
        """Return what the server is to iterate over: the app's own object, where nothing is left to do in it."""
        listed = isinstance(body, list | tuple)
        wrapped = isinstance(file_wrapper, type) and isinstance(body, file_wrapper)
        if self.left or not (listed or wrapped) or not (self._status or self.failed):
            return _Body(self, body)
        with ExitStack() as stack:
            stack.callback(_close, body)
            self.leave()
            if self.replaced:
                return [self.replacement]
            stack.pop_all()
        if not self.pending:
            return body
        return _List(self, body) if listed else _Body(self, body)


class _Guard(AbstractContextManager["_Guard"]):
    """Around the app's code: its error gives way to a 503 if it was for want of a session."""

    def __init__(self, response: _Response) -> None:
        self._response = response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        if error is None:
            return False
        response = self._response
        if response.failed and not response.left and isinstance(error, Exception):
            return True
        response.drop_changes()
        return False


class _Body:
    """An iterable whose chunks the app makes while it is read."""

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        self._response, self._body = response, body
        self._chunks: Iterator[bytes] | None = None
        self._ended = self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        response, chunk = self._response, None
        if self._ended:
            raise StopIteration
        self._ended = True  # unless the app gives one more chunk
        with response.guard:
            chunk = self._pull()
        first = not response.left
        response.leave()
        if first and response.replaced:
            return response.replacement
        if chunk is None or response.replaced:
            response.commit_rest()
            raise StopIteration
        self._ended = False
        return chunk

    def _pull(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = iter(self._body)
        return next(self._chunks, None)

    def close(self) -> None:
        """Called by the server, also when the browser has gone away in the middle."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._response.after_response)
            if not self._ended:
                stack.callback(self._response.commit_rest if self._response.left else self._response.drop_changes)
            _close(self._body)


class _List(list[bytes]):
    """A finished body that keeps its length, with work to do after it has been sent."""

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        super().__init__(body)
        self._response, self._body = response, body
        self._closed = False

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._response.after_response)
            _close(self._body)


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
