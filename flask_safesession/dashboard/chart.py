"""Computes the chart of the last minutes as rectangles, which ``figures.html`` draws.

Created sessions are above the line, ended ones below it, so that a store that fills up looks
heavier on top. One unit is one minute wide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .minutes import OTHER, REASONS, Minute

#: Units of height on each side of the line.
HALF = 50.0
_GAP = 0.2  # of a minute's width, left free between two
_CREATED = "created"


class Bar(NamedTuple):
    """One rectangle. *kind* is ``created`` or a reason, and selects its colour."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Column(NamedTuple):
    """One minute, and its rectangles."""

    minute: Minute
    bars: tuple[Bar, ...]


class Chart(NamedTuple):
    """The whole chart.

    :param columns: the minutes, oldest first.
    :param peak: sessions at the full height of a side; 1 at least.
    :param created: sessions created in all these minutes.
    :param ended: sessions that ended in all these minutes, by reason.
    """

    columns: tuple[Column, ...]
    peak: int
    created: int
    ended: dict[str, int]


def chart_of(minutes: Sequence[Minute]) -> Chart:
    """Returns the chart of *minutes*, with one scale for both sides."""
    peak = max([1, *(max(minute.created, minute.gone) for minute in minutes)])
    ended = sum((Counter(minute.ended) for minute in minutes), Counter[str]())
    return Chart(
        tuple(_column(x, minute, HALF / peak) for x, minute in enumerate(minutes)),
        peak,
        sum(minute.created for minute in minutes),
        {reason: ended[reason] for reason in (*REASONS, OTHER) if ended[reason]},
    )


def _column(x: int, minute: Minute, scale: float) -> Column:
    left, width = round(x + _GAP / 2, 2), round(1 - _GAP, 2)
    bars = []
    if minute.created:
        height = round(minute.created * scale, 2)
        bars.append(Bar(_CREATED, left, round(HALF - height, 2), width, height))
    top = HALF
    for reason, count in minute.ended.items():
        height = round(count * scale, 2)
        bars.append(Bar(reason, left, round(top, 2), width, height))
        top += height
    return Column(minute, tuple(bars))
