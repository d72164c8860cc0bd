"""The model of the session protocol: it holds as it is, and each mechanism that it consists of is needed.

Searches are bounded by states, not by seconds, so that a slow machine finds the same.
"""

from dataclasses import replace

import pytest

from tests.model.checker import Checker
from tests.model.expiry import Expiry, ExpiryRules
from tests.model.rules import Rules
from tests.model.runs import ABLATIONS, EXCEPTIONS, PROTOCOL, WALKS, Run

MOST_STATES = 10_000


@pytest.mark.parametrize("run", PROTOCOL, ids=lambda run: run.name)
def test_the_protocol_holds_in_the_first_states(run: Run) -> None:
    """No promise is broken in the states next to the start."""
    verdict = Checker(run.rules, replace(run.bounds, states=MOST_STATES)).check()
    assert (verdict.what, verdict.trace) == ("nothing found", ())


@pytest.mark.long
@pytest.mark.parametrize("run", PROTOCOL, ids=lambda run: run.name)
def test_the_protocol_holds(run: Run) -> None:
    """No promise is broken in as many states as the run allows."""
    verdict = Checker(run.rules, run.bounds).check()
    assert (verdict.what, verdict.trace) == ("nothing found", ())


@pytest.mark.parametrize("walks", [500, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("run", WALKS, ids=lambda run: run.name)
def test_the_protocol_holds_on_random_walks(run: Run, walks: int) -> None:
    """No promise is broken far from the start."""
    verdict = Checker(run.rules, run.bounds).wander(walks)
    assert (verdict.what, verdict.trace) == ("nothing found", ())


@pytest.mark.parametrize("run", ABLATIONS, ids=lambda run: run.name)
def test_a_protocol_without_one_mechanism_breaks_its_promise(run: Run) -> None:
    """The search finds how."""
    verdict = Checker(run.rules, run.bounds).check()
    assert (verdict.word, verdict.what.partition(":")[0]) == ("VIOLATION", run.breaks)


@pytest.mark.parametrize("run", ABLATIONS, ids=lambda run: run.name)
def test_the_whole_protocol_keeps_it_there(run: Run) -> None:
    """With the mechanism, nothing is found near the start of the same run."""
    verdict = Checker(Rules(mirror=run.rules.mirror), replace(run.bounds, states=MOST_STATES // 2)).check()
    assert (verdict.what, verdict.trace) == ("nothing found", ())


@pytest.mark.parametrize("run", EXCEPTIONS, ids=lambda run: run.name)
def test_a_known_exception_is_one(run: Run) -> None:
    """The protocol promises less here, and says so."""
    verdict = Checker(run.rules, run.bounds).check()
    assert (verdict.word, verdict.what.partition(":")[0]) == ("VIOLATION", run.breaks)


@pytest.mark.parametrize(
    "faults", [("empty", "sql", "link", "kill"), ("link", "kill")], ids=["one fault", "two faults"]
)
def test_a_session_ends_neither_before_its_time_nor_after_it(faults: tuple[str, ...]) -> None:
    """All states were seen."""
    verdict = Expiry(ExpiryRules(), faults, n_faults=1 if len(faults) > 2 else 2).check()
    assert (verdict.word, verdict.trace) == ("exhausted", ())


@pytest.mark.parametrize(
    ("rules", "faults"),
    [
        pytest.param(ExpiryRules(copies_use=False), ("link",), id="no copy of a use"),
        pytest.param(ExpiryRules(later_wins=False), ("link",), id="a merge stores an older use"),
        pytest.param(ExpiryRules(deadline_kept=False), ("empty",), id="a fill counts the deadline anew"),
    ],
)
def test_without_one_rule_of_expiry_a_session_ends_at_the_wrong_time(
    rules: ExpiryRules, faults: tuple[str, ...]
) -> None:
    """The search finds how."""
    assert Expiry(rules, faults).check().word == "VIOLATION"
