"""How long a session lives: by what is stored of it and the clock, whatever a store still holds."""

from typing import Any

import pytest

from tests.clients import Answer, Browser, Handler, Site
from tests.sites import SiteFactory, add, attributes, in_memory, log_in, put, read
from vedsess_middleware import Session, events

IDLE, ABSOLUTE, REMEMBERED = 100.0, 300.0, 1000.0


@pytest.fixture
def brief(make_site: SiteFactory) -> Site:
    """A site whose sessions end after 100 s without use, and after 300 s in any case; remembered ones after 1000 s."""
    return make_site(idle_timeout=IDLE, absolute_timeout=ABSOLUTE, remember_timeout=REMEMBERED)


def logging_in(**options: Any) -> Handler:
    def handler(session: Session) -> None:
        session.login("7", **options)

    return handler


def lives(browser: Browser) -> bool:
    """Whether the browser's session is alive; to look is a use of it."""
    return not browser.twin()(lambda session: session.is_new).result


def used_until(site: Site, browser: Browser, end: float, *, every: float) -> None:
    """Use the session now and then, as long as that is before the end; then be at the end."""
    while site.clock() + every < end:
        site.clock.advance(every)
        browser(read)
    site.clock.now = end


# -- both timeouts -----------------------------------------------------------------------------------------------------


def test_a_session_in_use_ends_at_its_deadline_to_the_millisecond(brief: Site) -> None:
    browser, deadline = brief.browser(), brief.clock() + ABSOLUTE
    browser(log_in("7", n=1))
    used_until(brief, browser, deadline - 0.001, every=40)
    assert browser(read).result == {"n": 1}
    brief.clock.now = deadline
    assert browser(lambda session: (session.is_new, session.user_id, dict(session))).result == (True, None, {})
    assert brief.run(brief.manager.sessions("7")) == []


def test_a_session_that_is_not_used_ends_to_the_millisecond(brief: Site) -> None:
    browser = brief.browser()
    browser(put(n=1))
    brief.clock.advance(IDLE - 0.001)
    assert browser.twin()(lambda session: session.is_new).result is False
    brief.clock.advance(IDLE)
    assert browser(lambda session: session.is_new).result is True


@pytest.mark.parametrize(
    "change",
    [lambda session: session.regenerate_id(), lambda session: session.regenerate_id(grace=False)],
    ids=["with grace", "without"],
)
def test_no_change_of_id_puts_the_deadline_off(brief: Site, change: Handler) -> None:
    browser, began = brief.browser(), brief.clock()
    browser(log_in("7", n=1))
    for _ in range(5):
        brief.clock.advance(55)
        assert browser(change).cookie is not None
    times = browser(lambda session: (session.created_at, session.expires_at, session.authenticated_at)).result
    assert times == (began, began + ABSOLUTE, began)
    brief.clock.now = began + ABSOLUTE
    assert browser(read).result == {}


@in_memory
def test_no_renewal_puts_the_deadline_off(make_site: SiteFactory) -> None:
    site = make_site(idle_timeout=IDLE, absolute_timeout=ABSOLUTE, renewal_timeout=30.0)
    browser, deadline = site.browser(), site.clock() + ABSOLUTE
    browser(log_in("7", n=1))
    used_until(site, browser, deadline, every=40)
    assert len(site.told(events.IdChanged)) == 7
    assert browser(read).result == {}


@in_memory
def test_a_session_that_is_over_is_told_of_once_and_by_no_id(brief: Site) -> None:
    browser = brief.browser()
    browser(put(n=1))
    session_id = browser(lambda session: session.id).result
    brief.clock.advance(IDLE)
    browser(read)
    [told] = brief.told(events.UnknownSession)
    assert session_id not in repr(told)


# -- a lifetime of one's own -------------------------------------------------------------------------------------------

LIFETIMES: dict[str, tuple[dict[str, Any], float, float]] = {
    "as the settings have it": ({}, IDLE, ABSOLUTE),
    "a shorter idle timeout": ({"idle_timeout": 40}, 40, ABSOLUTE),
    "a longer idle timeout": ({"idle_timeout": 200}, 200, ABSOLUTE),
    "a shorter deadline": ({"absolute_timeout": 60}, 60, 60),
    "a longer deadline": ({"absolute_timeout": 900}, IDLE, 900),
    "both": ({"idle_timeout": 500, "absolute_timeout": 800}, 500, 800),
    "remembered": ({"remember": True}, REMEMBERED, REMEMBERED),
    "remembered, but not when idle": ({"remember": True, "idle_timeout": 50}, 50, REMEMBERED),
    "remembered, but not for so long": ({"remember": True, "absolute_timeout": 400}, 400, 400),
}


@in_memory
@pytest.mark.parametrize(("options", "idle", "absolute"), LIFETIMES.values(), ids=LIFETIMES.keys())
def test_a_login_may_ask_for_a_lifetime_of_its_own(
    brief: Site, options: dict[str, Any], idle: float, absolute: float
) -> None:
    browser, began = brief.browser(), brief.clock()
    assert f"Max-Age={idle:g}" in attributes(browser(logging_in(**options)))
    unused = browser.twin()
    assert browser(lambda session: session.expires_at).result == began + idle
    used_until(brief, browser, began + absolute, every=idle * 0.6)
    assert not lives(browser)
    assert not lives(unused)


@pytest.mark.parametrize(("idle", "absolute"), [(40, 90), (400, 900)], ids=["shorter", "longer"])
def test_every_store_keeps_the_lifetime_that_a_login_asked_for(brief: Site, idle: float, absolute: float) -> None:
    used, unused, began = brief.browser(), brief.browser(), brief.clock()
    for browser in (used, unused):
        browser(logging_in(idle_timeout=idle, absolute_timeout=absolute))
    for share in (0.6, 1.2, 1.8):
        brief.clock.now = began + share * idle
        used(read)
    assert not lives(unused)
    brief.clock.now = began + absolute - 0.001
    assert lives(used)
    brief.clock.now = began + absolute
    assert not lives(used)


@in_memory
@pytest.mark.parametrize(("options", "idle", "absolute"), LIFETIMES.values(), ids=LIFETIMES.keys())
def test_its_lifetime_ends_a_session_that_is_not_used(
    brief: Site, options: dict[str, Any], idle: float, absolute: float
) -> None:
    browser = brief.browser()
    browser(logging_in(**options))
    brief.clock.advance(idle - 0.001)
    assert lives(browser)
    brief.clock.advance(0.001)
    brief.clock.advance(idle)  # it has just been looked at
    assert not lives(browser)


def test_a_session_with_a_short_idle_timeout_lives_as_long_as_it_is_used(make_site: SiteFactory) -> None:
    """A bank logs out whoever leaves for a minute, and nobody who is there."""
    site = make_site()
    browser = site.browser()
    browser(logging_in(idle_timeout=60))
    for _ in range(4):
        site.clock.advance(45)
        assert browser(lambda session: session.user_id).result == "7"
    site.clock.advance(61)
    assert not lives(browser)


@in_memory
def test_a_short_idle_timeout_costs_no_write_with_every_read(make_site: SiteFactory) -> None:
    site = make_site()
    browser, began = site.browser(), site.clock()
    browser(logging_in(idle_timeout=100))
    seen = []
    for _ in range(7):
        site.clock.advance(4)
        site.store.calls.clear()
        last = browser(lambda session: session.last_activity).result - began
        seen.append((last, site.store.calls.count("load")))
    assert seen == [(0, 1), (0, 1), (12, 2), (12, 1), (12, 1), (24, 2), (24, 1)]


@in_memory
def test_a_change_of_id_keeps_a_lifetime_of_its_own(brief: Site) -> None:
    browser, began = brief.browser(), brief.clock()
    browser(logging_in(idle_timeout=40, absolute_timeout=200))
    brief.clock.advance(30)
    assert "Max-Age=40" in attributes(browser(lambda session: session.regenerate_id()))
    assert browser(lambda session: session.expires_at).result == began + 70
    used_until(brief, browser, began + 200, every=30)
    assert not lives(browser)


@in_memory
def test_the_next_login_has_the_lifetime_of_the_settings_again(brief: Site) -> None:
    browser = brief.browser()
    browser(logging_in(idle_timeout=40))
    assert "Max-Age=100" in attributes(browser(logging_in()))


WRONG = [0, -1, 1000.001, float("inf"), float("nan")]


@in_memory
@pytest.mark.parametrize("name", ["idle_timeout", "absolute_timeout"])
@pytest.mark.parametrize("seconds", WRONG)
def test_a_lifetime_that_the_settings_do_not_allow_is_refused_at_once(brief: Site, name: str, seconds: float) -> None:
    browser = brief.browser()
    with pytest.raises(ValueError, match="no longer than absolute_timeout or remember_timeout"):
        browser(logging_in(**{name: seconds}))
    assert browser.jar.cookies == {}
    assert brief.stored() == 0


@in_memory
def test_a_login_that_was_refused_leaves_nobody_logged_in(brief: Site) -> None:
    def handler(session: Session) -> object:
        with pytest.raises(ValueError, match="longer"):
            session.login("7", idle_timeout=REMEMBERED + 1)
        return session.user_id

    answer = brief.browser()(handler)
    assert (answer.result, answer.cookie) == (None, None)


# -- cookies that go with the browser ----------------------------------------------------------------------------------


@pytest.fixture
def shared_computer(make_site: SiteFactory) -> Site:
    """A site whose cookies go when the browser is closed."""
    return make_site(cookie_persistent=False, idle_timeout=IDLE, absolute_timeout=ABSOLUTE, remember_timeout=REMEMBERED)


def ends_with_browser(answer: Answer) -> bool:
    """Whether the cookie that is set is gone when the browser is closed."""
    assert answer.cookie is not None
    found = [name in answer.cookie for name in ("Max-Age", "Expires")]
    assert found[0] == found[1]
    return not found[0]


SETTERS: dict[str, tuple[Handler, float]] = {
    "a write": (put(m=2), 0),
    "a read and a write": (add("tags", 1), 0),
    "a read after half of its life": (read, 0.6),
    "a change of id": (lambda session: session.regenerate_id(), 0),
}


@in_memory
@pytest.mark.parametrize(("setter", "part"), SETTERS.values(), ids=SETTERS.keys())
def test_a_cookie_goes_with_the_browser_however_often_it_is_set(
    shared_computer: Site, setter: Handler, part: float
) -> None:
    browser = shared_computer.browser()
    assert ends_with_browser(browser(log_in("7", n=1)))
    shared_computer.clock.advance(part * IDLE)
    assert ends_with_browser(browser(setter))
    assert browser(lambda session: session.user_id).result == "7"


@in_memory
@pytest.mark.parametrize(("setter", "part"), SETTERS.values(), ids=SETTERS.keys())
def test_a_remembered_cookie_stays_however_often_it_is_set(shared_computer: Site, setter: Handler, part: float) -> None:
    browser = shared_computer.browser()
    assert "Max-Age=1000" in attributes(browser(logging_in(remember=True)))
    shared_computer.clock.advance(part * REMEMBERED)
    assert "Max-Age=1000" in attributes(browser(setter))
    assert browser(lambda session: session.user_id).result == "7"


def test_a_site_forgets_with_the_browser_whom_it_was_not_asked_to_remember(shared_computer: Site) -> None:
    browser = shared_computer.browser()
    assert ends_with_browser(browser(put(n=1)))
    assert not ends_with_browser(browser(logging_in(remember=True)))
    shared_computer.clock.advance(ABSOLUTE)
    assert not ends_with_browser(browser(put(n=2)))
    assert browser(lambda session: (session.user_id, dict(session))).result == ("7", {"n": 2})
    assert ends_with_browser(browser(lambda session: (session.logout(), session.update(flash="bye"))))
    assert ends_with_browser(browser(log_in("7")))


@in_memory
def test_a_session_that_goes_with_the_browser_also_ends_when_it_is_not_used(shared_computer: Site) -> None:
    """A browser that restores its tabs keeps such cookies for ever."""
    browser = shared_computer.browser()
    browser(log_in("7"))
    shared_computer.clock.advance(IDLE)
    assert not lives(browser)


# -- no write per read -------------------------------------------------------------------------------------------------


def test_reads_in_a_row_change_nothing_in_the_store(brief: Site) -> None:
    browser = brief.browser()
    browser(log_in("7", n=1))
    before = brief.run(brief.manager.sessions("7"))
    brief.store.calls.clear()
    for _ in range(3):
        brief.clock.advance(3)
        assert browser(read).cookie is None
    assert brief.run(brief.manager.sessions("7")) == before
    assert set(brief.store.asked) == {"load", "records_of"}
