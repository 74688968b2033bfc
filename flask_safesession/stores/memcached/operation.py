"""Runs an operation in time, again where that is needed, with the errors of stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pymemcache.exceptions import MemcacheError, MemcacheUnexpectedCloseError

from ...errors import StoreUnavailable
from ..remote.deadline import deadline, remaining
from .lines import CircuitOpenError, Server
from .turn import Changed, Turn

# What to do about an answer, by a part of its text.
_FIXES = {
    "out of memory": "raise its memory (-m)",
    "too large": "lower SAFESESSION_MAX_SESSION_SIZE, or raise the server's largest item (-I)",
    "b'mg'": "Memcached 1.6 or newer is needed",
}


class _Store(Protocol):
    """What an operation needs of its store; see :class:`.store.MemcachedStore`."""

    servers: Sequence[Server]
    prefix: bytes
    timeout: float


_S = TypeVar("_S", bound=_Store)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def operation(
    steps: Callable[Concatenate[_S, Turn, _P], _T],
) -> Callable[Concatenate[_S, _P], _T]:
    """Make an operation of *steps*, within the time-out and with the store's errors.

    They begin again if another request was faster, and once after a lost connection: each operation
    recognises what an earlier try has done.
    """

    def run(store: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        turn = Turn(store.servers, store.prefix)
        with deadline(store.timeout):
            while True:
                try:
                    with turn:
                        return steps(store, turn, *args, **kwargs)
                except Changed:
                    remaining(StoreUnavailable)
                except (OSError, MemcacheError) as error:
                    if turn.lost or not _may_try_again(error):
                        raise StoreUnavailable(_explain(error, turn.asked)) from error
                    turn.lost = True

    update_wrapper(run, steps)
    return run


def _may_try_again(error: Exception) -> bool:
    if isinstance(error, MemcacheError):
        return isinstance(error, MemcacheUnexpectedCloseError)
    return not isinstance(error, (CircuitOpenError, TimeoutError))


def _explain(error: Exception, server: str) -> str:
    if isinstance(error, CircuitOpenError):  # it names the server
        return str(error)
    text = f"{server}: {type(error).__name__}: {error}"
    fixes = (fix for sign, fix in _FIXES.items() if sign in text)
    return next((f"{text} ({fix})" for fix in fixes), text)
