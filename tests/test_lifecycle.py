"""The life of a session as a browser sees it: the same test bodies on WSGI and ASGI, over every store."""

import asyncio
import enum
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from tests.clients import OTHER_KEY, SECRET_KEY, Answer, Browser, Handler, Site
from tests.clients import Protocol as ServerProtocol
from tests.servers import free_port
from tests.sites import Backend, SiteFactory, add, attributes, log_in, names, put, read
from vedsess_middleware import RequestInfo, Session, StoreUnavailable, errors, events
from vedsess_middleware.codec import JsonCodec
from vedsess_middleware.stores.failover import FailoverStore
from vedsess_middleware.stores.redis import RedisStore
from vedsess_middleware.stores.sql import SQLStore

SERVED_BY = {"redis-6.2": "redis", "sqlite": "sql", "postgresql": "sql", "failover": "redis"}


def facts(session: Session) -> tuple[float | None, ...]:
    return session.created_at, session.last_activity, session.expires_at


# -- nothing without a reason ------------------------------------------------------------------------------------------


def test_a_request_that_does_not_touch_its_session_gets_nothing_and_asks_nothing(site: Site) -> None:
    answer = site.browser()()
    assert names(answer) == ["content-type"]
    assert site.store.calls == []
    assert site.events == []


def test_an_untouched_request_with_a_live_cookie_gets_nothing(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    site.store.calls.clear()
    assert names(browser()) == ["content-type"]
    lookups = ["load"] if site.protocol == "asgi" else []
    assert site.store.asked == lookups


READERS: dict[str, Handler] = {
    "bool": bool,
    "copy": lambda session: session.copy(),
    "dict": dict,
    "equals": lambda session: session == {},
    "get": lambda session: session.get("n"),
    "id": lambda session: session.id,
    "in": lambda session: "n" in session,
    "is_new": lambda session: session.is_new,
    "items": lambda session: list(session.items()),
    "iter": list,
    "json": json.dumps,
    "len": len,
    "or": lambda session: session | {},
    "pop": lambda session: session.pop("n", None),
    "unpack": lambda session: {**session},
    "user_id": lambda session: session.user_id,
    "values": lambda session: list(session.values()),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_an_anonymous_read_varies_by_cookie_and_stores_nothing(site: Site, reader: Handler) -> None:
    answer = site.browser()(reader)
    assert answer.all("vary") == ["Cookie"]
    assert names(answer) == ["content-type", "vary"]
    assert site.store.asked == []


def test_a_vary_of_the_app_is_kept_and_not_repeated(site: Site) -> None:
    answer = site.browser()(read, reply_headers=[("Vary", "Accept, COOKIE")])
    assert answer.all("vary") == ["Accept, COOKIE"]


def test_printing_the_session_neither_loads_nor_varies(site: Site) -> None:
    answer = site.browser()(repr, cookies=site.unknown_cookie())
    assert answer.all("vary") == []


# -- writing and reading -----------------------------------------------------------------------------------------------


def test_a_write_creates_a_session_and_sets_its_cookie(site: Site) -> None:
    answer = site.browser()(put(n=1))
    assert answer.cookie is not None
    assert attributes(answer) == ["HttpOnly", "Max-Age=86400", "Path=/", "SameSite=Lax"]
    assert answer.all("cache-control") == ["no-store, private"]
    assert answer.all("vary") == ["Cookie"]
    assert site.stored() == 1
    assert len(site.told(events.SessionCreated)) == 1


def test_what_was_written_is_read_back(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1, name="Ada"))
    answer = browser(read)
    assert answer.result == {"n": 1, "name": "Ada"}
    assert answer.cookie is None
    assert answer.all("cache-control") == []


def test_another_browser_reads_nothing_of_it(site: Site) -> None:
    site.browser()(put(n=1))
    assert site.browser()(read).result == {}


def test_a_cookie_cannot_be_cached_unless_the_app_was_stricter(site: Site) -> None:
    lax = site.browser()(put(n=1), reply_headers=[("Cache-Control", "public, max-age=60"), ("Expires", "tomorrow")])
    assert lax.all("cache-control") == ["no-store, private"]
    assert lax.all("expires") == []
    strict = site.browser()(put(n=1), reply_headers=[("Cache-Control", "no-store, max-age=0")])
    assert strict.all("cache-control") == ["no-store, max-age=0"]


def test_an_edit_deep_inside_a_value_is_saved(site: Site) -> None:
    browser = site.browser()
    browser(put(cart={"items": [{"id": 1, "n": 1}]}))

    def edit(session: Session) -> bool:
        session["cart"]["items"][0]["n"] += 1
        return session.modified

    assert browser(edit).result is True
    assert browser(read).result == {"cart": {"items": [{"id": 1, "n": 2}]}}


def test_what_is_read_and_put_back_unchanged_is_not_written(site: Site) -> None:
    browser = site.browser()
    browser(put(cart=[1, 2], n=1))
    site.store.calls.clear()

    def touch(session: Session) -> bool:
        session["cart"] = list(session["cart"])
        session["n"] += 0
        return session.modified

    answer = browser(touch)
    assert answer.result is False
    assert answer.cookie is None
    assert "update" not in site.store.calls


def test_only_the_changed_fields_are_written(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1, m=1))
    twin = browser.twin()

    def change(session: Session) -> None:
        assert session["m"] == 1
        twin(put(m=2))
        session["n"] = 2

    browser(change)
    assert browser(read).result == {"n": 2, "m": 2}


EDITS: dict[str, tuple[Handler, dict[str, Any]]] = {
    "del": (lambda session: session.__delitem__("a"), {"b": [1], "c": None}),
    "pop": (lambda session: session.pop("a"), {"b": [1], "c": None}),
    "clear": (lambda session: session.clear(), {}),
    "clear and write": (lambda session: (session.clear(), session.update(d=1)), {"d": 1}),
    "update": (lambda session: session.update(a=2, d=1), {"a": 2, "b": [1], "c": None, "d": 1}),
    "ior": (lambda session: session.__ior__({"a": 2}), {"a": 2, "b": [1], "c": None}),
    "setdefault": (lambda session: session.setdefault("b", []).append(2), {"a": 1, "b": [1, 2], "c": None}),
    "popitem": (lambda session: session.popitem() and None, {"a": 1, "b": [1]}),
    "write, then delete": (lambda session: (session.update(d=1), session.pop("d")), {"a": 1, "b": [1], "c": None}),
}


@pytest.mark.parametrize(("edit", "expected"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_of_the_mapping_is_saved(site: Site, edit: Handler, expected: dict[str, Any]) -> None:
    browser = site.browser()
    browser(lambda session: [session.__setitem__(name, value) for name, value in (("a", 1), ("b", [1]), ("c", None))])
    browser(edit)
    if edit is EDITS["popitem"][0]:  # which one goes depends on the order in which the store gives them back
        assert len(browser(read).result) == 2
    else:
        assert browser(read).result == expected


def test_a_deleted_field_can_be_written_again(site: Site) -> None:
    browser = site.browser()
    browser(put(a=1, b=1))
    browser(lambda session: session.pop("a"))
    assert browser(read).result == {"b": 1}
    browser(put(a=2))
    assert browser(read).result == {"a": 2, "b": 1}


def test_an_emptied_session_stays_the_same_session(site: Site) -> None:
    browser = site.browser()
    browser(put(a=1))
    before = browser(lambda session: session.id).result
    answer = browser(lambda session: session.clear())
    assert answer.cookie is not None
    assert "Max-Age=0" not in answer.cookie
    assert browser(lambda session: (session.id, dict(session))).result == (before, {})


def test_a_write_before_the_first_read_wins_over_what_is_stored(site: Site) -> None:
    browser = site.browser()
    browser(put(a=1, b=1))
    assert browser(lambda session: (session.update(a=2), dict(session))[1]).result == {"a": 2, "b": 1}
    assert browser(read).result == {"a": 2, "b": 1}


# -- what a session says of itself -------------------------------------------------------------------------------------


def test_a_new_session_knows_that_it_is_new(site: Site) -> None:
    def look(session: Session) -> tuple[object, ...]:
        return session.is_new, session.id, session.created_at, session.expires_at, session.store, session.modified

    assert site.browser()(look).result == (True, None, None, None, "", False)


def test_a_stored_session_knows_its_times_and_its_store(site: Site, backend: Backend) -> None:
    browser, began = site.browser(), site.clock()
    browser(put(n=1))

    def look(session: Session) -> tuple[object, ...]:
        return session.is_new, session.created_at, session.expires_at, session.store, session.stale

    served_by = SERVED_BY.get(backend.name, backend.name)
    assert browser(look).result == (False, began, began + 86400, served_by, False)


def test_modified_turns_true_with_the_first_change(site: Site) -> None:
    browser = site.browser()
    browser(put(tags=[]))

    def change(session: Session) -> tuple[bool, bool, bool]:
        accessed, before = session.accessed, session.modified
        session["tags"].append("x")
        return accessed, before, session.modified

    assert browser(change).result == (False, False, True)


# -- login, change of id, logout ---------------------------------------------------------------------------------------


def test_a_login_changes_the_id_and_keeps_the_values(site: Site) -> None:
    browser = site.browser()
    browser(put(cart=[1]))
    before, old = browser(lambda session: session.id).result, browser.twin()
    browser(log_in("7", name="Ada"))
    after, user, values = browser(lambda session: (session.id, session.user_id, dict(session))).result
    assert after != before
    assert (user, values) == ("7", {"cart": [1], "name": "Ada"})
    assert old(lambda session: (session.is_new, dict(session))).result == (True, {})
    assert [event.login for event in site.told(events.IdChanged)] == [True]


def test_a_login_begins_a_new_lifetime(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    site.clock.advance(500)
    browser(log_in("7"))
    assert browser(lambda session: session.created_at).result == site.clock()


def test_a_login_without_an_earlier_session_creates_one(site: Site) -> None:
    browser = site.browser()
    answer = browser(log_in("7"))
    assert answer.cookie is not None
    assert browser(lambda session: session.user_id).result == "7"


def test_user_id_as_a_value_is_no_login(site: Site) -> None:
    browser = site.browser()
    browser(put(user_id="7"))
    assert browser(lambda session: (session.user_id, session["user_id"])).result == (None, "7")
    assert site.run(site.manager.sessions("7")) == []


@pytest.mark.parametrize("user", ["", "x" * 256])
def test_a_user_id_that_no_store_could_hold_is_refused_at_once(site: Site, user: str) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        site.browser()(log_in(user))


def test_a_new_id_keeps_the_beginning_the_user_and_the_deadline(make_site: SiteFactory) -> None:
    site = make_site(idle_timeout=100.0, absolute_timeout=120.0)
    browser, began = site.browser(), site.clock()
    browser(log_in("7", n=1))
    before, old = browser(lambda session: session.id).result, browser.twin()
    site.clock.advance(50)
    browser(lambda session: session.regenerate_id())
    after, user, *times = browser(lambda session: (session.id, session.user_id, *facts(session))).result
    assert after != before
    assert user == "7"
    assert (times[0], times[2]) == (began, began + 120)
    assert browser(read).result == {"n": 1}
    site.clock.advance(11)
    assert old(read).result == {}


def test_a_new_id_for_an_empty_anonymous_session_is_nothing(site: Site) -> None:
    answer = site.browser()(lambda session: session.regenerate_id())
    assert answer.cookie is None
    assert site.store.asked == []


def test_a_logout_ends_the_session_and_removes_the_cookie(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    thief = browser.twin()
    answer = browser(lambda session: (session.logout(), dict(session))[1])
    assert answer.result == {}
    assert answer.cookie is not None
    assert answer.cookie.startswith("vedsess=; ")
    assert browser.jar.cookies == {}
    assert thief(lambda session: (session.is_new, dict(session))).result == (True, {})
    assert site.stored() == 0
    assert [event.reason for event in site.told(events.SessionEnded)] == ["logout"]


def test_a_removal_repeats_every_attribute_of_the_cookie(make_site: SiteFactory) -> None:
    site = make_site(
        cookie_domain="example.com", cookie_path="/app", cookie_secure=True, cookie_samesite="None",
        cookie_partitioned=True,
    )  # fmt: skip
    browser = site.browser()
    answers = [browser(do, "/app", scheme="https") for do in (put(n=1), lambda session: session.logout())]
    set_, removed = (attributes(answer) for answer in answers)
    kept = ["Domain=example.com", "HttpOnly", "Partitioned", "Path=/app", "SameSite=None", "Secure"]
    assert [each for each in set_ if not each.startswith("Max-Age")] == kept
    assert sorted([*kept, "Max-Age=0"]) == removed
    assert "Expires=Thu, 01 Jan 1970 00:00:00 GMT" in (answers[1].cookie or "")
    assert browser.jar.cookies == {}


def test_what_is_written_after_a_logout_begins_a_new_anonymous_session(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", secret=1))
    before, thief = browser(lambda session: session.id).result, browser.twin()

    def leave(session: Session) -> tuple[object, ...]:
        session.logout()
        session["flash"] = "bye"
        return session.user_id, dict(session)

    assert browser(leave).result == (None, {"flash": "bye"})
    after, user, values = browser(lambda session: (session.id, session.user_id, dict(session))).result
    assert after != before
    assert (user, values) == (None, {"flash": "bye"})
    assert thief(read).result == {}


def test_a_logout_and_a_login_in_one_request_change_the_user(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))

    def change(session: Session) -> None:
        session.logout()
        session.login("8")

    browser(change)
    assert browser(lambda session: (session.user_id, dict(session))).result == ("8", {})
    assert site.run(site.manager.sessions("7")) == []


def test_a_request_that_only_logs_out_does_its_work_after_the_response(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7"))
    site.store.calls.clear()
    site.store.busy = True
    browser(lambda session: session.logout())
    assert site.store.calls[-1] == "after_response"


def test_a_logout_without_a_session_does_nothing(site: Site) -> None:
    answer = site.browser()(lambda session: session.logout())
    assert names(answer) == ["content-type"]
    assert site.store.asked == []


# -- cookies that are none ---------------------------------------------------------------------------------------------

SPOILED: dict[str, Callable[[str], str]] = {
    "forged signature": lambda value: f"{value.rpartition('.')[0]}.{'A' * 43}",
    "changed id": lambda value: ("B" if value[0] != "B" else "C") + value[1:],
    "changed version": lambda value: value.replace(".0.1.", ".0.2.", 1).replace(".1.0.", ".2.0.", 1),
    "truncated": lambda value: value[:-10],
    "without a signature": lambda value: value.rpartition(".")[0],
    "bare id": lambda value: value.partition(".")[0],
    "oversized": lambda value: value + "A" * 4000,
    "not ASCII": lambda value: value + "\u00e9\u00ff",
    "empty": lambda value: "",
    "quoted": lambda value: f'"{value}"',
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_cookie_that_is_not_ours_means_a_fresh_session_without_a_lookup(
    site: Site, spoil: Callable[[str], str]
) -> None:
    browser = site.browser()
    browser(put(secret=1))
    value = browser.jar.value() or ""
    session_id = browser(lambda session: session.id).result
    site.store.calls.clear()
    answer = browser(lambda session: (session.is_new, dict(session)), cookies=f"vedsess={spoil(value)}")
    assert answer.result == (True, {})
    assert answer.cookie is None
    assert site.store.asked == []
    assert len(site.told(events.CookieRejected)) == 1
    browser(lambda session: (session.get("n"), session.update(n=1)), cookies=f"vedsess={spoil(value)}")
    assert browser(lambda session: (session.id != session_id, dict(session))).result == (True, {"n": 1})


def test_a_cookie_that_is_not_ours_is_judged_when_the_session_is_touched_or_loaded(site: Site) -> None:
    site.browser()(cookies="vedsess=forged")
    assert len(site.told(events.CookieRejected)) == (0 if site.protocol == "wsgi" else 1)
    site.events.clear()
    site.browser()(lambda session: (len(session), dict(session)), cookies="vedsess=forged")
    assert len(site.told(events.CookieRejected)) == 1


def test_a_value_that_cannot_be_read_ends_the_session_of_whoever_asks_for_it(make_site: SiteFactory) -> None:
    site = make_site(codec=JsonCodec(enums=[Colour]))
    strange, browser = site.sibling(), site.browser()
    browser(lambda session: (session.login("ada"), session.update(n=1, colour=Colour.RED)))
    visitor = strange.browser()
    visitor.jar = browser.jar.copy()
    assert visitor(lambda session: (session["n"], session.user_id)).result == (1, "ada")
    assert strange.told(events.RecordRejected) == []
    answer = visitor(lambda session: (session.get("colour"), dict(session), session.is_new, session.user_id))
    assert (answer.status, answer.result, answer.cookie) == (200, (None, {}, True, None), None)
    assert len(strange.told(events.RecordRejected)) == 1
    assert visitor(lambda session: (dict(session), session.update(m=2))).cookie is not None
    assert visitor(read).result == {"m": 2}
    assert browser(lambda session: (session.user_id, dict(session))).result == ("ada", {"n": 1, "colour": Colour.RED})


@pytest.mark.parametrize("work", [read, put(n=1), add("n", 1)], ids=["read", "write", "both"])
def test_a_genuine_cookie_of_an_unknown_session_is_looked_up_once_and_never_adopted(site: Site, work: Handler) -> None:
    browser, cookie = site.browser(), site.unknown_cookie()
    browser(work, cookies=cookie)
    assert site.store.calls.count("load") == 1
    assert len(site.told(events.UnknownSession)) == 1
    unknown_id = cookie.partition("=")[2].partition(".")[0]
    assert browser(lambda session: session.id).result != unknown_id
    assert site.browser()(read, cookies=cookie).result == {}


def test_the_first_of_several_cookies_that_is_alive_wins(site: Site) -> None:
    first, second = site.browser(), site.browser()
    first(put(who=1))
    second(put(who=2))
    dead, forged = site.unknown_cookie(), "vedsess=forged"
    alive = [f"vedsess={browser.jar.value()}" for browser in (first, second)]
    cookies = "; ".join([forged, dead, *alive])
    assert site.browser()(read, cookies=cookies).result == {"who": 1}
    assert site.browser()(read, cookies="; ".join([alive[1], alive[0]])).result == {"who": 2}


def test_a_write_without_a_read_goes_to_the_cookie_that_is_alive(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    cookies = f"{site.unknown_cookie()}; vedsess={browser.jar.value()}"
    site.browser()(put(m=2), cookies=cookies)
    assert browser(read).result == {"n": 1, "m": 2}
    assert site.stored() == 1


def test_at_most_three_cookies_are_tried(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    alive = f"vedsess={browser.jar.value()}"
    dead = [site.unknown_cookie() for _ in range(3)]
    assert site.browser()(read, cookies="; ".join([*dead[:2], alive])).result == {"n": 1}
    site.store.calls.clear()
    assert site.browser()(read, cookies="; ".join([*dead, alive])).result == {}
    assert site.store.calls.count("load") == 3


def test_the_same_cookie_twice_is_tried_once(site: Site) -> None:
    dead = site.unknown_cookie()
    site.browser()(read, cookies="; ".join([dead] * 3))
    assert site.store.calls.count("load") == 1


def test_a_cookie_whose_name_only_ends_like_ours_is_not_ours(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    answer = site.browser()(read, cookies=f"xvedsess={browser.jar.value()}; vedsess2=1; =vedsess")
    assert answer.result == {}
    assert site.told(events.CookieRejected) == []


def test_two_audiences_refuse_each_others_cookies(make_site: SiteFactory) -> None:
    site = make_site(audience="shop")
    other = site.sibling(audience="admin")
    browser, visitor = site.browser(), other.browser()
    browser(put(n=1))
    visitor.jar = browser.jar.copy()
    assert visitor(read).result == {}
    assert other.store.asked == []
    assert len(other.told(events.CookieRejected)) == 1


def test_a_new_key_signs_and_an_old_one_still_verifies(make_site: SiteFactory) -> None:
    old = make_site()
    rotated, new = old.sibling(secret_key=[OTHER_KEY, SECRET_KEY]), old.sibling(secret_key=OTHER_KEY)
    browser = old.browser()
    browser(put(n=1))
    visitor = rotated.browser()
    visitor.jar = browser.jar.copy()
    assert visitor().cookie is None
    first, second = visitor(read), visitor(read)
    assert first.result == {"n": 1}
    assert first.cookie is not None
    assert second.cookie is None
    assert new.browser()(read, cookies=f"vedsess={visitor.jar.value()}").result == {"n": 1}
    assert new.browser()(read, cookies=f"vedsess={browser.jar.value()}").result == {}


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def brief(make_site: SiteFactory) -> Site:
    """A site whose sessions end after 100 s without use, and after 300 s in any case."""
    return make_site(idle_timeout=100.0, absolute_timeout=300.0)


def test_a_session_ends_when_it_is_not_used(brief: Site) -> None:
    browser = brief.browser()
    browser(put(n=1))
    brief.clock.advance(99)
    assert browser.twin()(read).result == {"n": 1}
    brief.clock.advance(101)
    assert browser(lambda session: (session.is_new, dict(session))).result == (True, {})
    assert len(brief.told(events.UnknownSession)) == 1


@pytest.mark.parametrize("use", [read, put(m=1), add("m", 1)], ids=["read", "write", "both"])
def test_every_kind_of_use_puts_the_end_off(brief: Site, use: Handler) -> None:
    browser = brief.browser()
    browser(put(n=1))
    for _ in range(2):
        brief.clock.advance(90)
        browser(use)
    assert browser(read).result["n"] == 1


def test_no_use_puts_the_deadline_off(brief: Site) -> None:
    browser, began = brief.browser(), brief.clock()
    browser(put(n=[]))
    for n in (1, 2, 3, 4, 5):
        brief.clock.advance(58)
        browser(add("n", n))
    assert browser(lambda session: session.expires_at).result == began + 300
    brief.clock.advance(11)
    assert browser(read).result == {}


@pytest.mark.parametrize("after", [101, 301], ids=["idle", "absolute"])
def test_a_write_without_a_read_cannot_bring_an_ended_session_back(brief: Site, after: float) -> None:
    browser = brief.browser()
    browser(log_in("7", n=1))
    cookies = f"vedsess={browser.jar.value()}"
    brief.clock.advance(after)
    visitor = brief.browser()
    visitor(put(m=1), cookies=cookies)
    assert brief.browser()(read, cookies=cookies).result == {}
    assert visitor(lambda session: (session.user_id, dict(session))).result == (None, {"m": 1})


def test_a_use_is_recorded_once_in_a_tenth_of_the_idle_timeout(brief: Site) -> None:
    browser, began = brief.browser(), brief.clock()
    browser(put(n=1))
    seen = []
    for _ in range(7):
        brief.clock.advance(4)
        seen.append(browser(lambda session: session.last_activity).result - began)
    assert seen == [0, 0, 12, 12, 12, 24, 24]


def test_a_cookie_is_renewed_after_half_of_the_idle_timeout(brief: Site) -> None:
    browser = brief.browser()
    browser(put(n=1))
    brief.clock.advance(50)
    assert browser(read).cookie is None
    brief.clock.advance(1)
    renewed = browser(read)
    assert renewed.cookie is not None
    assert "Max-Age=100" in renewed.cookie
    assert browser(read).cookie is None
    brief.clock.advance(60)
    assert browser().cookie is None


# -- several requests at once ------------------------------------------------------------------------------------------


def test_every_write_is_answered_with_a_cookie_that_knows_it(site: Site) -> None:
    browser = site.browser()
    values = set()
    for n in range(3):
        assert browser(put(n=n)).cookie is not None
        values.add(browser.jar.value())
    assert len(values) == 3


def test_a_read_that_saw_a_newer_version_sets_the_cookie_too(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    twin = browser.twin()
    twin(put(n=2))
    first, second = browser(read), browser(read)
    assert first.result == {"n": 2}
    assert first.cookie is not None
    assert second.cookie is None
    assert browser.jar.value() == twin.jar.value()


@pytest.mark.parametrize("reads", [True, False], ids=["after a read", "unread"])
def test_writes_of_overlapping_requests_are_both_kept(site: Site, reads: bool) -> None:
    browser = site.browser()
    browser(put(n=0))
    twin = browser.twin()

    def slow(session: Session) -> None:
        if reads:
            assert session["n"] == 0
        twin(add("theirs", 1))
        session["mine"] = 1

    browser(slow)
    assert browser(read).result == {"n": 0, "mine": 1, "theirs": [1]}
    assert twin(read).result == {"n": 0, "mine": 1, "theirs": [1]}


@pytest.mark.parametrize("reads", [True, False], ids=["after a read", "unread"])
def test_a_write_that_comes_after_a_logout_is_refused(site: Site, reads: bool) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    twin = browser.twin()

    def slow(session: Session) -> None:
        if reads:
            assert session["n"] == 1
        twin(lambda session: session.logout())
        session["late"] = 1

    answer = browser(slow)
    assert answer.status == 200
    assert answer.cookie is None
    assert len(site.told(events.WriteRefused)) == 1
    assert site.stored() == 0
    assert browser(read).result == {}


def test_a_change_of_id_that_comes_after_a_logout_is_refused(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    twin = browser.twin()

    def slow(session: Session) -> None:
        assert session["n"] == 1
        twin(lambda session: session.logout())
        session.regenerate_id()

    assert browser(slow).cookie is None
    assert len(site.told(events.WriteRefused)) == 1
    assert site.stored() == 0


def test_a_login_goes_through_even_if_the_session_was_ended_meanwhile(site: Site) -> None:
    browser = site.browser()
    browser(put(cart=[1]))
    twin = browser.twin()

    def slow(session: Session) -> None:
        assert session["cart"] == [1]
        twin(log_in("7"))
        session.login("8")

    browser(slow)
    assert browser(lambda session: session.user_id).result == "8"
    assert twin(lambda session: session.user_id).result == "7"


# -- errors of the app -------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What a bug in an app raises."""


def then_raise(work: Handler) -> Handler:
    def handler(session: Session) -> None:
        work(session)
        raise Broken

    return handler


def test_an_exception_drops_the_changes(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    with pytest.raises(Broken):
        browser(then_raise(put(n=2)))
    assert browser(read).result == {"n": 1}


def test_an_exception_does_not_undo_a_logout(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    with pytest.raises(Broken):
        browser(then_raise(lambda session: (session.logout(), session.update(flash=1))))
    assert browser(read).result == {}
    assert site.stored() == 0


@pytest.mark.parametrize("status", [500, 502, 599])
def test_an_answer_of_5xx_drops_the_changes(site: Site, status: int) -> None:
    browser = site.browser()
    browser(put(n=1))
    answer = browser(put(n=2), status=status)
    assert (answer.status, answer.cookie) == (status, None)
    assert browser(read).result == {"n": 1}
    assert site.browser()(log_in("7"), status=status).cookie is None
    assert site.run(site.manager.sessions("7")) == []


def test_an_answer_of_5xx_does_not_undo_a_logout(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    answer = browser(lambda session: (session.logout(), session.update(flash=1)), status=500)
    assert answer.status == 500
    assert browser.jar.cookies == {}
    assert site.stored() == 0


@pytest.mark.parametrize("status", [200, 204, 302, 304, 404, 422])
def test_every_other_answer_saves_the_changes(site: Site, status: int) -> None:
    browser = site.browser()
    answer = browser(put(n=1), status=status)
    assert answer.cookie is not None
    assert browser(read).result == {"n": 1}


# -- streams -----------------------------------------------------------------------------------------------------------


def test_what_a_stream_writes_after_its_first_chunk_is_saved_at_its_end(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    answer = browser(put(n=2), later=add("late", 1))
    assert answer.body == b"first hello\n"
    assert browser(read).result == {"n": 2, "late": [1]}


def test_a_stream_that_first_looks_at_its_session_late_finds_it(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    seen = []
    browser(later=lambda session: seen.append(dict(session)))
    assert seen == [{"n": 1}]


def test_a_session_cannot_begin_after_the_first_chunk(site: Site) -> None:
    browser = site.browser()
    for late in (put(n=1), log_in("7")):
        assert browser(later=late).cookie is None
    assert site.stored() == 0
    assert ["headers had left" in event.reason for event in site.told(events.WriteRefused)] == [True, True]


@pytest.mark.parametrize("change", [log_in("7", n=2), lambda session: (session.regenerate_id(), session.update(n=2))])
def test_an_id_cannot_change_after_the_first_chunk_but_the_values_are_saved(site: Site, change: Handler) -> None:
    browser = site.browser()
    browser(put(n=1))
    before = browser(lambda session: session.id).result
    assert browser(later=change).cookie is None
    look = browser(lambda session: (session.id, session.user_id, dict(session)))
    assert look.result == (before, None, {"n": 2})
    assert len(site.told(events.WriteRefused)) == 1


def test_a_logout_after_the_first_chunk_ends_the_session(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    browser(later=lambda session: session.logout())
    assert browser(read).result == {}
    assert site.stored() == 0


def test_a_stream_that_breaks_off_drops_what_it_had_not_saved(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    with pytest.raises(Broken):
        browser(put(n=2), later=then_raise(put(n=3)))
    assert browser(read).result == {"n": 2}


def test_a_stream_that_breaks_off_does_not_undo_a_logout(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    with pytest.raises(Broken):
        browser(later=then_raise(lambda session: session.logout()))
    assert browser(read).result == {}


def test_an_error_page_that_is_streamed_saves_nothing_but_a_logout(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    browser(put(n=2), status=500, later=put(n=3))
    assert browser(read).result == {"n": 1}
    browser(status=500, later=lambda session: (session.logout(), session.update(n=4)))
    assert browser(read).result == {}
    assert site.stored() == 0


def test_a_stream_whose_late_write_no_store_takes_breaks_off(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))

    def late(session: Session) -> None:
        session["n"] = 2
        site.store.down = True

    with pytest.raises(StoreUnavailable):
        browser(later=late)
    site.store.down = False
    assert browser(read).result == {"n": 1}


# -- who gets a session, and which cookie ------------------------------------------------------------------------------


def test_a_request_that_may_not_create_gets_no_new_session(make_site: SiteFactory) -> None:
    site = make_site(may_create=lambda info: "bot" not in (info.user_agent or ""))
    browser, bot = site.browser(), [("User-Agent", "a bot")]
    answer = browser(lambda session: (session.update(n=1), dict(session))[1], headers=bot)
    assert (answer.status, answer.cookie, answer.result) == (200, None, {"n": 1})
    assert site.stored() == 0
    assert len(site.told(events.WriteRefused)) == 1
    browser(put(n=1))
    browser(put(n=2), headers=bot)
    assert browser(read, headers=bot).result == {"n": 2}


def test_may_create_does_not_stand_in_the_way_of_a_login(make_site: SiteFactory) -> None:
    site = make_site(may_create=lambda info: False)
    browser = site.browser()
    browser(log_in("7"))
    assert browser(lambda session: session.user_id).result == "7"


def test_may_create_is_told_of_the_request(make_site: SiteFactory) -> None:
    seen: list[RequestInfo] = []

    def may_create(info: RequestInfo) -> bool:
        seen.append(info)
        return True

    site = make_site(may_create=may_create)
    site.browser()(put(n=1), "/shop/\u00e9", method="POST", scheme="https", headers=[("User-Agent", "x")])
    assert [(info.method, info.secure, info.user_agent, info.ip_address) for info in seen] == [
        ("POST", True, "x", "192.0.2.7")
    ]


def test_an_excluded_path_gets_no_session(make_site: SiteFactory) -> None:
    site = make_site(exclude=["/static", "/health"])
    browser = site.browser()
    browser(put(n=1))
    site.store.calls.clear()
    for path in ("/static", "/static/x/y.css", "/health"):
        assert browser(lambda session: session, path).result is None
    assert site.store.asked == []
    assert browser(read, "/statics").result == {"n": 1}


@pytest.mark.parametrize(
    ("scheme", "forwarded", "proxies", "secure"),
    [
        ("http", None, 0, False),
        ("https", None, 0, True),
        ("http", "https", 0, False),
        ("http", "https", 1, True),
        ("https", "http", 1, False),
        ("http", "https, http", 1, False),
        ("http", "https, http", 2, True),
        ("http", "https", 2, False),
    ],
)
def test_the_cookie_is_secure_when_the_browser_came_by_https(
    make_site: SiteFactory, scheme: str, forwarded: str | None, proxies: int, secure: bool
) -> None:
    site = make_site(trusted_proxies=proxies)
    headers = [("X-Forwarded-Proto", forwarded)] if forwarded else []
    answer = site.browser()(put(n=1), scheme=scheme, headers=headers)
    assert answer.cookie is not None
    assert ("Secure" in answer.cookie.split("; ")) is secure


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_setting_decides_over_secure(make_site: SiteFactory, scheme: str) -> None:
    always = make_site(cookie_secure=True).browser()(put(n=1), scheme=scheme)
    never = make_site(cookie_secure=False).browser()(put(n=1), scheme=scheme)
    assert "Secure" in (always.cookie or "").split("; ")
    assert "Secure" not in (never.cookie or "").split("; ")


def test_a_host_cookie_meets_the_rules_of_browsers(make_site: SiteFactory) -> None:
    site = make_site(cookie_name="__Host-vedsess", cookie_secure=True, cookie_samesite="Strict")
    browser = site.browser()
    answer = browser(put(n=1), scheme="https")
    assert attributes(answer) == ["HttpOnly", "Max-Age=86400", "Path=/", "SameSite=Strict", "Secure"]
    assert browser(read, scheme="https").result == {"n": 1}
    browser(lambda session: session.logout(), scheme="https")
    assert browser.jar.cookies == {}


def test_a_cookie_path_keeps_the_session_below_it(make_site: SiteFactory) -> None:
    browser = make_site(cookie_path="/app").browser()
    browser(put(n=1), "/app/x")
    assert browser(read, "/app").result == {"n": 1}
    assert browser(read, "/").result == {}


def test_a_head_request_saves_and_sets_the_cookie(site: Site) -> None:
    browser = site.browser()
    answer = browser(put(n=1), method="HEAD")
    assert answer.body == b""
    assert answer.cookie is not None
    assert browser(read, method="HEAD").result == {"n": 1}


def test_a_304_that_looked_at_the_session_varies_by_cookie(site: Site) -> None:
    answer = site.browser()(read, status=304)
    assert (answer.status, answer.body) == (304, b"")
    assert names(answer) == ["vary"]


# -- values ------------------------------------------------------------------------------------------------------------

VALUES = {
    "none": None,
    "switch": True,
    "whole": -(2**70),
    "real": 0.1,
    "endless": float("inf"),
    "text": 'a "\u00e9\u4e16\U0001f600\n\x00',
    "list": [1, [2, {"x": []}]],
    "dict": {"!tuple": [1], "": {}},
    "odd dict": {1: "a", (2, 3): b"b"},
    "instant": datetime(2026, 11, 23, 21, 0, 0, 123456, tzinfo=UTC),
    "naive": datetime(2026, 11, 23, 21),
    "zoned": datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Zurich")),
    "day": date(2026, 11, 23),
    "hour": time(12, 30),
    "span": timedelta(days=-1, microseconds=1),
    "uuid": UUID(int=7),
    "money": Decimal("9.90"),
    "bytes": b"\x00\xff",
    "tuple": (1, (2,)),
    "set": {1, 2},
    "frozen": frozenset({"a"}),
    "a name with \u00e9, : and .": 1,
    "long": "x" * 100_000,
}


def test_all_types_of_values_come_back_unchanged(site: Site) -> None:
    browser = site.browser()
    browser(lambda session: session.update(VALUES))
    values = browser(read).result
    assert values == VALUES
    assert {name: type(value) for name, value in values.items()} == {n: type(v) for n, v in VALUES.items()}
    assert site.store.calls.count("update") == 0


class Colour(enum.Enum):
    RED = 1


def test_a_value_that_cannot_be_stored_is_an_error_that_names_field_and_type(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    with pytest.raises(errors.SerializationError, match=r"colour.*Colour"):
        browser(put(n=2, colour=Colour.RED))
    with pytest.raises(errors.SerializationError, match=r"basket\[0\]\.thing.*object"):
        browser(lambda session: session.update(basket=[{"thing": object()}]))
    assert browser(read).result == {"n": 1}


def test_a_value_that_cannot_be_stored_creates_nothing(site: Site) -> None:
    browser = site.browser()
    with pytest.raises(errors.SerializationError):
        browser(put(n=1, bad=object()))
    assert browser.jar.cookies == {}
    assert site.stored() == 0
    with pytest.raises(errors.SerializationError, match="strings"):
        browser(lambda session: session.update({1: 1}))


def test_registered_enums_come_back(make_site: SiteFactory) -> None:
    browser = make_site(codec=JsonCodec(enums=[Colour])).browser()
    browser(put(colour=Colour.RED))
    assert browser(read).result == {"colour": Colour.RED}


# -- all sessions of a user --------------------------------------------------------------------------------------------


def three_logins(site: Site, user: str) -> list[Browser]:
    browsers = [site.browser() for _ in range(3)]
    for number, browser in enumerate(browsers):
        browser(log_in(user), headers=[("User-Agent", f"phone/{number}")])
        site.clock.advance(1)
    return browsers


def test_the_sessions_of_a_user_can_be_listed(site: Site) -> None:
    began = site.clock()
    three_logins(site, "7")
    three_logins(site, "8")
    infos = site.run(site.manager.sessions(7))
    assert [info.user_agent for info in infos] == ["phone 2", "phone 1", "phone 0"]
    assert [info.created_at - began for info in infos] == [2, 1, 0]
    assert {info.ip_address for info in infos} == {"192.0.2.7"}
    assert infos[0].expires_at == infos[0].last_activity + 86400
    assert len({info.handle for info in infos}) == 3


def test_all_sessions_of_a_user_can_be_ended(site: Site) -> None:
    browsers, [other, *_] = three_logins(site, "7"), three_logins(site, "8")
    assert site.run(site.manager.revoke("7")) == 3
    assert [browser(lambda session: session.is_new).result for browser in browsers] == [True] * 3
    assert other(lambda session: session.user_id).result == "8"
    assert site.run(site.manager.sessions("7")) == []
    assert {event.reason for event in site.told(events.SessionEnded)} == {"revoked"}


def test_one_session_can_be_ended_by_its_handle(site: Site) -> None:
    browsers = three_logins(site, "7")
    handle = next(info.handle for info in site.run(site.manager.sessions("7")) if info.user_agent == "phone 1")
    assert site.run(site.manager.revoke("7", handle=handle)) == 1
    assert site.run(site.manager.revoke("7", handle=handle)) == 0
    assert site.run(site.manager.revoke("8", handle=handle)) == 0
    assert [browser(lambda session: session.is_new).result for browser in browsers] == [False, True, False]


@pytest.mark.parametrize("reads", [True, False], ids=["after a read", "unread"])
def test_all_sessions_but_this_one_can_be_ended(site: Site, reads: bool) -> None:
    browsers = three_logins(site, "7")

    def end_others(session: Session) -> int:
        if reads:
            assert session.user_id == "7"
        return site.run(site.manager.revoke("7", keep=session))

    assert browsers[1](end_others).result == 2
    assert [browser(lambda session: session.is_new).result for browser in browsers] == [True, False, True]


def test_a_session_that_was_revoked_meanwhile_takes_no_write(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))

    def slow(session: Session) -> None:
        assert session["n"] == 1
        site.run(site.manager.revoke("7"))
        session["late"] = 1

    assert browser(slow).cookie is None
    assert site.stored() == 0


# -- no store ----------------------------------------------------------------------------------------------------------


def assert_unavailable(answer: Answer) -> None:
    assert answer.status == 503
    assert int(answer.all("retry-after")[0]) > 0
    assert answer.all("cache-control") == ["no-store"]
    assert answer.cookie is None
    assert answer.all("x-of-the-app") == []


def swallow(work: Handler) -> Handler:
    """What a framework does that turns every error into a page of its own."""

    def handler(session: Session) -> str:
        try:
            work(session)
        except StoreUnavailable:
            return "swallowed"
        return "done"

    return handler


NEEDS: dict[str, Handler] = {
    "read": read,
    "write": put(n=2),
    "both": add("m", 1),
    "login": log_in("7"),
    "logout": lambda session: session.logout(),
    "new id": lambda session: session.regenerate_id(),
}


@pytest.mark.parametrize("work", NEEDS.values(), ids=NEEDS.keys())
def test_without_any_store_a_request_that_needs_the_session_is_answered_503(site: Site, work: Handler) -> None:
    browser = site.browser()
    browser(put(n=1))
    before = browser.jar.value()
    site.store.down = True
    assert_unavailable(browser(work))
    assert browser.jar.value() == before
    site.store.down = False
    assert browser(read).result == {"n": 1}


@pytest.mark.parametrize("status", [200, 302])
@pytest.mark.parametrize("work", NEEDS.values(), ids=NEEDS.keys())
def test_the_503_replaces_whatever_the_app_made_of_the_error(site: Site, work: Handler, status: int) -> None:
    browser = site.browser()
    browser(put(n=1))
    site.store.down = True
    assert_unavailable(browser(swallow(work), status=status, reply_headers=[("X-Of-The-App", "1")]))


@pytest.mark.parametrize("name", ["read", "both", "login", "new id"])
def test_the_503_replaces_an_error_page_too(site: Site, name: str) -> None:
    browser = site.browser()
    browser(put(n=1))
    site.store.down = True
    assert_unavailable(browser(swallow(NEEDS[name]), status=500, reply_headers=[("X-Of-The-App", "1")]))


def test_without_any_store_everyone_else_is_served(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    site.store.down = True
    assert browser().status == 200
    assert site.browser()(read).status == 200
    assert site.browser()(read, cookies="vedsess=forged").status == 200
    assert_unavailable(site.browser()(put(n=1)))


def test_a_503_to_head_has_no_body(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    site.store.down = True
    answer = browser(read, method="HEAD")
    assert (answer.status, answer.body) == (503, b"")


def test_two_stores_that_are_really_away_mean_a_503_in_a_bounded_time(
    protocol: ServerProtocol, runner: asyncio.Runner
) -> None:
    is_async = protocol == "asgi"
    redis = RedisStore.from_url(f"redis://127.0.0.1:{free_port()}/0", is_async=is_async, on_event=lambda event: None)
    sql = SQLStore.from_url(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres", is_async=is_async)
    site = Site(protocol, FailoverStore(redis, sql, on_event=lambda event: None), runner)
    for work in (read, put(n=1), lambda session: session.logout()):
        assert_unavailable(site.browser()(work, cookies=site.unknown_cookie()))
    assert site.browser()(read).status == 200
    site.run(site.manager.aclose())
