"""A row is changed without a transaction, and becomes what a transaction would have made of it."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stores import Subject, key, now, running
from tests.test_record import AT, DELTAS, NAMES, PAIRS, RECORDS, VERSIONS
from vedsess_middleware.stores.record import Delta, Fence, Origin, Record, Version
from vedsess_middleware.stores.sql import SQLStore, changes, work
from vedsess_middleware.stores.sql.changes import Held
from vedsess_middleware.stores.sql.tables import sessions

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
LOCKS = st.sampled_from([None, "", "7 0 ", f"7 {(AT + 2000) * 1000} word", f"8 {(AT + 2000) * 1000} other"])
_numbers = count()


@st.composite
def guarded_deltas(draw: st.DrawFn) -> Delta:
    """A delta that may need a lock, and may expect fields to stay."""
    fence = draw(st.sampled_from([None, Fence("sql", 7), Fence("sql", 7), Fence("redis", 7)]))
    expected = draw(st.just({}) | st.dictionaries(NAMES, VERSIONS | st.just(Version()), max_size=2))
    commit = draw(st.sampled_from(["c", "d"]))
    return draw(DELTAS).replace(fence=fence, expected=expected, commit_id=commit)


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


def placed(store: Subject, row: Record | None, *, dirty: bool, lock: str | None = None, commit: str = "") -> str:
    """A key under which there is this row."""
    name = f"{next(_numbers):064x}"
    if row is not None:
        insert = partial(work.insert, key=name, record=row, dirty=dirty, commit=commit)
        store.run(store.raw._database.visit(insert))
        set_lock(store, name, lock)
    return name


def set_lock(store: Subject, name: str, lock: str | None) -> None:
    """Let a row be locked like this."""
    statement = sessions.update().where(sessions.c.session_id == name).values(lock_holder=lock)
    store.run(store.raw._database.visit(lambda connection: connection.execute(statement)))


def held(store: Subject, name: str) -> Held:
    """All that a row holds."""
    found = store.run(store.raw._database.visit(partial(work.look, key=name)))
    assert isinstance(found, Held)
    return found


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
@CALM
@given(pair=PAIRS, there=st.booleans(), dirty=st.booleans(), lock=LOCKS, delta=guarded_deltas())
def test_a_row_becomes_what_a_transaction_makes_of_it(
    store: Subject, decide: Decide, pair: tuple[Record, Record], there: bool, dirty: bool, lock: str, delta: Delta
) -> None:
    row, change = pair[0] if there else None, decide(*pair, delta)
    one, other = (placed(store, row, dirty=dirty, lock=lock, commit="d") for _ in range(2))
    answer = store.run(store.raw._database.change(one, change))
    assert answer == store.run(store.raw._database.transact(partial(work.change, key=other, change=change)))
    assert row_of(store, one) == row_of(store, other)
    assert held(store, one) == held(store, other)


@st.composite
def guesses(draw: st.DrawFn) -> tuple[Record, Record, Record]:
    """A row, a record to be brought into it, and a guess at the row: of the same session, and often right."""
    row, other = draw(PAIRS)
    guess = draw(st.just(row) | st.just(other) | RECORDS)
    birth = {name: getattr(row, name) for name in ("created_at", "idle_timeout", "deadline_at", "user_id")}
    names = "session_fingerprint", "user_agent", "ip_address", "sid", "origin"
    labels = {name: getattr(row, name) for name in names}
    return row, other, guess if guess.gone or row.gone else guess.replace(**birth, **labels)


@pytest.mark.parametrize("decide", DECISIONS.values(), ids=DECISIONS)
@CALM
@given(chosen=guesses(), dirty=st.booleans(), said=st.booleans(), lock=LOCKS, delta=guarded_deltas())
def test_a_guess_at_the_row_changes_nothing_of_what_becomes_of_it(
    store: Subject,
    decide: Decide,
    chosen: tuple[Record, Record, Record],
    dirty: bool,
    said: bool,
    lock: str,
    delta: Delta,
) -> None:
    row, record, guess = chosen
    change = decide(row, record, delta)
    one, other = (placed(store, row, dirty=dirty, lock=lock) for _ in range(2))
    answer = store.run(store.raw._database.change(one, change, guess=guess.replace(dirty=said)))
    assert answer == store.run(store.raw._database.transact(partial(work.change, key=other, change=change)))
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

    def change(found: Held) -> changes.Step[Record]:
        if not seen:
            store.run(store.raw._database.visit(partial(work.forget, key=name, version=row.version)))
            store.run(store.raw._database.visit(partial(work.insert, key=name, record=then, dirty=then.dirty)))
        seen.append(found.record)
        return changes.mirrored(found, record=copy)

    answer = store.run(store.raw._database.change(name, change, guess=row if guessed else None))
    assert seen[-1] == then
    assert answer == row_of(store, name)[0] == changes.mirrored(Held(then), record=copy).answer
    assert row_of(store, name)[1] is changes.mirrored(Held(then), record=copy).answer.dirty


def test_a_row_that_comes_between_the_look_and_the_write_is_kept(store: Subject) -> None:
    at = now()
    record = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    theirs = record.written(Delta(put={"a": "1"}, at=at, commit_id="c"), Version(1, 2))
    name, seen = placed(store, None, dirty=False), list[Record | None]()

    def change(found: Held) -> changes.Step[Record]:
        if not seen:
            store.run(store.raw._database.visit(partial(work.insert, key=name, record=theirs)))
        seen.append(found.record)
        return changes.mirrored(found, record=record)

    assert store.run(store.raw._database.change(name, change)) == theirs
    assert seen == [None, theirs]


@pytest.mark.parametrize("name", ["user_id", "session_fingerprint", "user_agent", "ip_address", "sid", "origin"])
@pytest.mark.parametrize("guessed", [True, False])
def test_what_a_copy_says_of_the_birth_of_a_row_that_did_not_say_it_is_kept(
    store: Subject, name: str, guessed: bool
) -> None:
    said = str(Origin(family="f")) if name == "origin" else "said"
    at = now()
    row = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    copy = row.written(Delta(put={"a": "1"}, at=at, commit_id="c"), Version(1, 2)).replace(**{name: said})
    there = placed(store, row, dirty=False)
    answer = store.run(store.mirror(there, copy, before=row if guessed else None))
    assert getattr(row_of(store, there)[0], name) == getattr(answer, name) == said


@pytest.mark.parametrize(
    ("lock", "then", "unlocked"),
    [
        ("7 9999999999999 word", "7 0 ", True),
        ("7 9999999999999 word", "8 9999999999999 other", True),
        ("7 9999999999999 word", "7 1000 word", True),
        ("7 9999999999999 word", "7 9999999999998 word", False),
        ("7 9999999999999 word", "7 9999999999999 word", False),
    ],
)
@pytest.mark.parametrize("take_over", [True, False])
def test_a_lock_that_is_lost_between_the_look_and_the_write_keeps_the_write_out(
    store: Subject, lock: str, then: str, unlocked: bool, take_over: bool
) -> None:
    at = now()
    row = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    name, seen = placed(store, row, dirty=False, lock=lock), list[str]()
    delta = Delta(put={"a": "1"}, at=at, commit_id="c", fence=Fence("sql", 7))
    decide = changes.taken_over if take_over else changes.written

    def change(found: Held) -> changes.Step[Any]:
        step = decide(found, delta=delta)
        if not seen:
            set_lock(store, name, then)
        seen.append(found.lock)
        return step

    answer = store.run(store.raw._database.change(name, change))
    assert answer.unlocked is unlocked
    assert seen[0] == lock
    assert (held(store, name).record == row) is unlocked
    assert held(store, name).lock == then


def test_who_needs_no_lock_does_not_mind_whose_it_is(store: Subject) -> None:
    at = now()
    row = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    name, seen = placed(store, row, dirty=False), list[str]()

    def change(found: Held) -> changes.Step[Any]:
        set_lock(store, name, f"{len(seen)} 9999999999999 word")
        seen.append(found.lock)
        return changes.written(found, delta=Delta(put={"a": "1"}, at=at, commit_id="c"))

    assert store.run(store.raw._database.change(name, change, guess=row)).version == (2, 1)
    assert len(seen) == 1


@pytest.mark.parametrize("dirty", [True, False])
def test_a_commit_that_comes_twice_is_written_once(store: Subject, dirty: bool) -> None:
    at = now()
    row = Record.new(at=at, idle_timeout=1800.0, deadline_at=at + 3600.0, version=Version(1, 1))
    decide = changes.taken_over if dirty else changes.written
    for guess in (None, row):
        name = placed(store, row, dirty=dirty)
        delta = Delta(put={"a": "1"}, at=at, commit_id="c", loaded=guess, expected={"a": Version()})
        change = partial(decide, delta=delta)
        answers = [store.run(store.raw._database.change(name, change, guess=guess)) for _ in range(2)]
        assert answers[0] == answers[1]
        assert answers[1].version == (2, 1)
        other = partial(decide, delta=delta.replace(commit_id="d"))
        assert store.run(store.raw._database.change(name, other)).conflict == ("a",)


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
