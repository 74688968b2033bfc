"""Runs Lua scripts on whichever server is responsible, in time, and with redis-py's errors as ours.

The scripts stand in ``lua/`` with their protocol in a comment on top. All that one of them touches
is in one slot.

What a lost reply does: a script that recognises its own repetition is sent again on a fresh
connection while there is time. Others are sent once. Where the server says that it has done nothing
(it is loading, or no master any more), every script is sent again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple, TypeVar

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
from ..remote.breaker import CircuitOpenError
from .servers.connections import Command, deadline, remaining, was_sent
from .servers.standalone import Topology

_T = TypeVar("_T")

# What part of the time that a call has left may be spent on waiting for replicas; and seconds off
# that, for a server looks only ten times a second whether a wait is over.
_WAITING = 0.8
_LATE = 0.1
# The server has done nothing, and may be ready in a moment: seconds until it is asked again.
_NOT_YET = (BusyLoadingError, ClusterDownError, MasterDownError, TryAgainError)
_PAUSES = (0.01, 0.03, 0.06)
_ACL = "give the ACL user the commands and keys that the documentation of stores lists"
_MEMORY = "raise the server's maxmemory, or lower SAFESESSION_MAX_SESSIONS"
# What stands in errors that an operator can do something about, and what to do.
_MENDS = {
    "NOAUTH": "give the password in SAFESESSION_STORE",
    "unauthenticated": "give the password in SAFESESSION_STORE",
    "Authentication required": "give the password in SAFESESSION_STORE",
    "WRONGPASS": "mend the user name or password in SAFESESSION_STORE",
    "invalid username-password": "mend the user name or password in SAFESESSION_STORE",
    "without any password configured": "mend the user name or password in SAFESESSION_STORE",
    **dict.fromkeys(["NOPERM", "NoPermission", "ACL failure", "can't run this command"], _ACL),
    "No permissions to access": _ACL,
    "max number of clients reached": "raise the server's maxclients, or run fewer workers",
    **dict.fromkeys(["OOM", "OutOfMemory"], _MEMORY),
    "MISCONF": "the server cannot save its data: look at its disk and its log",
    "NOREPLICAS": "the server wants more replicas than it has: see min-replicas-to-write",
    "BUSY": "somebody's script keeps the server busy: SCRIPT KILL ends it",
}


class Script:
    """A Lua script and the digest by which the server remembers it.

    :param parts: files in ``lua/``, put one behind the other.
    """

    def __init__(self, *parts: str) -> None:
        folder = resources.files(__package__) / "lua"
        self.text: str = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        self.sha: str = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Confirmed(NamedTuple):
    """A script's answer, and how many replicas have what it wrote."""

    answer: Any
    replicas: int


class Caller:
    """Calls servers, each call within the time-out.

    :param topology: where the servers are.
    :param timeout: seconds that one call may take, reconnects and retries included.
    :param check: run before the first call, in its time, and before the next ones until it
        returns true. What it raises, the calls raise.
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
        """The answer of *script*.

        :param repeatable: it recognises its own repetition.
        :param reading: what it gets in the place of *args* where nothing can be written: while a
            cluster moves the slot to another node, and where no server is a master any more.
            ``None``: it is not to be run then.
        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        left = False

        def send() -> Any:
            nonlocal left
            try:
                return self._send(script, keys, args, careful=not repeatable)[0]
            except (TryAgainError, ReadOnlyError) as error:
                # A server that is no master any more is left first, for the one that is.
                is_first, left = isinstance(error, ReadOnlyError) and not left, True
                if reading is None or is_first:
                    raise
                return self._send(script, keys, reading, guarded=False)[0]

        return self.call(send, repeatable=repeatable)

    def settle(
        self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...]
    ) -> tuple[Any, bool]:
        """The answer of a repeatable *script*, and whether an earlier try of this call may be done.

        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        may_be_done = False

        def send() -> Any:
            nonlocal may_be_done
            try:
                return self._send(script, keys, args, careful=True)[0]
            except redis.ConnectionError as error:
                may_be_done = may_be_done or (was_sent(error) and not isinstance(error, _NOT_YET))
                raise

        answer = self.call(send)
        return answer, may_be_done

    def confirm(
        self, script: Script, keys: tuple[str, ...], args: tuple[Any, ...], replicas: int
    ) -> Confirmed:
        """The answer of a repeatable *script*, after a wait until so many *replicas* have it.

        WAIT stands behind the script and not in it, where it would not wait; and scripts that are
        run with it write also when they are repeated: it confirms the connection's last write.
        """

        def send() -> Confirmed:
            return Confirmed(*self._send(script, keys, args, replicas=replicas))

        return self.call(send)

    def call(self, send: Callable[[], _T], *, repeatable: bool = True) -> _T:
        """``send()``, within the time-out, and again where that can do no harm.

        :raises StoreUnavailable: it failed.
        """
        try:
            with deadline(self.timeout):
                if not self._checked:
                    self._checked = _persistently(self._check, repeatable=True)
                return _persistently(send, repeatable=repeatable)
        except RedisError as error:
            raise StoreUnavailable(explain(error)) from error

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
        if guarded and self.topology.guarded:
            keys = (*keys, f"{keys[0][: keys[0].index('}') + 1]}:none")
        tail, exchange = (len(keys), *keys, *args), self.topology.exchange
        try:
            commands = _awaited(("EVALSHA", script.sha, *tail), replicas)
            return exchange(keys[0], *commands, careful=careful)
        except NoScriptError:
            # A restart or SCRIPT FLUSH: sending the text also makes the server remember it.
            commands = _awaited(("EVAL", script.text, *tail), replicas)
            return exchange(keys[0], *commands, careful=careful)


def _awaited(command: Command, replicas: int) -> tuple[Command, ...]:
    """*command*, and behind it the wait for *replicas*, for part of the time that is left."""
    if not replicas:
        return (command,)
    patience = max(0.001, remaining() * _WAITING - _LATE)
    return (command, ("WAIT", replicas, int(patience * 1000)))


def _persistently(send: Callable[[], _T], *, repeatable: bool) -> _T:
    pauses = iter(_PAUSES)
    lost = False
    while True:
        try:
            return send()
        except _NOT_YET:
            if (pause := next(pauses, None)) is None:
                raise
            time.sleep(min(pause, remaining()))
        except (ReadOnlyError, redis.ConnectionError) as error:
            # No master any more; or the reply may have been lost. There may be time to ask again.
            undone = isinstance(error, ReadOnlyError)
            if lost or isinstance(error, CircuitOpenError) or not (repeatable or undone):
                raise
            lost = True
            remaining()


def explain(error: RedisError) -> str:
    """The error for the log, with what to do about it where that is known."""
    text = f"{type(error).__name__}: {error}"
    mend = next((mend for sign, mend in _MENDS.items() if sign in text), None)
    return f"{text} ({mend})" if mend else text
