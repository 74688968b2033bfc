"""The circuit breaker: who is let through, who is told off, and how fast."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, BusyLoadingError, ReadOnlyError

from flask_safesession.events import StoreStateChanged
from flask_safesession.stores.redis.servers.connections import CircuitOpenError, failed
from flask_safesession.stores.remote import breaker as module
from flask_safesession.stores.remote.breaker import FAILURES, PROBE_INTERVAL, Breaker, watching
from flask_safesession.testing.kit import together

DOWN = redis.ConnectionError("refused")


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_800_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall


class Server:
    """What calls do: succeed, or raise what it is told to."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "reply"


class Told(list[str]):
    def __call__(self, event: Any) -> None:
        assert isinstance(event, StoreStateChanged)
        assert event.server == "h:1"
        self.append(event.state)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def breaker(told: Told) -> Breaker:
    return Breaker("h:1", told, failed, CircuitOpenError)


@pytest.fixture
def server() -> Server:
    return Server()


def call(breaker: Breaker, server: Callable[[], str], *, late: bool = False) -> str:
    with watching(breaker, late=late):
        return server()


def fail(breaker: Breaker, server: Callable[[], str], times: int = FAILURES) -> None:
    for _ in range(times):
        with pytest.raises(redis.RedisError):
            call(breaker, server)


def open_(breaker: Breaker) -> None:
    server = Server()
    server.error = DOWN
    fail(breaker, server)
    assert breaker.state == "open"


def test_a_row_of_failures_opens_it_and_one_less_does_not(
    clock: Clock, breaker: Breaker, server: Server, told: Told
) -> None:
    for error in (DOWN, redis.TimeoutError()):
        server.error = error
        fail(breaker, server, FAILURES - 1)
        server.error = None
        assert (breaker.state, breaker.failing) == ("closed", True)
        assert call(breaker, server) == "reply"
        assert not breaker.failing
    server.error = DOWN
    fail(breaker, server)
    assert (breaker.state, told) == ("open", ["open"])


def test_while_it_is_open_nobody_is_let_through_and_all_are_told_why(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    open_(breaker)
    clock.now += PROBE_INTERVAL - 0.01
    with pytest.raises(CircuitOpenError, match=r"h:1 .*: refused"):
        call(breaker, server)
    assert server.calls == 0


def test_a_probe_that_succeeds_closes_it(
    clock: Clock, breaker: Breaker, server: Server, told: Told
) -> None:
    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert call(breaker, server) == "reply"
    assert (breaker.state, breaker.failing, told) == ("closed", False, ["open", "closed"])


def test_a_probe_that_fails_keeps_it_open_for_another_while(
    clock: Clock, breaker: Breaker, server: Server, told: Told
) -> None:
    open_(breaker)
    server.error = redis.TimeoutError("silent")
    for count in (1, 2, 3):
        clock.now += PROBE_INTERVAL
        for _ in range(3):
            fail(breaker, server, 1)
        assert (server.calls, breaker.state) == (count, "open")
    with pytest.raises(CircuitOpenError, match="silent"):
        call(breaker, server)
    assert told == ["open"]


@pytest.mark.parametrize(
    "answer",
    [AuthenticationError(), BusyLoadingError(), ReadOnlyError(), redis.ResponseError("BUSY")],
    ids=lambda error: type(error).__name__,
)
def test_an_unwelcome_answer_is_an_answer(
    clock: Clock, breaker: Breaker, server: Server, answer: Exception
) -> None:
    server.error = answer
    fail(breaker, server, FAILURES * 3)
    assert not breaker.failing
    open_(breaker)
    clock.now += PROBE_INTERVAL
    fail(breaker, server, 1)
    assert breaker.state == "closed"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_interrupts_a_call_says_nothing_of_the_server(
    breaker: Breaker, server: Server, interruption: type[BaseException]
) -> None:
    server.error = interruption()
    for _ in range(FAILURES):
        with pytest.raises(interruption):
            call(breaker, server)
    assert not breaker.failing


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_probe_keeps_it_open_and_the_next_one_is_free(
    clock: Clock, breaker: Breaker, server: Server, interruption: type[BaseException]
) -> None:
    open_(breaker)
    server.error = interruption()
    clock.now += PROBE_INTERVAL
    with pytest.raises(interruption):
        call(breaker, server)
    assert breaker.state == "open"
    server.error = None
    with pytest.raises(CircuitOpenError, match=interruption.__name__):
        call(breaker, server)
    clock.now += PROBE_INTERVAL
    assert call(breaker, server) == "reply"


def test_a_probe_that_is_never_heard_of_again_is_not_waited_for_forever(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    """A greenlet that nobody switches back to, a thread that a debugger holds."""
    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert breaker.begin(late=False) == "half-open"
    assert breaker.state == "half-open"
    with pytest.raises(CircuitOpenError):
        call(breaker, server)
    clock.now += 60
    assert call(breaker, server) == "reply"
    assert breaker.state == "closed"


# -- calls that end when something else is the case ---------------------------------------------


def test_a_late_success_neither_fails_nor_closes_it(
    clock: Clock, breaker: Breaker, told: Told
) -> None:
    def succeed() -> str:
        open_(breaker)  # others failed meanwhile
        return "late"

    assert call(breaker, succeed) == "late"
    assert (breaker.state, told) == ("open", ["open"])


def test_a_success_that_began_before_does_not_end_the_probe(clock: Clock, breaker: Breaker) -> None:
    def probe() -> str:
        breaker.end("closed", None, late=False)
        assert breaker.state == "half-open"
        return "reply"

    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert call(breaker, probe) == "reply"


def test_a_late_failure_does_not_disturb_the_probe(clock: Clock, breaker: Breaker) -> None:
    def probe() -> str:
        breaker.end("closed", DOWN, late=False)  # of a call that began before
        assert breaker.state == "half-open"
        return "reply"

    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert call(breaker, probe) == "reply"
    assert breaker.state == "closed"


def test_a_time_out_of_a_call_with_little_time_left_does_not_count(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    server.error = redis.TimeoutError()
    for _ in range(FAILURES * 2):
        with pytest.raises(redis.TimeoutError):
            call(breaker, server, late=True)
    assert not breaker.failing


def test_what_takes_no_time_counts_however_little_is_left(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    server.error = DOWN
    for _ in range(FAILURES):
        with pytest.raises(redis.ConnectionError):
            call(breaker, server, late=True)
    assert breaker.state == "open"


def test_a_call_with_little_time_left_is_not_the_probe(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    open_(breaker)
    clock.now += PROBE_INTERVAL
    with pytest.raises(CircuitOpenError):
        call(breaker, server, late=True)
    assert server.calls == 0
    assert call(breaker, server) == "reply"


def test_a_listener_may_use_the_breaker(clock: Clock, server: Server) -> None:
    """It is called without a lock: else this would never end."""

    def listen(event: Any) -> None:
        states.append(event.state)
        call(breaker, server) if event.state == "closed" else fail(breaker, server, 1)

    states: list[str] = []
    breaker = Breaker("h:1", listen, failed, CircuitOpenError)
    done = threading.Thread(target=open_, args=(breaker,), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    clock.now += PROBE_INTERVAL
    assert call(breaker, server) == "reply"
    assert states == ["open", "closed"]


def test_nothing_that_stores_on_networks_share_imports_a_driver() -> None:
    files = Path(module.__file__).parent.glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    assert names
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


# -- many at once -------------------------------------------------------------------------------


def test_fifty_threads_open_it_once_and_close_it_once(
    clock: Clock, breaker: Breaker, server: Server, told: Told
) -> None:
    def use(number: int) -> str:
        try:
            return call(breaker, server)
        except redis.ConnectionError as error:
            return type(error).__name__

    server.error = DOWN
    together(50, use)
    assert (breaker.state, told) == ("open", ["open"])
    server.error = None
    clock.now += PROBE_INTERVAL
    assert "reply" in together(50, use)
    assert (breaker.state, told) == ("closed", ["open", "closed"])
