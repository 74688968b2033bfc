"""What is done to the store and to the workers while the clients go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from time import monotonic

import redis

from ..support.proxy import Proxy
from ..support.servers import Server
from .browser import Browsers
from .fleet import Fleet
from .history import FAILOVER, FLOOD, OVERLOAD, Fault
from .load import crowd
from .site import Site

BUSY = """
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local until_then = now() + ARGV[1]
while now() < until_then do end
"""
"""A long script of somebody else's; for so many milliseconds."""


STALL = 0.25
"""Seconds by which this process may wake too late before the machine counts as overloaded,"""
AFTER_STALL = 3.0
"""and for how long from then on: others stand still before and after."""
Do = Callable[[Random], object]


async def notice_stalls(until: float, done: list[Fault]) -> None:
    """Note when the machine itself stood still: nobody's time-outs mean anything then."""
    while (asleep := monotonic()) < until:
        await asyncio.sleep(0.05)
        if monotonic() - asleep > 0.05 + STALL:
            done.append(Fault(OVERLOAD, asleep, monotonic() + AFTER_STALL))


@dataclass
class Faults:
    """Does one fault after the other, and notes when.

    :param crowd: so many strangers come at once in a ``flood``.
    :param only: the kinds to be done; none are all.
    """

    fleet: Fleet
    sites: list[Site]
    browsers: Browsers
    dice: Random
    crowd: int
    only: tuple[str, ...]
    done: list[Fault]

    async def go_on(self, until: float) -> None:
        """Every kind in a random order, then again, with some quiet in between."""
        for kind, fault in self._deck():
            await asyncio.sleep(self.dice.uniform(1, 4))
            if monotonic() > until:
                return
            await self._do(kind, fault, until)

    async def _do(self, kind: str, fault: Do, until: float) -> None:
        start = monotonic()
        if kind == FLOOD:
            await crowd(self.crowd, self.browsers, f"{FLOOD}{len(self.done)}", until)
            moved = False
        else:
            moved = await asyncio.to_thread(self._and_heal, fault, until)
        self.done.append(Fault(kind, start, monotonic()))
        if moved and kind != FAILOVER:
            self.done.append(replace(self.done[-1], kind=FAILOVER))

    def _and_heal(self, fault: Do, until: float) -> bool:
        """Do it and set all right again; whether there are other masters now."""
        before, healed = self._masters(), False
        with suppress(TimeoutError):  # some wait for the fleet themselves
            fault(self.dice)
        while not healed:
            with suppress(TimeoutError):
                self.fleet.heal()
                healed = True
            healed = healed or monotonic() > until
        return self._masters() != before

    def _masters(self) -> set[int]:
        return {server.port for server in self.fleet.masters()}

    def _deck(self) -> Iterator[tuple[str, Do]]:
        kinds = self.kinds()
        names = self.only or tuple(kinds)
        if unknown := set(names) - kinds.keys():
            raise ValueError(f"no such fault: {unknown}; this store has {sorted(kinds)}")
        while True:
            for name in self.dice.sample(names, len(names)):
                yield name, kinds[name]

    def kinds(self) -> dict[str, Do]:
        """Those that this fleet can have, by name."""
        ours: dict[str, Do] = {
            FLOOD: lambda dice: None,
            "worker kill": lambda dice: dice.choice(self.sites).kill_worker(dice),
            "reload": self._reload,
        }
        servers = {name: self._on_server(fault) for name, fault in ON_SERVER.items()}
        ways = {name: self._on_way(fault) for name, fault in ON_WAY.items()}
        return {**ours, **servers, **ways, **self.fleet.faults}

    def _reload(self, dice: Random) -> None:
        dice.choice(self.sites).reload()
        _wait(dice, 1, 3)

    def _on_server(self, fault: Callable[[Server, Random], object]) -> Do:
        return lambda dice: fault(dice.choice(self.fleet.masters()), dice)

    def _on_way(self, fault: Callable[[Proxy, Random], object]) -> Do:
        def run(dice: Random) -> None:
            proxy = self.fleet.proxy(dice.choice(self.fleet.masters()))
            try:
                fault(proxy, dice)
            finally:
                proxy.fix()

        return run


def _wait(dice: Random, least: float, most: float) -> None:
    time.sleep(dice.uniform(least, most))


# -- the server -----------------------------------------------------------------------------------


def _stop(server: Server, dice: Random) -> None:
    with server.paused():
        _wait(dice, 0.2, 3)


def _restart(server: Server, dice: Random) -> None:
    server.kill()
    _wait(dice, 0, 1)
    server.restart()


def _out_of_memory(server: Server, dice: Random) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 1)
    _wait(dice, 0.2, 1.5)
    server.ask("CONFIG", "SET", "maxmemory", 0)


def _busy(server: Server, dice: Random) -> None:
    with suppress(redis.RedisError):  # it was stopped by a failover
        server.ask("EVAL", BUSY, 0, int(dice.uniform(100, 1500)))


ON_SERVER: dict[str, Callable[[Server, Random], object]] = {
    "stop": _stop,
    "restart": _restart,
    "out of memory": _out_of_memory,
    "busy": _busy,
    "script flush": lambda server, dice: server.ask("SCRIPT", "FLUSH"),
    "client kill": lambda server, dice: server.ask("CLIENT", "KILL", "TYPE", "normal"),
}


# -- the way there --------------------------------------------------------------------------------


def _cut(proxy: Proxy, dice: Random) -> None:
    proxy.reset = dice.random() < 0.5
    proxy.cut_all()


def _refuse(proxy: Proxy, dice: Random) -> None:
    proxy.refuse = True
    proxy.cut_all()
    _wait(dice, 0.2, 2)


def _lose_replies(proxy: Proxy, dice: Random) -> None:
    proxy.cut_replies = dice.randint(1, 20)
    _wait(dice, 0.5, 1)


def _truncate(proxy: Proxy, dice: Random) -> None:
    for _ in range(5):
        proxy.truncate = dice.randint(1, 60)
        _wait(dice, 0.1, 0.2)


def _swallow(proxy: Proxy, dice: Random) -> None:
    proxy.silent = True
    _wait(dice, 0.2, 2)
    proxy.silent = False
    proxy.cut_all()  # what was swallowed does not come any more


def _delay(least: float, most: float) -> Callable[[Proxy, Random], None]:
    def delay(proxy: Proxy, dice: Random) -> None:
        proxy.delay = dice.uniform(least, most)
        _wait(dice, 0.5, 2)

    return delay


ON_WAY: dict[str, Callable[[Proxy, Random], object]] = {
    "cut": _cut,
    "refused": _refuse,
    "lost replies": _lose_replies,
    "cut-off replies": _truncate,
    "swallowed": _swallow,
    "latency": _delay(0.001, 0.03),
    "high latency": _delay(0.2, 1),
}
