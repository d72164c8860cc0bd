"""The public names: where they are promised to be, and each with a word on what it promises."""

import dataclasses
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from starlette.applications import Starlette

import vedsess_middleware
from vedsess_middleware import Session, SessionManager, Settings, asgi, errors, wsgi
from vedsess_middleware.stores.contract import Primary, Secondary
from vedsess_middleware.stores.memory import MemoryStore

PACKAGE = vedsess_middleware.__name__
FOLDER = Path(vedsess_middleware.__file__).parent
PROJECT = Path(__file__).parent.parent / "pyproject.toml"
KEY = "Lw6nB2vX9qT4mK7zR1cY8jP3dH5gF0sAeUiOaStEwMk"
FILES = sorted(path for path in FOLDER.rglob("*.py") if path.read_text())


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(FOLDER.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [name_of(path) for path in FILES if path.stem != "__main__"]


@cache
def module(name: str) -> ModuleType:
    """A module of the package, imported."""
    return importlib.import_module(name)


# -- where names are ---------------------------------------------------------------------------------------------------


def _rank(name: str) -> tuple[int, str]:
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


@pytest.mark.parametrize("name", MODULES)
def test_every_module_lists_its_public_names_sorted(name: str) -> None:
    """Constants, then classes, then functions, each by alphabet."""
    listed = getattr(module(name), "__all__", None)
    if listed is None:
        assert not list(public_definitions(module(name))), "what is public has to be listed"
        return
    assert listed == sorted(listed, key=_rank)
    assert len(set(listed)) == len(listed)
    for each in listed:
        assert hasattr(module(name), each)
        assert not each.startswith("_")


@pytest.mark.parametrize("name", MODULES)
def test_a_class_that_is_not_listed_is_private(name: str) -> None:
    classes = {each for each, value in public_definitions(module(name)) if inspect.isclass(value)}
    assert classes <= set(getattr(module(name), "__all__", ()))


def public_definitions(found: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions that a module defines itself, without private ones."""
    for name, value in vars(found).items():
        defined = inspect.isclass(value) or inspect.isfunction(value)
        if defined and value.__module__ == found.__name__ and not name.startswith("_"):
            yield name, value


def test_the_package_exports_what_the_documentation_names() -> None:
    assert {"Settings", "SessionManager", "Session", "run_blocking"} < set(vedsess_middleware.__all__)
    assert set(errors.__all__) < set(vedsess_middleware.__all__)


def test_the_errors_are_one_tree() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, errors.SessionError) for kind in kinds)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.SerializationError, TypeError)
    stores = {errors.CorruptRecord, errors.SessionExists, errors.StoreMisconfigured, errors.StoreUnavailable}
    assert all(issubclass(kind, errors.StoreError) for kind in stores)
    assert not issubclass(errors.StoreUnavailable, OSError)


def test_the_session_is_where_the_documentation_says() -> None:
    assert wsgi.ENVIRON_KEY == "vedsess.session"


def test_a_session_has_the_promised_names() -> None:
    properties = {name for name, value in vars(Session).items() if isinstance(value, property)}
    assert properties == {
        "accessed",
        "authenticated_at",
        "created_at",
        "expires_at",
        "id",
        "is_new",
        "last_activity",
        "modified",
        "stale",
        "store",
        "user_id",
    }
    assert {"login", "logout", "invalidate", "regenerate_id", "save"} < vars(Session).keys()
    assert Session.logout is Session.invalidate


def test_a_manager_has_the_promised_names() -> None:
    promised = {"open", "commit", "after_response", "sessions", "revoke", "close", "aclose"}
    assert promised < vars(SessionManager).keys()
    blocking = {"close"}
    coroutines = {name for name in promised if inspect.iscoroutinefunction(getattr(SessionManager, name))}
    assert coroutines == promised - blocking


def test_the_settings_have_the_promised_fields() -> None:
    assert {each.name for each in dataclasses.fields(Settings)} == {
        "absolute_timeout",
        "audience",
        "compress_above",
        "cookie_domain",
        "cookie_name",
        "cookie_partitioned",
        "cookie_path",
        "cookie_persistent",
        "cookie_samesite",
        "cookie_secure",
        "database_url",
        "encryption_accepts_plain",
        "encryption_key",
        "exclude",
        "fingerprint_parts",
        "fingerprint_policy",
        "idle_timeout",
        "ip_address_detail",
        "ipv4_prefix",
        "ipv6_prefix",
        "key_prefix",
        "max_field_bytes",
        "max_session_bytes",
        "max_sessions_per_user",
        "may_create",
        "mirror",
        "old_id_policy",
        "probe_timeout",
        "redis_timeout",
        "redis_url",
        "remember_timeout",
        "renewal_timeout",
        "rotation_grace",
        "secret_key",
        "session_limit_policy",
        "sources",
        "sql_timeout",
        "storage",
        "trusted_proxies",
        "user_agent_detail",
        "user_id_field",
        "websocket_check",
    }
    assert {"from_env", "strict"} < vars(Settings).keys()


def test_the_command_is_where_the_project_says() -> None:
    scripts = tomllib.loads(PROJECT.read_text())["project"]["scripts"]
    assert scripts == {"vedsess": "vedsess_middleware.console:main"}
    assert callable(module("vedsess_middleware.console").main)


@pytest.mark.parametrize("name", ["py.typed", "stores/redis/lua/common.lua"])
def test_files_beside_the_code_are_in_the_package(name: str) -> None:
    assert (FOLDER / name).is_file()
    tool = tomllib.loads(PROJECT.read_text())["tool"]
    assert tool["hatch"]["build"]["targets"]["wheel"] == {"packages": [PACKAGE]}


# -- the four ways to make a middleware --------------------------------------------------------------------------------

FRONT_ENDS = [wsgi.SessionMiddleware, asgi.SessionMiddleware]


def app(*_: object) -> Any:
    """Never called."""


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_middleware_is_made_of_keywords(front_end: Any) -> None:
    made = front_end(app, secret_key=KEY, redis_url="redis://localhost:6379/0", database_url="sqlite:///sessions.db")
    assert made.app is app
    assert made.manager.settings.secret_keys == (KEY,)
    assert made.manager.store.name == "failover"


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_middleware_is_made_of_settings(front_end: Any) -> None:
    made = front_end(app, Settings.from_env({"VEDSESS_SECRET_KEY": KEY}))
    assert made.manager.store.name == "sql"


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_middleware_is_made_of_a_manager(front_end: Any) -> None:
    manager = SessionManager(MemoryStore(), Settings(secret_key=KEY))
    assert front_end(app, manager).manager is manager


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_middleware_takes_what_a_manager_takes(front_end: Any) -> None:
    made = front_end(app, secret_key=KEY, clock=lambda: 1.0, new_id=lambda: "x" * 43, on_event=print)
    assert made.manager.settings.secret_keys == (KEY,)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_middleware_without_a_secret_key_names_the_command_that_makes_one(front_end: Any) -> None:
    with pytest.raises(errors.ConfigurationError, match="vedsess keygen"):
        front_end(app)


def test_starlette_adds_the_middleware_by_its_class() -> None:
    starlette = Starlette()
    starlette.add_middleware(asgi.SessionMiddleware, secret_key=KEY, redis_url="redis://localhost:6379/0")
    assert isinstance(starlette.build_middleware_stack(), object)


# -- a word on each ----------------------------------------------------------------------------------------------------

CONTRACT = {name for name in (*dir(Primary), *dir(Secondary)) if not name.startswith("_")}


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    for name, raw in vars(kind).items():
        value = getattr(raw, "__func__", raw)
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def public_values() -> Iterator[tuple[str, Any]]:
    """Everything public that the modules define."""
    for name in MODULES:
        for label, value in public_definitions(module(name)):
            yield f"{name}.{label}", value
            if inspect.isclass(value):
                yield from ((f"{name}.{label}.{each}", made) for each, made in members(value))


VALUES = dict(public_values())


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name: str) -> None:
    assert module(name).__doc__


def test_every_public_name_has_a_docstring() -> None:
    """Or a base class of its own speaks for it, or the contract of the stores."""
    assert len(VALUES) > 200
    assert [label for label, value in VALUES.items() if not _has_docstring(label, value)] == []


def _has_docstring(label: str, value: Any) -> bool:
    if inspect.isclass(value):
        return not (value.__doc__ or f"{value.__name__}(").startswith(f"{value.__name__}(")  # a dataclass's own
    kind, name = label.split(".")[-2:]
    return bool(inspect.getdoc(value)) or (kind.endswith("Store") and name in CONTRACT)


def documented(kind: Any, section: str) -> list[str]:
    """The names that a section of a docstring lists."""
    lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
    if f"{section}:" not in lines:
        return []
    body = lines[lines.index(f"{section}:") + 1 :]
    inside = body[: next((place for place, line in enumerate(body) if line and not line.startswith(" ")), len(body))]
    return [match.group(1) for line in inside if (match := re.match(r"    (\w+): ", line))]


@pytest.mark.parametrize(
    "label", [label for label, value in VALUES.items() if is_dataclass(value) and documented(value, "Attributes")]
)
def test_every_field_is_documented_and_nothing_else(label: str) -> None:
    kind = VALUES[label]
    annotated = {name for name in inspect.get_annotations(kind) if not name.startswith("_")}
    assert set(documented(kind, "Attributes")) == annotated


@pytest.mark.parametrize("label", [label for label, value in VALUES.items() if documented(value, "Args")])
def test_every_documented_argument_exists(label: str) -> None:
    accepted = inspect.signature(VALUES[label]).parameters
    named = documented(VALUES[label], "Args")
    assert named == [name for name in accepted if name in named]


def test_every_setting_is_documented_with_its_default() -> None:
    text = inspect.cleandoc(Settings.__doc__ or "")
    for each in dataclasses.fields(Settings):
        if each.name == "sources":
            continue
        entry = re.search(rf"^    {each.name}: (.*?)(?=^    \w|\Z)", text, re.DOTALL | re.MULTILINE)
        assert entry, each.name
        assert "default" in entry.group(1).lower(), each.name
