"""How a session begins, and how it goes on under a new id: all that is said once, and never changes."""

import secrets
from collections.abc import Mapping

from vedsess_middleware.clients import address_prefix, user_agent_label
from vedsess_middleware.request import RequestInfo
from vedsess_middleware.settings import Settings
from vedsess_middleware.state import IdChange
from vedsess_middleware.stores.record import Field, Origin, Record, Version

__all__ = ["continued", "fingerprint_parts", "first_record"]

_LABEL = 64


def first_record(
    settings: Settings, values: Mapping[str, str], info: RequestInfo, *, at: float, change: IdChange | None = None
) -> Record:
    """A record of these values, sealed as they are stored, used now for the first time."""
    idle, absolute = _timeouts(settings, change)
    remembered = change is not None and change.remember
    record = Record.new(at=at, idle_timeout=idle, deadline_at=at + absolute)
    origin = Origin(
        family=secrets.token_urlsafe(12),
        issued_at=at,
        authenticated_at=at if change and change.user_id is not None else 0.0,
        in_browser=not (settings.cookie_persistent or remembered),
        sealed=change is not None and change.sealed,
    )
    return record.replace(
        fields={name: Field(Version(), text) for name, text in values.items()},
        user_id=change.user_id if change else None,
        sid=change.sid if change else None,
        user_agent=_agent(settings, info.user_agent),
        ip_address=_address(settings, info.ip_address),
        origin=str(origin),
    )


def continued(record: Record, old: Record, change: IdChange) -> Record:
    """The same session under a new id: whose it is, its family and its deadline stay."""
    origin, before = Origin.parse(record.origin), Origin.parse(old.origin)
    kept = origin._replace(
        family=before.family or origin.family,
        authenticated_at=before.authenticated_at,
        in_browser=before.in_browser,
    )
    return record.replace(
        created_at=old.created_at,
        idle_timeout=old.idle_timeout,
        deadline_at=old.deadline_at,
        expires_at=min(record.last_activity + old.idle_timeout, old.deadline_at),
        user_id=old.user_id,
        sid=old.sid,
        session_fingerprint=record.session_fingerprint if change.reason == "fingerprint" else old.session_fingerprint,
        origin=str(kept),
    )


def fingerprint_parts(settings: Settings, info: RequestInfo) -> list[str | None]:
    """What of a client counts."""
    parts = {
        "user_agent": info.user_agent,
        "ip_address": address_prefix(info.ip_address, ipv4=settings.ipv4_prefix, ipv6=settings.ipv6_prefix),
    }
    return [parts[name] for name in settings.fingerprint_parts]


def _timeouts(settings: Settings, change: IdChange | None) -> tuple[float, float]:
    """Idle and absolute."""
    idle, absolute = settings.idle_timeout, settings.absolute_timeout
    if change is None:
        return idle, absolute
    if change.remember:
        idle = absolute = settings.remember_timeout
    absolute = change.absolute_timeout or absolute
    return min(change.idle_timeout or idle, absolute), absolute


def _agent(settings: Settings, user_agent: str | None) -> str | None:
    if settings.user_agent_detail == "full":
        return _label(user_agent)
    return user_agent_label(user_agent) if settings.user_agent_detail == "label" else None


def _address(settings: Settings, address: str | None) -> str | None:
    if settings.ip_address_detail == "full":
        return _label(address)
    if settings.ip_address_detail == "off":
        return None
    return address_prefix(address, ipv4=settings.ipv4_prefix, ipv6=settings.ipv6_prefix)


def _label(text: str | None) -> str | None:
    """At most 64 printable ASCII characters: a longer value doubles the memory of a small hash."""
    if not text:
        return None
    text = text[:_LABEL]
    return text if text.isascii() and text.isprintable() else "".join(c if " " <= c <= "~" else "?" for c in text)
