"""The HTTP rules: what the use of a session adds to a response."""

from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedsess_middleware.http import (
    CACHING,
    CONFLICT,
    UNAVAILABLE,
    Replacement,
    client_address,
    is_excluded,
    is_secure,
    session_headers,
)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Headers = list[tuple[str, str]]

COOKIE = "vedsess=abc; HttpOnly; Path=/; SameSite=Lax"
SET = ("Set-Cookie", COOKIE)
VARY = ("Vary", "Cookie")
KEEP_OUT = ("Cache-Control", "no-store, private")
TYPE = ("Content-Type", "text/plain")


# -- a session that was not used ---------------------------------------------------------------------------------------


@CALM
@given(st.lists(st.tuples(st.sampled_from(["Vary", "Cache-Control", "Expires", "Set-Cookie", "X"]), st.text())))
def test_an_untouched_session_leaves_the_headers_alone(headers: Headers) -> None:
    assert session_headers(headers, accessed=False, set_cookie=None) == headers


def test_the_headers_of_the_app_are_not_changed_in_place() -> None:
    headers = [("Vary", "Accept"), ("Cache-Control", "public")]
    session_headers(headers, accessed=True, set_cookie=COOKIE)
    assert headers == [("Vary", "Accept"), ("Cache-Control", "public")]


# -- Vary --------------------------------------------------------------------------------------------------------------


def test_a_session_that_was_read_varies_the_response_and_leaves_caching_to_the_app() -> None:
    public = ("Cache-Control", "public, max-age=60")
    assert session_headers([TYPE, public], accessed=True, set_cookie=None) == [TYPE, public, VARY]


def test_a_cookie_varies_the_response_also_when_nothing_was_read() -> None:
    assert VARY in session_headers([], accessed=False, set_cookie=COOKIE)


@pytest.mark.parametrize(
    "headers",
    [
        [("Vary", "Accept")],
        [("Vary", "Accept, Accept-Encoding")],
        [("Vary", "Accept"), ("Vary", "Origin")],
        [("Vary", "X-Cookie")],
        [("Vary", "")],
        [("X-Vary", "Cookie")],
    ],
)
def test_what_the_response_varies_by_already_stays(headers: Headers) -> None:
    assert session_headers(headers, accessed=True, set_cookie=None) == [*headers, VARY]


@pytest.mark.parametrize(
    "headers",
    [
        [("Vary", "Cookie")],
        [("vary", "cookie")],
        [("VARY", "Accept,COOKIE , Origin")],
        [("Vary", "Accept"), ("Vary", "Cookie")],
        [("Vary", "*")],
        [("Vary", "Accept, *")],
    ],
)
def test_a_response_that_varies_enough_is_left_alone(headers: Headers) -> None:
    assert session_headers(headers, accessed=True, set_cookie=None) == headers


# -- Cache-Control -----------------------------------------------------------------------------------------------------


def test_a_response_with_a_cookie_is_stored_by_nobody() -> None:
    assert session_headers([TYPE], accessed=False, set_cookie=COOKIE) == [TYPE, VARY, KEEP_OUT, SET]


@pytest.mark.parametrize(
    "headers",
    [
        [("Cache-Control", "public, max-age=31536000, immutable")],
        [("cache-control", "private")],
        [("Cache-Control", "no-cache")],
        [("Cache-Control", "public"), ("CACHE-CONTROL", "max-age=60")],
        [("Expires", "Thu, 01 Dec 2033 16:00:00 GMT")],
        [("Pragma", "public"), ("Cache-Control", "s-maxage=1")],
    ],
)
def test_what_would_let_a_cookie_be_stored_is_replaced(headers: Headers) -> None:
    made = session_headers([*headers, TYPE], accessed=True, set_cookie=COOKIE)
    assert made == [TYPE, VARY, KEEP_OUT, SET]


@pytest.mark.parametrize(
    "headers",
    [
        [("Cache-Control", "no-store")],
        [("cache-control", "NO-STORE")],
        [("Cache-Control", "no-cache, no-store, must-revalidate"), ("Expires", "0")],
        [("Cache-Control", "private"), ("Cache-Control", "no-store")],
    ],
)
def test_what_is_as_strict_already_stays(headers: Headers) -> None:
    assert session_headers(headers, accessed=True, set_cookie=COOKIE) == [*headers, VARY, SET]


def test_cookies_of_the_app_stay_beside_the_session_cookie() -> None:
    mine = ("Set-Cookie", "theme=dark")
    assert session_headers([mine], accessed=False, set_cookie=COOKIE) == [mine, VARY, KEEP_OUT, SET]


@CALM
@given(
    st.lists(st.tuples(st.sampled_from(["Vary", "CACHE-CONTROL", "expires", "Set-Cookie", "X"]), st.text())),
    st.booleans(),
    st.sampled_from([None, COOKIE]),
)
def test_only_the_headers_about_caching_make_a_difference(
    headers: Headers, accessed: bool, set_cookie: str | None
) -> None:
    caching = [pair for pair in headers if pair[0].lower() in CACHING]
    others = [pair for pair in headers if pair not in caching]
    made = session_headers(caching, accessed=accessed, set_cookie=set_cookie)
    assert sorted(session_headers(headers, accessed=accessed, set_cookie=set_cookie)) == sorted(others + made)


# -- excluded paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "excluded", "answer"),
    [
        ("/static", ["/static"], True),
        ("/static/", ["/static"], True),
        ("/static/a/b.css", ["/static"], True),
        ("/statics", ["/static"], False),
        ("/static.css", ["/static"], False),
        ("/a/static", ["/static"], False),
        ("/Static", ["/static"], False),
        ("/static", ["/static/"], False),
        ("/static/", ["/static/"], True),
        ("/static/a", ["/static/"], True),
        ("/", ["/static"], False),
        ("", ["/static"], False),
        ("/", ["/"], True),
        ("/anything", ["/"], True),
        ("/health", ["/static", "/health"], True),
        ("/health", [], False),
    ],
)
def test_a_path_is_excluded_with_all_below_it(path: str, excluded: list[str], answer: bool) -> None:
    assert is_excluded(path, excluded) is answer


# -- https -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "answer"), [("https", True), ("wss", True), ("http", False), ("ws", False)])
def test_without_a_proxy_the_connection_says_whether_it_is_secure(scheme: str, answer: bool) -> None:
    assert is_secure(scheme, None, 0) is answer
    assert is_secure(scheme, None, 1) is answer
    assert is_secure(scheme, "", 1) is answer


@pytest.mark.parametrize("forwarded", ["https", "http"])
def test_a_proxy_that_is_not_trusted_is_not_believed(forwarded: str) -> None:
    assert is_secure("https", forwarded, 0) is True
    assert is_secure("http", forwarded, 0) is False


@pytest.mark.parametrize(
    ("forwarded", "proxies", "answer"),
    [
        ("https", 1, True),
        (" HTTPS ", 1, True),
        ("wss", 1, True),
        ("http", 1, False),
        ("https, http", 1, False),
        ("http, https", 1, True),
        ("https, http", 2, True),
        ("http,https", 2, False),
        ("https, http, http", 2, False),
        ("http, https, http", 2, True),
        ("javascript", 1, False),
    ],
)
def test_the_outermost_trusted_proxy_is_believed(forwarded: str, proxies: int, answer: bool) -> None:
    assert is_secure("http", forwarded, proxies) is answer


def test_a_browser_cannot_pretend_to_be_a_trusted_proxy() -> None:
    """With two proxies of ours there are two entries; a single one says that a proxy was passed by."""
    assert is_secure("http", "https", 2) is False


# -- the address of a client -------------------------------------------------------------------------------------------

PEER = "10.0.0.1"


@pytest.mark.parametrize("forwarded", [None, "", "192.0.2.1", "198.51.100.7, 192.0.2.1"])
def test_without_a_trusted_proxy_the_peer_is_the_client(forwarded: str | None) -> None:
    assert client_address(PEER, forwarded, 0) == PEER
    assert client_address(None, forwarded, 0) is None


@pytest.mark.parametrize(
    ("forwarded", "proxies", "answer"),
    [
        ("192.0.2.1", 1, "192.0.2.1"),
        ("198.51.100.7, 192.0.2.1", 1, "192.0.2.1"),
        ("198.51.100.7, 192.0.2.1", 2, "198.51.100.7"),
        ("203.0.113.9,198.51.100.7,192.0.2.1", 2, "198.51.100.7"),
        ("1.1.1.1, 8.8.8.8, 203.0.113.9, 198.51.100.7, 192.0.2.1", 3, "203.0.113.9"),
        ("unknown, 192.0.2.1", 1, "192.0.2.1"),
    ],
)
def test_the_client_is_whom_the_outermost_trusted_proxy_saw(forwarded: str, proxies: int, answer: str) -> None:
    assert client_address(PEER, forwarded, proxies) == answer


@pytest.mark.parametrize("forwarded", [None, "", "192.0.2.1"])
def test_who_came_past_a_trusted_proxy_names_no_address(forwarded: str | None) -> None:
    assert client_address(PEER, forwarded, 2) == PEER


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:1234", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[fe80::1%eth0]:443", "fe80::1"),
        ("fe80::1%<b>", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
    ],
)
def test_an_address_comes_without_brackets_port_and_zone(entry: str, answer: str) -> None:
    assert client_address(PEER, entry, 1) == answer
    assert client_address(PEER, f"198.51.100.7,{entry}", 1) == answer


@pytest.mark.parametrize(
    "entry",
    [
        " ",
        "unknown",
        "_hidden",
        "example.com",
        "192.0.2",
        "192.0.2.256",
        "010.0.2.1",
        "192.0.2.1:",
        "192.0.2.1:http",
        "192.0.2.1:\u0661",
        "[2001:db8::1",
        "2001:db8::1]",
        "[]",
        "[]:443",
        "[2001:db8::1]443",
        "[[2001:db8::1]]",
        "2001:db8::1::2",
        "\u0661.2.3.4",
        "192.0.2.1/24",
    ],
)
def test_what_is_no_address_leaves_the_peer(entry: str) -> None:
    assert client_address(PEER, f"198.51.100.7,{entry}", 1) == PEER


@CALM
@given(st.text() | st.text("0123456789abcdef.:[],% "), st.integers(0, 4))
def test_no_header_raises_and_what_comes_of_it_is_an_address(forwarded: str, proxies: int) -> None:
    found = client_address(PEER, forwarded, proxies)
    assert found is not None
    assert "%" not in found
    assert str(ip_address(found)) == found


# -- the 503 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stand_in", [UNAVAILABLE, CONFLICT])
def test_what_stands_in_for_an_answer_touches_no_cookie(stand_in: Replacement) -> None:
    headers = dict(stand_in.headers)
    assert headers["Content-Length"] == str(len(stand_in.body))
    assert headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in headers
    assert len(headers) == len(stand_in.headers)
    assert (stand_in.status, stand_in.code) in [("503 Service Unavailable", 503), ("409 Conflict", 409)]


def test_the_503_says_when_to_try_again() -> None:
    assert int(dict(UNAVAILABLE.headers)["Retry-After"]) > 0
