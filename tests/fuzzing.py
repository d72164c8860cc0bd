"""Cookie headers that no browser of ours would send, drawn by lot out of genuine ones; and who they belong to."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from vedsess_middleware.cookies import CookieJar, Ticket, new_session_id
from vedsess_middleware.settings import Settings
from vedsess_middleware.stores.record import Version

NAME = "vedsess"
_MOST_VALUES, _MOST_SESSIONS = 8, 3  # that are looked at in one header
_ODD = "\0\r\n\t\v ;,=\"'\\%&$@.:/" + "".join(map(chr, range(0x80, 0x100, 5)))
_NAMES = ("Vedsess", "VEDSESS", "vedsess2", "xvedsess", "__Host-vedsess", "", "vedsess\0", "\xa0vedsess")


@dataclass
class Genuine:
    """The cookie values that were given out.

    Attributes:
        owners: of sessions that are alive, by value.
        ended: values that are signed with the right key, of sessions that nobody stored.
        due: those of `owners` that are to be renewed.
        foreign: values that are signed with another key, or for another audience.
    """

    owners: dict[str, str] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    due: set[str] = field(default_factory=set)
    foreign: list[str] = field(default_factory=list)

    def found(self, header: str) -> str | None:
        """The value that has to get in with this header, by the rules of the README and nothing of the package."""
        pairs = [pair.partition("=") for pair in header.split(";")]
        values = [value.strip(" \t") for name, equals, value in pairs if equals and name.strip(" \t") == NAME]
        signed = [value for value in values[:_MOST_VALUES] if value in self.owners or value in self.ended]
        firsts = {value.partition(".")[0]: value for value in reversed(signed)}
        order = dict.fromkeys(value.partition(".")[0] for value in signed)
        tried = [firsts[session_id] for session_id in list(order)[:_MOST_SESSIONS]]
        return next((value for value in tried if value in self.owners), None)


def signed_with(secret_key: str, *, audience: str = "", session_id: str = "", at: float) -> str:
    """A cookie value that a site with this key would give out."""
    jar = CookieJar(Settings(secret_key=secret_key, audience=audience))
    ticket = Ticket(session_id or new_session_id(), Version(0, 1), at)
    return jar.set(ticket, secure=False).partition("=")[2].partition(";")[0]


class Headers:
    """Draws Cookie headers.

    Args:
        rng: decides.
        genuine: what they are made of.
    """

    def __init__(self, rng: random.Random, genuine: Genuine) -> None:
        self._rng, self._genuine = rng, genuine
        self._changes: list[Callable[[str], str]] = [
            self._flip,
            self._truncate,
            self._drop,
            self._double,
            self._insert,
            self._separate,
            self._oversize,
            self._append,
            self._prepend,
            self._crowd,
            self._unnamed,
            self._rename,
            self._quote,
        ]

    def draw(self) -> str:
        """One header: most are damaged once or twice, some are as they should be."""
        header = "; ".join(self._pair() for _ in range(self._rng.choice((1, 1, 1, 2, 3))))
        for _ in range(self._rng.choice((0, 1, 1, 1, 1, 2, 2, 3))):
            header = self._rng.choice(self._changes)(header)
        return header

    # -- what it is made of ----------------------------------------------------------------------------------------

    def _owned(self) -> str:
        return self._rng.choice(list(self._genuine.owners))

    def _value(self) -> str:
        kinds = (self._owned, self._owned, self._owned, self._owned, self._stranger, self._mixed, self._noise)
        return self._rng.choice(kinds)()

    def _stranger(self) -> str:
        return self._rng.choice(self._genuine.foreign + self._genuine.ended)

    def _mixed(self) -> str:
        """The parts of two genuine ones, one of them from the other."""
        ones, others = (self._owned().split(".") for _ in range(2))
        place = self._rng.randrange(len(ones))
        ones[place] = others[place % len(others)]
        return ".".join(ones)

    def _noise(self) -> str:
        return "".join(chr(self._rng.randrange(256)) for _ in range(self._rng.randrange(200)))

    def _pair(self) -> str:
        return f"{NAME}={self._value()}" if self._rng.random() < 0.9 else "theme=dark"

    def _place(self, header: str) -> int:
        return self._rng.randrange(len(header) + 1)

    # -- what is done to it ----------------------------------------------------------------------------------------

    def _flip(self, header: str) -> str:
        if not header:
            return "\0"
        place = self._rng.randrange(len(header))
        return header[:place] + chr(ord(header[place]) ^ (1 << self._rng.randrange(8))) + header[place + 1 :]

    def _truncate(self, header: str) -> str:
        place = self._place(header)
        return self._rng.choice((header[:place], header[place:]))

    def _drop(self, header: str) -> str:
        place = self._place(header)
        return header[:place] + header[place + self._rng.randrange(1, 4) :]

    def _double(self, header: str) -> str:
        start, end = sorted((self._place(header), self._place(header)))
        return self._rng.choice((header[:end] + header[start:], f"{header};{header}", header * 2))

    def _insert(self, header: str) -> str:
        place = self._place(header)
        return header[:place] + "".join(self._rng.choices(_ODD, k=self._rng.randrange(1, 5))) + header[place:]

    def _separate(self, header: str) -> str:
        """Other separators between pairs, and between names and values."""
        old, new = self._rng.choice((("; ", ";"), ("; ", " ;\t"), ("; ", ", "), ("=", " = "), ("=", "=="), (".", "..")))
        return header.replace(old, new)

    def _oversize(self, header: str) -> str:
        return header + self._rng.choice(("A", ".", "\xff", "; ", f"; {NAME}=", "=")) * self._rng.choice(
            (60, 300, 9000)
        )

    def _append(self, header: str) -> str:
        return f"{header}; {self._pair()}"

    def _prepend(self, header: str) -> str:
        return f"{self._pair()}; {header}"

    def _crowd(self, header: str) -> str:
        """Many of our name in front of the others, or behind."""
        crowd = "; ".join(f"{NAME}={self._rng.choice((self._stranger, self._noise))()}" for _ in range(12))
        few = "; ".join(crowd.split("; ")[: self._rng.randrange(1, 9)])
        return self._rng.choice((f"{few}; {header}", f"{crowd}; {header}", f"{header}; {crowd}"))

    def _unnamed(self, header: str) -> str:
        value = self._value()
        pair = self._rng.choice((f"={NAME}={value}", f"={value}", value, NAME, f"{NAME};={value}", f"{NAME}"))
        return self._rng.choice((pair, f"{pair}; {header}", f"{header}; {pair}"))

    def _rename(self, header: str) -> str:
        return header.replace(NAME, self._rng.choice(_NAMES), self._rng.choice((1, -1)))

    def _quote(self, header: str) -> str:
        value = self._value()
        percents = "".join(f"%{ord(letter):02X}" for letter in value)
        return f'{header}; {NAME}="{value}"' if self._rng.random() < 0.5 else f"{header}; {NAME}={percents}"
