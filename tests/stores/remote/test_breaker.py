"""The circuit breaker: who is let through, who is told off, and how fast."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import AuthenticationError, BusyLoadingError, ReadOnlyError

from flask_safesession.events import StoreStateChanged
from flask_safesession.stores.remote import breaker as module
from flask_safesession.stores.remote.breaker import (
    FAILURES,
    PROBE_INTERVAL,
    Breaker,
    CircuitOpenError,
)
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
    return Breaker("h:1", told)


@pytest.fixture
def server() -> Server:
    return Server()


def fail(breaker: Breaker, server: Callable[[], object], times: int = FAILURES) -> None:
    for _ in range(times):
        with pytest.raises(redis.RedisError):
            breaker.call(server)


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
        assert breaker.call(server) == "reply"
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
        breaker.call(server)
    assert server.calls == 0


def test_a_probe_that_succeeds_closes_it(
    clock: Clock, breaker: Breaker, server: Server, told: Told
) -> None:
    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert breaker.call(server) == "reply"
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
        breaker.call(server)
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
            breaker.call(server)
    assert not breaker.failing


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_probe_keeps_it_open_and_the_next_one_is_free(
    clock: Clock, breaker: Breaker, server: Server, interruption: type[BaseException]
) -> None:
    open_(breaker)
    server.error = interruption()
    clock.now += PROBE_INTERVAL
    with pytest.raises(interruption):
        breaker.call(server)
    assert breaker.state == "open"
    server.error = None
    with pytest.raises(CircuitOpenError, match=interruption.__name__):
        breaker.call(server)
    clock.now += PROBE_INTERVAL
    assert breaker.call(server) == "reply"


def test_a_probe_that_is_never_heard_of_again_is_not_waited_for_forever(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    """A greenlet that nobody switches back to, a thread that a debugger holds."""
    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert breaker._starts_probe(late=False)
    assert breaker.state == "half-open"
    with pytest.raises(CircuitOpenError):
        breaker.call(server)
    clock.now += 60
    assert breaker.call(server) == "reply"
    assert breaker.state == "closed"


# -- calls that end when something else is the case ---------------------------------------------


def test_a_late_success_neither_fails_nor_closes_it(
    clock: Clock, breaker: Breaker, told: Told
) -> None:
    def call() -> str:
        open_(breaker)  # others failed meanwhile
        return "late"

    assert breaker.call(call) == "late"
    assert (breaker.state, told) == ("open", ["open"])


def test_a_late_failure_does_not_disturb_the_probe(clock: Clock, breaker: Breaker) -> None:
    def probe() -> str:
        breaker._note("closed", failed=True)  # of a call that began before
        assert breaker.state == "half-open"
        return "reply"

    open_(breaker)
    clock.now += PROBE_INTERVAL
    assert breaker.call(probe) == "reply"
    assert breaker.state == "closed"


def test_a_time_out_of_a_call_with_little_time_left_does_not_count(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    server.error = redis.TimeoutError()
    for _ in range(FAILURES * 2):
        with pytest.raises(redis.TimeoutError):
            breaker.call(server, late=True)
    assert not breaker.failing


def test_what_takes_no_time_counts_however_little_is_left(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    server.error = DOWN
    for _ in range(FAILURES):
        with pytest.raises(redis.ConnectionError):
            breaker.call(server, late=True)
    assert breaker.state == "open"


def test_a_call_with_little_time_left_is_not_the_probe(
    clock: Clock, breaker: Breaker, server: Server
) -> None:
    open_(breaker)
    clock.now += PROBE_INTERVAL
    with pytest.raises(CircuitOpenError):
        breaker.call(server, late=True)
    assert server.calls == 0
    assert breaker.call(server) == "reply"


def test_a_listener_may_use_the_breaker(clock: Clock, server: Server) -> None:
    """It is called without a lock: else this would never end."""

    def listen(event: Any) -> None:
        states.append(event.state)
        breaker.call(server) if event.state == "closed" else fail(breaker, server, 1)

    states: list[str] = []
    breaker = Breaker("h:1", listen)
    done = threading.Thread(target=open_, args=(breaker,), daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    clock.now += PROBE_INTERVAL
    assert breaker.call(server) == "reply"
    assert states == ["open", "closed"]


# -- many at once -------------------------------------------------------------------------------


def test_fifty_threads_open_it_once_and_close_it_once(
    clock: Clock, breaker: Breaker, server: Server, told: Told
) -> None:
    def call(number: int) -> str:
        try:
            return breaker.call(server)
        except redis.ConnectionError as error:
            return type(error).__name__

    server.error = DOWN
    together(50, call)
    assert (breaker.state, told) == ("open", ["open"])
    server.error = None
    clock.now += PROBE_INTERVAL
    assert "reply" in together(50, call)
    assert (breaker.state, told) == ("closed", ["open", "closed"])
