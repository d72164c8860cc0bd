"""What has been measured: plain values that go into a JSON file as they are."""

from dataclasses import dataclass, field

Key = tuple[str, str]
"""A peer's id, and the name of a row."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds for each request: what a round's median is at the best round, and at the middle one.

    Args:
        last_byte: until the last byte of the answer had been handed over, best.
        whole: with all that came after it, best.
        median_last_byte: as `last_byte`, middle.
        median_whole: as `whole`, middle.
        cpu: processor time of the process, middle.
    """

    last_byte: float
    whole: float
    median_last_byte: float
    median_whole: float
    cpu: float

    def __sub__(self, other: "Timing") -> "Timing":
        return Timing(
            self.last_byte - other.last_byte,
            self.whole - other.whole,
            self.median_last_byte - other.median_last_byte,
            self.median_whole - other.median_whole,
            self.cpu - other.cpu,
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """What one request sends to Redis and SQL.

    Args:
        trips: round trips to Redis.
        sent: bytes to Redis.
        received: bytes from Redis.
        statements: of SQL.
        later_trips: the same after the last byte of the answer.
        later_statements: the same after the last byte of the answer.
        commands: calls of each command that Redis counted, those within scripts too, and after the answer too.
    """

    trips: int
    sent: int
    received: int
    statements: int
    later_trips: int
    later_statements: int
    commands: dict[str, int]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of Redis for one session.

    Args:
        session: the package's, with all that belongs to it.
        as_json: one string that holds the same record as JSON, metadata too.
        values_only: one string that holds the values of the app as JSON.
        sessions: how many were made of each.
    """

    session: float
    as_json: float
    values_only: float
    sessions: int

    @property
    def ratio(self) -> float:
        return self.session / self.as_json


@dataclass(frozen=True, slots=True)
class Load:
    """Requests per second under a closed loop, and how long they took in milliseconds, in the best run and the middle.

    Args:
        best: requests per second of the best run.
        median: requests per second of the middle run.
        median_ms: the middle request of the middle run.
        p99_ms: all but one in a hundred of the middle run.
        generator: the largest share of a processor that the generator took.
        server: the share of a processor that the web server took in the middle run.
        failed: answers that were not a 200 or did not come, in all runs.
        wrong: answers with a number that the session cannot hold, in all runs.
        strayed: runs in which the session was served by something else than Redis in the end.
    """

    best: float
    median: float
    median_ms: float
    p99_ms: float
    generator: float
    server: float
    failed: int
    wrong: int
    strayed: int

    @property
    def per_processor(self) -> float:
        """Requests per second that the web server had a processor for: a measure that other work on it spoils less."""
        return self.median / self.server if self.server else 0.0

    @property
    def troubles(self) -> str:
        """What was not as it should be; empty if all was."""
        counts = {"not 200": self.failed, "wrong": self.wrong, "runs left Redis": self.strayed}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


@dataclass(frozen=True, slots=True)
class Point:
    """One kind of request at one size of something.

    Args:
        size: of what grows.
        microseconds: with all that comes after the answer, in the best round.
        sent: bytes to Redis.
        sql_sent: bytes to SQL.
    """

    size: int
    microseconds: float
    sent: int
    sql_sent: int


@dataclass(slots=True)
class Figures:
    """All that one run has measured.

    Args:
        about: versions, machine, options.
        timed: what a request takes.
        counted: what a request sends.
        memory: of a session.
        load: by web server and connections (`uvicorn 64`), then by peer and action.
        growth: by what grows, then by peer and action.
    """

    about: dict[str, str] = field(default_factory=dict)
    timed: dict[Key, Timing] = field(default_factory=dict)
    counted: dict[Key, Counted] = field(default_factory=dict)
    memory: Memory | None = None
    load: dict[str, dict[Key, Load]] = field(default_factory=dict)
    growth: dict[str, dict[Key, list[Point]]] = field(default_factory=dict)

    def overhead(self, peer: str, row: str) -> Timing | None:
        """What the session adds to the bare framework."""
        bare = (f"{peer.partition('/')[0]}/bare", row)
        if (peer, row) not in self.timed or bare not in self.timed:
            return None
        return self.timed[peer, row] - self.timed[bare]
