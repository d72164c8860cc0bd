"""Back-channel logout: a token that is for us, now, and for a logout, or an error that says which claim is wrong."""

import hashlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedsess_middleware.errors import LogoutRefused, SessionError
from vedsess_middleware.oidc import LogoutToken, read_logout_token, session_name

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ISSUER, CLIENT, NOW = "https://login.example", "shop", 1_700_000_000.0
EVENT = "http://schemas.openid.net/event/backchannel-logout"
CLAIMS: dict[str, object] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "iat": 1_700_000_000,
    "exp": 1_700_000_120,
    "jti": "hunter2-jti",
    "sub": "hunter2-sub",
    "sid": "hunter2-sid",
    "events": {EVENT: {}},
}


def claims(*without: str, **changed: object) -> dict[str, object]:
    """Those of a good token, but for these."""
    return {name: value for name, value in {**CLAIMS, **changed}.items() if name not in without}


def read(given: dict[str, object], *, now: float = NOW, **options: Any) -> LogoutToken:
    """Judge claims, as the shop that they are for."""
    return read_logout_token(given, issuer=ISSUER, audience=CLIENT, now=now, **options)


# -- the name of a session ---------------------------------------------------------------------------------------------


def test_a_session_name_is_half_of_a_sha_256_over_issuer_and_sid_after_their_lengths() -> None:
    expected = hashlib.sha256(b"21:https://login.example4:s\xc3\xa9-1").hexdigest()[:32]
    assert session_name(ISSUER, "sé-1") == expected


@CALM
@given(*[st.text(st.characters(), max_size=8)] * 4)
def test_other_sessions_have_other_names(issuer: str, sid: str, other_issuer: str, other_sid: str) -> None:
    same = session_name(issuer, sid) == session_name(other_issuer, other_sid)
    assert same is ((issuer, sid) == (other_issuer, other_sid))


def test_a_sid_that_is_no_proper_text_has_a_name() -> None:
    assert session_name(ISSUER, "\ud800") != session_name(ISSUER, "\ud801")


@pytest.mark.parametrize(
    ("one", "other"), [(("ab", "c"), ("a", "bc")), (("a", ""), ("", "a")), (("a1:b", ""), ("a", "b"))]
)
def test_issuer_and_sid_do_not_run_together(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert session_name(*one) != session_name(*other)


# -- tokens that are good ----------------------------------------------------------------------------------------------


def test_a_token_names_whose_sessions_are_to_end() -> None:
    assert read(claims()) == LogoutToken(issuer=ISSUER, subject="hunter2-sub", sid="hunter2-sid")
    assert read(claims("sid")) == LogoutToken(issuer=ISSUER, subject="hunter2-sub", sid=None)
    assert read(claims("sub")) == LogoutToken(issuer=ISSUER, subject=None, sid="hunter2-sid")


@pytest.mark.parametrize("typ", [None, "logout+jwt", "Logout+JWT"])
def test_a_token_may_be_typed(typ: str | None) -> None:
    assert read(claims(), typ=typ)


@pytest.mark.parametrize("aud", [CLIENT, [CLIENT], ["other", CLIENT], [CLIENT, 1, None]])
def test_a_token_may_be_for_others_too(aud: object) -> None:
    assert read(claims(aud=aud))


@pytest.mark.parametrize(
    ("iat", "exp"),
    [(NOW, NOW + 0.1), (NOW - 120, NOW + 1), (NOW + 120, NOW + 240), (int(NOW), 10**400), (NOW, float("inf"))],
)
def test_a_token_that_is_young_enough_is_good(iat: float, exp: float) -> None:
    assert read(claims(iat=iat, exp=exp))


def test_how_old_a_token_may_be_can_be_set() -> None:
    assert read(claims(iat=NOW - 600), longest_age=600)
    with pytest.raises(LogoutRefused, match=r"\biat\b"):
        read(claims(iat=NOW - 11), longest_age=10)


def test_claims_that_are_not_known_are_passed_over() -> None:
    assert read(claims(trace="x", events={EVENT: {"more": 1}, "https://other.example/event": None}))


# -- tokens that are refused -------------------------------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")
WRONG: dict[str, list[object]] = {
    "iss": [None, "", "https://LOGIN.example", f"{ISSUER}/", 1, [ISSUER], {ISSUER: 1}],
    "aud": [None, "", "Shop", "shop2", [], ["other"], {CLIENT: 1}, [[CLIENT]], 1, True],
    "iat": [
        None,
        "1700000000",
        True,
        [NOW],
        NOW - 120.5,
        NOW + 120.5,
        0,
        -(10**400),
        10**400,
        NAN,
        INFINITY,
        -INFINITY,
    ],
    "exp": [None, "1700000120", True, {}, NOW, NOW - 1, 0, -(10**400), NAN],
    "events": [None, [], [EVENT], EVENT, {}, {EVENT: None}, {EVENT: []}, {EVENT: True}, {EVENT.upper(): {}}],
    "nonce": [None, "", "n-1", 0],
    "jti": [None, "", 1, []],
    "sub": [None, "", 1, ["a"]],
    "sid": [None, "", 1, ["a"]],
}


@pytest.mark.parametrize(("claim", "value"), [(claim, value) for claim, values in WRONG.items() for value in values])
def test_a_wrong_claim_is_refused_by_name(claim: str, value: object) -> None:
    with pytest.raises(LogoutRefused, match=rf": {claim} "):
        read(claims(**{claim: value}))


@pytest.mark.parametrize("claim", ["iss", "aud", "iat", "exp", "events", "jti"])
def test_a_missing_claim_is_refused_by_name(claim: str) -> None:
    with pytest.raises(LogoutRefused, match=rf": {claim} "):
        read(claims(claim))


@pytest.mark.parametrize("claim", ["iat", "exp"])
def test_a_truth_value_is_no_number(claim: str) -> None:
    early: dict[str, object] = {"iat": 0, "exp": 1, claim: True}
    with pytest.raises(LogoutRefused, match=rf": {claim} is not a number"):
        read(claims(**early), now=0.5)


def test_a_token_for_nobody_is_refused() -> None:
    with pytest.raises(LogoutRefused, match="sub is missing, and so is sid"):
        read(claims("sub", "sid"))


@pytest.mark.parametrize("typ", ["", "JWT", "at+jwt", "logout", "logout+jwt ", "application/logout+jwt+x"])
def test_a_token_of_another_type_is_refused(typ: str) -> None:
    with pytest.raises(LogoutRefused, match=": typ "):
        read(claims(), typ=typ)


def test_a_refusal_never_shows_a_value() -> None:
    for claim in WRONG:
        with pytest.raises(LogoutRefused) as caught:
            read(claims(**{claim: ["hunter2"]}))
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None
    assert issubclass(LogoutRefused, SessionError)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just(EVENT), inner),
    max_leaves=6,
)


@CALM
@given(st.dictionaries(st.sampled_from([*CLAIMS, "nonce"]), ANYTHING), st.none() | st.text(st.characters()))
def test_claims_are_read_or_refused_whatever_they_are(changed: dict[str, object], typ: str | None) -> None:
    try:
        token = read(claims(**changed), typ=typ)
    except LogoutRefused:
        return
    assert token.subject or token.sid
    assert "nonce" not in changed
