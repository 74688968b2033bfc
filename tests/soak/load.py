"""What the clients do: users with one device or several, and crowds of strangers.

A device is a browser: it keeps the cookie of the last answer that set one, whichever request that
answered, as browsers do when tabs load at once. And it keeps some old cookies, to come back with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import cycle, islice
from random import Random
from time import monotonic

from .browser import Browsers
from .history import (
    COUNT,
    FOLLOWING,
    HEALTH,
    LOGIN,
    LOGOUT,
    PEEK,
    READ,
    REGENERATE,
    SWAP,
    TIER_KEY,
    USER_KEY,
    WRITE,
    Exchange,
)

BRIEF, MEMBER = "brief", "member"
KEYS = ("a", "b", "c", "d", "e")
MARK = "signed_in"
"""The key that a login writes, beside the user and the tier."""
DEVICES = (1, 1, 1, 2, 2, 6)
"""Devices of a user, by turns; those with six push each other out."""
NAP = 4.5
"""Seconds: longer than the idle timeout of the tier ``BRIEF``."""


class Device:
    """One browser of a user, doing one thing after the other."""

    def __init__(self, user: str, browsers: Browsers, dice: Random) -> None:
        self._user = user
        self._browsers = browsers
        self._dice = dice
        self._cookie: str | None = None
        self._signed_in = False
        self._until = 0.0
        self._old: deque[str] = deque(maxlen=6)
        self._tier = dice.choice((BRIEF, MEMBER, MEMBER))
        self._deeds: dict[Callable[[], Awaitable[object]], int] = {
            self._read: 30,
            self._write: 15,
            self._tabs: 20,
            self._clash: 6,
            self._remove: 4,
            self._login: 6,
            self._double_click: 2,
            self._logout: 4,
            self._logout_among_tabs: 3,
            self._regenerate_among_tabs: 4,
            self._regenerate_and_logout: 2,
            self._swap: 2,
            self._come_back: 8,
            self._nap: 3,
            self._look_around: 4,
        }

    async def live(self, until: float, pause: float) -> None:
        """Do things until then, with pauses of so many seconds on average."""
        self._until = until
        await self._sleep(self._dice.random() * pause)
        while monotonic() < until:
            await self._choose()()
            await self._sleep(self._dice.expovariate(1 / pause))

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self._until - monotonic()))

    def _choose(self) -> Callable[[], Awaitable[object]]:
        if not self._signed_in and self._dice.random() < 0.4:
            return self._login
        [deed] = self._dice.choices(list(self._deeds), list(self._deeds.values()))
        return deed

    async def _ask(self, kind: str, *keys: str, **writes: str | None) -> Exchange:
        """Send a request with the cookie that there is, and take the one that comes back."""
        x = await self._browsers.ask(self._user, kind, self._cookie, *keys, **writes)
        if x.got is not None and x.got != self._cookie:
            if self._cookie:
                self._old.append(self._cookie)
            self._cookie = x.got or None
        if x.data is not None:
            self._signed_in = kind == LOGIN or (kind not in FOLLOWING and USER_KEY in x.data)
        return x

    async def _read(self) -> None:
        await self._ask(READ)

    async def _write(self) -> None:
        await self._ask(WRITE, self._dice.choice(KEYS))

    async def _tabs(self) -> None:
        """Several tabs change different keys, and one looks on."""
        keys = self._dice.sample(KEYS, self._dice.randint(2, 4))
        await asyncio.gather(*(self._ask(WRITE, key) for key in keys), self._ask(READ))
        await self._ask(READ)

    async def _clash(self) -> None:
        """Two tabs change the same key."""
        key = self._dice.choice(KEYS)
        await asyncio.gather(self._ask(WRITE, key), self._ask(WRITE, key))
        await self._ask(READ)

    async def _remove(self) -> None:
        # Of a stranger's session nothing would be left: that is another story.
        if USER_KEY in ((await self._ask(READ)).data or {}):
            await self._ask(WRITE, **{self._dice.choice(KEYS): None})

    async def _login(self) -> None:
        await self._ask(LOGIN, MARK, **{USER_KEY: self._user, TIER_KEY: self._tier})

    async def _double_click(self) -> None:
        await asyncio.gather(self._login(), self._login())

    async def _logout(self) -> None:
        await self._ask(LOGOUT)

    async def _logout_among_tabs(self) -> None:
        keys = self._dice.sample(KEYS, 2)
        await asyncio.gather(*(self._ask(WRITE, key) for key in keys), self._logout())

    async def _regenerate_among_tabs(self) -> None:
        keys = self._dice.sample(KEYS, 2)
        await asyncio.gather(*(self._ask(WRITE, key) for key in keys), self._ask(REGENERATE))
        await self._ask(READ)

    async def _regenerate_and_logout(self) -> None:
        await asyncio.gather(self._ask(REGENERATE), self._logout())

    async def _swap(self) -> None:
        await self._ask(SWAP, self._dice.choice(KEYS))

    async def _come_back(self) -> None:
        """Try an old cookie, and forget what the answer sets."""
        if self._old:
            kind = self._dice.choice((READ, READ, READ, WRITE, LOGOUT, REGENERATE))
            keys = (self._dice.choice(KEYS),) if kind == WRITE else ()
            await self._browsers.ask(self._user, kind, self._dice.choice(self._old), *keys)

    async def _nap(self) -> None:
        if self._dice.random() < 0.5:
            await self._ask(PEEK)
        await self._sleep(NAP * self._dice.uniform(0.3, 1.2))
        await self._ask(READ)

    async def _look_around(self) -> None:
        kind = self._dice.choice((PEEK, HEALTH, HEALTH, COUNT))
        await self._ask(kind)


def devices(clients: int, browsers: Browsers, dice: Random) -> list[Device]:
    """So many devices, of as many users as that takes."""
    users = (f"u{number}" for number, some in enumerate(cycle(DEVICES)) for _ in range(some))
    return [Device(user, browsers, Random(dice.random())) for user in islice(users, clients)]


async def crowd(size: int, browsers: Browsers, name: str, until: float) -> None:
    """Strangers come all at once, each with a session; none after *until*."""
    turn = asyncio.Semaphore(8)

    async def come(number: int) -> None:
        async with turn:
            if monotonic() < until:
                await browsers.ask(f"{name}-{number}", WRITE, None, "a")

    await asyncio.gather(*(come(number) for number in range(size)))
