"""Whether a secret key is one: long, and not a placeholder that somebody forgot to replace."""

import re
from itertools import pairwise

__all__ = ["flaw_of"]

_SHORTEST_KEY = 32
_FILLER_WORDS = """
    abc able admin an and app application asdfghjkl at bar baz be change changed changeme character characters chars
    code cookie default demo dev development django do dummy enter env example fill fixme flask foo foobar for
    generate goes hello here in insecure insert is it key keys least letmein local long make me min minimum must my
    new none not null of or own pass passphrase passwd password phrase placeholder please prod production put pwd
    qwerty qwertyuiop random real replace safe sample secret secure session set should signing some something
    starlette string super temp test testing that the this to todo token undefined unsafe use value vedsess very web
    with word world xxx you your zxcvbnm
"""
_FILLER = re.compile("|".join(sorted(_FILLER_WORDS.split(), key=len, reverse=True)) + "|[-_ .<>]")


def flaw_of(key: str) -> str:
    """What is wrong with a secret key, or "" ; never shows it."""
    if not key.isprintable():
        return "holds a line break or another unprintable character (strip what was read from a file)"
    if len(key.encode()) < _SHORTEST_KEY:
        return f"is shorter than {_SHORTEST_KEY} bytes"
    return "is a placeholder or easy to guess" if _is_guessable(_FILLER.sub("", key.lower())) else ""


def _is_guessable(rest: str) -> bool:
    """Whether what a key holds beside filler words is too short, too uniform, a repetition or a sequence."""
    if len(rest) < 16 or len(set(rest)) < 6:
        return True
    if any(rest[unit:] == rest[:-unit] for unit in range(1, min(16, len(rest) // 2 + 1))):
        return True
    steps = [abs(ord(left) - ord(right)) <= 1 for left, right in pairwise(rest)]
    return sum(steps) > 0.75 * len(steps)
