"""The table of sessions: what was asked for, and a page of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from flask import request

from ..admin.directory import with_user
from ..errors import StoreUnavailable
from ..extension import SafeSession
from ..model.policy import ANONYMOUS_TIER
from ..model.text import printable
from ..web.info import SessionInfo

#: Sessions on one page of the table.
PAGE = 25


class Asked(NamedTuple):
    """The sessions to list.

    :param q: a text that means a user, or a handle.
    :param user: a user, as text.
    :param after: the ``next`` of the page before.
    """

    q: str = ""
    user: str = ""
    tier: str = ""
    after: str = ""

    @property
    def given(self) -> dict[str, str]:
        """The fields that are not empty."""
        return {name: value for name, value in self._asdict().items() if value}


class Listed(NamedTuple):
    """A page of sessions.

    :param user: the user whose sessions they are, as text; ``None`` for other lists.
    :param total: the number of that user's sessions.
    """

    sessions: list[SessionInfo]
    next: str = ""
    user: str | None = None
    total: int = 0


def asked(safe: SafeSession) -> Asked:
    """Returns the query of address or form, not stripped: a user may be named ``" bob"``."""
    q, user, tier, after = (request.values.get(name, "") for name in Asked._fields)
    return Asked(q, user, tier if tier in tiers(safe) else "", after)


def can_list(safe: SafeSession, ask: Asked) -> bool:
    """Returns whether the store has the list of *ask*: without an index only those of users."""
    opened, of_user = safe._state()[1].opened, bool(ask.user or ask.q.strip())
    return opened.index is not None or (of_user and opened.users is not None)


def listed(safe: SafeSession, ask: Asked) -> Listed:
    """Returns the page of *ask*.

    :raises StoreUnavailable: the store did not answer.
    """
    if ask.user:
        return _of_user(safe, ask.user, ask.after)
    find = safe._state()[1].people.find
    for q in dict.fromkeys((ask.q, ask.q.strip())):
        if q and (found := _of_user(safe, find(q), ask.after)).total:
            return found
    if handle := ask.q.strip():
        one = safe.find(handle)
        return Listed(_with_users(safe, [one] if one else []))
    return _browsed(safe, ask)


def tiers(safe: SafeSession) -> tuple[str, ...]:
    """Returns the tiers in the configured order."""
    return safe._state()[1].settings.rules.policy.names


def _of_user(safe: SafeSession, user: Any, after: str) -> Listed:
    found = safe.sessions_of(user)
    start = int(after[:9]) if after.isdecimal() else 0
    more = str(start + PAGE) if start + PAGE < len(found) else ""
    return Listed(found[start : start + PAGE], more, str(user), len(found))


def _browsed(safe: SafeSession, ask: Asked) -> Listed:
    if ask.after:
        # A forged *after* raises: some stores find out only when the server refuses it.
        with suppress(ValueError, StoreUnavailable):
            return _page(safe, ask.tier, ask.after)
    return _page(safe, ask.tier, "")


def _page(safe: SafeSession, tier: str, after: str) -> Listed:
    page = safe.browse(tier=tier or None, after=after or None, limit=PAGE)
    return Listed(_with_users(safe, page.sessions), page.next or "")


def _with_users(safe: SafeSession, sessions: list[SessionInfo]) -> list[SessionInfo]:
    """Returns *sessions* with their users, if the app names them."""
    state = safe._state()[1]
    if state.people.name_of is None:
        return sessions
    return [
        one if one.tier == ANONYMOUS_TIER else with_user(state.opened, state.settings, one)
        for one in sessions
    ]


def namer(safe: SafeSession) -> Callable[[Any], str]:
    """Returns a function that names users, and asks the app once for each."""
    known: dict[str, str] = {}
    people = safe._state()[1].people

    def name(user: Any) -> str:
        text = str(user)
        if text not in known:
            known[text] = printable(people.name(text))
        return known[text]

    return name
