"""The manager outside of a request, in both colours, and the races that it has to settle."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

import pytest

from tests.clients import SECRET_KEY, Clock, Spy, asgi_app, wsgi_app
from tests.servers import RedisServer
from vedsess_middleware import (
    ConfigurationError,
    CorruptRecord,
    JsonCodec,
    SerializationError,
    Session,
    SessionExists,
    SessionManager,
    Settings,
    StoreMisconfigured,
    StoreUnavailable,
    asgi,
    events,
    run_blocking,
    wsgi,
)
from vedsess_middleware.build import build_manager
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.events import Event, WritesLost
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

T = TypeVar("T")
E = TypeVar("E", bound=events.Event)

PATIENT: dict[str, Any] = {"secret_key": SECRET_KEY, "redis_timeout": 5.0, "sql_timeout": 5.0}


class Forgetful(JsonCodec):
    """A codec that cannot read a 1 any more."""

    def decode(self, text: str) -> object:
        if text == "1":
            raise SerializationError("the stored text is a 1")
        return super().decode(text)


class Rig:
    """A manager, and how to run its coroutines."""

    def __init__(
        self, manager: SessionManager, run: Callable[[Coroutine[Any, Any, Any]], Any], told: list[Any]
    ) -> None:
        self.manager, self._run, self.told = manager, run, told

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        result: T = self._run(coroutine)
        return result

    def open(self, cookies: str = "") -> Session:
        return self.run(self.manager.open(cookies))

    def commit(self, session: Session, **options: Any) -> str | None:
        return self.run(self.manager.commit(session, **options))

    def begin(self, *, user: str | None = None, **values: object) -> str:
        """The cookie of a new session."""
        session = self.open()
        session.update(values)
        if user is not None:
            session.login(user)
        header = self.commit(session)
        assert header is not None
        return header.partition(";")[0]

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["blocking", "asyncio"])
def rig(request: pytest.FixtureRequest, valkey: RedisServer, sqlite_url: str, clock: Clock) -> Iterator[Rig]:
    """Redis first, SQLite behind, as the settings build them."""
    told: list[Any] = []
    settings = Settings(redis_url=valkey.url, database_url=sqlite_url, **PATIENT)
    is_async = request.param == "asyncio"
    manager = build_manager(settings, is_async=is_async, clock=clock, on_event=told.append)
    with asyncio.Runner() as runner:
        yield Rig(manager, runner.run if is_async else run_blocking, told)
        if is_async:
            runner.run(manager.aclose())
        else:
            manager.close()


@pytest.fixture
def spy() -> Spy:
    return Spy(cast(Store, MemoryStore()))


@pytest.fixture
def small(spy: Spy, clock: Clock) -> Rig:
    """A store in memory that tells what it is asked."""
    told: list[Any] = []
    manager = SessionManager(cast(Store, spy), Settings(secret_key=SECRET_KEY), clock=clock, on_event=told.append)
    return Rig(manager, run_blocking, told)


# -- outside of a request ----------------------------------------------------------------------------------------------


def test_a_worker_can_open_change_and_commit_a_session(rig: Rig) -> None:
    cookies = rig.begin(n=1)
    session = rig.open(cookies)
    assert (session["n"], session.store) == (1, "redis")
    session["n"] = 2
    assert rig.commit(session) is not None
    assert dict(rig.open(cookies)) == {"n": 2}


def test_a_commit_of_nothing_is_nothing(rig: Rig) -> None:
    assert rig.commit(rig.open()) is None
    cookies = rig.begin(n=1)
    session = rig.open(cookies)
    assert session["n"] == 1
    assert rig.commit(session) is None


def test_a_second_commit_writes_what_has_changed_since_the_first(rig: Rig) -> None:
    session = rig.open()
    session["n"] = 1
    first = rig.commit(session)
    assert rig.commit(session) is None
    session["m"] = [1]
    rig.commit(session)
    session["m"].append(2)
    rig.commit(session)
    assert dict(rig.open((first or "").partition(";")[0])) == {"n": 1, "m": [1, 2]}


def test_a_commit_without_reading_does_not_load_first(small: Rig, spy: Spy) -> None:
    cookies = small.begin(n=1)
    spy.calls.clear()
    session = small.manager.begin(cookies)
    session["m"] = 2
    small.commit(session)
    assert spy.calls == ["update"]
    assert dict(small.open(cookies)) == {"n": 1, "m": 2}


def test_a_session_can_be_saved_where_no_cookie_can_be_set(rig: Rig) -> None:
    cookies = rig.begin(n=1)
    session = rig.open(cookies)
    session["n"] = 2
    rig.run(session.save())
    assert dict(rig.open(cookies)) == {"n": 2}
    fresh = rig.open()
    fresh["n"] = 1
    rig.run(fresh.save())
    assert [event.reason for event in rig.of(events.WriteRefused)] == [
        "the headers had left, so no cookie could be set for a new session"
    ]


@pytest.mark.parametrize("work", [lambda s: s.update(n=2), lambda s: s.logout(), lambda s: s.regenerate_id()])
def test_a_commit_after_the_headers_never_asks_for_a_cookie(rig: Rig, work: Callable[[Session], None]) -> None:
    session = rig.open(rig.begin(n=1))
    work(session)
    assert rig.commit(session, headers_left=True) is None


def test_two_tasks_may_commit_the_same_changes_at_once(valkey: RedisServer, sqlite_url: str) -> None:
    settings = Settings(redis_url=valkey.url, database_url=sqlite_url, **PATIENT)
    manager = build_manager(settings, is_async=True, on_event=lambda event: None)

    async def work() -> dict[str, Any]:
        session = await manager.open()
        session.update(n=1, m=[1], gone=1)
        cookie = await manager.commit(session)
        session = await manager.open((cookie or "").partition(";")[0])
        n = session["n"]
        session["m"].append(2)
        session.update(n=2)
        del session["gone"]
        saves = [asyncio.ensure_future(session.save()) for _ in range(2)]
        await asyncio.sleep(0)
        session["n"] = n
        await asyncio.gather(*saves)
        await session.save()
        values = dict(await manager.open((cookie or "").partition(";")[0]))
        await manager.aclose()
        return values

    assert asyncio.run(work()) == {"n": 1, "m": [1, 2]}


def test_a_value_that_cannot_be_stored_can_be_mended_and_committed_again(rig: Rig) -> None:
    session = rig.open()
    session["bad"] = object()
    with pytest.raises(SerializationError, match=r"bad.*object"):
        rig.commit(session)
    session["bad"] = 1
    cookies = (rig.commit(session) or "").partition(";")[0]
    assert dict(rig.open(cookies)) == {"bad": 1}


CHANGING: dict[str, Callable[[Session], object]] = {
    "set": lambda session: session.__setitem__("n", 2),
    "delete": lambda session: session.__delitem__("n"),
    "pop": lambda session: session.pop("n"),
    "popitem": lambda session: session.popitem(),
    "clear": lambda session: session.clear(),
    "set default": lambda session: session.setdefault("m", 2),
    "update": lambda session: session.update(n=2),
    "in-place or": lambda session: session.__ior__({"n": 2}),
    "assign": lambda session: session.assign({"n": 2}),
    "login": lambda session: session.login("ada"),
    "new id": lambda session: session.regenerate_id(),
    "logout": lambda session: session.invalidate(),
}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", CHANGING)
def test_whatever_may_change_a_session_needs_a_commit(small: Rig, name: str, reads: bool) -> None:
    session = small.open(small.begin(n=1, m="x"))
    if reads:
        assert (session["n"], session.get("m"), "x" in session, session.id) == (1, "x", False, session.id)
    assert not small.manager.needs_commit(session)
    CHANGING[name](session)
    assert small.manager.needs_commit(session)
    small.commit(session)
    session["late"] = 1
    assert small.manager.needs_commit(session)


@pytest.mark.parametrize(
    "hold",
    [
        lambda session: session["list"],
        lambda session: session.pop("list"),
        dict,
        lambda session: session.__setitem__("held", [1]),
        lambda session: session.update(held=[1]),
        lambda session: session.setdefault("held", [1]),
        lambda session: session.assign({"held": [1]}),
    ],
)
def test_what_can_be_edited_in_place_needs_every_commit(small: Rig, hold: Callable[[Session], object]) -> None:
    session = small.open(small.begin(n=1, list=[1]))
    hold(session)
    for _ in range(2):
        assert small.manager.needs_commit(session, headers_left=True)
        small.commit(session)


def test_what_was_committed_needs_no_other_commit(small: Rig, spy: Spy) -> None:
    session = small.open(small.begin(n=1))
    session["n"] = 2
    small.commit(session)
    assert not small.manager.needs_commit(session)
    assert session["n"] == 2
    assert not small.manager.needs_commit(session)


def test_what_is_still_being_committed_needs_a_commit(valkey: RedisServer, sqlite_url: str) -> None:
    async def scenario() -> None:
        manager = build_manager(
            Settings(redis_url=valkey.url, database_url=sqlite_url, **PATIENT),
            is_async=True,
            on_event=lambda event: None,
        )
        session = await manager.open()
        session["n"] = 1
        saving = asyncio.ensure_future(manager.commit(session))
        await asyncio.sleep(0)
        assert manager.needs_commit(session)
        session["m"] = 2
        await saving
        assert manager.needs_commit(session)
        await manager.commit(session)
        assert not manager.needs_commit(session)
        await manager.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("stops", [asyncio.CancelledError, SerializationError])
def test_what_was_not_committed_still_needs_to_be(clock: Clock, stops: type[BaseException]) -> None:
    rig, store = spoilt_rig(clock)
    session = rig.open(rig.begin(n=1))
    session["n"] = 2
    store.stops = stops()
    with pytest.raises(stops):
        rig.commit(session)
    assert rig.manager.needs_commit(session, headers_left=True)


def test_what_outlives_a_session_that_cannot_be_read_needs_a_commit() -> None:
    told: list[Any] = []
    manager = SessionManager(
        cast(Store, MemoryStore()), Settings(secret_key=SECRET_KEY), codec=Forgetful(), on_event=told.append
    )
    rig = Rig(manager, run_blocking, told)
    session = rig.open(rig.begin(bad=1))
    session["n"] = 2
    rig.commit(session)
    assert not manager.needs_commit(session)
    assert "bad" in session
    assert session.get("bad") is None
    assert manager.needs_commit(session)
    cookies = (rig.commit(session) or "").partition(";")[0]
    assert dict(rig.open(cookies)) == {"n": 2}


def test_a_cookie_that_is_due_to_be_renewed_needs_a_commit_while_one_can_be_set(small: Rig, clock: Clock) -> None:
    cookies = small.begin(n=1)
    clock.advance(small.manager.settings.idle_timeout / 2 + 1)
    session = small.open(cookies)
    assert not small.manager.needs_commit(session)  # nobody has looked at it
    assert session["n"] == 1
    assert not small.manager.needs_commit(session, headers_left=True)
    assert small.manager.needs_commit(session)
    assert small.commit(session)
    assert not small.manager.needs_commit(session)


def test_a_cookie_that_does_not_know_of_a_write_needs_a_commit(small: Rig) -> None:
    cookies = small.begin(n=1)
    other = small.open(cookies)
    other["n"] = 2
    small.commit(other)
    session = small.open(cookies)
    assert session["n"] == 2
    assert small.manager.needs_commit(session)
    assert small.commit(session)
    assert not small.manager.needs_commit(session)


def test_the_copy_in_sql_is_made_after_the_response(rig: Rig) -> None:
    cookies = rig.begin(n=1)
    assert rig.manager.pending
    store = rig.manager.store
    assert isinstance(store, FailoverStore)
    assert rig.run(_active(cast(Store, store.secondary))) == 0
    rig.run(rig.manager.after_response())
    assert rig.run(_active(cast(Store, store.secondary))) == 1
    assert not rig.manager.pending
    assert rig.open(cookies)["n"] == 1


async def _active(store: Store) -> int:
    manager = SessionManager(store, Settings(secret_key=SECRET_KEY), clock=Clock())
    return (await manager.stats()).active


def test_a_script_can_see_and_end_the_sessions_of_a_user(rig: Rig, clock: Clock) -> None:
    cookies = [rig.begin(user="7"), rig.begin(user="7"), rig.begin(user="8")]
    infos = rig.run(rig.manager.sessions(7))
    assert [info.created_at for info in infos] == [clock()] * 2
    assert rig.run(rig.manager.revoke("7", handle=infos[0].handle)) == 1
    assert rig.run(rig.manager.revoke("7", handle="0" * 16)) == 0
    assert rig.run(rig.manager.revoke(7)) == 1
    assert rig.run(rig.manager.revoke("7")) == 0
    assert [rig.open(cookie).user_id for cookie in cookies] == [None, None, "8"]


def test_keeping_a_session_that_is_not_one_of_the_user_keeps_none(rig: Rig) -> None:
    rig.begin(user="7")
    assert rig.run(rig.manager.revoke("7", keep=rig.open())) == 1
    rig.begin(user="7")
    assert rig.run(rig.manager.revoke("7", keep=rig.open(rig.begin(user="8")))) == 1


def test_nothing_is_ended_while_nobody_knows_which_session_to_keep(small: Rig, spy: Spy) -> None:
    session = small.manager.begin("; ".join([small.begin(user="7"), small.begin(user="7")]))
    spy.down = True
    with pytest.raises(StoreUnavailable):
        small.run(small.manager.revoke("7", keep=session))
    assert "end" not in spy.calls


def test_a_manager_counts_and_tidies(rig: Rig, clock: Clock) -> None:
    rig.begin(user="7")
    rig.begin(n=1)
    rig.run(rig.manager.after_response())
    stats = rig.run(rig.manager.stats())
    assert (stats.active, stats.users) == (2, 1)
    assert rig.run(rig.manager.cleanup()) == 0


def test_a_closed_manager_can_be_used_again(rig: Rig) -> None:
    cookies = rig.begin(n=1)
    rig.run(rig.manager.aclose())
    assert dict(rig.open(cookies)) == {"n": 1}


def test_an_asyncio_manager_serves_one_event_loop_after_another(valkey: RedisServer, sqlite_url: str) -> None:
    settings = Settings(redis_url=valkey.url, database_url=sqlite_url, **PATIENT)
    manager = build_manager(settings, is_async=True, on_event=lambda event: None)

    async def count() -> int:
        session = await manager.open()
        session["n"] = 1
        await manager.commit(session)
        await manager.after_response()
        active = (await manager.stats()).active
        await manager.aclose()
        return active

    assert [asyncio.run(count()) for _ in range(2)] == [1, 2]


def test_the_request_labels_its_session(rig: Rig) -> None:
    session = rig.open()
    session.login("7")
    rig.commit(session, info=RequestInfo(user_agent="Firefox/140.0 (X11; Linux) \u00e9", ip_address="192.0.2.1"))
    [info] = rig.run(rig.manager.sessions("7"))
    assert (info.user_agent, info.ip_address) == ("Firefox 140 on Linux", "192.0.2.1")


def test_what_comes_after_the_response_never_raises(small: Rig, spy: Spy) -> None:
    spy.down = True
    small.run(small.manager.after_response())
    assert len(small.of(events.CopyOwed)) == 1


def test_neither_events_nor_representations_hold_an_id_or_a_value(rig: Rig) -> None:
    cookies = rig.begin(user="7", word="xyzzy")
    session = rig.open(cookies)
    session_id = session.id or "none"
    session.regenerate_id()
    rig.commit(session)
    rig.run(rig.manager.revoke("7"))
    assert rig.open(cookies).is_new
    rig.open(cookies[:-3])
    assert {type(event) for event in rig.told} >= {
        events.SessionCreated, events.IdChanged, events.SessionEnded, events.UnknownSession, events.CookieRejected
    }  # fmt: skip
    shown = [repr(rig.manager), repr(session), str(session), *(repr(asdict(event)) for event in rig.told)]
    for text in shown:
        assert session_id not in text
        assert (session.id or "none") not in text
        assert "xyzzy" not in text


# -- colours -----------------------------------------------------------------------------------------------------------

SETTINGS = Settings(secret_key=SECRET_KEY, redis_url="redis://127.0.0.1:1/0")


def manager_of(is_async: bool) -> SessionManager:
    return build_manager(SETTINGS, is_async=is_async)


def test_each_middleware_refuses_a_manager_of_the_other_colour() -> None:
    with pytest.raises(ConfigurationError, match=r"colour.*blocking"):
        wsgi.SessionMiddleware(wsgi_app, manager_of(is_async=True))
    with pytest.raises(ConfigurationError, match=r"colour.*asyncio"):
        asgi.SessionMiddleware(asgi_app, manager_of(is_async=False))


@pytest.mark.parametrize("is_async", [True, False])
def test_each_middleware_takes_a_manager_of_its_own_colour_or_of_none(is_async: bool) -> None:
    middleware: Any = asgi.SessionMiddleware if is_async else wsgi.SessionMiddleware
    for manager in (manager_of(is_async), SessionManager(cast(Store, MemoryStore()), SETTINGS)):
        assert middleware(asgi_app, manager).manager is manager


@pytest.mark.parametrize("is_async", [True, False])
def test_two_stores_of_different_colours_do_not_go_together(is_async: bool) -> None:
    redis = RedisStore.from_url("redis://127.0.0.1:1/0", is_async=is_async)
    sql = SQLStore.from_url("sqlite://", is_async=not is_async)
    with pytest.raises(ConfigurationError, match="two colours"):
        FailoverStore(redis, sql)


def test_a_store_without_a_colour_goes_with_both() -> None:
    memory = MemoryStore(counts="s")
    for is_async in (True, False):
        store = FailoverStore(RedisStore.from_url("redis://127.0.0.1:1/0", is_async=is_async), memory)
        assert store.is_async is is_async
    assert FailoverStore(MemoryStore(), memory).is_async is None


def test_blocking_code_cannot_use_an_asyncio_manager() -> None:
    manager = manager_of(is_async=True)
    with pytest.raises(RuntimeError):
        manager.close()
    with pytest.raises(RuntimeError):
        run_blocking(manager.sessions("7"))


def test_on_an_event_loop_a_session_is_loaded_before_it_is_read() -> None:
    """It could not be loaded then, and an empty one would look like a logout."""
    manager = manager_of(is_async=True)
    cookie = CookieJar(SETTINGS).set(Ticket("x" * 43, Version(0, 1), 1.9e9), secure=False).partition(";")[0]
    session = manager.begin(cookie)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="has to be loaded"):
            dict(session)
    session.logout()
    assert dict(session) == {}
    assert dict(manager.begin("vedsess=forged")) == {}


# -- races -------------------------------------------------------------------------------------------------------------


def ended(rig: Rig) -> str:
    """The cookie of a session that has just been logged out of."""
    cookies = rig.begin(user="7", n=1)
    session = rig.open(cookies)
    session.logout()
    removal = rig.commit(session)
    assert removal is not None
    assert "Max-Age=0" in removal
    return cookies


def late_write(rig: Rig, cookies: str, *, reads: bool) -> str | None:
    session = rig.manager.begin(cookies)
    if reads or rig.manager.is_async:
        rig.run(rig.manager.load(session))
        assert dict(session) == {}
    session["late"] = 1
    return rig.commit(session)


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("age", [0.0, 9.9])
def test_a_request_that_meets_a_young_tombstone_sets_no_cookie(rig: Rig, clock: Clock, reads: bool, age: float) -> None:
    cookies = ended(rig)
    clock.advance(age)
    assert late_write(rig, cookies, reads=reads) is None
    assert [event.reason for event in rig.of(events.WriteRefused)] == ["the session had just been ended"]
    assert rig.run(rig.manager.stats()).active == 0


@pytest.mark.parametrize("reads", [True, False])
def test_a_request_that_meets_an_old_tombstone_may_begin_a_new_session(rig: Rig, clock: Clock, reads: bool) -> None:
    cookies = ended(rig)
    clock.advance(10.1)
    header = late_write(rig, cookies, reads=reads)
    assert header is not None
    session = rig.open(header.partition(";")[0])
    assert (session.user_id, dict(session)) == (None, {"late": 1})
    assert dict(rig.open(cookies)) == {}


def test_a_late_request_under_the_old_id_does_not_undo_the_new_cookie(rig: Rig) -> None:
    cookies = rig.begin(n=1)
    session = rig.open(cookies)
    session.login("7")
    assert rig.commit(session) is not None
    assert late_write(rig, cookies, reads=True) is None
    assert late_write(rig, cookies, reads=False) is None
    assert rig.run(rig.manager.stats()).active == 1


def test_a_login_under_a_cookie_that_was_just_ended_is_a_login(rig: Rig) -> None:
    session = rig.open(ended(rig))
    session.login("8")
    header = rig.commit(session)
    assert rig.open((header or "").partition(";")[0]).user_id == "8"


def test_a_session_that_expired_leaves_no_tombstone_to_respect(rig: Rig, clock: Clock) -> None:
    cookies = rig.begin(n=1)
    clock.advance(86401)
    assert late_write(rig, cookies, reads=True) is not None


def test_writes_without_a_read_of_several_workers_are_all_kept(rig: Rig) -> None:
    cookies = rig.begin(n=0)
    sessions = [rig.manager.begin(cookies) for _ in range(5)]
    for number, session in enumerate(sessions):
        rig.run(rig.manager.load(session))
        session[f"n{number}"] = number
    for session in reversed(sessions):
        rig.commit(session)
    assert dict(rig.open(cookies)) == {"n": 0, **{f"n{number}": number for number in range(5)}}


def test_a_write_without_a_read_that_fails_is_remembered(small: Rig, spy: Spy) -> None:
    cookies = small.begin(n=1)
    session = small.manager.begin(cookies)
    session["n"] = 2
    spy.down = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            small.commit(session)
    spy.down = False
    assert dict(small.open(cookies)) == {"n": 1}


# -- what should not happen --------------------------------------------------------------------------------------------


def test_an_id_that_is_taken_is_an_error_and_overwrites_nothing(spy: Spy, clock: Clock) -> None:
    manager = SessionManager(
        cast(Store, spy), Settings(secret_key=SECRET_KEY), clock=clock, new_id=lambda: "x" * 43, on_event=lambda e: None
    )
    rig = Rig(manager, run_blocking, [])
    cookies = rig.begin(n=1)
    with pytest.raises(SessionExists):
        rig.begin(n=2)
    assert dict(rig.open(cookies)) == {"n": 1}


GARBAGE: dict[str, Callable[[RedisServer, str], object]] = {
    "another type": lambda server, key: (server.cli("DEL", key), server.cli("SET", key, "x")),
    "another hash": lambda server, key: (server.cli("DEL", key), server.cli("HSET", key, "a", "b")),
    "a bad field": lambda server, key: server.cli("HSET", key, "d:n", "1"),
    "a bad value": lambda server, key: server.cli("HSET", key, "d:n", "9.9:{not json"),
    "a bad version": lambda server, key: server.cli("HSET", key, "version", "x"),
    "a bad time": lambda server, key: server.cli("HSET", key, "expires_at", "x"),
}


def spoilt(rig: Rig, server: RedisServer, spoil: Callable[[RedisServer, str], object]) -> str:
    """The cookie of a session whose record in Redis is spoilt."""
    cookies = rig.begin(n=1)
    rig.run(rig.manager.after_response())
    [key] = server.cli("KEYS", "vedsess:session:*")
    spoil(server, key)
    return cookies


def edit(rig: Rig, cookies: str, *, reads: bool) -> dict[str, Any]:
    """Add to a session, and read what is there then."""
    session = rig.manager.begin(cookies)
    if reads or rig.manager.is_async:
        rig.run(rig.manager.load(session))
        session.get("n")
    session["m"] = 2
    header = rig.commit(session)
    return dict(rig.open((header or "").partition(";")[0]))


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("name", sorted(GARBAGE.keys() - {"a bad value"}))
def test_a_record_that_cannot_be_read_is_made_good_by_its_copy(
    rig: Rig, valkey: RedisServer, name: str, reads: bool
) -> None:
    assert edit(rig, spoilt(rig, valkey, GARBAGE[name]), reads=reads) == {"n": 1, "m": 2}


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("name", sorted(GARBAGE.keys() - {"another type", "a bad value"}))
def test_a_record_that_cannot_be_read_and_has_no_copy_costs_one_session(
    valkey: RedisServer, clock: Clock, name: str, reads: bool
) -> None:
    told: list[Any] = []
    store = RedisStore.from_url(valkey.url, is_async=False, timeout=2.0)
    manager = SessionManager(store, Settings(secret_key=SECRET_KEY), clock=clock, on_event=told.append)
    rig = Rig(manager, run_blocking, told)
    cookies = spoilt(rig, valkey, GARBAGE[name])
    other = rig.begin(n=7)
    after = edit(rig, cookies, reads=reads)
    if reads:  # a write that does not look may not notice
        assert after == {"m": 2}
        assert rig.of(events.RecordRejected)
    assert dict(rig.open(other)) == {"n": 7}
    manager.close()


def test_a_value_that_no_codec_can_read_costs_one_session(rig: Rig, valkey: RedisServer) -> None:
    cookies = spoilt(rig, valkey, GARBAGE["a bad value"])
    assert edit(rig, cookies, reads=True) == {"m": 2}
    assert rig.of(events.RecordRejected)


class Spoilt(MemoryStore):
    """A store that finds no sense in what it holds, once it is told so."""

    trouble: Exception | None = None
    stops: BaseException | None = None

    def load(self, *args: Any, **options: Any) -> Any:
        if self.trouble:
            raise self.trouble
        return super().load(*args, **options)

    def update(self, *args: Any, **options: Any) -> Any:
        if self.stops:
            raise self.stops
        if isinstance(self.trouble, CorruptRecord):
            raise self.trouble
        return None if self.trouble else super().update(*args, **options)


def spoilt_rig(clock: Clock) -> tuple[Rig, Spoilt]:
    store, told = Spoilt(), list[Any]()
    manager = SessionManager(cast(Store, store), Settings(secret_key=SECRET_KEY), clock=clock, on_event=told.append)
    return Rig(manager, run_blocking, told), store


def test_a_write_without_a_read_to_a_record_without_sense_begins_a_new_session(clock: Clock) -> None:
    rig, store = spoilt_rig(clock)
    cookies = rig.begin(n=1)
    store.trouble = CorruptRecord("nonsense")
    header = late_write(rig, cookies, reads=False)
    store.trouble = None
    assert dict(rig.open((header or "").partition(";")[0])) == {"late": 1}
    assert {event.reason for event in rig.of(events.RecordRejected)} == {"nonsense"}


def test_nothing_is_concluded_when_the_store_goes_away_between_a_write_and_the_look_after_it(clock: Clock) -> None:
    rig, store = spoilt_rig(clock)
    cookies = rig.begin(n=1)
    store.trouble = StoreUnavailable("gone")
    with pytest.raises(StoreUnavailable):
        late_write(rig, cookies, reads=False)
    store.trouble = None
    assert dict(rig.open(cookies)) == {"n": 1}


def test_a_store_that_refuses_is_said_aloud(clock: Clock) -> None:
    class Refusing(MemoryStore):
        def load(self, *args: Any, **options: Any) -> Any:
            raise StoreMisconfigured("the password is wrong")

    told: list[Any] = []
    manager = SessionManager(cast(Store, Refusing()), Settings(secret_key=SECRET_KEY), on_event=told.append)
    rig = Rig(manager, run_blocking, told)
    session = rig.open(rig.begin(n=1))
    with pytest.raises(StoreMisconfigured):
        dict(session)
    with pytest.raises(StoreMisconfigured):
        rig.commit(session)
    assert [event.reason for event in rig.of(events.StoreRefused)] == ["the password is wrong"]


def test_a_loss_that_has_been_said_is_not_looked_for_again() -> None:
    events, waited, at = list[Event](), list[float](), [1.9e9]
    store = FailoverStore(
        MemoryStore(), MemoryStore(counts="s"), clock=lambda: at[0], wait=waited.append, on_event=events.append
    )
    settings = Settings(secret_key=SECRET_KEY)
    manager = SessionManager(store, settings, clock=lambda: at[0], on_event=lambda event: None)

    def answered(cookies: str) -> tuple[Session, str]:
        session = run_blocking(manager.open(cookies))
        session["n"] = session.get("n", 0) + (not cookies)
        header = run_blocking(manager.commit(session))
        run_blocking(manager.after_response())
        return session, header.partition(";")[0] if header else cookies

    _, cookies = answered("")
    [ticket] = CookieJar(settings).read(cookies)
    assert isinstance(ticket, Ticket)
    ahead = replace(ticket, token=Version(ticket.token.s, ticket.token.r + 1))
    cookies = CookieJar(settings).set(ahead, secure=False).partition(";")[0]
    session, cookies = answered(cookies)
    assert (session.stale, session["n"]) == (True, 1)
    assert [type(event) for event in events].count(WritesLost) == 1
    waited.clear()
    for _ in range(3):
        at[0] += 1.0
        session, cookies = answered(cookies)
        assert (session.stale, session["n"]) == (False, 1)
    assert waited == []
    assert [type(event) for event in events].count(WritesLost) == 1
