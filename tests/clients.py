"""Two browsers in this process, over a WSGI gateway and an ASGI server that hold the app to the letter of the protocol.

A test says with a handler what the app does in one request; the same handler runs on both sides, so every test body is
written once.  Handlers are plain functions and may make further visits: those overlap the first.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from sqlalchemy.util import await_only, greenlet_spawn
from starlette.types import Message, Receive, Scope, Send

from vedsess_middleware import Codec, JsonCodec, Session, SessionManager, Settings, asgi, run_blocking, wsgi
from vedsess_middleware.errors import StoreUnavailable
from vedsess_middleware.events import Event
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.memory import MemoryStore

T = TypeVar("T")
E = TypeVar("E", bound=Event)

Protocol = Literal["wsgi", "asgi"]
Handler = Callable[[Any], object]

SECRET_KEY = "DfK4ha6NKZf9qewmNeyWNpVznT_-hFbeLoNtpWwFyAQILifW7AalZA"
OTHER_KEY = "Qk7SeeVcGyWlwrE6PfxttbY45TperEaEqZaW5Yl_bkhmX8EPjLOr6Q"


class Clock:
    """Epoch seconds that move only when told to."""

    def __init__(self, now: float = 1_900_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class CountingCodec(JsonCodec):
    """Notes what it was given."""

    __slots__ = ("decoded", "encoded")

    def __init__(self) -> None:
        super().__init__()
        self.encoded, self.decoded = list[str](), list[str]()

    def encode(self, name: str, value: object) -> str:
        self.encoded.append(name)
        return super().encode(name, value)

    def decode(self, text: str) -> object:
        self.decoded.append(text)
        return super().decode(text)


class Spy:
    """A store that notes what is asked of it, does not answer while it is down, and has work left while it is busy."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[str] = []
        self.down = self.busy = False

    @property
    def pending(self) -> bool:
        return self.busy or self.store.pending

    @property
    def asked(self) -> list[str]:
        """What was asked for a request, and not after its response."""
        return [call for call in self.calls if call != "after_response"]

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.store, name)
        return self._noted(name, attribute) if callable(attribute) else attribute

    def _noted(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            self.calls.append(name)
            if self.down:
                raise StoreUnavailable("no store answers")
            return method(*args, **options)

        return call


@dataclass(slots=True)
class Visit:
    """One request, and what the app does with it."""

    handler: Handler
    path: str = "/"
    method: str = "GET"
    scheme: str = "http"
    headers: list[tuple[str, str]] = field(default_factory=list)
    status: int = 200
    reply_headers: list[tuple[str, str]] = field(default_factory=list)
    later: Handler | None = None
    result: object = None

    @property
    def answer_headers(self) -> list[tuple[str, str]]:
        """What the app sends: no type where there can be no body."""
        own = [] if self.status in (204, 304) else [("Content-Type", "text/plain")]
        return own + self.reply_headers

    @property
    def body(self) -> bytes:
        return b"" if self.method == "HEAD" or self.status in (204, 304) else b"hello\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the browser got, and what the handler returned."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    result: Any = None

    def all(self, name: str) -> list[str]:
        """The values of every header of that name."""
        return [value for found, value in self.headers if found.lower() == name.lower()]

    @property
    def cookie(self) -> str | None:
        """The one Set-Cookie header, or None."""
        found = self.all("set-cookie")
        assert len(found) <= 1
        return found[0] if found else None


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The app, for WSGI."""
    visit: Visit = environ["tests.visit"]
    session = environ.get("vedsess.session")
    visit.result = visit.handler(session)
    start_response(f"{visit.status} Whatever", visit.answer_headers)
    return [visit.body] if visit.later is None else _chunks(visit, visit.later, session)


def _chunks(visit: Visit, later: Handler, session: Session | None) -> Iterator[bytes]:
    yield b"first "
    later(session)
    yield visit.body


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The same app, for ASGI."""
    visit: Visit = scope["tests.visit"]
    session = scope.get("session")
    visit.result = await greenlet_spawn(visit.handler, session)
    headers = [(name.lower().encode(), value.encode()) for name, value in visit.answer_headers]
    await send({"type": "http.response.start", "status": visit.status, "headers": headers})
    if visit.later is not None:
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await greenlet_spawn(visit.later, session)
    await send({"type": "http.response.body", "body": visit.body})


@dataclass(slots=True)
class Cookie:
    """A cookie as a browser keeps it: a new one replaces it only with the same name, domain and path."""

    name: str
    value: str
    domain: str
    path: str
    secure: bool


class Jar:
    """A browser's cookies of one host."""

    def __init__(self) -> None:
        self.cookies: dict[tuple[str, str, str], Cookie] = {}

    def copy(self) -> "Jar":
        """Another browser with the same cookies, such as a second tab or a thief."""
        jar = Jar()
        jar.cookies = dict(self.cookies)
        return jar

    def take(self, header: str, *, scheme: str) -> None:
        """Obey a Set-Cookie header, or refuse it as RFC 6265bis 5.7 has it."""
        pair, *attributes = header.split("; ")
        name, _, value = pair.partition("=")
        found = {key.lower(): text for key, _, text in (each.partition("=") for each in attributes)}
        cookie = Cookie(name, value, found.get("domain", ""), found.get("path", "/"), "secure" in found)
        if self._refuses(cookie, scheme):
            return
        place = cookie.name, cookie.domain, cookie.path
        self.cookies.pop(place, None)
        if int(found.get("max-age", 1)) > 0:
            self.cookies[place] = cookie

    def header(self, path: str, *, scheme: str) -> str:
        """The Cookie header for a request."""
        fit = [c for c in self.cookies.values() if _is_below(path, c.path) and (scheme == "https" or not c.secure)]
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sorted(fit, key=lambda c: -len(c.path)))

    def value(self, name: str = "vedsess") -> str | None:
        """The value of the one cookie of that name."""
        found = [cookie.value for cookie in self.cookies.values() if cookie.name == name]
        assert len(found) <= 1
        return found[0] if found else None

    @staticmethod
    def _refuses(cookie: Cookie, scheme: str) -> bool:
        host_only = cookie.name.lower().startswith("__host-")
        if host_only and (not cookie.secure or cookie.domain or cookie.path != "/"):
            return True
        return cookie.secure and scheme != "https"


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class Browser(ABC):
    """A cookie jar in front of one app."""

    def __init__(self, app: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.app, self.run = app, run
        self.jar = Jar()
        self.on_sent: Callable[[], None] = lambda: None
        """Called when the last byte has been sent, and before the app may tidy up."""

    def __call__(self, handler: Handler = lambda session: None, path: str = "/", **options: Any) -> Answer:
        """Make one request.  Options: those of `Visit`, and `cookies` to send in place of the jar's."""
        cookies = options.pop("cookies", None)
        visit = Visit(handler, path, **options)
        return self._taken(visit, self._exchange(visit, self._header(visit) if cookies is None else cookies))

    def _header(self, visit: Visit) -> str:
        return self.jar.header(visit.path, scheme=visit.scheme)

    def _taken(self, visit: Visit, answer: Answer) -> Answer:
        for text in answer.all("set-cookie"):
            self.jar.take(text, scheme=visit.scheme)
        return answer

    def twin(self) -> "Browser":
        """Another browser with the same cookies."""
        twin = type(self)(self.app, self.run)
        twin.jar = self.jar.copy()
        return twin

    @abstractmethod
    def _exchange(self, visit: Visit, cookies: str) -> Answer: ...


class WsgiBrowser(Browser):
    """Drives the app as a gateway would, with the validator of the standard library in between."""

    def _exchange(self, visit: Visit, cookies: str) -> Answer:
        environ = wsgi_environ(visit.path, visit.method, visit.headers, scheme=visit.scheme, cookies=cookies)
        environ["tests.visit"] = visit
        answer = Gateway(on_sent=self.on_sent).serve(validator(self.app), environ)
        return Answer(answer.status, answer.headers, answer.body, visit.result)


def wsgi_environ(
    path: str = "/",
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    *,
    scheme: str = "http",
    cookies: str = "",
) -> dict[str, Any]:
    """An environ as a gateway makes it."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": ""}
    environ |= {"wsgi.url_scheme": scheme, "REMOTE_ADDR": "192.0.2.7"}
    for name, value in [*headers, *([("Cookie", cookies)] if cookies else [])]:
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    setup_testing_defaults(environ)
    return environ


class Gateway:
    """The server's side of PEP 3333: headers leave with the first byte of the body, or with its end.

    Args:
        chunks: how many chunks the client stays for.
        on_sent: called before the app may tidy up.
    """

    def __init__(self, *, chunks: int | None = None, on_sent: Callable[[], None] = lambda: None) -> None:
        self._chunks, self._on_sent = chunks, on_sent
        self._set: tuple[str, list[tuple[str, str]]] | None = None
        self.sent: tuple[str, list[tuple[str, str]]] | None = None
        self.body: list[bytes] = []

    def serve(self, app: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> Answer:
        """Run one request.  What the app raises is raised, after `close()`."""
        body = app(environ, self.start_response)
        try:
            for count, chunk in enumerate(body):
                if count == self._chunks:
                    break
                self._write(chunk)
            self._send_headers()
            self._on_sent()
        finally:
            if hasattr(body, "close"):
                body.close()
        return self.answer

    @property
    def answer(self) -> Answer:
        """What the client has got so far."""
        assert self.sent is not None
        return Answer(int(self.sent[0][:3]), self.sent[1], b"".join(self.body))

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1]
            finally:
                exc_info = None
        else:
            assert self._set is None, "start_response was called twice"
        self._set = status, headers
        return self._write

    def _write(self, data: bytes) -> None:
        assert self._set is not None, "a chunk came before start_response"
        if data:
            self._send_headers()
            self.body.append(data)

    def _send_headers(self) -> None:
        assert self._set is not None, "start_response was never called"
        self.sent = self.sent or self._set


class AsgiBrowser(Browser):
    """Drives the app as an ASGI server would, and refuses every message that comes out of turn."""

    def _exchange(self, visit: Visit, cookies: str) -> Answer:
        answer: Answer = self.run(self._answered(visit, cookies))
        return answer

    async def visit(self, handler: Handler) -> Answer:
        """One request, as a task among others."""
        visit = Visit(handler)
        return self._taken(visit, await self._answered(visit, self._header(visit)))

    async def _answered(self, visit: Visit, cookies: str) -> Answer:
        sent = await self._served(visit, cookies)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], headers, body, visit.result)

    async def _served(self, visit: Visit, cookies: str) -> list[Message]:
        scope = http_scope(visit.path, visit.method, visit.headers, scheme=visit.scheme, cookies=cookies)
        scope["tests.visit"] = visit
        before = dict(scope, headers=list(scope["headers"]))
        messages = Messages("http", on_end=self.on_sent)
        await self.app(scope, messages.receive, messages.send)
        assert scope == before
        assert messages.ended, "the response has no end"
        return messages.sent


def at_once(visits: Sequence[tuple[Browser, Handler]]) -> list[Answer]:
    """Requests that are under way at the same time: in threads, or as tasks of one loop."""
    first, _ = visits[0]
    if isinstance(first, AsgiBrowser):
        tasks = [browser.visit(handler) for browser, handler in visits if isinstance(browser, AsgiBrowser)]
        answers: list[Answer] = first.run(_gathered(tasks))
        return answers
    with ThreadPoolExecutor(min(len(visits), 16)) as threads:
        return list(threads.map(lambda visit: visit[0](visit[1]), visits))


async def _gathered(tasks: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    return await asyncio.gather(*tasks)


def http_scope(
    path: str = "/",
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    *,
    scheme: str = "http",
    cookies: str = "",
) -> dict[str, Any]:
    """A scope as a server makes it."""
    pairs = [*headers, *([("cookie", cookies)] if cookies else [])]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "client": ("192.0.2.7", 4711),
        "server": ("testserver", 80),
        "extensions": {"http.response.pathsend": {}},
    }


_FOLLOWS = {
    "http": {
        "": {"http.response.start"},
        "http.response.start": {"http.response.body", "http.response.pathsend"},
        "http.response.body": {"http.response.body"},
    },
    "websocket": {
        "": {"websocket.accept", "websocket.close", "websocket.http.response.start"},
        "websocket.accept": {"websocket.send", "websocket.close"},
        "websocket.send": {"websocket.send", "websocket.close"},
        "websocket.http.response.start": {"websocket.http.response.body"},
        "websocket.http.response.body": {"websocket.http.response.body"},
    },
}


class Messages:
    """Both ends of a connection, checked: what the app sends has the right type, in the right order.

    Args:
        kind: of the scope.
        incoming: what the app receives, in order; then the client is gone.
        on_end: called when the last message has been sent.
    """

    def __init__(
        self, kind: str, incoming: Iterable[Message] | None = None, *, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.kind, self._on_end = kind, on_end
        request: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        self._incoming = iter(request if incoming is None else incoming)
        self.sent: list[Message] = []
        self.ended = False

    async def receive(self) -> Message:
        gone = {"type": "websocket.disconnect", "code": 1001} if self.kind == "websocket" else None
        return next(self._incoming, gone or {"type": "http.disconnect"})

    async def send(self, message: Message) -> None:
        kind, last = message["type"], self.sent[-1]["type"] if self.sent else ""
        assert not self.ended, f"{kind} came after the end"
        assert kind in _FOLLOWS[self.kind].get(last, ()), f"{kind} came after {last or 'nothing'}"
        self._check(message)
        self.sent.append(message)
        body_ended = kind.endswith((".body", ".pathsend")) and not message.get("more_body", False)
        if body_ended or kind == "websocket.close":
            self.ended = True
            self._on_end()

    @staticmethod
    def _check(message: Message) -> None:
        headers = message.get("headers", [])
        assert all(type(part) is bytes for pair in headers for part in pair)
        assert all(name == name.lower() for name, _ in headers)
        if message["type"].endswith("response.start"):
            assert type(message["status"]) is int
        assert type(message.get("body", b"")) is bytes


class Site:
    """The app behind one manager, on one protocol.

    Args:
        protocol: of the middleware.
        store: of its colour.
        runner: of the event loop, which all sites share.
        clock: of the manager.
        codec: of the manager.
        options: of `Settings`.
    """

    def __init__(
        self,
        protocol: Protocol,
        store: Store,
        runner: asyncio.Runner,
        *,
        clock: Clock | None = None,
        codec: Codec | None = None,
        **options: Any,
    ) -> None:
        self.protocol, self.runner = protocol, runner
        self.store, self.clock, self.events = Spy(store), clock or Clock(), list[Event]()
        settings = Settings(**{"secret_key": SECRET_KEY, **options})
        self.manager = SessionManager(
            cast(Store, self.store), settings, codec=codec, clock=self.clock, on_event=self.events.append
        )
        if protocol == "wsgi":
            self.app: Any = wsgi.SessionMiddleware(wsgi_app, self.manager)
        else:
            self.app = asgi.SessionMiddleware(asgi_app, self.manager)

    def sibling(self, **options: Any) -> "Site":
        """Another site over the same store, at the same time."""
        return Site(self.protocol, self.store.store, self.runner, clock=self.clock, **options)

    def browser(self) -> Browser:
        """A browser without cookies."""
        return (WsgiBrowser if self.protocol == "wsgi" else AsgiBrowser)(self.app, self.run)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the colour of this site, inside a handler as well."""
        if self.protocol == "wsgi":
            return run_blocking(coroutine)
        return run_in_loop(self.runner, coroutine)

    def stored(self) -> int:
        """How many live sessions the store holds."""
        return self.run(self.manager.stats()).active

    def told(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def unknown_cookie(self) -> str:
        """A cookie that this site would have signed, of a session that nobody stored."""
        elsewhere = SessionManager(MemoryStore(), self.manager.settings, clock=self.clock, on_event=lambda event: None)
        session = run_blocking(elsewhere.open())
        session["x"] = 1
        header = run_blocking(elsewhere.commit(session))
        assert header is not None
        return header.partition(";")[0]


def run_in_loop(runner: asyncio.Runner, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end: in the loop, or out of a handler that runs in it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return runner.run(coroutine)
    return await_only(coroutine)
