"""What users, browsers and the store hold is shown by every command, and steers no terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, session
from rich.console import Console

from flask_safesession import StoreUnavailable
from flask_safesession.admin.cli import watch as watch_module
from flask_safesession.model import note
from flask_safesession.model.codec import encode
from flask_safesession.model.tokens import tier_tag
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import make_draft, new_key

from ..support import servers
from ..support.cli_kit import MakeApp, Said, run

# Clears the screen; renames the window; the same in one character; erases; changes the direction
# of writing in three ways; begins a line; cannot be encoded.
EVIL = "\x1b[2J\x1b]0;x\x07\x9b31m\x7f\u202e\u2066\u200f\u2028\nspoofed: line\r\ud800"
USER = f"ann{EVIL}"
HANDLE = "\x1b[2J\x1b]0;x\x07\x7f".ljust(18, "A")
COMMANDS = [
    ["list"],
    ["list", "--user", USER],
    ["list", "--tier", EVIL],
    ["list", "--idle-over", EVIL],
    ["show", "{handle}"],
    ["show", "{handle}", "--data"],
    ["show", EVIL],
    ["stats"],
    ["check"],
    ["purge"],
    ["purge", "--dry-run"],
    ["stats", "--watch", "--count", "1"],
    ["tune"],
    ["tune", "--idle-timeout", EVIL],
    ["tune", "--tier", EVIL, f"{EVIL}=5m"],
    ["tune", "--reset", "--by", EVIL],
    ["end", "{handle}"],
    ["end", "--user", USER],
    ["end", "--user", USER, "--keep", EVIL],
    ["end", "--all", "--yes"],
]


def holds_no_control(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text) and "\nspoofed" not in text


def visited(app: Flask) -> Flask:
    """An app with a session whose user, browser and data are hostile."""

    @app.get("/in")
    def sign_in() -> str:
        session["user_id"] = USER
        session[EVIL] = {EVIL: [EVIL, {EVIL}, (1, EVIL.encode("utf-8", "replace"))]}
        return ""

    app.test_client().get("/in", headers={"User-Agent": "x\x9b31m\u202e\x7fy"})
    return app


def handle_of(app: Flask) -> str:
    [info] = app.extensions["tested.safe"].sessions_of(USER)
    return str(info.handle)


@pytest.fixture
def on_redis(make_app: MakeApp, prefix: str, any_server: servers.Server) -> Iterator[Flask]:
    """The app on a server where somebody wrote a tier, a handle and a document of settings."""
    app = visited(make_app(store=any_server.url, key_prefix=prefix, record_client=True))
    client: Any = any_server.client()
    slot, evil = f"{{{prefix}:0}}", EVIL.encode("utf-8", "replace")
    raw = client.get(f"{slot}:s:{handle_of(app)}")
    client.hset(f"{slot}:tiers", "zzzz", evil)
    key, index = HANDLE.encode(), f"{slot}:t:{tier_tag('default')}"
    client.set(f"{slot}:s:".encode() + key, raw)
    [(_, score)] = client.zrange(index, 0, 0, withscores=True)
    client.zadd(index, {key + raw[80:96]: score})
    document = {"version": 1, "revision": 7, "by": f"x{EVIL}", "settings": {"max_sessions": 9}}
    client.set(f"{slot}:doc:tuning", "00000000001" + json.dumps(document))
    yield app
    app.extensions["safesession"].store.close()
    client.close()


def said_by(app: Flask, command: list[str], *options: str) -> Said:
    handle = handle_of(app) if "{handle}" in command else ""
    return run(app, *(part.replace("{handle}", handle) for part in command), *options)


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """``stats --watch`` draws, as on a terminal; its plain lines are those of ``stats``."""
    monkeypatch.setattr(watch_module, "terminal", Console)


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda parts: ascii(" ".join(parts)))
def test_no_control_character_reaches_a_terminal(
    on_redis: Flask,
    command: list[str],
    options: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "flask_safesession"):
        said = said_by(on_redis, command, *options)
    assert holds_no_control(said.out)
    assert holds_no_control(said.err)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    if options and said.code == 0:
        assert said.out.isascii()
        assert all(json.loads(line) for line in said.out.splitlines())


def test_a_hostile_document_of_settings_reaches_no_terminal(
    on_redis: Flask, prefix: str, any_server: servers.Server, caplog: pytest.LogCaptureFixture
) -> None:
    for settings in ({EVIL: 1}, {"max_sessions": EVIL}, {"tiers": {EVIL: {EVIL: EVIL}}}):
        document = {"version": 1, "revision": 8, "by": None, "settings": settings}
        any_server.client().set(f"{{{prefix}:0}}:doc:tuning", "00000000001" + json.dumps(document))
        for command in (["tune"], ["stats"], ["tune", "--max-sessions", "5"]):
            said = run(on_redis, *command)
            assert holds_no_control(said.out)
            assert holds_no_control(said.err)
    assert [r for r in caplog.records if "does not use the settings in the store" in r.getMessage()]
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_what_is_escaped_can_still_be_read(on_redis: Flask) -> None:
    handle = handle_of(on_redis)
    text = run(on_redis, "show", handle, "--data").out
    assert r"ann\u001b[2J\u001b]0;x\u0007\x9b31m\x7f\u202e\u2066\u200f\u2028\nspoofed" in text
    assert rf"{HANDLE[:4]!r}"[1:-1] in run(on_redis, "list").out
    data: dict[str, Any] = run(on_redis, "show", handle, "--data", "--json").json["data"]
    assert data["user_id"] == USER


def test_the_error_of_a_server_reaches_no_terminal(make_app: MakeApp) -> None:
    class Broken(MemoryStore):
        def count(self, rules: object) -> Any:
            raise StoreUnavailable(f"the server said {EVIL}")

    app = make_app(store=Broken())
    for command in (["stats"], ["purge"], ["stats", "--watch", "--count", "1"], ["end", "--all"]):
        said = run(app, *command)
        assert said.code == 1
        assert "the server said" in said.out + said.err
        assert holds_no_control(said.out + said.err)
        assert holds_no_control(run(app, *command, "--json").out)


def test_a_browsers_label_from_the_store_reaches_no_terminal(make_app: MakeApp) -> None:
    app = make_app()
    state = app.extensions["safesession"]
    draft = make_draft(encode({}), rules=state.settings.rules, user="ann")
    draft = draft._replace(note=note.dumps(note.Note(client=(EVIL,) * 4)))
    state.store.create(new_key(), draft, state.settings.rules)
    for command in (["list"], ["list", "--json"], ["list", "--user", "ann"]):
        assert holds_no_control(run(app, *command).out)
