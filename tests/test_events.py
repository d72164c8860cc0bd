"""The events: frozen values that hold nothing secret, and the default hook that logs them."""

import dataclasses
import logging

import pytest

from vedsess_middleware import events
from vedsess_middleware.events import (
    CookieRejected,
    CopyOwed,
    CopyPickedUp,
    Event,
    EventCounts,
    IdChanged,
    RecordDrained,
    RecordRejected,
    SessionCreated,
    SessionEnded,
    SessionUnavailable,
    StoreDegraded,
    StoreRecovered,
    StoreRefenced,
    StoreRefused,
    StoreRestarted,
    UnknownSession,
    WriteRefused,
    WritesLost,
    log_event,
)

LEVELS: dict[type[Event], int] = {
    CookieRejected: logging.INFO,
    CopyOwed: logging.WARNING,
    CopyPickedUp: logging.INFO,
    IdChanged: logging.DEBUG,
    WriteRefused: logging.INFO,
    WritesLost: logging.ERROR,
    RecordDrained: logging.DEBUG,
    RecordRejected: logging.ERROR,
    SessionCreated: logging.DEBUG,
    SessionEnded: logging.DEBUG,
    SessionUnavailable: logging.WARNING,
    StoreDegraded: logging.WARNING,
    StoreRecovered: logging.WARNING,
    StoreRefenced: logging.WARNING,
    StoreRefused: logging.ERROR,
    StoreRestarted: logging.INFO,
    UnknownSession: logging.DEBUG,
}
KINDS = sorted(LEVELS, key=lambda kind: kind.__name__)
LOGGER = "vedsess_middleware"


def one_of(kind: type[Event]) -> Event:
    """An event whose every fact is its own name."""
    return kind(**{each.name: each.name for each in dataclasses.fields(kind)})


def test_every_event_is_known_here_and_exported() -> None:
    found = {name for name, value in vars(events).items() if isinstance(value, type) and issubclass(value, Event)}
    assert found == {"Event", *(kind.__name__ for kind in KINDS)}
    assert set(events.__all__) == {*found, "EventCounts", "EventHook", "log_event"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_cannot_be_changed_or_extended(kind: type[Event]) -> None:
    event = one_of(kind)
    for name in [each.name for each in dataclasses.fields(kind)]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(event, name, "other")
    assert not hasattr(event, "__dict__")


@pytest.mark.parametrize("kind", KINDS)
def test_the_facts_of_an_event_are_given_by_name(kind: type[Event]) -> None:
    assert one_of(kind) == one_of(kind)
    with pytest.raises(TypeError):
        kind("by position")  # type: ignore[call-arg]


def test_no_event_has_room_for_an_id_a_cookie_or_a_value() -> None:
    """What is called `session` or `previous` is the start of a key; `reason` is a word of ours."""
    facts = {each.name for kind in KINDS for each in dataclasses.fields(kind)}
    assert facts == {"session", "previous", "login", "reason", "store"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_one_log_record_of_its_level(kind: type[Event], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    log_event(one_of(kind))
    [record] = caplog.records
    assert (record.name, record.levelno) == (LOGGER, LEVELS[kind])
    assert record.__dict__["event"] == kind.__name__
    facts = " ".join(f"{each.name}='{each.name}'" for each in dataclasses.fields(kind))
    assert record.getMessage() == f"{kind.__name__} {facts}"


def test_what_nobody_listens_to_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, LOGGER)
    log_event(CookieRejected(reason="bad signature"))
    assert caplog.records == []
    log_event(StoreDegraded(store="redis", reason="timeout"))
    assert [record.getMessage() for record in caplog.records] == ["StoreDegraded store='redis' reason='timeout'"]


def test_a_fact_cannot_forge_a_second_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    log_event(StoreRefused(store="redis", reason="refused\nERROR all is lost %s"))
    assert caplog.records[0].getMessage() == "StoreRefused store='redis' reason='refused\\nERROR all is lost %s'"


def test_events_are_counted_by_kind_and_handed_on() -> None:
    seen: list[Event] = []
    counts = EventCounts(seen.append)
    for event in (SessionCreated(session="a"), SessionCreated(session="b"), WritesLost(session="a")):
        counts(event)
    assert counts.counts == {"SessionCreated": 2, "WritesLost": 1}
    assert len(seen) == 3
