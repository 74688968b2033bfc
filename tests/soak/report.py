"""What a soak prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from .history import Exchange, Fault, History, Violation
from .state import memory

SHOWN = 5
"""Violations of a kind that are shown in full."""


def report(history: History, violations: list[Violation]) -> Iterator[str]:
    """Lines: operations by kind and answer, faults, memory, violations."""
    yield from _operations(history.exchanges)
    yield from _faults(history.faults)
    for name, (first, last) in memory(history.samples).items():
        yield f"memory of {name}: {first / 2**20:.1f} MiB, in the end {last / 2**20:.1f} MiB"
    forgiven = [found for found in violations if found.forgiven]
    if forgiven:
        yield from _counted("lost by failovers", (found.kind for found in forgiven))
    broken = [found for found in violations if not found.forgiven]
    yield from _counted("violations", (found.kind for found in broken))
    for kind in sorted({found.kind for found in broken}):
        for found in [found for found in broken if found.kind == kind][:SHOWN]:
            yield f"  {kind}: {found.text}"


def _operations(exchanges: list[Exchange]) -> Iterator[str]:
    yield f"operations: {len(exchanges)}"
    kinds = Counter(x.kind for x in exchanges)
    answers = Counter((x.kind, _answer(x)) for x in exchanges)
    for kind, times in kinds.most_common():
        said = (f"{n} {answer}" for (k, answer), n in sorted(answers.items()) if k == kind)
        yield f"  {kind}: {times} ({', '.join(said)})"
    calls = [seconds for x in exchanges for _, seconds in x.calls]
    yield f"store calls: {len(calls)}, the longest {max(calls, default=0):.2f} s"


def _faults(faults: list[Fault]) -> Iterator[str]:
    yield f"faults: {len(faults)}"
    for kind, times in Counter(fault.kind for fault in faults).most_common():
        longest = max(fault.end - fault.start for fault in faults if fault.kind == kind)
        yield f"  {kind}: {times} (up to {longest:.1f} s)"


def _answer(x: Exchange) -> str:
    return "broken" if x.status is None else f"{x.status}{' lost' if x.lost else ''}"


def _counted(title: str, kinds: Iterable[str]) -> Iterator[str]:
    counted = Counter(kinds)
    yield f"{title}: {counted.total()}"
    for kind, times in counted.most_common():
        yield f"  {kind}: {times}"
