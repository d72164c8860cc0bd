"""How single values that JSON lacks become tagged text, and back: the leaves of the codec."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

__all__ = ["FORMS", "Form", "Unreadable", "Unwritable", "type_name"]

_DECIMAL_BITS = 2048  # 617 digits; a Python can be told to refuse texts of more than 640
_MOMENT = re.compile(r"([^\[]+)(?:\[([^=\[\]]+)\])?(\[_fold=1\])?(?:\[_name=(.*)\])?", re.DOTALL)
_BAD_TEXT = (ValueError, TypeError, ArithmeticError, LookupError, OSError)  # OSError: a zone key that is a folder


class Unreadable(Exception):
    """A text is not one that its form writes."""


class Unwritable(Exception):
    """Why a form cannot write this one value."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a type is stored as a tagged text.  A strict form reads only what it would write."""

    tag: str
    write: Callable[[Any], str]
    read: Callable[[str], object]
    strict: bool = True

    def value(self, payload: object) -> object:
        """Read a text.

        Raises:
            Unreadable: it is not one, or not one that this form writes.
        """
        if type(payload) is str:
            try:
                value = self.read(payload)
                if not self.strict or self.write(value) == payload:
                    return value
            except _BAD_TEXT:
                pass
        raise Unreadable


def _moment_text(value: datetime | time) -> str:
    zone = value.tzinfo
    suffix = "[_fold=1]" if value.fold else ""
    if type(zone) is ZoneInfo:
        suffix = f"[{_zone_key(zone)}]{suffix}"
    elif type(zone) is timezone:
        name = zone.tzname(None)
        suffix += "" if name == timezone(zone.utcoffset(None)).tzname(None) else f"[_name={name}]"
    elif zone is not None:
        raise Unwritable(f"has a tzinfo of the type {type_name(type(zone))}; use zoneinfo.ZoneInfo")
    return value.isoformat() + suffix


def _zone_key(zone: ZoneInfo) -> str:
    try:
        return ZoneInfo(zone.key).key
    except _BAD_TEXT:
        raise Unwritable("has a zoneinfo.ZoneInfo without a key that leads back to it") from None


def _moment(kind: type[datetime] | type[time], text: str) -> datetime | time:
    if "[" not in text:
        return kind.fromisoformat(text)
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError
    iso, key, fold, name = match.groups()
    value = kind.fromisoformat(iso).replace(fold=1 if fold else 0)
    if key is not None:
        return _in_zone(value, ZoneInfo(key))
    offset = value.utcoffset()
    return value if name is None or offset is None else value.replace(tzinfo=timezone(offset, name))


def _in_zone(value: datetime | time, zone: ZoneInfo) -> datetime | time:
    local = value.replace(tzinfo=zone)
    if isinstance(value, datetime) and value.utcoffset() not in (None, local.utcoffset()):
        return value.astimezone(zone)  # the zone's rules have changed since: the instant counts
    return local


def _timedelta_text(value: timedelta) -> str:
    seconds, rest = divmod(abs(value), timedelta(seconds=1))
    return f"{'-' * (value.days < 0)}{seconds}" + (f".{rest.microseconds:06}" if rest else "")


def _timedelta(text: str) -> timedelta:
    seconds, _, micro = text.removeprefix("-").partition(".")
    sign = -1 if text.startswith("-") else 1
    return timedelta(seconds=sign * int(seconds), microseconds=sign * int(micro or 0))


def _int_text(value: int) -> str:
    return str(value) if value.bit_length() <= _DECIMAL_BITS else hex(value)


FORMS: dict[type, Form] = {
    datetime: Form("!datetime", _moment_text, lambda text: _moment(datetime, text), strict=False),
    date: Form("!date", date.isoformat, date.fromisoformat),
    time: Form("!time", _moment_text, lambda text: _moment(time, text), strict=False),
    timedelta: Form("!timedelta", _timedelta_text, _timedelta),
    UUID: Form("!uuid", str, UUID),
    Decimal: Form("!decimal", lambda value: str(value).replace("e", "E"), Decimal),  # some contexts write a small e
    bytes: Form("!bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    int: Form("!int", _int_text, lambda text: int(text, 16 if "x" in text else 10)),
    float: Form("!float", repr, float),
}


def type_name(kind: type) -> str:
    """The name of a type as an error shows it."""
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
