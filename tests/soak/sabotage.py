"""Broken stores, to prove that the checker sees what is broken: ``--sabotage NAME``."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import sleep
from typing import Any

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.reason import Reason
from flask_safesession.stores.base import Conflict, Gone, Live

LEAK = 256 * 1024
"""Bytes of each load."""

RARELY = 40

_leaked: list[bytearray] = []


def sabotage(name: str, store: Any) -> None:
    """Break *store* in the way that *name* stands for."""
    SABOTAGES[name](store)


def _logout(store: Any) -> None:
    """Logouts do nothing."""

    def end(key: str, stamp: str, reason: str, expected: str | None) -> Gone:
        return Gone("logout", has_tombstone=True, repeated=True)

    store.end = end


def _overwrite(store: Any) -> None:
    """Commits do not care what was changed meanwhile."""
    commit = store.commit

    def careless(key: str, draft: Any, expected: str, **more: Any) -> Any:
        answer = commit(key, draft, expected, **more)
        while isinstance(answer, Conflict):
            answer = commit(key, draft, answer.record.stamps[0], **more)
        return answer

    store.commit = careless


def _boast(store: Any) -> None:
    """A commit that failed is called a success."""
    commit, loaded = store.commit, _remember_loaded(store)

    def boastful(key: str, draft: Any, expected: str, **more: Any) -> Any:
        try:
            return commit(key, draft, expected, **more)
        except StoreUnavailable:
            return loaded(key)

    store.commit = boastful


def _remember_loaded(store: Any) -> Callable[[str], Any]:
    load, lives = store.load, {}

    def remembering(key: str, rules: Any, *, slide: bool) -> Any:
        answer = load(key, rules, slide=slide)
        if isinstance(answer, Live):
            lives[key] = answer
        return answer

    store.load = remembering
    return lambda key: lives[key]


def _mix(store: Any) -> None:
    """One load in forty is answered with what somebody else had asked for."""
    load, seen = store.load, deque[str](maxlen=50)

    def mixed(key: str, rules: Any, *, slide: bool) -> Any:
        seen.append(key)
        return load(random.choice(seen) if _now_and_then(RARELY) else key, rules, slide=slide)

    store.load = mixed


def _forget(store: Any) -> None:
    """One load in forty finds nothing."""
    load = store.load

    def forgetful(key: str, rules: Any, *, slide: bool) -> Any:
        return Gone(Reason.UNKNOWN) if _now_and_then(RARELY) else load(key, rules, slide=slide)

    store.load = forgetful


def _greed(store: Any) -> None:
    """Caps are ten times as high."""
    for name in ("create", "rotate"):
        setattr(store, name, _greedy(getattr(store, name)))


def _greedy(call: Callable[..., Any]) -> Callable[..., Any]:
    def greedy(*args: Any) -> Any:
        return call(*(_raise(arg) if hasattr(arg, "cap") else arg for arg in args))

    return greedy


def _raise(rules: Any) -> Any:
    cap = rules.cap
    more = {"total": cap.total * 10, "users": cap.users * 10, "per_user": cap.per_user * 10}
    return rules._replace(cap=cap._replace(**more))


def _outlive(store: Any) -> None:
    """Sessions are given ten times the time, and neither loads nor audits shorten it."""
    load, create, rotate = store.load, store.create, store.rotate
    commit, audit = store.commit, store.audit

    def longer(draft: Any) -> Any:
        return draft._replace(idle=draft.idle * 10, lifetime=draft.lifetime * 10)

    store.create = lambda key, draft, rules: create(key, longer(draft), rules)
    store.rotate = lambda old, new, draft, *more: rotate(old, new, longer(draft), *more)
    store.commit = lambda key, draft, *more, **named: commit(key, longer(draft), *more, **named)
    store.load = lambda key, rules, *, slide: load(key, _patient(rules), slide=slide)
    store.audit = lambda rules, limit: audit(_patient(rules), limit)


def _patient(rules: Any) -> Any:
    def longer(limits: Any) -> Any:
        return limits._replace(idle=limits.idle * 10, lifetime=limits.lifetime * 10)

    tiers = {name: longer(limits) for name, limits in rules.policy.tiers.items()}
    default = longer(rules.policy.default)
    return rules._replace(policy=replace(rules.policy, default=default, tiers=tiers))


def _slow(store: Any) -> None:
    """One load in forty takes three seconds."""
    load = store.load

    def slow(key: str, rules: Any, *, slide: bool) -> Any:
        if _now_and_then(RARELY):
            sleep(3)
        return load(key, rules, slide=slide)

    store.load = slow


def _crash(store: Any) -> None:
    """One load in forty raises what nobody expects."""
    load = store.load

    def crashing(key: str, rules: Any, *, slide: bool) -> Any:
        if _now_and_then(RARELY):
            raise RuntimeError("sabotage")
        return load(key, rules, slide=slide)

    store.load = crashing


def _leak(store: Any) -> None:
    """Each load keeps some memory for ever."""
    load = store.load

    def leaking(key: str, rules: Any, *, slide: bool) -> Any:
        _leaked.append(bytearray(LEAK))
        return load(key, rules, slide=slide)

    store.load = leaking


def _now_and_then(times: int) -> bool:
    return random.randrange(times) == 0


SABOTAGES: dict[str, Callable[[Any], None]] = {
    "logout": _logout,
    "overwrite": _overwrite,
    "boast": _boast,
    "mix": _mix,
    "forget": _forget,
    "greed": _greed,
    "outlive": _outlive,
    "slow": _slow,
    "crash": _crash,
    "leak": _leak,
}
