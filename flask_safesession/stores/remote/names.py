"""Resolves host names in time: the system's resolver has no time limit."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from ipaddress import ip_address

from .deadline import remaining

# By process and name: one look-up at a time, in a thread of its own, which may hang.
_lookups: dict[tuple[int, str], Future[list[str]]] = {}


def addresses(name: str, error: type[Exception]) -> list[str]:
    """Returns the addresses of a host name, within the time of this call.

    :param error: the exception for a time-out.
    """
    with suppress(ValueError):
        ip_address(name)
        return [name]
    key = (os.getpid(), name)
    mine: Future[list[str]] = Future()
    found = _lookups.setdefault(key, mine)
    if found is mine:
        threading.Thread(target=_look_up, args=(key, found), daemon=True).start()
    try:
        return found.result(remaining(error))
    except FutureTimeoutError:
        raise error(f"the name {name} was not resolved in time") from None


def _look_up(key: tuple[int, str], found: Future[list[str]]) -> None:
    try:
        answers = socket.getaddrinfo(key[1], None, type=socket.SOCK_STREAM)
        found.set_result(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
    except Exception as error:  # noqa: BLE001  # raised by the calls that wait
        found.set_exception(error)
    finally:
        _lookups.pop(key, None)
