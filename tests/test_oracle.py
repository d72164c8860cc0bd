"""The oracle of the fault rig on histories made by hand: each check lets one pass, and flags another."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.rig.checks import Limits, Window, check_all, latencies, staleness
from tests.rig.convergence import Row, Snapshot, unconverged
from tests.rig.history import History, Op

USER = "u-ada"


def op(kind: str, start: float, end: float | None = None, **facts: Any) -> Op:
    """An operation of Ada's browser at w0, answered after 10 ms."""
    end = start + 0.01 if end is None else end
    client = facts.pop("client", "ada")
    if kind in ("read", "write", "delete", "regenerate") and facts.get("outcome", "ok") == "ok":
        facts = {"seen": {}, "seen_user": USER, **facts}
    worker = facts.pop("worker", "w0")
    return Op(client=client, seq=round(100 * start), kind=kind, start=start, end=end, worker=worker, **facts)  # type: ignore[arg-type]


def login(start: float = 0.0, *, sent: str = "", got: str = "A.1", **facts: Any) -> Op:
    return op("login", start, sent=sent, got=got, user=USER, seen={}, seen_new=not sent, **facts)


def read(start: float, sent: str, seen: dict[str, str] | None = None, **facts: Any) -> Op:
    return op("read", start, sent=sent, seen=seen or {}, **facts)


def anonymous(start: float, sent: str, **facts: Any) -> Op:
    return op("read", start, sent=sent, seen_user=None, seen={}, seen_new=True, **facts)


def write(start: float, sent: str, got: str, value: str, end: float | None = None, **facts: Any) -> Op:
    name = facts.pop("name", "f0")
    return op("write", start, end, sent=sent, got=got, name=name, value=value, **facts)


def flagged(ops: Sequence[Op], *windows: Window, limits: Limits = Limits()) -> set[str]:
    return {violation.check for violation in check_all(ops, windows, limits)}


OUTAGE = Window(name="F1", start=1.0, heal=3.0, end=4.0)

# -- writes ------------------------------------------------------------------------------------------------------------


def test_a_write_that_every_later_read_shows_is_no_violation() -> None:
    assert not flagged([login(), write(1, "A.1", "A.2", "x"), read(2, "A.2", {"f0": "x"})])


def test_an_acknowledged_write_that_is_missing_at_the_end_is_lost() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x"), read(9, "A.1", {}, final=True, client="replay")]
    assert flagged(ops) == {"1 lost ack"}


def test_an_older_value_that_comes_back_is_a_lost_write() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x"), write(2, "A.2", "A.3", "y", seen={"f0": "x"})]
    assert flagged([*ops, read(9, "A.1", {"f0": "x"}, final=True, client="replay")]) == {"1 lost ack"}


def test_of_two_writes_at_once_either_may_win() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x", 2), write(1.5, "A.1", "A.3", "y", 1.6)]
    for winner in ("x", "y"):
        assert not flagged([*ops, read(9, "A.3", {"f0": winner}, final=True)])


def test_a_write_without_an_answer_may_be_there_or_not_and_may_come_later() -> None:
    unsure = write(1, "A.1", "", "x", outcome="info", status=0, error="timeout")
    unsure.got = None
    late = [login(), unsure, write(2, "A.1", "A.2", "y"), read(9, "A.2", {"f0": "x"}, final=True)]
    never = [login(), unsure, read(9, "A.1", {}, final=True)]
    assert flagged(late, replace(OUTAGE, start=0.9)) == flagged(never, replace(OUTAGE, start=0.9)) == set()


def test_a_deletion_explains_that_a_value_is_missing_and_its_absence_is_flagged_like_any_lost_write() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x"), op("delete", 2, sent="A.2", got="A.3", name="f0", seen={"f0": "x"})]
    assert not flagged([*ops, read(9, "A.3", {}, final=True)])
    assert "1 lost ack" in flagged([*ops, read(9, "A.3", {"f0": "x"}, final=True)])


def test_a_write_after_a_deletion_must_be_there() -> None:
    ops = [login(), op("delete", 1, sent="A.1", got="A.2", name="f0"), write(2, "A.2", "A.3", "y")]
    assert not flagged([*ops, read(9, "A.3", {"f0": "y"}, final=True)])
    assert flagged([*ops, read(9, "A.3", {}, final=True)]) == {"1 lost ack", "2 own reads"}


def test_what_is_written_while_the_id_changes_may_be_lost() -> None:
    change = op("regenerate", 1, 2, sent="A.1", got="B.1")
    ops = [login(), change, write(1.5, "A.1", "A.2", "x", client="replay"), read(9, "B.1", {}, final=True)]
    assert not flagged(ops)


def test_values_go_on_under_a_new_id() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x"), op("regenerate", 2, sent="A.2", got="B.1", seen={"f0": "x"})]
    assert not flagged([*ops, read(3, "B.1", {"f0": "x"})])
    assert flagged([*ops, read(2.2, "B.1", {})]) == {"2 own reads"}
    assert flagged([*ops, read(9, "B.1", {}, final=True)]) == {"1 lost ack", "2 own reads"}


# -- own reads ---------------------------------------------------------------------------------------------------------


def test_a_browser_that_does_not_see_what_it_has_just_written_is_flagged() -> None:
    assert flagged([login(), write(1, "A.1", "A.2", "x"), read(1.1, "A.2", {})]) == {"2 own reads"}


def test_a_browser_that_sees_less_than_it_saw_before_is_flagged() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x", client="other"), read(1.1, "A.1", {"f0": "x"}, got="A.2")]
    assert not flagged([*ops, read(1.2, "A.2", {"f0": "x"})])
    assert flagged([*ops, read(1.2, "A.2", {})]) == {"2 own reads"}


def test_a_read_that_began_before_the_write_was_answered_owes_nothing() -> None:
    assert not flagged([login(), write(1, "A.1", "A.2", "x", 1.5), read(1.4, "A.1", {})])


def test_of_two_responses_at_once_the_jar_only_knows_the_one_whose_cookie_it_kept() -> None:
    burst = [write(1, "A.1", "A.2", "x", 1.1), write(1, "A.1", "A.3", "y", 1.2, name="f1")]
    assert not flagged([login(), *burst, read(1.5, "A.3", {"f1": "y"})])
    assert flagged([login(), *burst, read(1.5, "A.2", {"f1": "y"}, client="replay")]) == {"2 own reads"}


# -- foreign jars ------------------------------------------------------------------------------------------------------


def test_another_holder_of_the_session_may_lag_for_a_moment_and_not_longer() -> None:
    ops = [login(), write(1, "A.1", "A.2", "x")]
    soon = [*ops, read(2, "A.1", {}, client="replay")]
    assert not flagged(soon)
    assert staleness(History(soon)) == pytest.approx(0.99)
    late = [*ops, read(3, "A.1", {}, client="replay")]
    assert flagged(late) == {"9 stale for long"}
    assert not flagged(late, limits=Limits(staleness=5))


# -- nothing from nowhere ----------------------------------------------------------------------------------------------


def test_a_value_that_nobody_wrote_is_a_phantom() -> None:
    assert flagged([login(), read(1, "A.1", {"f0": "x"})]) == {"3 phantom"}


def test_a_value_of_another_session_is_a_phantom() -> None:
    other = login(0.1, got="B.1", client="bob")
    ops = [login(), other, write(1, "A.1", "A.2", "x"), read(2, "B.1", {"f0": "x"}, client="bob")]
    assert flagged(ops) == {"3 phantom"}


def test_another_user_in_the_session_is_flagged() -> None:
    assert flagged([login(), read(1, "A.1", seen_user="u-bob")]) == {"3 mixing"}


# -- logout ------------------------------------------------------------------------------------------------------------

LOGOUT = op("logout", 1, sent="A.1", got="")


def test_after_a_logout_every_cookie_of_the_session_is_nobodys() -> None:
    assert not flagged([login(), LOGOUT, anonymous(2, "A.1"), anonymous(3, "A.7")])


def test_a_session_that_is_alive_after_its_logout_is_flagged_at_once_and_also_during_an_outage() -> None:
    ops = [login(), LOGOUT, read(1.02, "A.1", client="replay")]
    assert flagged(ops) == flagged(ops, OUTAGE) == {"4 resurrection"}


def test_a_read_that_began_before_the_logout_was_answered_may_still_see_the_session() -> None:
    assert not flagged([login(), LOGOUT, read(1.005, "A.1", client="replay")])


def test_a_logout_without_an_answer_leaves_either_but_only_one_way() -> None:
    unsure = op("logout", 1.6, sent="A.1", outcome="info", status=503)
    assert not flagged([login(), unsure, read(2, "A.1"), anonymous(3, "A.1"), anonymous(4, "A.1")], OUTAGE)
    assert flagged([login(), unsure, anonymous(2, "A.1"), read(3, "A.1")], OUTAGE) == {"4 resurrection"}


def test_an_old_id_is_dead_when_its_grace_is_over_and_a_moment_later_while_a_store_is_away() -> None:
    changed = [login(), op("regenerate", 1.5, sent="A.1", got="B.1")]
    assert not flagged([*changed, read(2, "A.1", client="replay")])
    ops = [*changed, read(3, "A.1", client="replay")]
    assert flagged(ops) == {"4 resurrection"}
    assert not flagged(ops, OUTAGE)
    assert flagged([*ops, read(6, "A.1", client="replay")], OUTAGE) == {"4 resurrection"}


# -- logins ------------------------------------------------------------------------------------------------------------


def test_somebody_who_is_logged_out_unasked_is_flagged() -> None:
    assert flagged([login(), anonymous(1, "A.1")]) == {"5 logged out"}


def test_a_login_that_finds_the_old_session_gone_is_flagged() -> None:
    ops = [login(), op("login", 1, sent="A.1", got="B.1", user=USER, seen={}, seen_new=True)]
    assert flagged(ops) == {"5 logged out"}


def test_a_cookie_that_is_removed_unasked_is_flagged() -> None:
    assert flagged([login(), read(1, "A.1", got="")]) == {"5 cookie removed"}


def test_an_id_that_changes_unasked_is_flagged() -> None:
    assert flagged([login(), read(1, "A.1", got="B.1")]) == {"5 id changed"}


def test_a_session_that_nobody_is_logged_in_to_is_nobodys() -> None:
    junk = op("blind", 2, sent="A.1", got="C.1", name="f0", value="r", client="replay")
    assert not flagged([login(), LOGOUT, junk, op("read", 3, sent="C.1", seen={"f0": "r"}, seen_user=None)])


# -- availability ------------------------------------------------------------------------------------------------------


def refusal(start: float, **facts: Any) -> Op:
    return op("read", start, **{"sent": "A.1", "outcome": "fail", "status": 503, **facts})


def test_a_503_is_allowed_at_the_begin_of_a_fault_and_flagged_later() -> None:
    assert not flagged([login(), refusal(2)], OUTAGE)
    assert flagged([login(), refusal(2.8)], OUTAGE) == {"6 unavailable"}
    assert flagged([login(), refusal(5)], OUTAGE) == {"6 unavailable"}


def test_a_503_is_right_while_both_stores_are_away() -> None:
    both = replace(OUTAGE, unavailable=True)
    assert not flagged([login(), refusal(2.8)], both)
    assert flagged([login(), refusal(6.1)], both) == {"6 unavailable"}


def test_a_500_is_never_allowed() -> None:
    assert flagged([login(), refusal(1.1, status=500)], OUTAGE) == {"6 unavailable"}


def test_a_worker_that_was_killed_need_not_answer_and_others_must() -> None:
    killed = replace(OUTAGE, workers=frozenset({"w0"}))
    assert not flagged([login(), refusal(2.8, status=0, error="cut")], killed)
    assert flagged([login(), refusal(2.8, status=0, error="cut", worker="w1")], killed) == {"6 unavailable"}


def test_latencies_are_those_of_answers() -> None:
    ops = [read(number, "A.1", worker="w0") for number in range(100)] + [refusal(1, status=0, error="timeout")]
    assert latencies(ops)["max"] == pytest.approx(0.01)


# -- convergence -------------------------------------------------------------------------------------------------------

COPY = {"session_id": "k", "version": "1.2", "d:f0": '1.2:"x"', "epoch": "e"}
ROW = Row(version="1.2", fields={"f0": '1.2:"x"'})
GOOD = Snapshot(hashes={"k": COPY}, rows={"k": ROW}, epoch="e", serving={"w0": "redis"})


@pytest.mark.parametrize(
    "snapshot",
    [
        GOOD,
        replace(GOOD, hashes={}),
        replace(GOOD, hashes={"k": {**COPY, "epoch": "older", "version": "1.1"}}),
        replace(GOOD, hashes={"k": {"lease": "l"}}),
        replace(GOOD, hashes={"k": {"gone": "1.2"}}, rows={"k": replace(ROW, active=False)}),
        replace(GOOD, hashes={"k": {**COPY, "gone": "1.2"}}, rows={"k": replace(ROW, active=False)}),
    ],
    ids=["equal", "no copy", "a copy that is not current", "a lease alone", "tombstones", "a tombstone with a rest"],
)
def test_stores_that_agree_are_at_rest(snapshot: Snapshot) -> None:
    assert not unconverged(snapshot)


@pytest.mark.parametrize(
    "snapshot",
    [
        replace(GOOD, rows={"k": replace(ROW, version="1.1")}),
        replace(GOOD, rows={"k": replace(ROW, fields={"f0": '1.1:"w"'})}),
        replace(GOOD, rows={"k": replace(ROW, dirty=True)}),
        replace(GOOD, rows={"k": replace(ROW, active=False)}),
        replace(GOOD, rows={}),
        replace(GOOD, hashes={"k": {"version": "1.2", "d:f0": '1.2:"x"'}}),
        replace(GOOD, immortal=("vedsess:session:k",)),
        replace(GOOD, to_mirror=frozenset({"k"})),
        replace(GOOD, serving={"w0": "redis", "w1": "sql"}),
        replace(GOOD, serving={"w0": ""}),
    ],
    ids=[
        "another version",
        "other fields",
        "a dirty row",
        "a copy of an ended session",
        "a copy without a row",
        "half a hash",
        "a key for ever",
        "a copy owed",
        "a worker on SQL",
        "a worker that does not answer",
    ],
)
def test_stores_that_differ_are_flagged(snapshot: Snapshot) -> None:
    assert {violation.check for violation in unconverged(snapshot)} == {"7 convergence"}


def test_only_the_keys_that_are_asked_for_are_judged() -> None:
    assert not unconverged(replace(GOOD, rows={"k": replace(ROW, dirty=True)}), ["another"])
