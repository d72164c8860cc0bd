"""Damage: neither a cookie header nor a stored record gets anybody into what is not theirs, or hurts the app."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.clients import OTHER_KEY, SECRET_KEY, Answer, Browser, Clock, Protocol, Site
from tests.damage import Held, RedisShelf, Shelf, SQLiteShelf
from tests.damaging import Bench, opened
from tests.fuzzing import Genuine, Headers, signed_with
from tests.sites import log_in
from tests.stores import a_record, key
from vedsess_middleware import Session, events
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import Version

CASES = 5_000
MANY_CASES = 100_000
USERS = ("ada", "bob")


def look(session: Session) -> tuple[str | None, dict[str, Any]]:
    return session.user_id, dict(session)


# -- cookies -----------------------------------------------------------------------------------------------------------


class Fuzzed:
    """A site whose two users have a cookie each that is fresh, and one that is due to be renewed."""

    def __init__(self, protocol: Protocol, runner: asyncio.Runner, seed: int) -> None:
        self.rng, self.genuine, self.outcomes = random.Random(seed), Genuine(), Counter[str]()
        self.site = Site(protocol, MemoryStore(), runner, idle_timeout=1800)
        self.values: dict[str, dict[str, Any]] = {user: {"canary": f"{user}'s own"} for user in USERS}
        browsers = {user: self._logged_in(user) for user in USERS}
        self.site.clock.advance(1200)
        for user, browser in browsers.items():
            self.genuine.due.update(self.genuine.owners)
            self._note(user, browser(look))
        self.genuine.due.difference_update(browser.jar.value() or "" for browser in browsers.values())
        self._add_strangers()
        self.headers, self.browser = Headers(self.rng, self.genuine), self.site.browser()

    def _logged_in(self, user: str) -> Browser:
        browser = self.site.browser()
        self._note(user, browser(log_in(user, **self.values[user])))
        return browser

    def _add_strangers(self) -> None:
        now, owned = self.site.clock(), next(iter(self.genuine.owners)).partition(".")[0]
        for session_id in ("", owned):
            self.genuine.foreign += [
                signed_with(OTHER_KEY, session_id=session_id, at=now),
                signed_with(SECRET_KEY, audience="shop", session_id=session_id, at=now),
            ]
        self.genuine.ended += [signed_with(SECRET_KEY, at=now) for _ in range(3)]

    def _note(self, user: str, answer: Answer) -> str:
        """A cookie was given out to this user."""
        assert answer.cookie is not None
        value = answer.cookie.partition("=")[2].partition(";")[0]
        self.genuine.owners[value] = user
        return value

    def try_one(self, number: int) -> None:
        """One request of somebody who tries, and all that has to hold."""
        header, writes = self.headers.draw(), self.rng.random() < 1 / 16
        self.site.events.clear()
        value = self.genuine.found(header)
        user = None if value is None else self.genuine.owners[value]

        def handler(session: Session) -> tuple[str | None, dict[str, Any], bool]:
            seen = *look(session), session.is_new
            if writes:
                session["written"] = number
            return seen

        answer = self.browser(handler, cookies=header)
        assert answer.status == 200, header
        values = {} if user is None else self.values[user]
        assert answer.result == (user, values, user is None), header
        self.outcomes["refused" if user is None else "genuine"] += 1
        given = self._given(answer, header, value, renewed=writes or value in self.genuine.due)
        if writes and value is not None and user is not None:
            self.values[user] = {**values, "written": number}
            self._replace(user, given)

    def _given(self, answer: Answer, header: str, value: str | None, *, renewed: bool) -> str:
        """The cookie value of the answer, which is there only if it has to be."""
        assert (answer.cookie is not None) == renewed, header
        if answer.cookie is None:
            return ""
        assert "Max-Age=0" not in answer.cookie
        given = answer.cookie.partition("=")[2].partition(";")[0]
        session_id = given.partition(".")[0]
        assert session_id not in header if value is None else session_id == value.partition(".")[0], header
        self.outcomes["begun" if value is None else "renewed"] += 1
        return given

    def _replace(self, user: str, given: str) -> None:
        """The app wrote: what this user was given before is to be renewed, and most of it forgotten."""
        first, *others = [value for value, owner in self.genuine.owners.items() if owner == user]
        for value in others[:-1]:
            del self.genuine.owners[value]
        self.genuine.due = {value for value in (*self.genuine.due, first, *others) if value in self.genuine.owners}
        self.genuine.owners[given] = user


@pytest.mark.parametrize("protocol", ["wsgi", "asgi"])
@pytest.mark.parametrize("cases", [CASES // 2, pytest.param(MANY_CASES // 2, marks=pytest.mark.long)])
def test_no_cookie_header_gets_anybody_in_but_with_a_genuine_cookie(
    protocol: Protocol, runner: asyncio.Runner, cases: int
) -> None:
    fuzzed = Fuzzed(protocol, runner, seed=cases)
    for number in range(cases):
        fuzzed.try_one(number)
    outcomes = fuzzed.outcomes
    assert outcomes["genuine"] + outcomes["refused"] == cases
    assert min(outcomes["genuine"], outcomes["refused"]) > cases // 5
    assert min(outcomes["renewed"], outcomes["begun"]) > cases // 100


# -- stored records ----------------------------------------------------------------------------------------------------

SHELVES: dict[str, type[Shelf]] = {"redis": RedisShelf, "sqlite": SQLiteShelf}
SOME = 6, 37
ALL = 10_000, 7


@pytest.fixture(params=SHELVES)
def bench(
    request: pytest.FixtureRequest, runner: asyncio.Runner, tmp_path: Path, encrypted: bool, moved: bool
) -> Iterator[Bench]:
    bench = Bench(SHELVES[request.param], tmp_path, runner, encrypted=encrypted, moved=moved)
    yield bench
    bench.close()


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("moved", [False, True], ids=["record", "tombstone"])
@pytest.mark.parametrize(("most", "every"), [SOME, pytest.param(*ALL, marks=pytest.mark.long)])
def test_whatever_byte_of_a_record_is_damaged_nobody_sees_what_was_not_stored_for_them(
    bench: Bench, encrypted: bool, moved: bool, most: int, every: int
) -> None:
    is_one_text = len(bench.held) == 1
    cases = list(bench.shelf.cases(bench.held, ALL[0] if is_one_text else most))
    for number, case in enumerate(cases):
        bench.look_at(case)
        if number % every == 0:
            bench.work_on(case)
    outcomes = bench.outcomes
    assert outcomes.total() == len(cases) >= 500
    assert min(outcomes["true"], outcomes["ended"]) > len(cases) // 20
    assert (outcomes["another value"] > 0) or moved or encrypted
    assert (outcomes["refused"] > 0) == (encrypted and not moved)
    assert bench.worked == -(-len(cases) // every)


@pytest.mark.parametrize("encrypted", [True], ids=["encrypted"])
@pytest.mark.parametrize("moved", [False], ids=["record"])
def test_under_encryption_no_text_opens_in_any_other_place(bench: Bench) -> None:
    shelf, held = bench.shelf, bench.held
    mine, theirs = shelf.texts(held), shelf.texts(shelf.held(bench.bobs_key))
    moves = [(mine, name, other) for name, other in permutations(mine, 2)]
    moves += [(theirs, name, other) for name in theirs for other in mine]
    for texts, name, other in moves:
        shelf.put(bench.key, shelf.with_texts(held, {**mine, other: texts[name]}))
        assert bench.visit().result == (None, {}), (name, other)
        assert bench.told(events.RecordRejected), (name, other)
    assert len(moves) == 5 * 4 + 5 * 5
    shelf.put(bench.key, held)
    assert bench.visit().result == bench.truth


@pytest.mark.parametrize("encrypted", [True], ids=["encrypted"])
@pytest.mark.parametrize("moved", [False], ids=["record"])
def test_under_encryption_whole_records_that_are_swapped_are_refused(bench: Bench) -> None:
    shelf, mine, theirs = bench.shelf, bench.held, bench.shelf.held(bench.bobs_key)
    swapped: list[Held] = [{**theirs, "session_id": mine["session_id"]}]
    if isinstance(shelf, RedisShelf):
        swapped.append(theirs)
    for held in swapped:
        shelf.put(bench.key, held)
        assert bench.visit().result == (None, {})
        assert bench.told(events.RecordRejected)
    assert bench.bob(opened).result[0] == "bob"


@pytest.mark.parametrize(
    "column", ["created_at", "last_activity", "expires_at", "idle_timeout", "deadline_at", "origin"]
)
def test_a_copy_mends_a_row_that_holds_what_no_session_holds(tmp_path: Path, column: str) -> None:
    clock = Clock()
    shelf, name, copy = SQLiteShelf(tmp_path, clock), key("damaged"), a_record(clock(), version=Version(1, 1))
    run_blocking(shelf.store.mirror(name, copy))
    shelf.keep()
    shelf.put(name, {**shelf.held(name), column: "x"})
    with pytest.raises(CorruptRecord):
        run_blocking(shelf.store.peek(name))
    assert run_blocking(shelf.store.mirror(name, copy)) == copy
    assert run_blocking(shelf.store.peek(name)) == copy
    shelf.close()
    run_blocking(shelf.store.close())
