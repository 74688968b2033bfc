"""What the samples of the store and the workers must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from .history import History, Sample, Violation

GROWTH = 1.25
"""The last quarter may need this much more memory than the first"""
ALLOWANCE = 8 * 2**20
"""and these bytes: caches fill, and a young worker has not done everything once."""


def check_samples(history: History) -> Iterator[Violation]:
    """Caps that were passed, memory that grew."""
    limits = history.limits
    for sample in history.samples:
        if sample.total > limits.cap:
            yield Violation("over the cap", f"{sample.total} of {limits.cap} at {sample.at:.3f}")
        if sample.fullest > limits.per_user:
            text = f"{sample.fullest} of {limits.per_user} at {sample.at:.3f}"
            yield Violation("over a user's cap", text)
    for x in history.exchanges:
        if x.count is not None and x.count > limits.cap:
            yield Violation("over the cap", f"safe.count() said {x.count}: {x}")
    for name, (first, last) in memory(history.samples).items():
        if last > first * GROWTH + ALLOWANCE:
            text = f"{name}: {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB"
            yield Violation("memory grew", text)


def memory(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Bytes in the first and in the last quarter, of a worker and of the server."""
    quarter = len(samples) // 4
    if not quarter:
        return {}

    def both(what: Callable[[Sample], int]) -> tuple[float, float]:
        first, last = samples[:quarter], samples[-quarter:]
        return median(map(what, first)), median(map(what, last))

    return {"a worker": both(lambda s: s.resident), "the server": both(lambda s: s.used)}
