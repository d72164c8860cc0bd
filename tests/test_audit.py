"""The audit log: the words of OWASP's vocabulary, one JSON object per line, and sessions under names of ours."""

import dataclasses
import hashlib
import hmac
import json
import logging
from typing import Any

import pytest

from vedsess_middleware import SessionManager, Settings, build, events, run_blocking
from vedsess_middleware.events import (
    VOCABULARY,
    CookieRejected,
    Event,
    EventHook,
    FingerprintMismatch,
    IdChanged,
    LogoutTokenRefused,
    OldIdUsed,
    SessionCreated,
    SessionEnded,
    SessionExpired,
    SessionLimitHit,
    StoreRestarted,
    UnknownSession,
    UserCutOff,
    WriteConflict,
    WritesLost,
    event_name,
    log_audit,
    log_event,
)
from vedsess_middleware.stores.memory import MemoryStore

LOGGER = "vedsess_middleware.audit"
OLD, NEW = "Lw6nB2vX9qT4mK7zR1cY8jP3dH5gF0sAeUiOaStEwMk", "Tz4mW9qX2vK7nB5cR8jL1pY6dH3gF0sAeUiOaStEwMk"
KEY, OTHER = (hashlib.sha256(text).hexdigest() for text in (b"one", b"another"))
KINDS = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)]

# Every word that OWASP's Logging Vocabulary cheat sheet has for logins, tokens, limits, inputs, sessions and systems.
CHEAT_SHEET = """
    authn_login_success authn_login_successafterfail authn_login_fail authn_login_fail_max authn_login_lock
    authn_password_change authn_password_change_fail authn_impossible_travel
    authn_token_created authn_token_revoked authn_token_reuse authn_token_delete
    excess_rate_limit_exceeded input_validation_fail input_validation_discrete_fail
    session_created session_renewed session_expired session_use_after_expire
    sys_startup sys_shutdown sys_restart sys_crash sys_monitor_disabled sys_monitor_enabled
"""


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)


def written(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the audit log, read."""
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == LOGGER]


def said(caplog: pytest.LogCaptureFixture, event: Event) -> list[str]:
    """What the audit log calls an event."""
    caplog.clear()
    log_audit(event)
    return [line["event"] for line in written(caplog)]


# -- words -------------------------------------------------------------------------------------------------------------

WORDS: list[tuple[Event, list[str]]] = [
    (SessionCreated(session="a"), ["session_created"]),
    (SessionCreated(session="a", user_id="ada"), ["authn_login_success:ada", "session_created:ada"]),
    (IdChanged(session="a", previous="b"), ["session_renewed"]),
    (IdChanged(session="a", previous="b", reason="renewal", user_id="ada"), ["session_renewed:ada"]),
    (IdChanged(session="a", previous="b", reason="fingerprint", user_id="ada"), ["session_renewed:ada"]),
    (
        IdChanged(session="a", previous="b", login=True, user_id="ada"),
        ["authn_login_success:ada", "session_renewed:ada"],
    ),
    (IdChanged(session="a", previous="b", reason="logout", user_id="ada"), ["session_expired:ada,logout"]),
    (SessionEnded(session="a", reason="revoked", user_id="ada"), ["session_expired:ada,revoked"]),
    (SessionEnded(session="a", reason="logout"), ["session_expired:,logout"]),
    (SessionExpired(session="a", reason="idle", user_id="ada"), ["session_expired:ada,idle"]),
    (UnknownSession(session="a"), ["session_use_after_expire"]),
    (OldIdUsed(session="a", successor="b", ended=True, user_id="ada"), ["authn_token_reuse:ada,a"]),
    (FingerprintMismatch(session="a", policy="end", user_id="ada"), ["input_validation_fail:(fingerprint),ada"]),
    (SessionLimitHit(user_id="ada", limit=3, denied=False), ["excess_rate_limit_exceeded:ada,3"]),
    (UserCutOff(user_id="ada", ended=0), ["authn_token_revoked:ada"]),
    (LogoutTokenRefused(reason="replayed"), ["input_validation_fail:(logout_token)"]),
    (CookieRejected(reason="bad signature"), ["input_validation_fail:(cookie)"]),
    (StoreRestarted(store="redis"), ["sys_restart"]),
    (WriteConflict(session="a", fields=("cart",)), []),
]


@pytest.mark.parametrize(("event", "words"), WORDS, ids=lambda value: type(value).__name__)
def test_an_event_is_told_in_the_words_of_the_vocabulary(
    event: Event, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert said(caplog, event) == words
    assert [word.partition(":")[0] for word in words] == list(event.audit_names)


def test_every_event_that_has_a_word_is_told_above() -> None:
    told = {type(event) for event, words in WORDS if words}
    assert told == {kind for kind in KINDS if kind.audit}


def test_the_words_are_those_of_the_cheat_sheet_and_all_are_used() -> None:
    assert VOCABULARY.keys() <= set(CHEAT_SHEET.split())
    assert VOCABULARY.keys() == {name for event, _ in WORDS for name in event.audit_names}


def test_a_user_id_cannot_pose_as_another_parameter(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, SessionEnded(session="a", reason="idle", user_id="ada,revoked")) == [
        "session_expired:ada%2Crevoked,idle"
    ]
    assert said(caplog, SessionCreated(session="a", user_id="100%2C:"))[1] == "session_created:100%252C:"


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_line_says_what_happened_to_which_session_and_whose_it_was(caplog: pytest.LogCaptureFixture) -> None:
    log_audit(OldIdUsed(session="a", successor="b", ended=False, user_id="ada"))
    assert written(caplog) == [
        {
            "event": "authn_token_reuse:ada,a",
            "level": "WARN",
            "description": VOCABULARY["authn_token_reuse"].description,
            "session": "a",
            "successor": "b",
            "ended": False,
            "user_id": "ada",
        }
    ]
    [record] = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.WARNING)
    assert record.__dict__["event"] == "authn_token_reuse:ada,a"


def test_what_is_not_known_is_left_out_and_a_count_of_none_is_not(caplog: pytest.LogCaptureFixture) -> None:
    log_audit(SessionEnded(session="a", reason="logout"))
    log_audit(UserCutOff(user_id="ada", ended=0))
    ended, cut_off = written(caplog)
    assert "user_id" not in ended
    assert cut_off["ended"] == 0


def test_no_fact_hides_what_every_line_has() -> None:
    facts = {each.name for kind in KINDS for each in dataclasses.fields(kind)}
    assert facts.isdisjoint({"event", "level", "description", "datetime", "appid"})


@pytest.mark.parametrize("character", ["\n", "\r", "\x00", "\x1b", "\x85", "\u2028", '"', "\ud800"])
def test_no_user_id_can_break_a_line(character: str, caplog: pytest.LogCaptureFixture) -> None:
    user_id = f"ada{character}eve"
    log_audit(SessionEnded(session="a", reason="logout", user_id=user_id))
    [record] = caplog.records
    line = record.getMessage()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["user_id"] == user_id


@pytest.mark.parametrize("event", [SessionCreated(session="a"), UnknownSession(session="a")])
def test_what_is_a_detail_elsewhere_is_information_here(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    assert event.level == logging.DEBUG
    log_audit(event)
    [record] = caplog.records
    assert (record.levelno, written(caplog)[0]["level"]) == (logging.INFO, "INFO")


def test_what_nobody_listens_to_is_not_even_put_into_words(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "vedsess_middleware")
    caplog.set_level(logging.WARNING, LOGGER)
    monkeypatch.setattr(SessionCreated, "audit_names", None)
    log_event(SessionCreated(session="a"))
    assert caplog.records == []


def test_the_default_hook_writes_both_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "vedsess_middleware")
    log_event(UnknownSession(session="a"))
    assert [record.name for record in caplog.records] == ["vedsess_middleware", LOGGER]


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_is_the_start_of_a_keyed_hash() -> None:
    derived = hmac.digest(OLD.encode(), b"vedsess_middleware.events", "sha256")
    assert event_name(OLD, KEY) == hmac.digest(derived, KEY[:8].encode(), "sha256").hex()[:16]


def test_a_name_can_be_told_from_all_of_a_key_or_from_its_start() -> None:
    assert event_name(OLD, KEY) == event_name(OLD, KEY[:8])
    assert event_name(OLD, KEY) != event_name(OLD, OTHER)


def test_a_name_outlasts_a_new_key_in_front_and_changes_when_the_oldest_goes() -> None:
    assert event_name([NEW, OLD], KEY) == event_name(OLD, KEY) == event_name((OLD,), KEY)
    assert event_name(NEW, KEY) != event_name(OLD, KEY)


def test_two_processes_of_a_site_log_a_session_under_one_name_that_its_operator_can_compute() -> None:
    store, told = MemoryStore(), list[Event]()
    settings = [Settings(secret_key=keys) for keys in (OLD, [NEW, OLD])]
    first, second = (SessionManager(store, each, on_event=told.append) for each in settings)
    session = run_blocking(first.open())
    session["n"] = 1
    cookie = run_blocking(first.commit(session)) or ""
    session_id = session.id or ""
    again = run_blocking(second.open(cookie.partition(";")[0]))
    again.logout()
    run_blocking(second.commit(again))
    name = event_name([NEW, OLD], hashlib.sha256(session_id.encode()).hexdigest())
    assert told == [SessionCreated(session=name), SessionEnded(session=name, reason="logout")]


@pytest.mark.parametrize("make", [build.build_store, build.build_manager])
def test_the_stores_of_a_site_name_sessions_too_and_only_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks, told = list[EventHook](), list[Event]()

    def stand_in(*stores: object, on_event: EventHook, **options: object) -> MemoryStore:
        hooks.append(on_event)
        return MemoryStore()

    monkeypatch.setattr(build, "FailoverStore", stand_in)
    make(Settings(secret_key=OLD, redis_url="redis://127.0.0.1:1/0"), is_async=False, on_event=told.append)
    [hook] = hooks
    hook(WritesLost(session=KEY[:8]))
    assert told == [WritesLost(session=event_name(OLD, KEY))]
