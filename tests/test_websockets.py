"""An open websocket ends with its session, whoever ends that, and with nothing else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.clients import Browser, Clock, Site, http_scope
from tests.sites import SiteFactory, in_memory, log_in, read
from vedsess_middleware import Session, SessionManager, StoreUnavailable, events
from vedsess_middleware.asgi import SessionMiddleware
from vedsess_middleware.sockets import SessionOver, Socket

pytestmark = pytest.mark.parametrize("protocol", ["asgi"], indirect=True)

CHECK = 0.01
IDLE, ABSOLUTE = 100.0, 300.0

App = Callable[[Session, Receive, Send], Awaitable[None]]


@pytest.fixture
def site(make_site: SiteFactory) -> Site:
    """A site that asks a hundred times a second whether a session lives."""
    return make_site(websocket_check=CHECK, idle_timeout=IDLE, absolute_timeout=ABSOLUTE)


class Wire:
    """The server's end of a websocket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[Message] = []
        self.accepted, self.closed, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.checks = 0

    async def receive(self) -> Message:
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        assert not self.closed.is_set(), f"{message['type']} came after the close"
        self.sent.append(message)
        self._news.set()
        if message["type"] == "websocket.accept":
            self.accepted.set()
        elif message["type"] == "websocket.close":
            self.closed.set()

    def watch(self, manager: SessionManager) -> None:
        """Count how often the manager is asked whether a session is over."""
        ended = manager.ended

        async def counted(session: Session, *, used: bool = False) -> str:
            over = await ended(session, used=used)
            self.checks += 1
            self._news.set()
            return over

        manager.ended = counted  # type: ignore[method-assign]

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait until this has happened, by a message or a check."""
        while not happened():
            self._news.clear()
            await self._news.wait()

    async def checked(self, times: int = 3) -> None:
        """Wait until the session has been looked after a few times more."""
        before = self.checks
        await self.until(lambda: self.checks >= before + times)

    async def echoed(self, number: int) -> None:
        """Wait for so many answers in all."""
        await self.until(lambda: len(self.texts) >= number)

    def say(self, *texts: str) -> None:
        for text in texts:
            self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of the close."""
        return self.sent[-1]["code"], self.sent[-1].get("reason", "")

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.sent if message["type"] == "websocket.send"]


class Echo:
    """An app that answers what it receives, until it receives that the socket is closed."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.code = 0

    async def __call__(self, session: Session, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message["text"])
            if message["text"].startswith("save "):
                session["said"] = f"{session['n']}, {message['text'][5:]}"
                await session.save()
            await send({"type": "websocket.send", "text": f"{message['text']}!"})
        self.code = message["code"]


class Pushing:
    """An app that sends, and receives nothing."""

    failed: OSError | None = None

    async def __call__(self, session: Session, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0)
        except OSError as error:
            self.failed = error
            raise


@asynccontextmanager
async def connected(site: Site, app: App, cookies: str) -> AsyncIterator[Wire]:
    """An accepted websocket; in the end the app has returned, and has left nothing behind."""

    async def entry(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope["session"], receive, send)

    wire, before = Wire(), asyncio.all_tasks()
    wire.watch(site.manager)
    scope = http_scope(cookies=cookies, scheme="ws") | {"type": "websocket", "subprotocols": [], "extensions": {}}
    async with asyncio.timeout(10):
        served = asyncio.create_task(SessionMiddleware(entry, site.manager)(scope, wire.receive, wire.send))
        await wire.accepted.wait()
        try:
            yield wire
        finally:
            if not wire.closed.is_set():
                wire.leave()
            await served
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def commit(manager: SessionManager, cookies: str, change: Callable[[Session], object]) -> str:
    """What another request does; the cookie of after it."""
    session = await manager.open(cookies)
    change(session)
    header = await manager.commit(session)
    return (header or cookies).partition(";")[0]


def begun(site: Site) -> tuple[Browser, str]:
    browser = site.browser()
    browser(log_in("7", n=1))
    return browser, f"vedsess={browser.jar.value()}"


# -- a session that is over --------------------------------------------------------------------------------------------

ENDINGS: dict[str, Callable[[Site, str], Coroutine[Any, Any, object]]] = {
    "revoked": lambda site, cookies: site.manager.revoke("7"),
    "cut off": lambda site, cookies: site.manager.cut_off("7"),
    "logged out": lambda site, cookies: commit(site.manager, cookies, lambda session: session.logout()),
    "logged in anew": lambda site, cookies: commit(site.manager, cookies, lambda session: session.login("8")),
}


@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_websocket_is_closed_when_its_session_is_ended_by_another_process(
    site: Site, end: Callable[[Site, str], Coroutine[Any, Any, object]]
) -> None:
    _, cookies = begun(site)
    other, app = site.sibling(), Echo()

    async def scenario() -> None:
        async with connected(site, app, cookies) as wire:
            wire.say("a")
            await wire.checked()
            assert not wire.closed.is_set()
            site.clock.advance(1)
            await end(other, cookies)
            await wire.closed.wait()
        assert wire.close == (1008, "session ended")
        assert wire.texts == ["a!"]

    site.run(scenario())
    assert (app.received, app.code) == (["a"], 1008)
    assert [event.reason for event in site.told(events.SocketClosed)] == ["ended"]


@pytest.mark.parametrize("after", [IDLE, ABSOLUTE], ids=["idle", "absolute"])
def test_a_websocket_is_closed_when_its_session_expires(site: Site, after: float) -> None:
    _, cookies = begun(site)

    async def scenario() -> None:
        async with connected(site, Echo(), cookies) as wire:
            site.clock.advance(after)
            await wire.closed.wait()
        assert wire.close == (1008, "session expired")

    site.run(scenario())


@in_memory
def test_an_app_that_only_sends_is_told_as_if_the_browser_had_left(site: Site) -> None:
    """Otherwise it would go on for ever, and nobody would hear it."""
    _, cookies = begun(site)
    app = Pushing()

    async def scenario() -> None:
        async with connected(site, app, cookies) as wire:
            await wire.echoed(4)
            await site.manager.revoke("7")
            await wire.closed.wait()
        assert wire.close == (1008, "session ended")

    site.run(scenario())
    assert isinstance(app.failed, SessionOver)


@in_memory
def test_nothing_is_saved_to_a_session_that_is_over(site: Site) -> None:
    browser, cookies = begun(site)

    class Saving(Echo):
        async def __call__(self, session: Session, receive: Receive, send: Send) -> None:
            await super().__call__(session, receive, send)
            session["late"] = 1

    async def scenario() -> None:
        async with connected(site, Saving(), cookies) as wire:
            await site.manager.revoke("7")
            await wire.closed.wait()

    site.run(scenario())
    assert browser(read).result == {}
    assert site.stored() == 0


# -- a session that lives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"encryption_key": "wq3Jm0vJ8eK5yT1nB7dXcP2sL9fRaZ4uHg6iVkOoEtQ"}])
def test_a_websocket_follows_its_session_to_its_new_ids(make_site: SiteFactory, options: dict[str, Any]) -> None:
    site = make_site(websocket_check=CHECK, renewal_timeout=50, idle_timeout=IDLE, **options)
    _, cookies = begun(site)

    async def scenario() -> str:
        now = cookies
        async with connected(site, Echo(), cookies) as wire:
            for n in range(3):
                site.clock.advance(50)
                renewed = await commit(site.manager, now, lambda session: session.get("n"))
                assert renewed != now
                now = renewed
                if n != 1:
                    await wire.checked()  # otherwise the save is quicker
                wire.say(f"save {n}")
                await wire.echoed(n + 1)
                assert dict(await site.manager.open(now)) == {"n": 1, "said": f"1, {n}"}
        assert not wire.closed.is_set()
        return now

    now = site.run(scenario())
    assert site.browser()(read, cookies=now).result == {"n": 1, "said": "1, 2"}
    assert site.told(events.WriteRefused) == []


def test_an_outage_closes_nothing_and_hides_nothing(site: Site) -> None:
    _, cookies = begun(site)
    app = Echo()

    async def scenario() -> None:
        async with connected(site, app, cookies) as wire:
            site.store.down = True
            await wire.checked()
            wire.say("a")
            await wire.echoed(1)
            assert not wire.closed.is_set()
            site.store.down = False
            await wire.checked()
            await site.manager.revoke("7")
            await wire.closed.wait()
        assert wire.close == (1008, "session ended")

    site.run(scenario())


@in_memory
def test_no_message_is_lost_or_comes_twice_or_out_of_turn(site: Site) -> None:
    _, cookies = begun(site)
    app = Echo()

    async def scenario() -> None:
        async with connected(site, app, cookies) as wire:
            for n in range(0, 40, 4):
                await wire.checked(2)  # the app's receive has been interrupted twice
                wire.say(*map(str, range(n, n + 4)))
            await wire.echoed(40)

    site.run(scenario())
    assert app.received == [str(n) for n in range(40)]


@in_memory
def test_no_message_is_lost_by_an_app_that_gives_up_waiting(site: Site) -> None:
    _, cookies = begun(site)
    received: list[str] = []

    async def impatient(session: Session, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            try:
                message = await asyncio.wait_for(receive(), CHECK / 4)
            except TimeoutError:
                continue
            if message["type"] == "websocket.disconnect":
                return
            received.append(message["text"])
            await send({"type": "websocket.send", "text": "heard"})

    async def scenario() -> None:
        async with connected(site, impatient, cookies) as wire:
            for text in "abcdef":
                await wire.checked(1)
                wire.say(text)
            await wire.echoed(6)

    site.run(scenario())
    assert received == list("abcdef")


@in_memory
def test_messages_are_a_use_of_the_session_and_silence_is_none(site: Site) -> None:
    _, cookies = begun(site)

    async def scenario() -> None:
        async with connected(site, Echo(), cookies) as wire:
            for n in range(3):
                wire.say("a")
                await wire.echoed(n + 1)
                await wire.checked()
                site.clock.advance(IDLE * 0.6)
            assert not wire.closed.is_set()
            await wire.checked()
            site.clock.advance(IDLE * 0.6)
            await wire.closed.wait()
        assert wire.close == (1008, "session expired")

    site.run(scenario())


@in_memory
def test_messages_keep_a_session_alive_that_has_a_short_life_of_its_own(make_site: SiteFactory) -> None:
    site = make_site(websocket_check=CHECK)
    browser = site.browser()
    browser(lambda session: session.login("7", idle_timeout=60))

    async def scenario() -> None:
        async with connected(site, Echo(), f"vedsess={browser.jar.value()}") as wire:
            for n in range(3):
                site.clock.advance(45)
                wire.say("a")
                await wire.echoed(n + 1)
                await wire.checked()
            assert not wire.closed.is_set()

    site.run(scenario())


@in_memory
def test_a_session_that_begins_with_the_handshake_is_looked_after_too(site: Site) -> None:
    class Welcoming(Echo):
        async def __call__(self, session: Session, receive: Receive, send: Send) -> None:
            session.login("7")
            await super().__call__(session, receive, send)

    async def scenario() -> None:
        async with connected(site, Welcoming(), "") as wire:
            await site.manager.revoke("7")
            await wire.closed.wait()

    site.run(scenario())


# -- one socket, to the second -----------------------------------------------------------------------------------------


@pytest.fixture
def time() -> Clock:
    return Clock(0.0)


def socket(site: Site, wire: Wire, session: Session, time: Clock) -> Socket:
    return Socket(site.manager, session, wire.receive, wire.send, clock=time)


@in_memory
def test_the_stores_are_asked_when_it_is_time_and_not_before(make_site: SiteFactory, time: Clock) -> None:
    site = make_site(websocket_check=5)
    _, cookies = begun(site)

    async def scenario() -> list[int]:
        wire, asked = Wire(), []
        end = socket(site, wire, await site.manager.open(cookies), time)
        await end.send({"type": "websocket.accept"})
        site.store.calls.clear()
        for now in (0.0, 4.9, 5.0, 5.1, 9.9, 10.0, 30.0, 30.1):
            time.now = now
            await end.send({"type": "websocket.send", "text": "x"})
            asked.append(len(site.store.asked))
        return asked

    assert site.run(scenario()) == [0, 0, 1, 1, 1, 2, 3, 3]


@in_memory
def test_an_app_that_sends_and_receives_at_once_gets_one_close(site: Site, time: Clock) -> None:
    _, cookies = begun(site)
    asks, ended = asyncio.Event(), site.manager.ended

    async def slow(session: Session, *, used: bool = False) -> str:
        asks.set()
        await asyncio.sleep(0)
        return await ended(session, used=used)

    site.manager.ended = slow  # type: ignore[method-assign]

    async def scenario() -> None:
        wire = Wire()
        end = socket(site, wire, await site.manager.open(cookies), time)
        await end.receive()
        await end.send({"type": "websocket.accept"})
        await site.manager.revoke("7")
        time.advance(1)
        receiving = asyncio.create_task(end.receive())
        sending = [asyncio.create_task(end.send({"type": "websocket.send", "text": "x"})) for _ in range(2)]
        closing = asyncio.create_task(end.send({"type": "websocket.close", "code": 1000}))
        await asks.wait()
        wire.leave()  # the server says so once the socket is closed
        results = await asyncio.gather(receiving, *sending, closing, return_exceptions=True)
        assert {type(result) for result in results if isinstance(result, Exception)} <= {SessionOver}
        assert [message["type"] for message in wire.sent].count("websocket.close") == 1
        end.stop()

    site.run(scenario())


@in_memory
def test_an_app_that_closes_its_socket_itself_hears_of_no_other_end(site: Site, time: Clock) -> None:
    _, cookies = begun(site)

    async def scenario() -> None:
        wire = Wire()
        end = socket(site, wire, await site.manager.open(cookies), time)
        await end.send({"type": "websocket.accept"})
        await site.manager.revoke("7")
        await end.send({"type": "websocket.close", "code": 1000})
        time.advance(1)
        wire.leave()
        assert (await end.receive())["type"] == "websocket.connect"
        assert (await end.receive())["code"] == 1001
        assert wire.close == (1000, "")

    site.run(scenario())


@in_memory
def test_before_it_is_accepted_a_websocket_is_a_request_like_any_other(site: Site, time: Clock) -> None:
    _, cookies = begun(site)

    async def scenario() -> None:
        wire = Wire()
        end = socket(site, wire, await site.manager.open(cookies), time)
        time.advance(1)
        site.store.calls.clear()
        await end.receive()
        await end.send({"type": "websocket.close", "code": 1000})
        assert site.store.calls == []

    site.run(scenario())


@in_memory
def test_a_websocket_without_a_session_asks_nobody(site: Site, time: Clock) -> None:
    async def scenario() -> None:
        wire = Wire()
        end = socket(site, wire, await site.manager.open(), time)
        await end.send({"type": "websocket.accept"})
        for _ in range(3):
            time.advance(CHECK)
            await end.send({"type": "websocket.send", "text": "x"})
        assert len(wire.texts) == 3
        assert site.store.calls == []

    site.run(scenario())


@in_memory
def test_where_no_store_can_say_a_session_is_not_over(site: Site) -> None:
    _, cookies = begun(site)

    async def scenario() -> None:
        session = await site.manager.open(cookies)
        site.store.down = True
        assert await site.manager.ended(session) == ""
        with pytest.raises(StoreUnavailable):
            await site.manager.sessions("7")

    site.run(scenario())
