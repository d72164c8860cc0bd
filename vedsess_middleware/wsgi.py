"""Sessions for any WSGI app, as PEP 3333 has it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from vedsess_middleware.build import configured_manager
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import CommitRefused, StoreError
from vedsess_middleware.http import (
    CONFLICT,
    UNAVAILABLE,
    Replacement,
    client_address,
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
        manager, excluded = self.manager, self.manager.settings.exclude
        if excluded and is_excluded(_path(environ), excluded):
            return self.app(environ, start_response)
        request = environ.copy()  # the app may change its own
        facts = partial(_request_info, request, manager.settings.trusted_proxies)
        session = environ[ENVIRON_KEY] = manager.begin(environ.get("HTTP_COOKIE", ""), facts)
        response = _Response(manager, session, request, start_response)
        try:
            body = self.app(environ, response.start)
        except BaseException as error:
            if not response.replaces(error):
                raise
            body = ()
        return response.finish(body)


def _path(environ: "WSGIEnvironment") -> str:
    path: str = environ.get("PATH_INFO", "")
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")


def _request_info(environ: "WSGIEnvironment", trusted_proxies: int) -> RequestInfo:
    return RequestInfo(
        path=_path(environ),
        method=environ["REQUEST_METHOD"],
        secure=is_secure(environ["wsgi.url_scheme"], environ.get("HTTP_X_FORWARDED_PROTO"), trusted_proxies),
        user_agent=environ.get("HTTP_USER_AGENT") or None,
        ip_address=client_address(environ.get("REMOTE_ADDR"), environ.get("HTTP_X_FORWARDED_FOR"), trusted_proxies),
    )


class _Response:
    """One response: holds the app's headers back until the session is committed."""

    def __init__(
        self, manager: SessionManager, session: Session, request: "WSGIEnvironment", start_response: "StartResponse"
    ) -> None:
        self._manager, self._session, self._state = manager, session, state_of(session)
        self._request, self._start_response = request, start_response
        self._save_later, self._state.save = self._state.save, self._save
        self._status, self._headers, self._exc_info = "", [], ()  # type: tuple[str, _Headers, tuple[_ExcInfo, ...]]
        self._server_write: Callable[[bytes], object] | None = None
        self._cookie: str | None = None
        self.replaced = False

    @property
    def left(self) -> bool:
        """Whether the headers have been given to the server."""
        return self._server_write is not None

    # -- what the app calls ----------------------------------------------------------------------------------------

    def start(self, status: str, headers: _Headers, exc_info: _ExcInfo = None, /) -> Callable[[bytes], object]:
        if self._status and not exc_info:
            raise RuntimeError("start_response was called again without exc_info")
        self._status, self._headers, self._exc_info = status, list(headers), (exc_info,) if exc_info else ()
        del exc_info  # no cycle with the traceback
        if self.left:
            # PEP 3333: the server raises the app's error, unless it has seen nothing but empty chunks.
            self._send_headers()
        return self._write

    def _write(self, data: bytes) -> None:
        first = not self.left
        if first:
            self.leave()
        assert self._server_write is not None
        if not self.replaced:
            self._server_write(data)
        elif first and self.replacement:
            self._server_write(self.replacement)

    # -- leaving ---------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Commit what the app did with its session, then give the headers to the server."""
        if self._manager.needs_commit(self._session):
            self._cookie = self._commit() or self._cookie
            self.replaced = self._state.refused
        if self._state.outdated:
            self._cookie = None
        if not (self._status or self.replaced):
            raise RuntimeError("the app sent a body before it called start_response")
        self._send_headers()

    def _commit(self) -> str | None:
        if self._state.refused:
            return None
        commit = self._manager.commit_logout if self._status[:1] == "5" else self._manager.commit
        try:
            return run_blocking(commit(self._session, self._info))
        except StoreError:
            return None  # where that means a 503, the manager has noted it
        except CommitRefused as error:
            self._state.failure, self._state.refused = error, True
            return None

    def _send_headers(self) -> None:
        status, headers = self._status, self._headers
        if self.replaced:
            status, headers = self._stand_in.status, list(self._stand_in.headers)
        elif self._state.touched:
            headers = session_headers(headers, accessed=self._state.accessed, set_cookie=self._cookie)
        exc_info, self._exc_info = self._exc_info, ()
        try:
            self._server_write = self._start_response(status, headers, *exc_info)
        finally:
            del exc_info

    @property
    def _info(self) -> RequestInfo:
        return _request_info(self._request, self._manager.settings.trusted_proxies)

    @property
    def replacement(self) -> bytes:
        """The body of what stands in for the answer."""
        return b"" if self._request["REQUEST_METHOD"] == "HEAD" else self._stand_in.body

    @property
    def _stand_in(self) -> Replacement:
        return CONFLICT if isinstance(self._state.failure, CommitRefused) else UNAVAILABLE

    # -- what comes after the headers, or in their place -----------------------------------------------------------

    async def _save(self) -> None:
        cookie = await self._manager.commit(self._session, self._info, headers_left=self.left)
        self._cookie = cookie or self._cookie

    def commit_rest(self) -> None:
        """Write what changed after the headers had left."""
        if self._status[:1] == "5":
            self.drop_changes()
        elif not self.replaced and self._manager.needs_commit(self._session, headers_left=True):
            run_blocking(self._manager.commit(self._session, headers_left=True))

    def drop_changes(self) -> None:
        """The app raised: only a logout counts."""
        if self._state.ended:
            with suppress(StoreError):
                run_blocking(self._manager.commit_logout(self._session))

    def replaces(self, error: BaseException) -> bool:
        """Whether an answer of ours takes the place of what the app raised; if not, its changes go."""
        if isinstance(error, CommitRefused) and not self.left:
            self._state.failure, self._state.refused = error, True
        if self._state.refused and not self.left and isinstance(error, Exception):
            return True
        self.drop_changes()
        return False

    @property
    def pending(self) -> bool:
        """Whether there is work that must not delay the answer; a request that left its session alone does none."""
        return self._state.touched and self._manager.pending

    def after_response(self) -> None:
        """Do what must not delay the answer."""
        if self.pending:
            run_blocking(self._manager.after_response())

    # -- the body --------------------------------------------------------------------------------------------------

    def finish(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """Return what the server is to iterate over: the app's own object, where nothing is left to do in it."""
        listed = isinstance(body, (list, tuple))
        if self.left or not (listed or self._is_file(body)) or not (self._status or self._state.refused):
            return _Body(self, body)
        try:
            self.leave()
        except BaseException:
            _close(body)
            raise
        if self.replaced:
            _close(body)
            return [self.replacement]
        if not self.pending:
            self._state.save = self._save_later  # no cycle: all of this goes with the request
            return body
        return _List(self, body) if listed else _Body(self, body)

    def _is_file(self, body: Iterable[bytes]) -> bool:
        wrapper = self._request.get("wsgi.file_wrapper")
        return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Body:
    """An iterable whose chunks the app makes while it is read."""

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        self._response, self._body = response, body
        self._chunks: Iterator[bytes] | None = None
        self._ended = self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        self._ended = True  # unless the app gives one more chunk
        response, chunk = self._response, self._pull()
        if not response.left:
            response.leave()
            if response.replaced:
                return response.replacement
        if chunk is None or response.replaced:
            response.commit_rest()
            raise StopIteration
        self._ended = False
        return chunk

    def _pull(self) -> bytes | None:
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks, None)
        except BaseException as error:
            if not self._response.replaces(error):
                raise
            return None

    def close(self) -> None:
        """Called by the server, also when the browser has gone away in the middle."""
        if self._closed:
            return
        self._closed = True
        response = self._response
        try:
            _close(self._body)
        finally:
            try:
                if not self._ended:
                    (response.commit_rest if response.left else response.drop_changes)()
            finally:
                response.after_response()


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
        try:
            _close(self._body)
        finally:
            self._response.after_response()


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
