"""Requests that meet in one session: what is expected to stay stays, and a lock lets one in at a time."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.util import greenlet_spawn

from tests.clients import Browser, Handler, Site, at_once
from tests.clients import Protocol as ServerProtocol
from tests.sites import in_memory, log_in, put, read
from tests.stores import Faulty
from vedsess_middleware import Session, StoreUnavailable, WriteConflict, events
from vedsess_middleware.stores.failover import FailoverStore


def begun(site: Site, **values: object) -> tuple[Browser, Browser]:
    """Two tabs of somebody who is logged in."""
    browser = site.browser()
    browser(log_in("7", **values))
    return browser, browser.twin()


def add(number: int) -> Handler:
    return lambda session: session.__setitem__("n", session["n"] + number)


def new_id(session: Session) -> None:
    session.regenerate_id()


# -- what is expected to stay ------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[list[Handler], bool]] = {
    "nothing": ([], False),
    "another field": ([put(other=1)], False),
    "the field": ([put(stock=4)], True),
    "the field, as it was": ([lambda session: session.__setitem__("stock", session["stock"])], False),
    "the field, away and back": ([put(stock=9), put(stock=5)], True),
    "the field deleted": ([lambda session: session.pop("stock")], True),
}


@pytest.mark.parametrize(("others", "refused"), OTHERS.values(), ids=OTHERS.keys())
def test_a_commit_is_refused_where_another_request_wrote_what_it_expected_to_stay(
    site: Site, others: list[Handler], refused: bool
) -> None:
    """The last ticket is sold once."""
    browser, twin = begun(site, stock=5)

    def sell(session: Session) -> None:
        session.expect_unchanged("stock")
        for other in others:
            twin(other)
        session["stock"] -= 1
        session["sold"] = 1

    answer = browser(sell)
    assert answer.status == (409 if refused else 200)
    assert ("sold" in browser(read).result) is not refused
    told = [event.fields for event in site.told(events.WriteConflict)]
    assert told == ([("stock",)] if refused else [])
    if refused:
        assert answer.cookie is None
        assert answer.all("cache-control") == ["no-store"]


@pytest.mark.parametrize("field", ["there", "missing"])
def test_a_field_that_is_not_there_can_be_expected_to_stay_away(site: Site, field: str) -> None:
    browser, twin = begun(site, there=1)

    def claim(session: Session) -> None:
        session.expect_unchanged("missing")
        twin(put(**{field: 2}))
        session["missing"] = 1

    assert browser(claim).status == (200 if field == "there" else 409)
    assert twin(lambda session: session["missing"]).result == (1 if field == "there" else 2)


def test_an_app_that_hears_of_it_can_try_again(site: Site) -> None:
    browser, twin = begun(site, n=0)
    refused: list[tuple[str, ...]] = []

    def saves(session: Session) -> bool:
        try:
            site.run(session.save())
        except WriteConflict as conflict:
            refused.append(conflict.fields)
            site.run(session.refresh())
            return False
        return True

    def work(session: Session) -> None:
        while True:
            session.expect_unchanged("n")
            session["n"] += 1
            if len(refused) < 3:
                twin(add(10))
            if saves(session):
                return

    assert browser(work).status == 200
    assert refused == [("n",)] * 3
    assert browser(read).result == {"n": 31}


@in_memory
def test_an_app_that_forgets_its_changes_answers_with_a_page_of_its_own(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def give_up(session: Session) -> None:
        session.expect_unchanged("n")
        twin(put(n=1))
        session["n"] = 2
        with pytest.raises(WriteConflict):
            site.run(session.save())
        site.run(session.refresh())

    assert browser(give_up, status=422).status == 422
    assert browser(read).result == {"n": 1}


@in_memory
def test_what_was_forgotten_is_not_written_with_what_comes_after(site: Site) -> None:
    browser, twin = begun(site, n=0, gone=1, tags=["a"])

    def again(session: Session) -> None:
        session.update(n=5, new=5)
        session["tags"].append("b")
        session.pop("gone")
        session.login("8")
        twin(put(theirs=1))
        site.run(session.refresh())
        assert (session.user_id, dict(session)) == ("7", {"n": 0, "gone": 1, "tags": ["a"], "theirs": 1})
        assert not session.modified
        session["mine"] = 1

    browser(again)
    assert browser(lambda session: (session.user_id, dict(session))).result == (
        "7",
        {"n": 0, "gone": 1, "tags": ["a"], "theirs": 1, "mine": 1},
    )


@in_memory
def test_a_refresh_does_not_undo_a_logout(site: Site) -> None:
    browser, twin = begun(site, n=0)
    browser(lambda session: (session.logout(), site.run(session.refresh()), session.get("n")))
    assert twin(read).result == {}
    assert site.stored() == 0


@in_memory
def test_an_expectation_holds_for_one_commit(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def twice(session: Session) -> None:
        session.expect_unchanged("n")
        session["n"] = 1
        site.run(session.save())
        twin(put(n=2))
        session["n"] = 3

    assert browser(twice).status == 200
    assert browser(read).result == {"n": 3}


def test_after_a_save_of_its_own_a_request_may_expect_again(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def twice(session: Session) -> None:
        session["n"] = 1
        site.run(session.save())
        session.expect_unchanged("n")
        session["n"] = 2

    assert browser(twice).status == 200
    assert twin(read).result == {"n": 2}


@pytest.mark.parametrize("change", [new_id, log_in("8"), lambda session: session.regenerate_id(grace=False)])
@pytest.mark.parametrize("writes", [True, False], ids=["with changes", "without"])
def test_an_id_changes_only_if_what_was_expected_stayed(site: Site, change: Handler, writes: bool) -> None:
    browser, twin = begun(site, role="user")

    def promote(session: Session) -> None:
        session.expect_unchanged("role")
        twin(put(role="banned"))
        if writes:
            session["role"] = "admin"
        change(session)

    assert browser(promote).status == 409
    assert twin(lambda session: (session.user_id, dict(session))).result == ("7", {"role": "banned"})
    assert site.told(events.IdChanged) == []


@in_memory
def test_a_failed_request_is_not_a_conflict(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def fail(session: Session) -> None:
        session.expect_unchanged("n")
        twin(put(n=1))
        session["n"] = 2

    assert browser(fail, status=500).status == 500
    assert browser(read).result == {"n": 1}
    assert site.told(events.WriteConflict) == []


@in_memory
def test_a_head_request_that_conflicts_has_no_body(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def sell(session: Session) -> None:
        session.expect_unchanged("n")
        twin(put(n=1))
        session["n"] = 2

    answer = browser(sell, method="HEAD")
    assert (answer.status, answer.body) == (409, b"")


# -- locks -------------------------------------------------------------------------------------------------------------


def locked(site: Site, session: Session, work: Callable[[], object], **options: float) -> None:
    """Do the work while this session is locked, in the colour of the site."""
    if site.protocol == "wsgi":
        with session.lock(**options):
            work()
    else:
        site.run(_locked(session, work, options))


async def _locked(session: Session, work: Callable[[], object], options: dict[str, float]) -> None:
    async with session.lock(**options):
        await greenlet_spawn(work)


def adding(site: Site, **options: float) -> Handler:
    """A handler that adds one to a counter under the lock; whether it was let in."""

    def handler(session: Session) -> bool:
        try:
            locked(site, session, lambda: add(1)(session), **options)
        except WriteConflict:
            return False
        return True

    return handler


def test_under_a_lock_a_counter_counts_every_request(site: Site) -> None:
    browser, _ = begun(site, n=0)
    answers = at_once([(browser.twin(), adding(site, wait=30.0)) for _ in range(4)])
    assert [answer.result for answer in answers] == [True] * 4
    assert browser(read).result == {"n": 4}


def test_inside_a_lock_the_session_is_what_is_stored_then(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def work(session: Session) -> None:
        assert session["n"] == 0
        session["before"] = 1
        twin(put(n=5))
        locked(site, session, lambda: add(1)(session))
        assert twin(read).result == {"n": 6, "before": 1}

    browser(work)


def test_whoever_waits_too_long_for_a_lock_is_told(site: Site) -> None:
    browser, twin = begun(site, n=0)
    answers = []

    def work(session: Session) -> None:
        locked(site, session, lambda: answers.append(twin(adding(site, wait=0.05))))

    assert browser(work).status == 200
    assert [(answer.result, answer.cookie) for answer in answers] == [(False, None)]
    assert twin(adding(site, wait=0.0)).result is True
    assert browser(read).result == {"n": 1}


def test_a_lock_that_was_held_for_too_long_is_lost_with_all_that_was_done_under_it(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def slow(session: Session) -> None:
        def work() -> None:
            seen = session["n"]
            site.clock.advance(10)
            assert twin(adding(site, wait=0.0)).result is True
            session["n"] = seen + 1

        with pytest.raises(WriteConflict, match="lock"):
            locked(site, session, work, hold=10.0)
        assert session["n"] == 1  # what is stored, and nothing of what was refused

    assert browser(slow).status == 200
    assert browser(read).result == {"n": 1}
    assert len(site.told(events.LockLost)) == 1


@in_memory
@pytest.mark.parametrize("change", [new_id, log_in("7")], ids=["new id", "login"])
def test_a_lost_lock_changes_no_id(site: Site, change: Handler) -> None:
    browser, twin = begun(site, n=0)

    def slow(session: Session) -> None:
        def work() -> None:
            site.clock.advance(10)
            assert twin(adding(site, wait=0.0)).result is True
            change(session)

        with pytest.raises(WriteConflict):
            locked(site, session, work, hold=10.0)

    browser(slow)
    assert site.told(events.IdChanged) == []
    assert twin(read).result == {"n": 1}


class Broken(Exception):
    """What a bug in an app raises."""


@pytest.mark.parametrize("caught", [True, False])
def test_an_error_inside_a_lock_gives_it_back_and_drops_what_was_done(site: Site, caught: bool) -> None:
    browser, twin = begun(site, n=0)

    def fail(session: Session) -> None:
        def work() -> None:
            session["n"] = 5
            raise Broken

        try:
            locked(site, session, work)
        except Broken:
            if not caught:
                raise

    if caught:
        browser(fail)
    else:
        with pytest.raises(Broken):
            browser(fail)
    assert twin(read).result == {"n": 0}
    assert twin(adding(site, wait=0.0)).result is True


@in_memory
def test_requests_that_ask_for_no_lock_go_on_as_ever(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def work(session: Session) -> None:
        locked(site, session, lambda: (twin(put(theirs=1)), add(1)(session)))

    browser(work)
    assert browser(read).result == {"n": 1, "theirs": 1}


@in_memory
def test_a_lock_is_one_sessions_own(site: Site) -> None:
    browser, _ = begun(site, n=0)
    other, _ = begun(site, n=0)
    answers = []
    browser(lambda session: locked(site, session, lambda: answers.append(other(adding(site, wait=0.0)))))
    assert [answer.result for answer in answers] == [True]


@in_memory
def test_a_refresh_inside_a_lock_keeps_it(site: Site) -> None:
    browser, twin = begun(site, n=0)
    answers = []

    def work(session: Session) -> None:
        def inside() -> None:
            session["n"] = 5
            site.run(session.refresh())
            answers.append(twin(adding(site, wait=0.0)))
            session["n"] += 1

        locked(site, session, inside)

    assert browser(work).status == 200
    assert [answer.result for answer in answers] == [False]
    assert twin(adding(site, wait=0.0)).result is True
    assert browser(read).result == {"n": 2}


@in_memory
def test_a_session_that_is_not_stored_yet_has_nobody_to_lock_out(site: Site) -> None:
    browser = site.browser()
    browser(lambda session: locked(site, session, lambda: session.update(n=1)))
    assert browser(read).result == {"n": 1}


@in_memory
def test_a_lock_holds_under_the_old_id_as_well(site: Site) -> None:
    browser, old = begun(site, n=0)
    browser(new_id)
    answers = []
    browser(lambda session: locked(site, session, lambda: answers.append(old(adding(site, wait=0.0)))))
    assert [answer.result for answer in answers] == [False]
    assert old(adding(site, wait=0.0)).cookie is None
    assert browser(read).result == {"n": 1}


@in_memory
def test_a_lock_can_end_with_a_new_id(site: Site) -> None:
    browser, _ = begun(site, n=0)
    browser(lambda session: locked(site, session, lambda: (add(1)(session), session.regenerate_id())))
    assert browser(read).result == {"n": 1}
    assert browser(adding(site, wait=0.0)).result is True


@in_memory
def test_a_lock_can_end_with_a_logout(site: Site) -> None:
    browser, twin = begun(site, n=0)
    browser(lambda session: locked(site, session, session.logout))
    assert twin(read).result == {}
    assert site.stored() == 0


@in_memory
def test_a_session_that_ended_meanwhile_has_no_lock(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def work(session: Session) -> None:
        assert session["n"] == 0
        twin(lambda session: session.logout())
        with pytest.raises(WriteConflict, match="ended"):
            locked(site, session, lambda: None, wait=0.0)

    browser(work)


def test_nothing_that_was_done_under_a_lock_is_written_later_where_no_store_took_it(site: Site) -> None:
    browser, twin = begun(site, n=0)

    def work(session: Session) -> None:
        def inside() -> None:
            session["n"] = 1
            site.store.down = True

        with pytest.raises(StoreUnavailable):
            locked(site, session, inside)
        site.store.down = False

    browser(work)
    assert twin(read).result == {"n": 0}


def test_no_lock_goes_over_to_another_store(protocol: ServerProtocol, runner: asyncio.Runner) -> None:
    """Whoever asks there is let in, and nobody could tell the two apart."""
    primary, secondary = Faulty("r", "primary"), Faulty("s", "secondary")
    stores: tuple[Any, Any] = (primary, secondary)
    site = Site(protocol, FailoverStore(*stores, on_event=lambda event: None), runner)
    browser, twin = begun(site, n=0)

    def slow(session: Session) -> None:
        def work() -> None:
            primary.always = "refuse"
            assert twin(adding(site)).result is True
            add(1)(session)

        with pytest.raises(WriteConflict):
            locked(site, session, work)

    assert browser(slow).status == 200
    assert browser(read).result == {"n": 1}


def test_a_lock_keeps_threads_and_tasks_apart(site: Site) -> None:
    """Nobody is inside while somebody else is."""
    browser, _ = begun(site, n=0)
    inside, most = [0], [0]
    guard = threading.Lock()

    def handler(session: Session) -> None:
        def work() -> None:
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            if site.protocol == "asgi":
                site.run(asyncio.sleep(0))
            session["n"] += 1
            with guard:
                inside[0] -= 1

        locked(site, session, work, wait=30.0)

    at_once([(browser.twin(), handler) for _ in range(4)])
    assert most == [1]
    assert browser(read).result == {"n": 4}
