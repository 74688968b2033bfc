"""All that one run has measured, as the table and the JSON file show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .purge import Purge
from .rounds import Rounds
from .scale import Size, Times
from .sql import Speed, Waits, Weight
from .traffic import Cost, Key


@dataclass
class Results:
    """What was measured so far. A part that was not asked for stays empty."""

    machine: dict[str, str]
    costs: dict[Key, Cost] = field(default_factory=dict)
    sizes: list[Size] = field(default_factory=list)
    times: list[Times] = field(default_factory=list)
    purges: list[Purge] = field(default_factory=list)
    rounds: list[Rounds] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    waits: list[Waits] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain data. The requests' costs are rows; they are keyed by a pair here."""
        plain = asdict(self)
        plain["costs"] = list(self._cost_rows())
        return plain

    def _cost_rows(self) -> Iterator[dict[str, Any]]:
        for (contender, kind), cost in self.costs.items():
            yield {
                "contender": contender,
                "request": kind,
                "round_trips": cost.round_trips,
                "server_microseconds": round(cost.server, 2),
                "added_microseconds": round(cost.added, 2),
                "added_quartiles": [round(quartile, 2) for quartile in cost.quartiles],
            }
