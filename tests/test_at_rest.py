"""What lies in the stores: nothing that a thief could read, no more than may, and nothing for longer than it may."""

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from tests.clients import Browser, CountingCodec, Handler, Site
from tests.sites import Backend, SiteFactory, add, in_memory, log_in, put, read
from vedsess_middleware import ConfigurationError, Session, SessionTooLarge, events
from vedsess_middleware.concurrency import settle
from vedsess_middleware.sealing import Opened, Sealer

KEY = "wq3Jm0vJ8eK5yT1nB7dXcP2sL9fRaZ4uHg6iVkOoEtQ"
NEW_KEY = "Zk1uG8pWm4XrT6yN0cVbJ2qLs9eHd7aFoPi3KtRvYxE"
TELLING = {"name": "Swordfish Ada", "card": {"Swordfish number": ["4929 Swordfish"]}, "raw": b"Swordfish", "n": 271828}
SECRETS = ("Swordfish", "4929", "U3dvcmRmaXNo", "271828")


def look(session: Session) -> tuple[str | None, dict[str, Any]]:
    return session.user_id, dict(session)


def new_id(session: Session) -> None:
    session.regenerate_id()


def stored(site: Site, user: str = "7") -> dict[str, str]:
    """What is stored of the user's one session: texts by name."""
    [record] = site.run(settle(site.store.store.records_of(user, at=site.clock()))).values()
    return dict(record.values)


def over(site: Site, browser: Browser, **options: Any) -> tuple[Site, Browser]:
    """Another site over the same store, which the browser goes to as well."""
    other = site.sibling(**options)
    visitor = other.browser()
    visitor.jar = browser.jar
    return other, visitor


# -- nothing that can be read ------------------------------------------------------------------------------------------


def test_without_a_key_a_store_can_be_read(site: Site, backend: Backend) -> None:
    """What the next test looks for is what there would be."""
    site.browser()(log_in("7", **TELLING))
    held = backend.dump()
    assert all(secret in held for secret in SECRETS)


def test_with_a_key_no_store_ever_holds_a_value_that_can_be_read(make_site: SiteFactory, backend: Backend) -> None:
    site = make_site(encryption_key=KEY, renewal_timeout=900)
    browser = site.browser()
    for work in (put(**TELLING), log_in("7"), add("tags", "Swordfish"), new_id, put(name="Swordfish Bob"), look):
        browser(work)
        held = backend.dump()
        assert not [secret for secret in SECRETS if secret in held]
    site.clock.advance(900)
    user, values = browser(look).result
    assert (user, values) == ("7", {**TELLING, "name": "Swordfish Bob", "tags": ["Swordfish"]})
    held = backend.dump()
    assert not [secret for secret in SECRETS if secret in held]
    assert {"name", "card", "raw", "n", "tags"} == stored(site).keys()
    assert all(text.startswith("$1$") for text in stored(site).values())


@in_memory
def test_a_value_opens_nowhere_but_where_it_was_stored(make_site: SiteFactory) -> None:
    """Whoever can write to the store makes nobody an admin with somebody else's field."""
    site = make_site(encryption_key=KEY)
    admin, user = site.browser(), site.browser()
    admin(log_in("1", role="admin", title="user"))
    user(log_in("2", role="user", title="admin"))
    records = site.store.store._records  # type: ignore[attr-defined]
    [ones], [twos] = ([key for key, record in records.items() if record.user_id == each] for each in ("1", "2"))
    fields = dict(records[twos].fields)
    for stolen in (records[ones].fields["role"], fields["title"]):
        records[twos] = records[twos].replace(fields={**fields, "role": stolen})
        assert user.twin()(lambda session: session.get("role")).result is None
    assert len(site.told(events.RecordRejected)) == 2


@pytest.mark.parametrize("change", [new_id, log_in("7")], ids=["by another request", "by a login of its own"])
def test_a_request_reads_on_when_its_id_has_changed(make_site: SiteFactory, change: Handler) -> None:
    """Under the new id all is encrypted anew, and it knows the texts of before."""
    site = make_site(encryption_key=KEY)
    browser = site.browser()
    browser(log_in("7", a=1, b=[2], c=3))
    other = browser.twin()

    def slow(session: Session) -> dict[str, Any]:
        assert session["a"] == 1
        if change is new_id:
            other(new_id)
        else:
            change(session)
        session["a"] = 5
        site.run(session.save())
        session["b"].append(session["c"])
        return dict(session)

    answer = browser(slow)
    assert answer.result == {"a": 5, "b": [2, 3], "c": 3}
    assert other(read).result == (answer.result if change is new_id else {})


@in_memory
def test_no_error_or_event_shows_a_value(make_site: SiteFactory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    site = make_site(encryption_key=KEY)
    browser = site.browser()
    browser(log_in("7", **TELLING))
    other, visitor = over(site, browser, encryption_key=NEW_KEY)
    visitor(look)
    told = repr((site.events, other.events)) + caplog.text
    assert not [secret for secret in SECRETS if secret in told]


# -- keys --------------------------------------------------------------------------------------------------------------

WRONG: dict[str, dict[str, Any]] = {"another key": {"encryption_key": NEW_KEY}, "no key": {}}
NEEDS: dict[str, Handler] = {"read": look, "read and write": add("tags", 1), "login": log_in("7"), "new id": new_id}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_with_the_wrong_key_nobody_is_logged_out_and_with_the_right_one_everybody_is_back(
    make_site: SiteFactory, wrong: Mapping[str, Any]
) -> None:
    site = make_site(encryption_key=KEY)
    browser = site.browser()
    browser(log_in("7", n=1, tags=["a"]))
    before = browser.jar.value()
    broken, visitor = over(site, browser, **wrong)
    for work in NEEDS.values():
        answer = visitor(work)
        assert (answer.status, answer.cookie) == (503, None)
    assert visitor().status == 200
    told = {event.reason for event in broken.told(events.StoreRefused)}
    assert told
    assert all("encryption_key" in reason for reason in told)
    assert browser.jar.value() == before
    assert browser(look).result == ("7", {"n": 1, "tags": ["a"]})


@in_memory
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_with_the_wrong_key_a_logout_works(make_site: SiteFactory, wrong: Mapping[str, Any]) -> None:
    site = make_site(encryption_key=KEY)
    browser = site.browser()
    browser(log_in("7", n=1))
    _, visitor = over(site, browser, **wrong)
    assert visitor(lambda session: session.logout()).status == 200
    assert browser.jar.cookies == {}
    assert site.stored() == 0


@in_memory
def test_who_is_logged_in_can_be_read_without_any_key(make_site: SiteFactory) -> None:
    site = make_site(encryption_key=KEY)
    browser = site.browser()
    browser(log_in("7", n=1))
    _, visitor = over(site, browser)
    assert visitor(lambda session: session.user_id).result == "7"


def test_a_new_key_in_front_reads_everything_and_encrypts_what_is_touched(make_site: SiteFactory) -> None:
    site = make_site(encryption_key=KEY)
    browser = site.browser()
    browser(log_in("7", a=1, b=2, c=3))
    old = stored(site)
    _, visitor = over(site, browser, encryption_key=[NEW_KEY, KEY])
    assert visitor(look).result == ("7", {"a": 1, "b": 2, "c": 3})
    assert stored(site) == old  # a look changes nothing

    def touch(session: Session) -> None:
        assert session["b"] == 2
        session["a"] = 7

    visitor(touch)
    new = stored(site)
    assert {name: new[name] == old[name] for name in new} == {"a": False, "b": False, "c": True}
    _, late = over(site, browser, encryption_key=NEW_KEY)
    assert late(lambda session: (session["a"], session["b"])).result == (7, 2)
    assert late(look).status == 503
    visitor(new_id)
    assert late(look).result == ("7", {"a": 7, "b": 2, "c": 3})


@in_memory
def test_a_site_that_begins_to_encrypt_says_what_to_do_with_what_is_there(make_site: SiteFactory) -> None:
    plain = make_site()
    browser = plain.browser()
    browser(log_in("7", a=1, b=2))
    strict, visitor = over(plain, browser, encryption_key=KEY)
    assert visitor(look).status == 503
    assert all("encryption_accepts_plain" in event.reason for event in strict.told(events.StoreRefused))
    _, visitor = over(plain, browser, encryption_key=KEY, encryption_accepts_plain=True)
    assert visitor(look).result == ("7", {"a": 1, "b": 2})
    visitor(lambda session: session.__setitem__("a", session["a"] + 1))
    assert {name: text[:3] for name, text in stored(plain).items()} == {"a": "$1$", "b": "2"}
    visitor(new_id)
    assert {text[:3] for text in stored(plain).values()} == {"$1$"}


# -- as little work as can be ------------------------------------------------------------------------------------------


class Counting:
    """A sealer that notes what it was asked for."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer, self.transparent = sealer, sealer.transparent
        self.sealed, self.opened = list[str](), list[str]()

    def seal(self, key: str, name: str, text: str, *, until: float | None = None) -> str:
        self.sealed.append(name)
        return self._sealer.seal(key, name, text, until=until)

    def open(self, key: str, name: str, stored: str) -> Opened:
        self.opened.append(name)
        return self._sealer.open(key, name, stored)


@in_memory
def test_a_change_of_one_field_costs_the_work_of_one_and_leaves_the_others_as_they_lie(make_site: SiteFactory) -> None:
    codec = CountingCodec()
    site = make_site(encryption_key=KEY, codec=codec)
    sealer = site.manager._parts.sealer = Counting(site.manager._parts.sealer)
    browser = site.browser()
    browser(log_in("7", **{f"n{n}": n for n in range(20)}))
    before = stored(site)
    for noted in (sealer.sealed, sealer.opened, codec.encoded, codec.decoded):
        noted.clear()
    browser(lambda session: session.__setitem__("n7", session["n7"] + 100))
    assert (sealer.opened, codec.decoded) == (["n7"], ["7"])
    assert (sealer.sealed, codec.encoded) == (["n7"], ["n7"])
    after = stored(site)
    assert {name for name in before if before[name] != after[name]} == {"n7"}


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
def test_a_change_of_one_field_leaves_the_others_as_they_lie(make_site: SiteFactory, encrypted: bool) -> None:
    site = make_site(encryption_key=KEY if encrypted else (), compress_above=100)
    browser = site.browser()
    browser(log_in("7", a=[1], b={"x": 1}, c="x" * 1000, d="d"))
    before = stored(site)
    browser(lambda session: (dict(session), session["a"].append(2), session["b"].update(x=1)))
    browser(put(d="e"))
    browser(lambda session: session.__setitem__("c", session["c"]))
    after = stored(site)
    assert {name for name in before if before[name] != after[name]} == {"a", "d"}


# -- no larger than it may be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "mark"), [((), "$z$"), (KEY, "$1z$")], ids=["plain", "encrypted"])
def test_a_long_value_is_stored_small_and_comes_back(make_site: SiteFactory, key: Any, mark: str) -> None:
    site = make_site(encryption_key=key, compress_above=1000)
    browser = site.browser()
    values = {"long": "Swordfish " * 1000, "short": "x" * 900, "list": list(range(1000))}
    browser(log_in("7", **values))
    browser(new_id)
    assert browser(look).result == ("7", values)
    texts = stored(site)
    assert texts["long"].startswith(mark)
    assert len(texts["long"]) < 500
    assert not texts["short"].startswith(mark)
    browser(lambda session: session["list"].append(1000))
    assert browser(lambda session: len(session["list"])).result == 1001


LARGE: dict[str, tuple[dict[str, Any], str]] = {
    "a value": ({"max_field_bytes": 100}, "big.*max_field_bytes is 100.*big 126 B"),
    "all of them": ({"max_session_bytes": 140}, "the session.*max_session_bytes is 140.*big 126 B"),
}


@pytest.mark.parametrize(("options", "told"), LARGE.values(), ids=LARGE.keys())
def test_what_is_too_large_is_an_error_of_the_app_that_names_the_largest(
    make_site: SiteFactory, options: dict[str, Any], told: str
) -> None:
    site = make_site(**options)
    browser, big = site.browser(), "Swordfish".ljust(121, "x")
    with pytest.raises(SessionTooLarge, match=told) as raised:
        browser(log_in("7", small="Swordfish", big=big))
    assert "Swordfish" not in str(raised.value)
    assert site.stored() == 0
    browser(log_in("7", small="y" * 50))
    for work in (
        lambda session: (session.get("small"), session.update(big=big)),
        lambda session: (session.regenerate_id(), session.update(big=big)),
        lambda session: (session.login("7"), session.update(big=big)),
    ):
        with pytest.raises(SessionTooLarge, match=told):
            browser(work)
    assert browser(look).result == ("7", {"small": "y" * 50})


@in_memory
def test_by_default_a_session_has_a_mebibyte(make_site: SiteFactory) -> None:
    browser = make_site().browser()
    browser(put(a="x" * 500_000))
    with pytest.raises(SessionTooLarge, match="max_session_bytes is 1048576"):
        browser(lambda session: (session.get("a"), session.update(b="x" * 600_000)))
    browser(lambda session: (session.get("a"), session.update(b="x" * 500_000)))


@in_memory
def test_room_that_is_made_in_the_same_request_counts(make_site: SiteFactory) -> None:
    browser = make_site(max_session_bytes=1000).browser()
    browser(put(a="x" * 900))
    browser(lambda session: (session.pop("a"), session.update(b="x" * 900)))
    assert browser(list).result == ["b"]


# -- values that end by themselves -------------------------------------------------------------------------------------


@pytest.fixture
def bank(make_site: SiteFactory) -> Site:
    return make_site(encryption_key=KEY)


def give_code(code: object = "Swordfish", ttl: float = 60) -> Handler:
    return lambda session: session.put_secret("code", code, ttl=ttl)


def code(session: Session) -> object:
    return session.get("code")


def test_a_secret_is_gone_after_its_time_without_anybodys_writing(bank: Site, backend: Backend) -> None:
    browser = bank.browser()
    browser(log_in("7", n=1))
    browser(give_code())
    assert "Swordfish" not in backend.dump()
    bank.clock.advance(59.999)
    assert browser(code).result == "Swordfish"
    bank.clock.advance(0.001)
    seen = browser(lambda session: (code(session), "code" in session, dict(session), len(session))).result
    assert seen == (None, False, {"n": 1}, 1)
    assert bank.run(bank.manager.export("7"))[0]["values"] == {"n": 1}
    browser(put(m=1))
    browser(read)
    browser(add("tags", 1))
    assert stored(bank).keys() == {"n", "m", "tags"}


KEEPS: dict[str, tuple[Handler, object]] = {
    "a look": (look, ["a"]),
    "an edit in place": (lambda session: session["code"].append("b"), ["a", "b"]),
    "another field": (put(n=2), ["a"]),
    "a new id": (new_id, ["a"]),
    "a login": (log_in("7"), ["a"]),
    "an edit and a new id": (lambda session: (session["code"].append("b"), session.regenerate_id()), ["a", "b"]),
}


@pytest.mark.parametrize(("work", "kept"), KEEPS.values(), ids=KEEPS.keys())
def test_a_secret_keeps_its_time_through_whatever_happens_to_it(bank: Site, work: Handler, kept: object) -> None:
    browser = bank.browser()
    browser(log_in("7"))
    browser(give_code(["a"]))
    bank.clock.advance(30)
    browser(work)
    bank.clock.advance(29.999)
    assert browser(code).result == kept
    bank.clock.advance(0.001)
    assert browser(code).result is None


@in_memory
def test_a_secret_keeps_its_time_through_saves_in_the_same_request(bank: Site) -> None:
    browser = bank.browser()

    def work(session: Session) -> None:
        session.put_secret("code", ["a"], ttl=60)
        bank.run(session.save())
        session["code"].append("b")
        bank.run(session.save())
        session.login("7")
        bank.run(session.save())
        session["code"].append("c")

    browser(work)
    bank.clock.advance(59.999)
    assert browser(code).result == ["a", "b", "c"]
    bank.clock.advance(0.001)
    assert browser(code).result is None


REPLACES: dict[str, Handler] = {
    "set": lambda session: session.__setitem__("code", 7),
    "set after a look": lambda session: (code(session), session.__setitem__("code", 7)),
    "updated": put(code=7),
    "updated after a look": lambda session: (code(session), session.update(code=7)),
    "added to": lambda session: session.__setitem__("code", 7 + 0 * session["code"]),
    "removed and set": lambda session: (session.pop("code"), session.__setitem__("code", 7)),
    "removed and set by default": lambda session: (session.pop("code"), session.setdefault("code", 7)),
    "given for good in the same request": lambda session: (give_code(7)(session), session.update(code=7)),
}


@in_memory
@pytest.mark.parametrize("before", [7, 8], ids=["the same", "another"])
@pytest.mark.parametrize("replace", REPLACES.values(), ids=REPLACES.keys())
def test_a_value_that_takes_the_place_of_a_secret_stays(bank: Site, replace: Handler, before: int) -> None:
    browser = bank.browser()
    browser(log_in("7"))
    browser(give_code(before))
    browser(replace)
    bank.clock.advance(60)
    assert browser(code).result == 7


@in_memory
def test_a_secret_that_is_given_again_has_its_time_anew(bank: Site) -> None:
    browser = bank.browser()
    browser(log_in("7"))
    browser(give_code())
    bank.clock.advance(30)
    browser(give_code())
    bank.clock.advance(59)
    assert browser(code).result == "Swordfish"
    browser(give_code(ttl=10))
    bank.clock.advance(10)
    assert browser(code).result is None


@in_memory
def test_a_secret_may_take_the_place_of_a_value(bank: Site) -> None:
    browser = bank.browser()
    browser(log_in("7", code="Swordfish"))
    browser(lambda session: (code(session), give_code()(session)))
    bank.clock.advance(60)
    assert browser(code).result is None


@in_memory
def test_a_secret_is_refused_where_it_would_lie_open(site: Site) -> None:
    browser = site.browser()
    with pytest.raises(ConfigurationError, match="encryption_key"):
        browser(give_code())
    assert site.stored() == 0


@in_memory
@pytest.mark.parametrize("ttl", [0, -1, float("nan")])
def test_a_secret_without_a_time_to_live_is_refused(bank: Site, ttl: float) -> None:
    with pytest.raises(ValueError, match="more than 0 s"):
        bank.browser()(give_code(ttl=ttl))
    assert bank.stored() == 0
