"""What happened in a soak: requests and their answers, faults, and samples of the store.

All times are seconds of one monotonic clock, that of the process which sent the requests: *start*
is before the first byte was sent, *end* after the last was received. What the application or the
store did lies between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STRANGER = "anonymous"
USER_KEY, TIER_KEY = "user_id", "_tier"

LOGIN, LOGOUT, SWAP, REGENERATE = "login", "logout", "swap", "regenerate"
READ, PEEK, WRITE, COUNT, HEALTH = "read", "peek", "write", "count", "health"
PATIENCE = 30.0
"""Seconds until a client gives up: far beyond what any fault takes."""
FLOOD, FAILOVER, OVERLOAD = "flood", "failover", "overload"
"""Kinds of faults that the checker knows; what begins with one is one."""
ENDING = frozenset({LOGIN, LOGOUT, SWAP, REGENERATE})
"""Kinds that end the session of their cookie, or take it to another. ``SWAP`` logs out and keeps
something as a stranger."""
FOLLOWING = frozenset({LOGOUT, SWAP})
"""Kinds that also end what a rotation made of the cookie's session."""
ONLY_READING = frozenset({READ, PEEK, COUNT, HEALTH})


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as a client knows them.

    :param user: whose client it was.
    :param sent: the cookie that it came with.
    :param writes: what it asked to be written; ``None`` removes a key.
    :param status: ``None`` if the connection broke.
    :param got: the cookie that the answer set; ``""`` deleted it; ``None`` left it alone.
    :param rotated: the cookie that was set stands for the same session as the one that was sent.
    :param lost: the app was told that its change was dropped, because the session had ended.
    :param unconfirmed: the app was told that too few replicas know of what was done.
    :param data: the session as the request had loaded it; ``None`` if the answer does not say.
    :param error: what the app was told of the store.
    :param calls: the store calls and their seconds.
    :param took: seconds in the application.
    :param count: what ``safe.count()`` said.
    """

    number: int
    kind: str
    user: str
    start: float
    end: float
    status: int | None = 200
    sent: str | None = None
    writes: Mapping[str, str | None] = field(default_factory=dict)
    got: str | None = None
    rotated: bool = False
    lost: bool = False
    unconfirmed: bool = False
    data: Mapping[str, Any] | None = None
    retry_after: bool = False
    error: str = ""
    calls: tuple[tuple[str, float], ...] = ()
    took: float = 0.0
    count: int | None = None

    @property
    def done(self) -> bool:
        """It was answered with a success."""
        return self.status == 200

    @property
    def served(self) -> bool:
        """It was shown a session with something in it."""
        return self.done and bool(self.data)

    def __str__(self) -> str:
        what = f"#{self.number} {self.kind} of {self.user} at {self.start:.3f}-{self.end:.3f}"
        said = f"{self.status or 'broken'}{' lost' if self.lost else ''}"
        cookies = f"{short(self.sent)} -> {short(self.got)}"
        tail = f" {self.error} {self.calls}" if self.error else ""
        return f"{what} [{cookies}] {dict(self.writes)} = {said} {self.data}{tail}"


def short(cookie: str | None) -> str:
    """Enough of a cookie to tell it from others."""
    return "-" if cookie is None else cookie[1:7] or "deleted"


@dataclass(frozen=True)
class Fault:
    """A fault, from when it was begun to when all was set right again."""

    kind: str
    start: float
    end: float


@dataclass(frozen=True)
class Sample:
    """A look at the store and the workers, past the application.

    :param total: entries in the index.
    :param fullest: the most entries that one user has.
    :param used: the store's ``used_memory`` in bytes.
    :param resident: the largest resident set of a worker in bytes.
    """

    at: float
    total: int
    fullest: int
    used: int
    resident: int


@dataclass(frozen=True)
class Limits:
    """What the application was configured with, in seconds."""

    idle: Mapping[str, float]
    lifetime: Mapping[str, float]
    touch: Mapping[str, float]
    cap: int
    per_user: int
    store_timeout: float
    wait_replicas: int = 0


@dataclass
class History:
    """All of it. *tracebacks* are what the workers have logged of exceptions."""

    limits: Limits
    exchanges: list[Exchange] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Violation:
    """Something that must never be.

    :param forgiven: a failover may have lost what was acknowledged.
    """

    kind: str
    text: str
    forgiven: bool = False
