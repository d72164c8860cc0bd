"""A row is changed without a transaction, and becomes what a transaction would have made of it."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stores import Subject, key, now, running
from tests.test_record import DELTAS, PAIRS, RECORDS
from vedsess_middleware.stores.record import Delta, Record, Version
from vedsess_middleware.stores.sql import SQLStore, changes, work

CALM = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
KEY = key("one")

Decide = Callable[[Record | None, Record, Delta], changes.Change[Any]]
DECISIONS: dict[str, Decide] = {
    "mirror": lambda row, other, delta: partial(changes.mirrored, record=other),
    "merge": lambda row, other, delta: partial(changes.brought_together, record=other),
    "owe": lambda row, other, delta: partial(changes.brought_together, record=other, dirty=True),
    "update": lambda row, other, delta: partial(changes.written, delta=delta),
    "take over": lambda row, other, delta: partial(changes.taken_over, delta=delta.replace(loaded=other)),
}
_numbers = count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    path = tmp_path_factory.mktemp("changes") / "sessions.sqlite3"
    with running(SQLStore.from_url(f"sqlite:///{path}", is_async=False, timeout=10.0)) as store:
        store.run(store.create_tables())
        yield store


def row_of(store: Subject, name: str) -> tuple[Record | None, bool]:
    """What a row holds, and its mark."""
    record = store.run(store.peek(name))
    return record, record is not None and record.dirty


def placed(store: Subject, row: Record | None, *, dirty: bool) -> str:
    """A key under which there is this row."""
    name = f"{next(_numbers):064x}"
    if row is not None:
        store.run(store._visit(partial(work.insert, key=name, record=row, dirty=dirty)))
    return name


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
@CALM
@given(pair=PAIRS, there=st.booleans(), dirty=st.booleans(), delta=DELTAS)
def test_a_row_becomes_what_a_transaction_makes_of_it(
    store: Subject, decide: Decide, pair: tuple[Record, Record], there: bool, dirty: bool, delta: Delta
) -> None:
    row, change = pair[0] if there else None, decide(*pair, delta)
    one, other = placed(store, row, dirty=dirty), placed(store, row, dirty=dirty)
    answer = store.run(store._change(one, change))
    assert answer == store.run(store._transact(partial(work.change, key=other, change=change)))
    assert row_of(store, one) == row_of(store, other)


@st.composite
def guesses(draw: st.DrawFn) -> tuple[Record, Record, Record]:
    """A row, a record to be brought into it, and a guess at the row: of the same session, and often right."""
    row, other = draw(PAIRS)
    guess = draw(st.just(row) | st.just(other) | RECORDS)
    birth = {name: getattr(row, name) for name in ("created_at", "idle_timeout", "deadline_at", "user_id")}
    labels = {name: getattr(row, name) for name in ("session_fingerprint", "user_agent", "ip_address")}
    return row, other, guess if guess.gone or row.gone else guess.replace(**birth, **labels)


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
@CALM
@given(chosen=guesses(), dirty=st.booleans(), said=st.booleans(), delta=DELTAS)
def test_a_guess_at_the_row_changes_nothing_of_what_becomes_of_it(
    store: Subject, decide: Decide, chosen: tuple[Record, Record, Record], dirty: bool, said: bool, delta: Delta
) -> None:
    row, record, guess = chosen
    change = decide(row, record, delta)
    one, other = placed(store, row, dirty=dirty), placed(store, row, dirty=dirty)
    answer = store.run(store._change(one, change, guess=guess.replace(dirty=said)))
    assert answer == store.run(store._transact(partial(work.change, key=other, change=change)))
    assert row_of(store, one) == row_of(store, other)


def moved(row: Record) -> dict[str, Record]:
    """The same row after what somebody else may do to it; some of that moves no version."""
    return {
        "a use": row.replace(last_activity=row.last_activity + 1.0),
        "a longer life": row.replace(expires_at=row.expires_at + 1.0),
        "a late change": row.replace(updated_at=row.updated_at + 1.0),
        "a write": row.written(Delta(put={"z": "1"}, at=row.updated_at, commit_id="c"), Version(2, 1)),
        "a merge that counts no write": row.written(
            Delta(put={"z": "1"}, at=row.updated_at, commit_id="c"), row.version
        ),
        "a count": row.replace(version=Version(1, 2)),
        "an end": Record.tombstone(version=row.version, at=row.updated_at, until=row.expires_at),
        "a mark": row.replace(dirty=True),
    }


@pytest.mark.parametrize("what", moved(Record.new(at=1.0, idle_timeout=1.0, deadline_at=1.0)))
@pytest.mark.parametrize("guessed", [True, False])
def test_what_happens_to_a_row_between_the_look_and_the_write_is_kept(store: Subject, what: str, guessed: bool) -> None:
    at = now()
    row = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    copy = row.written(Delta(put={"a": "1"}, at=at, commit_id="c"), Version(1, 2))
    name, then, seen = placed(store, row, dirty=False), moved(row)[what], list[Record | None]()

    def change(found: Record | None) -> changes.Step[Record]:
        if not seen:
            store.run(store._visit(partial(work.forget, key=name, version=row.version)))
            store.run(store._visit(partial(work.insert, key=name, record=then, dirty=then.dirty)))
        seen.append(found)
        return changes.mirrored(found, record=copy)

    answer = store.run(store._change(name, change, guess=row if guessed else None))
    assert seen[-1] == then
    assert answer == row_of(store, name)[0] == changes.mirrored(then, record=copy).answer
    assert row_of(store, name)[1] is changes.mirrored(then, record=copy).answer.dirty


def test_a_row_that_comes_between_the_look_and_the_write_is_kept(store: Subject) -> None:
    at = now()
    record = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    theirs = record.written(Delta(put={"a": "1"}, at=at, commit_id="c"), Version(1, 2))
    name, seen = placed(store, None, dirty=False), list[Record | None]()

    def change(found: Record | None) -> changes.Step[Record]:
        if not seen:
            store.run(store._visit(partial(work.insert, key=name, record=theirs)))
        seen.append(found)
        return changes.mirrored(found, record=record)

    assert store.run(store._change(name, change)) == theirs
    assert seen == [None, theirs]


@CALM
@given(rows=st.lists(st.tuples(PAIRS, st.booleans(), st.booleans()), max_size=6))
def test_many_rows_become_what_each_would_alone(
    store: Subject, rows: list[tuple[tuple[Record, Record], bool, bool]]
) -> None:
    together, alone = dict[str, Record](), dict[str, Record]()
    for (row, copy), there, dirty in rows:
        together[placed(store, row if there else None, dirty=dirty)] = copy
        alone[placed(store, row if there else None, dirty=dirty)] = copy
    answers = store.run(store.mirror_all(together))
    assert list(answers.values()) == [store.run(store.mirror(name, copy)) for name, copy in alone.items()]
    assert [row_of(store, name) for name in together] == [row_of(store, name) for name in alone]
