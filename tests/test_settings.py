"""Settings: what is accepted, what is refused, and that nothing secret is ever shown."""

import dataclasses
import pickle
import random
import string
from collections import UserList
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vedsess_middleware import environment
from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.settings import Settings, mask_url, settings_from

KEY = "vKq3X8mZ0tR5wY1pL7cB9nH2sD4fG6jAeUiOxTbNrMk"
OLDER = "bT7yQ2uE9iW4oR6pA1sF8dG3hJ5kL0zXcVnMqKtYwEr"

SECRET = st.text(min_size=1, max_size=50).map(lambda text: f"Zq7{text}7qZ")


def shows_secret(text: str) -> bool:
    """Whether a part of a `SECRET` can be read in the text."""
    return "Zq7" in text or "7qZ" in text


def settings(**options: Any) -> Settings:
    return Settings(**{"secret_key": KEY, **options})


def refusal(**options: Any) -> str:
    """The message of the error that these options raise, once nothing is chained to it."""
    with pytest.raises(ConfigurationError) as caught:
        settings(**options)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def test_the_defaults_are_those_of_the_documentation() -> None:
    made = settings()
    assert (made.idle_timeout, made.absolute_timeout) == (86400.0, 604800.0)
    assert (made.cookie_name, made.cookie_secure, made.cookie_samesite) == ("vedsess", None, "Lax")
    assert (made.cookie_domain, made.cookie_path, made.cookie_partitioned) == (None, "/", False)
    assert (made.mirror, made.key_prefix, made.audience, made.exclude) == ("after-response", "vedsess:", "", ())
    assert (made.redis_timeout, made.sql_timeout, made.probe_timeout) == (0.2, 1.0, 0.02)
    assert (made.redis_url, made.database_url, made.storage, made.may_create) == (None, None, None, None)
    assert (made.trusted_proxies, made.sources) == (0, {})


def test_settings_cannot_be_changed_or_extended() -> None:
    made = settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.idle_timeout = 1.0  # type: ignore[misc]
    assert not hasattr(made, "__dict__")


def test_every_field_that_a_text_can_give_has_a_kind() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert set(environment.FIELDS) == names - {"may_create", "sources"}


def test_every_field_is_documented_with_the_class() -> None:
    documented = Settings.__doc__ or ""
    assert [field.name for field in dataclasses.fields(Settings) if f"\n        {field.name}: " not in documented] == []


def test_settings_survive_pickling_and_replacing() -> None:
    made = settings(exclude=["/health"], sources={"exclude": "VEDSESS_EXCLUDE"})
    assert pickle.loads(pickle.dumps(made)) == made
    assert dataclasses.replace(made, idle_timeout=60).idle_timeout == 60.0


def test_where_a_field_came_from_takes_no_part_in_equality() -> None:
    assert settings(sources={"mirror": "VEDSESS_MIRROR"}) == settings()
    assert hash(settings(sources={"mirror": "VEDSESS_MIRROR"})) == hash(settings())


def test_the_sources_are_a_copy() -> None:
    sources = {"mirror": "VEDSESS_MIRROR"}
    made = settings(sources=sources)
    sources.clear()
    assert made.sources == {"mirror": "VEDSESS_MIRROR"}


# Keys


@pytest.mark.parametrize("given_keys", [KEY, [KEY], (KEY,)])
def test_one_key_is_one_key_however_it_is_given(given_keys: Any) -> None:
    assert settings(secret_key=given_keys).secret_keys == (KEY,)


@pytest.mark.parametrize("kind", [list, tuple])
def test_the_order_of_the_keys_is_kept(kind: Any) -> None:
    assert settings(secret_key=kind([KEY, OLDER])).secret_keys == (KEY, OLDER)


@pytest.mark.parametrize("missing", [(), "", [], [""], None])
def test_a_missing_key_names_keygen_where_it_can(missing: Any) -> None:
    message = refusal(secret_key=missing)
    assert message.startswith("secret_key ")
    assert missing is None or ("missing" in message and "vedsess keygen" in message)


@pytest.mark.parametrize("wrong", [KEY.encode(), {KEY, OLDER}, [KEY.encode()], 42, UserList([KEY])])
def test_keys_of_another_type_are_refused(wrong: Any) -> None:
    message = refusal(secret_key=wrong)
    assert message == "secret_key must be text, or a list of texts, the newest first"


def test_a_short_key_is_refused_and_its_place_named() -> None:
    assert "(key 2 of 2) is shorter than 32 bytes" in refusal(secret_key=[KEY, OLDER[:31]])
    assert settings(secret_key=[KEY, OLDER[:32]]).secret_keys[1] == OLDER[:32]


def test_length_counts_bytes_not_letters() -> None:
    letters = "äöüßéèêëçñåøæœþðłšž"
    assert len(letters) < 32 <= len(letters.encode())
    assert settings(secret_key=letters).secret_keys == (letters,)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\x00", "\udc80"])
def test_a_key_with_unprintable_characters_is_refused(ending: str) -> None:
    assert "unprintable" in refusal(secret_key=KEY + ending)


PLACEHOLDERS = [
    "secret" * 6,
    "changeme" * 8,
    "change-me-" * 4,
    "CHANGE_ME_PLEASE_CHANGE_ME_PLEASE_CHANGE_ME",
    "your-secret-key-your-secret-key-your",
    "your-secret-key-please-change-me-1234567890",
    "<your-secret-key-here-at-least-32-chars>",
    "thisisaverysecretkeythatshouldbechanged",
    "REPLACE_ME_WITH_A_REAL_SECRET_KEY_OF_32_CHARACTERS",
    "dev" * 11,
    "dev-secret-key-0123456789abcdef0123456789abcdef",
    "secret123" * 4,
    "a" * 64,
    "." * 40,
    "." * 3 + "secret" + "." * 30,
    "ab" * 20,
    "deadbeef" * 4,
    "0123456789" * 4,
    "0123456789abcdef" * 2,
    "abcdefghijklmnopqrstuvwxyz123456",
    "zyxwvutsrqponmlkjihgfedcba987654",
    "qwertyuiopasdfghjklzxcvbnm1234567890",
    "django-insecure-change-me-0123456789",
    "aabbaabbccddccddaabbaabbccddccdd",
]


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_a_placeholder_is_refused_and_not_shown(placeholder: str) -> None:
    message = refusal(secret_key=placeholder)
    assert message == "secret_key is a placeholder or easy to guess: make one with `vedsess keygen`"


@pytest.mark.parametrize("placeholder", ["secret", "changeme", "change-me", "your-secret-key", "dev"])
def test_a_bare_placeholder_is_refused(placeholder: str) -> None:
    assert refusal(secret_key=placeholder).startswith("secret_key ")


ALPHABETS = {
    "hexadecimal": "0123456789abcdef",
    "digits": string.digits,
    "base32": string.ascii_uppercase + "234567",
    "base64": string.ascii_letters + string.digits + "-_",
    "punctuation": string.ascii_letters + string.digits + string.punctuation,
}


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_a_random_key_is_never_taken_for_a_placeholder(alphabet: str) -> None:
    draw = random.Random(20261123)
    keys = ["".join(draw.choices(alphabet, k=draw.choice([32, 43, 64]))) for _ in range(1000)]
    assert settings(secret_key=keys).secret_keys == tuple(keys)


def test_a_passphrase_of_real_words_is_accepted() -> None:
    phrase = "correct horse battery staple under the old bridge"
    assert settings(secret_key=phrase).secret_keys == (phrase,)


@given(SECRET)
def test_no_key_is_shown_by_repr_or_refusal(key: str) -> None:
    try:
        made = settings(secret_key=[KEY, key])
    except ConfigurationError as error:
        shown = f"{error} {error.__context__}"
    else:
        shown = repr(made) + str(made.masked())
    assert not shows_secret(shown)


# Stores


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/0",
        "rediss://user:p%40ss@cache.example.com:6380/1?ssl_ca_certs=/ca.pem",
        "redis://[::1]:6379/0",
        "redis://localhost?db=2",
        "unix:///run/redis.sock?db=1",
        "unix://:pass@/run/redis.sock",
    ],
)
def test_a_redis_url_is_accepted(url: str) -> None:
    made = settings(redis_url=url)
    assert made.redis_url == url
    assert made.uses_redis


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("http://localhost", "must begin with redis://"),
        ("REDIS://localhost", "must begin with redis://"),
        ("redis+sentinel://localhost", "must begin with redis://"),
        ("redis:localhost", "must begin with redis://"),
        ("redis://", "names no server"),
        ("redis:///0", "names no server"),
        ("unix://", "names no server"),
        ("redis://localhost:port/0", "percent-encode"),
        ("redis://localhost:0/0", "percent-encode"),
        ("redis://localhost:70000/0", "percent-encode"),
        ("redis://:half/other@localhost/0", "percent-encode"),
        ("redis://:12#34@localhost/0", "percent-encode"),
        ("redis://:br[cket@localhost/0", "percent-encode"),
        ("redis://localhost/sessions", "database as a number"),
        ("redis://localhost?db=x", "database as a number"),
        ("redis://localhost/²", "database as a number"),
    ],
)
def test_a_redis_url_that_cannot_work_is_refused(url: str, mend: str) -> None:
    message = refusal(redis_url=url)
    assert message.startswith("redis_url ")
    assert mend in message


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///sessions.db",
        "sqlite:////var/lib/sessions.db",
        "sqlite+aiosqlite:///sessions.db",
        "sqlite+pysqlcipher://:phrase@/sessions.db",
        "postgresql://user:pass@db/app",
        "postgresql+psycopg://db/app",
        "postgresql+asyncpg:///app?host=/run/postgresql",
        "mysql+pymysql://db/app",
        "mariadb+asyncmy://db/app",
    ],
)
def test_a_database_url_is_accepted(url: str) -> None:
    assert settings(database_url=url).database_url == url


@pytest.mark.parametrize(
    ("url", "mend"),
    [
        ("postgres://user:hunter22@db/app", "postgresql://"),
        ("postgres+psycopg://db/app", "postgresql://"),
        ("", "sqlite://"),
        ("sessions.db", "sqlite://"),
        ("sqlite:sessions.db", "sqlite://"),
        ("oracle://db", "sqlite://"),
        ("sqlitex://db", "sqlite://"),
        ("redis://localhost", "sqlite://"),
        ("sqlite://sessions.db", "sqlite:///"),
    ],
)
def test_a_database_url_that_cannot_work_is_refused(url: str, mend: str) -> None:
    message = refusal(database_url=url)
    assert message.startswith("database_url ")
    assert mend in message
    assert "hunter22" not in message


@pytest.mark.parametrize(
    ("storage", "url", "uses_redis"),
    [
        (None, None, False),
        (None, "redis://localhost", True),
        ("redis", "redis://localhost", True),
        ("database", "redis://localhost", False),
        ("database", None, False),
    ],
)
def test_storage_decides_whether_redis_is_used(storage: Any, url: str | None, uses_redis: bool) -> None:
    assert settings(storage=storage, redis_url=url).uses_redis is uses_redis


def test_redis_storage_without_a_url_is_refused() -> None:
    message = refusal(storage="redis")
    assert message.startswith("storage ")
    assert "set redis_url" in message


# Plain fields


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, value) for name in ("storage", "mirror", "cookie_samesite") for value in ("lax", "on", 1, True)),
        *(("mirror", value) for value in (None, "Off")),
        ("cookie_samesite", None),
        *(("key_prefix", value) for value in ("", " ", "a b", "a\n", "ä:", "a*", "a?", "[a", "a]", "{a}", "a\\", None)),
        *(("cookie_name", value) for value in ("", "a b", "a=b", "a;b", "a,b", 'a"b', "a\n", "(a)", "ä", "a/b", None)),
        *(("cookie_path", value) for value in ("", "app", "/a;b", "/a\n", "/\x7f", "/ä", None)),
        *(("cookie_secure", value) for value in ("auto", 1, "true")),
        *(("cookie_partitioned", value) for value in (None, 1, "true")),
        *(("exclude", value) for value in ("/health", ["health"], [""], [b"/"], None, 1)),
        *(("trusted_proxies", value) for value in (-1, 1.0, True, "1", None)),
        *(("audience", value) for value in (None, 1, b"app")),
        *(("may_create", value) for value in (True, "yes")),
        ("redis_url", b"redis://localhost"),
        ("database_url", 1),
    ],
)
def test_a_wrong_value_names_its_field_and_what_it_must_be(name: str, wrong: Any) -> None:
    assert refusal(**{name: wrong}).startswith(f"{name} must be ")


TIMES = ["idle_timeout", "absolute_timeout", "redis_timeout", "sql_timeout", "probe_timeout"]
NO_TIMES = [0, -1, float("nan"), float("inf"), 10**400, True, "60", None, timedelta(hours=1)]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("wrong", NO_TIMES)
def test_a_duration_is_a_finite_number_of_seconds_above_zero(name: str, wrong: Any) -> None:
    assert refusal(**{name: wrong}).startswith(f"{name} must be a number of seconds")


def test_whole_seconds_become_floats() -> None:
    made = settings(idle_timeout=60, absolute_timeout=60)
    assert (repr(made.idle_timeout), repr(made.absolute_timeout)) == ("60.0", "60.0")


def test_idle_longer_than_absolute_is_refused() -> None:
    message = refusal(idle_timeout=61, absolute_timeout=60)
    assert message.startswith("idle_timeout ")
    assert "absolute_timeout" in message


@pytest.mark.parametrize("paths", [["/health", "/metrics"], ("/health", "/metrics")])
def test_excluded_paths_become_a_tuple(paths: Any) -> None:
    assert settings(exclude=paths).exclude == ("/health", "/metrics")


@pytest.mark.parametrize("prefix", ["v", "vedsess:", "app-1/sessions_#", "~!"])
def test_a_key_prefix_of_printable_ascii_is_accepted(prefix: str) -> None:
    assert settings(key_prefix=prefix).key_prefix == prefix


def test_may_create_is_kept_as_given() -> None:
    def never(request: Any) -> bool:
        return False

    assert settings(may_create=never).may_create is never


# Cookies


@pytest.mark.parametrize("secure", [None, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cookie_samesite", "None"),
        ("cookie_partitioned", True),
        ("cookie_name", "__Host-app"),
        ("cookie_name", "__host-app"),
        ("cookie_name", "__Secure-app"),
        ("cookie_name", "__SECURE-app"),
        ("cookie_name", "__Http-app"),
        ("cookie_name", "__Host-Http-app"),
    ],
)
def test_what_browsers_drop_without_secure_needs_secure(secure: bool | None, name: str, value: Any) -> None:
    message = refusal(cookie_secure=secure, **{name: value})
    assert message.startswith(f"{name} ")
    assert "set cookie_secure=True" in message
    assert getattr(settings(cookie_secure=True, **{name: value}), name) == value


@pytest.mark.parametrize("name", ["__Host-app", "__HOST-app"])
def test_a_host_cookie_has_no_domain_and_the_root_path(name: str) -> None:
    host = {"cookie_name": name, "cookie_secure": True}
    assert refusal(**host, cookie_domain="example.com").startswith("cookie_domain must be unset")
    assert refusal(**host, cookie_path="/app").startswith("cookie_path must be /")


def test_a_secure_prefix_allows_a_domain_and_a_path() -> None:
    made = settings(cookie_name="__Secure-a", cookie_secure=True, cookie_domain="example.com", cookie_path="/app")
    assert (made.cookie_domain, made.cookie_path) == ("example.com", "/app")


@pytest.mark.parametrize(
    ("given_domain", "kept"),
    [
        ("example.com", "example.com"),
        (".example.com", "example.com"),
        ("App.Example.COM", "app.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.example.com", "1.example.com"),
    ],
)
def test_a_domain_is_kept_in_lower_case_without_its_leading_dot(given_domain: str, kept: str) -> None:
    assert settings(cookie_domain=given_domain).cookie_domain == kept


@pytest.mark.parametrize(
    ("domain", "why"),
    [
        *((name, "single label") for name in ("com", ".com", "localhost")),
        *((name, "IP address") for name in ("127.0.0.1", "10.0.0.255")),
        *(
            (name, "bare name")
            for name in (
                "",
                ".",
                "..example.com",
                "example..com",
                "example.com.",
                "https://example.com",
                "example.com:8000",
                "example.com/app",
                "example.com; Secure",
                "example.com\n",
                "exa mple.com",
                "bücher.example",
                "*.example.com",
                "-a.example.com",
                "::1",
                "[::1]",
                "a" * 64 + ".com",
                "a." * 126 + "com",
            )
        ),
    ],
)
def test_a_domain_that_browsers_refuse_is_refused(domain: str, why: str) -> None:
    message = refusal(cookie_domain=domain)
    assert message.startswith("cookie_domain ")
    assert why in message


# Ways to build


def test_strict_is_shorter_and_bound_to_https() -> None:
    made = Settings.strict(secret_key=KEY)
    assert (made.idle_timeout, made.absolute_timeout) == (1800.0, 43200.0)
    assert (made.cookie_name, made.cookie_secure, made.cookie_samesite) == ("__Host-id", True, "Strict")
    assert (made.renewal_timeout, made.fingerprint_policy, made.old_id_policy) == (900.0, "reject", "end")
    assert not made.cookie_persistent


def test_compatible_shares_a_cookie_across_subdomains() -> None:
    made = Settings.compatible(cookie_domain="example.com", secret_key=KEY, idle_timeout=600)
    assert (made.cookie_domain, made.cookie_samesite, made.cookie_secure) == ("example.com", "Lax", None)
    assert (made.idle_timeout, made.absolute_timeout, made.fingerprint_policy) == (600.0, 31536000.0, "log")
    with pytest.raises(TypeError, match="cookie_domain"):
        Settings.compatible(secret_key=KEY)  # type: ignore[call-arg]


def test_options_override_strict() -> None:
    made = Settings.strict(secret_key=KEY, idle_timeout=600, cookie_name="app")
    assert (made.idle_timeout, made.cookie_name, made.absolute_timeout) == (600.0, "app", 43200.0)


@pytest.mark.parametrize(
    "build", [lambda **o: settings_from(o), Settings.strict, lambda **o: Settings.from_env({}, **o)]
)
def test_an_unknown_name_suggests_the_nearest(build: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^idle_timout is not a setting: did you mean idle_timeout\?$"):
        build(secret_key=KEY, idle_timout=60)


def test_an_unknown_name_near_to_none_lists_all() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^zzz is not a setting: known are absolute_timeout, .*websocket_check$"
    ):
        settings_from({"secret_key": KEY, "zzz": 1})


def test_settings_from_a_mapping_are_the_same_settings() -> None:
    assert settings_from({"secret_key": KEY, "mirror": "off"}) == settings(mirror="off")


def test_the_environment_is_read_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEDSESS_SECRET_KEY", KEY)
    monkeypatch.setenv("VEDSESS_IDLE_TIMEOUT", "60")
    assert Settings.from_env().idle_timeout == 60.0
    monkeypatch.setenv("VEDSESS_IDLE_TIMEOUT", "61")
    assert Settings.from_env().idle_timeout == 61.0


def test_settings_know_which_variable_a_field_came_from() -> None:
    made = Settings.from_env({"VEDSESS_SECRET_KEY": KEY, "REDIS_HOST": "cache", "REDIS_PORT": "6380"})
    assert made.sources == {"secret_key": "VEDSESS_SECRET_KEY", "redis_url": "REDIS_HOST, REDIS_PORT"}
    assert made.redis_url == "redis://cache:6380/0"


def test_an_override_wins_and_its_variables_are_not_read() -> None:
    environ = {"VEDSESS_REDIS_URL": "redis://one", "REDIS_URL": "redis://two", "VEDSESS_IDLE_TIMEOUT": "soon"}
    made = Settings.from_env(environ, secret_key=KEY, redis_url="redis://three", idle_timeout=60)
    assert (made.redis_url, made.idle_timeout, made.sources) == ("redis://three", 60.0, {})


@pytest.mark.parametrize(
    ("environ", "label"),
    [
        ({"VEDSESS_IDLE_TIMEOUT": "-1"}, "VEDSESS_IDLE_TIMEOUT"),
        ({"VEDSESS_IDLE_TIMEOUT": "9999999"}, "idle_timeout (from VEDSESS_IDLE_TIMEOUT)"),
        ({"VEDSESS_COOKIE_NAME": "__Host-a"}, "cookie_name (from VEDSESS_COOKIE_NAME)"),
        ({"SESSION_STORAGE": "redis"}, "storage (from SESSION_STORAGE)"),
        ({"REDIS_URL": "http://cache"}, "REDIS_URL"),
        ({"VEDSESS_DATABASE_URL": "postgres://db"}, "database_url (from VEDSESS_DATABASE_URL)"),
        ({"VEDSESS_SECRET_KEY": "short"}, "secret_key (from VEDSESS_SECRET_KEY)"),
    ],
)
def test_a_refused_value_from_the_environment_names_its_variable(environ: dict[str, str], label: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"VEDSESS_SECRET_KEY": KEY, **environ})
    assert str(caught.value).startswith(f"{label} ")


def test_a_missing_key_names_the_variable_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"vedsess keygen.*VEDSESS_SECRET_KEY"):
        Settings.from_env({})


# What may be shown


def test_the_repr_masks_keys_and_passwords() -> None:
    shown = repr(settings(redis_url="redis://bob:hunter22@cache/0", database_url="postgresql://bob:hunter33@db/app"))
    assert "secret_key='***'" in shown
    assert "redis_url='redis://bob:***@cache/0'" in shown
    assert "database_url='postgresql://bob:***@db/app'" in shown
    assert not any(secret in shown for secret in (KEY, "hunter22", "hunter33"))


def test_the_masked_settings_are_text_for_every_field_but_the_sources() -> None:
    made = settings(
        secret_key=[KEY, OLDER], exclude=["/a", "/b"], redis_url="redis://:hunter22@cache", sources={"a": "B"}
    )
    masked = made.masked()
    assert set(masked) == {field.name for field in dataclasses.fields(Settings)} - {"sources"}
    assert (masked["secret_key"], masked["exclude"], masked["redis_url"]) == (
        "***, ***",
        "/a, /b",
        "redis://:***@cache",
    )
    assert (masked["cookie_domain"], masked["idle_timeout"], masked["cookie_partitioned"]) == ("-", "86400.0", "False")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://bob@cache:6379/0", "redis://bob@cache:6379/0"),
        ("redis://:pw@cache:6379/0", "redis://:***@cache:6379/0"),
        ("unix:///run/r.sock?db=1&password=pw", "unix:///run/r.sock?db=1&password=***"),
        ("redis://cache?db=1&password=p&w", "redis://cache?db=1&password=***"),
        (
            "postgresql://db/app?sslmode=verify-full&sslpassword=pw",
            "postgresql://db/app?sslmode=verify-full&sslpassword=***",
        ),
        ("postgresql://db/app?user=bob&PASSWORD=pw", "postgresql://db/app?user=bob&PASSWORD=***"),
        ("postgresql://bob@corp:pw@db/app", "postgresql://bob@corp:***@db/app"),
        ("postgresql://bob:p@w@db/app", "postgresql://bob:***@db/app"),
        ("postgresql://bob:12/w@db/app", "postgresql://bob:***@db/app"),
        ("sqlite:///sessions.db", "sqlite:///sessions.db"),
        ("sqlite:///C:/data@home/sessions.db", "sqlite:///C:/data@home/sessions.db"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@given(SECRET, st.sampled_from(["postgresql://bob:{}@db/app", "mysql://:{}@db/app?x=1"]))
def test_no_password_written_raw_into_a_url_is_shown(password: str, form: str) -> None:
    made = settings(database_url=form.format(password))
    assert not shows_secret(repr(made) + str(made.masked()))


@given(SECRET, st.sampled_from(["redis://:{}@cache/0", "rediss://bob:{}@cache", "unix:///r.sock?password={}"]))
def test_no_redis_password_is_shown_by_repr_or_refusal(password: str, form: str) -> None:
    for written in (password, quote(password, safe="", errors="surrogatepass")):
        try:
            shown = repr(settings(redis_url=form.format(written)))
        except ConfigurationError as error:
            shown = f"{error} {error.__context__}"
        assert not shows_secret(shown)
