"""Who comes with a cookie: what is kept of a client, and what follows where another one has it."""

from typing import Any

import pytest

from tests.clients import OTHER_KEY, SECRET_KEY, Answer, Browser, Handler, Site
from tests.sites import SiteFactory, add, in_memory, log_in, put
from vedsess_middleware import Session, events
from vedsess_middleware.stores.record import Record

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
OWNER, THIEF = ("User-Agent", FIREFOX), ("User-Agent", "curl/8.5.0")


def look(session: Session) -> tuple[str | None, dict[str, Any]]:
    return session.user_id, dict(session)


def ask(browser: Browser, work: Handler, *headers: tuple[str, str], **options: Any) -> Answer:
    return browser(work, headers=list(headers), **options)


def begun(site: Site, *headers: tuple[str, str]) -> tuple[Browser, Browser]:
    """Somebody who has logged in, and somebody who has got hold of the cookie."""
    browser = site.browser()
    ask(browser, log_in("7", n=1), *(headers or (OWNER,)))
    return browser, browser.twin()


def told(site: Site) -> list[str]:
    return [event.policy for event in site.told(events.FingerprintMismatch)]


def records(site: Site) -> list[Record]:
    """The live records of a store in memory."""
    return [record for record in site.store.store._records.values() if not record.gone]  # type: ignore[attr-defined]


# -- what follows ------------------------------------------------------------------------------------------------------


def test_by_default_nobody_asks_what_a_client_looks_like(site: Site) -> None:
    _, thief = begun(site)
    assert ask(thief, look, THIEF).result == ("7", {"n": 1})
    assert told(site) == []


def test_another_client_may_be_only_told_of(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="log")
    owner, thief = begun(site)
    assert ask(owner, look, OWNER).result == ("7", {"n": 1})
    assert told(site) == []
    assert ask(thief, look, THIEF).result == ("7", {"n": 1})
    assert told(site) == ["log"]
    assert "curl" not in repr(site.events)


def test_another_client_may_be_given_a_new_id_which_shuts_the_first_one_out(make_site: SiteFactory) -> None:
    """Of two who have one cookie one is left, and the other is seen to be thrown out."""
    site = make_site(fingerprint_policy="rotate")
    owner, other = begun(site)
    answer = ask(other, look, THIEF)
    assert (answer.result, answer.cookie is not None) == (("7", {"n": 1}), True)
    assert ask(owner, look, OWNER).result == (None, {})
    assert ask(other, look, THIEF).result == ("7", {"n": 1})
    assert told(site) == ["rotate"]
    assert [(event.reason, event.login) for event in site.told(events.IdChanged)] == [("fingerprint", False)]
    assert site.stored() == 1


ATTEMPTS: dict[str, Handler] = {
    "read": look,
    "write": put(n=2),
    "read and write": add("tags", 1),
    "new id": lambda session: session.regenerate_id(),
    "login": log_in("7"),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_another_client_may_get_no_session_at_all(make_site: SiteFactory, attempt: Handler) -> None:
    site = make_site(fingerprint_policy="reject")
    owner, thief = begun(site)
    ask(thief, attempt, THIEF)
    assert ask(owner, look, OWNER).result == ("7", {"n": 1})
    assert ask(thief, lambda session: session.get("n") == 1, THIEF).result is False
    assert told(site)
    assert set(told(site)) == {"reject"}


@in_memory
def test_whoever_is_rejected_gets_a_session_of_his_own(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="reject")
    _, thief = begun(site)
    assert ask(thief, lambda session: (session.is_new, look(session)), THIEF).result == (True, (None, {}))
    assert ask(thief, put(n=2), THIEF).cookie is not None
    assert ask(thief, look, THIEF).result == (None, {"n": 2})
    assert site.stored() == 2


@in_memory
@pytest.mark.parametrize("work", [lambda session: None, look], ids=["untouched", "with an error page"])
def test_no_id_changes_for_another_client_where_the_browser_cannot_be_told(
    make_site: SiteFactory, work: Handler
) -> None:
    site = make_site(fingerprint_policy="rotate")
    owner, other = begun(site)
    assert ask(other, work, THIEF, status=500).cookie is None
    assert ask(owner, look, OWNER).result == ("7", {"n": 1})


@in_memory
def test_an_old_id_is_looked_at_as_closely_as_the_new_one(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="reject")
    owner, thief = begun(site)
    old = owner.twin()
    ask(owner, lambda session: session.regenerate_id(), OWNER)
    assert ask(thief, look, THIEF).result == (None, {})
    assert ask(old, look, OWNER).result == ("7", {"n": 1})


# -- what counts -------------------------------------------------------------------------------------------------------


def via(address: str) -> tuple[str, str]:
    return "X-Forwarded-For", address


ADDRESSES = {
    "the same": ("198.51.100.7", "198.51.100.7", False),
    "the same network": ("198.51.100.7", "198.51.100.250", False),
    "another network": ("198.51.100.7", "198.51.101.7", True),
    "the same, written as IPv6": ("198.51.100.7", "::ffff:198.51.100.9", False),
    "the same network of IPv6": ("2001:db8:0:100::1", "2001:db8:0:1ff:ffff::2", False),
    "another network of IPv6": ("2001:db8:0:100::1", "2001:db8:0:200::1", True),
    "from IPv4 to IPv6": ("198.51.100.7", "2001:db8::1", True),
    "with a port": ("198.51.100.7:4711", "198.51.100.9:1", False),
    "something before it that anybody may write": ("203.0.113.1, 198.51.100.7", "10.0.0.1, 198.51.100.8", False),
}


@in_memory
@pytest.mark.parametrize(("first", "then", "differs"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_of_an_address_its_network_counts(make_site: SiteFactory, first: str, then: str, differs: bool) -> None:
    """Phones change their address all day, and seldom their network."""
    site = make_site(fingerprint_policy="reject", fingerprint_parts=("ip_address",), trusted_proxies=1)
    _, other = begun(site, OWNER, via(first))
    assert ask(other, look, THIEF, via(then)).result == ((None, {}) if differs else ("7", {"n": 1}))


@in_memory
def test_how_much_of_an_address_counts_can_be_set(make_site: SiteFactory) -> None:
    site = make_site(
        fingerprint_policy="reject",
        fingerprint_parts=("ip_address",),
        trusted_proxies=1,
        ipv4_prefix=16,
        ipv6_prefix=32,
    )
    _, other = begun(site, via("198.51.100.7"))
    assert ask(other, look, via("198.51.255.7")).result == ("7", {"n": 1})
    assert ask(other, look, via("198.52.100.7")).result == (None, {})


@in_memory
def test_nobody_comes_from_elsewhere_because_a_header_says_so(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="reject", fingerprint_parts=("ip_address",))
    _, other = begun(site, via("198.51.100.7"))
    assert ask(other, look, via("203.0.113.1")).result == ("7", {"n": 1})


@in_memory
@pytest.mark.parametrize(
    ("headers", "differs"),
    [((OWNER, via("198.51.100.8")), False), ((THIEF, via("198.51.100.8")), True), ((OWNER, via("203.0.113.1")), True)],
    ids=["neither", "the name", "the network"],
)
def test_both_parts_may_count(make_site: SiteFactory, headers: tuple[tuple[str, str], ...], differs: bool) -> None:
    parts = ("user_agent", "ip_address")
    site = make_site(fingerprint_policy="reject", fingerprint_parts=parts, trusted_proxies=1)
    _, other = begun(site, OWNER, via("198.51.100.7"))
    assert ask(other, look, *headers).result == ((None, {}) if differs else ("7", {"n": 1}))


@in_memory
@pytest.mark.parametrize(
    ("first", "then", "differs"),
    [((), (), False), ((), (OWNER,), True), ((OWNER,), (), True), ((("User-Agent", ""),), (), False)],
    ids=["neither says anything", "the second does", "the first did", "nothing, and no header"],
)
def test_a_client_that_says_nothing_is_one_too(
    make_site: SiteFactory, first: tuple[Any, ...], then: tuple[Any, ...], differs: bool
) -> None:
    site = make_site(fingerprint_policy="reject")
    browser = site.browser()
    ask(browser, log_in("7"), *first)
    assert (ask(browser, look, *then).result == (None, {})) is differs


# -- through the life of a session -------------------------------------------------------------------------------------


def test_a_new_key_in_front_turns_nobody_away(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="reject")
    owner, thief = begun(site)
    rotated = site.sibling(fingerprint_policy="reject", secret_key=[OTHER_KEY, SECRET_KEY])
    visitor, other = rotated.browser(), rotated.browser()
    visitor.jar, other.jar = owner.jar.copy(), thief.jar.copy()
    assert ask(visitor, look, OWNER).result == ("7", {"n": 1})
    assert ask(other, look, THIEF).result == (None, {})


@in_memory
def test_a_login_takes_the_client_of_now(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="log")
    browser = site.browser()
    ask(browser, put(n=1), OWNER)
    ask(browser, log_in("7"), THIEF)
    ask(browser, look, THIEF)
    assert told(site) == ["log"]
    ask(browser, look, OWNER)
    assert told(site) == ["log", "log"]


@in_memory
def test_a_renewal_takes_no_other_client_for_the_owner(make_site: SiteFactory) -> None:
    site = make_site(fingerprint_policy="log", renewal_timeout=900)
    _, thief = begun(site)
    site.clock.advance(900)
    ask(thief, look, THIEF)
    ask(thief, lambda session: session.regenerate_id(), THIEF)
    assert told(site) == ["log"] * 2
    ask(thief, look, OWNER)
    assert told(site) == ["log"] * 2


@in_memory
def test_a_session_from_before_anybody_looked_is_left_alone_until_the_next_login(make_site: SiteFactory) -> None:
    before = make_site()
    owner, _ = begun(before)
    site = before.sibling(fingerprint_policy="reject")
    visitor = site.browser()
    visitor.jar = owner.jar.copy()
    assert ask(visitor, look, THIEF).result == ("7", {"n": 1})
    ask(visitor, log_in("7"), OWNER)
    assert ask(visitor, look, THIEF).result == (None, {})


# -- what is kept ------------------------------------------------------------------------------------------------------

KEPT = {
    ("label", "full"): ("Firefox 140 on Linux", "198.51.100.7"),
    ("full", "prefix"): (FIREFOX[:64], "198.51.100.0/24"),
    ("off", "off"): (None, None),
}


@pytest.mark.parametrize(("details", "kept"), KEPT.items(), ids=[", ".join(key) for key in KEPT])
def test_no_more_is_kept_of_a_client_than_is_asked_for(
    make_site: SiteFactory, details: tuple[str, str], kept: tuple[str | None, str | None]
) -> None:
    site = make_site(user_agent_detail=details[0], ip_address_detail=details[1], trusted_proxies=1)
    begun(site, OWNER, via("198.51.100.7"))
    [info] = site.run(site.manager.sessions("7"))
    assert (info.user_agent, info.ip_address) == kept


@in_memory
def test_a_fingerprint_is_kept_only_where_it_is_looked_at_and_without_what_it_was_made_of(
    make_site: SiteFactory,
) -> None:
    plain = make_site(user_agent_detail="off", ip_address_detail="off")
    begun(plain)
    assert [record.session_fingerprint for record in records(plain)] == [None]
    watched = plain.sibling(fingerprint_policy="log", user_agent_detail="off", ip_address_detail="off")
    begun(watched)
    [fingerprint] = [each for record in records(watched) if (each := record.session_fingerprint)]
    assert len(fingerprint) == 22
    assert "Firefox" not in repr([(name, getattr(record, name)) for record in records(watched) for name in FIELDS])


FIELDS = ("user_id", "session_fingerprint", "user_agent", "ip_address", "origin")
