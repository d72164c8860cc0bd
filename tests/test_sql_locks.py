"""The lock of a session is given out by comparing it, and its text is read by nobody else."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event, update

from tests.stores import (
    IDLE,
    SQL,
    Subject,
    a_delta,
    a_record,
    driven,
    key,
    now,
    sql_store,
)
from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.record import Fence
from vedsess_middleware.stores.sql.locks import Lock
from vedsess_middleware.stores.sql.tables import sessions

KEY = key("one")
LATE = 9_999_999_999.0


@pytest.fixture(params=SQL)
def store(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with sql_store(request.param, request) as store:
        store.run(store.create_tables())
        yield store


async def set_lock(store: Subject, text: str) -> None:
    """Let the row be locked like this."""
    statement = update(sessions).where(sessions.c.session_id == KEY).values(lock_holder=text)
    await store.raw._database.visit(lambda connection: connection.execute(statement))


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lock", [Lock(), Lock(7), Lock(7, 1_900_000_000.007, "word"), Lock(1 << 50, 1.0, "two words"), Lock(1, 0.0, "é")]
)
def test_a_lock_comes_back_from_its_text(lock: Lock) -> None:
    assert Lock.parse(str(lock)) == lock


def test_a_lock_that_nobody_ever_had_has_no_text() -> None:
    assert Lock.parse("") == Lock()


@pytest.mark.parametrize("text", ["7", "7 0", "x 0 word", "7 x word", "7  word"])
def test_what_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(CorruptRecord) as raised:
        Lock.parse(text)
    assert "word" not in str(raised.value)


def test_a_lock_admits_whoever_has_its_fence_while_it_is_held() -> None:
    lock = Lock(7, 100.0, "word")
    assert lock.admits(Fence("sql", 7), 99.0)
    assert not lock.admits(Fence("sql", 7), 100.0)
    assert not lock.admits(Fence("sql", 6), 99.0)
    assert not lock.admits(Fence("redis", 7), 99.0)
    assert not Lock(7, 100.0).admits(Fence("sql", 7), 99.0)


# -- giving it out -----------------------------------------------------------------------------------------------------


class Quicker:
    """Somebody who changes the lock between a look and the statement that gives it out."""

    def __init__(self, store: Subject, *locks: Lock) -> None:
        self._locks = [str(lock) for lock in locks]
        doors = store.raw._database._doors
        self._engine = (doors.get() if store.raw.is_async else doors).statements
        event.listen(self._engine, "before_cursor_execute", self._note, retval=True)
        self._busy = False

    def _note(self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if self._locks and not self._busy and statement.startswith("UPDATE"):
            self._busy = True
            values = {"lock_holder": self._locks.pop(0)}
            connection.execute(update(sessions).where(sessions.c.session_id == KEY).values(values))
            self._busy = False
        return statement, parameters


@driven
async def test_where_somebody_was_quicker_the_lock_is_theirs(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    Quicker(store, Lock(7, LATE, "quick"))
    assert await store.lock(KEY, "slow", at=at, until=at + 5.0) is None
    assert not (await store.update(KEY, a_delta(at, put={"b": "1"}, fence=Fence("sql", 7)))).refused


@driven
async def test_where_somebody_was_quicker_and_is_done_the_lock_is_given_out(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    Quicker(store, Lock(1 << 50))
    assert await store.lock(KEY, "slow", at=at, until=at + 5.0) == Fence("sql", (1 << 50) + 1)


@driven
async def test_where_somebody_was_quicker_twice_no_lock_is_given_out(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    Quicker(store, Lock(7), Lock(8))
    assert await store.lock(KEY, "slow", at=at, until=at + 5.0) is None
    assert await store.lock(KEY, "slow", at=at, until=at + 5.0) is not None


@driven
async def test_a_lock_is_not_given_out_if_its_session_ends_after_the_look(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    ended, doors = list[str](), store.raw._database._doors
    engine = (doors.get() if store.raw.is_async else doors).statements

    def end(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE") and not ended:
            ended.append(statement)
            connection.execute(update(sessions).values(is_active=False))

    event.listen(engine, "before_cursor_execute", end)
    assert await store.lock(KEY, "word", at=at, until=at + 5.0) is None
    assert ended


@driven
async def test_the_lock_of_a_row_that_was_forgotten_and_came_back_has_a_higher_number(store: Subject) -> None:
    at = now()
    version = await store.create(KEY, a_record(at))
    first = await store.lock(KEY, "one", at=at, until=at + 5.0)
    await store.forget(KEY, version)
    await store.create(KEY, a_record(at))
    second = await store.lock(KEY, "two", at=at + 0.002, until=at + 5.0)
    assert second.number > first.number
    assert (await store.update(KEY, a_delta(at, put={"a": "2"}, fence=first))).unlocked


@driven
async def test_numbers_that_begin_alike_are_two_locks(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await set_lock(store, str(Lock(71, LATE, "word")))
    for other in (7, 1, 711):
        await store.unlock(KEY, Fence("sql", other))
        assert await store.lock(KEY, "other", at=at, until=at + 5.0) is None
    await store.unlock(KEY, Fence("sql", 71))
    assert await store.lock(KEY, "other", at=at, until=at + 5.0) is not None


@driven
async def test_a_lock_that_cannot_be_read_stops_its_holder_and_nobody_else(store: Subject) -> None:
    at = now()
    await store.create(KEY, a_record(at))
    await set_lock(store, "spoiled")
    for call in (
        store.lock(KEY, "word", at=at, until=at + 5.0),
        store.update(KEY, a_delta(at, put={"a": "2"}, fence=Fence("sql", 7))),
    ):
        with closing(call), pytest.raises(CorruptRecord):
            await call
    assert not (await store.update(KEY, a_delta(at, put={"a": "3"}))).refused
    assert await store.end([KEY], at=at, until=at + IDLE) == [KEY]
