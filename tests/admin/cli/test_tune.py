"""``flask safesession tune`` and ``stats --watch``: steer and watch a fleet."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

import click
import pytest
from rich.console import Console

from flask_safesession import StoreUnavailable
from flask_safesession.admin.cli import watch as watch_module

from ...support.cli_kit import MINUTE, Deploy, Deployment, MakeApp, run

TIERS: dict[str, Any] = {"guest": {"idle_timeout": "20m"}, "admin": {"idle_timeout": "15m"}}


def idle_of(there: Deployment) -> int:
    """Minutes."""
    return int(there.rules.policy.default.idle) // MINUTE


# -- tune ---------------------------------------------------------------------------------------


@pytest.mark.every_store
def test_the_fleet_is_tuned_from_a_shell(deploy: Deploy) -> None:
    server, shell = deploy(), deploy()
    said = run(shell.app, "tune", "--idle-timeout", "10m", "--max-sessions", "500", "--by", "ada")
    assert said.code == 0
    assert re.fullmatch(
        r'Revision 1 by ada, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: idle_timeout="10m" '
        r'max_sessions="500"\n',
        said.out,
    )
    assert idle_of(server) == 30
    server.app.extensions["safesession"].job.run()
    assert (idle_of(server), server.rules.cap.total) == (10, 500)


def test_every_setting_can_be_tuned(deploy: Deploy) -> None:
    there = deploy(expiry="tiered", tiers=TIERS)
    options = ["--idle-timeout", "9m", "--lifetime", "5h", "--check-interval", "20s"]
    options += ["--tier", "admin", "idle_timeout=2m", "--tier", "admin", "lifetime=1h"]
    said = run(there.app, "tune", *options, "--tier", "guest", "lifetime=2h", "--json")
    assert said.json["settings"] == {
        "idle_timeout": "9m",
        "lifetime": "5h",
        "check_interval": "20s",
        "tiers": {
            "admin": {"idle_timeout": "2m", "lifetime": "1h"},
            "guest": {"lifetime": "2h"},
        },
    }
    assert there.rules.policy.limits("admin")[:2] == (2 * MINUTE, 60 * MINUTE)
    again = run(there.app, "tune", "--tier", "admin", "own", "--lifetime", "own", "--json")
    assert again.json["settings"] == {
        "idle_timeout": "9m",
        "check_interval": "20s",
        "tiers": {"guest": {"lifetime": "2h"}},
    }


def test_without_options_it_shows_what_was_tuned(deploy: Deploy) -> None:
    here, there = deploy(), deploy()
    assert run(here.app, "tune").out == "Each app uses its own settings.\n"
    assert run(here.app, "tune", "--json").json["settings"] == {}
    run(here.app, "tune", "--lifetime", "2h", "--by", "ada")
    shown = run(there.app, "tune", "--json").json
    assert (shown["settings"], shown["by"], shown["revision"]) == ({"lifetime": "2h"}, "ada", 1)
    assert "Revision 1 by ada" in run(there.app, "tune").out


def test_a_reset_is_written_down_too(deploy: Deploy) -> None:
    there = deploy()
    run(there.app, "tune", "--idle-timeout", "10m")
    said = run(there.app, "tune", "--reset", "--by", "bob")
    assert said.out.startswith("Revision 2 by bob, ")
    assert said.out.endswith(": each app's own settings\n")
    assert idle_of(there) == 30


def test_whoever_runs_it_is_written_down(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    there = deploy()
    monkeypatch.setattr(getpass, "getuser", lambda: "eve")
    assert run(there.app, "tune", "--lifetime", "2h", "--json").json["by"] == "eve"

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert run(there.app, "tune", "--lifetime", "3h", "--json").json["by"] is None
    assert run(there.app, "tune").out.startswith("Revision 2, ")


@pytest.mark.every_store
def test_a_dry_run_counts_what_would_end_and_changes_nothing(deploy: Deploy) -> None:
    there = deploy()
    there.fill(3)
    there.fill(2, user="ada")
    there.advance(11 * MINUTE)
    there.fill(4)
    options = ["--idle-timeout", "10m", "--max-sessions", "3"]
    said = run(there.app, "tune", *options, "--dry-run", "--json")
    assert said.json["would_end"] == 6
    text = run(there.app, "tune", *options, "--dry-run").out
    assert text == 'With idle_timeout="10m" max_sessions="3" 6 sessions would end.\n'
    assert (idle_of(there), there.store.count(there.rules).total) == (30, 9)
    run(there.app, "tune", *options, "--yes")
    purged = run(there.app, "purge", "--json").json
    assert purged["due"] + purged["trimmed"] == 6
    assert there.store.count(there.rules).total == 3


@pytest.mark.parametrize(("answer", "idle"), [("y\n", 10), ("n\n", 30), ("", 30)])
def test_a_change_that_ends_sessions_is_asked_for(deploy: Deploy, answer: str, idle: int) -> None:
    there = deploy()
    there.fill(1)
    there.advance(11 * MINUTE)
    command = ["safesession", "tune", "--idle-timeout", "10m", "--json"]
    result = there.app.test_cli_runner().invoke(args=command, input=answer)
    question = 'With idle_timeout="10m" 1 session would end. Change the settings? [y/N]: '
    assert result.stderr.startswith(question)
    assert (result.exit_code, idle_of(there)) == (0 if idle == 10 else 1, idle)
    assert (result.stdout == "") is (idle == 30)


def test_a_command_goes_by_what_was_tuned(deploy: Deploy) -> None:
    run(deploy().app, "tune", "--max-sessions", "77")
    assert run(deploy().app, "stats", "--json").json["cap"] == 77


WRONG = [
    (["--idle-timeout", "soon"], 1, "SAFESESSION_IDLE_TIMEOUT is 'soon'"),
    (["--tier", "admin", "idle_timeout=1m"], 1, "'admin' is not a tier of this app"),
    (["--max-sessions", "many"], 1, "SAFESESSION_MAX_SESSIONS is 'many'"),
    (["--lifetime", "1h", "--by", "a\x1b[2Jb"], 1, "by is 'a\\x1b[2Jb'"),
    (["--tier", "admin", "short\x1b"], 2, "write idle_timeout=5m, lifetime=1h or own"),
    (["--tier", "admin"], 2, "--tier"),
]


@pytest.mark.parametrize(("options", "code", "message"), WRONG, ids=lambda given: str(given)[:20])
def test_what_is_wrong_is_said_without_a_traceback(
    deploy: Deploy, options: list[str], code: int, message: str
) -> None:
    there = deploy()
    said = run(there.app, "tune", *options)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert "\x1b" not in said.err
    assert there.store.document("tuning").document == b""


# -- stats --watch ------------------------------------------------------------------------------


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Between two looks nothing is waited for; how long it would have been."""
    made: list[float] = []
    monkeypatch.setattr(watch_module, "sleep", made.append)
    return made


def test_each_look_is_one_line_of_json(deploy: Deploy, pauses: list[float]) -> None:
    there = deploy()
    there.fill(3, user="ada")
    lines = run(there.app, "stats", "--watch", "5", "--json", "--count", "3").out.splitlines()
    looks = [json.loads(line) for line in lines]
    assert [look["sessions"] for look in looks] == [3, 3, 3]
    assert looks[0].keys() >= {"cap", "due", "by_tier", "servers", "growth_per_second"}
    assert pauses == [5, 5]


def test_a_look_counts_once(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    there = deploy()
    asked: list[str] = []
    counts = type(there.store).count

    def counted(store: Any, rules: Any) -> Any:
        asked.append("count")
        there.fill(10)
        return counts(store, rules)

    monkeypatch.setattr(type(there.store), "count", counted)
    said = run(there.app, "stats", "--watch", "--json", "--count", "4")
    assert asked == ["count"] * 4
    growth = [json.loads(line)["growth_per_second"] for line in said.out.splitlines()]
    assert growth[0] == 0
    assert min(growth[1:]) > 0
    assert len(pauses) == 3


def test_the_live_view_shows_the_numbers(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(watch_module, "terminal", Console)
    there = deploy(max_sessions=10)
    there.fill(8)
    said = run(there.app, "stats", "--watch", "--count", "2")
    assert said.code == 0
    assert "8 of 10 (80.0%)" in said.out
    assert "anonymous" in said.out
    assert "█" * 32 + "░" * 8 in said.out


def test_a_store_that_goes_away_is_shown_and_asked_again(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    there = deploy()
    counts = type(there.store).count
    answers = iter([True, False, True])

    def flaky(store: Any, rules: Any) -> Any:
        if not next(answers):
            raise StoreUnavailable("no answer")
        return counts(store, rules)

    monkeypatch.setattr(type(there.store), "count", flaky)
    said = run(there.app, "stats", "--watch", "--json", "--count", "3")
    looks = [json.loads(line) for line in said.out.splitlines()]
    assert [look.get("error") for look in looks] == [None, "no answer", None]
    assert said.code == 0
    for options in ([], ["--json"]):
        answers = iter([False])
        said = run(there.app, "stats", "--watch", "--count", "1", *options)
        assert "no answer" in said.out
        assert said.out.endswith("\n")
        assert said.code == 1


@pytest.mark.parametrize("seconds", ["0", "nan", "inf", "1e9", "often"])
def test_a_pause_that_cannot_be_is_refused(deploy: Deploy, seconds: str) -> None:
    said = run(deploy().app, "stats", "--watch", seconds)
    assert (said.code, said.out) == (2, "")
    assert "Invalid value for '--watch'" in said.err


@pytest.mark.parametrize("console", [Console, lambda: None], ids=["drawn", "lines"])
@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_ctrl_c_ends_it_quietly(
    deploy: Deploy,
    monkeypatch: pytest.MonkeyPatch,
    json_option: list[str],
    console: Callable[[], Console | None],
) -> None:
    monkeypatch.setattr(watch_module, "terminal", console)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch_module, "sleep", interrupt)
    said = run(deploy().app, "stats", "--watch", *json_option)
    assert said.code == 0
    assert "Aborted" not in said.out + said.err


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_view_is_drawn_where_it_can_be_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", StringIO())
    assert watch_module.terminal() is None
    monkeypatch.setattr(sys, "stdout", Screen())
    assert watch_module.terminal() is not None
    monkeypatch.setenv("TERM", "dumb")
    assert watch_module.terminal() is None
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(watch_module, "find_spec", lambda name: None)
    assert watch_module.terminal() is None


def test_into_a_pipe_the_lines_of_stats_are_printed_at_each_look(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.live", None)
    there = deploy(max_sessions=10)
    there.fill(8)
    once = run(there.app, "stats").out
    said = run(there.app, "stats", "--watch", "--count", "2")
    assert said.code == 0
    assert said.out == f"{once}+0.0 a second\n" * 2
    assert pauses == [2]


@pytest.mark.parametrize(
    "options",
    [["--watch", "0"], ["--watch", "x"], ["--watch", "--count", "0"], ["--count", "1"]],
    ids=" ".join,
)
def test_a_wrong_option_of_stats_is_a_usage_error(deploy: Deploy, options: list[str]) -> None:
    assert run(deploy().app, "stats", *options).code == 2


# -- all of them --------------------------------------------------------------------------------


def test_every_command_speaks_json_and_has_a_help_text(make_app: MakeApp) -> None:
    group: Any = make_app().cli.commands["safesession"]
    assert set(group.commands) >= {"list", "show", "end", "tune", "purge", "stats", "check"}
    for name, command in group.commands.items():
        assert any("--json" in option.opts for option in command.params), name
        assert isinstance(command, click.Command)
        assert command.help, name
