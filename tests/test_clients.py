"""What is kept of a client: a short label, a network, a fingerprint, whatever it sends."""

import base64
import hmac
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import overload

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedsess_middleware.clients import address_prefix, find_address, fingerprint, matches, user_agent_label

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NEWEST, OLDER, STRANGE = b"newest" * 6, b"older" * 7, b"strange" * 5

# -- labels ------------------------------------------------------------------------------------------------------------

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)"
LINUX = "Mozilla/5.0 (X11; Linux x86_64)"
ANDROID = "Mozilla/5.0 (Linux; Android 15; K)"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
IPAD = "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
GOOGLE = "compatible; Googlebot/2.1; +http://www.google.com/bot.html"


@pytest.mark.parametrize(
    ("user_agent", "label"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox 140 on Linux"),
        ("Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0", "Firefox 140 on Android"),
        (f"{IPHONE} FxiOS/140.0 Mobile/15E148 Safari/605.1.15", "Firefox 140 on iPhone"),
        (f"{IPHONE} Version/18.0 Mobile/15E148 Safari/604.1", "Safari 18 on iPhone"),
        (f"{IPAD} Version/16.6 Mobile/15E148 Safari/604.1", "Safari 16 on iPad"),
        (f"{MAC} AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15", "Safari 18 on macOS"),
        (f"{WINDOWS} {WEBKIT} Chrome/138.0.0.0 Safari/537.36", "Chrome 138 on Windows"),
        (f"{ANDROID} {WEBKIT} Chrome/138.0.0.0 Mobile Safari/537.36", "Chrome 138 on Android"),
        (f"{ANDROID} {WEBKIT} Version/4.0 Chrome/138.0.0.0 Mobile Safari/537.36", "Chrome 138 on Android"),
        (f"{LINUX} {WEBKIT} HeadlessChrome/138.0.0.0 Safari/537.36", "Chrome 138 on Linux"),
        (f"{IPHONE} CriOS/138.0.7204.119 Mobile/15E148 Safari/604.1", "Chrome 138 on iPhone"),
        (f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/138.0.0.0 Safari/537.36", "Chrome 138 on ChromeOS"),
        (f"{WINDOWS} {WEBKIT} Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0", "Edge 138 on Windows"),
        (f"{ANDROID} {WEBKIT} Chrome/138.0.0.0 Mobile Safari/537.36 EdgA/138.0.0.0", "Edge 138 on Android"),
        (f"{IPHONE} Version/18.0 EdgiOS/138.0.3351.65 Mobile/15E148 Safari/604.1", "Edge 138 on iPhone"),
        (f"{WINDOWS} {WEBKIT} Chrome/137.0.0.0 Safari/537.36 OPR/120.0.0.0", "Opera 120 on Windows"),
        (
            f"{ANDROID} {WEBKIT} SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
            "Samsung Internet 28 on Android",
        ),
        (f"Mozilla/5.0 ({GOOGLE})", "Googlebot 2"),
        (f"{ANDROID} {WEBKIT} Chrome/138.0.0.0 Mobile Safari/537.36 ({GOOGLE})", "Googlebot 2 on Android"),
    ],
)
def test_a_browser_is_called_by_its_name_its_version_and_its_platform(user_agent: str, label: str) -> None:
    assert user_agent_label(user_agent) == label


@pytest.mark.parametrize(
    ("user_agent", "label"),
    [
        ("curl/8.5.0", "curl 8"),
        ("  curl/8.5.0", "curl 8"),
        ("python-requests/2.31.0", "python-requests 2"),
        ("okhttp/4.12.0 (secret)", "okhttp 4"),
        ("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8)", "Dalvik 2 on Android"),
        ("Go-http-client", "Go-http-client"),
        ("Tool/v3.2", "Tool 3"),
        ("Tool/beta", "Tool"),
        ("My Tool/3", "My"),
        ("Tool<script>", "Tool"),
        (f"{IPHONE} Mobile/15E148", "Mozilla 5 on iPhone"),
        ("a" * 100 + "/7", "a" * 40 + " 7"),
        ("Tool/12345678", "Tool 12345"),
        ("Mozilla/5.0 (compatible; " + "b" * 100 + "/7)", "Mozilla 5"),
    ],
)
def test_a_client_that_is_not_known_goes_by_the_name_that_it_begins_with(user_agent: str, label: str) -> None:
    assert user_agent_label(user_agent) == label


@pytest.mark.parametrize("user_agent", [None, "", "  ", "<script>alert(1)</script>", "/1.0", "(Linux)", "Ünlü/1", "\0"])
def test_what_begins_with_no_name_has_no_label(user_agent: str | None) -> None:
    assert user_agent_label(user_agent) is None


def test_digits_and_letters_of_other_scripts_are_none() -> None:
    assert user_agent_label("curl/\u0668") == "curl"
    assert user_agent_label("Firefox/\u0661\u0664") == "Firefox"
    assert user_agent_label("curlé/8") == "curl"


HOSTILE = [
    "Version/1" * 8000,
    "Version/1." + "." * 64_000,
    "Version/1 Mobile/" + "a" * 64_000,
    "compatible; " * 5500,
    "compatible; a" + "-" * 64_000,
    "a" * 64_000,
    "Edg/" * 16_000,
    " " * 64_000 + "curl/8",
    "Headless" * 8000,
    "1" * 64_000,
]


@pytest.mark.parametrize("user_agent", HOSTILE)
def test_only_the_beginning_of_a_long_header_is_looked_at(user_agent: str) -> None:
    beginning = user_agent[:512]
    assert user_agent_label(user_agent) == user_agent_label(beginning)
    assert user_agent_label(beginning + " Firefox/140 Linux") == user_agent_label(beginning)


@CALM
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [*"/;( )1é", "Mozilla/5.0", "Version/", "Mobile/", "Safari/", "compatible; ", "Chrome/", "a" * 70]
        )
    ).map("".join)
)
def test_a_label_is_short_and_plain_whatever_is_sent(user_agent: str) -> None:
    label = user_agent_label(user_agent)
    if label is not None:
        assert 0 < len(label) <= 64
        assert label.isascii()
        assert label.isprintable()
        assert not set(label) & set("<>&\"'();")


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("198.51.100.7", "198.51.100.0/24"),
        ("198.51.100.255", "198.51.100.0/24"),
        ("::ffff:198.51.100.7", "198.51.100.0/24"),
        ("::ffff:198.51.100.7%eth0", "198.51.100.0/24"),
        ("2001:DB8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::1", "::/48"),
    ],
)
def test_an_address_is_kept_as_its_network(address: str, network: str) -> None:
    assert address_prefix(address, ipv4=24, ipv6=48) == network


def test_all_of_an_address_or_nothing_can_be_kept() -> None:
    assert address_prefix("198.51.100.7", ipv4=32, ipv6=0) == "198.51.100.7/32"
    assert address_prefix("198.51.100.7", ipv4=0, ipv6=128) == "0.0.0.0/0"
    assert address_prefix("2001:db8::7", ipv4=0, ipv6=128) == "2001:db8::7/128"
    assert address_prefix("2001:db8::7", ipv4=32, ipv6=0) == "::/0"


@pytest.mark.parametrize(
    "text",
    [None, "", " ", "localhost", "unix:", "198.51.100", "198.51.100.7:80", "[::1]", "198.51.100.7/24", "010.1.1.1"]
    + ["198.51.100.7%eth0", "::1%", "fe80::1%a%b", "1", "\u0661.1.1.1", ":" * 64_000, "1." * 32_000],
)
def test_what_is_no_address_has_no_network(text: str | None) -> None:
    assert find_address(text) is None
    assert address_prefix(text, ipv4=24, ipv6=48) is None


def test_an_address_is_found_without_its_zone_and_out_of_its_wrapping() -> None:
    assert find_address("fe80::1%eth0") == ip_address("fe80::1")
    assert find_address("::ffff:192.0.2.1") == ip_address("192.0.2.1")


@CALM
@given(st.ip_addresses().map(str), st.integers(0, 32), st.integers(0, 128))
def test_an_address_is_in_its_network(address: str, ipv4: int, ipv6: int) -> None:
    network = address_prefix(address, ipv4=ipv4, ipv6=ipv6)
    found = find_address(address)
    assert network is not None
    assert found in ip_network(network)


@CALM
@given(st.text() | st.text("0123456789abcdef.:%/"))
def test_no_text_in_the_place_of_an_address_raises(text: str) -> None:
    network = address_prefix(text, ipv4=24, ipv6=48)
    assert network is None or ip_network(network)


# -- fingerprints ------------------------------------------------------------------------------------------------------

PARTS = st.lists(st.none() | st.text(st.characters()), max_size=4)


class Noted(Sequence[bytes]):
    """Keys that note which of them were asked for."""

    def __init__(self, *keys: bytes) -> None:
        self._keys, self.asked = keys, list[bytes]()

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        return self._keys[index]

    def __iter__(self) -> Iterator[bytes]:
        for key in self._keys:
            self.asked.append(key)
            yield key

    def __len__(self) -> int:
        return len(self._keys)


def test_a_fingerprint_is_128_bits_of_hmac_sha_256_over_the_parts_after_their_lengths() -> None:
    digest = hmac.digest(NEWEST, b"8:Firefox -3:\xc3\xa9\x21" + b"0:", "sha256")
    expected = base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")
    assert fingerprint(["Firefox ", None, "é!", ""], secret=NEWEST) == expected
    assert len(expected) == 22


@CALM
@given(PARTS, PARTS)
def test_other_parts_have_another_fingerprint(parts: list[str | None], others: list[str | None]) -> None:
    same = fingerprint(parts, secret=NEWEST) == fingerprint(others, secret=NEWEST)
    assert same is (parts == others)


@pytest.mark.parametrize(
    ("parts", "others"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["a"], ["a", ""]),
        (["a"], ["a", None]),
        ([""], [None]),
        (["-"], [None]),
        ([], [""]),
        (["1:a"], ["1", "a"]),
        (["a", "b"], ["b", "a"]),
    ],
)
def test_parts_do_not_run_together(parts: list[str | None], others: list[str | None]) -> None:
    assert fingerprint(parts, secret=NEWEST) != fingerprint(others, secret=NEWEST)
    assert not matches(fingerprint(parts, secret=NEWEST), others, secrets=[NEWEST])


def test_a_fingerprint_depends_on_its_key() -> None:
    assert fingerprint(["a"], secret=NEWEST) != fingerprint(["a"], secret=OLDER)


@CALM
@given(PARTS)
def test_a_fingerprint_of_any_key_matches(parts: list[str | None]) -> None:
    for secret in (NEWEST, OLDER):
        assert matches(fingerprint(parts, secret=secret), parts, secrets=[NEWEST, OLDER])
    assert not matches(fingerprint(parts, secret=STRANGE), parts, secrets=[NEWEST, OLDER])
    assert not matches(fingerprint(parts, secret=NEWEST), parts, secrets=[])


@pytest.mark.parametrize("secret", [NEWEST, OLDER, STRANGE])
def test_every_key_is_tried_whichever_matches(secret: bytes) -> None:
    keys = Noted(NEWEST, OLDER)
    assert matches(fingerprint(["a"], secret=secret), ["a"], secrets=keys) is (secret is not STRANGE)
    assert keys.asked == [NEWEST, OLDER]


@CALM
@given(st.text(st.characters()))
def test_anything_else_in_the_place_of_a_fingerprint_does_not_match(stored: str) -> None:
    assert matches(stored, ["a"], secrets=[NEWEST, OLDER]) is False


def test_a_fingerprint_that_is_longer_or_shorter_does_not_match() -> None:
    made = fingerprint(["a"], secret=NEWEST)
    assert not matches(made[:-1], ["a"], secrets=[NEWEST])
    assert not matches(made + "A", ["a"], secrets=[NEWEST])
