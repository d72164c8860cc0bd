"""What an app wants beside a session: form tokens, messages, and the answer to a page of another site."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedsess_middleware import Session, SessionManager, Settings
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.helpers import (
    CSRF_FIELD,
    FLASH_FIELD,
    clear_site_data,
    csrf_token,
    flash,
    flashes,
    is_allowed_origin,
    is_csrf_token,
)
from vedsess_middleware.stores.memory import MemoryStore

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = "Vt6yN1bM4kC8rW3xQ9zJ5pL7dH2gF0sAeUiOaEtXoRw"

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


class Sealed(dict[str, Any]):
    """A session that nobody may write to."""

    def __setitem__(self, name: str, value: object) -> None:
        raise AssertionError("was written to")

    def __delitem__(self, name: str) -> None:
        raise AssertionError("was written to")


class Browser:
    """A browser that keeps the cookie of a site."""

    def __init__(self) -> None:
        self.manager = SessionManager(MemoryStore(), Settings(secret_key=KEY))
        self.cookie = ""

    def session(self) -> Session:
        """The session of the next request."""
        return self.manager.begin(self.cookie)

    def commit(self, session: Session) -> str | None:
        """End the request."""
        set_cookie = run_blocking(self.manager.commit(session))
        if set_cookie is not None:
            self.cookie = set_cookie.partition(";")[0]
        return set_cookie


@pytest.fixture
def browser() -> Browser:
    """A browser that comes for the first time."""
    return Browser()


# -- form tokens -------------------------------------------------------------------------------------------------------


def bytes_of(text: str) -> bytes:
    """What a token encodes."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def text_of(data: bytes) -> str:
    """The token that encodes this."""
    return urlsafe_b64encode(data).decode().rstrip("=")


def test_a_token_is_genuine_in_its_own_session_alone() -> None:
    mine, yours = dict[str, Any](), dict[str, Any]()
    token = csrf_token(mine)
    assert is_csrf_token(mine, token) is True
    assert is_csrf_token(yours, token) is False
    csrf_token(yours)
    assert is_csrf_token(yours, token) is False


def test_a_session_keeps_one_token_of_256_bits_as_text() -> None:
    session = dict[str, Any]()
    csrf_token(session)
    kept = dict(session)
    csrf_token(session)
    assert session == kept
    assert kept.keys() == {CSRF_FIELD}
    assert len(bytes_of(kept[CSRF_FIELD])) == 32
    assert json.loads(json.dumps(kept)) == kept


def test_two_sessions_have_two_tokens() -> None:
    one, other = dict[str, Any](), dict[str, Any]()
    csrf_token(one)
    csrf_token(other)
    assert one[CSRF_FIELD] != other[CSRF_FIELD]


def test_a_token_never_reads_the_same_twice_and_each_is_genuine() -> None:
    session = dict[str, Any]()
    tokens = [csrf_token(session) for _ in range(50)]
    halves = {half for token in tokens for half in (bytes_of(token)[:32], bytes_of(token)[32:])}
    assert len(halves) == 100
    assert bytes_of(session[CSRF_FIELD]) not in halves
    assert all(is_csrf_token(session, token) for token in tokens)


def test_a_token_is_what_is_kept_under_a_mask() -> None:
    session = dict[str, Any]()
    made = bytes_of(csrf_token(session))
    assert bytes(pad ^ masked for pad, masked in zip(made[:32], made[32:], strict=True)) == bytes_of(
        session[CSRF_FIELD]
    )


def test_a_token_under_another_mask_is_genuine() -> None:
    session = dict[str, Any]()
    csrf_token(session)
    assert is_csrf_token(session, text_of(bytes(32) + bytes_of(session[CSRF_FIELD])))


def test_what_is_kept_is_no_token_itself() -> None:
    session = dict[str, Any]()
    csrf_token(session)
    assert not is_csrf_token(session, session[CSRF_FIELD])


@pytest.mark.parametrize("bit", [0, 255, 256, 511])
def test_a_token_with_one_bit_changed_is_refused(bit: int) -> None:
    session = dict[str, Any]()
    number = int.from_bytes(bytes_of(csrf_token(session))) ^ (1 << bit)
    assert not is_csrf_token(session, text_of(number.to_bytes(64)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token + "=",
        lambda token: token + "==",
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: "!" + token[1:],
        lambda token: token[:-1] + "\u0661",
        lambda token: token.encode(),
        lambda token: [token],
        lambda token: None,
        lambda token: "",
        lambda token: token * 1000,
    ],
)
def test_a_token_that_is_not_whole_is_refused(spoil: Any) -> None:
    session = dict[str, Any]()
    assert is_csrf_token(session, spoil(csrf_token(session))) is False


@CALM
@given(ANYTHING)
def test_anything_in_the_place_of_a_token_is_refused(token: object) -> None:
    session = dict[str, Any]()
    csrf_token(session)
    assert is_csrf_token(session, token) is False
    assert is_csrf_token({}, token) is False


@CALM
@given(ANYTHING)
def test_a_session_with_something_else_in_the_place_of_its_token_gets_a_new_one(value: object) -> None:
    session: dict[str, Any] = {CSRF_FIELD: value}
    assert not is_csrf_token(session, text_of(bytes(64)))
    assert is_csrf_token(session, csrf_token(session))


def test_to_check_a_token_never_writes() -> None:
    assert not is_csrf_token(Sealed(), text_of(bytes(64)))
    session = dict[str, Any]()
    token = csrf_token(session)
    assert is_csrf_token(Sealed(session), token)
    assert is_csrf_token(session, csrf_token(Sealed(session)))


def test_a_token_that_was_dropped_is_worth_nothing() -> None:
    session = dict[str, Any]()
    old = csrf_token(session)
    del session[CSRF_FIELD]
    csrf_token(session)
    assert not is_csrf_token(session, old)


def test_checking_a_token_makes_no_session(browser: Browser) -> None:
    session = browser.session()
    assert not is_csrf_token(session, text_of(bytes(64)))
    assert browser.commit(session) is None


def test_a_token_outlives_the_request(browser: Browser) -> None:
    session = browser.session()
    token = csrf_token(session)
    assert browser.commit(session)
    session = browser.session()
    assert is_csrf_token(session, token)
    assert is_csrf_token(session, csrf_token(session))
    assert not session.modified


# -- messages for the next page ----------------------------------------------------------------------------------------


def test_messages_are_taken_once_and_in_order() -> None:
    session: dict[str, Any] = {"cart": 3}
    flash(session, "Saved.")
    flash(session, "No such page.", "error")
    assert flashes(session) == [("message", "Saved."), ("error", "No such page.")]
    assert flashes(session) == []
    assert session == {"cart": 3}


def test_only_the_categories_that_are_asked_for_are_taken() -> None:
    session = dict[str, Any]()
    for number, category in enumerate(["error", "hint", "error", "message"]):
        flash(session, str(number), category)
    assert flashes(session, ["error", "none"]) == [("error", "0"), ("error", "2")]
    assert flashes(session, {"error"}) == []
    assert flashes(session) == [("hint", "1"), ("message", "3")]
    assert FLASH_FIELD not in session


def test_a_message_that_is_kept_twice_is_taken_twice() -> None:
    session = dict[str, Any]()
    flash(session, "Saved.")
    flash(session, "Saved.")
    assert flashes(session) == [("message", "Saved.")] * 2


def test_where_no_message_waits_nothing_is_written() -> None:
    assert flashes(Sealed()) == []
    assert flashes(Sealed({FLASH_FIELD: [["error", "No."]]}), ["hint"]) == []


def test_a_list_that_was_handed_out_is_not_edited() -> None:
    first = [["message", "a"]]
    session: dict[str, Any] = {FLASH_FIELD: first}
    flash(session, "b")
    assert first == [["message", "a"]]
    assert session[FLASH_FIELD] == [["message", "a"], ["message", "b"]]


class Markup(str):
    """Text of a kind that no codec knows."""


def test_a_message_is_kept_as_plain_text() -> None:
    session = dict[str, Any]()
    flash(session, Markup("<b>"), Markup("hint"))
    assert [type(text) for text in session[FLASH_FIELD][0]] == [str, str]
    assert flashes(session) == [("hint", "<b>")]


@CALM
@given(st.lists(st.tuples(st.text(), st.text())))
def test_messages_come_back_unchanged(messages: list[tuple[str, str]]) -> None:
    session = dict[str, Any]()
    for category, message in messages:
        flash(session, message, category)
    assert flashes(json.loads(json.dumps(session))) == messages


@CALM
@given(ANYTHING)
def test_something_else_in_the_place_of_messages_is_passed_over(value: object) -> None:
    session: dict[str, Any] = {FLASH_FIELD: value}
    flash(session, "Saved.")
    assert flashes(session)[-1] == ("message", "Saved.")
    assert all(isinstance(text, str) for pair in flashes({FLASH_FIELD: value}) for text in pair)


def test_messages_wait_for_the_next_request(browser: Browser) -> None:
    session = browser.session()
    flash(session, "Saved.")
    flash(session, "Look here.", "hint")
    assert browser.commit(session)
    session = browser.session()
    assert flashes(session, ["hint"]) == [("hint", "Look here.")]
    browser.commit(session)
    session = browser.session()
    assert flashes(session, ["hint"]) == []
    assert not session.modified
    assert flashes(session) == [("message", "Saved.")]
    browser.commit(session)
    assert dict(browser.session()) == {}


def test_to_look_for_messages_makes_no_session(browser: Browser) -> None:
    session = browser.session()
    assert flashes(session) == []
    assert browser.commit(session) is None


# -- the origin of a websocket -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("https://example.com", "example.com", True),
        ("http://example.com", "example.com", False),
        ("https://example.com:443", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("http://example.com", "example.com:80", False),
        ("https://example.com:8443", "example.com:8443", True),
        ("http://localhost:8000", "localhost:8000", False),
        ("HTTPS://Example.COM", "example.com", True),
        ("https://example.com", "EXAMPLE.com", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", False),
        ("https://[2001:DB8::1]", "[2001:db8::1]:443", True),
        ("http://my_host", "my_host", False),
    ],
)
def test_a_page_of_the_same_site_is_allowed(origin: str, host: str, secure: bool) -> None:
    assert is_allowed_origin(origin, host, secure=secure) is True


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("https://evil.example", "example.com", True),
        ("https://example.com.evil.example", "example.com", True),
        ("https://evilexample.com", "example.com", True),
        ("https://www.example.com", "example.com", True),
        ("https://example.com", "www.example.com", True),
        ("https://example.com:8443", "example.com", True),
        ("https://example.com", "example.com:8443", True),
        ("https://example.com:80", "example.com", True),
        ("http://example.com:443", "example.com", True),
        ("http://example.com", "example.com", True),
        ("https://example.com", "example.com", False),
        ("wss://example.com", "example.com", True),
        ("https://example.com", "", True),
        ("https://example.com", None, True),
        ("https://none", None, True),
        ("https://", "", True),
        ("https://example.com", "example.com, evil.example", True),
        ("https://example.com", "user@example.com", True),
        ("https://example.com", "example.com/path", True),
    ],
)
def test_a_page_of_another_site_is_refused(origin: str, host: str | None, secure: bool) -> None:
    assert is_allowed_origin(origin, host, secure=secure) is False


GARBAGE = [
    "",
    " ",
    "null",
    "NULL",
    "*",
    "example.com",
    "//example.com",
    "https:example.com",
    "https:/example.com",
    "https://example.com/",
    "https://example.com/path",
    "https://example.com?",
    "https://example.com#",
    "https://user@example.com",
    "https://user:secret@example.com",
    "https://example.com@evil.example",
    "https://evil.example\\@example.com",
    "https://example.com:",
    "https://example.com:https",
    "https://example.com:-443",
    "https://example.com:000443",
    "https://example.com:65979",
    "https://example.com:\u0664\u0664\u0663",
    " https://example.com",
    "https://example.com ",
    "https://example.com\n",
    "https://example.com\0",
    "https://example.com, https://example.com",
    "https://example.com https://example.com",
    "https://[example.com]",
    "https://[::1",
    "https://e\u212aample.com",
    "https://" + "a" * 64_000,
    "a" * 64_000 + "://example.com",
    ":" * 64_000,
]


@pytest.mark.parametrize("origin", GARBAGE)
def test_what_is_not_an_origin_is_refused_even_if_it_is_listed(origin: str) -> None:
    assert is_allowed_origin(origin, "example.com", secure=True, allow_missing=True) is False
    assert is_allowed_origin(origin, origin.partition("://")[2], secure=True, allowed=[origin]) is False


def test_letters_that_only_become_ascii_in_lower_case_are_refused() -> None:
    assert "\u212a".lower() == "k"
    assert is_allowed_origin("https://\u212a.example", "k.example", secure=True) is False
    assert is_allowed_origin("https://k.example", "\u212a.example", secure=True) is False


@pytest.mark.parametrize(
    ("origin", "listed"),
    [
        ("https://shop.example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("https://shop.example", "HTTPS://Shop.example:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_an_origin_that_is_listed_is_allowed_on_any_host(origin: str, listed: str) -> None:
    for host in ("example.com", None, "//"):
        assert is_allowed_origin(origin, host, secure=True, allowed=["https://other.example", listed])
        assert not is_allowed_origin(origin, host, secure=True, allowed=["https://other.example"])


@pytest.mark.parametrize(
    "listed", ["*", "https://*", "shop.example", "https://shop.example/", "http://shop.example", ".example"]
)
def test_a_list_says_exactly_what_it_allows(listed: str) -> None:
    assert not is_allowed_origin("https://shop.example", "example.com", secure=True, allowed=[listed])
    assert not is_allowed_origin("https://shop.example", "example.com", secure=True, allowed=listed)


def test_a_client_without_an_origin_is_refused_unless_the_app_serves_such() -> None:
    assert is_allowed_origin(None, "example.com", secure=True) is False
    assert is_allowed_origin(None, "example.com", secure=True, allowed=["null", ""]) is False
    assert is_allowed_origin(None, "example.com", secure=True, allow_missing=True) is True


HEADERS = st.none() | st.text(st.characters()) | st.text("htps:/[]@.a1 ")


@CALM
@given(HEADERS, HEADERS, st.booleans(), st.lists(st.text()))
def test_no_header_raises(origin: str | None, host: str | None, secure: bool, allowed: list[str]) -> None:
    assert is_allowed_origin(origin, host, secure=secure, allowed=allowed) in (True, False)


# -- Clear-Site-Data ---------------------------------------------------------------------------------------------------


def test_a_logout_clears_what_it_is_told_to() -> None:
    assert clear_site_data("cookies") == ("Clear-Site-Data", '"cookies"')
    assert clear_site_data("cache", "storage") == ("Clear-Site-Data", '"cache", "storage"')


def test_a_logout_clears_everything_by_default() -> None:
    assert clear_site_data() == ("Clear-Site-Data", '"cache", "cookies", "storage"')
