"""``flask safesession diagnose``: what it says, and what it exits with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_safesession import StoreUnavailable
from flask_safesession.model import note as notes
from flask_safesession.model.codec import encode
from flask_safesession.testing import make_draft, new_key

from ...support.cli_kit import MINUTE, Deploy, Deployment, MakeApp, run
from ...support.counting import PlainStore

SECRET = "a value that no command may show"


def fill(there: Deployment, count: int, data: dict[str, Any], user: object = None) -> None:
    note = notes.dumps(notes.first_note(b"digest", endpoint="sign_in"))
    for _ in range(count):
        draft = make_draft(encode(data), rules=there.rules, user=user, note=note)
        there.store.create(new_key(), draft, there.rules)


@pytest.fixture
def leaking(deploy: Deploy) -> Deployment:
    there: Deployment = deploy(max_sessions=1000)
    there.app.add_url_rule("/login", "sign_in", lambda: "")
    fill(there, 30, {"csrf_token": SECRET, "\x1b[2J": SECRET})
    fill(there, 2, {"user_id": SECRET}, user=SECRET)
    there.advance(2 * MINUTE)
    return there


@pytest.mark.every_store
def test_it_shows_a_leak_with_cause_and_fix(leaking: Deployment) -> None:
    said = run(leaking.app, "diagnose")
    assert said.code == 1
    rows = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "Looked at 32 of 32 sessions; 1,000 are allowed (3.2%)." in rows
    assert "/login (sign_in) anonymous 30 100% of 30 2m" in " ".join(rows)
    assert any(row.startswith("csrf_token ") for row in rows)
    assert "[never-used-again]" in said.out
    assert [row for row in rows if row.startswith("Cause: ")]
    assert [row for row in rows if row.startswith("Fix: ")]


def test_it_shows_names_of_keys_but_no_value_and_no_user(leaking: Deployment) -> None:
    for as_json in ((), ("--json",)):
        said = run(leaking.app, "diagnose", *as_json)
        assert "csrf_token" in said.out
        assert SECRET not in said.out
        assert "\x1b" not in said.out


def test_it_speaks_json(leaking: Deployment) -> None:
    found = run(leaking.app, "diagnose", "--json").json
    assert (found["looked_at"], found["sessions"], found["cap"]) == (32, 32, 1000)
    assert found["origins"][0].items() >= {"endpoint": "sign_in", "never_used": 30}.items()
    assert found["growth"] is None
    assert found["users"][0]["sessions"] == 2
    assert found["findings"][0].keys() == {"name", "seen", "cause", "fix"}


def test_json_has_no_infinity(leaking: Deployment) -> None:
    run(leaking.app, "diagnose")
    leaking.advance(MINUTE)
    found = json.loads(run(leaking.app, "diagnose", "--json").out, parse_constant=pytest.fail)
    assert found["growth"] == {"per_hour": 0, "over": 60, "full_in": None}
    assert "Growth: +0 sessions an hour, in the last 1m" in run(leaking.app, "diagnose").out


def test_a_finding_can_be_ignored(leaking: Deployment) -> None:
    said = run(leaking.app, "diagnose", "--ignore", "never-used-again")
    assert (said.code, "[never-used-again]" in said.out) == (0, False)
    assert said.out.endswith("\n\nNo findings.\n")
    assert run(leaking.app, "diagnose", "--ignore", "no-such").code == 2


def test_how_much_it_looks_at_can_be_chosen(leaking: Deployment) -> None:
    found = run(leaking.app, "diagnose", "--sample", "10", "--payloads", "1", "--json").json
    assert found["looked_at"] < 32
    assert found["findings"] == []  # too few to tell
    assert run(leaking.app, "diagnose", "--sample", "0").code == 2


@pytest.mark.every_store
def test_an_empty_store_has_no_findings(deploy: Deploy) -> None:
    said = run(deploy().app, "diagnose")
    assert said.code == 0
    assert said.out.startswith("Looked at 0 of 0 sessions;")


def test_long_tables_are_cut(deploy: Deploy) -> None:
    there = deploy()
    fill(there, 1, {f"key {'abcdefghijkl'[n]}": n for n in range(12)})
    assert "… and 2 more: --json." in run(there.app, "diagnose").out


def test_a_store_without_an_index_says_what_is_missing(make_app: MakeApp) -> None:
    said = run(make_app(store=PlainStore()), "diagnose")
    assert said.code == 1
    assert "has no index of its sessions" in said.err


def test_an_outage_is_a_message(leaking: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StoreUnavailable("unplugged by a test")

    monkeypatch.setattr(leaking.store, "count", refuse)
    said = run(leaking.app, "diagnose")
    assert said.code == 1
    assert "unplugged by a test" in said.err
