"""``flask safesession purge``, ``stats`` and ``check``: what they do, say, and exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from flask_safesession import StoreUnavailable
from flask_safesession.events import session_ended
from flask_safesession.stores.base import AuditStep, Counts, PurgeStep, Rules
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ...support import servers
from ...support.cli_kit import MINUTE, Deploy, Deployment, MakeApp, run

COMMANDS = ["purge", "stats", "check"]
GOOD: dict[str, Any] = {
    "SECRET_KEY": "0123456789abcdef0123456789abcdef",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
}


# -- purge --------------------------------------------------------------------------------------


@pytest.mark.every_store
def test_purge_removes_what_is_due_and_says_so(deploy: Deploy) -> None:
    there = deploy()
    there.fill(10)
    there.fill(2, user="me")
    there.advance(31 * MINUTE)
    there.fill(1)
    # The last creation has swept a few of them already.
    due = there.store.count(there.rules).due
    assert due > 0
    said = run(there.app, "purge")
    assert said.code == 0
    assert said.out == (f"Removed {due} due sessions and 0 over the cap; fixed 0 entries.\n")
    after = there.store.count(there.rules)
    assert (after.total, after.due) == (1, 0)


def test_purge_speaks_json(deploy: Deploy) -> None:
    there = deploy()
    there.fill(3)
    there.advance(31 * MINUTE)
    said = run(there.app, "purge", "--json")
    assert said.code == 0
    assert said.json.items() >= {"due": 3, "trimmed": 0, "repaired": 0}.items()
    assert said.err == ""


def test_a_dry_run_counts_and_removes_nothing(deploy: Deploy) -> None:
    there = deploy()
    there.fill(4)
    there.advance(31 * MINUTE)
    assert run(there.app, "purge", "--dry-run").out == "4 sessions are due.\n"
    assert run(there.app, "purge", "--dry-run", "--json").json["due"] == 4
    assert there.store.count(there.rules).due == 4


def test_purge_trims_to_a_cap_that_was_lowered(deploy: Deploy) -> None:
    deploy(max_sessions=100).fill(30)
    there = deploy(max_sessions=20)
    said = run(there.app, "purge", "--json")
    assert said.json.items() >= {"due": 0, "trimmed": 10}.items()
    assert there.store.count(there.rules).total == 20


def test_purge_goes_in_steps_of_the_batch_it_is_given(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = deploy(purge_batch=150)
    limits: list[int] = []
    purge = type(there.store).purge

    def counted(store: Any, rules: Any, limit: int) -> PurgeStep:
        limits.append(limit)
        step: PurgeStep = purge(store, rules, limit)
        return step

    monkeypatch.setattr(type(there.store), "purge", counted)
    there.fill(10)
    there.advance(31 * MINUTE)
    assert run(there.app, "purge", "--batch", "4", "--json").json["due"] == 10
    assert limits == [4, 4, 4, 4]  # the last one after the audit
    run(there.app, "purge")
    assert limits[4:] == [150, 150]


@pytest.mark.parametrize("batch", ["0", "-1", "10001", "x", "1.5"])
def test_a_wrong_batch_is_a_usage_error(make_app: MakeApp, batch: str) -> None:
    said = run(make_app(), "purge", "--batch", batch)
    assert said.code == 2
    assert "Invalid value for '--batch'" in said.err
    assert said.out == ""


def test_purge_sends_an_event_for_each_session(deploy: Deploy) -> None:
    there = deploy()
    there.fill(3)
    there.advance(31 * MINUTE)
    heard: list[Any] = []

    def hear(sender: object, event: Any) -> None:
        heard.append((sender, event.reason))

    with session_ended.connected_to(hear, there.app):
        run(there.app, "purge")
    assert heard == [(there.app, "idle")] * 3


def test_purge_mends_the_index(any_server: servers.Server, make_app: MakeApp, prefix: str) -> None:
    there = Deployment(make_app(store=any_server.url, key_prefix=prefix), lambda ms: None)
    there.fill(5)
    client = any_server.client()
    for key in client.scan_iter(f"{{{prefix}:0}}:s:*"):
        client.delete(key)
    client.close()
    assert run(there.app, "purge", "--json").json["repaired"] == 5
    assert run(there.app, "purge", "--json").json["repaired"] == 0
    assert there.store.count(there.rules).total == 0
    there.store.close()


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the progress bars were told: their options, and the sum of their steps."""
    made: list[dict[str, Any]] = []
    real = click.progressbar

    def watched(**options: Any) -> Any:
        bar = real(**options)
        made.append({"length": options["length"], "err": options["file"] is sys.stderr, "done": 0})
        update = bar.update

        def counted(steps: int) -> None:
            made[-1]["done"] += steps
            update(steps)

        monkeypatch.setattr(bar, "update", counted)
        return bar

    monkeypatch.setattr(click, "progressbar", watched)
    return made


def test_a_long_purge_shows_its_progress_beside_the_output(
    deploy: Deploy, bars: list[dict[str, Any]]
) -> None:
    there = deploy()
    there.fill(1000)
    there.advance(31 * MINUTE)
    said = run(there.app, "purge")
    assert bars == [{"length": 1000, "err": True, "done": 1000}]
    assert said.out.startswith("Removed 1000 due sessions")
    assert "Purging" in said.err


def test_a_short_purge_shows_none(make_app: MakeApp, bars: list[dict[str, Any]]) -> None:
    clock = FakeClock()
    there = Deployment(make_app(store=MemoryStore(clock)), clock.advance)
    there.fill(999)
    there.advance(31 * MINUTE)
    assert run(there.app, "purge").code == 0
    assert bars == []


# -- stats --------------------------------------------------------------------------------------

TIERS: dict[str, Any] = {"anonymous": {"idle_timeout": "5m"}, "admin": {"idle_timeout": "10m"}}


@pytest.mark.every_store
def test_stats_count_against_the_cap_and_by_tier(deploy: Deploy) -> None:
    there = deploy(max_sessions=50, expiry="tiered", tiers=TIERS)
    there.fill(3, tier="anonymous")
    there.fill(1, user="me", tier="admin")
    there.fill(1, user="you")
    there.advance(6 * MINUTE)
    said = run(there.app, "stats", "--json")
    assert said.code == 0
    assert (said.json["sessions"], said.json["cap"], said.json["due"]) == (2, 50, 3)
    assert list(said.json["by_tier"].items()) == [("anonymous", 0), ("default", 1), ("admin", 1)]
    assert 60 <= said.json["overdue_seconds"] < 90
    text = run(there.app, "stats").out
    assert text.startswith("2 sessions of 50 (4.0%)\n")
    assert "\n  admin: 1\n" in text
    assert "3 due, the oldest for 6" in text


def test_stats_of_an_empty_store(deploy: Deploy) -> None:
    said = run(deploy().app, "stats", "--json")
    assert said.code == 0
    assert (said.json["sessions"], said.json["due"], said.json["overdue_seconds"]) == (0, 0, 0)


# -- check --------------------------------------------------------------------------------------


def sound(make_app: MakeApp, **settings: Any) -> Flask:
    """An app in which there is nothing to find."""
    app = make_app(check_interval="60s", **settings)
    app.config.update(GOOD)
    return app


def findings(app: Flask) -> list[str]:
    said = run(app, "check", "--json")
    found: list[str] = [one["text"] for one in said.json["findings"]]
    assert said.code == (1 if found else 0)
    return found


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


def test_a_sound_deployment_has_no_findings(make_app: MakeApp) -> None:
    said = run(sound(make_app), "check")
    assert (said.code, said.out) == (0, "No findings.\n")
    assert findings(sound(make_app)) == []


def test_findings_are_listed_and_the_exit_code_says_so(make_app: MakeApp) -> None:
    app = sound(make_app)
    app.config.update(SESSION_COOKIE_SECURE=False, SESSION_COOKIE_HTTPONLY=False)
    said = run(app, "check")
    assert said.code == 1
    assert [line.split(" is off")[0] for line in said.out.splitlines()] == [
        "- SESSION_COOKIE_SECURE",
        "- SESSION_COOKIE_HTTPONLY",
    ]


@pytest.mark.parametrize(
    ("config", "start"),
    [
        pytest.param(config, start, id=f"{n}-{start.split()[0]}")
        for n, (config, start) in enumerate(
            [
                ({"SECRET_KEY": None}, "SECRET_KEY is not set"),
                ({"SECRET_KEY": ""}, "SECRET_KEY is not set"),
                ({"SECRET_KEY": "fifteen letters"}, "SECRET_KEY is short (15 characters)"),
                ({"SECRET_KEY": b"\xff\x00" * 7}, "SECRET_KEY is short (14 characters)"),
                (
                    {"SECRET_KEY_FALLBACKS": [GOOD["SECRET_KEY"], "short"]},
                    "SECRET_KEY_FALLBACKS is",
                ),
                ({"SECRET_KEY_FALLBACKS": ["dev"]}, "SECRET_KEY_FALLBACKS is a well-known key"),
                ({"SESSION_COOKIE_SECURE": False}, "SESSION_COOKIE_SECURE is off"),
                ({"SESSION_COOKIE_HTTPONLY": False}, "SESSION_COOKIE_HTTPONLY is off"),
                ({"SESSION_COOKIE_SAMESITE": None}, "SESSION_COOKIE_SAMESITE is not"),
                ({"SESSION_COOKIE_SAMESITE": "None"}, "SESSION_COOKIE_SAMESITE is not"),
                (
                    {"SESSION_COOKIE_NAME": "__Host-s", "SESSION_COOKIE_DOMAIN": "example.org"},
                    "SESSION_COOKIE_NAME '__Host-s' forbids a domain",
                ),
            ]
        )
    ],
)
def test_each_fault_is_one_finding(make_app: MakeApp, config: dict[str, Any], start: str) -> None:
    app = sound(make_app)
    app.config.update(config)
    [finding] = findings(app)
    assert finding.startswith(start)


def test_debug_mode_is_a_finding(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    [finding] = findings(sound(make_app))
    assert finding.startswith("debug mode is on")


@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_FALLBACKS"])
def test_a_key_that_is_no_text_is_a_finding_and_no_crash(make_app: MakeApp, name: str) -> None:
    app = sound(make_app)
    app.config[name] = 12345 if name == "SECRET_KEY" else [12345]
    [finding] = findings(app)
    assert finding.startswith(f"{name} ")


def test_fallbacks_that_are_one_text_are_one_finding(make_app: MakeApp) -> None:
    """Each of its characters would be a key that verifies: anybody could sign."""
    app = sound(make_app)
    app.config["SECRET_KEY_FALLBACKS"] = "an older key that was long enough"
    [finding] = findings(app)
    assert finding.startswith("SECRET_KEY_FALLBACKS ")


def test_no_key_is_shown(make_app: MakeApp) -> None:
    app = sound(make_app)
    app.config["SECRET_KEY_FALLBACKS"] = ["hunter2"]
    assert "hunter2" not in "".join(findings(app))


@pytest.mark.parametrize(("asked", "found"), [("1", 0), ("2", 1), ("", 0), ("auto", 0), ("²", 0)])
def test_several_workers_on_memory_are_a_finding(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, asked: str, found: int
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", asked)
    said = findings(sound(make_app))
    assert len(said) == found
    assert all("use a database or redis://" in one for one in said)
    assert findings(sound(make_app, store="memory://?per_process=yes")) == []


def test_another_extensions_interface_is_a_finding(make_app: MakeApp) -> None:
    app = sound(make_app)
    app.session_interface = SecureCookieSessionInterface()
    [finding] = findings(app)
    assert finding.startswith(
        "app.session_interface is a flask.sessions.SecureCookieSessionInterface"
    )


def test_no_purge_job_is_a_finding(make_app: MakeApp) -> None:
    app = make_app(check_interval=None)
    app.config.update(GOOD)
    [finding] = findings(app)
    assert finding.startswith("SAFESESSION_CHECK_INTERVAL is None")


# -- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["purge"], ["purge", "--dry-run"], ["stats"], ["check"]])
def test_on_memory_they_say_that_they_see_nothing_of_the_server(
    make_app: MakeApp, command: list[str]
) -> None:
    app = sound(make_app)
    text = run(app, *command)
    assert "cannot see the sessions of the running server" in text.err
    assert "running server" not in text.out
    assert "cannot see" in run(app, *command, "--json").json["note"]


@pytest.mark.parametrize("command", COMMANDS)
def test_on_a_server_they_do_not(
    any_server: servers.Server, make_app: MakeApp, prefix: str, command: str
) -> None:
    app = sound(make_app, store=any_server.url, key_prefix=prefix)
    assert run(app, command).err == ""
    assert "note" not in run(app, command, "--json").json
    app.extensions["safesession"].store.close()


@pytest.mark.parametrize("json_option", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", [["purge"], ["purge", "--dry-run"], ["stats"]])
def test_a_store_that_is_down_is_a_message_and_an_exit_code(
    make_app: MakeApp, command: list[str], json_option: list[str]
) -> None:
    app = make_app(store=f"redis://:hunter2@127.0.0.1:{servers.free_port()}/0")
    said = run(app, *command, *json_option)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("Error: The session store cannot be used: ConnectionError")
    assert len(said.err.splitlines()) == 1
    assert "hunter2" not in said.err


def test_a_check_of_a_store_that_is_down_still_tells_the_rest(make_app: MakeApp) -> None:
    app = make_app(store=f"redis://:hunter2@127.0.0.1:{servers.free_port()}/0")
    said = run(app, "check")
    assert (said.code, said.err) == (1, "")
    assert "- the session store cannot be used: ConnectionError" in said.out
    assert "- SESSION_COOKIE_SECURE is off" in said.out
    assert "hunter2" not in said.out


class Failing(MemoryStore):
    """A store that goes away in the middle of a purge."""

    shared = True
    calls = 0

    def count(self, rules: Rules) -> Counts:
        return Counts({}, 1000, 0)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        self.calls += 1
        if self.calls == 3:
            raise StoreUnavailable("it went away")
        return PurgeStep(limit, 0, more=True)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        raise AssertionError("it is not there")


def test_a_store_that_goes_away_during_a_purge_is_a_message(make_app: MakeApp) -> None:
    said = run(make_app(store=Failing()), "purge")
    assert (said.code, said.out) == (1, "")
    assert said.err.endswith("Error: The session store cannot be used: it went away\n")


def test_the_help_names_all_of_them(make_app: MakeApp) -> None:
    said = run(make_app(), "--help")
    assert said.code == 0
    assert all(f"\n  {command} " in said.out for command in COMMANDS)


# -- from the shell -----------------------------------------------------------------------------

APP = """
from flask import Flask
from flask_safesession import SafeSession

def create_app():
    app = Flask(__name__)
    app.config.from_prefixed_env()
    SafeSession(app)
    return app
"""


def shell(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(APP)
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "shop", "safesession", *args],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_are_there_in_the_shell(tmp_path: Path) -> None:
    done = shell(tmp_path, "stats", "--json", FLASK_SAFESESSION_MAX_SESSIONS="7")
    assert (done.returncode, json.loads(done.stdout)["cap"]) == (0, 7)


def test_a_wrong_configuration_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = shell(
        tmp_path, "stats", FLASK_SAFESESSION_EXPIRY="rolling", FLASK_SAFESESSION_LIFETIME="soon"
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "SAFESESSION_EXPIRY is 'rolling'" in done.stderr
    assert "SAFESESSION_LIFETIME is 'soon'" in done.stderr


# -- shards --------------------------------------------------------------------------------------


@pytest.fixture
def shards(
    make_app: MakeApp, any_server: servers.Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], Deployment]]:
    """Makes deployments as a ``flask`` command has them, on one store, in so many shards."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    made = []

    def make(number: int) -> Deployment:
        app = make_app(store=any_server.url, key_prefix=prefix, shards=number)
        made.append(Deployment(app, lambda ms: None))
        return made[-1]

    yield make
    for there in made:
        there.store.close()


def test_commands_with_another_number_of_shards_are_refused_and_check_finds_it(
    shards: Callable[[int], Deployment],
) -> None:
    shards(1).fill(20)
    other = shards(4)
    for command in ("stats", "purge"):
        refused = run(other.app, command)
        assert refused.code == 1
        assert "SAFESESSION_SHARDS is 4, but the sessions are in 1: set it back" in refused.err
    found = run(other.app, "check", "--json").json["findings"]
    texts = [finding["text"] for finding in found]
    assert sum("SAFESESSION_SHARDS is 4" in text for text in texts) == 1
    assert any("maxmemory" in text for text in texts), "the rest is looked at all the same"
    assert run(shards(1).app, "stats", "--json").json["sessions"] == 20


def test_stats_say_how_the_servers_are(deploy: Deploy) -> None:
    there = deploy()
    servers_now = run(there.app, "stats", "--json").json["servers"]
    assert set(servers_now.values()) <= {"closed"}
    assert bool(servers_now) == there.store.shared
    with there.app.app_context():
        assert there.app.extensions["tested.safe"].servers() == servers_now
        assert there.app.extensions["tested.safe"].stats().servers == servers_now
