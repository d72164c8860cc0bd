"""Watches a test run for secrets: no session id, cookie or key may be in a log, in an event or in what is printed.

What is secret is noted where it comes into being; every text is then searched for it.  The test in which one is found
fails, and is told where that was.
"""

import functools
import logging
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from vedsess_middleware import cookies
from vedsess_middleware.cookies import CookieJar, Ticket
from vedsess_middleware.events import Event, EventCounts
from vedsess_middleware.settings import Settings

__all__ = ["Secrets", "Watch", "texts_of"]

_PIECE = 16
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{_PIECE},}}")
_FEWEST = 6  # different characters in what was drawn at random
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__)


class Secrets:
    """Texts that nobody may read, kept as pieces of 16 characters: found again whole, and by their beginning or end."""

    def __init__(self) -> None:
        self._pieces: set[str] = set()

    def note(self, text: str) -> None:
        """Keep one.  What looks like a placeholder is none."""
        for token in _TOKEN.findall(text):
            if token[:_PIECE] not in self._pieces:
                starts = (*range(0, len(token) - _PIECE, _PIECE), len(token) - _PIECE)
                pieces = (token[start : start + _PIECE] for start in starts)
                self._pieces.update(piece for piece in pieces if len(set(piece)) >= _FEWEST)

    def are_in(self, text: str) -> bool:
        """Whether one of them is in this text."""
        pieces = self._pieces
        for token in _TOKEN.findall(text):
            for start in range(len(token) - _PIECE + 1):
                if token[start : start + _PIECE] in pieces:
                    return True
        return False


def texts_of(error: BaseException | None) -> Iterator[str]:
    """All that an exception says, and those behind it, whether or not a traceback would show them."""
    waiting, seen = [error], set[int]()
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield str(error)
        yield repr(error)
        yield from getattr(error, "__notes__", ())
        waiting += [error.__cause__, error.__context__]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions


class Watch:
    """A plugin of pytest.

    Attributes:
        secrets: of this process so far.
    """

    def __init__(self) -> None:
        self.secrets = Secrets()
        self._places: list[str] = []
        self._patch = pytest.MonkeyPatch()

    def check(self, place: str, texts: Iterable[str]) -> None:
        """Remember the place where one of these texts holds a secret."""
        if any(map(self.secrets.are_in, texts)):
            self._places.append(place)

    # -- hooks -----------------------------------------------------------------------------------------------------

    def pytest_sessionstart(self) -> None:
        """Listen, and let every logger say all that it can say."""
        self._listen()
        self._level = logging.root.level
        logging.root.setLevel(logging.DEBUG)

    def pytest_sessionfinish(self) -> None:
        """Leave all as it was."""
        self._patch.undo()
        logging.root.setLevel(self._level)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let a test fail in which a secret was shown."""
        report = yield
        for title, text in report.sections:
            if title.startswith("Captured std") and title.endswith(call.when):
                self.check(title.lower(), [text])
        places, self._places = self._places, []
        if places:
            verdict = f"a session id, a cookie or a key is shown in {', in '.join(dict.fromkeys(places))}"
            report.outcome, report.longrepr = "failed", "\n".join([verdict, str(report.longrepr or "")]).rstrip()
        return report

    # -- what is listened to ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        noted = SimpleNamespace(token_urlsafe=self._after(secrets.token_urlsafe, self._note_id))
        self._patch.setattr(cookies, "secrets", noted)
        self._patch.setattr(CookieJar, "set", self._after(CookieJar.set, self._note_cookie))
        self._patch.setattr(CookieJar, "read", self._after(CookieJar.read, self._note_verdicts))
        self._patch.setattr(Settings, "__post_init__", self._before(Settings.__post_init__, self._note_keys))
        self._patch.setattr(EventCounts, "__call__", self._before(EventCounts.__call__, self._hear))
        self._patch.setattr(logging.Logger, "handle", self._before(logging.Logger.handle, self._read))

    @staticmethod
    def _before(method: Any, note: Callable[..., None]) -> Any:
        @functools.wraps(method)
        def noting(*args: Any, **options: Any) -> Any:
            note(*args)
            return method(*args, **options)

        return noting

    @staticmethod
    def _after(method: Any, note: Callable[[Any], None]) -> Any:
        @functools.wraps(method)
        def noting(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            note(result)
            return result

        return noting

    def _note_id(self, session_id: str) -> None:
        self.secrets.note(session_id)

    def _note_cookie(self, set_cookie: str) -> None:
        self.secrets.note(set_cookie.partition("=")[2].partition(";")[0])

    def _note_verdicts(self, verdicts: list[Ticket | object]) -> None:
        for verdict in verdicts:
            if isinstance(verdict, Ticket):
                self.secrets.note(verdict.session_id)

    def _note_keys(self, settings: Settings) -> None:
        for given in (settings.secret_key, settings.encryption_key):
            for key in given if isinstance(given, list | tuple) else (given,):
                if isinstance(key, str):
                    self.secrets.note(key)

    def _hear(self, _: EventCounts, event: Event) -> None:
        self.check(f"the event {type(event).__name__}", (repr(event), str(asdict(event))))

    def _read(self, _: logging.Logger, record: logging.LogRecord) -> None:
        extra = [str(value) for name, value in record.__dict__.items() if name not in _STANDARD]
        error = record.exc_info[1] if record.exc_info else None
        place = f"the log {record.name}, from {record.filename}:{record.lineno}"
        self.check(place, (record.getMessage(), *extra, *texts_of(error)))
