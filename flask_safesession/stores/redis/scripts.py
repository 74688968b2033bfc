"""Runs Lua scripts on the server responsible for a key, in time, with store errors for redis-py's.

After a lost reply, a script that recognises its own repetition is sent again on a fresh connection
while there is time; others are sent once. When the server answers that it has done nothing (it is
loading, or is no longer a master), every script is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from ...errors import StoreUnavailable
from ..remote.deadline import deadline
from .lua import Script
from .servers.connections import CircuitOpenError, Command, remaining, was_sent
from .servers.standalone import Topology

_T = TypeVar("_T")

# The share of a call's remaining time to wait for replicas; and seconds less than that, since a
# server checks only ten times a second whether a wait is over.
_WAITING = 0.8
_LATE = 0.1
# The server has done nothing, and may be ready in a moment: seconds until it is asked again.
_NOT_YET = (BusyLoadingError, ClusterDownError, MasterDownError, TryAgainError)
_PAUSES = (0.01, 0.03, 0.06)
# What to do about an error, by parts of its text.
_FIXES = {
    "give the password in SAFESESSION_STORE":
        ("NOAUTH", "unauthenticated", "Authentication required"),
    "correct the user name or password in SAFESESSION_STORE":
        ("WRONGPASS", "invalid username-password", "without any password configured"),
    "give the ACL user the commands and keys that the documentation of stores lists":
        ("NOPERM", "NoPermission", "No permissions", "ACL failure", "can't run this command"),
    "raise the server's maxclients, or run fewer workers": ("max number of clients reached",),
    "raise the server's maxmemory, or lower SAFESESSION_MAX_SESSIONS": ("OOM", "OutOfMemory"),
    "the server cannot save its data: check its disk and its log": ("MISCONF",),
    "the server requires more replicas than it has: see min-replicas-to-write": ("NOREPLICAS",),
    "another program's script keeps the server busy: SCRIPT KILL ends it": ("BUSY",),
}  # fmt: skip


class Caller:
    """Calls servers, each call within the time-out.

    :param topology: finds the servers.
    :param timeout: seconds that one call may take, reconnects and retries included.
    :param check: runs before the first call, in its time, and before the next ones until it
        returns true. The calls raise what it raises.
    """

    def __init__(
        self, topology: Topology, timeout: float, check: Callable[[], bool] = lambda: True
    ) -> None:
        self.topology = topology
        self.timeout = timeout
        self._check = check
        self._checked = False

    def check(self) -> None:
        """Run the check, unless it has passed already.

        :raises StoreUnavailable: the server did not answer.
        """
        self.call(lambda: None)

    def run(
        self,
        script: Script,
        keys: tuple[str, ...],
        args: tuple[Any, ...],
        *,
        repeatable: bool = True,
        reading: tuple[Any, ...] | None = None,
    ) -> Any:
        """Returns the answer of *script*.

        :param repeatable: the script recognises its own repetition.
        :param reading: replaces *args* where nothing can be written: while a cluster moves the
            slot to another node, and where no server is a master any more. ``None``: the script
            does not run then.
        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        tries, left = _Tries(repeatable=repeatable), False
        with _Call(self.timeout):
            while True:
                with tries:
                    try:
                        return self._send(script, keys, args, careful=not repeatable)[0]
                    except (TryAgainError, ReadOnlyError) as error:
                        # First try the new master; read from a former one only if there is none.
                        is_first, left = isinstance(error, ReadOnlyError) and not left, True
                        if reading is None or is_first:
                            raise
                        return self._send(script, keys, reading, guarded=False)[0]

    def settle(
        self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...]
    ) -> tuple[Any, bool]:
        """Returns the answer of a repeatable *script*, and whether an earlier try may be done.

        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        tries = _Tries()
        with _Call(self.timeout):
            while True:
                with tries:
                    return self._send(script, keys, args, careful=True)[0], tries.may_be_done

    def confirm(
        self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...], replicas: int
    ) -> tuple[Any, int]:
        """Returns the answer of a repeatable *script*, and how many of so many *replicas* have it.

        WAIT follows the script: inside it would not wait. It confirms the
        connection's last write, so such a script writes also when it is repeated.

        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        tries = _Tries()
        with _Call(self.timeout):
            while True:
                with tries:
                    answer, confirmed = self._send(script, keys, args, replicas=replicas)
                    return answer, confirmed

    def call(self, send: Callable[[], _T], *, repeatable: bool = True) -> _T:
        """Returns what *send* returns, within the time-out.

        :param repeatable: *send* may be called again after its reply was lost.
        :raises StoreUnavailable: *send* failed.
        """
        tries = _Tries(repeatable=repeatable)
        with _Call(self.timeout):
            while True:
                with tries:
                    if not self._checked:
                        self._checked = self._check()
                    return send()

    def _send(
        self,
        script: Script,
        keys: tuple[str, ...],
        args: tuple[Any, ...],
        *,
        replicas: int = 0,
        careful: bool = False,
        guarded: bool = True,
    ) -> list[Any]:
        if not self._checked:
            self.check()
        if guarded and self.topology.guarded:
            keys = (*keys, f"{keys[0][: keys[0].index('}') + 1]}:none")
        tail, exchange = (len(keys), *keys, *args), self.topology.route(keys[0])
        try:
            return exchange(*_awaited(("EVALSHA", script.sha, *tail), replicas), careful=careful)
        except NoScriptError:
            # A restart or SCRIPT FLUSH: sending the text also makes the server store it.
            return exchange(*_awaited(("EVAL", script.text, *tail), replicas), careful=careful)


def _awaited(command: Command, replicas: int) -> tuple[Command, ...]:
    """Returns *command*, followed by the wait for *replicas*, for part of the time that is left."""
    if not replicas:
        return (command,)
    patience = max(0.001, remaining() * _WAITING - _LATE)
    return (command, ("WAIT", replicas, int(patience * 1000)))


class _Call(deadline):
    """Limits the time of a call, and raises redis-py's errors as ``StoreUnavailable``."""

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        error = exception[1]
        if isinstance(error, RedisError):
            raise StoreUnavailable(explain(error)) from error


class _Tries:
    """Suppresses the errors after which a call is tried again.

    ``may_be_done``: the server may have done what a failed try has sent.
    """

    may_be_done = False
    _lost = False
    _pauses = 0  # made so far

    def __init__(self, *, repeatable: bool = True) -> None:
        self._repeatable = repeatable

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            return False
        if isinstance(error, _NOT_YET):
            if self._pauses == len(_PAUSES):
                return False
            time.sleep(min(_PAUSES[self._pauses], remaining()))
            self._pauses += 1
            return True
        # No longer a master; or the reply may have been lost.
        if not isinstance(error, (ReadOnlyError, redis.ConnectionError)):
            return False
        undone = isinstance(error, ReadOnlyError)
        if self._lost or isinstance(error, CircuitOpenError) or not (self._repeatable or undone):
            return False
        self.may_be_done = not undone and was_sent(error)
        self._lost = True
        remaining()
        return True


def explain(error: RedisError) -> str:
    """Returns an error's text for the log, with the fix where it is known."""
    text = f"{type(error).__name__}: {error}"
    fixes = (fix for fix, signs in _FIXES.items() if any(sign in text for sign in signs))
    return next((f"{text} ({fix})" for fix in fixes), text)
