"""What went wrong with sessions elsewhere, and was published, does not happen here: a test for every advisory."""

import asyncio
import copy
import hashlib
import hmac
import json
import logging
import pickle
import re
import sys
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clients import (
    OTHER_KEY,
    SECRET_KEY,
    Answer,
    Browser,
    Clock,
    Handler,
    Messages,
    Protocol,
    Site,
    Visit,
    asgi_app,
    http_scope,
)
from tests.leaks import Secrets
from tests.servers import RedisServer
from tests.sites import SiteFactory, put
from tests.stores import Faulty
from vedsess_middleware import ConfigurationError, SerializationError, Session, SessionManager, Settings, asgi, events
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.stores.contract import Store
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Field, Record, Version
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

ADVISORIES: dict[str, str] = {
    "CVE-2023-30861": "test_whatever_is_done_with_a_session_no_shared_cache_may_hand_out_what_came_of_it",
    "CVE-2026-27205": "test_every_way_to_look_into_a_session_varies_by_cookie",
    "CVE-2026-35192": "test_every_response_that_sets_a_cookie_varies_by_it_and_is_stored_by_nobody",
    "CVE-2025-47278": "test_the_first_key_signs_and_all_others_only_verify",
    "CVE-2025-46336": "test_a_request_that_overlaps_a_logout_cannot_restore_the_session",
    "CVE-2025-32441": "test_a_request_that_overlaps_a_revocation_cannot_restore_the_session",
    "CVE-2024-38513": "test_an_id_that_a_client_chose_is_never_that_of_a_session",
    "CVE-2018-1000519": "test_an_id_that_a_client_chose_is_never_logged_in",
    "CVE-2022-38054": "test_a_framework_that_sets_nothing_but_its_user_field_changes_the_id_at_login_and_at_logout",
    "CVE-2022-25896": "test_the_id_changes_at_a_logout_that_lets_the_session_go_on",
    "CVE-2023-29019": "test_whoever_planted_or_copied_an_id_is_out_after_the_login",
    "CVE-2023-40273": "test_a_password_reset_ends_every_session_of_the_user_even_while_a_store_is_away",
    "CVE-2019-16782": "test_no_store_is_ever_asked_for_anything_but_the_sha_256_of_an_id",
    "CVE-2019-25025": "test_neither_redis_nor_a_database_file_holds_an_id",
    "CVE-2026-39324": "test_what_cannot_be_decrypted_is_not_read_in_any_other_way",
    "CVE-2024-31999": "test_the_cookie_of_a_session_that_was_ended_is_of_no_use",
    "CVE-2018-1000814": "test_the_cookie_of_an_expired_session_is_of_no_use_even_if_a_store_forgot_to_expire_it",
    "CVE-2015-3982": "test_an_empty_short_or_odd_id_never_reaches_a_store_even_if_we_had_signed_it",
    "CVE-2015-5143": "test_looking_for_a_session_creates_none",
    "CVE-2015-5963": "test_a_logout_creates_no_session",
    "CVE-2015-5964": "test_a_session_that_was_left_empty_is_not_created",
    "CVE-2011-4136": "test_no_user_id_and_no_field_name_reaches_a_key_that_is_not_its_own",
    "CVE-2013-7489": "test_a_pickle_in_a_store_is_never_loaded",
    "CVE-2021-33026": "test_nothing_is_stored_that_only_code_could_bring_back",
    "CVE-2012-3458": "test_what_is_encrypted_shows_no_pattern_and_opens_unchanged_in_its_place_only",
    "CVE-2023-28858": "test_a_request_that_is_cancelled_leaves_its_answer_to_nobody",
    "CVE-2023-28859": "test_a_record_that_names_another_session_is_served_to_nobody",
    "CVE-2023-20866": "test_no_log_line_and_no_repr_shows_an_id",
    "CVE-2020-5224": "test_the_list_of_a_users_sessions_opens_none_of_them",
    "CVE-2023-23934": "test_a_cookie_without_a_name_is_not_taken_for_ours",
    "CVE-2024-7592": "test_a_header_of_a_megabyte_costs_work_in_proportion_and_eight_signatures",
    "CVE-2024-47764": "test_no_cookie_setting_can_smuggle_in_an_attribute_or_a_header",
    "CVE-2025-7339": "test_the_headers_of_the_app_stay_as_they_are",
    "CVE-2008-0252": "test_an_id_that_looks_like_a_path_or_a_key_never_reaches_a_store",
    "GO-2024-2730": "test_an_id_that_looks_like_a_path_or_a_key_never_reaches_a_store",
    "CVE-2020-15105": "test_a_secret_is_encrypted_at_rest_and_soon_gone",
    "tower-sessions 0.12.1": "test_a_new_session_never_overwrites_another_and_a_write_never_makes_one",
}
"""Which test refutes which advisory."""

ENCRYPTED = {"encryption_key": "Vw3nB8xQ5tK2mZ7rC4yJ9pL6dH1gF0sAeUiOaStEwNk"}
VALUES: dict[str, Any] = {"name": "ada", "cart": [1]}


def test_every_advisory_is_refuted_by_a_test() -> None:
    known = """
        CVE-2008-0252 CVE-2011-4136 CVE-2012-3458 CVE-2013-7489 CVE-2015-3982 CVE-2015-5143 CVE-2015-5963 CVE-2015-5964
        CVE-2018-1000519 CVE-2018-1000814 CVE-2019-16782 CVE-2019-25025 CVE-2020-5224 CVE-2020-15105 CVE-2021-33026
        CVE-2022-25896 CVE-2022-38054 CVE-2023-20866 CVE-2023-23934 CVE-2023-28858 CVE-2023-28859 CVE-2023-29019
        CVE-2023-30861 CVE-2023-40273 CVE-2024-7592 CVE-2024-31999 CVE-2024-38513 CVE-2024-47764 CVE-2025-7339
        CVE-2025-32441 CVE-2025-46336 CVE-2025-47278 CVE-2026-27205 CVE-2026-35192 CVE-2026-39324 GO-2024-2730
    """
    assert ADVISORIES.keys() == {*known.split(), "tower-sessions 0.12.1"}
    tests = {name for name, value in globals().items() if name.startswith("test_") and callable(value)}
    assert set(ADVISORIES.values()) == tests - {"test_every_advisory_is_refuted_by_a_test"}


# -- sites and what is done on them ------------------------------------------------------------------------------------


@pytest.fixture
def fake() -> fakeredis.FakeServer:
    """A Redis of the test's own, in this process."""
    return fakeredis.FakeServer()


@pytest.fixture
def redis(fake: fakeredis.FakeServer) -> Any:
    """A look into it."""
    return fakeredis.FakeRedis(server=fake)


@pytest.fixture
def in_memory(protocol: Protocol, runner: asyncio.Runner) -> SiteFactory:
    """Makes sites over a store in memory, or over another one."""
    return lambda store=None, **options: Site(protocol, store or MemoryStore(), runner, **options)


@pytest.fixture
def on_redis(protocol: Protocol, runner: asyncio.Runner, fake: fakeredis.FakeServer) -> Iterator[SiteFactory]:
    """Makes sites over Redis."""
    client: Any = (fakeredis.FakeRedis if protocol == "wsgi" else fakeredis.FakeAsyncRedis)(server=fake)
    store = cast(Store, RedisStore(client, on_event=lambda event: None))
    yield lambda **options: Site(protocol, store, runner, **options)
    if protocol == "wsgi":
        client.close()
    else:
        runner.run(client.aclose())


@pytest.fixture(params=["memory", "redis"])
def make_site(request: pytest.FixtureRequest, in_memory: SiteFactory, on_redis: SiteFactory) -> SiteFactory:
    """Makes sites over either."""
    return in_memory if request.param == "memory" else on_redis


@pytest.fixture
def site(make_site: SiteFactory) -> Site:
    return make_site()


def seen(session: Session) -> tuple[Any, ...]:
    """All that a request can know."""
    return session.is_new, session.user_id, dict(session)


NOTHING: tuple[Any, ...] = (True, None, {})
"""What a request sees that has no session."""


def begun(site: Site, user_id: str | None = "ada", **values: Any) -> Browser:
    """A browser with a session."""
    browser = site.browser()
    browser(lambda session: (session.update(values or VALUES), user_id and session.login(user_id)))
    return browser


def key_of(browser: Browser) -> str:
    """The key of its session."""
    return sha256(browser(lambda session: session.id).result)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def forged(site: Site, session_id: str) -> str:
    """The cookie that this very site would have signed for any id."""
    jar, ticket = CookieJar(site.manager.settings), Ticket(session_id, Version(0, 1), site.clock())
    return jar.set(ticket, secure=False).partition(";")[0]


def plant(site: Site, key: str, **texts: str) -> None:
    """Let these texts be stored under that key, whoever wrote them."""
    store = cast(MemoryStore, site.store.store)
    record = store.peek(key)
    assert record is not None
    fields = {**record.fields, **{name: Field(Version(0, 999), text) for name, text in texts.items()}}
    store.merge(key, record.replace(fields=fields))


def tokens(answer: Answer, header: str) -> set[str]:
    """What a header says, in lower case and without values."""
    return {
        token.strip().lower().partition("=")[0] for value in answer.all(header) for token in value.split(",") if token
    }


# -- caches ------------------------------------------------------------------------------------------------------------

METHODS: dict[str, Handler] = {
    "__contains__": lambda session: "name" in session,
    "__delitem__": lambda session: session.__delitem__("name"),
    "__eq__": lambda session: session == {},
    "__getitem__": lambda session: session["name"],
    "__iter__": lambda session: list(iter(session)),
    "__len__": len,
    "__ne__": lambda session: session != {},
    "__or__": lambda session: session | {},
    "__reversed__": lambda session: list(reversed(session)),
    "__ror__": lambda session: {} | session,
    "clear": lambda session: session.clear(),
    "copy": lambda session: session.copy(),
    "get": lambda session: session.get("name"),
    "items": lambda session: list(session.items()),
    "keys": lambda session: list(session.keys()),
    "pop": lambda session: session.pop("name", None),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("name", "bob"),
    "values": lambda session: list(session.values()),
}
"""Every method of a dict from which something can be learnt."""

FACTS = {name: each.fget for name, each in vars(Session).items() if isinstance(each, property) and each.fget}
READERS: dict[str, Handler] = {
    **METHODS,
    **{name: read for name, read in FACTS.items() if name not in ("accessed", "modified")},
    "bool": bool,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "dict": dict,
    "dict(**session)": lambda session: dict(**session),
    "fresh_within": lambda session: session.fresh_within(60),
    "json": json.dumps,
    "sorted": sorted,
    "%": lambda session: "%(name)s" % session,  # noqa: UP031
}
WRITERS: dict[str, Handler] = {
    "__setitem__": lambda session: session.__setitem__("n", 1),
    "__ior__": lambda session: session.__ior__({"n": 2}),
    "update": lambda session: session.update(n=3),
}
CHANGES: dict[str, Handler] = {
    "login": lambda session: session.login("ada"),
    "regenerate_id": lambda session: session.regenerate_id(),
}
NEITHER: dict[str, Handler] = {
    "repr": repr,
    "logout": lambda session: session.logout(),
    "nothing": lambda session: None,
}
PUBLIC: dict[str, Any] = {"reply_headers": [("Cache-Control", "public, max-age=600"), ("Vary", "Accept-Encoding")]}


def tried(read: Handler) -> Handler:
    """The same, though there is nothing to be found."""

    def handler(session: Session) -> object:
        try:
            return read(session)
        except KeyError:
            return None

    return handler


def test_every_way_to_look_into_a_session_varies_by_cookie(in_memory: SiteFactory) -> None:
    offered = set(dir(dict)) - set(dir(object)) - {"fromkeys", "__class_getitem__"}
    assert offered <= METHODS.keys() | WRITERS.keys()
    site = in_memory()
    for name, read in READERS.items():
        for cookies in ("", "vedsess=forged", site.unknown_cookie(), begun(site).jar.header("/", scheme="http")):
            answer = site.browser()(tried(read), cookies=cookies)
            assert "cookie" in tokens(answer, "vary"), name
    for name, leave in NEITHER.items():
        assert "cookie" not in tokens(site.browser()(leave), "vary"), name


SETTERS: dict[str, Handler] = {
    "a first write": put(n=1),
    "a later write": put(name="bob"),
    "a write that was not looked at": put(n=2),
    "a login": lambda session: session.login("bob"),
    "a new id": lambda session: session.regenerate_id(),
    "a logout": lambda session: session.logout(),
    "a logout that goes on": lambda session: (session.logout(), session.update(n=1)),
}


def test_every_response_that_sets_a_cookie_varies_by_it_and_is_stored_by_nobody(in_memory: SiteFactory) -> None:
    site = in_memory(idle_timeout=1000.0, renewal_timeout=3000.0)
    browser = site.browser()
    answers = [browser(setter, **PUBLIC) for setter in SETTERS.values()]
    for seconds in (600, 900, 900, 900):  # the cookie gets old, and then the id
        site.clock.advance(seconds)
        answers.append(browser(lambda session: session.get("n"), **PUBLIC))
    resigned = site.sibling(secret_key=[OTHER_KEY, SECRET_KEY]).browser()
    resigned.jar = browser.jar.copy()
    answers.append(resigned(lambda session: session.get("n"), **PUBLIC))
    for answer in answers:
        assert answer.cookie is not None
        assert tokens(answer, "vary") == {"accept-encoding", "cookie"}
        assert tokens(answer, "cache-control") == {"no-store", "private"}


STEPS = {**READERS, **WRITERS, **CHANGES, **NEITHER}
DAYS = st.lists(st.tuples(st.floats(0, 2000), st.lists(st.sampled_from(sorted(STEPS)), max_size=4)), max_size=5)


@given(days=DAYS)
@settings(deadline=None, max_examples=60)
def test_whatever_is_done_with_a_session_no_shared_cache_may_hand_out_what_came_of_it(
    days: list[tuple[float, list[str]]], protocol: Protocol, runner: asyncio.Runner
) -> None:
    site = Site(protocol, MemoryStore(), runner, idle_timeout=1000.0)
    browser = site.browser()
    for seconds, names in days:
        site.clock.advance(seconds)
        answer = browser(lambda session: [tried(STEPS[name])(session) for name in names], **PUBLIC)  # noqa: B023
        looked = not WRITERS.keys() | NEITHER.keys() >= set(names)
        assert ("cookie" in tokens(answer, "vary")) == (looked or answer.cookie is not None)
        assert ("public" in tokens(answer, "cache-control")) == (answer.cookie is None)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_the_first_key_signs_and_all_others_only_verify(in_memory: SiteFactory) -> None:
    site = in_memory(secret_key=SECRET_KEY)
    rotating = site.sibling(secret_key=[OTHER_KEY, SECRET_KEY])
    done = site.sibling(secret_key=OTHER_KEY)

    def as_seen_by(other: Site, browser: Browser) -> tuple[Browser, tuple[Any, ...]]:
        visitor = other.browser()
        visitor.jar = browser.jar.copy()
        return visitor, visitor(seen).result

    old = begun(site)
    known = (False, "ada", VALUES)
    assert as_seen_by(done, old)[1] == NOTHING
    moved, found = as_seen_by(rotating, old)  # verified with the old key, and signed with the new one
    assert found == known
    assert as_seen_by(done, moved)[1] == known
    assert as_seen_by(site, moved)[1] == NOTHING
    new = begun(rotating, "bob")
    assert as_seen_by(done, new)[1] == (False, "bob", VALUES)
    assert as_seen_by(site, new)[1] == NOTHING


# -- sessions that overlap their end -----------------------------------------------------------------------------------

WORKS: dict[str, Handler] = {
    "reads": lambda session: session.get("name"),
    "writes": put(n=1),
    "edits": lambda session: session.setdefault("cart", []).append(2),
    "removes": lambda session: session.pop("name", None),
    "clears": lambda session: session.clear(),
    "changes the id": lambda session: session.regenerate_id(),
}


def overlapped(site: Site, work: Handler, end: Callable[[Browser], object], *, looks: bool, late: bool) -> None:
    """Let a session end while a request is at work in it: it stays ended.

    Args:
        site: where.
        work: of the request, after the end.
        end: of the session.
        looks: the request has looked into the session before that.
        late: its headers have left by then.
    """
    browser = begun(site)
    other = browser.twin()

    def begin(session: Session) -> None:
        if looks:
            session.get("name")
        if not late:
            go_on(session)

    def go_on(session: Session) -> None:
        end(other)
        work(session)

    answer = browser.twin()(begin, later=go_on if late else None)
    assert answer.cookie is None
    assert site.stored() == 0
    assert site.run(site.manager.sessions("ada")) == []
    assert browser.twin()(seen).result == NOTHING
    site.clock.advance(60)
    assert browser(seen).result == NOTHING


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_a_request_that_overlaps_a_logout_cannot_restore_the_session(
    site: Site, work: Handler, looks: bool, late: bool
) -> None:
    overlapped(site, work, lambda other: other(lambda session: session.logout()), looks=looks, late=late)


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("means", ["revoke", "cut_off", "erase"])
def test_a_request_that_overlaps_a_revocation_cannot_restore_the_session(
    site: Site, work: Handler, looks: bool, means: str
) -> None:
    end = getattr(site.manager, means)
    overlapped(site, work, lambda other: site.run(end("ada")), looks=looks, late=False)


# -- ids that somebody else chose or knows -----------------------------------------------------------------------------

CHOSEN = "Ab0-Cd1_Ef2-Gh3_Ij4-Kl5_Mn6-Op7_Qr8-St9_Uvw"
PRESENTED: dict[str, Callable[[Site], str]] = {
    "bare": lambda site: f"vedsess={CHOSEN}",
    "not signed": lambda site: forged(site, CHOSEN).rpartition(".")[0],
    "signed by nobody": lambda site: forged(site, CHOSEN).rpartition(".")[0] + "." + "A" * 43,
    "signed by somebody else": lambda site: forged(site.sibling(secret_key=OTHER_KEY), CHOSEN),
    "signed for another app": lambda site: forged(site.sibling(audience="other"), CHOSEN),
    "signed by us, and never stored": lambda site: forged(site, CHOSEN),
}


def adopted(site: Site, cookies: str, work: Handler) -> bool:
    """Whether a browser that comes with this cookie goes on under its id, or shares its session with another one."""
    victim = site.browser()
    victim(work, cookies=cookies)
    others = [site.browser()(seen, cookies=cookies).result, site.browser()(seen, cookies=f"vedsess={CHOSEN}").result]
    assert site.stored() == 1
    return bool(victim(lambda session: session.id).result == CHOSEN or others != [NOTHING, NOTHING])


@pytest.mark.parametrize("present", PRESENTED.values(), ids=PRESENTED.keys())
def test_an_id_that_a_client_chose_is_never_that_of_a_session(site: Site, present: Callable[[Site], str]) -> None:
    assert not adopted(site, present(site), put(n=1))


@pytest.mark.parametrize("present", PRESENTED.values(), ids=PRESENTED.keys())
def test_an_id_that_a_client_chose_is_never_logged_in(site: Site, present: Callable[[Site], str]) -> None:
    assert not adopted(site, present(site), lambda session: session.login("ada"))


def test_whoever_planted_or_copied_an_id_is_out_after_the_login(site: Site) -> None:
    browser = begun(site, None)
    thief, before = browser.twin(), key_of(browser)
    browser(lambda session: session.login("ada"))
    assert key_of(browser) != before
    assert browser(seen).result == (False, "ada", VALUES)
    for seconds in (0, 5, 60):
        site.clock.advance(seconds)
        assert thief.twin()(seen).result == NOTHING
        thief.twin()(put(name="eve"))
    assert browser(seen).result == (False, "ada", VALUES)


def test_the_id_changes_at_a_logout_that_lets_the_session_go_on(site: Site) -> None:
    browser = begun(site)
    thief, before = browser.twin(), key_of(browser)
    browser(lambda session: (session.logout(), session.update(flash="bye")))
    assert key_of(browser) != before
    assert browser(seen).result == (False, None, {"flash": "bye"})
    assert thief(seen).result == NOTHING


LOGINS: dict[str, Handler] = {
    "sets it": lambda session: session.__setitem__("_user_id", "7"),
    "sets a number": lambda session: session.update(_user_id=7),
    "looks first": lambda session: (len(session), session.update(_user_id="7")),
}
LOGOUTS: dict[str, Handler] = {
    "deletes it": lambda session: session.__delitem__("_user_id"),
    "pops it": lambda session: session.pop("_user_id"),
    "clears all": lambda session: session.clear(),
    "sets None": lambda session: session.update(_user_id=None),
    "sets None unseen": lambda session: session.__setitem__("_user_id", None),
}


@pytest.mark.parametrize("log_in", LOGINS.values(), ids=LOGINS.keys())
@pytest.mark.parametrize("log_out", LOGOUTS.values(), ids=LOGOUTS.keys())
def test_a_framework_that_sets_nothing_but_its_user_field_changes_the_id_at_login_and_at_logout(
    make_site: SiteFactory, log_in: Handler, log_out: Handler
) -> None:
    site = make_site(user_id_field="_user_id")
    browser = begun(site, None)
    planted = browser.twin()
    browser(log_in)
    copied = browser.twin()
    assert browser(lambda session: (session.user_id, session["name"])).result == ("7", "ada")
    assert planted(seen).result == NOTHING
    browser(log_out)
    assert browser(lambda session: (session.is_new, session.user_id)).result == (False, None)
    assert planted(seen).result == copied(seen).result == NOTHING
    assert site.run(site.manager.sessions("7")) == []


@pytest.mark.parametrize("means", ["revoke", "cut_off"])
@pytest.mark.parametrize("away", [False, True])
def test_a_password_reset_ends_every_session_of_the_user_even_while_a_store_is_away(
    in_memory: SiteFactory, means: str, away: bool
) -> None:
    redis, sql, ticks = Faulty("r", "redis"), Faulty("s", "sql"), Clock()
    stores: Any = redis, sql
    store = FailoverStore(*stores, clock=ticks, wait=ticks.advance, on_event=lambda event: None)
    site = in_memory(store=store)
    thieves, bob = [begun(site), begun(site)], begun(site, "bob")
    if away:
        redis.always = "refuse"
    assert site.run(getattr(site.manager, means)("ada")) == 2
    assert [thief.twin()(seen).result for thief in thieves] == [NOTHING, NOTHING]
    site.clock.advance(1)
    owner = begun(site)
    redis.always = None
    for _ in range(5):  # it is asked again, told of what it missed, and serves
        ticks.advance(60)
        assert [browser(lambda session: session.user_id).result for browser in (bob, owner)] == ["bob", "ada"]
        assert [thief.twin()(seen).result for thief in thieves] == [NOTHING, NOTHING]
    assert owner(lambda session: (session.user_id, session.store)).result == ("ada", "redis")
    assert len(site.run(site.manager.sessions("ada"))) == 1


# -- what stores get to see --------------------------------------------------------------------------------------------


class Listening:
    """A store in memory that notes what it is asked."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self.heard: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        return partial(self._noted, attribute) if callable(attribute) else attribute

    def _noted(self, method: Callable[..., object], *args: Any, **options: Any) -> object:
        self.heard.append((*args, *options.values()))
        return method(*args, **options)


def lived(site: Site) -> list[str]:
    """All that can happen to sessions, and the ids that they had."""
    ids: list[str] = []

    def step(browser: Browser, work: Handler) -> None:
        browser(work)
        ids.append(browser(lambda session: session.id).result)

    ada, bob = site.browser(), site.browser()
    for browser in (ada, bob):
        step(browser, put(**VALUES))
        step(browser, lambda session: session.login("ada"))
        step(browser, lambda session: session.regenerate_id())
        step(browser, lambda session: session["cart"].append(2))
        step(browser, lambda session: session.pop("name"))
    site.run(site.manager.sessions("ada"))
    ada.twin()(lambda session: session.logout())
    site.browser()(seen, cookies=site.unknown_cookie())
    return ids


def strings(value: object) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings(list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from strings(each)
    elif hasattr(value, "__struct_fields__"):
        yield from strings([getattr(value, name) for name in value.__struct_fields__])
    elif hasattr(value, "texts"):
        yield from strings(dict(value.texts))


def test_no_store_is_ever_asked_for_anything_but_the_sha_256_of_an_id(in_memory: SiteFactory) -> None:
    store = Listening()
    site = in_memory(store=store, max_sessions_per_user=2)
    ids = lived(site)
    keys = {sha256(session_id) for session_id in ids}
    assert len(keys) == 6
    heard = {text for args in store.heard for text in strings(args)}
    assert keys <= heard
    assert not [text for text in heard for session_id in ids if session_id in text]
    named = {text for args in store.heard for text in strings([each for each in args if isinstance(each, str | list)])}
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in named - {"ada", "user"})


def held(redis: Any) -> bytes:
    """All that a Redis holds."""
    readers = {b"hash": redis.hgetall, b"zset": lambda name: redis.zrange(name, 0, -1), b"string": redis.get}
    return repr([(name, readers[redis.type(name)](name)) for name in redis.scan_iter()]).encode()


def test_neither_redis_nor_a_database_file_holds_an_id(
    in_memory: SiteFactory, on_redis: SiteFactory, redis: Any, protocol: Protocol, tmp_path: Path, sqlite_url: str
) -> None:
    database = in_memory(store=SQLStore.from_url(sqlite_url, is_async=protocol == "asgi", timeout=10.0))
    for site in (on_redis(), database):
        ids = lived(site)
        at_rest = b"".join(path.read_bytes() for path in tmp_path.iterdir()) if site is database else held(redis)
        assert sha256(ids[-1]).encode() in at_rest
        assert not [session_id for session_id in ids if session_id.encode() in at_rest]
    database.run(database.manager.aclose())


def _compressed(text: str) -> str:
    return "$z$" + urlsafe_b64encode(zlib.compress(text.encode())).decode().rstrip("=")


PLAIN: dict[str, Callable[[str], str]] = {
    "the text itself": lambda sealed: '"eve"',
    "the text, marked as such": lambda sealed: '$p$"eve"',
    "compressed": lambda sealed: _compressed('"eve"'),
    "with an end": lambda sealed: '@9999999999999:"eve"',
}
SPOILT: dict[str, Callable[[str], str]] = {
    "as if it were encrypted": lambda sealed: sealed[: sealed.rindex("$") + 1] + "ImV2ZSI",
    "cut short": lambda sealed: sealed[:-4],
    "a bit flipped": lambda sealed: sealed[:-9] + ("A" if sealed[-9] != "A" else "B") + sealed[-8:],
    "as if it were compressed": lambda sealed: sealed.replace("$1$", "$1z$", 1),
    "given an end": lambda sealed: "@9999999999999:" + sealed,
    "empty": lambda sealed: sealed[: sealed.rindex("$") + 1],
    "without its mark": lambda sealed: "$" + sealed,
}


@pytest.mark.parametrize(("accepts", "forge"), [
    *((False, forge) for forge in [*PLAIN.values(), *SPOILT.values()]),
    *((True, forge) for forge in SPOILT.values()),
])  # fmt: skip
def test_what_cannot_be_decrypted_is_not_read_in_any_other_way(
    in_memory: SiteFactory, accepts: bool, forge: Callable[[str], str]
) -> None:
    site = in_memory(**ENCRYPTED, encryption_accepts_plain=accepts)
    browser = begun(site)
    key = key_of(browser)
    sealed = cast(MemoryStore, site.store.store).peek(key)
    assert sealed is not None
    plant(site, key, name=forge(sealed.values["name"]))
    answer = browser(lambda session: session.get("name"))
    assert (answer.status, answer.result) in [(200, None), (503, None)]
    assert [event for event in site.events if isinstance(event, events.RecordRejected | events.StoreRefused)]


# -- sessions that are over --------------------------------------------------------------------------------------------

USES: dict[str, Handler] = {**WORKS, "looks and writes": lambda session: (len(session), session.update(n=1))}


@pytest.mark.parametrize("work", USES.values(), ids=USES.keys())
def test_the_cookie_of_a_session_that_was_ended_is_of_no_use(site: Site, work: Handler) -> None:
    browser = begun(site)
    replayed = browser.twin()
    browser(lambda session: session.logout())
    for seconds in (0, 60, 80000, 10000):
        site.clock.advance(seconds)
        visitor = replayed.twin()
        visitor(work)
        assert visitor(lambda session: (session.user_id, "ada" in session.values())).result == (None, False)
        site.run(site.manager.cleanup())
        assert replayed.twin()(seen).result == NOTHING


class Forgetful(MemoryStore):
    """A store that lets nothing expire."""

    def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Record | None:
        return self.peek(key)


@pytest.mark.parametrize("store", [MemoryStore, Forgetful])
@pytest.mark.parametrize("steps", [[1001], [900, 900, 900, 900]], ids=["idle", "absolute"])
def test_the_cookie_of_an_expired_session_is_of_no_use_even_if_a_store_forgot_to_expire_it(
    in_memory: SiteFactory, store: Callable[[], Store], steps: list[float]
) -> None:
    site = in_memory(store=store(), idle_timeout=1000.0, absolute_timeout=3000.0)
    browser = begun(site)
    for seconds in steps:
        assert browser(lambda session: session.user_id).result == "ada"
        browser(put(n=site.clock.now))
        site.clock.advance(seconds)
    for work in USES.values():
        visitor = browser.twin()
        visitor(work)
        assert visitor(lambda session: (session.user_id, "ada" in session.values())).result == (None, False)
    assert browser(seen).result == NOTHING


# -- ids that are none -------------------------------------------------------------------------------------------------

ODD = ["", "a", "0", "None", "a" * 42, "a" * 44, "*" * 43, " " * 43, '"' * 43, "=" * 43, "%" * 43, "+" * 43, "a" * 130]
PATHS = ["../../../../../../../../../../../etc/passwd", "/" * 43, "vedsess:session_index:all".ljust(43, ":")]
PATHS += ["C:\\".ljust(43, "\\"), "%2e%2e%2f".ljust(43, "a"), "session:".ljust(43, "0"), "~".ljust(43, "/")]


def unheard(site: Site, session_id: str) -> bool:
    """Whether the store hears nothing of an id, though we had signed it, but of a new session."""
    cookies = forged(site, session_id)
    works = [seen, repr, lambda session: session.logout(), put(n=1), lambda session: session.login("ada")]
    for work in works:
        site.browser()(cast(Handler, work), cookies=cookies)
    return set(site.store.asked) == {"create"} and site.stored() == 2


@pytest.mark.parametrize("session_id", ODD)
def test_an_empty_short_or_odd_id_never_reaches_a_store_even_if_we_had_signed_it(site: Site, session_id: str) -> None:
    assert unheard(site, session_id)


@pytest.mark.parametrize("session_id", PATHS)
def test_an_id_that_looks_like_a_path_or_a_key_never_reaches_a_store(site: Site, session_id: str) -> None:
    assert unheard(site, session_id)


# -- stores that would fill up -----------------------------------------------------------------------------------------


def test_looking_for_a_session_creates_none(on_redis: SiteFactory, redis: Any) -> None:
    site = on_redis()
    for name, read in READERS.items():
        for cookies in ("", "vedsess=forged", site.unknown_cookie()):
            if name != "setdefault":
                assert site.browser()(tried(read), cookies=cookies).cookie is None
    assert redis.keys() == []


def test_a_logout_creates_no_session(on_redis: SiteFactory, redis: Any) -> None:
    site = on_redis()
    unknown = site.unknown_cookie()
    for cookies in ("", "vedsess=forged", f"vedsess={CHOSEN}", forged(site, "")):
        site.browser()(lambda session: session.logout(), cookies=cookies)
        assert redis.keys() == []
    for _ in range(20):  # whoever has a cookie of ours can leave the tombstone of its session, and no more
        site.browser()(lambda session: session.logout(), cookies=unknown)
    assert [redis.ttl(name) > 0 for name in redis.scan_iter()] in ([], [True])
    assert site.stored() == 0


EMPTY: dict[str, Handler] = {
    "clears it": lambda session: session.clear(),
    "puts nothing": put(),
    "puts and removes": lambda session: (session.update(n=1), session.pop("n")),
    "puts and clears": lambda session: (session.update(n=1), session.clear()),
    "merges nothing": lambda session: session.__ior__({}),
    "changes the id of nothing": lambda session: session.regenerate_id(),
    "logs out what it put": lambda session: (session.update(n=1), session.logout()),
    "logs out whom it logged in": lambda session: (session.login("ada"), session.logout()),
}


@pytest.mark.parametrize("work", EMPTY.values(), ids=EMPTY.keys())
def test_a_session_that_was_left_empty_is_not_created(on_redis: SiteFactory, redis: Any, work: Handler) -> None:
    site = on_redis()
    for cookies in ("", "vedsess=forged", site.unknown_cookie()):
        assert site.browser()(work, cookies=cookies).cookie in (None, site.manager._parts.jar.remove(secure=False))
    assert [name for name in redis.scan_iter() if redis.hget(name, "session_id")] == []
    assert site.stored() == 0


# -- names that users choose -------------------------------------------------------------------------------------------

USERS = [
    "x",
    f"x:session:{'0' * 64}",
    ":session:",
    "../session",
    "*",
    "?",
    "[a-z]",
    "{x}",
    "session_index:all",
    "epoch",
]
USERS += [
    "probe",
    "to_mirror",
    "vedsess:",
    "a\nb",
    "a\r\nDEL x",
    " ",
    "\u00e9",
    "0",
    "user_sessions:x",
    "%s",
    "a" * 255,
]


def test_no_user_id_and_no_field_name_reaches_a_key_that_is_not_its_own(on_redis: SiteFactory, redis: Any) -> None:
    site = on_redis(max_sessions_per_user=5)
    victim = begun(site, "victim")
    key = key_of(victim)
    fields = [name.decode() for name in redis.hgetall(f"vedsess:session:{key}")]
    users = {user: begun(site, user) for user in USERS}
    own = {f"vedsess:session:{key_of(browser)}" for browser in [victim, *users.values()]}
    own |= {f"vedsess:user_sessions:{user}" for user in [*users, "victim"]}
    assert {name.decode() for name in redis.scan_iter()} - own == {"vedsess:session_index:all"}
    reserved = {
        name: "mine" for each in [*fields, "gone", "epoch", "lease", "fence", "lock"] for name in (each, f"d:{each}")
    }
    victim(put(**reserved))
    assert victim(seen).result == (False, "victim", {**VALUES, **reserved})
    for user, browser in users.items():
        assert len(site.run(site.manager.sessions(user))) == 1
        assert site.run(site.manager.revoke(user)) == 1
        assert browser(seen).result == NOTHING
    assert victim(seen).result == (False, "victim", {**VALUES, **reserved})
    assert begun(site, "x")(lambda session: session.user_id).result == "x"
    assert on_redis(key_prefix="other:").stored() == 2  # the prefix is the store's: this is the same one


# -- code in the store -------------------------------------------------------------------------------------------------

EXPLODED: list[str] = []


def explode() -> str:
    EXPLODED.append("boom")
    return "boom"


class Bomb:
    """Whoever loads a pickle of it calls `explode`."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return explode, ()


@pytest.mark.parametrize("level", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_in_a_store_is_never_loaded(on_redis: SiteFactory, redis: Any, level: int) -> None:
    site, bomb = on_redis(), pickle.dumps(Bomb(), level)
    for stored in (b"9.9:" + bomb, bomb, b'9.9:"' + bomb.hex().encode() + b'"'):
        browser = begun(site)
        redis.hset(f"vedsess:session:{key_of(browser)}", "d:name", stored)
        assert browser(lambda session: session.get("name")).result in (None, bomb.hex())
    browser = begun(site)
    name = f"vedsess:session:{key_of(browser)}"
    redis.delete(name)
    redis.set(name, bomb)
    assert browser(lambda session: session.get("name")).status == 503
    assert EXPLODED == []
    assert pickle.loads(bomb) == "boom"
    EXPLODED.clear()


@pytest.mark.parametrize(
    "value", [object(), Bomb(), explode, Bomb, ValueError("x"), partial(explode), sys, re.compile("")]
)
def test_nothing_is_stored_that_only_code_could_bring_back(site: Site, value: object) -> None:
    for holder in (value, [value], {"x": value}):
        with pytest.raises(SerializationError):
            site.browser()(put(name=holder))
    assert site.stored() == 0


def test_what_is_encrypted_shows_no_pattern_and_opens_unchanged_in_its_place_only(in_memory: SiteFactory) -> None:
    site = in_memory(**ENCRYPTED)
    same = "A" * 16 * 200
    one, other = begun(site, None, a=same, b=same), begun(site, None, a=same, b="short")
    store = cast(MemoryStore, site.store.store)

    def texts(browser: Browser) -> dict[str, str]:
        record = store.peek(key_of(browser))
        assert record is not None
        return record.values

    first, second = texts(one), texts(other)
    bodies = [text.rpartition("$")[2] for text in (first["a"], first["b"], second["a"])]
    blocks = [body[start : start + 16] for body in bodies for start in range(len(body) - 16)]
    assert len(set(blocks)) == len(blocks)
    for moved in (first["b"], second["a"], second["b"], f"@9999999999999:{first['a']}"):
        browser = begun(site, None, a="mine", c="mine too")
        plant(site, key_of(browser), a=moved)
        assert browser(lambda session: session.get("a")).result is None


# -- a real client -----------------------------------------------------------------------------------------------------


async def served(app: Any, cookies: str, work: Handler) -> Any:
    """One request to an ASGI app, and what the app did in it."""
    scope, messages = http_scope(cookies=cookies), Messages("http")
    scope["tests.visit"] = visit = Visit(work)
    await app(scope, messages.receive, messages.send)
    return visit.result


@pytest.mark.parametrize(
    "work",
    [seen, put(n=1), lambda session: session.login("eve"), lambda session: session.logout()],
    ids=["reads", "writes", "logs in", "logs out"],
)
def test_a_request_that_is_cancelled_leaves_its_answer_to_nobody(valkey: RedisServer, work: Handler) -> None:
    async def body(manager: SessionManager) -> None:
        app = asgi.SessionMiddleware(asgi_app, manager)
        cookies = [await begun_over(manager, f"u{number}") for number in range(4)]
        for steps in range(30):  # wherever it waits
            victim = await begun_over(manager, "victim")
            cancelled = asyncio.create_task(served(app, victim, work))
            others = [asyncio.create_task(served(app, cookie, seen)) for cookie in cookies] if steps % 2 else []
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            results = [await other for other in others] or [await served(app, cookie, seen) for cookie in cookies]
            assert [user for _, user, _ in results] == ["u0", "u1", "u2", "u3"]
            assert [values["name"] for _, _, values in results] == ["u0", "u1", "u2", "u3"]

    async def opened() -> None:
        # All have to share one connection.
        store = RedisStore.from_url(f"{valkey.url}?max_connections=1", is_async=True, timeout=5.0)
        manager = SessionManager(cast(Store, store), Settings(secret_key=SECRET_KEY), on_event=lambda event: None)
        try:
            await body(manager)
        finally:
            await manager.aclose()

    asyncio.run(opened())


async def begun_over(manager: SessionManager, user_id: str) -> str:
    """The cookie of a new session."""
    session = await manager.open()
    session["name"] = user_id
    session.login(user_id)
    return (await manager.commit(session) or "").partition(";")[0]


def test_a_record_that_names_another_session_is_served_to_nobody(
    valkey: RedisServer, protocol: Protocol, runner: asyncio.Runner
) -> None:
    store = RedisStore.from_url(valkey.url, is_async=protocol == "asgi", timeout=5.0)
    site = Site(protocol, cast(Store, store), runner)
    ada, eve = begun(site), begun(site, "eve")
    names = [f"vedsess:session:{key_of(browser)}" for browser in (ada, eve)]
    assert valkey.cli("COPY", *names, "REPLACE")
    assert eve(seen).result == NOTHING
    assert len(site.told(events.RecordRejected)) == 1
    assert ada(seen).result == (False, "ada", VALUES)
    site.run(site.manager.aclose())


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_no_log_line_and_no_repr_shows_an_id(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hidden, shown = Secrets(), list[str]()
    for _ in range(2):
        for session_id in lived(site):
            hidden.note(session_id)
    browser = begun(site)
    hidden.note(browser.jar.value() or "")
    browser(lambda session: shown.extend([repr(session), str(session), f"{session}", f"{session!s:>40}"]))
    site.browser()(seen, cookies=browser.jar.header("/", scheme="http")[:-1])
    for event in site.events:
        events.log_event(event)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) > 20
    assert not [text for text in (*lines, *shown, repr(site.manager), repr(site.events)) if hidden.are_in(text)]
    assert hidden.are_in(browser.jar.value() or "")


def test_the_list_of_a_users_sessions_opens_none_of_them(site: Site) -> None:
    browsers = [begun(site), begun(site)]
    infos = browsers[0](lambda session: site.run(site.manager.sessions("ada", current=session))).result
    shown = json.dumps([repr(info) for info in infos])
    for browser in browsers:
        session_id, key = browser(lambda session: session.id).result, key_of(browser)
        assert not [secret for secret in (session_id, session_id[:8], key, key[:8]) if secret in shown]
    for info in infos:
        for cookies in (f"vedsess={info.handle}", forged(site, info.handle), forged(site, info.handle.ljust(43, "0"))):
            assert site.browser()(seen, cookies=cookies).result == NOTHING
        assert site.run(site.manager.revoke("eve", handle=info.handle)) == 0
    assert site.stored() == 2


# -- cookies and headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vedsess", "__Host-id"])
@pytest.mark.parametrize(
    "shape", ["={0}={1}", "= {0}={1}", " ={0}={1}", "=={0}={1}", "={0}=;{1}", "a=1; ={0}={1}; b=2"]
)
def test_a_cookie_without_a_name_is_not_taken_for_ours(in_memory: SiteFactory, name: str, shape: str) -> None:
    site = in_memory(cookie_name=name, cookie_secure=True)
    browser = site.browser()
    browser(put(n=1), scheme="https")
    value = browser.jar.value(name)
    assert value is not None
    assert site.browser()(seen, cookies=f"{name}={value}", scheme="https").result[0] is False
    site.store.calls.clear()
    assert site.browser()(seen, cookies=shape.format(name, value), scheme="https").result == NOTHING
    assert site.store.asked == []


HEADERS: dict[str, Callable[[int], str]] = {
    "one endless cookie": lambda size: "vedsess=" + "a" * size,
    "quotes": lambda size: 'vedsess="' + '\\"' * (size // 2) + '"',
    "octal escapes": lambda size: 'vedsess="' + "\\012" * (size // 4) + '"',
    "backslashes": lambda size: "vedsess=" + "\\" * size,
    "cookies of ours": lambda size: "vedsess=a;" * (size // 10),
    "cookies of others": lambda size: "vedsess_=a;" * (size // 11),
    "semicolons": lambda size: ";" * size + "vedsess",
    "equals signs": lambda size: "vedsess" + "=" * size,
    "spaces": lambda size: " " * size + "vedsess=a",
    "signatures to check": lambda size: f"vedsess={'a' * 43}.0.1.1ba60d33800.{'a' * 43};" * (size // 110),
}


def work_of(call: Callable[[], object]) -> int:
    """How many functions it calls, those in C included."""
    calls = [0]

    def count(frame: object, event: str, argument: object) -> None:
        calls[0] += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(before)
    return calls[0]


@pytest.mark.parametrize("make", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_of_a_megabyte_costs_work_in_proportion_and_eight_signatures(
    in_memory: SiteFactory, make: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, checked = in_memory(secret_key=[OTHER_KEY, SECRET_KEY]), list[int]()
    jar = CookieJar(site.manager.settings)
    small, large = (work_of(partial(jar.read, make(size))) for size in (1 << 19, 1 << 20))
    assert large <= 2.1 * small + 50
    digest = hmac.compare_digest

    def compare(mine: bytes, given: bytes) -> bool:
        checked.append(len(mine) + len(given))
        return digest(mine, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert site.browser()(seen, cookies=make(1 << 20)).result == NOTHING
    assert len(site.told(events.CookieRejected)) <= 8
    assert len(checked) <= 8 * 2
    assert sum(checked) <= 8 * 2 * 300
    assert site.store.asked == []


@pytest.mark.parametrize("field", ["cookie_name", "cookie_path", "cookie_domain", "cookie_samesite"])
@pytest.mark.parametrize(
    "evil", ["; Domain=evil.example", ";", "\r\nX: y", "\n", "\r", "\0", "\x7f", ", a=b", "\u00e9", "\t", '"; a="']
)
def test_no_cookie_setting_can_smuggle_in_an_attribute_or_a_header(field: str, evil: str) -> None:
    good = {"cookie_name": "id", "cookie_path": "/app", "cookie_domain": "example.com", "cookie_samesite": "Lax"}[field]
    assert Settings(secret_key=SECRET_KEY, **{field: good})  # type: ignore[arg-type]
    for value in (good + evil, evil, evil + good):
        if (
            field == "cookie_path"
            and value.startswith("/")
            and ";" not in evil
            and evil.isprintable()
            and evil.isascii()
        ):
            continue  # RFC 6265 4.1.1: a path is any character but controls and the semicolon
        with pytest.raises(ConfigurationError) as raised:
            Settings(secret_key=SECRET_KEY, **{field: value})  # type: ignore[arg-type]
        assert field in str(raised.value)


def test_the_headers_of_the_app_stay_as_they_are(in_memory: SiteFactory) -> None:
    own = [
        ("Set-Cookie", "a=1; Path=/; Max-Age=9"),
        ("X-One", "1"),
        ("Set-Cookie", "b=2; Path=/; Max-Age=9"),
        ("x-one", "2"),
    ]
    site, given = in_memory(), list(own)
    browser = site.browser()
    for work in (repr, seen, put(n=1), put(n=2), lambda session: session.logout()):
        answer = browser(cast(Handler, work), reply_headers=given)
        assert given == own
        found = [(name.lower(), value) for name, value in answer.headers]
        assert [pair for pair in found if pair in [(name.lower(), value) for name, value in own]] == [
            (name.lower(), value) for name, value in own
        ]
        added = {name for name, value in found} - {"content-type", "set-cookie", "x-one"}
        assert added <= {"vary", "cache-control"}


# -- values and records ------------------------------------------------------------------------------------------------


def test_a_secret_is_encrypted_at_rest_and_soon_gone(make_site: SiteFactory, redis: Any) -> None:
    word = "correct horse battery staple"
    site = make_site(**ENCRYPTED)
    browser = begun(site)
    browser(lambda session: session.put_secret("password", word, ttl=60))
    assert browser(lambda session: session["password"]).result == word
    store = site.store.store
    assert word.encode() not in (held(redis) if isinstance(store, RedisStore) else repr(strings_in(store)).encode())
    assert word not in repr(browser(repr).result) + repr(site.events)
    site.clock.advance(61)
    assert browser(seen).result == (False, "ada", VALUES)
    plain = make_site()
    with pytest.raises(ConfigurationError):
        begun(plain)(lambda session: session.put_secret("password", word, ttl=60))


def strings_in(store: Store) -> list[str]:
    """All that a store in memory holds."""
    return [text for record in cast(MemoryStore, store).records_of("ada", at=0.0).values() for text in strings(record)]


def test_a_new_session_never_overwrites_another_and_a_write_never_makes_one(make_site: SiteFactory) -> None:
    site = make_site()
    victim = begun(site)
    session_id = victim(lambda session: session.id).result
    site.manager._parts.jar.new_id = lambda: session_id
    for work in (put(name="eve"), lambda session: session.login("eve")):
        answer = site.browser()(cast(Handler, work))
        assert (answer.status, answer.cookie) == (503, None)
    assert victim(seen).result == (False, "ada", VALUES)
    assert site.stored() == 1
    for name in WORKS.keys() - {"changes the id"}:  # which begins one, under an id that nobody has
        writer = begun(site.sibling(), "bob")
        writer(losing(site, WORKS[name]))
        assert writer(seen).result == NOTHING
        assert site.stored() == 1


def losing(site: Site, work: Handler) -> Handler:
    """An app whose session vanishes from the store while it is at work."""

    def handler(session: Session) -> None:
        key, store = sha256(session.id or ""), site.store.store
        if isinstance(store, MemoryStore):
            store.forget(key, cast(Record, store.peek(key)).version)
        else:
            site.run(cast(Any, store)._wire.execute("DEL", f"vedsess:session:{key}"))
        work(session)

    return handler
