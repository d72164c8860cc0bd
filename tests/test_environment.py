"""Environment variables: what each gives, and which of them contradict one another."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import ConnectionPool

from vedsess_middleware import environment
from vedsess_middleware.errors import ConfigurationError


def refusal(environ: dict[str, str]) -> str:
    """The message of the error that these variables raise, once nothing is chained to it."""
    with pytest.raises(ConfigurationError) as caught:
        environment.read(environ)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def redis_url(**environ: str) -> str | None:
    return environment.read(environ)[0].get("redis_url")


def test_nothing_set_gives_nothing() -> None:
    assert environment.read({"PATH": "/bin", "HOME": "/root"}) == ({}, {})


def test_an_empty_or_blank_variable_counts_as_unset() -> None:
    names = ["VEDSESS_IDLE_TIMEOUT", "VEDSESS_TYPO", "REDIS_URL", "REDIS_HOST", "REDIS_PASSWORD", "REDIS_URL_FILE"]
    assert environment.read(dict.fromkeys(names, "")) == ({}, {})
    assert environment.read({"VEDSESS_IDLE_TIMEOUT": "  ", "REDIS_PORT": "\n"}) == ({}, {})


def test_the_url_of_the_app_is_not_read() -> None:
    assert environment.read({"DATABASE_URL": "postgresql://db/app"}) == ({}, {})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("secret_key", "new", ("new",)),
        ("secret_key", " new , old\nolder\n", ("new", "old", "older")),
        ("redis_url", "redis://cache", "redis://cache"),
        ("database_url", "sqlite:///s.db", "sqlite:///s.db"),
        ("storage", "Redis", "redis"),
        ("storage", "database", "database"),
        ("mirror", "BEFORE-RESPONSE", "before-response"),
        ("key_prefix", "app:", "app:"),
        ("idle_timeout", "1800", 1800.0),
        ("absolute_timeout", " 43200.5 ", 43200.5),
        ("cookie_name", "__Host-app", "__Host-app"),
        ("cookie_samesite", "none", "None"),
        ("cookie_samesite", "strict", "Strict"),
        ("cookie_domain", ".example.com", ".example.com"),
        ("cookie_path", "/app", "/app"),
        ("audience", "shop", "shop"),
        ("exclude", "/health, /metrics,,/a b", ("/health", "/metrics", "/a b")),
        ("trusted_proxies", "2", 2),
        ("redis_timeout", "0.1", 0.1),
        ("sql_timeout", "2", 2.0),
        ("probe_timeout", "2e-2", 0.02),
        *(("cookie_secure", text, True) for text in ("1", "true", "Yes", "ON")),
        *(("cookie_secure", text, False) for text in ("0", "False", "no", "off")),
        ("cookie_secure", "Auto", None),
        ("cookie_partitioned", "yes", True),
        ("cookie_partitioned", "0", False),
    ],
)
def test_a_variable_gives_its_field(name: str, text: str, value: Any) -> None:
    variable = f"VEDSESS_{name.upper()}"
    values, sources = environment.read({variable: text})
    assert values == {name: value}
    assert type(values[name]) is type(value)
    assert sources == {name: variable}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *((f"VEDSESS_{name}_TIMEOUT", "soon") for name in ("IDLE", "ABSOLUTE", "REDIS", "SQL", "PROBE")),
        *(("VEDSESS_IDLE_TIMEOUT", text) for text in ("1h", "1_000", "0x10", "1,5", "'60'", "nan", "inf", "0", "-1")),
        *(("VEDSESS_TRUSTED_PROXIES", text) for text in ("many", "1.5", "-1")),
        *(("VEDSESS_COOKIE_SECURE", text) for text in ("2", "none", "always")),
        *(("VEDSESS_COOKIE_PARTITIONED", text) for text in ("auto", "2")),
        ("VEDSESS_COOKIE_SAMESITE", "loose"),
        ("VEDSESS_COOKIE_NAME", "a b"),
        ("VEDSESS_COOKIE_PATH", "app"),
        ("VEDSESS_EXCLUDE", "health"),
        ("VEDSESS_KEY_PREFIX", "{app}"),
        ("VEDSESS_MIRROR", "on"),
        ("VEDSESS_STORAGE", "sql"),
        ("SESSION_STORAGE", "filesystem"),
        *(("REDIS_PORT", text) for text in ("0", "65536", "sixty", "6379.5", "tcp://10.0.0.11:6379")),
        *(("REDIS_DB", text) for text in ("-1", "zero")),
        *(("REDIS_SSL", text) for text in ("tls", "auto", "2")),
        *(("REDIS_HOST", text) for text in ("cache:6379", "redis://cache", "cache/0", "a b", "bob@cache", "/r.sock")),
    ],
)
def test_a_text_that_does_not_parse_names_the_variable_and_the_form(variable: str, text: str) -> None:
    assert refusal({"REDIS_HOST": "cache", variable: text}).startswith(f"{variable} must be ")


def test_a_port_that_kubernetes_set_is_explained() -> None:
    assert "Kubernetes" in refusal({"REDIS_HOST": "redis", "REDIS_PORT": "tcp://10.0.0.11:6379"})


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VEDSESS_IDEL_TIMEOUT", "VEDSESS_IDLE_TIMEOUT"),
        ("VEDSESS_SECRET_KEYS", "VEDSESS_SECRET_KEY"),
        ("VEDSESS_SECRETKEY_FILE", "VEDSESS_SECRET_KEY_FILE"),
        ("VEDSESS_IDLE_TIMEOUT_FILE", "VEDSESS_IDLE_TIMEOUT"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, meant: str) -> None:
    message = refusal({name: "60"})
    assert message.startswith(f"{name} is not a setting")
    assert message.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("name", ["VEDSESS_", "VEDSESS_MAY_CREATE", "VEDSESS_SOURCES", "VEDSESS_REDIS_HOST"])
def test_only_textual_fields_have_a_variable(name: str) -> None:
    assert refusal({name: "x"}).startswith(f"{name} is not a setting")


def test_names_of_others_are_left_alone() -> None:
    environ = {"VEDSESS": "x", "REDIS_TIMEOUT": "x", "SESSION_COOKIE_NAME": "x", "MY_VEDSESS_X": "x"}
    assert environment.read(environ) == ({}, {})


# Redis by parts


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "redis://cache:6379/0"),
        ({"REDIS_PORT": "6380", "REDIS_DB": "2"}, "redis://cache:6380/2"),
        ({"REDIS_SSL": "true"}, "rediss://cache:6379/0"),
        ({"REDIS_SSL": "off"}, "redis://cache:6379/0"),
        ({"REDIS_PASSWORD": "p@ss/w:rd#1 %"}, "redis://:p%40ss%2Fw%3Ard%231%20%25@cache:6379/0"),
        ({"REDIS_PASSWORD": ""}, "redis://cache:6379/0"),
        ({"REDIS_PASSWORD": " "}, "redis://:%20@cache:6379/0"),
        ({"REDIS_USERNAME": "bob", "REDIS_PASSWORD": "pw"}, "redis://bob:pw@cache:6379/0"),
        ({"REDIS_USERNAME": "bob"}, "redis://bob@cache:6379/0"),
        ({"REDIS_HOST": "Cache.Example.com"}, "redis://cache.example.com:6379/0"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
        ({"REDIS_HOST": "[FE80::1]"}, "redis://[fe80::1]:6379/0"),
        ({"REDIS_HOST": "127.0.0.1"}, "redis://127.0.0.1:6379/0"),
    ],
)
def test_the_parts_make_a_url(environ: dict[str, str], url: str) -> None:
    assert redis_url(**{"REDIS_HOST": "cache", **environ}) == url


def test_the_source_lists_the_parts_that_were_set() -> None:
    environ = {"REDIS_PASSWORD": "pw", "REDIS_HOST": "cache", "REDIS_SSL": "1", "REDIS_PORT": ""}
    assert environment.read(environ)[1] == {"redis_url": "REDIS_HOST, REDIS_PASSWORD, REDIS_SSL"}


@given(st.text(min_size=1, max_size=20), st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_any_user_name_and_password_come_back_from_the_url(user: str, password: str) -> None:
    url = redis_url(REDIS_HOST="cache", REDIS_USERNAME=f"u{user}u", REDIS_PASSWORD=password) or ""
    pieces = urlsplit(url)
    assert pieces.hostname == "cache"
    assert unquote(pieces.username or "") == f"u{user}u"
    assert unquote(pieces.password or "") == password


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("REDIS_PORT", "6379"),
        ("REDIS_DB", "0"),
        ("REDIS_PASSWORD", "pw"),
        ("REDIS_SSL", "no"),
        ("REDIS_USERNAME", "bob"),
    ],
)
def test_a_part_without_a_host_names_the_missing_variable(name: str, text: str) -> None:
    message = refusal({name: text})
    assert message.startswith(f"{name} set without a server")
    assert "set REDIS_HOST" in message


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "rediss://Bob:p%40%2F@cache:6380/3",
        "redis://cache/1?db=2&db=3",
        "redis://cache/?username=bob&password=p%2541",
        "redis://eve:one@cache?username=bob&password=two",
        "redis://[::1]:6380",
        "unix://bob:pw@/run/r.sock?db=4",
    ],
)
def test_a_url_resolves_to_what_the_client_makes_of_it(url: str) -> None:
    defaults = {"host": "localhost", "port": 6379, "db": 0, "username": None, "password": None}
    client = defaults | ConnectionPool.from_url(url).connection_kwargs
    if "path" in client:
        client |= {"host": None, "port": None}
    parts = environment.redis_parts("REDIS_URL", url)
    assert [parts[f"REDIS_{name.upper()}"] for name in defaults] == [client[name] for name in defaults]


# Two variables


@pytest.mark.parametrize(
    ("own", "common"),
    [
        ("redis://cache", "redis://cache"),
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://cache/0", "redis://CACHE?db=0"),
        ("redis://:p%40@cache", "redis://cache?password=p%40"),
        ("unix:///run/r.sock", "unix:///run/r.sock?db=0"),
        ("redis://cache?a=1&b=2", "redis://cache?b=2&a=1"),
    ],
)
def test_two_urls_that_resolve_to_the_same_agree(own: str, common: str) -> None:
    values, sources = environment.read({"VEDSESS_REDIS_URL": own, "REDIS_URL": common})
    assert (values["redis_url"], sources["redis_url"]) == (own, "VEDSESS_REDIS_URL")


@pytest.mark.parametrize(
    "other",
    [
        "redis://other",
        "redis://cache:6380",
        "redis://cache/1",
        "redis://cache?db=1",
        "rediss://cache",
        "redis://:pw@cache",
        "redis://bob@cache",
        "redis://cache?protocol=3",
        "unix:///cache",
    ],
)
def test_two_urls_that_differ_are_an_error_that_names_both(other: str) -> None:
    message = refusal({"VEDSESS_REDIS_URL": "redis://cache", "REDIS_URL": other})
    assert message.startswith("VEDSESS_REDIS_URL and REDIS_URL resolve to different values")


@pytest.mark.parametrize("name", ["VEDSESS_REDIS_URL", "REDIS_URL"])
@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("redis://cache", {"REDIS_HOST": "Cache", "REDIS_PORT": "6379", "REDIS_DB": "0", "REDIS_SSL": "false"}),
        ("rediss://cache:6380/3", {"REDIS_SSL": "1", "REDIS_PORT": "6380", "REDIS_DB": "3"}),
        ("redis://bob:p%40@cache", {"REDIS_USERNAME": "bob", "REDIS_PASSWORD": "p@"}),
        ("redis://:pw@cache", {"REDIS_USERNAME": "default", "REDIS_PASSWORD": "pw"}),
        ("redis://[::1]:6379", {"REDIS_HOST": "::1"}),
        ("unix:///run/r.sock?db=1", {"REDIS_DB": "1"}),
        ("redis://cache", {"REDIS_PASSWORD": ""}),
    ],
)
def test_parts_that_say_what_the_url_says_change_nothing(name: str, url: str, environ: dict[str, str]) -> None:
    values, sources = environment.read({name: url, **environ})
    assert (values["redis_url"], sources["redis_url"]) == (url, name)


@pytest.mark.parametrize("name", ["VEDSESS_REDIS_URL", "REDIS_URL"])
@pytest.mark.parametrize(
    ("url", "part", "text"),
    [
        ("redis://cache", "REDIS_HOST", "other"),
        ("redis://cache", "REDIS_PORT", "6380"),
        ("redis://cache:6380", "REDIS_PORT", "6379"),
        ("redis://cache", "REDIS_DB", "1"),
        ("redis://cache/1", "REDIS_DB", "0"),
        ("redis://cache", "REDIS_SSL", "true"),
        ("rediss://cache", "REDIS_SSL", "false"),
        ("redis://:one@cache", "REDIS_PASSWORD", "two"),
        ("redis://cache?password=one", "REDIS_PASSWORD", "two"),
        ("redis://bob@cache", "REDIS_USERNAME", "eve"),
        ("redis://:one@cache", "REDIS_USERNAME", "eve"),
        ("unix:///run/r.sock", "REDIS_HOST", "cache"),
        ("unix:///run/r.sock", "REDIS_PORT", "6379"),
        ("unix:///run/r.sock", "REDIS_SSL", "true"),
    ],
)
def test_a_part_that_contradicts_the_url_is_an_error_that_names_both(name: str, url: str, part: str, text: str) -> None:
    message = refusal({name: url, part: text})
    assert message.startswith(f"{name} and {part} resolve to different values")


@pytest.mark.parametrize(
    ("url", "environ", "completed", "source"),
    [
        ("redis://cache", {"REDIS_PASSWORD": "p@w"}, "redis://:p%40w@cache", "REDIS_URL, REDIS_PASSWORD"),
        ("redis://bob@cache/1", {"REDIS_PASSWORD": "pw"}, "redis://bob:pw@cache/1", "REDIS_URL, REDIS_PASSWORD"),
        ("redis://bob@cache", {"REDIS_USERNAME": "bob"}, "redis://bob@cache", "REDIS_URL"),
        (
            "rediss://cache?x=a@b",
            {"REDIS_PASSWORD": "pw", "REDIS_USERNAME": "bob", "REDIS_HOST": "cache"},
            "rediss://bob:pw@cache?x=a@b",
            "REDIS_URL, REDIS_USERNAME, REDIS_PASSWORD",
        ),
        ("unix:///r.sock?db=1", {"REDIS_PASSWORD": "pw"}, "unix://:pw@/r.sock?db=1", "REDIS_URL, REDIS_PASSWORD"),
    ],
)
def test_user_and_password_complete_a_url_that_lacks_them(
    url: str, environ: dict[str, str], completed: str, source: str
) -> None:
    values, sources = environment.read({"REDIS_URL": url, **environ})
    assert (values["redis_url"], sources["redis_url"]) == (completed, source)


def test_two_storages_that_agree_are_one() -> None:
    values, sources = environment.read({"VEDSESS_STORAGE": "redis", "SESSION_STORAGE": "REDIS"})
    assert (values, sources) == ({"storage": "redis"}, {"storage": "VEDSESS_STORAGE"})


def test_the_storage_of_the_old_app_is_honoured() -> None:
    assert environment.read({"SESSION_STORAGE": "Database"}) == (
        {"storage": "database"},
        {"storage": "SESSION_STORAGE"},
    )


def test_two_storages_that_differ_are_an_error_that_names_both() -> None:
    message = refusal({"VEDSESS_STORAGE": "redis", "SESSION_STORAGE": "database"})
    assert message.startswith("VEDSESS_STORAGE and SESSION_STORAGE resolve to different values")


def test_a_field_that_code_gives_is_not_read() -> None:
    environ = {"VEDSESS_REDIS_URL": "redis://one", "REDIS_URL": "redis://two", "VEDSESS_MIRROR": "off"}
    assert environment.read(environ, without=["redis_url"]) == ({"mirror": "off"}, {"mirror": "VEDSESS_MIRROR"})


# Files

FILES = [
    ("VEDSESS_SECRET_KEY", "secret_key", "abc", ("abc",)),
    ("VEDSESS_REDIS_URL", "redis_url", "redis://cache", "redis://cache"),
    ("REDIS_URL", "redis_url", "redis://cache", "redis://cache"),
    ("VEDSESS_DATABASE_URL", "database_url", "sqlite:///s.db", "sqlite:///s.db"),
]


@pytest.mark.parametrize(("variable", "name", "text", "value"), FILES)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_comes_from_a_file(
    tmp_path: Path, variable: str, name: str, text: str, value: Any, ending: str
) -> None:
    (tmp_path / "secret").write_bytes((text + ending).encode())
    values, sources = environment.read({f"{variable}_FILE": str(tmp_path / "secret")})
    assert (values, sources) == ({name: value}, {name: f"{variable}_FILE"})


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(" p w \n")
    values, sources = environment.read({"REDIS_HOST": "cache", "REDIS_PASSWORD_FILE": str(tmp_path / "password")})
    assert values["redis_url"] == "redis://:%20p%20w%20@cache:6379/0"
    assert sources["redis_url"] == "REDIS_HOST, REDIS_PASSWORD_FILE"


def test_a_file_may_hold_several_keys_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("new\nold\n")
    assert environment.read({"VEDSESS_SECRET_KEY_FILE": str(tmp_path / "keys")})[0] == {"secret_key": ("new", "old")}


def test_a_byte_order_mark_is_not_part_of_the_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfnew\r\n")
    assert environment.read({"VEDSESS_SECRET_KEY_FILE": str(tmp_path / "key")})[0] == {"secret_key": ("new",)}


@pytest.mark.parametrize(("variable", "name", "text", "value"), FILES)
def test_a_variable_and_its_file_may_agree_but_not_differ(
    tmp_path: Path, variable: str, name: str, text: str, value: Any
) -> None:
    (tmp_path / "secret").write_text(f"{text}\n")
    environ = {variable: text, f"{variable}_FILE": str(tmp_path / "secret")}
    assert environment.read(environ)[0] == {name: value}
    message = refusal({**environ, variable: f"{text}2"})
    assert message.startswith(f"{variable} and {variable}_FILE resolve to different values")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00 not text"])
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    message = refusal({"VEDSESS_SECRET_KEY_FILE": str(tmp_path / "key")})
    assert message.startswith("VEDSESS_SECRET_KEY_FILE names a file of no use (it is ")


def test_a_missing_file_is_refused_and_its_path_not_shown(tmp_path: Path) -> None:
    message = refusal({"REDIS_URL_FILE": str(tmp_path / "Zq7absent")})
    assert message.startswith("REDIS_URL_FILE names a file of no use (No such file or directory)")
    assert "Zq7absent" not in message


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert refusal({"REDIS_URL_FILE": str(tmp_path)}).startswith("REDIS_URL_FILE names a file of no use (")


# What may be shown

CONTRADICTIONS = [
    {"VEDSESS_REDIS_URL": "redis://:{}@cache", "REDIS_URL": "redis://:other@cache"},
    {"REDIS_URL": "redis://:{}@cache", "REDIS_PASSWORD": "other"},
    {"REDIS_URL": "redis://:other@cache", "REDIS_PASSWORD": "{}"},
    {"REDIS_URL": "redis://:{}@cache:port"},
    {"REDIS_URL": "http://:{}@cache"},
    {"REDIS_PASSWORD": "{}"},
    {"REDIS_HOST": "redis://:{}@cache"},
    {"REDIS_PORT": "{}"},
    {"VEDSESS_SECRET_KEY_FILE": "{}"},
    {"VEDSESS_COOKIE_SECURE": "{}"},
    {"VEDSESS_MIRROR": "{}"},
    {"VEDSESS_TYPO": "{}"},
]


@pytest.mark.parametrize("environ", CONTRADICTIONS, ids=" ".join)
@given(st.text(st.characters(exclude_characters="\0"), max_size=20).map(lambda text: f"Zq7{text}7qZ"))
def test_no_refusal_shows_a_value(environ: dict[str, str], secret: str) -> None:
    message = refusal({name: text.format(secret) for name, text in environ.items()})
    assert "Zq7" not in message
    assert "7qZ" not in message
