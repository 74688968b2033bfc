"""Ten rounds of filling to the cap and purging: what does not come back is a leak."""

from __future__ import annotations

from dataclasses import dataclass

from .population import IDLE, MINUTE, fill, settings
from .purge import run
from .stage import stage

ROUNDS = 10


@dataclass(frozen=True)
class Rounds:
    """What was taken after each purge, in bytes: see ``Stage.footprint``."""

    store: str
    cap: int
    taken: list[int]

    @property
    def growth(self) -> float:
        """From the first round to the last: 0.1 is a tenth more."""
        return self.taken[-1] / self.taken[0] - 1


def rounds(where: str, server_kind: str, cap: int) -> Rounds:
    """Fill and purge one store again and again. To be run in a process of its own."""
    capped = settings(cap)
    taken = []
    with stage(where, server_kind) as on:
        for turn in range(ROUNDS):
            users = range(turn * cap, turn * cap + capped.rules.cap.users)
            strangers = range(users.stop, (turn + 1) * cap)
            fill(on.store, users, capped.rules, users=True)
            fill(on.store, strangers, capped.rules, users=False)
            on.pass_time(IDLE + MINUTE)
            run(on.store, capped)
            taken.append(on.footprint())
    return Rounds(where, cap, taken)
