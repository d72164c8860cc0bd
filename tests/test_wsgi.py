"""The WSGI middleware against PEP 3333: what it hands to the server, what it hands to the app, and when."""

import gc
import io
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, cast
from wsgiref.util import FileWrapper, shift_path_info
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.lint import LintMiddleware

from tests.clients import SECRET_KEY, Answer, Gateway, Spy, wsgi_environ
from vedsess_middleware import (
    RequestInfo,
    SerializationError,
    SessionManager,
    Settings,
    StoreUnavailable,
    run_blocking,
)
from vedsess_middleware.events import Event, WriteRefused
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.wsgi import ENVIRON_KEY, SessionMiddleware

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

PLAIN = [("Content-Type", "text/plain")]


@pytest.fixture
def spy() -> Spy:
    return Spy(cast(Store, MemoryStore()))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def manager(spy: Spy, events: list[Event]) -> SessionManager:
    return SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY), on_event=events.append)


class Body:
    """An iterable that counts how often it is closed."""

    def __init__(self, chunks: Iterable[bytes] = (b"x",)) -> None:
        self.chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed += 1


class ListBody(list[bytes]):
    """A list that counts how often it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class Broken(Exception):
    """What a bug in an app raises."""


def serve(manager: SessionManager, app: App, *, cookies: str = "", method: str = "GET") -> Answer:
    environ = wsgi_environ(method=method, cookies=cookies)
    return Gateway().serve(SessionMiddleware(app, manager), environ)


def begun(manager: SessionManager, **values: object) -> str:
    """The cookie of a new session."""
    session = run_blocking(manager.open())
    session.update(values)
    header = run_blocking(manager.commit(session))
    assert header is not None
    return header.partition(";")[0]


def stored(manager: SessionManager, cookies: str) -> dict[str, Any]:
    return dict(run_blocking(manager.open(cookies)))


def returning(body: Iterable[bytes], work: Callable[[Any], object] = lambda session: None) -> App:
    """An app that works on its session, starts its response and returns that body."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        work(environ[ENVIRON_KEY])
        start_response("200 OK", list(PLAIN))
        return body

    return app


# -- nothing to do -----------------------------------------------------------------------------------------------------


def test_an_untouched_request_is_handed_on_as_it_is(manager: SessionManager, spy: Spy) -> None:
    body, headers, started = [b"x"], [*PLAIN, ("X-Y", "1"), ("X-Y", "2")], []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        return body

    def start_response(*args: object) -> Callable[[bytes], object]:
        started.append(args)
        return lambda data: None

    environ = wsgi_environ(cookies=begun(manager, n=1))
    spy.calls.clear()
    spy.busy = True
    assert SessionMiddleware(app, manager)(environ, start_response) is body
    assert started == [("200 OK", headers)]
    assert spy.calls == []


class Counting(SessionManager):
    """A manager that notes what it is asked to do at the end of a request."""

    def __init__(self, spy: Spy) -> None:
        super().__init__(cast(Store, spy), Settings(secret_key=SECRET_KEY), on_event=lambda event: None)
        self.asked: list[str] = []

    async def commit(self, *args: Any, **options: Any) -> str | None:
        self.asked.append("commit")
        return await super().commit(*args, **options)

    async def commit_logout(self, *args: Any, **options: Any) -> str | None:
        self.asked.append("commit_logout")
        return await super().commit_logout(*args, **options)

    async def after_response(self) -> None:
        self.asked.append("after_response")


def writing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", list(PLAIN))(b"x")
    return []


def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    raise Broken


def unavailable(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("503 Busy", list(PLAIN))
    return [b"x"]


@pytest.mark.parametrize("genuine", [False, True])
def test_an_untouched_request_asks_nothing_of_the_manager_however_it_ends(spy: Spy, genuine: bool) -> None:
    manager = Counting(spy)
    cookies = begun(manager, n=1) if genuine else ""
    manager.asked.clear()
    spy.busy = True
    for app in (returning([b"x"]), returning(iter([b"x", b"y"])), writing, unavailable, broken):
        with suppress(Broken):
            serve(manager, app, cookies=cookies)
    assert manager.asked == []


@pytest.mark.parametrize(
    ("work", "commits"),
    [
        (lambda session: session["n"], 0),
        (dict, 1),  # with what it can edit while the body is sent
        (lambda session: session.update(n=2), 1),
        (lambda session: session.pop("n"), 1),
        (lambda session: session.login("ada"), 1),
    ],
)
def test_a_request_that_may_have_changed_its_session_is_committed(
    spy: Spy, work: Callable[[Any], object], commits: int
) -> None:
    manager = Counting(spy)
    cookies = begun(manager, n=1, cart=[])
    manager.asked.clear()
    serve(manager, returning([b"x"], work), cookies=cookies)
    assert manager.asked == ["commit"] * commits


def test_what_was_committed_with_the_headers_is_not_committed_again(spy: Spy) -> None:
    manager = Counting(spy)
    serve(manager, returning(iter([b"x"]), lambda session: session.setdefault("n", 2)))
    assert manager.asked == ["commit"]


@pytest.mark.parametrize("work", [lambda session: None, dict])
def test_a_session_that_outlives_its_request_keeps_nothing_of_it(
    manager: SessionManager, work: Callable[[Any], object]
) -> None:
    environ, gateway = wsgi_environ(), Gateway()
    gone = weakref.ref(gateway)
    list(SessionMiddleware(returning([b"x"], work), manager)(environ, gateway.start_response))
    del gateway
    assert ENVIRON_KEY in environ
    assert gone() is None


@pytest.mark.parametrize("work", [lambda session: None, dict, lambda session: session.update(n=2)])
def test_a_session_that_outlives_its_request_can_still_be_saved(
    manager: SessionManager, work: Callable[[Any], object]
) -> None:
    cookies = begun(manager, n=1)
    environ = wsgi_environ(cookies=cookies)
    Gateway().serve(SessionMiddleware(returning([b"x"], work), manager), environ)
    environ[ENVIRON_KEY]["late"] = True
    run_blocking(environ[ENVIRON_KEY].save())
    assert stored(manager, cookies)["late"] is True


def test_the_request_is_known_as_it_came_whatever_the_app_makes_of_its_environ(spy: Spy) -> None:
    seen: list[RequestInfo] = []

    def may_create(info: RequestInfo) -> bool:
        seen.append(info)
        return True

    manager = SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY, may_create=may_create))

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        shift_path_info(environ)
        environ |= {"REQUEST_METHOD": "PUT", "wsgi.url_scheme": "http", "REMOTE_ADDR": "-", "HTTP_USER_AGENT": "-"}
        environ[ENVIRON_KEY]["n"] = 1
        start_response("200 OK", list(PLAIN))
        return []

    environ = wsgi_environ("/shop/caf\u00c3\u00a9", "POST", [("User-Agent", "x")], scheme="https")
    Gateway().serve(SessionMiddleware(app, manager), environ)
    assert seen == [
        RequestInfo(path="/shop/caf\u00e9", method="POST", secure=True, user_agent="x", ip_address="192.0.2.7")
    ]


@pytest.mark.parametrize("work", [lambda session: None, dict, lambda session: session.update(n=1)])
def test_a_file_is_handed_to_the_server_as_it_is(manager: SessionManager, work: Callable[[Any], object]) -> None:
    environ = wsgi_environ() | {"wsgi.file_wrapper": FileWrapper}
    body = FileWrapper(io.BytesIO(b"file"))
    returned = SessionMiddleware(returning(body, work), manager)(environ, Gateway().start_response)
    assert returned is body


def test_a_file_with_work_after_the_response_still_arrives_and_is_closed(manager: SessionManager, spy: Spy) -> None:
    environ, file = wsgi_environ() | {"wsgi.file_wrapper": FileWrapper}, io.BytesIO(b"file")
    spy.busy = True
    app = SessionMiddleware(returning(FileWrapper(file), lambda session: session.update(n=1)), manager)
    answer = Gateway().serve(app, environ)
    assert answer.body == b"file"
    assert file.closed
    assert spy.calls[-1] == "after_response"


@pytest.mark.parametrize("busy", [False, True])
def test_a_list_keeps_its_length(manager: SessionManager, spy: Spy, busy: bool) -> None:
    spy.busy = busy
    app = SessionMiddleware(returning([b"x"], lambda session: session.update(n=1)), manager)
    body = app(wsgi_environ(), Gateway().start_response)
    assert isinstance(body, list)
    assert body == [b"x"]


def test_a_list_with_work_after_the_response_does_it_once_in_close(manager: SessionManager, spy: Spy) -> None:
    spy.busy, inner = True, ListBody([b"x"])
    app = SessionMiddleware(returning(inner, lambda session: session.update(n=1)), manager)
    body: Any = app(wsgi_environ(), Gateway().start_response)
    assert "after_response" not in spy.calls
    body.close()
    body.close()
    assert spy.calls.count("after_response") == 1
    assert inner.closed == 1


def test_an_excluded_path_is_not_even_given_a_session(spy: Spy) -> None:
    manager = SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY, exclude=["/caf\u00e9"]))
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(ENVIRON_KEY in environ)
        start_response("200 OK", list(PLAIN))
        return []

    for path in ("/caf\u00e9/x", "/cafe"):
        Gateway().serve(SessionMiddleware(app, manager), wsgi_environ(path.encode().decode("latin-1")))
    assert seen == [False, True]


# -- start_response ----------------------------------------------------------------------------------------------------


def test_start_response_may_come_with_the_first_chunk(manager: SessionManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[ENVIRON_KEY]["n"] = 1
        start_response("201 Created", list(PLAIN))
        yield b"x"

    answer = serve(manager, app)
    assert (answer.status, answer.body) == (201, b"x")
    assert answer.cookie is not None
    assert stored(manager, answer.cookie) == {"n": 1}


@pytest.mark.parametrize("body", [[b"x"], [], iter([b"x"]), iter([])], ids=["list", "empty", "iterator", "ended"])
def test_a_body_without_start_response_is_an_error(manager: SessionManager, body: Iterable[bytes]) -> None:
    with pytest.raises(RuntimeError, match="start_response"):
        serve(manager, lambda environ, start_response: body)


def test_a_second_start_response_without_exc_info_is_an_error(manager: SessionManager) -> None:
    def at_once(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(PLAIN))
        start_response("200 OK", list(PLAIN))
        return []

    def too_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        start_response("200 OK", list(PLAIN))

    for app in (at_once, too_late):
        with pytest.raises(RuntimeError, match="again"):
            serve(manager, app)


def failing(start_response: Any, status: str = "500 Oops", headers: Any = PLAIN) -> Any:
    """Call start_response as an error handler does."""
    try:
        raise Broken
    except Broken:
        return start_response(status, list(headers), sys.exc_info())


def test_an_error_page_replaces_headers_that_have_not_left_and_drops_the_changes(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)
    started: list[tuple[Any, ...]] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[ENVIRON_KEY]["n"] = 2
        start_response("200 OK", [*PLAIN, ("X-First", "1")])
        failing(start_response)
        return [b"sorry"]

    def start_response(*args: Any) -> Callable[[bytes], object]:
        started.append(args)
        return lambda data: None

    assert list(SessionMiddleware(app, manager)(wsgi_environ(cookies=cookies), start_response)) == [b"sorry"]
    [(status, headers, exc_info)] = started
    assert (status, headers, exc_info[0]) == ("500 Oops", PLAIN, Broken)
    assert stored(manager, cookies) == {"n": 1}


def test_an_error_page_after_the_headers_raises_the_error_of_the_app(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        environ[ENVIRON_KEY]["n"] = 2
        failing(start_response)

    with pytest.raises(Broken):
        serve(manager, app, cookies=cookies)
    assert stored(manager, cookies) == {"n": 1}


def test_an_error_page_after_an_empty_chunk_keeps_the_cookie_that_was_set(manager: SessionManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[ENVIRON_KEY]["n"] = 1
        start_response("200 OK", list(PLAIN))
        yield b""
        failing(start_response)
        yield b"sorry"

    answer = serve(manager, app)
    assert (answer.status, answer.body) == (500, b"sorry")
    assert answer.cookie is not None
    assert stored(manager, answer.cookie) == {"n": 1}


def test_the_list_of_headers_that_the_app_keeps_is_not_changed(manager: SessionManager) -> None:
    headers = list(PLAIN)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[ENVIRON_KEY]["n"] = 1
        start_response("200 OK", headers)
        return []

    assert serve(manager, app).cookie is not None
    assert headers == PLAIN


def test_headers_that_are_added_before_they_leave_are_the_ones_that_were_given(manager: SessionManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        headers = list(PLAIN)
        start_response("200 OK", headers)
        headers.append(("X-Late", "1"))
        yield b"x"

    assert serve(manager, app).all("x-late") == []


def test_no_reference_to_an_error_is_kept(manager: SessionManager) -> None:
    errors = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            raise Broken
        except Broken as error:
            errors.append(weakref.ref(error))
            start_response("200 OK", list(PLAIN), sys.exc_info())
        yield b"x"
        yield b"y"

    def start_response(*args: Any) -> Callable[[bytes], object]:
        return lambda data: None

    body: Any = SessionMiddleware(app, manager)(wsgi_environ(), start_response)
    assert next(body) == b"x"
    gc.collect()
    assert errors[0]() is None
    body.close()


# -- write -------------------------------------------------------------------------------------------------------------


def test_what_is_written_leaves_before_what_is_returned(manager: SessionManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[ENVIRON_KEY]["n"] = 1
        write = start_response("200 OK", list(PLAIN))
        write(b"a")
        write(b"b")
        return [b"c"]

    answer = serve(manager, app)
    assert answer.body == b"abc"
    assert answer.cookie is not None
    assert stored(manager, answer.cookie) == {"n": 1}


@pytest.mark.parametrize("body", [[], iter([])], ids=["list", "iterator"])
def test_what_changes_after_the_first_written_byte_is_saved_at_the_end(
    manager: SessionManager, body: Iterable[bytes]
) -> None:
    cookies = begun(manager, n=1)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(PLAIN))(b"a")
        environ[ENVIRON_KEY]["n"] = 2
        return body

    serve(manager, app, cookies=cookies)
    assert stored(manager, cookies) == {"n": 2}


@pytest.mark.parametrize(("method", "body"), [("GET", b"session store"), ("HEAD", b"")])
def test_a_503_replaces_what_is_written(manager: SessionManager, spy: Spy, method: str, body: bytes) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[ENVIRON_KEY]["n"] = 1
        write = start_response("200 OK", list(PLAIN))
        write(b"a")
        write(b"b")
        return [b"c"]

    spy.down = True
    answer = serve(manager, app, method=method)
    assert answer.status == 503
    assert body in answer.body
    assert len(answer.body) == (int(answer.all("content-length")[0]) if body else 0)


# -- the body ----------------------------------------------------------------------------------------------------------


def test_an_error_before_the_first_chunk_is_the_servers_business(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)
    gateway = Gateway()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[ENVIRON_KEY]["n"] = 2
        start_response("200 OK", list(PLAIN))
        raise Broken
        yield b""

    with pytest.raises(Broken):
        gateway.serve(SessionMiddleware(app, manager), wsgi_environ(cookies=cookies))
    assert gateway.sent is None
    assert stored(manager, cookies) == {"n": 1}


def test_an_error_after_the_first_chunk_keeps_what_had_left(manager: SessionManager) -> None:
    gateway = Gateway()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[ENVIRON_KEY]["n"] = 1
        start_response("200 OK", list(PLAIN))
        yield b"x"
        environ[ENVIRON_KEY]["n"] = 2
        raise Broken

    with pytest.raises(Broken):
        gateway.serve(SessionMiddleware(app, manager), wsgi_environ())
    assert gateway.answer.cookie is not None
    assert stored(manager, gateway.answer.cookie) == {"n": 1}


@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exit_carries_out_a_logout_too(manager: SessionManager, leave: type[BaseException]) -> None:
    cookies = begun(manager, n=1)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ[ENVIRON_KEY].logout()
        raise leave

    with pytest.raises(leave):
        serve(manager, app, cookies=cookies)
    assert stored(manager, cookies) == {}


@pytest.mark.parametrize("body", [[], (), iter([]), ListBody(), Body([])], ids=type)
def test_an_empty_body_still_has_its_headers_and_its_cookie(manager: SessionManager, body: Iterable[bytes]) -> None:
    answer = serve(manager, returning(body, lambda session: session.update(n=1)))
    assert (answer.status, answer.body) == (200, b"")
    assert answer.cookie is not None


def test_every_chunk_is_handed_on_at_once_and_as_it_is(manager: SessionManager) -> None:
    pulled = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"", b"a", b"", b"b"):
            pulled.append(chunk)
            yield chunk

    body: Any = SessionMiddleware(returning(chunks()), manager)(wsgi_environ(), Gateway().start_response)
    seen = []
    for chunk in body:
        seen.append(chunk)
        assert pulled == seen
    assert seen == [b"", b"a", b"", b"b"]
    assert next(body, None) is None
    body.close()


def raising(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise Broken


BODIES: dict[str, Callable[[], Any]] = {
    "a list": lambda: ListBody([b"x"]),
    "an empty list": ListBody,
    "an iterable": Body,
    "an empty iterable": lambda: Body([]),
    "one that raises at once": lambda: Body(raising()),
    "one that raises later": lambda: Body(raising(b"x")),
}
ENDINGS: dict[str, Callable[[Any], object]] = {
    "untouched": lambda session: None,
    "read": dict,
    "written": lambda session: session.update(n=1),
    "unserialisable": lambda session: session.update(n=object()),
}


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("work", ENDINGS.values(), ids=ENDINGS.keys())
@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES.keys())
def test_the_body_is_closed_exactly_once(
    manager: SessionManager, spy: Spy, make: Callable[[], Any], work: Callable[[Any], object], down: bool, busy: bool
) -> None:
    body = make()
    spy.down, spy.busy = down, busy
    with suppress(Broken, SerializationError, StoreUnavailable):
        serve(manager, returning(body, work))
    assert body.closed == 1


@pytest.mark.parametrize("chunks", [0, 1])
def test_the_body_is_closed_once_when_the_client_goes_away(manager: SessionManager, chunks: int) -> None:
    body = Body([b"x", b"y", b"z"])
    gateway = Gateway(chunks=chunks)
    if chunks:
        gateway.serve(SessionMiddleware(returning(body), manager), wsgi_environ())
    else:
        returned: Any = SessionMiddleware(returning(body), manager)(wsgi_environ(), gateway.start_response)
        returned.close()
        returned.close()
    assert body.closed == 1


def test_a_body_that_cannot_be_closed_does_not_hinder_what_comes_after(manager: SessionManager, spy: Spy) -> None:
    class Unclosable(Body):
        def close(self) -> None:
            raise Broken

    for body in (Unclosable([b"x", b"y"]), ListBody([b"x"])):
        body.close = Unclosable().close  # type: ignore[method-assign]
        spy.busy = True
        spy.calls.clear()
        with pytest.raises(Broken):
            serve(manager, returning(body, lambda session: session.update(n=1)))
        assert spy.calls == ["create", "after_response"]


def test_a_client_that_goes_away_loses_nothing_that_the_app_had_done(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        environ[ENVIRON_KEY]["n"] = 2
        yield b"y"
        environ[ENVIRON_KEY]["n"] = 3

    Gateway(chunks=1).serve(SessionMiddleware(app, manager), wsgi_environ(cookies=cookies))
    assert stored(manager, cookies) == {"n": 2}


def test_a_generator_may_use_the_session_while_it_is_closed(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        try:
            yield b"x"
            yield b"y"
        finally:
            environ[ENVIRON_KEY]["left"] = True

    Gateway(chunks=1).serve(SessionMiddleware(app, manager), wsgi_environ(cookies=cookies))
    assert stored(manager, cookies) == {"n": 1, "left": True}


def test_changes_are_dropped_if_the_server_never_asks_for_the_body(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)
    app = returning(Body(), lambda session: session.update(n=2))
    body: Any = SessionMiddleware(app, manager)(wsgi_environ(cookies=cookies), Gateway().start_response)
    body.close()
    assert stored(manager, cookies) == {"n": 1}


def test_a_logout_counts_even_if_the_server_never_asks_for_the_body(manager: SessionManager) -> None:
    cookies = begun(manager, n=1)
    app = returning(Body(), lambda session: (session.logout(), session.update(flash=1)))
    body: Any = SessionMiddleware(app, manager)(wsgi_environ(cookies=cookies), Gateway().start_response)
    body.close()
    assert stored(manager, cookies) == {}
    assert run_blocking(manager.stats()).active == 0


# -- no store ----------------------------------------------------------------------------------------------------------


def streaming(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    yield environ[ENVIRON_KEY].get("n", "").encode()


def started_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    text = environ[ENVIRON_KEY].get("n", "").encode()
    start_response("200 OK", list(PLAIN))
    yield text


def with_error_page(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    try:
        yield environ[ENVIRON_KEY]["n"]
    except StoreUnavailable:
        failing(start_response)
        yield b"sorry"


@pytest.mark.parametrize("app", [streaming, started_late, with_error_page])
def test_a_body_that_finds_no_session_gives_way_to_a_503(manager: SessionManager, spy: Spy, app: App) -> None:
    cookies = begun(manager, n="x")
    spy.down = True
    answer = serve(manager, app, cookies=cookies)
    assert answer.status == 503
    assert b"session store" in answer.body
    assert int(answer.all("content-length")[0]) == len(answer.body)


def test_a_body_that_misses_its_session_after_the_first_chunk_breaks_off(manager: SessionManager, spy: Spy) -> None:
    cookies = begun(manager, n="x")

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(PLAIN))
        yield b"x"
        try:
            yield environ[ENVIRON_KEY]["n"]
        except StoreUnavailable:
            yield b"swallowed"

    spy.down = True
    with pytest.raises(StoreUnavailable):
        serve(manager, app, cookies=cookies)


def test_an_error_of_the_app_stays_its_own_when_the_session_was_not_to_blame(manager: SessionManager) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        dict(environ[ENVIRON_KEY])
        raise Broken

    with pytest.raises(Broken):
        serve(manager, app)


# -- save --------------------------------------------------------------------------------------------------------------


def test_a_save_before_the_headers_sets_the_cookie_and_outlives_an_error(
    manager: SessionManager, events: list[Event]
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        session = environ[ENVIRON_KEY]
        session["n"] = 1
        run_blocking(session.save())
        session["n"] = 2
        start_response("500 Oops", list(PLAIN))
        return []

    answer = serve(manager, app)
    assert answer.cookie is not None
    assert stored(manager, answer.cookie) == {"n": 1}


def test_a_save_in_a_stream_is_stored_at_once(manager: SessionManager, events: list[Event]) -> None:
    cookies = begun(manager, n=1)
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        session = environ[ENVIRON_KEY]
        start_response("200 OK", list(PLAIN))
        yield b"x"
        session["n"] = 2
        run_blocking(session.save())
        seen.append(stored(manager, cookies))
        yield b"y"

    serve(manager, app, cookies=cookies)
    assert seen == [{"n": 2}]
    assert not [event for event in events if isinstance(event, WriteRefused)]


# -- the validators ----------------------------------------------------------------------------------------------------


def lazy(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(PLAIN))
    work(environ)
    yield b"x"
    yield b""
    work(environ)
    yield b"y"


def eager(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    work(environ)
    start_response("200 OK", list(PLAIN))
    return [b"x", b"y"]


def writer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    write = start_response("200 OK", list(PLAIN))
    work(environ)
    write(b"x")
    return [b"y"]


def sorry(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", list(PLAIN))
    work(environ)
    failing(start_response, "404 Not Found")
    return [b"xy"]


def work(environ: dict[str, Any]) -> None:
    """What the query says."""
    session = environ[ENVIRON_KEY]
    match environ["QUERY_STRING"]:
        case "read":
            session.get("n")
        case "write":
            session["n"] = session.get("n", 0) + 1
        case "login":
            session.login("7")
        case "logout":
            session.logout()


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("query", ["", "read", "write", "login", "logout"])
@pytest.mark.parametrize("app", [lazy, eager, writer, sorry])
@pytest.mark.parametrize("lint", [validator, LintMiddleware])
def test_the_validators_find_nothing_on_either_side(
    manager: SessionManager, spy: Spy, lint: Callable[[Any], Any], app: App, query: str, busy: bool
) -> None:
    for cookies in ("", begun(manager, n=1)):
        spy.busy = busy
        environ = wsgi_environ(cookies=cookies) | {"QUERY_STRING": query}
        answer = Gateway().serve(lint(SessionMiddleware(lint(app), manager)), environ)
        assert (answer.status, answer.body) == (404 if app is sorry else 200, b"xy")


@pytest.mark.parametrize("lint", [validator, LintMiddleware])
def test_the_validators_find_nothing_in_a_503(manager: SessionManager, spy: Spy, lint: Callable[[Any], Any]) -> None:
    for app in (lazy, eager, writer, sorry):
        environ = wsgi_environ(cookies=begun(manager, n=1)) | {"QUERY_STRING": "read"}
        spy.down = True
        assert Gateway().serve(lint(SessionMiddleware(lint(app), manager)), environ).status == 503
        spy.down = False
