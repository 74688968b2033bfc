"""What tests of commands share: how to run one, and a store that has something to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask

from flask_safesession.testing import make_draft, new_key

MINUTE = 60_000
MakeApp = Callable[..., Flask]


@dataclass
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(app: Flask, *args: str) -> Said:
    result = app.test_cli_runner().invoke(args=["safesession", *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a user would see a traceback
    return Said(result.exit_code, result.stdout, result.stderr)


@dataclass
class Deployment:
    """An app on a store, and the means to fill the store and to let its sessions age."""

    app: Flask
    advance: Callable[[int], None]

    @property
    def rules(self) -> Any:
        return self.app.extensions["safesession"].settings.rules

    @property
    def store(self) -> Any:
        return self.app.extensions["safesession"].store

    def fill(self, count: int, *, user: object = None, tier: str = "default") -> None:
        for _ in range(count):
            draft = make_draft(rules=self.rules, user=user, tier=tier)
            self.store.create(new_key(), draft, self.rules)


Deploy = Callable[..., Deployment]
