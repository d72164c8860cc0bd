"""The rows of users: held while places are given out, counted when a user is cut off, gone when they say nothing."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, select, update

from tests.stores import (
    IDLE,
    SQL,
    Subject,
    a_record,
    driven,
    key,
    now,
    sql_store,
)
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.errors import SessionLimitReached
from vedsess_middleware.stores.contract import RESERVED_FOR
from vedsess_middleware.stores.sql import SQLStore
from vedsess_middleware.stores.sql.tables import facts, instant, users

KEY, OTHER, THIRD, FOURTH = key("one"), key("other"), key("third"), key("fourth")
DAYS = 86400.0


@pytest.fixture(params=SQL)
def store(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with sql_store(request.param, request) as store:
        store.run(store.create_tables())
        yield store


async def rows(store: Subject) -> dict[str, Any]:
    """The rows of users."""
    found = await store.raw._database.visit(lambda connection: connection.execute(select(users)).all())
    return {row.user_id: row for row in found}


def reserving(store: Subject, name: str, at: float, *, user: str = "ada", limit: int = 2, deny: bool = False) -> Any:
    return store.reserve(user, name, limit=limit, deny=deny, at=at)


# -- places ------------------------------------------------------------------------------------------------------------


@driven
async def test_a_place_costs_three_statements_once_there_is_a_row(store: Subject) -> None:
    sent = list[str]()
    engine = (store.raw._database._doors.get() if store.raw.is_async else store.raw._database._doors).statements
    event.listen(engine, "before_cursor_execute", lambda _connection, _cursor, statement, *_: sent.append(statement))
    at, verbs = now(), list[list[str]]()
    for name in (KEY, OTHER, THIRD):
        await reserving(store, name, at, limit=9)
        verbs.append([statement.split()[0] for statement in sent if not statement.startswith(("BEGIN", "PRAGMA"))])
        sent.clear()
    known = ["SELECT", "SELECT", "UPDATE"]
    assert verbs == [["SELECT", "INSERT", *known], known, known]


@driven
async def test_a_row_holds_the_places_that_are_kept_and_no_others(store: Subject) -> None:
    at = now()
    await reserving(store, KEY, at, limit=9)
    await reserving(store, OTHER, at + 5.0, limit=9)
    assert json.loads((await rows(store))["ada"].reserved) == {
        KEY: round((at + RESERVED_FOR) * 1000),
        OTHER: round((at + 5.0 + RESERVED_FOR) * 1000),
    }
    await reserving(store, THIRD, at + 12.0, limit=2)
    assert json.loads((await rows(store))["ada"].reserved).keys() == {OTHER, THIRD}
    assert await reserving(store, FOURTH, at + 12.0, limit=2) == [OTHER]
    kept = json.loads((await rows(store))["ada"].reserved)
    assert kept.keys() == {OTHER, f"x:{OTHER}", THIRD, FOURTH}


@driven
async def test_who_is_denied_leaves_the_row_as_it_was_and_held_by_nobody(store: Subject) -> None:
    at = now()
    await reserving(store, KEY, at, limit=1)
    before = await rows(store)
    for _ in range(3):
        with pytest.raises(SessionLimitReached):
            await reserving(store, OTHER, at + 1.0, limit=1, deny=True)
    assert await rows(store) == before
    assert await reserving(store, OTHER, at + 1.0, limit=1) == [KEY]


@driven
async def test_a_place_whose_session_was_stored_is_taken_by_that_session_or_by_none(store: Subject) -> None:
    at = now()
    stored: dict[str, Any] = {"live": {}, "of another user": {"user_id": "bob"}, "over": {"idle": 5.0}, "ended": {}}
    for number, (what, options) in enumerate(stored.items()):
        user, name = f"u{number}", key(what)
        await reserving(store, name, at, user=user, limit=1)
        await store.create(name, a_record(at, **{"user_id": user, **options}))
    await store.end([key("ended")], at=at, until=at + IDLE)
    lost = [await reserving(store, key("new"), at + 6.0, user=f"u{number}", limit=1) for number in range(4)]
    assert lost == [[key("live")], [], [], []]


@driven
async def test_places_that_cannot_be_read_keep_nobody_out(store: Subject) -> None:
    at = now()
    for spoiled in ("", "[]", '{"a": "b"}', "no JSON"):
        await reserving(store, KEY, at, limit=1)
        statement = update(users).values(reserved=spoiled)
        await store.raw._database.visit(lambda connection, statement=statement: connection.execute(statement))
        assert await reserving(store, OTHER, at, limit=1, deny=True) == []


@driven
async def test_users_whose_names_differ_in_nothing_but_case_are_two(store: Subject) -> None:
    at, names = now(), ("ada", "Ada", "adá")
    for number, user in enumerate(names):
        assert await reserving(store, key(f"n{number}"), at, user=user, limit=1, deny=True) == []
        await store.create(key(f"n{number}"), a_record(at, user_id=user, sid=user))
    assert (await rows(store)).keys() == {*names}
    for number, user in enumerate(names):
        assert set(await store.records_of(user, at=at)) == {key(f"n{number}")}
        assert set(await store.records_of(user, at=at, by="sid")) == {key(f"n{number}")}
    assert await store.cut_off("Ada", at=at, until=at + IDLE) == [key("n1")]
    assert await store.cut_offs(after=0) == {"Ada": at}


@driven
async def test_many_users_who_meet_for_the_first_time_all_get_in(store: Subject) -> None:
    at = now()
    works = [partial(reserving, store, key(f"n{n}"), at, user=f"u{n % 4}", limit=9) for n in range(24)]
    assert await store.together(works) == [[]] * 24
    assert (await rows(store)).keys() == {"u0", "u1", "u2", "u3"}
    assert all(len(json.loads(row.reserved)) == 6 for row in (await rows(store)).values())


@driven
async def test_whoever_reserves_beside_an_end_and_a_cut_off_waits_and_does_not_fail(store: Subject) -> None:
    at = now()

    async def life(number: int) -> None:
        for turn in range(4):
            name = key(f"n{number}-{turn}")
            lost = await reserving(store, name, at, limit=3)
            await store.end(lost, at=at, until=at + IDLE)
            if (await store.load(name, at=at, refresh=60.0)) is None:
                await store.merge(name, a_record(at, user_id="ada"))
            if number == 0:
                await store.cut_off("ada", at=at, until=at + IDLE)
            await store.cleanup(at=at)

    assert await store.together([partial(life, number) for number in range(6)]) == [None] * 6
    assert (await store.poll()).cut_offs == 4


# -- cut-offs ----------------------------------------------------------------------------------------------------------


@driven
async def test_of_cut_offs_that_meet_each_has_a_number_of_its_own(store: Subject) -> None:
    at = now()
    names = [f"u{number}" for number in range(12)]
    for name in names:
        await store.create(key(name), a_record(at, user_id=name))
    cuts = await store.together([partial(store.cut_off, name, at=at, until=at + IDLE) for name in names])
    assert cuts == [[key(name)] for name in names]
    assert sorted(row.cut_off_number for row in (await rows(store)).values()) == [*range(1, 13)]
    assert (await store.poll()).cut_offs == 12
    assert len(await store.cut_offs(after=9)) == 3


@driven
async def test_a_cut_off_that_is_late_is_told_again_and_moves_nothing_back(store: Subject) -> None:
    at = now()
    await store.cut_off("ada", at=at + 5.0, until=at + IDLE)
    await store.cut_off("ada", at=at, until=at + IDLE)
    assert await store.cut_offs(after=1) == {"ada": at + 5.0}


@driven
async def test_a_cut_off_is_owed_to_nobody_where_that_is_asked_for(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada"))
    assert await store.cut_off("ada", at=at, until=at + IDLE, dirty=False) == [KEY]
    assert (await store.poll()).dirty == frozenset()


@driven
async def test_a_poll_tells_the_cut_offs_beside_the_epoch(store: Subject) -> None:
    await store.set_epoch("one", missing="")
    await store.cut_off("ada", at=now(), until=now() + IDLE)
    news = await store.poll()
    assert (news.epoch, news.cut_offs, news.complete) == ("one", 1, True)
    assert await store.set_epoch("two", missing="one")
    found = await store.raw._database.visit(lambda connection: connection.execute(select(facts)).all())
    assert dict(found) == {"epoch": "two", "cut_offs": "1"}


# -- rows that say nothing ---------------------------------------------------------------------------------------------


@driven
async def test_a_row_goes_when_its_places_are_free(store: Subject) -> None:
    at = now()
    await reserving(store, KEY, at)
    await reserving(store, OTHER, at + 5.0)
    await store.cleanup(at=round(at + 5.0 + RESERVED_FOR - 0.001, 3))
    assert (await rows(store)).keys() == {"ada"}
    await store.cleanup(at=at + 5.0 + RESERVED_FOR)
    assert await rows(store) == {}
    assert await reserving(store, THIRD, at + 60.0, limit=1, deny=True) == []


@driven
async def test_a_row_goes_when_no_session_from_before_its_cut_off_can_be_alive(store: Subject) -> None:
    at = now()
    await store.cut_off("ada", at=at, until=at + IDLE)
    await reserving(store, KEY, at + 1.0)
    await store.cleanup(at=at + 30 * DAYS - 0.001)
    assert await store.cut_offs(after=0) == {"ada": at}
    await store.cleanup(at=at + 30 * DAYS)
    assert await rows(store) == {}
    assert (await store.poll()).cut_offs == 1
    await store.cut_off("eve", at=at, until=at + IDLE)
    assert await store.cut_offs(after=1) == {"eve": at}


def test_how_long_a_cut_off_is_remembered_can_be_chosen(sqlite_url: str) -> None:
    at = now()
    store = SQLStore.from_url(sqlite_url, is_async=False, longest_life=100.0)
    run_blocking(store.cut_off("ada", at=at, until=at + IDLE))
    query = select(users.c.expires_at)
    ends_at = run_blocking(store._database.visit(lambda connection: connection.execute(query).scalar_one()))
    assert ends_at == instant(at + 100.0)
    run_blocking(store.close())


@driven
async def test_cleanup_counts_sessions_and_no_rows_of_users(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at, user_id="ada", idle=5.0))
    await reserving(store, OTHER, at)
    assert await store.cleanup(at=at + 60.0) == 1
    assert await rows(store) == {}
