"""The cookie: what a browser sends is genuine, or it is rejected, and it never raises."""

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itsdangerous import Signer
from werkzeug.http import dump_cookie

from vedsess_middleware.cookies import CookieJar, Rejection, Ticket, find_cookies, new_session_id
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.record import Version

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NEWEST = "Yk3mQ8sV1xZ6bT0rW5nC9pL4dH7gJ2fAeUoKiXtNqMw"
OLDER = "hE7uR2yI9oP4aS6dF1gH8jK3lZ0xC5vBqWnMtYcVbDr"
OLDEST = "Gp5tN0wX8cJ3vM6kQ1zB7yD9sF2hL4rAiEuOoTqKxCe"
STRANGE = "Wd9fB4jS7mT2qV6xZ1cN8kR3pH5gY0lUaIeOoEtKyMb"

SESSION_ID = "eT5-wQ_8rY2uI0oP3aS6dF9gH1jK4lZ7xC5vBnM0qWe"
TICKET = Ticket(SESSION_ID, Version(3, 14), 1_700_000_000.123)
SIGNED = f"{SESSION_ID}.3.14.18bcfe5687b"
LAST = 253_000_000_000_000  # milliseconds, in the year 9987
ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


def jar(*keys: str, **options: Any) -> CookieJar:
    """A jar with these keys, the newest first."""
    return CookieJar(Settings(secret_key=list(keys) or NEWEST, **options))


def value_of(set_cookie: str) -> str:
    """The value in a Set-Cookie header."""
    return set_cookie.partition("=")[2].partition(";")[0]


def attributes_of(set_cookie: str) -> set[str]:
    """All that a Set-Cookie header says beside name and value."""
    return set(set_cookie.split("; ")[1:])


def lasting(set_cookie: str) -> set[str]:
    """Those of them that say nothing of time."""
    return {each for each in attributes_of(set_cookie) if not each.startswith(("Max-Age=", "Expires="))}


def cookie(ticket: Ticket = TICKET, *keys: str, **options: Any) -> str:
    """The Cookie header of a browser that was given this ticket."""
    return f"vedsess={value_of(jar(*keys, **options).set(ticket, secure=True))}"


def one(verdicts: list[Ticket | Rejection]) -> Ticket | Rejection:
    """The only verdict."""
    [verdict] = verdicts
    return verdict


def signed_by_hand(text: str, key: str = NEWEST, audience: str = "") -> str:
    """A Cookie header made without the signing library."""
    salt = f"vedsess_middleware.cookie:{audience}"
    derived = hmac.digest(key.encode(), salt.encode(), "sha256")
    signature = base64.urlsafe_b64encode(hmac.digest(derived, text.encode(), "sha256"))
    return f"vedsess={text}.{signature.decode().rstrip('=')}"


# -- genuine -----------------------------------------------------------------------------------------------------------


@CALM
@given(
    st.builds(
        Ticket,
        st.text(ID_CHARACTERS, min_size=43, max_size=43),
        st.builds(Version, st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1)),
        st.integers(0, LAST).map(lambda milliseconds: milliseconds / 1000),
    )
)
def test_a_ticket_comes_back_equal(ticket: Ticket) -> None:
    assert jar().read(cookie(ticket)) == [ticket]


def test_the_signature_is_hmac_sha_256_with_a_key_derived_by_hmac() -> None:
    assert cookie() == signed_by_hand(SIGNED)
    assert cookie(audience="shop") == signed_by_hand(SIGNED, audience="shop")
    assert jar().read(signed_by_hand(SIGNED)) == [TICKET]


@CALM
@given(
    st.permutations([NEWEST, OLDER, OLDEST]),
    st.integers(1, 3),
    st.integers(0, 2),
    st.text(ID_CHARACTERS, max_size=5),
)
def test_cookies_are_those_of_the_signing_library_in_both_directions(
    keys: list[str], known: int, signer: int, audience: str
) -> None:
    """It derives its keys anew for each signature; what earlier versions signed with it has to stay valid."""
    keys, salt = keys[:known], f"vedsess_middleware.cookie:{audience}"
    library = Signer(keys[::-1], salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)
    mine = jar(*keys, audience=audience)
    made = value_of(mine.set(TICKET, secure=True))
    assert made == library.sign(SIGNED).decode()
    assert library.unsign(made) == SIGNED.encode()
    key = keys[signer % known]
    alone = Signer(key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256)
    verdict = one(mine.read(f"vedsess={alone.sign(SIGNED).decode()}"))
    assert verdict == Ticket(SESSION_ID, TICKET.token, TICKET.issued_at, newest_key=key == keys[0])


def test_the_largest_ticket_is_short_enough_to_be_read() -> None:
    largest = Ticket(SESSION_ID, Version(10**15 - 1, 10**15 - 1), LAST / 1000)
    assert len(cookie(largest)) < 200


def test_an_id_has_256_random_bits_in_43_characters() -> None:
    ids = [new_session_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert {len(each) for each in ids} == {43}
    assert set("".join(ids)) <= set(ID_CHARACTERS)
    assert {len(base64.urlsafe_b64decode(each + "=")) for each in ids} == {32}


def test_the_key_is_the_sha_256_of_the_id() -> None:
    assert TICKET.key == hashlib.sha256(SESSION_ID.encode()).hexdigest()


def test_a_jar_makes_ids_as_it_was_told() -> None:
    assert CookieJar(Settings(secret_key=NEWEST), new_id=lambda: SESSION_ID).new_id() == SESSION_ID


# -- not genuine -------------------------------------------------------------------------------------------------------


def rejection(header: str) -> str:
    """Why the only cookie in this header is rejected."""
    verdict = one(jar().read(header))
    assert isinstance(verdict, Rejection)
    return verdict.reason


@pytest.mark.parametrize(
    "header",
    [
        "vedsess=",
        "vedsess=.",
        f"vedsess={SESSION_ID}",
        f"vedsess={SIGNED}",
        f"vedsess={SIGNED}.",
        f"vedsess=.{cookie().rpartition('.')[2]}",
        f"vedsess={SIGNED}.{'A' * 43}",
        f"vedsess={SIGNED}.{SESSION_ID}",
        f'vedsess="{cookie().partition("=")[2]}"',
        cookie().replace(".3.14.", ".3.15."),
        signed_by_hand(SIGNED, STRANGE),
        signed_by_hand(SIGNED, audience="shop"),
        f"vedsess={Signer(NEWEST).sign(SIGNED).decode()}",
        f"vedsess={Signer(NEWEST, salt='vedsess_middleware.cookie:').sign(SIGNED).decode()}",
        f"vedsess={Signer(NEWEST, salt='vedsess_middleware.cookie:', key_derivation='hmac').sign(SIGNED).decode()}",
    ],
)
def test_a_forged_cookie_is_rejected(header: str) -> None:
    assert rejection(header) == "bad signature"


def test_a_truncated_cookie_is_rejected_wherever_it_ends() -> None:
    whole = cookie()
    ends = range(len("vedsess="), len(whole))
    assert {rejection(whole[:end]) for end in ends} == {"bad signature"}


def test_a_cookie_with_any_bit_flipped_is_rejected_or_says_the_same() -> None:
    """The last character of a signature has two bits that mean nothing, so flipping them forges nothing."""
    whole, start = cookie(), len("vedsess=")
    equal = []
    for place in range(start, len(whole)):
        for bit in range(8):
            flipped = whole[:place] + chr(ord(whole[place]) ^ (1 << bit)) + whole[place + 1 :]
            tickets = [verdict for verdict in jar().read(flipped) if isinstance(verdict, Ticket)]
            assert tickets in ([], [TICKET])
            equal += [place] * len(tickets)
    assert set(equal) <= {len(whole) - 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        SESSION_ID,
        f"{SESSION_ID}.3.14",
        f"{SESSION_ID[:-1]}.3.14.18bcfe5687b",
        f"{SESSION_ID}x.3.14.18bcfe5687b",
        f"{SESSION_ID[:-1]}*.3.14.18bcfe5687b",
        f"{SESSION_ID}.-3.14.18bcfe5687b",
        f"{SESSION_ID}.3.1e4.18bcfe5687b",
        f"{SESSION_ID}.{'9' * 16}.14.18bcfe5687b",
        f"{SESSION_ID}.3.14.",
        f"{SESSION_ID}.3.14.18BCFE5687B",
        f"{SESSION_ID}.3.14.{'f' * 13}",
        f"{SESSION_ID}.3.14.18bcfe5687b.",
        f"{SESSION_ID}.3.14.18bcfe5687b.0.0",
        f"{SESSION_ID}.3.14.18bcfe5687b.{'f' * 9}",
        f"{SESSION_ID}.3.14.18bcfe5687b\n",
    ],
)
def test_what_was_signed_for_another_purpose_is_no_session(text: str) -> None:
    assert rejection(signed_by_hand(text)) == "not a session"


def test_an_oversized_cookie_is_rejected_before_it_is_verified() -> None:
    assert rejection(f"vedsess={'A' * 257}") == "too long"
    assert rejection(f"vedsess={'A' * 256}") == "bad signature"
    assert rejection(cookie() + "A" * 1_000_000) == "too long"


@pytest.mark.parametrize("character", ["é", "\xff", "\u0663", "\U0001f36a", "\udc80"])
def test_a_cookie_that_is_not_ascii_is_rejected(character: str) -> None:
    assert rejection(f"{cookie()}{character}") == "not ASCII"
    assert rejection(cookie().replace("3", character, 1)) == "not ASCII"


_PIECES = ["vedsess", "=", ";", " ", ".", '"', "\x00", "\udc80", "é", SESSION_ID, SIGNED, "A" * 300]


@settings(CALM, max_examples=500)
@given(st.text() | st.lists(st.sampled_from(_PIECES) | st.text(max_size=3)).map("".join))
def test_no_header_raises_and_none_is_genuine_by_chance(header: str) -> None:
    for jar_ in (jar(), jar(NEWEST, OLDER)):
        for verdict in jar_.read(header) + jar_.read(f"vedsess={header}"):
            assert isinstance(verdict, Rejection)


@CALM
@given(st.text(st.characters(exclude_characters=";=")), st.text(st.characters(exclude_characters=";=")))
def test_a_genuine_cookie_is_found_among_any_others(before: str, after: str) -> None:
    assert TICKET in jar().read(f"{before}=1; {cookie()}; {after}=2")


# -- which cookies are ours --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ("a=1", []),
        ("vedsess", []),
        ("vedsess; a=1", []),
        ("vedsess=1", ["1"]),
        ("vedsess=", [""]),
        ("a=1; vedsess=2; b=3", ["2"]),
        ("a=1;vedsess=2;b=3", ["2"]),
        (" \tvedsess =\t2 ", ["2"]),
        ("vedsess=1=2==", ["1=2=="]),
        ('vedsess="1"', ['"1"']),
        ("vedsess=1, vedsess=2", ["1, vedsess=2"]),
        ("vedsess=1; vedsess=2; vedsess=1", ["1", "2", "1"]),
        ("Vedsess=1; vedsess2=1; xvedsess=1; vedsess.=1; __Host-vedsess=1; a=vedsess", []),
        ("vedsess\u00a0=1; \x0bvedsess=1", []),
        ("=vedsess=1", []),
        ("==vedsess=1; =; ;; = vedsess=1", []),
    ],
)
def test_only_pairs_of_exactly_our_name_are_ours(header: str, found: list[str]) -> None:
    assert find_cookies(header, "vedsess") == found


@CALM
@given(
    st.text() | st.lists(st.sampled_from([";", "=", " ", "\t", "\n", "sid", "s", "1", "sid=1", "sid =2"])).map("".join)
)
def test_cookies_are_found_as_if_the_header_were_cut_into_its_pairs(header: str) -> None:
    pairs = [pair.partition("=") for pair in header.split(";")]
    assert find_cookies(header, "sid") == [
        value.strip(" \t") for name, equals, value in pairs if equals and name.strip(" \t") == "sid"
    ]


@pytest.mark.parametrize("name", ["s.d", "s+", "$sid", "^s|d", "s*"])
def test_no_character_of_a_name_stands_for_others(name: str) -> None:
    assert find_cookies(f"sxd=1; ss=2; s=3; {name}=4", name) == ["4"]


def test_a_pair_without_a_name_cannot_pass_for_ours() -> None:
    assert jar().read(f"={cookie()}") == []


def test_several_cookies_are_judged_each_in_their_order() -> None:
    other = Ticket(SESSION_ID[::-1], Version(0, 1), 1_700_000_000.0)
    verdicts = jar().read(f"{cookie(other)}; vedsess=forged; a=1; {cookie()}; {cookie(other)}")
    assert verdicts == [other, Rejection("bad signature"), TICKET, other]


def test_only_the_first_eight_cookies_are_looked_at() -> None:
    assert jar().read("; ".join(["vedsess=x"] * 7 + [cookie()] + [cookie()] * 5000))[7:] == [TICKET]
    assert TICKET not in jar().read("; ".join(["vedsess=x"] * 8 + [cookie()]))


def test_the_name_is_a_setting() -> None:
    header = cookie().replace("vedsess=", "__Host-sid=")
    assert jar(cookie_name="__Host-sid", cookie_secure=True).read(header) == [TICKET]
    assert jar().read(header) == []


# -- keys and audiences ------------------------------------------------------------------------------------------------


def test_the_newest_key_signs() -> None:
    assert cookie(TICKET, NEWEST, OLDER, OLDEST) == cookie(TICKET, NEWEST)
    assert cookie(TICKET, NEWEST, OLDER, OLDEST) == signed_by_hand(SIGNED, NEWEST)


def test_what_the_newest_key_signed_cannot_be_read_with_an_old_one_alone() -> None:
    header = cookie(TICKET, NEWEST, OLDER)
    assert jar(OLDER).read(header) == [Rejection("bad signature")]
    assert jar(NEWEST).read(header) == [TICKET]


@pytest.mark.parametrize("key", [OLDER, OLDEST])
def test_old_keys_verify_and_ask_for_a_new_signature(key: str) -> None:
    verdict = one(jar(NEWEST, OLDER, OLDEST).read(cookie(TICKET, key)))
    assert verdict == Ticket(TICKET.session_id, TICKET.token, TICKET.issued_at, newest_key=False)


def test_a_key_that_was_removed_is_refused() -> None:
    header = cookie(TICKET, OLDEST)
    assert jar(NEWEST, OLDER).read(header) == [Rejection("bad signature")]
    assert jar(NEWEST).read(header) == [Rejection("bad signature")]


@pytest.mark.parametrize(("mine", "theirs"), [("", "shop"), ("shop", ""), ("shop", "admin"), ("shop", "Shop")])
def test_apps_of_two_audiences_refuse_each_others_cookies(mine: str, theirs: str) -> None:
    header = cookie(TICKET, NEWEST, OLDER, audience=theirs)
    assert jar(NEWEST, OLDER, audience=mine).read(header) == [Rejection("bad signature")]
    assert jar(NEWEST, OLDER, audience=theirs).read(header) == [TICKET]


# -- Set-Cookie --------------------------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"cookie_name": "__Host-sid", "cookie_secure": True},
    {"cookie_secure": False},
    {"cookie_samesite": "Strict", "cookie_path": "/app"},
    {"cookie_domain": "example.com", "cookie_path": "/a b"},
    {"cookie_samesite": "None", "cookie_secure": True, "cookie_partitioned": True, "idle_timeout": 59.6},
]


def test_the_cookie_is_httponly_lax_and_of_this_host_alone() -> None:
    set_cookie = jar().set(TICKET, secure=False)
    assert set_cookie.startswith(f"vedsess={SESSION_ID}.3.14.")
    assert lasting(set_cookie) == {"HttpOnly", "Path=/", "SameSite=Lax"}


def test_the_browser_keeps_it_for_the_idle_time_from_the_ticket_on() -> None:
    """Both attributes say so, and neither asks the clock of this process."""
    set_cookie = jar(idle_timeout=59.6).set(TICKET, secure=False)
    assert attributes_of(set_cookie) - lasting(set_cookie) == {"Max-Age=60", "Expires=Tue, 14 Nov 2023 22:14:20 GMT"}


@pytest.mark.parametrize(
    ("setting", "https", "secure"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_it_is_secure_when_the_request_is_or_as_the_setting_says(
    setting: bool | None, https: bool, secure: bool
) -> None:
    made = jar(cookie_secure=setting)
    assert ("Secure" in attributes_of(made.set(TICKET, secure=https))) is secure
    assert ("Secure" in attributes_of(made.remove(secure=https))) is secure


def test_every_attribute_is_as_the_settings_say() -> None:
    made = jar(
        cookie_samesite="None",
        cookie_secure=True,
        cookie_partitioned=True,
        cookie_domain="example.com",
        cookie_path="/app",
    )
    assert lasting(made.set(TICKET, secure=False)) == {
        "Domain=example.com",
        "HttpOnly",
        "Partitioned",
        "Path=/app",
        "SameSite=None",
        "Secure",
    }


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("https", [True, False])
@pytest.mark.parametrize("issued_at", [0.0, 1_700_000_000.5, 1_700_000_001.5, LAST / 1000])
def test_a_header_is_what_the_cookie_library_would_make_of_it(
    options: dict[str, Any], https: bool, issued_at: float
) -> None:
    """Most of it is made once for all requests."""
    made = jar(**options).set(Ticket(SESSION_ID, Version(3, 14), issued_at), secure=https)
    max_age = 60 if "idle_timeout" in options else 86400
    assert made == dump_cookie(
        options.get("cookie_name", "vedsess"),
        value_of(made),
        max_age=max_age,
        expires=round(issued_at) + max_age,
        path=options.get("cookie_path", "/"),
        domain=options.get("cookie_domain"),
        secure=options.get("cookie_secure", https),
        httponly=True,
        samesite=options.get("cookie_samesite", "Lax"),
        partitioned=options.get("cookie_partitioned", False),
    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("https", [True, False])
def test_a_removal_repeats_every_attribute(options: dict[str, Any], https: bool) -> None:
    made = jar(**options)
    setting, removing = made.set(TICKET, secure=https), made.remove(secure=https)
    assert removing.startswith(f"{options.get('cookie_name', 'vedsess')}=;")
    assert attributes_of(removing) - lasting(removing) == {"Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"}
    assert lasting(removing) == lasting(setting)


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, "{}".format])
def test_neither_a_ticket_nor_a_jar_shows_a_secret(show: Callable[[object], str]) -> None:
    shown = show(TICKET) + show([TICKET]) + show(jar(NEWEST, OLDER))
    assert "3, r=14" in shown
    for secret in (SESSION_ID, TICKET.key, NEWEST, OLDER):
        assert secret[:8] not in shown


def test_a_rejection_does_not_show_what_was_sent() -> None:
    verdicts = [one(jar().read(f"vedsess={text}")) for text in ("hunter2", "hunter2" * 50, "hunter2é")]
    assert "hunter2" not in repr(verdicts)
