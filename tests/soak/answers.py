"""What each answer must be, whatever else is going on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from flask_safesession.web.saving import MAX_STAND_INS

from .history import (
    COUNT,
    FLOOD,
    HEALTH,
    ONLY_READING,
    OVERLOAD,
    PATIENCE,
    PEEK,
    READ,
    Exchange,
    Fault,
    History,
    Violation,
)

RECOVERY = 2.0
"""Seconds after a fault in which it still counts as a reason."""
MARGIN = 0.25
"""Seconds that a busy machine may add to what is measured."""
HARMLESS = frozenset({"script flush", "reload", "worker kill", FLOOD, "latency"})
"""Faults of which the store's users must notice nothing."""
BREAKING = frozenset({"worker kill", "reload"})
"""Faults that break connections of browsers."""


def check_answers(history: History, is_over: Callable[[Exchange], bool]) -> Iterator[Violation]:
    """Wrong, late or missing answers.

    :param is_over: whether a request came with the cookie of a session that is over.
    """
    excuses = [fault for fault in history.faults if fault.kind.partition(",")[0] not in HARMLESS]
    breaks = [fault for fault in history.faults if fault.kind in BREAKING]
    for x in history.exchanges:
        kinds = chain(
            _status(x, excuses, breaks), _cookie(x), _time(x, history), _calls(x, is_over)
        )
        yield from (Violation(kind, str(x)) for kind in kinds)
    yield from (Violation("exception in a worker", text) for text in history.tracebacks)


def _status(x: Exchange, excuses: list[Fault], breaks: list[Fault]) -> Iterator[str]:
    if x.end - x.start >= PATIENCE:
        yield "no answer"
    elif x.status is None:
        if not _during(x, breaks):
            yield "broken connection without a reason"
    elif x.status == 503:
        if not x.retry_after:
            yield "503 without Retry-After"
        if not _during(x, excuses):
            yield "503 without a fault"
        if x.kind == HEALTH:
            yield "503 without using the session"
    elif x.status != 200:
        yield f"answer {x.status}"


def _during(x: Exchange, faults: list[Fault]) -> bool:
    return any(fault.start < x.end and x.start < fault.end + RECOVERY for fault in faults)


def _cookie(x: Exchange) -> Iterator[str]:
    if x.got is not None and x.status not in (None, 200):
        yield "a cookie with an error"
    if x.got is not None and x.kind in ONLY_READING and not x.rotated:
        yield "a cookie for reading"  # what stands in for a session gets one after a minute


def _time(x: Exchange, history: History) -> Iterator[str]:
    """By the clock in the worker: what waits before one is not the store's doing."""
    limit = history.limits.store_timeout * 1.5
    if _during(x, [fault for fault in history.faults if fault.kind == OVERLOAD]):
        return
    if any(seconds > limit + MARGIN for _, seconds in x.calls):
        yield "slow store call"
    if x.took > 3 * limit + MARGIN or (x.kind == HEALTH and x.took > MARGIN):
        yield "slow answer"


def _calls(x: Exchange, is_over: Callable[[Exchange], bool]) -> Iterator[str]:
    """Untouched costs nothing, reading one call; if the session is over, one for each stand-in."""
    allowed = 0 if x.kind == HEALTH or not (x.sent or x.kind == COUNT) else 1
    if allowed and is_over(x):
        allowed += MAX_STAND_INS + x.rotated
    if x.kind in (READ, PEEK, HEALTH) and len(x.calls) > allowed:
        yield "more store calls than promised"
