"""Every example, run by the command that it names, on a real server with a real Redis."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import RedisServer, eventually
from tests.webservers import COOKIE, REPOSITORY, WebServer, cookie_of

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
PORT_OPTIONS = {
    "flask": "--port {port}",
    "gunicorn": "--bind 127.0.0.1:{port}",
    "uvicorn": "--port {port}",
    "waitress-serve": "--listen 127.0.0.1:{port}",
}

every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)


def command_of(example: Path) -> str:
    """The one command in its docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text())) or ""
    [command] = re.findall(r"^    (\S.*)$", docstring, re.MULTILINE)
    return str(command)


@pytest.fixture
def browser(example: Path, valkey: RedisServer, sqlite_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    command = command_of(example)
    program, _, rest = command.partition(" ")
    options = PORT_OPTIONS[program]
    # Flask has its options after the subcommand, the others before the app.
    command = f"{command} {options}" if program == "flask" else f"{program} {options} {rest}"
    stores = {"REDIS_URL": valkey.url, "VEDSESS_DATABASE_URL": sqlite_url}
    with WebServer(command, environment=stores, directory=tmp_path) as server, server.browser() as client:
        yield client


@every_example
def test_a_user_logs_in_and_out_and_the_old_cookie_is_dead(browser: httpx.Client, valkey: RedisServer) -> None:
    assert browser.get("/whoami").json() == {"user": None}
    assert not browser.cookies

    assert browser.post("/login?user=grace").json() == {"user": "grace", "visits": {"whoami": 0}}
    assert browser.get("/whoami").json() == {"user": "grace", "visits": {"whoami": 1}}
    assert browser.get("/whoami").json() == {"user": "grace", "visits": {"whoami": 2}}
    assert valkey.cli("ZCARD", "vedsess:user_sessions:grace") == 1

    old = cookie_of(browser)
    assert browser.post("/logout").json() == {"user": None}
    assert not browser.cookies
    browser.cookies.set(COOKIE, old, domain="127.0.0.1", path="/")
    assert browser.get("/whoami").json() == {"user": None}
    eventually(lambda: valkey.cli("ZCARD", "vedsess:user_sessions:grace") == 0)


def test_there_is_one_for_each_kind_of_app() -> None:
    names = {example.stem for example in EXAMPLES}
    assert names == {"plain_wsgi", "flask_app", "bottle_app", "plain_asgi", "starlette_app", "fastapi_app"}


@every_example
def test_an_example_fits_on_one_page(example: Path) -> None:
    assert len(example.read_text().splitlines()) <= 40


@every_example
def test_an_example_names_one_command_that_runs_it(example: Path) -> None:
    assert f"examples.{example.stem}" in command_of(example)
