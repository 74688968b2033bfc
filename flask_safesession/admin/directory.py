"""Lists, finds and ends sessions, by user or by handle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..events import SessionEnded, emit
from ..model import note as notes
from ..model.codec import UndecodableError, decode
from ..model.identity import identify, named_user
from ..model.note import Note
from ..model.policy import ANONYMOUS_TIER
from ..model.reason import Reason
from ..model.tokens import NO_USER, is_handle, new_stamp
from ..stores.base import Gone, Listed, Live, Store
from ..stores.opening import Opened
from ..web.adoption import close_adoption
from ..web.info import SessionInfo, described
from .sampling import payload_of


class Page(NamedTuple):
    """A page of sessions. ``next``: the *after* of the next page; ``None`` at the end."""

    sessions: list[SessionInfo]
    next: str | None


def _listed(one: Listed, settings: Settings, user: Any = None) -> SessionInfo:
    policy, record = settings.rules.policy, one.record
    is_anonymous = record.user == NO_USER and ANONYMOUS_TIER in policy.tiers
    tier = ANONYMOUS_TIER if is_anonymous else policy.name_of(record.tier)
    try:
        note = notes.loads(record.note)
    except ValueError:  # listed all the same, so that it can be ended
        note = Note()
    return described(one.key, record, note, user, tier)


def sessions_of(
    opened: Opened, settings: Settings, user: Any, current: str | None
) -> list[SessionInfo]:
    """Returns the live sessions of *user*, newest first, with one store call."""
    listed = opened.need_users().sessions_of(named_user(user))
    found = (_listed(one, settings, user) for one in listed)
    return [info._replace(current=info.handle == current) for info in found]


def browse(
    opened: Opened, settings: Settings, tier: str | None, after: str | None, limit: int
) -> Page:
    """Returns up to *limit* sessions, tier by tier, latest deadline first; anonymous ones last.

    :raises ValueError: *after* is not the ``next`` of a page, or *limit* is not positive.
    """
    tiers = (tier,) if tier else (*settings.rules.policy.order, ANONYMOUS_TIER)
    begin, _, last = (after or f"{tiers[0]}|").partition("|")
    if begin not in tiers or limit < 1:
        raise ValueError(f"browse(): {after!r} is not the next of a page, or {limit} is below one")
    found: list[SessionInfo] = []
    for name in tiers[tiers.index(begin) :]:
        page = opened.need_index().page(name, last, limit - len(found))
        found += [_listed(one, settings) for one in page.sessions]
        if len(found) >= limit or page.next:
            return Page(found, f"{name}|{page.next}" if page.next else _after(tiers, name))
        last = ""
    return Page(found, None)


def _after(tiers: Sequence[str], name: str) -> str | None:
    following = tiers[tiers.index(name) + 1 :]
    return f"{following[0]}|" if following else None


def with_user(opened: Opened, settings: Settings, one: SessionInfo) -> SessionInfo:
    """Returns *one* with its user, which is in the session's data alone. Makes one store call."""
    try:
        data = decode(payload_of(opened, settings.rules, one.handle or ""))
    except UndecodableError:
        return one
    found = identify(data, settings.user_key, settings.tier_key, settings.rules.policy)
    return one._replace(user=found.user)


def find(opened: Opened, settings: Settings, handle: str) -> SessionInfo | None:
    """Returns the session with this handle, without using it."""
    if not is_handle(handle):
        return None
    found = opened.need_users().peek(handle)
    return None if found is None else _listed(found, settings)


def end(app: Any, store: Store, settings: Settings, handle: str) -> bool:
    """End the session with this handle, whatever is in flight. Returns whether there was one."""
    if not is_handle(handle):
        return False
    answer = store.end(handle, new_stamp(), Reason.REVOKED, None)
    if not isinstance(answer, Live):
        return isinstance(answer, Gone) and answer.repeated
    _announce(app, settings, [Listed(answer.key or handle, answer.record)])
    return True


def end_user(app: Any, opened: Opened, settings: Settings, user: Any, keep: str | None) -> int:
    """End all sessions of *user* except *keep*, in one step. Returns how many it ended.

    :raises ValueError: *keep* is not a handle, or *user* means no user.
    """
    if keep is not None and not is_handle(keep):
        raise ValueError(f"keep is {keep!r}, which is not a handle: nothing was ended")
    tag = named_user(user)
    close_adoption(opened.store, settings, tag)
    ended = opened.need_users().end_user(tag, new_stamp(), Reason.REVOKED, keep or "")
    _announce(app, settings, ended)
    return len(ended)


def _announce(app: Any, settings: Settings, ended: Iterable[Listed]) -> None:
    for one in ended:
        tier = settings.rules.policy.name_of(one.record.tier)
        emit(app, SessionEnded(one.key, Reason.REVOKED, tier))
