"""Sessions under load and faults, and a checker that knows what each client was told.

``python -m tests.soak`` starts servers and workers of its own, breaks them again and again
while hundreds of clients go on, and ends with 1 if a promise was broken.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import click

from ..support.servers import binaries
from .browser import Browsers
from .checker import check
from .faults import Faults, notice_stalls
from .fleet import FLEETS, Fleet
from .history import STRANGER, History, Limits
from .load import BRIEF, MEMBER, devices
from .report import report
from .sabotage import SABOTAGES
from .settings import write
from .site import Site, sites
from .watch import Watch

SERVERS = list(binaries())
PREFIX = "soak"
IDLE = {STRANGER: 8.0, BRIEF: 4.0, MEMBER: 30.0}
LIFETIME = {STRANGER: 120.0, BRIEF: 20.0, MEMBER: 60.0}
TOUCH = {STRANGER: 0.1, BRIEF: 0.05, MEMBER: 0.5}
PER_USER = 4
STORE_TIMEOUT = 1.0


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    :param workers: in all; half of them are forked, the others have threads.
    :param rate: deeds of all clients together a second; a deed is some two requests.
    :param wait: ``SAFESESSION_WAIT_REPLICAS``.
    :param only: only these faults; none are all.
    :param sabotage: what is to be broken in the library, see ``sabotage.py``.
    """

    seconds: float = 180
    workers: int = 4
    clients: int = 200
    rate: float = 60
    store: str = "single"
    server: str = SERVERS[0]
    seed: int = 0
    shards: int = 1
    wait: int = 0
    only: tuple[str, ...] = ()
    sabotage: str | None = None

    @property
    def cap(self) -> int:
        """So many that users never fill their share, and strangers sometimes all of it.

        Users are not dealt out evenly to shards, and each shard has a cap of its own.
        """
        return self.clients * 2 * max(1, self.shards // 2)

    @property
    def limits(self) -> Limits:
        return Limits(IDLE, LIFETIME, TOUCH, self.cap, PER_USER, STORE_TIMEOUT, self.wait)

    def settings(self, fleet: Fleet) -> dict[str, Any]:
        """The keyword arguments of ``SafeSession``; what is not asked for keeps its default."""
        asked = {"shards": self.shards if self.shards > 1 else 0, "wait_replicas": self.wait}
        tiers = {t: {"idle_timeout": IDLE[t], "lifetime": LIFETIME[t]} for t in IDLE}
        return {
            "store": fleet.url,
            "key_prefix": PREFIX,
            "expiry": "tiered",
            "tiers": tiers,
            "max_sessions": self.cap,
            "max_sessions_per_user": PER_USER,
            "store_timeout": STORE_TIMEOUT,
            "check_interval": 3,
            **{name: value for name, value in asked.items() if value},
        }


async def _run(plan: Plan, fleet: Fleet, started: list[Site], history: History) -> None:
    until = monotonic() + plan.seconds
    dice = random.Random(plan.seed)
    ports = [site.port for site in started]
    browsers = Browsers(ports, history.exchanges, random.Random(dice.random()))
    fates = random.Random(dice.random())
    faults = Faults(fleet, started, browsers, fates, plan.cap, plan.only, history.faults)
    pause = plan.clients / plan.rate
    work = [one.live(until, pause) for one in devices(plan.clients, browsers, dice)]
    work += [faults.go_on(until), notice_stalls(until, history.faults)]
    await asyncio.gather(*work)


def soak(plan: Plan) -> History:
    """Do what *plan* says, and tell all that happened."""
    history = History(plan.limits)
    with tempfile.TemporaryDirectory(prefix="safesession-soak-") as name, ExitStack() as stack:
        folder = Path(name)
        fleet = stack.enter_context(FLEETS[plan.store](plan.server, folder, f"{{{PREFIX}:0}}"))
        settings = folder / "settings.json"
        write(settings, plan.settings(fleet))
        started = stack.enter_context(sites(plan.workers, settings, sabotage=plan.sabotage))
        watch = Watch(fleet, started, PREFIX, plan.shards, history.samples)
        stack.enter_context(watch.running())
        asyncio.run(_run(plan, fleet, started, history))
        history.tracebacks += [text for site in started for text in site.tracebacks()]
    return history


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=Plan.seconds)
@click.option("--workers", type=click.IntRange(min=1), default=Plan.workers)
@click.option("--clients", type=click.IntRange(min=1), default=Plan.clients)
@click.option("--rate", type=click.FloatRange(min=1), default=Plan.rate, help="Deeds a second.")
@click.option("--store", type=click.Choice(list(FLEETS)), default=Plan.store)
@click.option("--server", type=click.Choice(SERVERS), default=Plan.server)
@click.option("--seed", type=int, help="The same deeds and faults again, but for their timing.")
@click.option("--shards", type=click.IntRange(1, 64), default=Plan.shards)
@click.option("--wait", type=click.IntRange(min=0), default=0, help="SAFESESSION_WAIT_REPLICAS.")
@click.option("--only", multiple=True, metavar="FAULT", help="Only this one; can be repeated.")
@click.option("--sabotage", type=click.Choice(list(SABOTAGES)), hidden=True)
def main(seed: int | None, **options: Any) -> None:
    """Let clients and faults loose on sessions, and look for a broken promise."""
    plan = Plan(seed=random.randrange(10**6) if seed is None else seed, **options)
    click.echo(f"{plan.seconds:g} s on {plan.store} ({plan.server}), seed {plan.seed}")
    history = soak(plan)
    violations = check(history)
    for line in report(history, violations):
        click.echo(line)
    sys.exit(any(not found.forgiven for found in violations))
