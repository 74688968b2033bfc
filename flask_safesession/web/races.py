"""Decides what a save does when another request was faster.

- *The other request changed the session.* Both changes are merged key by key.
- *The other request gave the session a new ID.* A request that had loaded the old ID, and names the
  same user, continues in the new session: the second click of a login leaves no orphan.
- *The other request ended the session.* Nothing is written. A sign-in is the exception: what this
  request changed becomes a new session, so that neither a flood nor a revocation blocks sign-ins.
"""

from __future__ import annotations

import time

from ..errors import UndeliverableSignIn
from ..events import SessionLost
from ..model.reason import Reason
from ..model.record import Record
from ..model.tokens import SessionID
from ..stores import base
from .change import MINUTE, Change
from .data import is_empty
from .outcome import done, forget, report_due
from .state import NOTHING, Loaded, Saved, Stored

# Seconds to wait for the other click of a login, which is one call from its end unless its worker
# was killed.
_WAITS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.1)


def refused(
    store: base.Store, change: Change, stored: Stored, answer: base.Conflict | base.Gone
) -> Saved | None:
    """Continue after a write that the store refused. ``None``: try the save again."""
    if isinstance(answer, base.Conflict):
        change.conflicts += 1
        record, sid, stand_in = answer.record, stored.sid, stored.stand_in
        if change.continue_from(stored.key, record, sid=sid, stand_in=stand_in):
            return None
        answer = base.Gone(Reason.CORRUPT, tier=record.tier)
    elif change.tried is not None and answer.successor == change.tried.key:
        # This request's own rotation succeeded, but its reply was lost.
        found = store.load(answer.successor, change.settings.rules, slide=False)
        if isinstance(found, base.Live):
            return done(change, found, change.tried.key, change.tried)
    if _join(store, change, stored, answer):
        return None
    report_due(change.state, change.settings, stored.key, answer)
    if change.assigns_user():
        return _start_anew(change, stored)
    change.state.note(SessionLost(stored.key, answer.reason))
    change.state.rebase(Loaded({}, dead=stored.sid))
    return NOTHING


def await_login(
    store: base.Store, change: Change, old: str, following: SessionID
) -> base.Gone | None:
    """Returns how another click of a login ended the session under *old*; ``None``: none did.

    If the user's shard is another one, a login first creates the session of the *following* ID and
    then ends the old one, which leads to the new one only from then on. Without this wait, this
    click would take another ID, and one of the two responses would have no cookie.
    """
    rules = change.settings.rules
    for wait in _WAITS:
        gone = store.load(old, rules, slide=False)
        if isinstance(gone, base.Gone):
            return gone
        made = store.load(following.key, rules, slide=False)
        if isinstance(made, base.Gone) or made.record.user != change.who.user_tag:
            return None
        time.sleep(wait)
    return None


def join_onward(store: base.Store, change: Change) -> bool:
    """Continue a sign-in from a dead ID in the session that the same user's first click created.

    That click may have finished before this one first used its session. Only the same user's
    sign-in does this, within a minute, and only if it can set that session's cookie: the first
    response may have been lost.
    """
    key, user = change.loaded.onward
    is_first, change.can_join = change.can_join, False
    if not (is_first and user == change.who.user_tag and change.delivery.deliverable):
        return False
    following = change.following_id(of_stand_in=False)
    if following is None or following.key != key:
        return False
    answer = store.load(key, change.settings.rules, slide=False)
    if isinstance(answer, base.Gone) or answer.now - answer.record.created >= MINUTE:
        return False
    return _continue_in(change, key, answer.record, following, by_sign_in=True)


def _join(store: base.Store, change: Change, stored: Stored, gone: base.Gone) -> bool:
    """Continue in the session to which another request of the same user gave a new ID.

    The browser may drop that request's response: if both sign the same user in, as with a double
    click, this one sets the cookie, too.
    """
    key, signs_in, rules = gone.successor, change.assigns_user(), change.settings.rules
    is_led_on = key and gone.user == change.who.user_tag
    if not is_led_on or not (signs_in or gone.reason == Reason.ROTATED):
        return False
    while isinstance(answer := store.load(key, rules, slide=False), base.Gone):
        key = answer.successor
        if not key or answer.user != gone.user or change.is_out_of_time:
            return False
    following = change.following_id() if signs_in else None
    by_sign_in = answer.record.created != stored.record.created
    return _continue_in(change, key, answer.record, following, by_sign_in=by_sign_in)


def _continue_in(
    change: Change, key: str, record: Record, following: SessionID | None, *, by_sign_in: bool
) -> bool:
    """Merge this request's changes into a session to which another request gave an ID.

    :param following: the ID that this response may set for it.
    :param by_sign_in: the other request signed the user in, so this one need not.
    """
    if not change.continue_from(key, record):
        return False
    change.state.regenerated = change.state.cleared = False  # the old ID has ended
    if by_sign_in:
        change.state.forget_sign_in()
    if following is not None and following.key == key:
        change.given = following if change.delivery.deliverable else None
    return True


def _start_anew(change: Change, stored: Stored) -> Saved | None:
    """Continue a sign-in without a session, with the keys that it changed: the rest has ended."""
    if not change.state.cleared:
        change.keep_own(stored.record.payload)
    change.stored = None
    if not change.delivery.deliverable:
        raise UndeliverableSignIn
    return forget(change, "keep") if is_empty(change.data) else None
