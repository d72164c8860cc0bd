"""What is known of a client and worth keeping: a label, a network, a fingerprint.  Nothing that it sends raises."""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

__all__ = ["address_prefix", "find_address", "fingerprint", "matches", "user_agent_label"]

_LOOKED_AT = 512

# The first that is found is it.  What pretends to be another stands before that: Edge says that it is Chrome, and
# Chrome that it is Safari.
_AGENTS = [
    (name, re.compile(form, re.ASCII))
    for name, form in (
        ("Edge", r"\bEdg(?:e|A|iOS)?/(\d{1,5})"),
        ("Opera", r"\b(?:OPR|OPT|OPiOS)/(\d{1,5})"),
        ("Samsung Internet", r"\bSamsungBrowser/(\d{1,5})"),
        ("Firefox", r"\b(?:Firefox|FxiOS)/(\d{1,5})"),
        ("Chrome", r"\b(?:Headless)?(?:Chrome|CriOS)/(\d{1,5})"),
        ("Safari", r"\bVersion/(\d{1,5})[.\d]{0,16} (?:Mobile/\w{1,16} )?Safari/"),
    )
]
_ROBOT = re.compile(r"\bcompatible; ([A-Za-z][\w.-]{0,39})/(\d{1,5})", re.ASCII)
_PRODUCT = re.compile(r"([A-Za-z0-9][\w.+-]{0,39})[\w.+-]*(?:/v?(\d{1,5}))?", re.ASCII)

# An iPhone says that it is like a Mac, and Android that it is Linux.
_PLATFORMS = [
    (name, re.compile(form))
    for name, form in (
        ("iPhone", r"\biPhone\b"),
        ("iPad", r"\biPad\b"),
        ("Android", r"\bAndroid\b"),
        ("ChromeOS", r"\bCrOS\b"),
        ("Windows", r"\bWindows\b"),
        ("macOS", r"\bMacintosh\b"),
        ("Linux", r"\bLinux\b"),
    )
]


def user_agent_label(user_agent: str | None) -> str | None:
    """A name for a client that its owner knows again, such as "Firefox 140 on Linux", "Safari 18 on iPhone", "curl 8".

    At most 64 printable ASCII characters.  A client that is not known goes by the name that it begins with; one that
    begins with no name has none.  What stands after the first 512 characters is not looked at.
    """
    text = (user_agent or "")[:_LOOKED_AT].strip()
    product = _product(text)
    if product is None:
        return None
    platform = next((f" on {name}" for name, form in _PLATFORMS if form.search(text)), "")
    return product + platform


def _product(text: str) -> str | None:
    robot = _ROBOT.search(text)
    if robot:
        return " ".join(robot.groups())
    for name, form in _AGENTS:
        found = form.search(text)
        if found:
            return f"{name} {found[1]}"
    first = _PRODUCT.match(text)
    return " ".join(part for part in first.groups() if part) if first else None


def find_address(text: str | None) -> IPv4Address | IPv6Address | None:
    """The address that this is, without a zone; an IPv4 address where it is one mapped into IPv6 (RFC 4291 §2.5.5.2).

    None for anything that is not an address.
    """
    try:
        found = ip_address(text or "")
    except ValueError:
        return None
    if isinstance(found, IPv4Address):
        return found
    return found.ipv4_mapped or IPv6Address(int(found))


def address_prefix(address: str | None, *, ipv4: int, ipv6: int) -> str | None:
    """The network of an address, such as "198.51.100.0/24"; None for anything that is not an address.

    Args:
        address: as text; one mapped into IPv6 counts as IPv4.
        ipv4: how many bits of an IPv4 address to keep, 0 to 32.
        ipv6: how many bits of an IPv6 address to keep, 0 to 128.
    """
    found = find_address(address)
    if found is None:
        return None
    if isinstance(found, IPv4Address):
        return str(IPv4Network((found, ipv4), strict=False))
    return str(IPv6Network((found, ipv6), strict=False))


def fingerprint(parts: Sequence[str | None], *, secret: bytes) -> str:
    """128 bits of HMAC-SHA-256 over these parts in order, as 22 URL-safe characters.

    Without the secret nobody learns from it what the parts were.  A missing part and an empty one are two things.

    Args:
        parts: what is known of a client; None: it did not say.
        secret: the key, of this purpose alone.
    """
    digest = hmac.digest(secret, b"".join(map(_framed, parts)), "sha256")
    return urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def matches(stored: str, parts: Sequence[str | None], *, secrets: Sequence[bytes]) -> bool:
    """Whether this fingerprint was made of these parts with one of the secrets.  Tries them all, in constant time.

    Args:
        stored: a fingerprint.
        parts: what is known of the client now.
        secrets: the keys that count, the newest first.
    """
    given = stored.encode("utf-8", "surrogatepass")
    tried = [hmac.compare_digest(fingerprint(parts, secret=secret).encode(), given) for secret in secrets]
    return any(tried)


def _framed(part: str | None) -> bytes:
    """The part after its length, so that no two lists of parts read the same."""
    if part is None:
        return b"-"
    data = part.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(data), data)
