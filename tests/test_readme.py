"""What the README points to is there."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROW = re.compile(r"\[(test_\w+)\]\(tests/test_\w+\.py\) `(test_\w+)`")
ADVISORY = re.compile(r"^\| ((?:CVE|GO|tower)[^|]*) \| `(test_\w+)` \|$", re.MULTILINE)


@cache
def named_in(module: str) -> set[str]:
    return set(re.findall(r"^(?:async )?def (test_\w+)", (ROOT / "tests" / f"{module}.py").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "name", sorted({"README.md", *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))})
)
def test_every_link_leads_to_a_file_or_to_a_heading(name: str) -> None:
    text, folder = (ROOT / name).read_text(), (ROOT / name).parent
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        if place.startswith("http"):
            continue
        assert (folder / place).exists() if place else anchor in headings, target


def test_every_requirement_is_shown_by_a_test_that_there_is() -> None:
    rows = ROW.findall(README)
    assert len(rows) == 25
    assert [(module, test) for module, test in rows if test not in named_in(module)] == []


def test_every_advisory_is_listed_with_the_test_that_refutes_it() -> None:
    from tests.test_advisories import ADVISORIES

    listed = {each: test for ids, test in ADVISORY.findall(README) for each in ids.split(", ")}
    assert listed == ADVISORIES
