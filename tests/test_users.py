"""The sessions of a user: seen, ended, limited; and who counts as logged in."""

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import pytest

from tests.clients import Browser, Handler, Site, at_once
from tests.sites import SiteFactory, in_memory, log_in, put, read
from vedsess_middleware import LogoutRefused, Session, SessionInfo, SessionLimitReached, events, run_blocking
from vedsess_middleware.session import state_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def new_id(session: Session) -> None:
    session.regenerate_id()


def log_out(session: Session) -> None:
    session.logout()


def who(session: Session) -> str | None:
    return session.user_id


def look(session: Session) -> tuple[str | None, dict[str, Any]]:
    return session.user_id, dict(session)


def listed(site: Site, user: str) -> list[SessionInfo]:
    return site.run(site.manager.sessions(user))


def logged_in(site: Site, user: str, number: int = 1) -> list[Browser]:
    """Browsers that this user has logged in with, one after the other."""
    browsers = [site.browser() for _ in range(number)]
    for browser in browsers:
        site.clock.advance(1)
        browser(log_in(user))
    return browsers


# -- the list ----------------------------------------------------------------------------------------------------------


def test_a_user_sees_his_sessions_and_which_of_them_is_this_one(site: Site) -> None:
    began, browsers = site.clock(), [site.browser() for _ in range(2)]
    for browser in browsers:
        browser(put(n=1), headers=[("User-Agent", FIREFOX)])
        browser(log_in("7"), headers=[("User-Agent", FIREFOX)])
        site.clock.advance(1)
    logged_in(site, "8")

    def mine(session: Session) -> list[SessionInfo]:
        return site.run(site.manager.sessions("7", current=session))

    infos: list[SessionInfo] = browsers[0](mine).result
    assert [(info.created_at - began, info.is_current) for info in infos] == [(1, False), (0, True)]
    assert {info.user_agent for info in infos} == {"Firefox 140 on Linux"}
    assert [info.authenticated_at for info in infos] == [info.created_at for info in infos]


def test_a_handle_names_a_session_through_all_its_ids_and_tells_nothing_of_them(make_site: SiteFactory) -> None:
    site = make_site(renewal_timeout=900)
    [browser] = logged_in(site, "7")
    before = listed(site, "7")
    ids = [browser(lambda session: (session.id, state_of(session).ticket.key)).result]  # type: ignore[union-attr]
    browser(new_id)
    site.clock.advance(900)
    browser(read)
    ids.append(browser(lambda session: (session.id, state_of(session).ticket.key)).result)  # type: ignore[union-attr]
    after = listed(site, "7")
    assert [info.handle for info in before] == [info.handle for info in after]
    for secret in (part for pair in ids for part in pair):
        assert secret not in repr(before + after)
        assert not any(info.handle in secret for info in before)


@in_memory
def test_a_login_makes_a_session_that_has_another_handle(site: Site) -> None:
    [browser] = logged_in(site, "7")
    [before] = listed(site, "7")
    browser(log_in("7"))
    [after] = listed(site, "7")
    assert before.handle != after.handle


@in_memory
def test_a_session_is_marked_as_this_one_under_its_old_id_too(site: Site) -> None:
    [browser] = logged_in(site, "7")
    old = browser.twin()
    browser(new_id)

    def mine(session: Session) -> list[bool]:
        assert session.user_id == "7"
        return [info.is_current for info in site.run(site.manager.sessions("7", current=session))]

    assert old(mine).result == [True]
    assert browser(mine).result == [True]
    assert site.browser()(lambda session: len(site.run(site.manager.sessions("7", current=session)))).result == 1


@in_memory
def test_nobody_sees_a_session_that_is_over_or_anonymous(make_site: SiteFactory) -> None:
    site = make_site(idle_timeout=100, absolute_timeout=150)
    site.browser()(put(n=1))
    [browser] = logged_in(site, "7")
    site.clock.advance(99)
    browser(read)
    assert len(listed(site, "7")) == 1
    site.clock.advance(51)
    assert listed(site, "7") == []


# -- ended from outside ------------------------------------------------------------------------------------------------


def test_a_session_is_ended_by_its_handle_whatever_its_id_is_by_now(site: Site) -> None:
    browsers = logged_in(site, "7", 2)
    handle = listed(site, "7")[-1].handle
    old = browsers[0].twin()
    browsers[0](new_id)
    assert site.run(site.manager.revoke("7", handle=handle)) == 1
    assert [browser(who).result for browser in (*browsers, old)] == [None, "7", None]


WAYS: dict[str, Callable[[Site, str], Coroutine[Any, Any, int]]] = {
    "by its handle": lambda site, handle: site.manager.revoke("7", handle=handle),
    "by its provider": lambda site, handle: said(site, sid="s1"),
}


@in_memory
@pytest.mark.parametrize("end", WAYS.values(), ids=WAYS.keys())
def test_a_session_is_ended_although_its_id_is_changed_at_that_moment(
    site: Site, end: Callable[[Site, str], Coroutine[Any, Any, int]]
) -> None:
    browser, store = site.browser(), site.store.store
    browser(from_provider("7", "s1"))
    [info] = listed(site, "7")
    sees = store.records_of

    def sees_too_early(*args: Any, **options: Any) -> Any:
        found = sees(*args, **options)
        store.records_of = sees  # type: ignore[method-assign]
        session = run_blocking(site.manager.open(f"vedsess={browser.jar.value()}"))
        session.regenerate_id()
        browser.jar.take(run_blocking(site.manager.commit(session)) or "", scheme="http")
        return found

    store.records_of = sees_too_early  # type: ignore[method-assign]
    site.run(end(site, info.handle))
    assert browser(who).result is None
    assert site.stored() == 0


@in_memory
@pytest.mark.parametrize("handle", ["", "0" * 16, "'; DROP TABLE sessions", "\u00e9"])
def test_a_handle_that_names_nothing_ends_nothing(site: Site, handle: str) -> None:
    [browser] = logged_in(site, "7")
    assert site.run(site.manager.revoke("7", handle=handle)) == 0
    assert browser(who).result == "7"


@pytest.mark.parametrize("reads", [True, False], ids=["after a read", "unread"])
def test_all_but_this_one_are_ended_under_its_old_id_too(site: Site, reads: bool) -> None:
    browser, other = logged_in(site, "7", 2)
    old = browser.twin()
    browser(new_id)

    def end_others(session: Session) -> int:
        if reads:
            assert session.user_id == "7"
        return site.run(site.manager.revoke("7", keep=session))

    assert old(end_others).result == 1
    assert [each(who).result for each in (browser, other)] == ["7", None]


def test_a_user_who_is_cut_off_is_out_everywhere_and_may_log_in_again(site: Site) -> None:
    browsers, [bystander] = logged_in(site, "7", 3), logged_in(site, "8")
    site.clock.advance(1)
    assert site.run(site.manager.cut_off("7")) == 3
    assert [browser(who).result for browser in browsers] == [None] * 3
    assert bystander(who).result == "8"
    assert listed(site, "7") == []
    assert [(event.user_id, event.ended) for event in site.told(events.UserCutOff)] == [("7", 3)]
    assert [(event.reason, event.user_id) for event in site.told(events.SessionEnded)] == [("cut off", "7")] * 3
    site.clock.advance(1)
    browsers[0](log_in("7"))
    site.clock.advance(5)
    assert browsers[0](who).result == "7"


def test_a_request_of_a_user_who_is_cut_off_meanwhile_writes_nothing(site: Site) -> None:
    [browser] = logged_in(site, "7")

    def slow(session: Session) -> None:
        assert session.user_id == "7"
        site.run(site.manager.cut_off("7"))
        session["late"] = 1

    assert browser(slow).cookie is None
    assert browser(look).result == (None, {})
    assert site.stored() == 0


def test_whoever_changes_his_password_is_out_everywhere_but_here(site: Site) -> None:
    """What a form for a new password does: cut everybody off, and log in anew, in the same millisecond."""
    thief, browser = logged_in(site, "7", 2)
    site.clock.advance(1)

    def change_password(session: Session) -> None:
        assert session.user_id == "7"
        site.run(site.manager.cut_off("7"))
        session.login("7")

    assert browser(change_password).cookie is not None
    site.clock.advance(10)
    assert [each(who).result for each in (thief, browser)] == [None, "7"]


@in_memory
def test_what_is_kept_of_a_user_can_be_exported_and_erased(site: Site) -> None:
    [browser] = logged_in(site, "7")
    browser(put(name="Ada"))
    logged_in(site, "8")
    [info] = listed(site, "7")
    assert site.run(site.manager.export("7")) == [{**asdict(info), "values": {"name": "Ada"}}]
    assert site.run(site.manager.erase("7")) == 1
    assert site.run(site.manager.export("7")) == []
    assert b"Ada" not in repr(site.store.store._records).encode()  # type: ignore[attr-defined]


# -- ended by an identity provider -------------------------------------------------------------------------------------

ISSUER = "https://id.example"
OTHER_ISSUER = "https://other.example"
_LOGOUT = {"http://schemas.openid.net/event/backchannel-logout": dict[str, object]()}


def said(site: Site, **claims: object) -> Coroutine[Any, Any, int]:
    """What a logout token of the provider does; the claims are on top of what every token has."""
    now = site.clock()
    token = {"iss": ISSUER, "aud": "shop", "iat": now, "exp": now + 60, "jti": "1", "events": _LOGOUT, **claims}
    return site.manager.end_by_provider(token, issuer=ISSUER, audience="shop")


def from_provider(user: str, sid: str, issuer: str = ISSUER) -> Handler:
    def handler(session: Session) -> None:
        session.login(user, oidc=(issuer, sid))

    return handler


def test_a_provider_ends_the_session_that_it_names(site: Site) -> None:
    browsers = [site.browser() for _ in range(4)]
    logins = [("7", "s1", ISSUER), ("7", "s2", ISSUER), ("8", "s1", OTHER_ISSUER), ("7", "s1", OTHER_ISSUER)]
    for browser, (user, sid, issuer) in zip(browsers, logins, strict=True):
        browser(from_provider(user, sid, issuer))
    assert site.run(said(site, sub="7", sid="s1")) == 1
    assert [browser(who).result for browser in browsers] == [None, "7", "8", "7"]
    assert site.run(said(site, sid="s1")) == 0


def test_a_provider_ends_all_sessions_of_a_user_whom_it_names(site: Site) -> None:
    [plain], [other] = logged_in(site, "7"), logged_in(site, "8")
    browser = site.browser()
    browser(from_provider("7", "s1"))
    assert site.run(said(site, sub="7")) == 2
    assert [each(who).result for each in (browser, plain, other)] == [None, None, "8"]


def test_a_provider_finds_its_session_after_a_change_of_id(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    browser(from_provider("7", "s1"))
    browser(new_id)
    assert site.run(said(site, sid="s1")) == 1
    assert browser(who).result is None


@in_memory
def test_a_login_without_a_provider_is_none_of_its_business(site: Site) -> None:
    browser = site.browser()
    browser(from_provider("7", "s1"))
    browser(log_in("7"))
    assert site.run(said(site, sid="s1")) == 0
    assert browser(who).result == "7"


@in_memory
@pytest.mark.parametrize(
    "wrong", [{"iss": OTHER_ISSUER}, {"aud": "bank"}, {"iat": 0}, {"exp": 1}, {"events": {}}, {"nonce": "x"}]
)
def test_a_token_that_is_none_ends_nothing_and_is_told(site: Site, wrong: dict[str, object]) -> None:
    browser = site.browser()
    browser(from_provider("7", "s1"))
    with pytest.raises(LogoutRefused) as refused:
        site.run(said(site, sub="7", sid="s1", **wrong))
    assert browser(who).result == "7"
    assert [event.reason for event in site.told(events.LogoutTokenRefused)] == [str(refused.value)]


# -- a framework that keeps its user in a field ------------------------------------------------------------------------


@pytest.fixture
def framework(make_site: SiteFactory) -> Site:
    """A site whose framework keeps the user under `_user_id`."""
    return make_site(user_id_field="_user_id")


def set_user(user: object, **values: object) -> Handler:
    return put(_user_id=user, **values)


def changes(site: Site) -> list[tuple[str, str | None]]:
    return [(event.reason, event.user_id) for event in site.told(events.IdChanged)]


def test_setting_the_field_is_a_login(framework: Site) -> None:
    browser = framework.browser()
    browser(put(cart=[1]))
    planted = browser.twin()
    assert browser(set_user("7")).cookie is not None
    assert browser(look).result == ("7", {"cart": [1], "_user_id": "7"})
    assert planted(look).result == (None, {})
    assert changes(framework) == [("login", "7")]
    assert len(listed(framework, "7")) == 1
    assert framework.run(framework.manager.revoke("7")) == 1
    assert browser(look).result == (None, {})


def test_setting_the_field_logs_in_without_an_earlier_session(framework: Site) -> None:
    browser = framework.browser()
    browser(set_user(7))
    assert browser(look).result == ("7", {"_user_id": 7})
    assert [event.user_id for event in framework.told(events.SessionCreated)] == ["7"]


SAME: dict[str, Handler] = {
    "the same": set_user("7"),
    "the same as a number": set_user(7),
    "another field": put(n=2),
    "the same after a look": lambda session: session.__setitem__("_user_id", str(session["_user_id"])),
    "removed and set again": lambda session: session.__setitem__("_user_id", session.pop("_user_id")),
    "an explicit id of the same user": put(user_id="9"),
}


@in_memory
@pytest.mark.parametrize("work", SAME.values(), ids=SAME.keys())
def test_the_same_user_in_the_field_changes_nothing(framework: Site, work: Handler) -> None:
    browser = framework.browser()
    browser(set_user("7", n=1))
    before = browser(lambda session: session.id).result
    browser(work)
    assert browser(lambda session: (session.id, session.user_id)).result == (before, "7")
    assert changes(framework) == []


def test_another_user_in_the_field_is_a_new_login(framework: Site) -> None:
    browser = framework.browser()
    browser(set_user("7"))
    old = browser.twin()
    browser(set_user("8"))
    assert [each(who).result for each in (browser, old)] == ["8", None]
    assert (len(listed(framework, "7")), len(listed(framework, "8"))) == (0, 1)
    assert changes(framework) == [("login", "8")]


REMOVED: dict[str, Handler] = {
    "popped": lambda session: session.pop("_user_id"),
    "deleted": lambda session: session.__delitem__("_user_id"),
    "set to None": set_user(None),
}


@pytest.mark.parametrize("remove", REMOVED.values(), ids=REMOVED.keys())
def test_removing_the_field_ends_the_login_and_leaves_the_rest(framework: Site, remove: Handler) -> None:
    browser = framework.browser()
    browser(set_user("7", theme="dark"))
    old = browser.twin()
    answer = browser(remove)
    assert answer.cookie is not None
    assert "Max-Age=0" not in answer.cookie
    user, values = browser(look).result
    assert (user, values.get("_user_id"), values["theme"]) == (None, None, "dark")
    assert old(look).result == (None, {})
    assert listed(framework, "7") == []
    assert changes(framework) == [("logout", "7")]


@in_memory
def test_an_app_that_empties_its_session_has_logged_its_user_out(framework: Site) -> None:
    browser = framework.browser()
    browser(set_user("7", n=1))
    browser(lambda session: session.clear())
    assert browser(look).result == (None, {})
    assert listed(framework, "7") == []


@in_memory
def test_removing_a_field_that_was_never_anybodys_changes_no_id(framework: Site) -> None:
    browser = framework.browser()
    browser(put(n=1))
    before = browser(lambda session: session.id).result
    browser(set_user(None))
    browser(lambda session: session.pop("_user_id"))
    assert browser(lambda session: session.id).result == before


EXPLICIT: dict[str, tuple[Handler, str | None]] = {
    "a login, and the field": (lambda session: (session.login("7"), session.update(_user_id="7")), "7"),
    "the field, and a login": (lambda session: (session.update(_user_id="7"), session.login("7")), "7"),
    "a login of somebody else": (lambda session: (session.update(_user_id="8"), session.login("7")), "7"),
    "a new id, and the field": (lambda session: (session.regenerate_id(), session.update(_user_id="7")), "7"),
    "a logout, and the field": (lambda session: (session.logout(), session.update(_user_id="7")), "7"),
    "the field, and a logout": (lambda session: (session.update(_user_id="7"), session.logout()), None),
}


@in_memory
@pytest.mark.parametrize(("work", "user"), EXPLICIT.values(), ids=EXPLICIT.keys())
def test_what_an_app_says_itself_comes_before_the_field(framework: Site, work: Handler, user: str | None) -> None:
    browser = framework.browser()
    browser(put(n=1))
    browser(work)
    assert browser(who).result == user
    assert len(listed(framework, "7")) == (user == "7")
    assert len(framework.told(events.IdChanged)) + len(framework.told(events.SessionCreated)) <= 2


@in_memory
def test_the_field_may_follow_a_login_later(framework: Site) -> None:
    [browser] = logged_in(framework, "7")
    browser(set_user("7"))
    assert changes(framework) == []
    browser(set_user("8"))
    assert browser(who).result == "8"
    browser(lambda session: session.pop("_user_id"))
    assert browser(who).result is None


@in_memory
@pytest.mark.parametrize("value", [True, 1.5, ["7"], "", "x" * 256])
def test_a_field_that_names_no_user_is_an_error_of_the_app(framework: Site, value: object) -> None:
    browser = framework.browser()
    browser(put(n=1))
    with pytest.raises((TypeError, ValueError), match="a user id"):
        browser(set_user(value))
    assert browser(look).result == (None, {"n": 1})


@in_memory
def test_a_failed_request_logs_nobody_in_by_the_field(framework: Site) -> None:
    browser = framework.browser()
    browser(put(n=1))
    assert browser(set_user("7"), status=500).cookie is None
    assert browser(look).result == (None, {"n": 1})


def test_a_session_that_was_revoked_does_not_come_back_without_its_user(framework: Site) -> None:
    browser = framework.browser()
    browser(set_user("7", private=1))

    def slow(session: Session) -> None:
        session.pop("_user_id")
        framework.run(framework.manager.revoke("7"))

    browser(slow)
    assert browser(look).result == (None, {})
    assert framework.stored() == 0


@in_memory
def test_a_field_that_is_removed_too_late_for_a_new_id_ends_the_session(framework: Site) -> None:
    browser = framework.browser()
    browser(set_user("7", n=1))
    browser(later=lambda session: session.pop("_user_id"))
    assert browser(look).result == (None, {})
    assert listed(framework, "7") == []


@in_memory
@pytest.mark.parametrize("before", [{}, {"_user_id": "7"}], ids=["of nobody", "of another user"])
def test_a_field_that_is_set_too_late_for_a_new_id_logs_nobody_in(framework: Site, before: dict[str, str]) -> None:
    """The id that a login must replace would be logged in: whoever planted it too."""
    browser = framework.browser()
    browser(put(n=1, **before))
    browser(later=set_user("8", n=2))
    assert browser(look).result == (before.get("_user_id"), {"n": 2, **before})
    assert listed(framework, "8") == []
    assert ["headers had left" in event.reason for event in framework.told(events.WriteRefused)] == [True]


# -- how long ago somebody proved who he is ----------------------------------------------------------------------------


def test_a_login_is_fresh_for_as_long_as_is_asked(make_site: SiteFactory) -> None:
    site = make_site(renewal_timeout=100)
    browser, began = site.browser(), site.clock()

    def fresh(session: Session) -> tuple[float | None, bool]:
        return session.authenticated_at, session.fresh_within(300)

    browser(put(n=1))
    assert browser(fresh).result == (None, False)
    assert browser(lambda session: (session.login("7"), session.fresh_within(0))[1]).result is True
    site.clock.advance(150)
    browser(read)  # a new id by itself
    browser(new_id)
    site.clock.advance(150)
    assert browser(fresh).result == (began, True)
    site.clock.advance(0.001)
    assert browser(fresh).result == (began, False)
    browser(log_in("7"))
    assert browser(fresh).result == (began + 300.001, True)


# -- how many sessions a user may have ---------------------------------------------------------------------------------


def limited(make_site: SiteFactory, limit: int, policy: str = "end-oldest", **options: Any) -> Site:
    return make_site(max_sessions_per_user=limit, session_limit_policy=policy, **options)


def test_one_session_too_many_ends_the_one_that_would_end_first(make_site: SiteFactory) -> None:
    site = limited(make_site, 2)
    first, second = logged_in(site, "7", 2)
    site.clock.advance(100)
    first(read)
    [third], [other] = logged_in(site, "7"), logged_in(site, "8")
    assert [browser(who).result for browser in (first, second, third, other)] == ["7", None, "7", "8"]
    assert [(event.user_id, event.limit, event.denied) for event in site.told(events.SessionLimitHit)] == [
        ("7", 2, False)
    ]
    assert [(event.reason, event.user_id) for event in site.told(events.SessionEnded)] == [("limit", "7")]


def test_one_session_too_many_is_refused_where_that_is_the_policy(make_site: SiteFactory) -> None:
    site = limited(make_site, 2, "deny")
    browsers, late = logged_in(site, "7", 2), site.browser()
    late(put(cart=[1]))
    before = late.jar.value()
    answer = late(log_in("7", private=1))
    assert (answer.status, answer.cookie) == (409, None)
    assert late.jar.value() == before
    assert late(look).result == (None, {"cart": [1]})
    assert site.browser()(log_in("7")).status == 409
    assert [browser(who).result for browser in browsers] == ["7", "7"]
    assert [event.denied for event in site.told(events.SessionLimitHit)] == [True, True]
    browsers[0](log_out)
    assert late(log_in("7")).status == 200
    assert late(who).result == "7"


def test_an_app_may_say_itself_that_there_are_too_many(make_site: SiteFactory) -> None:
    site = limited(make_site, 1, "deny")
    logged_in(site, "7")

    def log_in_politely(session: Session) -> object:
        session.login("7")
        with pytest.raises(SessionLimitReached):
            site.run(session.save())
        return session.user_id, session.fresh_within(60)

    for browser in (site.browser(), site.browser()):
        browser(put(n=1))
        answer = browser(log_in_politely, status=200)
        assert (answer.status, answer.result) == (200, (None, False))
        assert browser(look).result == (None, {"n": 1})


@in_memory
@pytest.mark.parametrize("policy", ["end-oldest", "deny"])
def test_logging_in_again_in_the_same_session_takes_no_second_place(make_site: SiteFactory, policy: str) -> None:
    site = limited(make_site, 2, policy)
    browsers = logged_in(site, "7", 2)
    for _ in range(3):
        assert browsers[0](log_in("7")).status == 200
    assert [browser(who).result for browser in browsers] == ["7", "7"]
    assert site.told(events.SessionLimitHit) == []


@in_memory
def test_two_logins_at_once_in_one_session_take_two_places(make_site: SiteFactory) -> None:
    site = limited(make_site, 2)
    [first] = logged_in(site, "7")
    site.clock.advance(1)
    [second] = logged_in(site, "7")
    twin = second.twin()

    def slow(session: Session) -> None:
        session.login("7")
        twin(log_in("7"))

    second(slow)
    assert len(listed(site, "7")) == 2
    assert [browser(who).result for browser in (first, second, twin)] == [None, "7", "7"]


@in_memory
@pytest.mark.parametrize("leave", [log_out, log_in("8"), lambda session: session.regenerate_id(grace=False)])
def test_a_place_is_free_for_as_many_as_have_left(make_site: SiteFactory, leave: Handler) -> None:
    site = limited(make_site, 2, "deny")
    browsers = logged_in(site, "7", 2)
    browsers[0](leave)
    stayed = browsers[0](who).result == "7"
    assert site.browser()(log_in("7")).status == (409 if stayed else 200)


@in_memory
def test_a_field_logs_in_nobody_who_has_no_place(make_site: SiteFactory) -> None:
    site = limited(make_site, 1, "deny", user_id_field="_user_id")
    logged_in(site, "7")
    browser = site.browser()
    browser(put(n=1))
    assert browser(set_user("7", private=1)).status == 409
    assert browser(look).result == (None, {"n": 1})


@in_memory
def test_a_session_that_has_expired_leaves_its_place(make_site: SiteFactory) -> None:
    site = limited(make_site, 1, "deny", idle_timeout=100, absolute_timeout=300)
    logged_in(site, "7")
    assert site.browser()(log_in("7")).status == 409
    site.clock.advance(100)
    assert site.browser()(log_in("7")).status == 200


@in_memory
def test_a_login_that_failed_keeps_nobody_out_for_longer_than_it_lasts(make_site: SiteFactory) -> None:
    """Its session was ended meanwhile, so it took no place."""
    site = limited(make_site, 1, "deny", user_id_field="_user_id")
    browser = site.browser()
    browser(put(n=1))
    twin = browser.twin()

    def slow(session: Session) -> None:
        assert session["n"] == 1
        twin(new_id)
        session.login("7")

    assert browser(slow).status == 200
    browser(log_out)
    assert site.browser()(log_in("7")).status == 200


@in_memory
def test_without_a_limit_no_place_is_asked_for(site: Site) -> None:
    logged_in(site, "7", 3)
    assert "reserve" not in site.store.calls


@pytest.mark.parametrize(("policy", "begun"), [("end-oldest", True), ("deny", False)])
def test_of_fifty_logins_at_once_as_many_stay_as_may(make_site: SiteFactory, policy: str, begun: bool) -> None:
    site = limited(make_site, 3, policy)
    browsers = [site.browser() for _ in range(50)]
    if begun:
        at_once([(browser, put(n=1)) for browser in browsers])
    answers = at_once([(browser, log_in("7")) for browser in browsers])
    assert {answer.status for answer in answers} <= ({200, 409} if policy == "deny" else {200})
    users = [answer.result for answer in at_once([(browser, who) for browser in browsers])]
    assert users.count("7") == 3
    assert len(listed(site, "7")) == 3
    if policy == "deny":
        assert [answer.status for answer in answers].count(200) == 3
