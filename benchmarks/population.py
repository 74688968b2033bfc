"""Stores full of sessions, filled through the store's own protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any
from unittest import mock

from flask_safesession.config.settings import Settings, read_settings
from flask_safesession.model.codec import encode
from flask_safesession.model.policy import DEFAULT_TIER
from flask_safesession.model.record import Draft
from flask_safesession.model.tokens import NO_USER, SessionID, new_stamp, tier_tag, user_tag
from flask_safesession.stores.base import Live, Rules, Store
from flask_safesession.stores.redis.servers.connections import Command, Connections
from flask_safesession.stores.remote.deadline import deadline

from . import data

MINUTE = 60_000
IDLE, LIFETIME = 60 * MINUTE, 12 * 60 * MINUTE
"""What the settings allow, in milliseconds. Sessions may be made with a shorter idle allowance."""
PIPELINE = 500
"""Calls to Redis that are sent together while a store is filled."""
CREATED = 1
"""The first element of the script's answer."""

_VARIETY = 1000
"""How many different payloads there are; a store copies them, so that few are enough."""
_PAYLOADS = {
    True: [encode(data.user(number)) for number in range(_VARIETY)],
    False: [encode(data.stranger(number)) for number in range(_VARIETY)],
}
_TIER = tier_tag(DEFAULT_TIER)


def settings(cap: int) -> Settings:
    """The default configuration but for the idle timeout, with room for *cap* sessions."""
    return read_settings({}, {"idle_timeout": IDLE / 1000, "max_sessions": cap})


def key(number: int) -> str:
    """The storage key of session *number*: as long, and as random, as a real one."""
    return SessionID(f"benchmark {number}").key


def draft(number: int, *, users: bool, idle: int = IDLE) -> Draft:
    """Session *number*, of a user of its own or of a stranger; *idle* in milliseconds."""
    tag = user_tag(data.user_id(number)) if users else NO_USER
    payload = _PAYLOADS[users][number % _VARIETY]
    return Draft(new_stamp(), idle, LIFETIME, _TIER, tag, payload)


def who(*, users: bool) -> str:
    """How the table calls them."""
    return "users" if users else "anonymous"


def mean_payload(*, users: bool) -> float:
    """The mean length of a payload in bytes."""
    return sum(map(len, _PAYLOADS[users])) / _VARIETY


def fill(
    store: Store, numbers: Iterable[int], within: Rules, *, users: bool, idle: int = IDLE
) -> None:
    """Create the sessions of these numbers. Raises ``RuntimeError`` if one was refused."""

    def create(number: int) -> None:
        made = store.create(key(number), draft(number, users=users, idle=idle), within)
        _expect(isinstance(made, Live))

    waiting = iter(numbers)
    for number in islice(waiting, 1):
        create(number)  # alone: a server that does not know the script yet learns it here
    while batch := list(islice(waiting, PIPELINE)):
        with _together():
            for number in batch:
                with suppress(_Queued):
                    create(number)


@contextmanager
def _together() -> Iterator[None]:
    """Send what a Redis store would send, all of it at once at the end.

    Waiting for a million answers one by one would take minutes. The store's own code makes every
    command; only the exchange with the server is put off. In memory there is none.
    """
    waiting: dict[Connections, list[Command]] = {}

    def put_off(server: Connections, *commands: Command, **_: Any) -> None:
        waiting.setdefault(server, []).extend(commands)
        raise _Queued

    with mock.patch.object(Connections, "exchange", put_off):
        yield
    for server, commands in waiting.items():
        with deadline(60):
            for answer in server.exchange(*commands):
                _expect(answer[0] == CREATED)


class _Queued(Exception):
    """The command waits to be sent; there is no answer yet."""


def _expect(created: bool) -> None:
    if not created:
        raise RuntimeError("the store did not create a session while it was being filled")
