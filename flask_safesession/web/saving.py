"""What a request did to its session, carried over to the store: one call, more only on a conflict.

Nothing here knows of cookies or responses. What can go wrong, and what then happens:

- *Two requests change one session.* The second commit is refused with the stored bytes; both
  changes are merged key by key, and tried again until the store's time-out.
- *The session got a new ID meanwhile.* A request that had loaded the old one, and names the same
  user as the new one, merges its changes into it: the second click of a login leaves no orphan.
- *The session ended meanwhile.* Nothing is written and an event says so. A sign-in is the
  exception: what this request itself changed becomes a new session, so that neither a flood nor a
  revocation can block sign-ins.
- *A reply is lost.* Stores recognise a repeated call by its stamp.
- *The response cannot deliver a cookie* (a socket, a save by hand): data is committed under the
  same ID. Nothing is created, renewed or rotated; a note says what the next response owes.
- *The browser's ID is over.* What is written becomes a session that stands in for it, without a
  cookie: a late request never overwrites the cookie of a newer sign-in. Two requests at once find
  the same stand-in, and merge.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from ..config.settings import Settings
from ..errors import (
    SessionTooLarge,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    UndeliverableSignIn,
)
from ..events import (
    Event,
    SessionCreated,
    SessionEnded,
    SessionLost,
    SessionMerged,
    SessionRejected,
    SessionReplayed,
    SessionRotated,
    StoreFailed,
)
from ..model import note as notes
from ..model.codec import decode, encode
from ..model.identity import Identity
from ..model.note import Secret
from ..model.record import Record
from ..model.tokens import SessionID, new_id, new_stamp
from ..stores.base import (
    CORRUPT,
    LOGOUT,
    REPLAYED,
    ROTATED,
    Conflict,
    Gone,
    Live,
    Rules,
    Store,
    Taken,
    Terms,
)
from .change import MINUTE, Change, Delivery
from .session import FLASHES, Loaded, Session, Stored, is_empty, is_permanent

_REFUSALS: dict[type[Exception], str] = {
    StoreFull: "full",
    SessionTooLarge: "too-large",
    TooManySessions: "user-full",
}

Cookie = Literal["keep", "set", "delete"]

#: Stand-ins of one ID that are tried: each has to have ended within a minute for the next.
MAX_STAND_INS = 5
# Parts of a store that an anonymous visitor may be refused in.
_PARTS_TRIED = 3
# IDs drawn for that at most: chance may choose the same parts again and again.
_DRAWN = 30


class Saved(NamedTuple):
    """What became of the session.

    :param cookie: what the browser's cookie needs.
    :param sid: the ID that it is to hold.
    """

    cookie: Cookie = "keep"
    sid: SessionID | None = None


#: Nothing was to be done.
NOTHING = Saved()


def ends(key: str, answer: Gone, settings: Settings) -> Iterator[Event]:
    """Yields what is to be reported of a session that a request found at its end."""
    if answer.was_due:
        yield SessionEnded(key, answer.reason, settings.rules.policy.name_of(answer.tier))


def save(session: Session, store: Store, settings: Settings, delivery: Delivery) -> Saved:
    """Store what changed, if anything did, and say what the cookie needs.

    :raises StoreUnavailable: the store did not answer, or conflicts went on until its time-out.
    :raises StoreFull: no room.
    :raises SessionTooLarge: over ``SAFESESSION_MAX_SESSION_SIZE``.
    :raises TypeError: something in it cannot be stored, or cannot be a user.
    :raises UndeliverableSignIn: a sign-in where no response can deliver the cookie.
    """
    loaded = session._loaded
    if loaded.stored is None and not session._data and not (session._cleared and loaded.rotated):
        return NOTHING
    if loaded.stored is not None and _is_only_read(session, loaded.stored, settings, delivery):
        return NOTHING
    return _Save(session, store, settings, delivery).run()


def _is_only_read(session: Session, stored: Stored, settings: Settings, delivery: Delivery) -> bool:
    """Whether nothing is to be stored, decided by the least that tells: most requests read."""
    note, age = stored.note, session._loaded.now - stored.record.created
    is_due = notes.is_due(note, age, settings.renew_interval)
    plain = note.is_presented and stored.secret is not Secret.STRANDED and not is_due
    settled = plain and not (stored.stand_in or note.owes_id or note.deleted or delivery.client)
    if session._is_marked() or not settled or is_permanent(session._data or {}) != note.permanent:
        return False
    return encode(session._data or {}, stored.record.payload) == stored.record.payload


class _Save:
    """One save: the request's data, what it was loaded as, and the attempts to store it."""

    def __init__(
        self, session: Session, store: Store, settings: Settings, delivery: Delivery
    ) -> None:
        self._session = session
        self._store = store
        self._settings = settings
        self._rules: Rules = settings.rules
        self._change = Change(session, settings, delivery)
        self._conflicts = 0
        self._tried: SessionID | None = None
        self._follows = self._looks_onward = True
        self._until = time.monotonic() + settings.store_timeout

    def run(self) -> Saved:
        while True:
            try:
                saved = self._attempt()
            except tuple(_REFUSALS) as error:
                who = self._change.who
                self._note(SessionRejected(_REFUSALS[type(error)], who.tier))
                if isinstance(error, TooManySessions):
                    error.user = who.user  # the store knows a digest
                raise
            if saved is not None:
                return saved
            if time.monotonic() > self._until:
                raise StoreUnavailable("the session kept changing until the store's time-out")

    # -- deciding -------------------------------------------------------------------------------

    def _attempt(self) -> Saved | None:
        """One try; ``None``: something changed meanwhile, so try again."""
        change, stored = self._change, self._change.stored
        change.check_user()
        if change.delivery.later and (stored is None or not change.is_only_changed(stored)):
            return NOTHING
        if stored is None:
            return self._start()
        if change.is_ended(stored):
            return self._end(stored)
        if change.is_sign_in():
            return None if self._joins_onward() else self._rotate(stored, restart=True)
        return self._store_change(stored)

    def _store_change(self, stored: Stored) -> Saved | None:
        if self._change.needs_new_id(stored):
            return self._go_on_under_new_id(stored)
        return self._empty(stored) if is_empty(self._change.data) else self._commit(stored)

    def _start(self) -> Saved | None:
        if self._session._cleared and self._change.loaded.rotated and self._end_elsewhere():
            return self._forgotten("delete")
        if is_empty(self._change.data):
            return NOTHING
        if not self._change.delivery.deliverable:
            return self._not_delivered()
        dead = self._change.loaded.dead
        if dead is None or self._change.who.user is not None:
            return None if self._joins_onward() else self._create()
        return self._stand_in(dead)

    def _go_on_under_new_id(self, stored: Stored) -> Saved | None:
        if self._change.delivery.deliverable and (stored.sid is not None or stored.stand_in):
            if self._session._regenerated or self._change.who != stored.who:
                return self._rotate(stored)
            with suppress(StoreFull, StoreUnavailable, SessionTooLarge, TooManySessions):
                return self._rotate(stored)  # owed by an earlier response: not worth a failure
            return self._commit(stored)
        if self._session._is_restored() and self._change.who.user_tag != stored.who.user_tag:
            self._change.drop_user(stored)
            return None
        return self._commit(stored, owes_id=True)

    # -- doing ----------------------------------------------------------------------------------

    def _create(self) -> Saved | None:
        who, data = self._change.who, encode(self._change.data)
        for left, sid in self._fresh_ids(who):
            try:
                draft = self._change.draft(data, self._change.first_note(sid))
                answer = self._store.create(sid.key, draft, self._rules)
            except StoreFull:
                if left:
                    continue
                raise
            if isinstance(answer, Taken):
                return None
            self._note(SessionCreated(sid.key, who.tier))
            if self._change.is_sign_in():
                self._end_replaced()
            return self._done(answer, sid)
        return None

    def _fresh_ids(self, who: Identity) -> Iterator[tuple[int, SessionID]]:
        """New IDs to be tried, and how many are left after each.

        A user's are all in one part of the store; an anonymous visitor who is refused in one tries
        two more.
        """
        store: Any = self._store
        count = 1 if who.user_tag or not hasattr(store, "part_count") else store.part_count()
        if count == 1:
            yield 0, new_id(who.user_tag[:1])
            return
        ids: dict[int, SessionID] = {}
        for _ in range(_DRAWN):
            sid = new_id()
            ids.setdefault(store.part_of(sid.key), sid)
            if len(ids) == min(_PARTS_TRIED, count):
                break
        for tried, sid in enumerate(ids.values(), 1):
            yield len(ids) - tried, sid

    def _stand_in(self, dead: SessionID) -> Saved | None:
        """Store what is written in the place of an ID that is over, without a cookie."""
        number = self._change.loaded.stand_in
        if number >= MAX_STAND_INS:
            return self._create()
        key = dead.stand_in(number)
        draft = self._change.draft(encode(self._change.data), self._change.first_note(None))
        answer = self._store.create(key, draft, self._rules)
        if isinstance(answer, Taken):
            self._share_stand_in(key)
            return None
        self._note(SessionCreated(key, self._change.who.tier))
        return self._done(answer, None, key=key, cookie="keep", stand_in=True, secret=None)

    def _share_stand_in(self, key: str) -> None:
        """Another request has made the stand-in: go on with both changes, or with the next one."""
        answer = self._store.load(key, self._rules, slide=self._change.loaded.slide)
        if isinstance(answer, Gone):
            if answer.buried:
                self._change.next_stand_in()
            return
        try:
            self._change.go_on_from(b"", key, answer.record, stand_in=True)
        except ValueError:
            self._change.next_stand_in()

    def _commit(
        self, stored: Stored, *, owes_id: bool = False, ends_soon: bool = False
    ) -> Saved | None:
        payload = encode(self._change.data, stored.record.payload)
        note, sid = self._change.next_note(stored, owes_id, ends_soon)
        session = self._session
        changes = payload != stored.record.payload or session._forced or session._regenerated
        if not changes and note == stored.note:
            return NOTHING
        draft = self._change.draft(payload, note, stored.record)
        if ends_soon:
            draft = draft._replace(idle=min(draft.idle, MINUTE))
        try:
            answer = self._store.commit(
                stored.key, draft, stored.record.stamps[0], touch=self._change.touch()
            )
        except StoreUnavailable as error:
            if changes:
                raise
            self._note(StoreFailed("save", str(error)))  # only our own notes: not worth a failure
            return NOTHING
        if not isinstance(answer, Live):
            return self._not_done(stored, answer) if changes else self._not_noted(stored, answer)
        if ends_soon:
            return self._done(answer, None, key=stored.key, cookie="delete")
        fresh = sid is not stored.sid
        again = self._change.may_set(stored) and (
            self._change.loaded.stale
            or note.permanent != stored.note.permanent
            or stored.note.deleted
        )
        return self._done(
            answer,
            sid,
            key=stored.key,
            cookie="set" if fresh or again else "keep",
            stand_in=stored.stand_in,
            secret=Secret.OLDER if fresh else stored.secret,
        )

    def _not_noted(self, stored: Stored, answer: Conflict | Gone) -> Saved:
        """Leave our own notes to the next request: nothing that the app stored is lost."""
        if isinstance(answer, Gone):
            self._note_end(stored.key, answer)
        return NOTHING

    def _rotate(
        self, stored: Stored, *, restart: bool = False, force: bool = False
    ) -> Saved | None:
        """Go on under a new ID: a sign-in, a change of tier, a wish; with *force* an end."""
        if restart and not force and not self._change.delivery.deliverable:
            raise UndeliverableSignIn
        old, record = stored.key, stored.record
        # A user's sessions are all in one shard; an anonymous one stays in the one where it is.
        following = self._change.following_id() if restart and self._follows else None
        sid = following or new_id(self._change.who.user_tag[:1] or old[:1])
        expected, reason = (None, LOGOUT) if force else (record.stamps[0], ROTATED)
        terms = Terms(expected, restart, reason, slide=self._change.loaded.slide)
        payload = encode(self._change.data, record.payload)
        before = None if restart and force else stored.note
        draft = self._change.draft(payload, self._change.first_note(sid, before))
        self._tried = sid
        answer = self._store.rotate(old, sid.key, draft, self._rules, terms)
        if isinstance(answer, Taken):
            self._follows = False
            return None
        if not isinstance(answer, Live):
            return self._not_done(stored, answer)
        tier = self._change.who.tier
        if force:
            self._note(SessionEnded(old, LOGOUT, self._tier(record)))
            self._note(SessionCreated(sid.key, tier))
        else:
            self._note(SessionRotated(sid.key, old, tier))
        if restart and self._change.who.user is not None:
            self._end_replaced()
        return self._done(answer, sid)

    def _end(self, stored: Stored) -> Saved | None:
        """``clear()``, ``invalidate()`` or the loss of the user: over, whatever is in flight."""
        change = self._change
        if stored.stand_in and self._session._cleared and change.loaded.rotated:
            self._end_elsewhere()
        goes_on = change.delivery.deliverable and not is_empty(change.data)
        if goes_on and not (stored.stand_in and change.who.user is None):
            restart = self._session._cleared or change.who.user is not None
            try:
                return self._rotate(stored, restart=restart, force=True)
            except (StoreUnavailable, StoreFull, SessionTooLarge, TooManySessions, TypeError):
                # What is left in it cannot be stored; the logout holds all the same.
                with suppress(StoreUnavailable):
                    self._store.end(stored.key, new_stamp(), LOGOUT, None)
                raise
        answer = self._store.end(stored.key, new_stamp(), LOGOUT, None)
        if isinstance(answer, Live):
            self._note(SessionEnded(answer.key, LOGOUT, self._tier(answer.record)))
        elif isinstance(answer, Gone) and answer.repeated:
            self._note(SessionEnded(stored.key, LOGOUT, self._tier(stored.record)))
        elif isinstance(answer, Gone):
            self._note_end(stored.key, answer)
            return self._forgotten("keep")
        return self._after_end(stored)

    def _after_end(self, stored: Stored) -> Saved | None:
        if not self._change.delivery.deliverable:
            if self._change.who.user is not None:
                raise UndeliverableSignIn
            return self._forgotten("keep")
        if not stored.stand_in:
            return self._forgotten("delete")
        if is_empty(self._change.data) or self._change.loaded.dead is None:
            return self._forgotten("keep")
        self._change.stored = None
        self._change.next_stand_in()
        return self._stand_in(self._change.loaded.dead)

    def _end_elsewhere(self) -> bool:
        """A logout with an ID that was rotated away: the session goes on, and is over now."""
        if (dead := self._change.loaded.dead) is None:
            return False
        answer = self._store.end(dead.key, new_stamp(), LOGOUT, None)
        if isinstance(answer, Live):
            self._note(SessionEnded(answer.key, LOGOUT, self._tier(answer.record)))
        return isinstance(answer, Live) and is_empty(self._change.data)

    def _end_replaced(self) -> None:
        """Who has a replaced secret of a live session has signed in: the session was stolen."""
        if (suspect := self._change.loaded.suspect) is not None:
            for event in end_stolen(self._store, self._settings, suspect.stored.key):
                self._note(event)

    def _empty(self, stored: Stored) -> Saved | None:
        """Nothing is left in it: it stays for a while, so that concurrent changes merge with it.

        A page that showed the last flash ended nothing, so the cookie stays. An app that removed
        its own last key meant it, as with Flask's own sessions.
        """
        if stored.note.deleted:
            return NOTHING  # emptied already: only what is written into it sets its cookie again
        before = decode(stored.record.payload)
        before.pop(FLASHES, None)
        return self._commit(stored, ends_soon=not is_empty(before) and self._change.may_set(stored))

    def _not_delivered(self) -> Saved:
        """A visitor without a session wrote where no response can deliver a cookie."""
        if self._change.is_sign_in():
            raise UndeliverableSignIn
        if not self._session._is_restored():
            self._change.delivery.say(
                "undeliverable",
                "a WebSocket or Socket.IO handler, or a save by hand, wrote to the session of a"
                " visitor who has none yet, which is not stored: no response can deliver its"
                " cookie. Use the session in an HTTP request before",
            )
        return NOTHING

    # -- what came of it ------------------------------------------------------------------------

    def _not_done(self, stored: Stored, answer: Conflict | Gone) -> Saved | None:
        if isinstance(answer, Conflict):
            self._conflicts += 1
            try:
                self._change.go_on_from(
                    stored.record.payload,
                    stored.key,
                    answer.record,
                    sid=stored.sid,
                    stand_in=stored.stand_in,
                )
            except ValueError:
                return self._not_done(stored, Gone(CORRUPT, tier=answer.record.tier))
            return None
        if self._tried is not None and answer.successor == self._tried.key:
            # This request's own rotation was done; its reply was lost.
            found = self._store.load(answer.successor, self._rules, slide=False)
            if isinstance(found, Live):
                return self._done(found, self._tried)
        # Within a minute a repeated sign-in is none, but here it has no session any more.
        signs_in = self._change.is_sign_in() or self._session._signed_in
        joins = answer.user == self._change.who.user_tag and (answer.reason == ROTATED or signs_in)
        if answer.successor and joins and self._join(stored, answer):
            return None
        self._note_end(stored.key, answer)
        if signs_in:
            # Only what this request itself changed: the rest ended with the session.
            if not self._session._cleared:
                self._change.keep_own(stored.record.payload)
            self._change.stored = None
            if not self._change.delivery.deliverable:
                raise UndeliverableSignIn
            return self._create() if not is_empty(self._change.data) else self._forgotten("keep")
        return self._lost(stored, answer.reason)

    def _join(self, stored: Stored, gone: Gone) -> bool:
        """Go on with the session under the new ID that another request gave it.

        The browser may drop that one's response: where both sign the same user in, as by a double
        click, this one sets the cookie, too.
        """
        answer = self._store.load(gone.successor, self._rules, slide=False)
        if isinstance(answer, Gone):
            goes_on = bool(answer.successor) and answer.user == gone.user
            return goes_on and time.monotonic() < self._until and self._join(stored, answer)
        signs_in = self._change.is_sign_in() or self._session._signed_in
        following = self._change.following_id() if signs_in else None
        base, created = stored.record.payload, stored.record.created
        return self._continue_in(gone.successor, answer.record, base, created, following)

    def _joins_onward(self) -> bool:
        """Whether a sign-in that found the browser's ID dead goes on where the same user just did.

        A second click whose session is first used when the first one is done. Only its own user's
        sign-in leads there, within a minute, and only to a session whose cookie it can set: the
        response with the new ID may have been lost.
        """
        key, user = self._change.loaded.onward
        looks, self._looks_onward = self._looks_onward, False
        if not (looks and user == self._change.who.user_tag and self._change.delivery.deliverable):
            return False
        following = self._change.following_id(of_stand_in=False)
        if following is None or following.key != key:
            return False
        answer, stored = self._store.load(key, self._rules, slide=False), self._change.stored
        if isinstance(answer, Gone) or answer.now - answer.record.created >= MINUTE:
            return False
        base = b"" if stored is None else stored.record.payload
        return self._continue_in(key, answer.record, base, 0, following)

    def _continue_in(
        self, key: str, record: Record, base: bytes, created: int, following: SessionID | None
    ) -> bool:
        """Put this request's changes to *base* on top of a session that another request gave an ID.

        :param created: when the session was made that this request had loaded.
        :param following: the ID that this response may give it.
        """
        session = self._session
        with suppress(ValueError):
            self._change.go_on_from(base, key, record)
            session._regenerated = session._cleared = False  # what was to end is over
            if record.created != created:  # by a sign-in, which counts as ours
                session._signed_in = session._confirmed = False
                session._assigned.clear()
            if following is not None and following.key == key:
                self._change.given = following if self._change.delivery.deliverable else None
            return True
        return False

    def _done(
        self,
        answer: Live,
        sid: SessionID | None,
        *,
        key: str = "",
        cookie: Cookie = "set",
        stand_in: bool = False,
        secret: Secret | None = Secret.CURRENT,
    ) -> Saved:
        for gone in answer.removed:
            self._note(SessionEnded(gone.key, gone.reason, self._rules.policy.name_of(gone.tier)))
        if key == "" and sid is not None:
            key = sid.key
        if self._conflicts:
            self._note(SessionMerged(key, self._conflicts))
        change, note = self._change, notes.loads(answer.record.note)
        stored = Stored(key, answer.record, note, change.who, sid, stand_in, secret)
        stale = change.loaded.stale and cookie == "keep"
        self._session._rebase(
            change.loaded._replace(
                data=change.data, stored=stored, now=answer.now, total=answer.total, stale=stale
            )
        )
        if stale and change.delivery.later:
            self._session._forced = True  # the response commits once more, and sets the cookie
        return Saved(cookie, sid)

    def _forgotten(self, cookie: Cookie) -> Saved:
        self._session._rebase(Loaded({}, dead=self._change.loaded.dead))
        return Saved(cookie)

    def _lost(self, stored: Stored, reason: str) -> Saved:
        self._note(SessionLost(stored.key, reason))
        self._session._rebase(Loaded({}, dead=stored.sid))
        return Saved()

    def _note_end(self, key: str, answer: Gone) -> None:
        """The store found the session due: that is its end, noticed by this request."""
        for event in ends(key, answer, self._settings):
            self._note(event)

    def _tier(self, record: Record) -> str:
        return self._rules.policy.name_of(record.tier)

    def _note(self, event: Event) -> None:
        self._session._note(event)


def end_stolen(store: Store, settings: Settings, key: str) -> Iterator[Event]:
    """End a session of which a replaced secret came back twice; what is to be reported.

    Where the store does not answer, nobody is reported.
    """
    with suppress(StoreUnavailable):
        answer = store.end(key, new_stamp(), REPLAYED, None)
        if isinstance(answer, Live):
            tier = settings.rules.policy.name_of(answer.record.tier)
            yield SessionReplayed(answer.key or key, tier)
            yield SessionEnded(answer.key or key, REPLAYED, tier)
