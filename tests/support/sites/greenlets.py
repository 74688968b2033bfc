"""Greenlets that use two apps at once, and are cut short in the middle of replies.

Arguments: the store's URL; whether gevent patches ``early`` (before the apps are imported) or
``late``, in a forked child, as under ``gunicorn --preload``; how many greenlets; rounds of each.
Prints what was seen.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import warnings
from typing import Any

import gevent  # type: ignore[import-untyped]
from gevent import monkey

PATIENCE = 60  # seconds
LONGEST = 0.08  # seconds that a request is given, where it is given less than it needs


def patch() -> None:
    warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
    monkey.patch_all()


class Visitor:
    """One greenlet's work. ``wrong``: what it saw of others, or lost of its own."""

    def __init__(self, app: Any, number: int) -> None:
        self.client = app.test_client()
        self.name = str(number)
        self.random = random.Random(number)
        self.cut = 0
        self.wrong: list[object] = []

    def run(self, rounds: int) -> None:
        # All that may stand there: what was stored last, or what was cut short after it.
        possible: list[object] = [None]
        for turn in range(rounds):
            before = self.visit(f"/write/{self.name}/{turn}")
            if before is None:
                possible.append([self.name, turn])
            else:
                self.check(before["mine"], possible)
                possible = [[self.name, turn]]
        self.check(self.client.get("/read").json["mine"], possible)

    def visit(self, path: str) -> Any:
        """The answer; ``None``: there was not enough time for it."""
        seconds = self.random.uniform(0, LONGEST) if self.random.random() < 0.5 else 10
        try:
            with gevent.Timeout(seconds):
                return self.client.get(path).json
        except gevent.Timeout:
            self.cut += 1
            return None

    def check(self, found: object, possible: list[object]) -> None:
        if found not in possible:
            self.wrong.append([found, possible])


def main(url: str, when: str, greenlets: str, rounds: str) -> None:
    os.environ |= {"SITE_STORE": url, "SITE_PREFIX": "greenlets"}
    signal.alarm(PATIENCE)  # a dead lock ends by it
    if when == "early":
        patch()
    from .app import app, make_app

    apps = [app, make_app()]
    if when == "late":
        apps[0].test_client().get("/write/parent/0")
        if child := os.fork():
            signal.alarm(0)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        signal.alarm(PATIENCE)
        patch()
        gevent.reinit()
    visitors = [Visitor(apps[number % 2], number) for number in range(int(greenlets))]
    gevent.joinall([gevent.spawn(v.run, int(rounds)) for v in visitors], raise_error=True)
    seen = {
        "cut": sum(visitor.cut for visitor in visitors),
        "wrong": [visitor.wrong for visitor in visitors if visitor.wrong],
        "process": apps[0].test_client().get("/process").json,
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
