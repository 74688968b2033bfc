"""The writes of a save: a new session, a change, a new ID, an end. Each is one call of the store.

They return what the browser's cookie needs, or ``None`` if the save must be tried again. Stores
recognise a repeated call by its stamp, so a lost reply needs no handling here.
"""

from __future__ import annotations

from contextlib import suppress

from .. import errors
from ..events import SessionCreated, SessionRotated, StoreFailed
from ..model.codec import encode
from ..model.identity import Identity
from ..model.note import Note, Secret
from ..model.reason import Reason
from ..model.record import Record
from ..model.tokens import SessionID, new_id, new_stamp
from ..stores import base
from ..stores.sharded import shard_of
from . import races
from .adoption import close_adoption
from .change import MINUTE, Change
from .data import PERMANENT, is_empty
from .outcome import done, end_stolen, forget, report_due, report_end
from .state import MAX_STAND_INS, NOTHING, Cookie, Saved, Stored

#: Why a session cannot be stored.
NOT_STORED = (
    errors.StoreUnavailable,
    errors.StoreFull,
    errors.SessionTooLarge,
    errors.TooManySessions,
)

# Shards that are tried for an anonymous visitor.
_SHARDS_TRIED = 3
# IDs drawn for that at most: chance may choose the same shards again.
_DRAWN = 30


def create(store: base.Store, change: Change) -> Saved | None:
    """Store a session under a new ID."""
    who, payload = change.who, encode(change.data)
    ids = _fresh_ids(change.settings.shards, who)
    while True:
        sid = ids.pop()
        draft = change.draft(payload, change.first_note(sid))
        try:
            answer = store.create(sid.key, draft, change.settings.rules)
        except errors.StoreFull:
            if ids:
                continue
            raise
        if isinstance(answer, base.Taken):
            return None
        change.state.note(SessionCreated(sid.key, who.tier))
        if change.is_sign_in():
            _end_stolen(store, change)
        return done(change, answer, sid.key, sid)


def _fresh_ids(shards: int, who: Identity) -> list[SessionID]:
    """Returns new IDs to try.

    A user's sessions are all in one shard. An anonymous session may try two more if one is full.
    """
    if who.user_tag or shards == 1:
        return [new_id(who.user_tag[:1])]
    ids: dict[int, SessionID] = {}
    for _ in range(_DRAWN):
        sid = new_id()
        ids.setdefault(shard_of(sid.key, shards), sid)
        if len(ids) == min(_SHARDS_TRIED, shards):
            break
    return list(ids.values())


def create_stand_in(store: base.Store, change: Change, dead: SessionID) -> Saved | None:
    """Store a stand-in for a dead ID, without a cookie.

    So a late request never overwrites the cookie of a newer sign-in. Concurrent requests use the
    same stand-in, and merge.
    """
    number = change.loaded.stand_in
    if number >= MAX_STAND_INS:
        return create(store, change)
    key = dead.stand_in(number)
    draft = change.draft(encode(change.data), change.first_note(None))
    answer = store.create(key, draft, change.settings.rules)
    if isinstance(answer, base.Taken):
        _share_stand_in(store, change, key)
        return None
    change.state.note(SessionCreated(key, change.who.tier))
    return done(change, answer, key, None, cookie="keep", stand_in=True, secret=None)


def _share_stand_in(store: base.Store, change: Change, key: str) -> None:
    """Continue with the stand-in that another request created, or with the next one."""
    answer = store.load(key, change.settings.rules, slide=change.loaded.slide)
    if isinstance(answer, base.Gone):
        is_over = answer.has_tombstone or answer.reason == Reason.CORRUPT
    else:
        is_over = not change.continue_from(key, answer.record, stand_in=True)
    if is_over:
        change.next_stand_in()


def commit(
    store: base.Store,
    change: Change,
    stored: Stored,
    *,
    owes_id: bool = False,
    empty: bool = False,
) -> Saved | None:
    """Store data and note under the same key.

    :param owes_id: the next response that can deliver a cookie must give a new ID.
    :param empty: the session is empty: it stays for a minute, and the cookie is deleted.
    """
    payload, state = encode(change.data, stored.record.payload), change.state
    note, sid = change.next_note(stored, owes_id, empty)
    is_changed = state.is_asked or payload != stored.record.payload
    if not is_changed and note == stored.note:
        return NOTHING
    draft = change.draft(payload, note, stored.record)
    if empty:
        draft = draft._replace(idle=min(draft.idle, MINUTE))
    old = stored.record
    try:
        answer = store.commit(stored.key, draft, old.stamps[0], touch=change.touch(), loaded=old)
    except errors.StoreUnavailable as error:
        if is_changed:
            raise
        state.note(StoreFailed("save", str(error)))  # bookkeeping is not worth a failure
        return NOTHING
    if isinstance(answer, base.Live):
        cookie = "delete" if empty else _cookie_after(change, stored, note, sid)
        return _committed(change, stored, answer, sid, cookie)
    if is_changed:
        return races.refused(store, change, stored, answer)
    if isinstance(answer, base.Gone):
        report_due(state, change.settings, stored.key, answer)
    return NOTHING


def _cookie_after(change: Change, stored: Stored, note: Note, sid: SessionID | None) -> Cookie:
    """Returns what the cookie needs after a commit: "set" if ID or maximum age changed."""
    before = stored.note
    has_other_age = (note.permanent, note.own) != (before.permanent, before.own)
    is_outdated = change.loaded.stale or has_other_age or before.deleted
    is_set = sid is not stored.sid or (is_outdated and change.may_set(stored))
    return "set" if is_set else "keep"


def _committed(
    change: Change, stored: Stored, answer: base.Live, sid: SessionID | None, cookie: Cookie
) -> Saved:
    key, stand_in = stored.key, stored.stand_in
    secret = stored.secret if sid is stored.sid else Secret.OLDER
    return done(change, answer, key, sid, cookie=cookie, stand_in=stand_in, secret=secret)


def rotate(
    store: base.Store, change: Change, stored: Stored, *, restart: bool = False, force: bool = False
) -> Saved | None:
    """Give the session a new ID.

    :param restart: a sign-in: both clocks restart.
    :param force: end the session, whatever is in flight; what is left becomes a new one.
    """
    if restart and not force and not change.delivery.deliverable:
        raise errors.UndeliverableSignIn
    old, record, who = stored.key, stored.record, change.who
    # A user's sessions are all in one shard; an anonymous session stays in its own.
    following = change.following_id() if restart and change.can_follow else None
    sid = change.tried = following or new_id(who.user_tag[:1] or old[:1])
    expected, reason = (None, Reason.LOGOUT) if force else (record.stamps[0], Reason.ROTATED)
    terms = base.Terms(expected, restart, reason, slide=change.loaded.slide)
    kept = None if restart or force else stored
    if kept is None and stored.note.own and change.state.permanent is None:
        change.data.pop(PERMANENT, None)  # it came with limits that are over
    payload = encode(change.data, record.payload)
    before = None if restart and force else stored.note
    draft = change.draft(payload, change.first_note(sid, before, kept=kept))
    answer = store.rotate(old, sid.key, draft, change.settings.rules, terms)
    if isinstance(answer, base.Taken):
        change.tried = None  # another request's session has this ID
        gone = following and races.await_login(store, change, old, following)
        if not gone:
            change.can_follow = False
            return None
        answer = gone
    if not isinstance(answer, base.Live):
        return races.refused(store, change, stored, answer)
    if force:
        _report_logout(change, old, record)
        change.state.note(SessionCreated(sid.key, who.tier))
    else:
        change.state.note(SessionRotated(sid.key, old, who.tier))
    if restart and who.user is not None:
        _end_stolen(store, change)
    return done(change, answer, sid.key, sid)


def end(store: base.Store, change: Change, stored: Stored) -> Saved | None:
    """End a session that was cleared or lost its user, whatever is in flight."""
    if stored.stand_in and change.state.cleared and change.loaded.rotated:
        end_elsewhere(store, change)
    if stored.record.user:
        close_adoption(store, change.settings, stored.record.user)
    continues = change.delivery.deliverable and not is_empty(change.data)
    if continues and not (stored.stand_in and change.who.user is None):
        restart = change.state.cleared or change.who.user is not None
        try:
            return rotate(store, change, stored, restart=restart, force=True)
        except (*NOT_STORED, TypeError):
            # What is left cannot be stored, but the logout must hold.
            with suppress(errors.StoreUnavailable):
                store.end(stored.key, new_stamp(), Reason.LOGOUT, None)
            raise
    answer = store.end(stored.key, new_stamp(), Reason.LOGOUT, None)
    if isinstance(answer, base.Gone) and not answer.repeated:
        report_due(change.state, change.settings, stored.key, answer)
        return forget(change, "keep")
    if isinstance(answer, base.Live):
        _report_logout(change, answer.key, answer.record)
    else:
        _report_logout(change, stored.key, stored.record)
    return _after_end(store, change, stored)


def _after_end(store: base.Store, change: Change, stored: Stored) -> Saved | None:
    if not change.delivery.deliverable:
        if change.who.user is not None:
            raise errors.UndeliverableSignIn
        return forget(change, "keep")
    if not stored.stand_in:
        return forget(change, "delete")
    if is_empty(change.data) or change.loaded.dead is None:
        return forget(change, "keep")
    change.stored = None
    change.next_stand_in()
    return create_stand_in(store, change, change.loaded.dead)


def end_elsewhere(store: base.Store, change: Change) -> bool:
    """End the session of a rotated ID under its current key.

    Returns whether it was ended and nothing is left to store.
    """
    if (dead := change.loaded.dead) is None:
        return False
    answer = store.end(dead.key, new_stamp(), Reason.LOGOUT, None)
    if isinstance(answer, base.Live):
        if answer.record.user:
            close_adoption(store, change.settings, answer.record.user)
        _report_logout(change, answer.key, answer.record)
    return isinstance(answer, base.Live) and is_empty(change.data)


def _end_stolen(store: base.Store, change: Change) -> None:
    """End the live session of which the visitor, now signing in, has a replaced secret."""
    if (suspect := change.loaded.suspect) is not None:
        end_stolen(change.state, change.settings, store, suspect.stored.key)


def _report_logout(change: Change, key: str, record: Record) -> None:
    report_end(change.state, change.settings, key, Reason.LOGOUT, record.tier)
