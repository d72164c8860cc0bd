"""The ASGI middleware against its specification: http, websocket, lifespan, and whatever goes wrong in between."""

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from asgiref.testing import ApplicationCommunicator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.clients import OTHER_KEY, SECRET_KEY, Messages, Spy, http_scope
from tests.servers import RedisFactory, RedisServer, eventually
from vedsess_middleware import RequestInfo, SessionManager, Settings, StoreUnavailable
from vedsess_middleware.asgi import SessionMiddleware
from vedsess_middleware.events import Event, WriteRefused
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

Work = Callable[[Any], object]

ENCRYPTION_KEY = "q7Zr2LwX9vTb4NcYk1MfPj6HsDg3EaUo8QiRxVzBnW0"


class Broken(Exception):
    """What a bug in an app raises."""


@pytest.fixture
def spy() -> Spy:
    return Spy(cast(Store, MemoryStore()))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def manager(spy: Spy, events: list[Event]) -> SessionManager:
    return SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY), on_event=events.append)


async def begun(manager: SessionManager, **values: object) -> str:
    """The cookie of a new session."""
    session = await manager.open()
    session.update(values)
    header = await manager.commit(session)
    assert header is not None
    return header.partition(";")[0]


async def stored(manager: SessionManager, cookies: str) -> dict[str, Any]:
    return dict(await manager.open(cookies))


def header(message: Message, name: bytes) -> str | None:
    """The one header of that name."""
    found = [value.decode("latin-1") for key, value in message.get("headers", []) if key == name]
    assert len(found) <= 1
    return found[0] if found else None


def start(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}


def body(data: bytes = b"x", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def answering(*steps: Message | Work, status: int = 200) -> ASGIApp:
    """An app that works on its session and sends messages, in this order."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in steps:
            if callable(step):
                result = step(scope)
                if isinstance(result, Awaitable):
                    await result
            else:
                await send(step)

    return app


def put(**values: object) -> Work:
    return lambda scope: scope["session"].update(values)


def fail(scope: Scope) -> None:
    raise Broken


async def serve(
    manager: SessionManager, app: ASGIApp, *, cookies: str = "", messages: Messages | None = None, **options: Any
) -> list[Message]:
    """One http request; what was sent."""
    messages = messages or Messages("http")
    await SessionMiddleware(app, manager)(http_scope(cookies=cookies, **options), messages.receive, messages.send)
    return messages.sent


Scenario = Callable[[], Coroutine[Any, Any, None]]


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_an_unknown_scope_is_handed_on_untouched(manager: SessionManager, spy: Spy) -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    async def scenario() -> None:
        messages = Messages("http")
        receive, send = messages.receive, messages.send
        for scope in ({"type": "carrier-pigeon"}, {"type": "lifespan", "state": {}}):
            seen.clear()
            await SessionMiddleware(app, manager)(scope, receive, send)
            assert seen[0] is scope
            assert seen[1:] == [receive, send]
            assert "session" not in scope
        assert spy.calls == ["sample"]  # at start-up: do the keys fit to what is stored?

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_an_excluded_path_is_handed_on_untouched(spy: Spy, kind: str) -> None:
    manager = SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY, exclude=["/static"]))
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def scenario() -> None:
        scope = http_scope("/app/static/x", cookies=await begun(manager, n=1)) | {"type": kind, "root_path": "/app"}
        spy.calls.clear()
        await SessionMiddleware(app, manager)(scope, *_ends(kind))
        assert seen[0] is scope
        assert spy.calls == []

    asyncio.run(scenario())


def _ends(kind: str) -> tuple[Receive, Send]:
    messages = Messages(kind)
    return messages.receive, messages.send


@pytest.mark.parametrize(
    ("path", "root_path", "seen"),
    [("/app/x", "/app", "/x"), ("/application", "/app", "/application"), ("/app", "/app", ""), ("/x", "", "/x")],
)
def test_a_path_is_seen_below_its_mount_point(spy: Spy, path: str, root_path: str, seen: str) -> None:
    paths: list[str] = []

    def may_create(info: Any) -> bool:
        paths.append(info.path)
        return True

    manager = SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY, may_create=may_create))

    async def scenario() -> None:
        scope = http_scope(path) | {"root_path": root_path}
        await SessionMiddleware(answering(put(n=1), start(), body()), manager)(scope, *_ends("http"))
        assert paths == [seen]

    asyncio.run(scenario())


def test_the_scope_of_the_server_is_not_changed(manager: SessionManager) -> None:
    async def scenario() -> None:
        scope = http_scope()
        before = dict(scope)
        changing = lambda inner: inner.update(path="/other", session={"n": 1})  # noqa: E731
        await SessionMiddleware(answering(changing, start(), body()), manager)(scope, *_ends("http"))
        assert scope == before

    asyncio.run(scenario())


def test_cookies_may_come_in_several_headers(manager: SessionManager) -> None:
    async def scenario() -> None:
        scope = http_scope(headers=[("cookie", "a=1"), ("cookie", await begun(manager, n=1)), ("cookie", "b=2")])
        seen: list[Any] = []
        app = answering(lambda inner: seen.append(dict(inner["session"])), start(), body())
        await SessionMiddleware(app, manager)(scope, *_ends("http"))
        assert seen == [{"n": 1}]

    asyncio.run(scenario())


def test_a_session_is_loaded_before_the_app_and_only_where_a_genuine_cookie_came(
    manager: SessionManager, spy: Spy
) -> None:
    async def scenario() -> None:
        seen: list[list[str]] = []
        for cookies in (await begun(manager, n=1), "", "vedsess=forged"):
            spy.calls.clear()
            await serve(
                manager, answering(lambda scope: seen.append(list(spy.calls)), start(), body()), cookies=cookies
            )
        assert seen == [["load"], [], []]

    asyncio.run(scenario())


# -- messages ----------------------------------------------------------------------------------------------------------


def test_an_untouched_response_is_sent_as_it_is(manager: SessionManager, spy: Spy) -> None:
    async def scenario() -> None:
        sent = await serve(manager, answering(start(), body(b"x", more=True), body(b"y")))
        assert sent == [start(), body(b"x", more=True), body(b"y")]
        assert spy.calls == []

    asyncio.run(scenario())


@pytest.mark.parametrize("work", [lambda session: None, dict, lambda session: session.update(n=2)])
def test_a_session_that_outlives_its_request_keeps_nothing_of_it_and_can_still_be_saved(
    manager: SessionManager, work: Work
) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        sessions: list[Any] = []
        messages = Messages("http")
        gone = weakref.ref(messages)

        def use(scope: Scope) -> None:
            work(scope["session"])
            sessions.append(scope["session"])

        await serve(manager, answering(use, start(), body()), cookies=cookies, messages=messages)
        del messages
        assert gone() is None
        sessions[0]["late"] = True
        await sessions[0].save()
        assert (await stored(manager, cookies))["late"] is True

    asyncio.run(scenario())


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


def test_what_waits_for_the_end_of_a_response_is_looked_for_once(spy: Spy) -> None:
    class Asked(SessionManager):
        times = 0

        @property
        def pending(self) -> bool:
            self.times += 1
            return False

    async def scenario() -> None:
        manager = Asked(cast(Store, spy), Settings(secret_key=SECRET_KEY))
        await serve(manager, answering(lambda scope: scope["session"].get("n"), start(), body(more=True), body()))
        assert manager.times == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("genuine", [False, True])
def test_an_untouched_request_asks_nothing_of_the_manager_however_it_ends(spy: Spy, genuine: bool) -> None:
    async def scenario() -> None:
        manager = Counting(spy)
        cookies = await begun(manager, n=1) if genuine else ""
        manager.asked.clear()
        spy.busy = not genuine  # what waits for the end of a response waits for one that had a session
        for steps in ((start(), body(more=True), body()), (start(500), body()), (start(), fail), (fail,), ()):
            with suppress(Broken):
                await serve(manager, answering(*steps), cookies=cookies)
        assert manager.asked == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("work", "commits"),
    [
        (lambda session: session["n"], 0),
        (lambda session: session["cart"], 3),  # with what the app can edit until it returns
        (lambda session: session.__setitem__("n", 2), 1),
        (lambda session: session.pop("n"), 1),
        (lambda session: session.login("ada"), 1),
    ],
)
def test_a_request_that_may_have_changed_its_session_is_committed(spy: Spy, work: Work, commits: int) -> None:
    async def scenario() -> None:
        manager = Counting(spy)
        cookies = await begun(manager, n=1, cart=[])
        manager.asked.clear()
        await serve(manager, answering(lambda scope: work(scope["session"]) and None, start(), body()), cookies=cookies)
        assert manager.asked == ["commit"] * commits

    asyncio.run(scenario())


def test_an_untouched_request_hands_the_messages_of_either_side_on_as_they_are(manager: SessionManager) -> None:
    async def scenario() -> None:
        messages, receives, steps = Messages("http"), list[Receive](), [start(), body()]
        answer = answering(*steps)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            receives.append(receive)
            await answer(scope, receive, send)

        receive = messages.receive
        await SessionMiddleware(app, manager)(http_scope(cookies=await begun(manager, n=1)), receive, messages.send)
        assert receives == [receive]
        assert [id(message) for message in messages.sent] == [id(message) for message in steps]

    asyncio.run(scenario())


@pytest.mark.parametrize("genuine", [False, True])
def test_what_waits_for_the_end_of_a_response_is_done_where_a_session_came(
    manager: SessionManager, spy: Spy, genuine: bool
) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1) if genuine else ""
        spy.busy = True
        sent = await serve(manager, answering(start(), body()), cookies=cookies)
        assert sent == [start(), body()]
        assert ("after_response" in spy.calls) is genuine

    asyncio.run(scenario())


def test_the_other_headers_of_the_app_are_handed_on_as_they_are(manager: SessionManager) -> None:
    others = [(b"x-y", b"\xff"), (b"set-cookie", b"a=1"), (b"X-Y", b"2")]
    caching = [(b"Expires", b"0"), (b"Cache-Control", b"public"), (b"Vary", b"Accept")]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def scenario() -> None:
        app = answering(put(n=1), start() | {"headers": iter([*caching, *others])}, body())
        await SessionMiddleware(app, manager)(http_scope(), Messages("http").receive, send)
        *headers, cookie = sent[0]["headers"]
        assert headers[:3] == others
        assert headers[3:] == [(b"vary", b"Accept"), (b"vary", b"Cookie"), (b"cache-control", b"no-store, private")]
        assert cookie[0] == b"set-cookie"

    asyncio.run(scenario())


def test_the_request_is_known_as_it_came_whatever_the_app_makes_of_its_scope(spy: Spy) -> None:
    seen: list[RequestInfo] = []

    def may_create(info: RequestInfo) -> bool:
        seen.append(info)
        return True

    manager = SessionManager(
        cast(Store, spy), Settings(secret_key=SECRET_KEY, may_create=may_create, trusted_proxies=2)
    )
    changed = {"path": "/-", "method": "PUT", "scheme": "http", "client": ("-", 1), "headers": []}

    async def scenario() -> None:
        headers = [("user-agent", "x"), ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]
        app = answering(lambda scope: scope.update(changed), put(n=1), start(), body())
        await serve(manager, app, path="/shop/\u00e9", method="POST", headers=headers)
        assert seen == [
            RequestInfo(path="/shop/\u00e9", method="POST", secure=True, user_agent="x", ip_address="192.0.2.7")
        ]

    asyncio.run(scenario())


def test_the_messages_of_the_app_are_not_changed(manager: SessionManager) -> None:
    async def scenario() -> None:
        message = start()
        sent = await serve(manager, answering(put(n=1), message, body()))
        assert header(sent[0], b"set-cookie") is not None
        assert message == start()

    asyncio.run(scenario())


def test_a_start_without_headers_gets_some(manager: SessionManager) -> None:
    async def scenario() -> None:
        sent = await serve(manager, answering(put(n=1), {"type": "http.response.start", "status": 200}, body()))
        assert {name for name, _ in sent[0]["headers"]} == {b"vary", b"cache-control", b"set-cookie"} - {b""}

    asyncio.run(scenario())


def test_messages_that_are_not_known_pass(manager: SessionManager) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    steps = [
        {"type": "http.response.debug", "info": {}},
        start() | {"trailers": True},
        body(),
        {"type": "http.response.trailers", "headers": []},
    ]

    async def scenario() -> None:
        await SessionMiddleware(answering(*steps), manager)(http_scope(), Messages("http").receive, send)
        assert sent == steps

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", ["http.response.pathsend", "http.response.zerocopysend"])
def test_a_file_that_the_server_sends_ends_the_response_too(manager: SessionManager, ending: str) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        app = answering(put(n=2), start(), put(late=1), {"type": ending, "path": "/x", "file": 7})
        await SessionMiddleware(app, manager)(http_scope(cookies=cookies), Messages("http").receive, send)
        assert [message["type"] for message in sent] == ["http.response.start", ending]
        assert await stored(manager, cookies) == {"n": 2, "late": 1}

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", [body(), {"type": "http.response.pathsend", "path": "/x"}])
def test_what_was_written_is_stored_before_the_last_message_leaves(manager: SessionManager, ending: Message) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        seen: list[Any] = []

        async def send(message: Message) -> None:
            seen.append(await stored(manager, cookies))

        app = answering(put(n=2), start(), put(n=3), ending)
        await SessionMiddleware(app, manager)(http_scope(cookies=cookies), Messages("http").receive, send)
        assert seen == [{"n": 2}, {"n": 3}]

    asyncio.run(scenario())


# -- another mapping in the session's place ----------------------------------------------------------------------------


def replaced(**values: object) -> Work:
    return lambda scope: scope.update(session=dict(values))


def test_another_mapping_in_the_place_of_the_session_is_saved(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1, m=1)
        await serve(manager, answering(replaced(n=2, new=3), start(), body()), cookies=cookies)
        assert await stored(manager, cookies) == {"n": 2, "new": 3}

    asyncio.run(scenario())


def test_another_mapping_can_begin_a_session(manager: SessionManager) -> None:
    async def scenario() -> None:
        sent = await serve(manager, answering(replaced(n=2), start(), body()))
        assert await stored(manager, header(sent[0], b"set-cookie") or "") == {"n": 2}

    asyncio.run(scenario())


def test_another_mapping_may_change_until_the_body_ends(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        app = answering(replaced(n=2), start(), body(more=True), put(n=3), body())
        await serve(manager, app, cookies=cookies)
        assert await stored(manager, cookies) == {"n": 3}

    asyncio.run(scenario())


def test_an_empty_mapping_empties_the_session(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        await serve(manager, answering(replaced(), start(), body()), cookies=cookies)
        assert await stored(manager, cookies) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("junk", [None, "text", ["n"]])
def test_what_is_no_mapping_is_ignored(manager: SessionManager, junk: object) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        app = answering(lambda scope: scope.update(session=junk), start(), body())
        assert header((await serve(manager, app, cookies=cookies))[0], b"set-cookie") is None
        assert await stored(manager, cookies) == {"n": 1}

    asyncio.run(scenario())


def test_another_mapping_without_any_store_is_a_503(manager: SessionManager, spy: Spy) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        spy.down = True
        sent = await serve(manager, answering(replaced(n=2), start(), body()), cookies=cookies)
        assert sent[0]["status"] == 503
        spy.down = False
        assert await stored(manager, cookies) == {"n": 1}

    asyncio.run(scenario())


# -- the end of a response ---------------------------------------------------------------------------------------------


def test_work_in_the_background_is_saved_when_it_ends(manager: SessionManager, spy: Spy) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        messages = Messages("http")
        ended: list[bool] = []
        app = answering(start(), body(), lambda scope: ended.append(messages.ended), put(n=2))
        await serve(manager, app, cookies=cookies, messages=messages)
        assert ended == [True]
        assert await stored(manager, cookies) == {"n": 2}

    asyncio.run(scenario())


def test_what_must_not_delay_the_answer_is_done_after_its_last_byte(manager: SessionManager, spy: Spy) -> None:
    async def scenario() -> None:
        calls: list[str] = []
        spy.busy = True
        messages = Messages("http", on_end=lambda: calls.extend(spy.calls))
        await serve(manager, answering(put(n=1), start(), body()), messages=messages)
        assert calls == ["create"]
        assert "after_response" in spy.calls

    asyncio.run(scenario())


@pytest.mark.parametrize("early", [True, False])
def test_an_error_is_the_servers_business(manager: SessionManager, early: bool) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        messages = Messages("http")
        app = answering(put(n=2), fail) if early else answering(start(), body(more=True), put(n=2), fail)
        with pytest.raises(Broken):
            await serve(manager, app, cookies=cookies, messages=messages)
        assert len(messages.sent) == (0 if early else 2)
        assert await stored(manager, cookies) == {"n": 1}

    asyncio.run(scenario())


def test_an_error_page_whose_error_is_raised_again_saves_nothing(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        messages = Messages("http")
        with pytest.raises(Broken):
            await serve(manager, answering(put(n=2), start(500), body(), fail), cookies=cookies, messages=messages)
        assert messages.ended
        assert await stored(manager, cookies) == {"n": 1}

    asyncio.run(scenario())


def test_a_client_that_goes_away_while_it_is_sent_to_ends_the_request(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise OSError("the client is gone")

        app = answering(put(n=2), start(), put(n=3), body(more=True))
        with pytest.raises(OSError, match="gone"):
            await SessionMiddleware(app, manager)(http_scope(cookies=cookies), Messages("http").receive, send)
        assert await stored(manager, cookies) == {"n": 2}

    asyncio.run(scenario())


def test_an_app_that_sends_nothing_saves_nothing_but_a_logout(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        messages = Messages("http", incoming=[{"type": "http.disconnect"}])
        await serve(manager, answering(put(n=2)), cookies=cookies, messages=messages)
        assert await stored(manager, cookies) == {"n": 1}
        await serve(manager, answering(lambda scope: scope["session"].logout()), cookies=cookies)
        assert await stored(manager, cookies) == {}

    asyncio.run(scenario())


# -- no store ----------------------------------------------------------------------------------------------------------


def swallowing(scope: Scope) -> None:
    with suppress(StoreUnavailable):
        scope["session"].get("n")


@pytest.mark.parametrize(
    "steps",
    [
        (swallowing, start(), body(more=True), body()),
        (swallowing, start(500), body()),
        (lambda scope: scope["session"]["n"], start(), body()),
        (swallowing,),
        (swallowing, fail),
        (swallowing, start(500), body(), fail),
    ],
    ids=["answered", "error page", "raised", "nothing", "another error", "error page and error"],
)
def test_a_session_that_was_missed_means_a_503(manager: SessionManager, spy: Spy, steps: Iterable[Any]) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        messages = Messages("http")
        spy.down = True
        with suppress(Broken):
            await serve(manager, answering(*steps), cookies=cookies, messages=messages)
        assert [message["type"] for message in messages.sent] == ["http.response.start", "http.response.body"]
        assert messages.sent[0]["status"] == 503
        assert header(messages.sent[0], b"retry-after") == "2"
        assert header(messages.sent[0], b"set-cookie") is None
        assert len(messages.sent[1]["body"]) == int(header(messages.sent[0], b"content-length") or 0)

    asyncio.run(scenario())


def test_a_session_that_is_missed_after_the_headers_breaks_the_response_off(manager: SessionManager, spy: Spy) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        messages = Messages("http")
        spy.down = True
        with pytest.raises(StoreUnavailable):
            await serve(
                manager, answering(start(), body(more=True), swallowing, body()), cookies=cookies, messages=messages
            )
        assert not messages.ended

    asyncio.run(scenario())


# -- save --------------------------------------------------------------------------------------------------------------


def save(scope: Scope) -> Awaitable[None]:
    saving: Awaitable[None] = scope["session"].save()
    return saving


def test_a_save_before_the_headers_sets_the_cookie(manager: SessionManager) -> None:
    async def scenario() -> None:
        sent = await serve(manager, answering(put(n=1), save, start(), body()))
        assert await stored(manager, header(sent[0], b"set-cookie") or "") == {"n": 1}

    asyncio.run(scenario())


def test_a_save_in_a_stream_is_stored_at_once(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        seen: list[Any] = []

        async def look(scope: Scope) -> None:
            seen.append(await stored(manager, cookies))

        app = answering(start(), body(more=True), put(n=2), save, look, body())
        await serve(manager, app, cookies=cookies)
        assert seen == [{"n": 2}]

    asyncio.run(scenario())


# -- websockets --------------------------------------------------------------------------------------------------------

ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}


def ws_scope(cookies: str = "", *, denial: bool = False, scheme: str = "ws") -> dict[str, Any]:
    scope = http_scope(cookies=cookies, scheme=scheme) | {"type": "websocket", "subprotocols": []}
    del scope["method"]
    return scope | {"extensions": {"websocket.http.response": {}} if denial else {}}


async def connect(
    manager: SessionManager, app: ASGIApp, *, messages: Messages | None = None, **options: Any
) -> list[Message]:
    """One websocket; what was sent."""
    messages = messages or Messages("websocket", [{"type": "websocket.connect"}])
    await SessionMiddleware(app, manager)(ws_scope(**options), messages.receive, messages.send)
    return messages.sent


def test_the_cookie_of_a_new_session_travels_with_the_accept(manager: SessionManager) -> None:
    async def scenario() -> None:
        sent = await connect(manager, answering(put(n=1), ACCEPT, CLOSE), scheme="wss")
        cookie = header(sent[0], b"set-cookie")
        assert cookie is not None
        assert "Secure" in cookie
        assert await stored(manager, cookie) == {"n": 1}

    asyncio.run(scenario())


def test_a_login_before_the_accept_changes_the_id(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        app = answering(lambda scope: scope["session"].login("7"), ACCEPT, CLOSE)
        sent = await connect(manager, app, cookies=cookies)
        session = await manager.open(header(sent[0], b"set-cookie") or "")
        assert (session.user_id, dict(session)) == ("7", {"n": 1})
        assert await stored(manager, cookies) == {}

    asyncio.run(scenario())


def test_an_untouched_websocket_is_accepted_as_it_is(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        sent = await connect(manager, answering(ACCEPT, CLOSE), cookies=cookies)
        assert sent == [ACCEPT, CLOSE]

    asyncio.run(scenario())


@pytest.mark.parametrize("last", [(CLOSE,), ()], ids=["closed", "left"])
def test_what_a_websocket_changes_is_saved_when_it_ends(manager: SessionManager, last: tuple[Message, ...]) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        await connect(manager, answering(ACCEPT, put(n=2), *last), cookies=cookies)
        assert await stored(manager, cookies) == {"n": 2}

    asyncio.run(scenario())


def test_a_websocket_can_save_at_once_and_as_often_as_it_likes(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        seen: list[Any] = []

        async def look(scope: Scope) -> None:
            seen.append(await stored(manager, cookies))

        app = answering(ACCEPT, put(n=2), save, look, put(n=3), save, look, save, put(n=4), CLOSE)
        await connect(manager, app, cookies=cookies)
        assert seen == [{"n": 2}, {"n": 3}]
        assert await stored(manager, cookies) == {"n": 4}

    asyncio.run(scenario())


def test_a_session_cannot_begin_after_the_accept(manager: SessionManager, events: list[Event]) -> None:
    async def scenario() -> None:
        sent = await connect(manager, answering(ACCEPT, put(n=1), save, CLOSE))
        assert header(sent[0], b"set-cookie") is None
        assert (await manager.stats()).active == 0
        [refused] = [event for event in events if isinstance(event, WriteRefused)]
        assert "headers had left" in refused.reason

    asyncio.run(scenario())


def test_a_websocket_whose_session_was_revoked_takes_nothing_more(manager: SessionManager, events: list[Event]) -> None:
    async def scenario() -> None:
        session = await manager.open()
        session.login("7")
        cookies = (await manager.commit(session) or "").partition(";")[0]
        app = answering(ACCEPT, put(n=2), lambda scope: manager.revoke("7"), put(n=3), CLOSE)
        await connect(manager, app, cookies=cookies)
        assert (await manager.stats()).active == 0
        assert len([event for event in events if isinstance(event, WriteRefused)]) == 1

    asyncio.run(scenario())


def test_a_logout_on_a_websocket_ends_the_session(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        await connect(manager, answering(ACCEPT, lambda scope: scope["session"].logout(), CLOSE), cookies=cookies)
        assert await stored(manager, cookies) == {}

    asyncio.run(scenario())


def test_a_websocket_that_is_refused_saves_to_an_existing_session_only(
    manager: SessionManager, events: list[Event]
) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        assert await connect(manager, answering(put(n=2), CLOSE), cookies=cookies) == [CLOSE]
        assert await stored(manager, cookies) == {"n": 2}
        assert await connect(manager, answering(put(n=2), CLOSE)) == [CLOSE]
        assert (await manager.stats()).active == 1

    asyncio.run(scenario())


def test_a_denial_response_carries_the_cookie(manager: SessionManager) -> None:
    steps: list[Message] = [
        {"type": "websocket.http.response.start", "status": 403, "headers": []},
        {"type": "websocket.http.response.body", "body": b"no"},
    ]

    async def scenario() -> None:
        sent = await connect(manager, answering(put(n=1), *steps), denial=True)
        assert await stored(manager, header(sent[0], b"set-cookie") or "") == {"n": 1}
        assert sent[1:] == steps[1:]

    asyncio.run(scenario())


async def receiving(scope: Scope, receive: Receive, send: Send) -> None:
    """What frameworks do: the end of the browser is an exception."""
    await send(ACCEPT)
    while (await receive())["type"] != "websocket.disconnect":
        scope["session"]["n"] += 1
    raise Broken


def test_a_browser_that_leaves_is_no_failure_of_the_app(manager: SessionManager) -> None:
    incoming: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "x"},
        {"type": "websocket.disconnect", "code": 1001},
    ]

    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        with pytest.raises(Broken):
            await connect(manager, receiving, messages=Messages("websocket", incoming), cookies=cookies)
        assert await stored(manager, cookies) == {"n": 3}

    asyncio.run(scenario())


def test_an_error_of_the_app_on_a_websocket_drops_its_changes(manager: SessionManager) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        with pytest.raises(Broken):
            await connect(manager, answering(ACCEPT, put(n=2), save, put(n=3), fail), cookies=cookies)
        assert await stored(manager, cookies) == {"n": 2}

    asyncio.run(scenario())


@pytest.mark.parametrize("denial", [True, False])
@pytest.mark.parametrize("steps", [(swallowing, ACCEPT, CLOSE), (lambda scope: scope["session"]["n"],), (swallowing,)])
def test_a_websocket_that_misses_its_session_is_told_to_try_again(
    manager: SessionManager, spy: Spy, steps: Iterable[Any], denial: bool
) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        spy.down = True
        sent = await connect(manager, answering(*steps), cookies=cookies, denial=denial)
        if denial:
            assert sent[0]["type"] == "websocket.http.response.start"
            assert sent[0]["status"] == 503
            assert sent[1]["type"] == "websocket.http.response.body"
        else:
            assert sent == [{"type": "websocket.close", "code": 1013}]

    asyncio.run(scenario())


def test_a_save_that_no_store_takes_raises(manager: SessionManager, spy: Spy) -> None:
    async def scenario() -> None:
        cookies = await begun(manager, n=1)
        app = answering(ACCEPT, put(n=2), lambda scope: setattr(spy, "down", True), save)
        with pytest.raises(StoreUnavailable):
            await connect(manager, app, cookies=cookies)

    asyncio.run(scenario())


# -- lifespan ----------------------------------------------------------------------------------------------------------


class Closing(MemoryStore):
    """A store that notes when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[int] = []

    def close(self) -> None:
        self.closed.append(1)


async def living(scope: Scope, receive: Receive, send: Send) -> None:
    """An app with a life of its own; `failing` says how it ends."""
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": f"lifespan.shutdown.{scope['ending']}"})


async def live(app: ASGIApp, ending: str = "complete") -> list[str]:
    sent = []
    incoming = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(incoming)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan", "ending": ending}, receive, send)
    return sent


@pytest.mark.parametrize("ending", ["complete", "failed"])
def test_a_manager_of_its_own_is_closed_with_the_app(sqlite_url: str, ending: str) -> None:
    async def scenario() -> None:
        before = threading.active_count()
        middleware = SessionMiddleware(living, secret_key=SECRET_KEY, database_url=sqlite_url)
        await begun(middleware.manager, n=1)
        assert threading.active_count() == before + 1  # of the connection
        assert await live(middleware, ending) == ["lifespan.startup.complete", f"lifespan.shutdown.{ending}"]
        eventually(lambda: threading.active_count() == before)

    asyncio.run(scenario())


def test_a_manager_that_was_given_is_left_open() -> None:
    store = Closing()
    asyncio.run(live(SessionMiddleware(living, SessionManager(cast(Store, store), Settings(secret_key=SECRET_KEY)))))
    assert store.closed == []


@pytest.mark.parametrize("now", [{}, {"encryption_key": OTHER_KEY}])
def test_an_app_does_not_start_with_keys_that_do_not_fit_to_what_is_stored(now: dict[str, Any]) -> None:
    store = cast(Store, MemoryStore())
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def scenario() -> None:
        before = SessionManager(store, Settings(secret_key=SECRET_KEY, encryption_key=ENCRYPTION_KEY))
        await begun(before, n=1)
        middleware = SessionMiddleware(living, SessionManager(store, Settings(secret_key=SECRET_KEY, **now)))
        await middleware({"type": "lifespan"}, receive, send)

    asyncio.run(scenario())
    [failed] = sent
    assert failed["type"] == "lifespan.startup.failed"
    assert "encryption_key" in failed["message"]


def test_an_app_starts_while_no_store_answers() -> None:
    spy = Spy(cast(Store, MemoryStore()))
    spy.down = True
    middleware = SessionMiddleware(living, SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY)))
    assert asyncio.run(live(middleware)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# -- cancellation ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def closing(store: Store) -> AsyncIterator[SessionManager]:
    manager = SessionManager(store, Settings(secret_key=SECRET_KEY), on_event=lambda event: None)
    try:
        yield manager
    finally:
        await manager.aclose()


def redis_store(server: RedisServer) -> RedisStore:
    return RedisStore.from_url(server.url, is_async=True, timeout=5.0, on_event=lambda event: None)


async def assert_nobody_is_mixed_up(manager: SessionManager, cookies: list[str]) -> None:
    """Every session reads its own values, many at once."""
    seen = await asyncio.gather(*(stored(manager, cookie) for cookie in cookies * 3))
    assert [values["who"] for values in seen] == list(range(len(cookies))) * 3


class CancelledAt:
    """Runs a coroutine in a task that is cancelled when it waits for the nth time: at once, or as the wait is over."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], wait: int, *, late: bool) -> None:
        self._steps, self._left, self._late = coroutine.__await__(), wait, late

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._waiting(self._steps.send(value))

    def throw(self, *error: Any) -> Any:
        return self._waiting(self._steps.throw(*error))

    def close(self) -> None:
        self._steps.close()

    @property
    def ended_before(self) -> bool:
        """Whether the coroutine waited less often."""
        return self._left > 0

    def _waiting(self, waited_for: Any) -> Any:
        self._left -= 1
        task = asyncio.current_task()
        assert task
        if self._left == 0 and self._late and waited_for is not None:
            waited_for.add_done_callback(lambda _: task.cancel())
        elif self._left == 0:
            task.cancel()
        return waited_for


async def cancelled_at(coroutine: Coroutine[Any, Any, Any], wait: int, *, late: bool) -> bool:
    """Whether the coroutine waited so often: then it was cancelled."""
    steps = CancelledAt(coroutine, wait, late=late)

    async def run() -> None:
        await steps

    with suppress(asyncio.CancelledError):
        await asyncio.create_task(run())
    return not steps.ended_before


@pytest.mark.parametrize("late", [False, True], ids=["at once", "as the answer comes"])
@pytest.mark.parametrize(("database", "connections"), [("redis", 64), ("postgresql", 20)])
def test_a_request_that_is_cancelled_anywhere_leaves_every_connection_in_step(
    valkey: RedisServer, postgres_url: str, database: str, connections: int, late: bool
) -> None:
    sql = SQLStore.from_url(postgres_url, is_async=True, timeout=5.0)

    async def scenario() -> None:
        async with closing(redis_store(valkey) if database == "redis" else sql) as manager:
            cookies = [await begun(manager, who=who) for who in range(4)]
            app = answering(put(n=1), start(), body(more=True), put(n=2), body())
            times, wait = 0, 1
            # A leak would use them up.
            while times <= connections:
                hit = await cancelled_at(serve(manager, app, cookies=cookies[wait % 4]), wait, late=late)
                assert hit or wait > 1
                times, wait = times + hit, wait + 1 if hit else 1
                await assert_nobody_is_mixed_up(manager, cookies)

    asyncio.run(scenario())


@pytest.mark.parametrize("stage", ["load", "commit", "late commit"])
def test_an_answer_that_comes_after_the_cancellation_reaches_nobody(fresh_redis: RedisFactory, stage: str) -> None:
    server = fresh_redis()

    async def scenario() -> None:
        async with closing(redis_store(server)) as manager:
            cookies = [await begun(manager, who=who) for who in range(4)]
            frozen = asyncio.Event()

            def freeze_at(moment: str) -> None:
                if stage == moment:
                    server.freeze()
                    frozen.set()

            steps: list[Any] = [put(n=1), lambda scope: freeze_at("commit"), start(), body(more=True)]
            steps += [put(n=2), lambda scope: freeze_at("late commit"), body()]
            freeze_at("load")
            task = asyncio.create_task(serve(manager, answering(*steps), cookies=cookies[0]))
            await frozen.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            server.thaw()
            await assert_nobody_is_mixed_up(manager, cookies)

    asyncio.run(scenario())


# -- an independent checker --------------------------------------------------------------------------------------------


def test_asgiref_can_talk_to_an_app_through_the_middleware(manager: SessionManager) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        scope["session"]["n"] = 1
        await send(ACCEPT)
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"].upper()})
        assert (await receive())["type"] == "websocket.disconnect"

    async def scenario() -> None:
        browser = cast(Any, ApplicationCommunicator)(SessionMiddleware(app, manager), ws_scope())
        await browser.send_input({"type": "websocket.connect"})
        accepted = await browser.receive_output()
        assert accepted["type"] == "websocket.accept"
        assert header(accepted, b"set-cookie") is not None
        await browser.send_input({"type": "websocket.receive", "text": "x"})
        assert await browser.receive_output() == {"type": "websocket.send", "text": "X"}
        await browser.send_input({"type": "websocket.disconnect", "code": 1000})
        await browser.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
@pytest.mark.parametrize("work", [lambda scope: None, put(n=1), lambda scope: scope["session"].logout()])
def test_asgiref_finds_the_messages_of_every_response_in_order(
    manager: SessionManager, work: Work, status: int
) -> None:
    async def scenario() -> None:
        app = SessionMiddleware(answering(work, start(status), body()), manager)
        browser = cast(Any, ApplicationCommunicator)(app, http_scope(cookies=await begun(manager, n=0)))
        await browser.send_input({"type": "http.request", "body": b""})
        assert (await browser.receive_output())["status"] == status
        assert (await browser.receive_output())["type"] == "http.response.body"
        await browser.wait()
        assert browser.output_queue.empty()

    asyncio.run(scenario())
