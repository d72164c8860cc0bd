"""The three ways to configure a middleware, and what comes of them."""

import asyncio
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.clients import SECRET_KEY, AsgiBrowser, Browser, WsgiBrowser, asgi_app, wsgi_app
from tests.servers import RedisServer, free_port
from vedsess_middleware import ConfigurationError, JsonCodec, SessionManager, Settings, asgi, run_blocking, wsgi
from vedsess_middleware.build import DEFAULT_DATABASE_URL, build_manager, build_store
from vedsess_middleware.events import Event
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.sql import SQLStore

PATIENT: dict[str, Any] = {"redis_timeout": 5.0, "sql_timeout": 5.0}
NOWHERE = "redis://127.0.0.1:1/0"


class Built:
    """A middleware of one kind, and a browser for it."""

    def __init__(self, kind: str, runner: asyncio.Runner) -> None:
        self.is_async, self._runner = kind == "asgi", runner
        self.middleware: Any = asgi.SessionMiddleware if self.is_async else wsgi.SessionMiddleware
        self.app: Any = asgi_app if self.is_async else wsgi_app
        self._made: list[SessionManager] = []

    def __call__(self, *config: Any, **options: Any) -> Any:
        made = self.middleware(self.app, *config, **options)
        self._made.append(made.manager)
        return made

    def browser(self, app: Any) -> Browser:
        return AsgiBrowser(app, self._runner.run) if self.is_async else WsgiBrowser(app, run_blocking)

    def close(self) -> None:
        for manager in self._made:
            if self.is_async:
                self._runner.run(manager.aclose())
            else:
                manager.close()


@pytest.fixture(params=["wsgi", "asgi"])
def build(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Built]:
    """Builds middlewares in a working directory of their own."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with asyncio.Runner() as runner:
        built = Built(request.param, runner)
        yield built
        built.close()


def count(session: Any) -> tuple[int, str]:
    session["n"] = session.get("n", 0) + 1
    return session["n"], session.store


# -- three forms -------------------------------------------------------------------------------------------------------


def test_keywords_are_settings(build: Built, valkey: RedisServer, sqlite_url: str) -> None:
    app = build(secret_key=SECRET_KEY, redis_url=valkey.url, database_url=sqlite_url, key_prefix="shop:", **PATIENT)
    browser = build.browser(app)
    assert [browser(count).result for _ in range(2)] == [(1, ""), (2, "redis")]
    assert len(valkey.cli("KEYS", "shop:session:*")) == 1


def test_settings_can_be_handed_over(build: Built, valkey: RedisServer, sqlite_url: str) -> None:
    settings = Settings(secret_key=SECRET_KEY, redis_url=valkey.url, database_url=sqlite_url, **PATIENT)
    app = build(settings)
    assert app.manager.settings is settings
    browser = build.browser(app)
    assert [browser(count).result for _ in range(2)] == [(1, ""), (2, "redis")]


def test_settings_come_from_the_environment(build: Built, valkey: RedisServer, sqlite_url: str) -> None:
    environ = {"VEDSESS_SECRET_KEY": SECRET_KEY, "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(valkey.port)}
    app = build(Settings.from_env(environ, database_url=sqlite_url, **PATIENT))
    browser = build.browser(app)
    assert [browser(count).result for _ in range(2)] == [(1, ""), (2, "redis")]


def test_a_manager_can_be_handed_over(build: Built) -> None:
    manager = SessionManager(cast(Store, MemoryStore()), Settings(secret_key=SECRET_KEY))
    app = build(manager)
    assert app.manager is manager
    browser = build.browser(app)
    assert [browser(count).result for _ in range(2)] == [(1, ""), (2, "memory")]


def test_an_app_whose_options_are_called_like_it_can_be_wrapped(build: Built) -> None:
    """Frameworks pass options by name: none of ours may collide with the app itself."""
    with pytest.raises(ConfigurationError, match="app is not a setting"):
        build(secret_key=SECRET_KEY, app="shop")


def test_extensions_go_with_keywords_and_with_settings(build: Built, sqlite_url: str) -> None:
    told: list[object] = []
    extensions = {
        "codec": JsonCodec(),
        "clock": lambda: 1_900_000_000.0,
        "new_id": lambda: "x" * 43,
        "on_event": told.append,
    }
    settings = {"secret_key": SECRET_KEY, "database_url": sqlite_url}
    browser = build.browser(build(**settings, **extensions))
    browser(count)
    assert browser(lambda session: (session.id, session.created_at)).result == ("x" * 43, 1_900_000_000.0)
    assert len(told) == 1
    other = build.browser(build(Settings(**settings), **extensions))  # type: ignore[arg-type]
    other.jar = browser.jar.copy()
    assert other(count).result == (2, "sql")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "secret_key.*vedsess keygen"),
        ({"secret_key": "short"}, "secret_key"),
        ({"secret_key": SECRET_KEY, "idle_timeout": 0}, "idle_timeout"),
        ({"secret_key": SECRET_KEY, "redis_ulr": NOWHERE}, "redis_ulr is not a setting: did you mean redis_url"),
        ({"secret_key": SECRET_KEY, "redis_url": "http://x"}, "redis_url must begin with"),
        ({"secret_key": SECRET_KEY, "database_url": "oracle://x/y"}, "database_url"),
        ({"secret_key": SECRET_KEY, "cookie_samesite": "None"}, "cookie_samesite"),
    ],
)
def test_an_error_names_the_setting(build: Built, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**options)


def test_settings_and_keywords_do_not_mix(build: Built) -> None:
    with pytest.raises(ConfigurationError, match="audience, cookie_name"):
        build(Settings(secret_key=SECRET_KEY), cookie_name="x", audience="y")


@pytest.mark.parametrize("options", [{"secret_key": SECRET_KEY}, {"clock": lambda: 0.0}])
def test_a_manager_and_anything_else_do_not_mix(build: Built, options: dict[str, Any]) -> None:
    manager = SessionManager(cast(Store, MemoryStore()), Settings(secret_key=SECRET_KEY))
    with pytest.raises(ConfigurationError, match="a manager was given"):
        build(manager, **options)


def test_what_is_neither_settings_nor_manager_is_refused(build: Built) -> None:
    for config in ({"secret_key": SECRET_KEY}, "settings", Settings):
        with pytest.raises(ConfigurationError, match="neither Settings nor a SessionManager"):
            build(config)


# -- which stores ------------------------------------------------------------------------------------------------------


def test_redis_and_a_database_are_one_store_that_fails_over() -> None:
    store = build_store(Settings(secret_key=SECRET_KEY, redis_url=NOWHERE, database_url="sqlite://"), is_async=False)
    assert isinstance(store, FailoverStore)
    assert (store.primary.name, store.secondary.name) == ("redis", "sql")


@pytest.mark.parametrize("is_async", [True, False])
def test_without_redis_there_is_sql_only(is_async: bool) -> None:
    store = build_store(Settings(secret_key=SECRET_KEY, database_url="sqlite://"), is_async=is_async)
    assert isinstance(store, SQLStore)
    assert store.is_async is is_async


@pytest.mark.parametrize("storage", ["database", "DATABASE"])
def test_session_storage_database_ignores_a_redis(build: Built, sqlite_url: str, storage: str) -> None:
    environ = {"SESSION_STORAGE": storage, "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    app = build(Settings.from_env(environ, secret_key=SECRET_KEY, database_url=sqlite_url))
    assert isinstance(app.manager.store, SQLStore)
    browser = build.browser(app)
    assert [browser(count).result for _ in range(2)] == [(1, ""), (2, "sql")]


def test_the_settings_reach_the_stores(valkey: RedisServer, sqlite_url: str) -> None:
    settings = Settings(
        secret_key=SECRET_KEY, redis_url=valkey.url, database_url=sqlite_url, mirror="before-response",
        idle_timeout=100, absolute_timeout=150, remember_timeout=200, key_prefix="p:", **PATIENT,
    )  # fmt: skip
    manager = build_manager(settings, is_async=False)
    session = run_blocking(manager.open())
    session["n"] = 1
    run_blocking(manager.commit(session))
    [key] = valkey.cli("KEYS", "p:session:*")
    assert 90_000 < valkey.cli("PTTL", key) <= 100_000
    assert valkey.cli("TTL", "p:session_index:all") <= 201
    store = manager.store
    assert isinstance(store, FailoverStore)
    assert run_blocking(cast(Any, store.secondary).stats(at=0.0)).active == 1
    manager.close()


# -- the default database ----------------------------------------------------------------------------------------------


def test_the_default_database_is_a_private_file_made_on_first_use(build: Built) -> None:
    before = os.umask(0)
    try:
        app = build(secret_key=SECRET_KEY)
        browser = build.browser(app)
        browser()
        browser(lambda session: session.get("n"))
        assert list(Path().iterdir()) == []
        browser(count)
    finally:
        os.umask(before)
    files = sorted(Path().iterdir())
    assert files[0].name == "vedsess.sqlite3"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_default_database_is_said_once_in_the_log(build: Built, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vedsess_middleware"):
        browser = build.browser(build(secret_key=SECRET_KEY))
        browser(count)
        browser(count)
    said = [record.message for record in caplog.records if "vedsess.sqlite3" in record.message]
    assert said == [f"no database_url: sessions are kept in {DEFAULT_DATABASE_URL}, which only this host can read"]


def test_building_opens_no_connection(build: Built) -> None:
    build(secret_key=SECRET_KEY, redis_url=NOWHERE, database_url="postgresql://x@127.0.0.1:1/x")
    assert list(Path().iterdir()) == []


def test_the_events_of_the_manager_and_of_its_stores_are_counted_together(valkey: RedisServer, sqlite_url: str) -> None:
    told: list[Event] = []
    settings = Settings(secret_key=SECRET_KEY, redis_url=valkey.url, database_url=sqlite_url)
    manager = build_manager(settings, is_async=False, on_event=told.append)
    session = run_blocking(manager.open())
    session["n"] = 1
    cookie = run_blocking(manager.commit(session))
    assert cookie
    valkey.cli("SCRIPT", "FLUSH")
    run_blocking(manager.open(cookie.partition(";")[0]))
    assert manager.counters == {"SessionCreated": 1, "StoreRestarted": 1}
    assert [type(event).__name__ for event in told] == ["SessionCreated", "StoreRestarted"]
    manager.close()
