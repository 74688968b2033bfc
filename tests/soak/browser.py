"""The clients' side of HTTP: one request on one connection, and what its answer says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from time import monotonic
from typing import Any

from .app import EVENTS, TIMES
from .history import COUNT, LOGIN, PATIENCE, REGENERATE, WRITE, Exchange

PAUSE = 0.02
"""Seconds that a view dawdles at the most between reading and writing."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    cookie: str | None
    body: bytes

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return {}


class Browsers:
    """Sends the clients' requests to the sites at these ports, and keeps the history of them."""

    def __init__(self, ports: list[int], exchanges: list[Exchange], dice: Random) -> None:
        self._ports = ports
        self._exchanges = exchanges
        self._dice = dice
        self._numbers = count(1)

    async def ask(
        self, user: str, kind: str, cookie: str | None, *keys: str, **writes: str | None
    ) -> Exchange:
        """Send a request; it writes a value of its own to each of *keys*, beside *writes*."""
        number = next(self._numbers)
        wanted = {**dict.fromkeys(keys, f"{user}/{number}"), **writes}
        pause = self._dice.random() * PAUSE if kind in (WRITE, LOGIN, REGENERATE) else 0
        body = json.dumps({"writes": wanted, "pause": pause}).encode()
        start = monotonic()
        try:
            port = self._dice.choice(self._ports)
            answer = await asyncio.wait_for(_exchange(port, kind, cookie, body), PATIENCE)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            answer = None
        made = Exchange(number, kind, user, start, monotonic(), None, cookie, wanted)
        if answer is not None:
            made = _told(made, answer)
        self._exchanges.append(made)
        return made


async def _exchange(port: int, kind: str, cookie: str | None, body: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"POST /{kind} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head += f"Cookie: session={cookie}\r\n" if cookie else ""
        writer.write(head.encode("ascii") + b"\r\n" + body)
        headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in headers[1:] if line)
        text = await reader.readexactly(int(fields["Content-Length"]))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return Answer(int(headers[0].split()[1]), fields, _cookie(fields.get("Set-Cookie")), text)


def _cookie(header: str | None) -> str | None:
    return None if header is None else header.partition(";")[0].partition("=")[2]


def _told(made: Exchange, answer: Answer) -> Exchange:
    """The exchange with what the answer says."""
    events = dict(json.loads(answer.headers.get(EVENTS, "[]")))
    times = json.loads(answer.headers.get(TIMES, '[["", 0]]'))
    body = answer.json if answer.status == 200 else {}
    return replace(
        made,
        status=answer.status,
        got=answer.cookie,
        rotated="session-rotated" in events,
        lost="session-lost" in events,
        unconfirmed="replicas-missing" in events,
        error=events.get("store-failed", ""),
        data=body.get("data"),
        retry_after="Retry-After" in answer.headers,
        calls=tuple((name, seconds) for name, seconds in times[1:]),
        took=times[0][1],
        count=body.get(COUNT),
    )
