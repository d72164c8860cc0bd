"""Session ids that change: nobody is logged out by it, nothing is lost, and who knows an old id has no use of it."""

from typing import Any

import pytest

from tests.clients import Browser, Handler, Site, at_once
from tests.sites import SiteFactory, add, in_memory, log_in, names, put, read
from vedsess_middleware import Session, events

RENEWAL, GRACE = 900.0, 10.0


@pytest.fixture
def renewing(make_site: SiteFactory) -> Site:
    """A site whose ids are changed every quarter of an hour."""
    return make_site(renewal_timeout=RENEWAL, rotation_grace=GRACE)


def new_id(session: Session) -> None:
    session.regenerate_id()


def sealed_id(session: Session) -> None:
    session.regenerate_id(grace=False)


def log_out(session: Session) -> None:
    session.logout()


def look(session: Session) -> tuple[str | None, dict[str, Any]]:
    return session.user_id, dict(session)


def changes(site: Site) -> list[tuple[str, bool]]:
    """The changes of id so far: why, and whether it was a login."""
    return [(event.reason, event.login) for event in site.told(events.IdChanged)]


def session_id(browser: Browser) -> str:
    """The id in the browser's cookie."""
    return (browser.jar.value() or "").partition(".")[0]


# -- ids change by themselves ------------------------------------------------------------------------------------------


def test_an_id_changes_by_itself_on_the_first_use_after_its_time(renewing: Site) -> None:
    browser, began = renewing.browser(), renewing.clock()
    browser(log_in("7", n=1))
    first = session_id(browser)
    renewing.clock.advance(RENEWAL - 0.001)
    browser(look)
    assert session_id(browser) == first
    renewing.clock.advance(0.001)
    answer = browser(look)
    assert answer.result == ("7", {"n": 1})
    assert answer.all("cache-control") == ["no-store, private"]
    second = session_id(browser)
    assert second != first
    kept = browser(lambda session: (session.created_at, session.authenticated_at, look(session))).result
    assert kept == (began, began, ("7", {"n": 1}))
    assert session_id(browser) == second
    assert changes(renewing) == [("renewal", False)]
    assert renewing.stored() == 1


def test_an_id_changes_once_however_many_requests_are_under_way(renewing: Site) -> None:
    browser = renewing.browser()
    browser(log_in("7", n=1))
    renewing.clock.advance(RENEWAL)
    tabs = [browser.twin() for _ in range(8)]
    answers = at_once([(tab, look) for tab in tabs])
    assert [answer.result for answer in answers] == [("7", {"n": 1})] * 8
    assert sum(answer.cookie is not None for answer in answers) == 1
    assert changes(renewing) == [("renewal", False)]
    assert renewing.stored() == 1


def test_a_request_whose_id_is_changed_under_it_loses_nothing_and_sets_no_cookie(renewing: Site) -> None:
    browser = renewing.browser()
    browser(log_in("7", n=1))
    renewing.clock.advance(RENEWAL)
    other = browser.twin()

    def slow(session: Session) -> None:
        assert session["n"] == 1
        assert other(look).cookie is not None
        session["mine"] = 1

    assert browser(slow).cookie is None
    assert other(look).result == ("7", {"n": 1, "mine": 1})


def test_a_renewal_keeps_what_others_have_written_since_the_request_began(renewing: Site) -> None:
    """Nobody asked for it, so it must not cost anybody anything."""
    browser = renewing.browser()
    browser(log_in("7", n=1, gone=1, tags=["a"]))
    renewing.clock.advance(RENEWAL - 1)
    other = browser.twin()

    def slow(session: Session) -> None:
        assert session["n"] == 1
        other(lambda session: (session.update(n=2, theirs=1), session.pop("gone")))
        renewing.clock.advance(1)
        session["tags"].append("b")

    assert browser(slow).cookie is not None
    assert browser(look).result == ("7", {"n": 2, "theirs": 1, "tags": ["a", "b"]})
    assert changes(renewing) == [("renewal", False)]


CHANGES: dict[str, Handler] = {"a new id": new_id, "without grace": sealed_id, "a login": log_in("7")}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_id_keeps_what_others_have_written_since_the_request_began(site: Site, change: Handler) -> None:
    """To check a password takes long enough for another tab to put something into the basket."""
    browser = site.browser()
    browser(put(n=1, gone=1, tags=["a"], mine=0))
    other = browser.twin()

    def slow(session: Session) -> None:
        assert session["n"] == 1
        other(lambda session: (session.update(n=2, theirs=1, mine=5), session.pop("gone")))
        session["tags"].append("b")
        session["mine"] = 1
        change(session)

    assert browser(slow).cookie is not None
    assert browser(read).result == {"n": 2, "theirs": 1, "tags": ["a", "b"], "mine": 1}


@in_memory
def test_after_a_change_of_id_a_save_does_not_undo_what_others_wrote(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1, gone=1, tags=["a"]))
    other = browser.twin()

    def slow(session: Session) -> None:
        assert look(session) == ("7", {"n": 1, "gone": 1, "tags": ["a"]})
        other(lambda session: (session.update(n=2, theirs=1), session.pop("gone")))
        session.regenerate_id()
        site.run(session.save())
        session["tags"].append("b")

    browser(slow)
    assert browser(look).result == ("7", {"n": 2, "theirs": 1, "tags": ["a", "b"]})


UNTOUCHED: dict[str, dict[str, Any]] = {
    "an excluded path": {"path": "/static/x"},
    "a session that nobody looks at": {"handler": lambda session: None},
    "a failed request": {"status": 500},
    "a stream that looks late": {"handler": lambda session: None, "later": read},
}


@in_memory
@pytest.mark.parametrize("options", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_no_id_changes_where_nothing_can_be_told_to_the_browser(
    make_site: SiteFactory, options: dict[str, Any]
) -> None:
    site = make_site(renewal_timeout=RENEWAL, exclude=["/static"])
    browser = site.browser()
    browser(log_in("7", n=1))
    site.clock.advance(RENEWAL)
    handler = options.get("handler", lambda session: session is not None and look(session))
    assert browser(handler, **{name: value for name, value in options.items() if name != "handler"}).cookie is None
    assert changes(site) == []
    assert browser(look).cookie is not None
    assert browser(look).result == ("7", {"n": 1})


@in_memory
@pytest.mark.parametrize("status", [200, 204, 302, 304, 404])
def test_an_id_changes_whatever_the_answer_says(renewing: Site, status: int) -> None:
    browser = renewing.browser()
    browser(log_in("7"))
    renewing.clock.advance(RENEWAL)
    assert browser(look, status=status).cookie is not None
    assert changes(renewing) == [("renewal", False)]


@in_memory
def test_a_write_that_needs_no_look_is_not_lost_when_a_new_id_is_due(renewing: Site) -> None:
    browser = renewing.browser()
    browser(log_in("7", n=1))
    renewing.clock.advance(RENEWAL)
    browser(put(n=2))
    browser(read)
    assert browser(look).result == ("7", {"n": 2})
    assert changes(renewing) == [("renewal", False)]


class Broken(Exception):
    """What a bug in an app raises."""


@in_memory
@pytest.mark.parametrize("options", [{}, {"fingerprint_policy": "rotate"}], ids=["renewal", "another client"])
def test_no_id_changes_by_itself_before_the_app_has_done_its_work(make_site: SiteFactory, options: Any) -> None:
    """If it fails after a save, its browser hears of nothing."""
    site = make_site(renewal_timeout=RENEWAL, **options)
    browser = site.browser()
    browser(log_in("7", n=1))
    site.clock.advance(0 if options else RENEWAL)
    headers = [("User-Agent", "another/1")] if options else []

    def save(session: Session) -> None:
        session["n"] += 1
        site.run(session.save())

    def fail(session: Session) -> None:
        save(session)
        raise Broken

    with pytest.raises(Broken):
        browser(fail, headers=headers)
    assert changes(site) == []
    assert browser(save, headers=headers).cookie is not None
    assert [login for _, login in changes(site)] == [False]
    assert browser(look, headers=headers).result == ("7", {"n": 3})
    assert len(changes(site)) == 1


@in_memory
def test_the_cookie_of_an_id_that_was_changed_by_a_save_is_set_whatever_the_answer(site: Site) -> None:
    browser = site.browser()
    browser(put(n=1))
    answer = browser(lambda session: (session.login("7"), site.run(session.save())), status=500)
    assert answer.cookie is not None
    assert browser(look).result == ("7", {"n": 1})


@in_memory
def test_an_id_changes_although_the_session_is_larger_than_it_may_be_by_now(make_site: SiteFactory) -> None:
    """A limit that is lowered must not shut anybody out."""
    before = make_site(max_session_bytes=None)
    browser = before.browser()
    browser(log_in("7", n="x" * 2000))
    before.clock.advance(RENEWAL)
    visitor = before.sibling(max_session_bytes=1000, renewal_timeout=RENEWAL).browser()
    visitor.jar = browser.jar
    for work in (look, log_in("7"), new_id, lambda session: session.pop("n")):
        answer = visitor(work)
        assert (answer.status, answer.cookie is not None) == (200, True)


@in_memory
def test_an_anonymous_session_gets_a_new_id_as_well(renewing: Site) -> None:
    browser = renewing.browser()
    browser(put(cart=[1]))
    renewing.clock.advance(RENEWAL)
    assert browser(read).cookie is not None
    assert browser(look).result == (None, {"cart": [1]})


@in_memory
def test_no_id_changes_while_what_is_stored_is_known_to_be_old(renewing: Site) -> None:
    """What the store has lost for now would have no session to come back to."""
    browser, records = renewing.browser(), renewing.store.store._records  # type: ignore[attr-defined]
    browser(put(n=1))
    old = dict(records)
    browser(put(n=2))
    records.update(old)
    renewing.clock.advance(RENEWAL)
    assert browser(lambda session: (session.stale, session["n"])).result == (True, 1)
    assert changes(renewing) == []


# -- requests with the old id that are under way -----------------------------------------------------------------------


def test_within_the_grace_window_the_old_id_reads_and_writes_and_gets_no_cookie(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)
    site.clock.advance(GRACE)
    for work in (put(blind=1), add("tags", "a"), lambda session: session.pop("n"), look):
        answer = old(work)
        assert (answer.status, answer.cookie) == (200, None)
    assert browser(look).result == ("7", {"blind": 1, "tags": ["a"]})
    assert site.stored() == 1
    assert site.told(events.OldIdUsed) == []


def test_after_the_grace_window_the_old_id_is_nothing_and_its_use_is_told(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)
    site.clock.advance(GRACE + 0.001)
    assert old(lambda session: (session.is_new, look(session))).result == (True, (None, {}))
    [told] = site.told(events.OldIdUsed)
    [changed] = site.told(events.IdChanged)
    assert (told.session, told.successor, told.ended) == (changed.previous, changed.session, False)
    assert browser(look).result == ("7", {"n": 1})


def test_what_comes_with_an_id_that_is_too_old_is_written_nowhere(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)
    site.clock.advance(GRACE + 0.001)
    old(put(n=2))
    old(add("tags", 1))
    assert browser(look).result == ("7", {"n": 1})
    assert old(look).result == (None, {"n": 2, "tags": [1]})


def test_a_site_may_end_a_session_whose_old_id_is_used(make_site: SiteFactory) -> None:
    """Then a copy of a stolen cookie is worth nothing to whoever is second (OWASP: token reuse)."""
    site = make_site(old_id_policy="end")
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)
    site.clock.advance(GRACE)
    assert old(look).result == ("7", {"n": 1})
    site.clock.advance(0.001)
    assert old(look).result == (None, {})
    assert [event.ended for event in site.told(events.OldIdUsed)] == [True]
    assert [(event.reason, event.user_id) for event in site.told(events.SessionEnded)] == [("replay", "7")]
    assert browser(look).result == (None, {})
    assert site.stored() == 0


@pytest.mark.parametrize("reads", [True, False], ids=["after a read", "unread"])
def test_a_logout_with_the_old_id_ends_the_session(site: Site, reads: bool) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)
    old(lambda session: ((look(session) if reads else None), session.logout()))
    assert old.jar.cookies == {}
    assert browser(look).result == (None, {})
    assert site.stored() == 0


@pytest.mark.parametrize("reads", [True, False], ids=["after a read", "unread"])
def test_a_logout_ends_a_session_whose_id_is_changed_under_it(site: Site, reads: bool) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    other = browser.twin()

    def slow(session: Session) -> None:
        if reads:
            assert session["n"] == 1
        session.logout()
        other(new_id)
        other(new_id)

    browser(slow)
    assert other(look).result == (None, {})
    assert site.stored() == 0


@pytest.mark.parametrize("policy", ["report", "end"])
def test_a_request_that_takes_longer_than_the_grace_window_is_no_replay(make_site: SiteFactory, policy: str) -> None:
    """It had loaded the session when the id was good: a slow report must not log its reader out."""
    site = make_site(old_id_policy=policy)
    browser = site.browser()
    browser(log_in("7", n=1))
    other = browser.twin()

    def slow(session: Session) -> None:
        assert session["n"] == 1
        other(new_id)
        site.clock.advance(GRACE * 3)
        session["mine"] = 1

    assert browser(slow).cookie is None
    assert other(look).result == ("7", {"n": 1, "mine": 1})
    assert site.told(events.OldIdUsed) == []


@in_memory
@pytest.mark.parametrize("change", [new_id, sealed_id, log_in("7")], ids=["with grace", "without", "login"])
def test_a_request_that_saved_before_its_id_was_changed_does_not_give_the_old_one_back(
    site: Site, change: Handler
) -> None:
    """Its answer comes last, and the browser would keep what it says."""
    browser = site.browser()
    browser(log_in("7"))

    def slow(session: Session) -> None:
        session["first"] = 1
        site.run(session.save())
        assert browser(change).cookie is not None
        session["second"] = 1

    assert browser(slow).cookie is None
    site.clock.advance(GRACE + 1)
    user, values = browser(look).result
    assert (user, values["first"]) == ("7", 1)
    assert ("second" in values) is (change is new_id)


@in_memory
def test_of_two_cookies_the_one_that_is_alive_is_set_again(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7"))
    old = browser.jar.value()
    browser(sealed_id)
    cookies = f"vedsess={old}; vedsess={browser.jar.value()}"
    assert browser(add("tags", 1), cookies=cookies).cookie is not None
    assert browser(look).result == ("7", {"tags": [1]})


@in_memory
def test_a_request_that_is_overtaken_again_and_again_still_finds_its_session(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7"))
    other = browser.twin()

    def slow(session: Session) -> None:
        for n in range(4):
            session[f"n{n}"] = session.get("n", 0)
            other(new_id)
            site.clock.advance(GRACE)
            site.run(session.save())

    browser(slow)
    assert other(look).result == ("7", {"n0": 0, "n1": 0, "n2": 0, "n3": 0})


@in_memory
def test_a_request_that_loads_again_still_gives_no_cookie_of_the_old_id(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)

    def again(session: Session) -> None:
        assert session["n"] == 1
        site.run(session.refresh())
        session["mine"] = session["n"]

    assert old(again).cookie is None
    assert browser(look).result == ("7", {"n": 1, "mine": 1})


@in_memory
def test_each_old_id_has_a_grace_window_of_its_own(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    first = browser.twin()
    browser(new_id)
    site.clock.advance(6)
    second = browser.twin()
    browser(new_id)
    assert [old(look).result for old in (first, second)] == [("7", {"n": 1})] * 2
    site.clock.advance(6)
    assert [old(look).result for old in (first, second)] == [(None, {}), ("7", {"n": 1})]
    site.clock.advance(6)
    assert second(look).result == (None, {})
    assert browser(look).result == ("7", {"n": 1})


@in_memory
def test_a_second_change_with_the_old_id_changes_nothing(site: Site) -> None:
    """A button that was pressed twice."""
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(new_id)
    assert old(lambda session: (session.regenerate_id(), session.update(m=1))).cookie is None
    assert browser(look).result == ("7", {"n": 1, "m": 1})
    assert changes(site) == [("regenerate", False)]


@in_memory
def test_without_a_store_no_id_changes_and_the_old_one_stays_good(renewing: Site) -> None:
    browser = renewing.browser()
    browser(log_in("7", n=1))
    renewing.clock.advance(RENEWAL)
    old = browser.twin()

    def late(session: Session) -> None:
        assert session["n"] == 1
        renewing.store.down = True

    assert browser(late).status == 503
    renewing.store.down = False
    assert old(look).result == ("7", {"n": 1})


# -- whoever knows the id of before a login, or a change of privilege --------------------------------------------------

SEALING: dict[str, Handler] = {"login": log_in("7", secret=1), "without grace": sealed_id}


def test_a_planted_id_is_worth_nothing_from_the_login_on(site: Site) -> None:
    """Session fixation: the attacker began the session, and made the victim log in with it."""
    attacker = site.browser()
    attacker(put(n=1))
    victim = attacker.twin()
    victim(log_in("7", secret=1))
    for work in (put(planted=1), add("planted", 1), new_id, log_out):
        assert "Max-Age=0" in (attacker.twin()(work).cookie or "Max-Age=0")
    assert attacker(look).result == (None, {})
    assert victim(look).result == ("7", {"n": 1, "secret": 1})
    assert site.told(events.OldIdUsed) == []


@pytest.mark.parametrize("seal", SEALING.values(), ids=SEALING.keys())
def test_whoever_knows_the_id_of_before_is_out_at_once_and_harms_nobody(make_site: SiteFactory, seal: Handler) -> None:
    site = make_site(old_id_policy="end")
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(seal)
    assert old(look).result == (None, {})
    site.clock.advance(GRACE + 1)
    assert old(look).result == (None, {})
    assert [event.ended for event in site.told(events.OldIdUsed)] == [False]
    assert browser(lambda session: session.user_id).result == "7"


CHAINS: dict[str, list[Handler]] = {
    "login, then a new id": [log_in("7"), new_id],
    "login, then two new ids": [log_in("7"), new_id, new_id],
    "a new id, then a login": [new_id, log_in("7")],
    "a new id, a login, and a new id": [new_id, log_in("7"), new_id],
    "two logins": [log_in("7"), log_in("7")],
    "a new id, then one without grace": [new_id, sealed_id],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_no_chain_of_changes_leads_from_before_a_login_to_behind_it(site: Site, chain: list[Handler]) -> None:
    browser = site.browser()
    browser(put(n=1))
    first = browser.twin()
    for work in chain:
        browser(work)
    first(put(planted=1))
    first(log_out)
    assert first(look).result == (None, {})
    assert browser(read).result == {"n": 1}


@in_memory
def test_a_change_of_user_in_place_shuts_everybody_else_out(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", n=1))
    old = browser.twin()
    browser(log_in("8"))
    assert old(look).result == (None, {})
    assert site.run(site.manager.sessions("7")) == []


# -- a login meets other changes ---------------------------------------------------------------------------------------


def test_a_login_in_a_request_whose_id_was_changed_under_it_goes_through(site: Site) -> None:
    browser = site.browser()
    browser(put(cart=[1]))
    other = browser.twin()
    first = browser.twin()

    def slow(session: Session) -> None:
        assert session["cart"] == [1]
        other(new_id)
        session.login("7")

    assert browser(slow).cookie is not None
    assert browser(look).result == ("7", {"cart": [1]})
    assert [old(look).result for old in (first, other)] == [(None, {})] * 2
    assert site.stored() == 1


def test_such_a_login_keeps_what_was_written_under_the_id_in_between(site: Site) -> None:
    browser = site.browser()
    browser(put(cart=[1], n=1))
    other = browser.twin()

    def slow(session: Session) -> None:
        assert session["cart"] == [1]
        other(new_id)
        other(lambda session: (session.update(cart=[1, 2]), session.pop("n")))
        session.login("7")
        session["mine"] = 1

    browser(slow)
    assert browser(look).result == ("7", {"cart": [1, 2], "mine": 1})


def test_a_login_with_the_old_id_within_the_grace_window_goes_through(site: Site) -> None:
    browser = site.browser()
    browser(put(cart=[1]))
    old = browser.twin()
    browser(new_id)
    assert old(log_in("7")).cookie is not None
    assert old(look).result == ("7", {"cart": [1]})
    assert browser(look).result == (None, {})
    assert site.stored() == 1


@pytest.mark.parametrize("user", ["7", "8"], ids=["the same user", "another one"])
def test_of_two_logins_at_once_each_gets_a_session(site: Site, user: str) -> None:
    browser = site.browser()
    browser(put(cart=[1]))
    other, first = browser.twin(), browser.twin()

    def slow(session: Session) -> None:
        session.login("7")
        assert other(log_in(user)).cookie is not None

    assert browser(slow).cookie is not None
    assert [each(look).result for each in (browser, other)] == [("7", {"cart": [1]}), (user, {"cart": [1]})]
    assert session_id(browser) != session_id(other)
    assert first(look).result == (None, {})
    assert site.stored() == 2


@in_memory
def test_a_new_id_without_grace_goes_through_although_another_request_was_quicker(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7", role="user"))
    other, first = browser.twin(), browser.twin()

    def promote(session: Session) -> None:
        session["role"] = "admin"
        session.regenerate_id(grace=False)
        other(new_id)

    assert browser(promote).cookie is not None
    assert browser(look).result == ("7", {"role": "admin"})
    assert [old(look).result for old in (first, other)] == [(None, {})] * 2


# -- many changes, many requests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [25, pytest.param(200, marks=pytest.mark.long)])
def test_nobody_is_logged_out_and_nothing_is_left_behind_by_many_changes(site: Site, rounds: int) -> None:
    if site.store.name in ("memory", "redis"):
        rounds = 200
    browser = site.browser()
    browser(log_in("7", n=1))
    given = [browser]
    for n in range(rounds):
        changing = [browser.twin() for _ in range(2)]
        reading, writing = (
            [old.twin() for old in given[-2:]] for _ in range(2)
        )  # the cookie of now, and that of before
        visits: list[tuple[Browser, Handler]] = [(tab, new_id) for tab in changing]
        visits += [(tab, look) for tab in reading] + [(tab, put(n=n)) for tab in writing]
        answers = at_once(visits)
        assert {answer.status for answer in answers} == {200}
        assert {answer.result[0] for answer in answers if answer.result} == {"7"}
        [browser] = [tab for tab in changing if session_id(tab) != session_id(given[-1])]
        assert {session_id(tab) for tab in (*reading, *writing)} == {session_id(old) for old in given[-2:]}
        given.append(browser)
        site.clock.advance(3)
    assert browser(look).result == ("7", {"n": rounds - 1})
    assert site.stored() == 1
    assert len({session_id(each) for each in given}) == rounds + 1

    site.clock.advance(GRACE + 1)
    alive = [each.twin()(lambda session: session.user_id).result for each in given]
    assert alive == [None] * rounds + ["7"]
    assert len(site.run(site.manager.sessions("7"))) == 1


@in_memory
def test_a_tab_that_keeps_its_old_cookie_gets_no_header_at_all(site: Site) -> None:
    browser = site.browser()
    browser(log_in("7"))
    old = browser.twin()
    browser(new_id)
    assert names(old(look)) == ["content-type", "vary"]
