"""One app under every web server: real processes, real Redis, real SQLite, real HTTP."""

import json
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.servers import RedisServer, RedisServers, eventually
from tests.webapps import DOWNLOAD
from tests.webservers import ASGI_SERVERS, COOKIE, WSGI_SERVERS, WebServer, cookie_of, session_id_of
from vedsess_middleware.stores.sql.tables import sessions

AT_ONCE = 20
FORKING = [name for name in WSGI_SERVERS if name.startswith("gunicorn")]


class Servers(dict[str, WebServer]):
    """Running web servers by name, each started when first asked for."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        super().__init__()
        self.redis, self.directory = redis, directory

    def __missing__(self, name: str) -> WebServer:
        stores = {"REDIS_URL": self.redis.url, "VEDSESS_DATABASE_URL": f"sqlite:///{self.database(name)}"}
        # Patient enough for a machine that is busy with something else.
        stores |= {"VEDSESS_REDIS_TIMEOUT": "2", "VEDSESS_SQL_TIMEOUT": "5"}
        command = (WSGI_SERVERS | ASGI_SERVERS)[name]
        self[name] = WebServer(command, environment=stores, directory=self.directory).start()
        return self[name]

    def database(self, name: str) -> Path:
        return self.directory / f"{name}.sqlite3"


@pytest.fixture(scope="module")
def servers(redis_servers: RedisServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = Servers(redis_servers["valkey-9.1"].empty(), tmp_path_factory.mktemp("web"))
    yield started
    for server in started.values():
        server.close()


@pytest.fixture(params=[*WSGI_SERVERS, *ASGI_SERVERS])
def browser(request: pytest.FixtureRequest, servers: Servers) -> Iterator[httpx.Client]:
    with servers[request.param].browser() as client:
        yield client


def get(browser: httpx.Client, path: str, **query: str) -> dict[str, Any]:
    """The JSON that the app answers; an error for any status but 200."""
    answer: dict[str, Any] = browser.get(path, params=query).raise_for_status().json()
    return answer


def every_server(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("browser", names, indirect=True)


def test_nothing_is_lost_between_a_login_and_a_logout(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    get(browser, "/add", item="a nested edit")
    expected = {f"n{i}": str(i) for i in range(AT_ONCE)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda item: get(browser, "/write", **dict([item])), expected.items()))

    found = get(browser, "/read")
    assert found["user"] == "ada"
    assert found["store"] == "redis"
    assert found["values"] == {"cart": {"items": ["a nested edit"]}} | expected

    cookie = cookie_of(browser)
    get(browser, "/logout")
    assert COOKIE not in browser.cookies
    browser.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
    assert get(browser, "/read")["user"] is None
    assert get(browser, "/read")["values"] == {}


def test_sql_has_its_copy_soon_after_the_response(
    browser: httpx.Client, servers: Servers, request: pytest.FixtureRequest
) -> None:
    database = servers.database(request.node.callspec.params["browser"])
    get(browser, "/login", user="ada")
    get(browser, "/write", name="value")
    key = sha256(session_id_of(cookie_of(browser)).encode()).hexdigest()
    query = f"SELECT is_active, fields LIKE '%value%' FROM {sessions.name} WHERE session_id = ?"
    with closing(sqlite3.connect(database)) as connection:

        def row() -> Any:
            return connection.execute(query, [key]).fetchone()

        eventually(lambda: row() == (1, 1))
        get(browser, "/logout")
        assert row()[0] == 0
    assert servers.redis.cli("HKEYS", f"vedsess:session:{key}") == ["gone"]


def test_a_stream_writes_before_its_first_chunk_and_after(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    with browser.stream("GET", "/stream", params={"value": "x"}) as response:
        assert response.headers["vary"] == "Cookie"
        assert "".join(response.iter_text()) == "early, late"
    assert get(browser, "/read")["values"] == {"cart": {"items": []}, "early": "x", "late": "x"}


def test_a_stream_that_nobody_hears_to_the_end_leaves_the_session_sound(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    with browser.stream("GET", "/stream", params={"value": "x"}):
        pass
    assert get(browser, "/read")["values"]["early"] == "x"


def test_a_head_request_has_the_headers_and_no_body(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    response = browser.head("/read")
    assert response.status_code == 200
    assert response.headers["vary"] == "Cookie"
    assert response.content == b""


def test_an_app_that_fails_gets_the_servers_own_error_and_changes_nothing(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    cookie = cookie_of(browser)
    response = browser.get("/fail", params={"broken": "yes"})
    assert response.status_code == 500
    assert "set-cookie" not in response.headers
    assert cookie_of(browser) == cookie
    assert get(browser, "/read")["values"] == {"cart": {"items": []}}


def test_who_does_not_touch_the_session_gets_no_header_of_ours(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    headers = browser.get("/elsewhere").headers
    assert not {"set-cookie", "vary", "cache-control"} & set(headers)


@every_server(list(WSGI_SERVERS))
def test_the_write_callable_sends_what_it_is_given_and_the_session_is_stored(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    assert browser.get("/push", params={"pushed": "x"}).text == "pushed, returned"
    assert get(browser, "/read")["values"]["pushed"] == "x"


@every_server(list(WSGI_SERVERS))
def test_a_file_is_sent_whole_by_the_servers_own_means(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    response = browser.get("/download")
    assert response.content == DOWNLOAD.read_bytes()
    assert "set-cookie" not in response.headers


@every_server(FORKING)
def test_forked_workers_share_the_sessions(browser: httpx.Client) -> None:
    """Those of `--preload` were forked after the app had connections."""
    get(browser, "/login", user="ada")
    workers: set[int] = set()

    def both_answered() -> bool:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: get(browser, "/read"), range(8)))
        assert {answer["user"] for answer in found} == {"ada"}
        workers.update(answer["pid"] for answer in found)
        return len(workers) == 2

    eventually(both_answered)


@every_server(list(ASGI_SERVERS))
def test_a_websocket_carries_the_session_both_ways(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    with websocket(browser, "/") as socket:
        socket.send("spoken=aloud")
        assert json.loads(socket.recv())["values"]["spoken"] == "aloud"
        assert get(browser, "/read")["values"]["spoken"] == "aloud"
        get(browser, "/write", written="beside")
        socket.send("leave")
    eventually(lambda: "left" in get(browser, "/read")["values"])
    assert get(browser, "/read")["values"]["written"] == "beside"


@every_server(list(ASGI_SERVERS))
def test_a_login_on_a_websocket_sets_its_cookie_with_the_accept(browser: httpx.Client) -> None:
    with websocket(browser, "/?user=ada") as socket:
        assert socket.response is not None
        cookie = socket.response.headers["set-cookie"].partition(";")[0].removeprefix(f"{COOKIE}=")
    browser.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
    assert get(browser, "/read")["user"] == "ada"


@every_server(list(ASGI_SERVERS))
def test_a_websocket_cannot_undo_a_logout(browser: httpx.Client) -> None:
    get(browser, "/login", user="ada")
    cookie = cookie_of(browser)
    with websocket(browser, "/") as socket:
        get(browser, "/logout")
        socket.send("spoken=too late")
        socket.recv()
        socket.send("leave")
    browser.cookies.set(COOKIE, cookie, domain="127.0.0.1", path="/")
    assert get(browser, "/read")["user"] is None


def test_no_server_had_anything_to_complain_of(servers: Servers) -> None:
    """The last one here: it looks at what all the others left in the logs."""
    ours = re.compile(r"^(WARNING|ERROR|CRITICAL) (vedsess_middleware|sqlalchemy|redis|asyncio)", re.MULTILINE)
    assert {name: server.log for name, server in servers.items() if ours.search(server.log)} == {}


def websocket(browser: httpx.Client, path: str) -> ClientConnection:
    address = str(browser.base_url.join(path)).replace("http://", "ws://")
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    return connect(address, additional_headers={"Cookie": cookies} if cookies else {}, proxy=None)
