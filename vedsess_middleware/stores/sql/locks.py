"""The lock of a session: what its row says of it, and how it is given out."""

from typing import NamedTuple, Self

from sqlalchemy import Connection

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.record import Fence
from vedsess_middleware.stores.sql import statements
from vedsess_middleware.stores.sql.tables import instant

__all__ = ["NAME", "Lock", "give_back", "give_out"]

NAME = "sql"
"""What this store calls itself in a fence."""


class Lock(NamedTuple):
    """Who has the lock of a session, and until when.

    Written `number until word`, the instant in epoch milliseconds.

    Attributes:
        number: of the last time that it was given out.
        until: when it is free again, in epoch seconds.
        word: of whoever has it; empty: it was given back.
    """

    number: int = 0
    until: float = 0.0
    word: str = ""

    def __str__(self) -> str:
        return f"{self.number} {round(self.until * 1000)} {self.word}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes; an empty text is the lock that nobody ever had.

        Raises:
            CorruptRecord: it is something else.
        """
        if not text:
            return cls()
        try:
            number, until, word = text.split(" ", 2)
            return cls(int(number), int(until) / 1000, word)
        except ValueError as error:
            raise CorruptRecord("a lock of the session table is not a lock") from error

    @property
    def fence(self) -> Fence:
        """What its holder has in hand."""
        return Fence(NAME, self.number)

    def is_held(self, at: float) -> bool:
        """Whether somebody has it at that time."""
        return bool(self.word) and self.until > at

    def admits(self, fence: Fence, at: float) -> bool:
        """Whether it is held by whoever has this fence."""
        return fence == self.fence and self.is_held(at)

    def given(self, word: str, *, at: float, until: float) -> "Lock":
        """The same, given out; to the same word again it is not given anew.

        Numbers grow with the time too: a row may go, and come back without a lock.
        """
        number = self.number if word == self.word else max(self.number + 1, round(at * 1000))
        return Lock(number, until, word)


def give_out(connection: Connection, *, key: str, word: str, at: float, until: float) -> Fence | None:
    """Give out the lock of a live row, if nobody has it; where somebody was quicker, look once more."""
    for _ in range(2):
        row = connection.execute(statements.FIND_LOCK, {"key": key, "now": instant(at)}).one_or_none()
        if row is None:
            return None
        text = row.lock_holder or ""
        old = Lock.parse(text)
        if old.is_held(at) and old.word != word:
            return None
        new = old.given(word, at=at, until=until)
        values = {"key": key, "now": instant(at), "old_lock": text, "new_lock": str(new)}
        if connection.execute(statements.GIVE_OUT, values).rowcount:
            return new.fence
    return None


def give_back(connection: Connection, *, key: str, number: int) -> None:
    """Give a lock back, if this is still its number."""
    values = {"key": key, "number": f"{number} ", "new_lock": str(Lock(number))}
    connection.execute(statements.GIVE_BACK, values)
