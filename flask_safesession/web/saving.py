"""Chooses the write that stores a request's changes: one call, if any.

Nothing here sets cookies or reads responses. What can go wrong, and what then happens:

- *Another request was faster.* See :mod:`.races`.
- *A reply is lost.* Stores recognise a repeated call by its stamp.
- *The response cannot deliver a cookie* (a socket, a save by hand): data is committed under the
  same ID. Nothing is created, renewed or rotated; the note says what the next response owes.
- *The browser's ID is dead.* What is written becomes its stand-in, without a cookie.
"""

from __future__ import annotations

from contextlib import suppress

from .. import errors
from ..config.settings import Settings
from ..events import SessionRejected
from ..model import note as notes
from ..model.codec import decode, encode
from ..model.note import Secret
from ..stores.base import Store
from . import races, writing
from .change import Change, Delivery
from .data import FLASHES, is_empty, is_permanent
from .outcome import forget
from .state import NOTHING, Saved, State, Stored

_REFUSALS: dict[type[Exception], str] = {
    errors.StoreFull: "full",
    errors.SessionTooLarge: "too-large",
    errors.TooManySessions: "user-full",
}


def save(state: State, store: Store, settings: Settings, delivery: Delivery) -> Saved:
    """Store what changed, if anything did. Returns what the cookie needs.

    :raises StoreUnavailable: the store did not answer, or conflicts continued until its time-out.
    :raises StoreFull: the store is at its cap and evicts nothing.
    :raises TooManySessions: the user is at the limit and ``"reject"`` is set.
    :raises SessionTooLarge: over ``SAFESESSION_MAX_SESSION_SIZE``.
    :raises TypeError: a value cannot be stored, or cannot be a user.
    :raises UndeliverableSignIn: no response can deliver the cookie of a sign-in.
    """
    loaded = state.loaded
    if loaded.stored is None and not state.data and not (state.cleared and loaded.rotated):
        return NOTHING
    if loaded.stored is not None and _is_as_stored(state, loaded.stored, settings, delivery):
        return NOTHING
    change = Change(state, settings, delivery)
    while True:
        try:
            saved = _attempt(store, change)
        except tuple(_REFUSALS) as error:
            state.note(SessionRejected(_REFUSALS[type(error)], change.who.tier))
            if isinstance(error, errors.TooManySessions):
                error.user = change.who.user  # the store has only a digest
            raise
        if saved is not None:
            return saved
        if change.is_out_of_time:
            raise errors.StoreUnavailable("the session kept changing until the store's time-out")


def _is_as_stored(state: State, stored: Stored, settings: Settings, delivery: Delivery) -> bool:
    """Whether there is nothing to store. A cheap check first: most requests only read."""
    note, age = stored.note, state.loaded.now - stored.record.created
    is_due = notes.is_due(note, age, settings.renew_interval)
    plain = note.is_presented and stored.secret is not Secret.STRANDED and not is_due
    settled = plain and not (stored.stand_in or note.owes_id or note.deleted or delivery.client)
    data = state.data or {}
    if not (settled and state.only_read and is_permanent(data) == note.permanent):
        return False
    return encode(data, stored.record.payload) == stored.record.payload


def _attempt(store: Store, change: Change) -> Saved | None:
    """Try once. Returns ``None`` if something changed meanwhile: try again."""
    stored = change.stored
    change.check_user()
    if change.delivery.later and (stored is None or not change.is_only_changed(stored)):
        return NOTHING
    return _start(store, change) if stored is None else _store_change(store, change, stored)


def _store_change(store: Store, change: Change, stored: Stored) -> Saved | None:
    """Store the changes to a session that was loaded."""
    if change.is_ended(stored):
        return writing.end(store, change, stored)
    if change.is_sign_in():
        if races.join_onward(store, change):
            return None
        return writing.rotate(store, change, stored, restart=True)
    if change.needs_new_id(stored):
        return _continue_under_new_id(store, change, stored)
    if is_empty(change.data):
        return _empty(store, change, stored)
    return writing.commit(store, change, stored)


def _start(store: Store, change: Change) -> Saved | None:
    """Store a visitor's first session, or one in place of a session that has ended."""
    if change.state.cleared and change.loaded.rotated and writing.end_elsewhere(store, change):
        return forget(change, "delete")
    if is_empty(change.data):
        return NOTHING
    if not change.delivery.deliverable:
        return _not_delivered(change)
    dead = change.loaded.dead
    if dead is not None and change.who.user is None:
        return writing.create_stand_in(store, change, dead)
    return None if races.join_onward(store, change) else writing.create(store, change)


def _continue_under_new_id(store: Store, change: Change, stored: Stored) -> Saved | None:
    if change.delivery.deliverable and (stored.sid is not None or stored.stand_in):
        if change.state.regenerated or change.who != stored.who:
            return writing.rotate(store, change, stored)
        with suppress(*writing.NOT_STORED):
            # An earlier response owed it; a failure is not worth an error.
            return writing.rotate(store, change, stored)
        return writing.commit(store, change, stored)
    if change.state.is_restored and change.who.user_tag != stored.who.user_tag:
        change.drop_user(stored)
        return None
    return writing.commit(store, change, stored, owes_id=True)


def _empty(store: Store, change: Change, stored: Stored) -> Saved | None:
    """Keep an empty session for a while: concurrent changes merge with it.

    If the app removed its own last key, the cookie is deleted, as Flask does. If only flashes are
    gone, the cookie stays.
    """
    if stored.note.deleted:
        return NOTHING  # emptied before: only a write sets its cookie again
    before = decode(stored.record.payload)
    before.pop(FLASHES, None)
    ends_soon = not is_empty(before) and change.may_set(stored)
    return writing.commit(store, change, stored, empty=ends_soon)


def _not_delivered(change: Change) -> Saved:
    """Store nothing for a visitor without a session, since no response can deliver its cookie."""
    if change.is_sign_in():
        raise errors.UndeliverableSignIn
    if not change.state.is_restored:
        change.delivery.say(
            "undeliverable",
            "a WebSocket or Socket.IO handler, or a save by hand, wrote to the session of a"
            " visitor who has none yet. The change is not stored, since no response can deliver"
            " the cookie. Use the session in an HTTP request first",
        )
    return NOTHING
