"""The events: frozen values that hold nothing secret, and the hooks that count, name and log them."""

import dataclasses
import hashlib
import logging
from typing import Any

import pytest

from vedsess_middleware import events
from vedsess_middleware.events import (
    CookieRejected,
    CopyOwed,
    CopyPickedUp,
    Event,
    EventCounts,
    FingerprintMismatch,
    IdChanged,
    LockLost,
    LogoutTokenRefused,
    OldIdUsed,
    RecordDrained,
    RecordRejected,
    SessionCreated,
    SessionEnded,
    SessionExpired,
    SessionLimitHit,
    SessionUnavailable,
    SocketClosed,
    StoreDegraded,
    StoreRecovered,
    StoreRefenced,
    StoreRefused,
    StoreRestarted,
    UnknownSession,
    UserCutOff,
    WriteConflict,
    WriteRefused,
    WritesLost,
    event_name,
    log_event,
)

LEVELS: dict[type[Event], int] = {
    CookieRejected: logging.INFO,
    CopyOwed: logging.WARNING,
    CopyPickedUp: logging.INFO,
    FingerprintMismatch: logging.WARNING,
    IdChanged: logging.DEBUG,
    LockLost: logging.INFO,
    LogoutTokenRefused: logging.WARNING,
    OldIdUsed: logging.WARNING,
    RecordDrained: logging.DEBUG,
    RecordRejected: logging.ERROR,
    SessionCreated: logging.DEBUG,
    SessionEnded: logging.DEBUG,
    SessionExpired: logging.INFO,
    SessionLimitHit: logging.INFO,
    SessionUnavailable: logging.WARNING,
    SocketClosed: logging.INFO,
    StoreDegraded: logging.WARNING,
    StoreRecovered: logging.WARNING,
    StoreRefenced: logging.WARNING,
    StoreRefused: logging.ERROR,
    StoreRestarted: logging.INFO,
    UnknownSession: logging.DEBUG,
    UserCutOff: logging.INFO,
    WriteConflict: logging.INFO,
    WriteRefused: logging.INFO,
    WritesLost: logging.ERROR,
}
KINDS = sorted(LEVELS, key=lambda kind: kind.__name__)
LOGGER = "vedsess_middleware"
SECRET = "Lw6nB2vX9qT4mK7zR1cY8jP3dH5gF0sAeUiOaStEwMk"
KEY, OTHER = (hashlib.sha256(text).hexdigest() for text in (b"one", b"another"))


def one_of(kind: type[Event]) -> Event:
    """An event whose every fact is its own name, but for a choice: what its name would choose is not known."""
    return kind(**{each.name: each.name for each in dataclasses.fields(kind) if each.name != "login"})


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged for people to read."""
    return [record for record in caplog.records if record.name == LOGGER]


def test_every_event_is_known_here_and_exported() -> None:
    found = {name for name, value in vars(events).items() if isinstance(value, type) and issubclass(value, Event)}
    assert found == {"Event", *(kind.__name__ for kind in KINDS)}
    others = {"VOCABULARY", "EventCounts", "EventHook", "event_name", "log_audit", "log_event"}
    assert set(events.__all__) == found | others


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
    """What names a session is the start of a key; `reason` and `policy` are words of ours; `fields` are names."""
    facts = {each.name for kind in KINDS for each in dataclasses.fields(kind)}
    sessions = {"session", "previous", "successor"}
    assert facts == {*sessions, "user_id", "login", "reason", "policy", "ended", "limit", "denied", "fields", "store"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_one_log_record_of_its_level(kind: type[Event], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    log_event(one_of(kind))
    [record] = lines(caplog)
    assert record.levelno == LEVELS[kind]
    assert record.__dict__["event"] == kind.__name__
    facts = [each.name for each in dataclasses.fields(kind)]
    told = " ".join("login=False" if fact == "login" else f"{fact}='{fact}'" for fact in facts)
    assert record.getMessage() == f"{kind.__name__} {told}"


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


@pytest.mark.parametrize("given", [{"login": True}, {"reason": "login"}, {"login": True, "reason": "renewal"}])
def test_a_login_is_one_however_it_is_told(given: dict[str, Any]) -> None:
    event = IdChanged(session="a", previous="b", **given)
    assert (event.login, event.reason) == (True, "login")


@pytest.mark.parametrize("reason", ["regenerate", "renewal", "fingerprint", "logout"])
def test_no_other_reason_for_a_new_id_is_a_login(reason: Any) -> None:
    event = IdChanged(session="a", previous="b", reason=reason)
    assert (event.login, event.reason) == (False, reason)


def test_who_says_only_that_it_was_no_login_means_that_the_app_asked_for_a_new_id() -> None:
    assert IdChanged(session="a", previous="b", login=False).reason == "regenerate"


# -- the hook that a site shares ---------------------------------------------------------------------------------------


def test_events_are_counted_by_kind_and_handed_on() -> None:
    seen: list[Event] = []
    counts = EventCounts(seen.append)
    given = [SessionCreated(session="a"), SessionCreated(session="b"), WritesLost(session="a")]
    for event in given:
        counts(event)
    assert counts.counts == {"SessionCreated": 2, "WritesLost": 1}
    assert seen == given


@pytest.mark.parametrize("kind", KINDS)
def test_every_session_in_an_event_is_named_and_nothing_else_is_touched(kind: type[Event]) -> None:
    seen: list[Event] = []
    sessions = {each.name for each in dataclasses.fields(kind)} & {"session", "previous", "successor"}
    EventCounts(seen.append, [SECRET])(dataclasses.replace(one_of(kind), **dict.fromkeys(sessions, KEY[:8])))
    assert seen == [dataclasses.replace(one_of(kind), **dict.fromkeys(sessions, event_name(SECRET, KEY)))]


def test_two_sessions_of_one_event_have_two_names() -> None:
    seen: list[Event] = []
    EventCounts(seen.append, [SECRET])(IdChanged(session=KEY[:8], previous=OTHER[:8]))
    assert seen == [IdChanged(session=event_name(SECRET, KEY), previous=event_name(SECRET, OTHER))]


def test_where_there_is_no_session_there_is_no_name() -> None:
    seen: list[Event] = []
    given = [WriteRefused(session="", reason="may_create said no"), StoreRecovered(store="redis")]
    counts = EventCounts(seen.append, [SECRET])
    for event in given:
        counts(event)
    assert all(one is other for one, other in zip(seen, given, strict=True))


def test_a_hook_that_names_is_not_wrapped_again() -> None:
    counts = EventCounts.around(lambda event: None, [SECRET])
    assert EventCounts.around(counts, [SECRET]) is counts


def test_a_hook_that_only_counts_is_wrapped_so_that_sessions_are_named() -> None:
    seen: list[Event] = []
    counts = EventCounts(seen.append)
    around = EventCounts.around(counts, [SECRET])
    around(WritesLost(session=KEY[:8]))
    assert seen == [WritesLost(session=event_name(SECRET, KEY))]
    assert around.counts == counts.counts == {"WritesLost": 1}
