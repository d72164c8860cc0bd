"""The line of an env file that gives a variable, found as shells and their imitators read it."""

import re
from dataclasses import dataclass, field

__all__ = ["Assignment", "assignments"]

_LINE = rb"^(?:\xef\xbb\xbf)?[ \t]*(?:export[ \t]+)?(%b(?:_FILE)?)[ \t]*[=:][ \t]*(?=([^\r\n]*))"
_QUOTED = rb"""(?P<quote>["'])(?P<quoted>(?:(?!(?P=quote))[^\\]|\\.)*)(?P=quote)"""
_BARE = rb"""(?P<bare>(?:[^\s"'#\\][^\\]*?)?)"""
_VALUE = re.compile(rb"(?:%b|%b)[ \t]*(?:(?<=[ \t])#.*)?" % (_QUOTED, _BARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Where a file gives a variable.

    Attributes:
        variable: which one; it may be the one that names a file instead, with `_FILE` at its end.
        value: as it is spelled there, without its quotes.
        span: the bytes of the file that the value takes, from and up to; None: it cannot be told, as with a value of
            several lines.
    """

    variable: str
    value: bytes = field(repr=False)
    span: tuple[int, int] | None


def assignments(content: bytes, variable: str) -> list[Assignment]:
    """All lines that give this variable, or the one that names a file for it.  A comment gives none."""
    lines = re.finditer(_LINE % variable.encode(), content, re.MULTILINE)
    return [_assignment(content, line) for line in lines]


def _assignment(content: bytes, line: re.Match[bytes]) -> Assignment:
    variable, (start, end) = line[1].decode(), line.span(2)
    value = _VALUE.fullmatch(content, start, end)
    if value is None:
        return Assignment(variable=variable, value=content[start:end], span=None)
    group = "bare" if value["quote"] is None else "quoted"
    return Assignment(variable=variable, value=value[group], span=value.span(group))
