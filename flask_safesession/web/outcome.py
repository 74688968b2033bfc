"""Ends a save or a load: sets what the request continues with, and keeps the events to send."""

from __future__ import annotations

from contextlib import suppress

from ..config.settings import Settings
from ..errors import StoreUnavailable
from ..events import SessionEnded, SessionMerged, SessionReplayed
from ..model import note as notes
from ..model.note import Secret
from ..model.reason import Reason
from ..model.tokens import SessionID, new_stamp
from ..stores import base
from .change import Change
from .state import Cookie, Loaded, Saved, State, Stored


def done(
    change: Change,
    answer: base.Live,
    key: str,
    sid: SessionID | None,
    *,
    cookie: Cookie = "set",
    stand_in: bool = False,
    secret: Secret | None = Secret.CURRENT,
) -> Saved:
    """Continue with the session that is now stored under *key*. Returns what the cookie needs."""
    state = change.state
    for gone in answer.removed:
        report_end(state, change.settings, gone.key, gone.reason, gone.tier)
    if change.conflicts:
        state.note(SessionMerged(key, change.conflicts))
    note = notes.loads(answer.record.note)
    stored = Stored(key, answer.record, note, change.who, sid, stand_in, secret)
    stale = change.loaded.stale and cookie == "keep"
    state.rebase(
        change.loaded._replace(
            data=change.data, stored=stored, now=answer.now, total=answer.total, stale=stale
        )
    )
    if stale and change.delivery.later:
        state.forced = True  # the response commits again, to set the cookie
    return Saved(cookie, sid)


def forget(change: Change, cookie: Cookie) -> Saved:
    """Continue without a session. Returns what the cookie needs."""
    change.state.rebase(Loaded({}, dead=change.loaded.dead))
    return Saved(cookie)


def report_end(state: State, settings: Settings, key: str, reason: str, tier: str) -> None:
    """Keep the event that a session has ended; *tier* is the tag of its tier."""
    state.note(SessionEnded(key, reason, settings.rules.policy.name_of(tier)))


def report_due(state: State, settings: Settings, key: str, answer: base.Gone) -> None:
    """Report the end of a session if this call was the one that found it due."""
    if answer.was_due:
        report_end(state, settings, key, answer.reason, answer.tier)


def end_stolen(state: State, settings: Settings, store: base.Store, key: str) -> bool:
    """End a session whose replaced secret was used twice, and report it.

    Returns whether it was ended. If the store does not answer, nothing is reported.
    """
    with suppress(StoreUnavailable):
        answer = store.end(key, new_stamp(), Reason.REPLAYED, None)
        if isinstance(answer, base.Live):
            key, tier = answer.key or key, answer.record.tier
            state.note(SessionReplayed(key, settings.rules.policy.name_of(tier)))
            report_end(state, settings, key, Reason.REPLAYED, tier)
            return True
    return False
