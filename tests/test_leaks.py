"""Nothing secret is said, whatever goes wrong: every event and every error is provoked, with values that would show.

At the end, that whoever says it all the same is caught: the watch over the test run is tested here, too.
"""

import asyncio
import gc
import logging
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, cast

import fakeredis
import pytest

from tests.clients import Browser, Clock, Handler, Protocol, Site
from tests.leaks import Secrets, Watch, texts_of
from tests.servers import free_port
from tests.sites import put, read
from tests.stores import Faulty
from vedsess_middleware import Session, SessionError, errors, events
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.events import Event, log_event
from vedsess_middleware.session import state_of
from vedsess_middleware.state import State
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Field, Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

ENCRYPTED = {"encryption_key": "Rk5vN9xB3tQ7mZ2wC8yJ4pL1dH6gF0sAeUiOaStEwMj"}
OTHERWISE = {"encryption_key": "Gt6cX2nV8qK4wR9bM5zY1jP7dH3fL0sAeUiOaStEwNh"}
WORD = "canary-"
LOUD = {"aiosqlite"}
"""At DEBUG it logs every statement with its values: nothing that a caller could change."""


def canary() -> str:
    """A value that must not be seen."""
    return f"{WORD}{token_urlsafe(24)}"


def values() -> dict[str, Any]:
    """A session full of them."""
    return {"token": canary(), "many": [canary(), {"deep": canary()}], "bytes": canary().encode(), "n": 1}


@dataclass
class Stage:
    """Where something goes wrong, and all that is said of it.

    Attributes:
        protocol: of the sites.
        runner: of their event loop.
        fixture: gives a fixture by name.
        hidden: ids, cookies and keys of this process.
    """

    protocol: Protocol
    runner: asyncio.Runner
    fixture: Callable[[str], Any]
    hidden: Secrets
    clock: Clock = field(default_factory=Clock)
    sites: list[Site] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    shown: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_async(self) -> bool:
        return self.protocol == "asgi"

    def site(self, store: Any = None, **options: Any) -> Site:
        """A site, over a store in memory if not over another one."""
        self.sites.append(Site(self.protocol, store or MemoryStore(), self.runner, clock=self.clock, **options))
        return self.sites[-1]

    def begun(self, site: Site, user_id: str | None = "ada", **more: Any) -> Browser:
        """A browser with a session full of canaries."""
        browser = site.browser()

        def begin(session: Session) -> None:
            session.update({**values(), **more})
            if user_id is not None:
                session.login(user_id)

        self.visit(browser, begin)
        return browser

    def visit(self, browser: Browser, work: Handler, **options: Any) -> None:
        """A request: an error and an answer are what is said."""
        states: list[State] = []

        def handler(session: Session) -> object:
            states.append(state_of(session))
            self.shown.append(("a session", f"{session!r} {session}"))
            return work(session)

        with self.hearing():
            answer = browser(handler, **options)
            self.shown.append(("the body of an answer", answer.body.decode()))
        self.errors += [state.failure for state in states if state.failure is not None]

    def run(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Do something outside of a request."""
        with self.hearing():
            self.sites[-1].run(coroutine)

    def hearing(self) -> "Hearing":
        """Notes an error."""
        return Hearing(self)

    def said(self) -> list[tuple[str, str]]:
        """All that was said, but for the log, and where."""
        for site in self.sites:
            self.shown.append(("the repr of a manager", f"{site.manager!r} {site.manager.settings!r}"))
            self.shown.append(("the settings", str(site.manager.settings.masked())))
        told = [("an event", repr(event)) for event in self.told]
        return [*self.shown, *told, *(("an error", text) for error in self.errors for text in all_of(error))]

    @property
    def told(self) -> list[Event]:
        """Every event."""
        return [*self.events, *(event for site in self.sites for event in site.events)]


class Hearing:
    """Lets an error of ours pass, and notes it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, SessionError):
            self._stage.errors.append(error)
        return isinstance(error, SessionError)


def all_of(error: BaseException) -> list[str]:
    """What an error says by itself, and in a traceback, whose lines of code say nothing."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return [*texts_of(error), *(line for line in lines if not line.startswith("    "))]


Play = Callable[[Stage], object]
_plays: dict[str, tuple[Play, tuple[type, ...]]] = {}


def provokes(*kinds: type) -> Callable[[Play], Play]:
    """What a play provokes: events, and errors."""

    def register(play: Play) -> Play:
        _plays[play.__name__.replace("_", " ")] = play, kinds
        return play

    return register


def key_of(browser: Browser) -> str:
    """The key of a browser's session."""
    session_id = (browser.jar.value() or "").partition(".")[0]
    return Ticket(session_id, Version(), 0.0).key


def plant(site: Site, browser: Browser, text: str, **changes: Any) -> None:
    """Let a store in memory hold another text, or say something else of a session."""
    store = cast(MemoryStore, site.store.store)
    record = store.peek(key_of(browser))
    assert record is not None
    fields = {**record.fields, "token": Field(Version(0, 999), text)} if text else record.fields
    store.merge(key_of(browser), record.replace(fields=fields, **changes))


# -- cookies and ids ---------------------------------------------------------------------------------------------------


@provokes(events.SessionCreated, events.CookieRejected)
def a_forged_cookie(stage: Stage) -> None:
    site = stage.site()
    value = stage.begun(site).jar.value() or ""
    for forged in (
        value[:-1],
        value[:-40],
        value[1:],
        f"{value}{'A' * 300}",
        f"{value}\u00e9",
        value.partition(".")[0],
    ):
        stage.visit(site.browser(), read, cookies=f"vedsess={forged}")


@provokes(events.UnknownSession)
def an_unknown_session(stage: Stage) -> None:
    site = stage.site()
    stage.visit(site.browser(), put(**values()), cookies=site.unknown_cookie())


@provokes(events.IdChanged, events.OldIdUsed, events.SessionEnded)
def an_old_id(stage: Stage) -> None:
    site = stage.site(old_id_policy="end")
    browser = stage.begun(site)
    thief = browser.twin()
    stage.visit(browser, lambda session: session.regenerate_id())
    stage.clock.advance(60)
    stage.visit(thief, read)


@provokes(events.FingerprintMismatch)
def another_client(stage: Stage) -> None:
    for policy in ("log", "rotate", "reject"):
        site = stage.site(fingerprint_policy=policy)
        stage.visit(stage.begun(site), read, headers=[("User-Agent", "Another/1.0")])


@provokes(events.SessionExpired)
def a_session_beyond_its_deadline(stage: Stage) -> None:
    site = stage.site(absolute_timeout=1000.0, idle_timeout=1000.0)
    browser = stage.begun(site)
    plant(site, browser, "", expires_at=stage.clock.now + 5000)
    stage.clock.advance(2000)
    stage.visit(browser, read)


@provokes(events.SocketClosed, events.UserCutOff)
def a_session_that_is_cut_off_while_a_socket_is_open(stage: Stage) -> None:
    site = stage.site()
    browser = stage.begun(site)
    session = site.run(site.manager.open(browser.jar.header("/", scheme="http")))
    stage.run(site.manager.cut_off("ada"))
    stage.run(site.manager.ended(session))


@provokes(errors.SessionExists)
def an_id_that_is_drawn_twice(stage: Stage) -> None:
    site = stage.site()
    session_id = (stage.begun(site).jar.value() or "").partition(".")[0]
    site.manager._parts.jar.new_id = lambda: session_id
    stage.begun(site, "bob")


@provokes(events.LogoutTokenRefused, errors.LogoutRefused)
def a_logout_token_for_others(stage: Stage) -> None:
    site = stage.site()
    claims = {name: canary() for name in ("iss", "aud", "sub", "sid", "jti", "nonce", "iat", "exp", "events")}
    stage.run(site.manager.end_by_provider(claims, issuer="https://id.example", audience="app", typ=canary()))
    stage.run(site.manager.end_by_provider({**claims, "iss": "a"}, issuer="a", audience="app"))
    stage.run(site.manager.end_by_provider({**claims, "iss": "a", "aud": "app"}, issuer="a", audience="app"))
    now = {"iss": "a", "aud": "app", "iat": stage.clock.now, "exp": stage.clock.now + 60}
    stage.run(site.manager.end_by_provider({**claims, **now}, issuer="a", audience="app"))


# -- requests that meet ------------------------------------------------------------------------------------------------


@provokes(events.WriteConflict, errors.WriteConflict)
def two_writers_of_one_field(stage: Stage) -> None:
    site = stage.site()
    browser = stage.begun(site)

    def work(session: Session) -> None:
        session.expect_unchanged("token")
        stage.visit(browser.twin(), put(token=canary()))
        session["token"] = canary()

    stage.visit(browser, work)


@provokes(events.LockLost, errors.WriteConflict)
def a_lock_that_was_held_for_too_long(stage: Stage) -> None:
    site = stage.site()

    async def work(session: Session) -> None:
        async with session.lock(hold=1.0):
            stage.clock.advance(2.0)
            session["token"] = canary()

    stage.visit(stage.begun(site), lambda session: site.run(work(session)))


@provokes(events.SessionLimitHit, errors.SessionLimitReached)
def too_many_sessions(stage: Stage) -> None:
    for policy in ("end-oldest", "deny"):
        site = stage.site(max_sessions_per_user=1, session_limit_policy=policy)
        stage.begun(site)
        stage.begun(site)


@provokes(events.WriteRefused)
def a_write_that_comes_too_late(stage: Stage) -> None:
    site = stage.site()
    browser = stage.begun(site)

    def work(session: Session) -> None:
        session.get("token")
        stage.visit(browser.twin(), lambda other: other.logout())
        session["token"] = canary()

    stage.visit(browser, work)
    stage.visit(site.browser(), read, later=put(token=canary()))


# -- values ------------------------------------------------------------------------------------------------------------


class Unknown:
    """What no codec knows, and says what it holds."""

    def __init__(self) -> None:
        self.value = canary()

    def __repr__(self) -> str:
        return self.value

    __str__ = __repr__


@provokes(errors.SerializationError)
def a_value_that_cannot_be_stored(stage: Stage) -> None:
    site = stage.site()
    odd: list[object] = [
        Unknown(),
        [Unknown()],
        {"x": Unknown()},
        {canary() + canary(): Unknown()},
        {Unknown(): 1},
        {Unknown()},
    ]
    odd += [f"{canary()}\ud800", [f"{canary()}\ud800"], {f"{canary()}\ud800": 1}, {(canary(), Unknown()): 1}]
    for value in odd:
        stage.visit(site.browser(), put(token=value))
        stage.visit(stage.begun(site), put(token=value))


@provokes(errors.SessionTooLarge)
def a_session_that_is_too_large(stage: Stage) -> None:
    for options in ({"max_session_bytes": 2000}, {"max_field_bytes": 2000}, {"max_session_bytes": 2000, **ENCRYPTED}):
        site = stage.site(**options)
        stage.visit(stage.begun(site), put(token=canary() * 100, other=canary()))


TEXTS = [WORD, f'"{WORD}', f'{{"!{WORD}":1}}', f'{{"!datetime":"{WORD}"}}', f'{{"!int":"{WORD}"}}', f"$z${WORD}"]
TEXTS += [f'{{"!dict":[["{WORD}",1],["{WORD}",2]]}}', f'{{"!enum":["{WORD}","{WORD}"]}}', f"$1$0badcafe${WORD}"]
TEXTS += [
    f'{{"!uuid":"{WORD}"}}',
    f'{{"!decimal":"{WORD}"}}',
    f'{{"!set":[["{WORD}"]]}}',
    f"$z${WORD}\u00e9",
    f"@{WORD}",
]


@provokes(events.RecordRejected)
def a_value_that_cannot_be_read(stage: Stage) -> None:
    for text in TEXTS:
        for options in ({}, ENCRYPTED, {**ENCRYPTED, "encryption_accepts_plain": True}):
            site = stage.site(**options)
            browser = stage.begun(site)
            plant(site, browser, text)
            stage.visit(browser, read)
            plant(site, browser, text)
            stage.run(site.manager.export("ada"))


@provokes(events.RecordRejected, events.StoreRefused, errors.StoreMisconfigured)
def a_value_that_is_encrypted_otherwise(stage: Stage) -> None:
    store = MemoryStore()
    site, other, plain = stage.site(store, **ENCRYPTED), stage.site(store, **OTHERWISE), stage.site(store)
    browser = stage.begun(site)
    for each in (other, plain):
        visitor = each.browser()
        visitor.jar = browser.jar.copy()
        stage.visit(visitor, read)
        stage.visit(visitor, put(token=canary()))
    stage.visit(browser, lambda session: session.put_secret("code", canary(), ttl=60))
    record = store.peek(key_of(browser))
    assert record is not None
    plant(site, browser, record.values["code"])
    stage.visit(browser, read)


@provokes(errors.ConfigurationError)
def a_secret_without_a_key(stage: Stage) -> None:
    stage.visit(stage.site().browser(), lambda session: session.put_secret("code", canary(), ttl=60))


# -- stores ------------------------------------------------------------------------------------------------------------

HASH = {"version": "0.9", "life": "1000:2000", "created_at": WORD, "expires_at": WORD, "d:token": WORD}


@provokes(events.RecordRejected, events.StoreRestarted, errors.CorruptRecord)
def a_record_that_cannot_be_read(stage: Stage) -> None:
    server, is_async = fakeredis.FakeServer(), stage.is_async
    redis = fakeredis.FakeRedis(server=server)
    client: Any = fakeredis.FakeAsyncRedis(server=server) if is_async else redis
    site = stage.site(RedisStore(client, on_event=stage.events.append))
    spoilt: dict[str, Any] = {"session_id": WORD, "gone": f"1 2 3 {WORD}", "d:other": b"0.1:canary-\xff"}
    for name, text in {**HASH, **spoilt}.items():
        browser = stage.begun(site)
        redis.hset(f"vedsess:session:{key_of(browser)}", name, text)
        for work in (read, put(token=canary()), lambda session: session.regenerate_id()):
            stage.visit(browser.twin(), work)
        stage.run(cast(Coroutine[Any, Any, object], site.store.load(key_of(browser), at=stage.clock(), refresh=60.0)))
    if is_async:
        stage.runner.run(client.aclose())


@provokes(events.SessionUnavailable, errors.StoreUnavailable)
def stores_that_are_away(stage: Stage) -> None:
    site = stage.site()
    browser = stage.begun(site)
    site.store.down = True
    for work in (read, put(token=canary()), lambda session: session.login("bob"), lambda session: session.logout()):
        stage.visit(browser.twin(), work)


@provokes(events.StoreRefused, errors.StoreMisconfigured)
def a_redis_that_wants_another_password(stage: Stage) -> None:
    server = stage.fixture("fresh_redis")("valkey-9.1", "--requirepass", canary())
    url = server.url.replace("redis://", f"redis://:{canary()}@")
    site = stage.site(RedisStore.from_url(url, is_async=stage.is_async, on_event=stage.events.append), redis_url=url)
    stage.begun(site)
    site.run(site.manager.aclose())


@provokes(errors.StoreUnavailable)
def a_database_that_is_away(stage: Stage) -> None:
    url = f"postgresql://ada:{canary()}@127.0.0.1:{free_port()}/none"
    site = stage.site(SQLStore.from_url(url, is_async=stage.is_async, timeout=5.0), database_url=url)
    stage.begun(site)
    site.run(site.manager.aclose())


@provokes(errors.StoreMisconfigured)
def a_file_that_is_no_database(stage: Stage) -> None:
    url = stage.fixture("sqlite_url")
    Path(url.removeprefix("sqlite:///")).write_text(canary() * 100)
    site = stage.site(SQLStore.from_url(url, is_async=stage.is_async, timeout=5.0), database_url=url)
    stage.begun(site)
    site.run(site.manager.aclose())


@provokes(events.RecordRejected)
def a_row_that_cannot_be_read(stage: Stage) -> None:
    url = stage.fixture("sqlite_url")
    site = stage.site(SQLStore.from_url(url, is_async=stage.is_async, timeout=5.0))
    for text in (WORD, f'{{"token":"{WORD}"}}', f'{{"token":["{WORD}"]}}', f'{{"token":"0.1:{WORD}', f'["{WORD}"]'):
        for column in ("fields", "lock_holder"):
            browser = stage.begun(site)
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
                connection.execute(f"UPDATE vedsess_sessions SET {column} = ?", (text,))
            for work in (read, put(token=canary()), lambda session: session.regenerate_id()):
                stage.visit(browser.twin(), work)
            stage.run(
                cast(Coroutine[Any, Any, object], site.store.load(key_of(browser), at=stage.clock(), refresh=60.0))
            )
    site.run(site.manager.aclose())


class TwoStores:
    """Two stores that fail, under two sites: as in two processes, each fails on its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._ticks = stage, Clock()
        self.redis, self.sql = Faulty("r", "redis"), Faulty("s", "sql")
        self.site = self._site(self.redis, self.sql)
        self.other = self._site(self.redis.seen_by_another_process(), self.sql.seen_by_another_process())
        self.browser = stage.begun(self.site)

    def _site(self, *stores: Any) -> Site:
        ticks, told = self._ticks, self._stage.events.append
        return self._stage.site(FailoverStore(*stores, clock=ticks, wait=ticks.advance, on_event=told))

    def visit(self, *works: Handler, other: bool = False) -> None:
        """Requests of one browser, a while apart."""
        for work in works:
            visitor = (self.other if other else self.site).browser()
            visitor.jar = self.browser.jar
            self._stage.visit(visitor, work)
            self._ticks.advance(1)


@provokes(events.CopyOwed, events.RecordDrained, events.StoreDegraded, events.StoreRecovered, events.StoreRefused)
def two_stores_that_fail_in_turn(stage: Stage) -> None:
    for fault in ("refuse", "time out", "misconfigured", "one key", "corrupt", "lose the reply"):
        two = TwoStores(stage)
        for failing in (two.redis, two.sql):
            failing.always = cast(Any, fault)
            two.visit(put(token=canary()), read)
            failing.always = None
            two.visit(read, put(token=canary()), read)


@provokes(events.CopyPickedUp, events.StoreRefenced)
def a_process_that_died_and_a_redis_that_lost_everything(stage: Stage) -> None:
    two = TwoStores(stage)
    two.visit(read, read)
    two.sql.always = "refuse"
    two.visit(put(token=canary()))
    two.visit(read, read, read, other=True)
    two.redis.lose_everything()
    two.sql.always = None
    two.visit(read, read, read)


@provokes(events.WritesLost)
def a_browser_that_has_seen_what_nobody_holds(stage: Stage) -> None:
    two = TwoStores(stage)
    jar = CookieJar(two.site.manager.settings)
    [ticket] = jar.read(two.browser.jar.header("/", scheme="http"))
    assert isinstance(ticket, Ticket)
    ticket.token = Version(ticket.token.s, ticket.token.r + 5)
    stage.visit(two.site.browser(), read, cookies=jar.set(ticket, secure=False).partition(";")[0])


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def watch(request: pytest.FixtureRequest) -> Watch:
    """The watch over this test run."""
    watch = request.config.pluginmanager.get_plugin("leaks")
    assert isinstance(watch, Watch)
    return watch


@pytest.fixture
def stage(request: pytest.FixtureRequest, protocol: Protocol, runner: asyncio.Runner, watch: Watch) -> Stage:
    return Stage(protocol, runner, request.getfixturevalue, watch.secrets)


def test_every_event_and_every_error_is_provoked() -> None:
    provoked = {kind for _, kinds in _plays.values() for kind in kinds}
    told = {value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)}
    raised = {value for name in errors.__all__ if isinstance(value := getattr(errors, name), type)}
    within = {Event, SessionError, errors.StoreError, errors.CommitRefused, errors.EpochMissing}
    assert provoked == (told | raised) - within


@pytest.mark.parametrize(("play", "kinds"), _plays.values(), ids=_plays.keys())
def test_nothing_secret_is_said_of(
    play: Play, kinds: tuple[type, ...], stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    play(stage)
    for event in stage.told:
        log_event(event)
    seen = [*stage.told, *stage.errors]
    assert [kind for kind in kinds if not any(isinstance(each, kind) for each in seen)] == []
    said = stage.said()
    for record in caplog.records:
        if record.name not in LOUD:
            texts = all_of(record.exc_info[1]) if record.exc_info and record.exc_info[1] else []
            said += [(f"the log {record.name}", text) for text in (record.getMessage(), *texts)]
    assert {place for place, text in said if WORD in text or stage.hidden.are_in(text)} == set()


class Looking(MemoryStore):
    """A store that looks around whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.look: Callable[[object], object] = lambda argument: None

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("load", "create", "update", "replace", "end", "records_of"):
            return method

        def looking(*args: Any, **options: Any) -> object:
            result = method(*args, **options)
            self.look((args, result))
            return result

        return looking


WRITES: list[Handler] = [
    put(token="canary-again"),
    lambda session: session.login(session.user_id or "bob"),
    lambda session: session.regenerate_id(),
    lambda session: (session.pop("token", None), session["many"].append(canary()), session.expect_unchanged("n")),
]


@pytest.mark.parametrize("options", [{}, ENCRYPTED])
def test_nothing_of_ours_that_lives_in_a_request_shows_what_it_holds(stage: Stage, options: dict[str, str]) -> None:
    store, kinds = Looking(), set[str]()
    showing, site = set[type](), stage.site(store, **options)

    def look(_: object) -> None:
        objects = gc.get_objects()
        ours = {kind for kind in set(map(type, objects)) if str(kind.__module__).startswith("vedsess_middleware")}
        for each in objects:
            if type(each) in ours:
                kinds.add(type(each).__name__)
                if WORD in repr(each) or stage.hidden.are_in(repr(each)):
                    showing.add(type(each))

    store.look = look
    gc.freeze()  # what there was before is not looked at
    try:
        browser = stage.begun(site)
        for work in (read, *WRITES):
            stage.visit(browser, work)
            stage.visit(browser, lambda session, work=work: look(work(session)))  # type: ignore[misc]
        stage.run(site.manager.sessions("bob"))
        stage.visit(browser, lambda session: session.logout())
    finally:
        gc.unfreeze()
    assert showing == set()
    known = "Changes Commit Delta Field IdChange Opened Record Session State Ticket Written"
    assert set(known.split()) - kinds <= (set() if options else {"Opened"})


# -- the watch over the test run ---------------------------------------------------------------------------------------

SHOWING = """
    import logging, sys
    import pytest
    from vedsess_middleware import Settings
    from vedsess_middleware.cookies import CookieJar, Ticket, new_session_id
    from vedsess_middleware.events import EventCounts, RecordRejected
    from vedsess_middleware.stores.record import Version

    log = logging.getLogger("scratch")
    KEYS = ["Hn7vB2xQ9tK4mZ6rC1yJ3pL5dW8gF0sAeUiOaStEwRk", "Lp3nX8vT5qW2kM9zR4cY7jB1dH6gF0sAeUiOaStEwGk"]

    def cookie():
        jar = CookieJar(Settings(secret_key=KEYS[0]))
        return jar, jar.set(Ticket("Zx9-Yw8_Xv7-Wu6_Vt5-Us4_Tr3-Sq2_Rp1-Qo0_Pn9", Version(), 0.0), secure=False)

    def test_silent():
        new_session_id(), cookie()
        log.debug("nothing %s %s", "a" * 43, "Ab0-Cd1_Ef2-Gh3_Ij4-Kl5_Mn6-Op7_Qr8-St9_Uvw")

    def test_log():
        log.debug("in %s's hands", new_session_id())

    def test_deaf_log():
        deaf = logging.getLogger("deaf")
        deaf.propagate = False
        deaf.debug(new_session_id())

    def test_error_log():
        try:
            raise ValueError(new_session_id())
        except ValueError:
            log.exception("oh")

    def test_error_behind_an_error_log():
        try:
            try:
                raise KeyError(new_session_id())
            except KeyError:
                raise ValueError("oh") from None
        except ValueError:
            log.exception("oh")

    def test_extra_log():
        log.info("oh", extra={"session": new_session_id()})

    def test_event():
        EventCounts(lambda event: None)(RecordRejected(session="a", reason=f"no {new_session_id()}"))

    def test_stdout():
        print("seen:", new_session_id())

    def test_stderr():
        print(new_session_id(), file=sys.stderr)

    @pytest.fixture
    def noisy():
        yield
        print(new_session_id())

    def test_stdout_of_a_fixture(noisy):
        pass

    def test_set_cookie():
        log.debug(cookie()[1])

    def test_signature():
        log.debug(cookie()[1].partition(";")[0].rpartition(".")[2])

    def test_genuine_cookie():
        jar, header = cookie()
        [ticket] = jar.read(header.partition(";")[0])
        log.debug(ticket.session_id)

    def test_beginning():
        log.debug(new_session_id()[:16])

    def test_end():
        log.debug("..." + new_session_id()[-16:])

    def test_secret_key():
        Settings(secret_key=["Bv6nM1xZ8cQ3tK5wR2yJ9pL4dH7gF0sAeUiOaStEwTk", KEYS[0]])
        log.debug(f"<{KEYS[0]}>")

    def test_encryption_key():
        Settings(secret_key=KEYS[0], encryption_key=KEYS[1])
        log.debug(KEYS[1])

    def test_failing():
        log.debug(new_session_id())
        assert 1 == 2
"""


def test_whoever_shows_a_secret_fails_and_is_told_where_and_not_what(tmp_path: Path) -> None:
    plugin = (
        "from tests.leaks import Watch\n\n\ndef pytest_configure(config):\n    config.pluginmanager.register(Watch())\n"
    )
    (tmp_path / "conftest.py").write_text(plugin)
    (tmp_path / "test_showing.py").write_text(textwrap.dedent(SHOWING))
    command = [sys.executable, "-m", "pytest", "-rfEp", "-p", "no:cacheprovider", "--show-capture=no", "--tb=line"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
    told = [line.replace(" test_showing.py::test_", " ") for line in done.stdout.splitlines() if "::" in line]
    shown = "a session id, a cookie or a key is shown in"
    logged = "log error_log error_behind_an_error_log extra_log set_cookie signature genuine_cookie beginning end"
    expected = {
        "PASSED silent",
        *(f"FAILED {name} - {shown} the log scratch" for name in f"{logged} secret_key encryption_key failing".split()),
        f"FAILED deaf_log - {shown} the log deaf",
        f"FAILED event - {shown} the event RecordRejected",
        f"FAILED stdout - {shown} captured stdout call",
        f"FAILED stderr - {shown} captured stderr call",
        "PASSED stdout_of_a_fixture",
        f"ERROR stdout_of_a_fixture - {shown} captured stdout teardown",
    }
    assert {line.partition(", from")[0] for line in told} == expected, done.stdout
    assert re.findall(r"[A-Za-z0-9-]{36,}", done.stdout.replace("_", "")) == []


def test_a_secret_is_found_whole_and_by_its_beginning_or_end_and_nothing_else_is() -> None:
    secrets, session_id, key = Secrets(), token_urlsafe(32), "Kq7-" * 30
    for text in (session_id, f"{session_id}.0.1.{token_urlsafe(32)}", "a" * 43, "0" * 64, "short"):
        secrets.note(text)
    for text in (
        session_id,
        f"'{session_id}'",
        f"id{session_id}x",
        session_id[:16],
        session_id[-16:],
        f"%{session_id}%3D",
    ):
        assert secrets.are_in(text)
    for text in (token_urlsafe(32), session_id[:15], session_id[::-1], "a" * 64, "0" * 64, "short", "", key):
        assert not secrets.are_in(text)


def test_all_that_an_error_says_is_heard() -> None:
    def chained() -> Exception:
        try:
            try:
                raise KeyError("within")
            except KeyError:
                raise ValueError("hidden") from None
        except ValueError as error:
            error.add_note("noted")
            return error

    error = ExceptionGroup("all", [chained(), OSError("other")])
    error.__cause__ = error.__context__ = chained()
    said = " ".join(texts_of(error))
    assert all(word in said for word in ("within", "hidden", "noted", "all", "other"))
    assert list(texts_of(None)) == []
