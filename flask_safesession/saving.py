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
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from . import note as notes
from .codec import decode, encode
from .errors import (
    SessionTooLarge,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    UndeliverableSignIn,
)
from .events import (
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
from .identity import FRESH, Identity, identify
from .note import Note, Secret
from .record import Draft, Record
from .session import (
    FLASHES,
    Loaded,
    Session,
    Stored,
    is_empty,
    is_permanent,
    merge,
    own_changes,
)
from .settings import Settings
from .stores.base import (
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
from .tokens import NO_USER, SessionID, new_id, new_stamp, tier_tag

_REFUSALS: dict[type[Exception], str] = {
    StoreFull: "full",
    SessionTooLarge: "too-large",
    TooManySessions: "user-full",
}

Cookie = Literal["keep", "set", "delete"]

#: Stand-ins of one ID that are tried: each has to have ended within a minute for the next.
MAX_STAND_INS = 5
# Milliseconds after which a stand-in gets an ID of its own, a sign-in may be repeated, and a
# session that only became empty expires.
_MINUTE = 60_000
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


class Delivery(NamedTuple):
    """What the response to a request can do.

    :param deliverable: it can deliver a cookie.
    :param later: it cannot yet, since this is a save by hand inside a view: what needs a cookie, or
        ends the session, is left to the save that Flask makes.
    :param client: from where the request comes, if that is to be noted: address and browser.
    :param say: logs a message once: its level, its name, and the text.
    """

    deliverable: bool
    later: bool = False
    client: tuple[str, str] | None = None
    say: Callable[[str, str], None] = lambda *_: None


def whose(data: dict[Any, Any], settings: Settings) -> Identity:
    """Returns the user and the tier of a session with *data*."""
    return identify(data, settings.user_key, settings.tier_key, settings.rules.policy)


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
    return _Save(session, store, settings, delivery).run()


class _Save:
    """One save: the request's data, what it was loaded as, and the attempts to store it."""

    def __init__(
        self, session: Session, store: Store, settings: Settings, delivery: Delivery
    ) -> None:
        loaded, data = session._loaded, session._data
        self._session = session
        self._store = store
        self._settings = settings
        self._delivery = delivery
        self._rules: Rules = settings.rules
        self._loaded = loaded
        self._stored = loaded.stored
        self._data: dict[Any, Any] = {} if data is None else data
        self._identity: Identity | None = None
        self._conflicts = 0
        self._until = time.monotonic() + settings.store_timeout

    def run(self) -> Saved:
        while True:
            try:
                saved = self._attempt()
            except tuple(_REFUSALS) as error:
                who = self._who()
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
        stored = self._stored
        self._check_user()
        if self._delivery.later and (stored is None or not self._is_only_changed(stored)):
            return NOTHING
        if stored is None:
            return self._start()
        if self._is_ended(stored):
            return self._end(stored)
        if self._is_sign_in():
            return self._rotate(stored, restart=True)
        return self._change(stored)

    def _change(self, stored: Stored) -> Saved | None:
        if self._needs_new_id(stored):
            return self._go_on_under_new_id(stored)
        return self._empty(stored) if is_empty(self._data) else self._commit(stored)

    def _is_ended(self, stored: Stored) -> bool:
        lost = stored.who.user is not None and self._who().user is None
        return self._session._cleared or lost

    def _is_only_changed(self, stored: Stored) -> bool:
        return not (self._is_ended(stored) or self._is_sign_in() or self._needs_new_id(stored))

    def _check_user(self) -> None:
        """Refuse a user that this request assigned and that cannot be one."""
        refused = self._who().refused
        if refused and (self._stored is None or refused != self._stored.who.refused):
            raise TypeError(refused)

    def _start(self) -> Saved | None:
        if self._session._cleared and self._loaded.rotated and self._end_elsewhere():
            return self._forgotten("delete")
        if is_empty(self._data):
            return NOTHING
        if not self._delivery.deliverable:
            return self._not_delivered()
        dead = self._loaded.dead
        if dead is None or self._who().user is not None:
            return self._create()
        return self._stand_in(dead)

    def _is_sign_in(self) -> bool:
        """Whether this request signs a user in. DESIGN: judged against what was loaded."""
        who, stored, session = self._who(), self._stored, self._session
        if who.user is None:
            return False
        if stored is None or session._cleared:
            return not session._is_restored()
        if session._is_confirmed():
            return True
        if who.user_tag != stored.who.user_tag:
            return not session._is_restored()
        return session._signed_in and not self._has_just_signed_in(stored)

    def _has_just_signed_in(self, stored: Stored) -> bool:
        recent = stored.record.user != NO_USER and self._age(stored.record) < _MINUTE
        if recent:
            self._delivery.say(
                "sign-in-again",
                "a view has assigned the same user again within a minute of the sign-in, which does"
                " not count as another one: call session.confirm_sign_in() when a user was asked"
                " for the password again, and assign the user only at sign-ins",
            )
        return recent

    def _needs_new_id(self, stored: Stored) -> bool:
        """Whether the session goes on under another ID, of the same age."""
        who = self._who()
        moved = (who.user_tag, who.tier) != (stored.who.user_tag, stored.who.tier)
        if moved or self._session._regenerated or stored.note.owes_id:
            return True
        is_due = stored.stand_in and self._age(stored.record) >= _MINUTE
        return is_due and self._delivery.deliverable

    def _go_on_under_new_id(self, stored: Stored) -> Saved | None:
        if self._delivery.deliverable and (stored.sid is not None or stored.stand_in):
            if self._session._regenerated or self._who() != stored.who:
                return self._rotate(stored)
            with suppress(StoreFull, StoreUnavailable, SessionTooLarge, TooManySessions):
                return self._rotate(stored)  # owed by an earlier response: not worth a failure
            return self._commit(stored)
        if self._session._is_restored() and self._who().user_tag != stored.who.user_tag:
            return self._without_user(stored)
        return self._commit(stored, owes_id=True)

    # -- doing ----------------------------------------------------------------------------------

    def _create(self) -> Saved | None:
        who, data = self._who(), encode(self._data)
        for left, sid in self._fresh_ids(who):
            try:
                draft = self._draft(data, self._note_of(sid))
                answer = self._store.create(sid.key, draft, self._rules)
            except StoreFull:
                if left:
                    continue
                raise
            if isinstance(answer, Taken):
                return None
            self._note(SessionCreated(sid.key, who.tier))
            if self._is_sign_in():
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
        number = self._loaded.stand_in
        if number >= MAX_STAND_INS:
            return self._create()
        key = dead.stand_in(number)
        answer = self._store.create(key, self._draft(encode(self._data), Note()), self._rules)
        if isinstance(answer, Taken):
            self._share_stand_in(key)
            return None
        self._note(SessionCreated(key, self._who().tier))
        return self._done(answer, None, key=key, cookie="keep", stand_in=True)

    def _share_stand_in(self, key: str) -> None:
        """Another request has made the stand-in: go on with both changes, or with the next one."""
        answer = self._store.load(key, self._rules, slide=self._loaded.slide)
        if isinstance(answer, Gone):
            if answer.buried:
                self._loaded = self._loaded._replace(stand_in=self._loaded.stand_in + 1)
            return
        try:
            self._go_on_from(b"", key, answer.record, stand_in=True)
        except ValueError:
            self._loaded = self._loaded._replace(stand_in=self._loaded.stand_in + 1)

    def _commit(
        self, stored: Stored, *, owes_id: bool = False, ends_soon: bool = False
    ) -> Saved | None:
        payload = encode(self._data, stored.record.payload)
        note, sid = self._next_note(stored, owes_id, ends_soon)
        session = self._session
        changes = payload != stored.record.payload or session._forced or session._regenerated
        if not changes and note == stored.note:
            return NOTHING
        draft = self._draft(payload, note, stored.record)
        if ends_soon:
            draft = draft._replace(idle=min(draft.idle, _MINUTE))
        try:
            answer = self._store.commit(
                stored.key, draft, stored.record.stamps[0], touch=self._touch()
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
        again = self._may_set(stored) and (
            self._loaded.stale or note.permanent != stored.note.permanent or stored.note.deleted
        )
        return self._done(
            answer,
            sid,
            key=stored.key,
            cookie="set" if fresh or again else "keep",
            stand_in=stored.stand_in,
            secret=Secret.OLDER if fresh else stored.secret,
        )

    def _next_note(
        self, stored: Stored, owes_id: bool, ends_soon: bool
    ) -> tuple[Note, SessionID | None]:
        """The note as this commit leaves it, and the ID that the browser will have."""
        note, sid = self._kept_note(stored)
        note = note._replace(owes_id=note.owes_id or owes_id)
        may_set = self._may_set(stored) and not ends_soon
        if may_set or sid is not stored.sid:
            note = note._replace(permanent=is_permanent(self._data))
        return (note._replace(deleted=ends_soon) if ends_soon or may_set else note), sid

    def _not_noted(self, stored: Stored, answer: Conflict | Gone) -> Saved:
        """Leave our own notes to the next request: nothing that the app stored is lost."""
        if isinstance(answer, Gone):
            self._note_end(stored.key, answer)
        return NOTHING

    def _kept_note(self, stored: Stored) -> tuple[Note, SessionID | None]:
        """The note as it is to be stored, and the ID with a new secret if one is due."""
        note, sid, age = stored.note, stored.sid, self._age(stored.record)
        note = note._replace(client=self._clients(note))
        if sid is None or stored.secret is None:
            return note, sid
        if stored.secret is Secret.CURRENT and not note.is_presented:
            return notes.presented(note), sid
        interval = self._settings.renew_interval
        is_over = interval is not None and age - note.since >= interval
        is_due = stored.secret is Secret.CURRENT and is_over
        if self._delivery.deliverable and (is_due or stored.secret is Secret.STRANDED):
            newer = sid.renewed()
            by = sid.secret_digest()
            return notes.renewed(note, by, newer.secret_digest(), age), newer
        return note, sid

    def _clients(self, note: Note) -> tuple[str, ...]:
        """From where the session was begun and is used, if that is to be noted."""
        present, who = self._delivery.client, self._who()
        if present is None:
            return note.client
        if who.user is None:
            return ()
        first = note.client[:2] if note.client and not self._is_sign_in() else present
        return (*first, *present)

    def _may_set(self, stored: Stored) -> bool:
        """Whether the browser's own ID may be set again: it is the newest."""
        return self._delivery.deliverable and stored.secret is Secret.CURRENT

    def _rotate(
        self, stored: Stored, *, restart: bool = False, force: bool = False
    ) -> Saved | None:
        """Go on under a new ID: a sign-in, a change of tier, a wish; with *force* an end."""
        if restart and not force and not self._delivery.deliverable:
            raise UndeliverableSignIn
        old, record = stored.key, stored.record
        # A user's sessions are all in one shard; an anonymous one stays in the one where it is.
        sid = new_id(self._who().user_tag[:1] or old[:1])
        expected, reason = (None, LOGOUT) if force else (record.stamps[0], ROTATED)
        terms = Terms(expected, restart, reason, slide=self._loaded.slide)
        payload = encode(self._data, record.payload)
        draft = self._draft(payload, self._note_of(sid, stored.note))
        answer = self._store.rotate(old, sid.key, draft, self._rules, terms)
        if isinstance(answer, Taken):
            return None
        if not isinstance(answer, Live):
            return self._not_done(stored, answer)
        tier = self._who().tier
        if force:
            self._note(SessionEnded(old, LOGOUT, self._tier(record)))
            self._note(SessionCreated(sid.key, tier))
        else:
            self._note(SessionRotated(sid.key, old, tier))
        if restart and self._who().user is not None:
            self._end_replaced()
        return self._done(answer, sid)

    def _end(self, stored: Stored) -> Saved | None:
        """``clear()``, ``invalidate()`` or the loss of the user: over, whatever is in flight."""
        if stored.stand_in and self._session._cleared and self._loaded.rotated:
            self._end_elsewhere()
        goes_on = self._delivery.deliverable and not is_empty(self._data)
        if goes_on and not (stored.stand_in and self._who().user is None):
            restart = self._session._cleared or self._who().user is not None
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
        if not self._delivery.deliverable:
            if self._who().user is not None:
                raise UndeliverableSignIn
            return self._forgotten("keep")
        if not stored.stand_in:
            return self._forgotten("delete")
        if is_empty(self._data) or self._loaded.dead is None:
            return self._forgotten("keep")
        self._stored = None
        self._loaded = self._loaded._replace(stand_in=self._loaded.stand_in + 1)
        return self._stand_in(self._loaded.dead)  # type: ignore[arg-type]

    def _end_elsewhere(self) -> bool:
        """A logout with an ID that was rotated away: the session goes on, and is over now."""
        if (dead := self._loaded.dead) is None:
            return False
        answer = self._store.end(dead.key, new_stamp(), LOGOUT, None)
        if isinstance(answer, Live):
            self._note(SessionEnded(answer.key, LOGOUT, self._tier(answer.record)))
        return isinstance(answer, Live) and is_empty(self._data)

    def _end_replaced(self) -> None:
        """Who has a replaced secret of a live session has signed in: the session was stolen."""
        if key := self._loaded.replaced:
            for event in end_stolen(self._store, self._settings, key):
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
        return self._commit(stored, ends_soon=not is_empty(before) and self._may_set(stored))

    def _without_user(self, stored: Stored) -> Saved | None:
        """Drop what a remember-me cookie has restored: no response can deliver the new ID."""
        names = (*self._settings.user_key.names, FRESH, "_id")
        before = decode(stored.record.payload)
        kept = {k: v for k, v in self._data.items() if k not in names}
        self._become(kept | {k: before[k] for k in names if k in before})
        return None

    def _not_delivered(self) -> Saved:
        """A visitor without a session wrote where no response can deliver a cookie."""
        if self._is_sign_in():
            raise UndeliverableSignIn
        if not self._session._is_restored():
            self._delivery.say(
                "undeliverable",
                "a WebSocket or Socket.IO handler, or a save by hand, wrote to the session of a"
                " visitor who has none yet, which is not stored: no response can deliver its"
                " cookie. Use the session in an HTTP request before",
            )
        return NOTHING

    def _draft(self, payload: bytes, note: Note, filed: Record | None = None) -> Draft:
        """What is to be written; *filed* is the record whose tier and user stay."""
        who = self._who()
        is_stored = filed is not None and payload == filed.payload
        if len(payload) > self._settings.max_size and not is_stored:
            raise SessionTooLarge(len(payload), self._settings.max_size)
        limits = self._rules.policy.limits(who.tier)
        tier, user = (
            (tier_tag(who.tier), who.user_tag) if filed is None else (filed.tier, filed.user)
        )
        return Draft(
            new_stamp(), limits.idle, limits.lifetime, tier, user, payload, notes.dumps(note)
        )

    def _note_of(self, sid: SessionID, before: Note = Note()) -> Note:  # noqa: B008  # immutable
        """The note of a session that goes on, or begins, under *sid*."""
        note = notes.first_note(sid.secret_digest(), permanent=is_permanent(self._data))
        return note._replace(client=self._clients(before))

    def _touch(self) -> int | None:
        if not self._loaded.slide:
            return None
        return self._rules.policy.limits(self._who().tier).touch

    # -- what came of it ------------------------------------------------------------------------

    def _not_done(self, stored: Stored, answer: Conflict | Gone) -> Saved | None:
        if isinstance(answer, Conflict):
            self._conflicts += 1
            try:
                self._go_on_from(
                    stored.record.payload,
                    stored.key,
                    answer.record,
                    sid=stored.sid,
                    stand_in=stored.stand_in,
                )
            except ValueError:
                return self._not_done(stored, Gone(CORRUPT, tier=answer.record.tier))
            return None
        if answer.successor and answer.user == self._who().user_tag and self._join(stored, answer):
            return None
        self._note_end(stored.key, answer)
        if self._is_sign_in():
            # Only what this request itself changed: the rest ended with the session.
            if not self._session._cleared:
                self._become(self._own(stored.record.payload))
            self._stored = None
            if not self._delivery.deliverable:
                raise UndeliverableSignIn
            return self._create() if not is_empty(self._data) else self._forgotten("keep")
        return self._lost(stored, answer.reason)

    def _join(self, stored: Stored, gone: Gone) -> bool:
        """Go on with the session under its new ID, whose cookie only another response has."""
        answer = self._store.load(gone.successor, self._rules, slide=False)
        if isinstance(answer, Gone):
            return False
        with suppress(ValueError):
            self._go_on_from(stored.record.payload, gone.successor, answer.record)
            session = self._session
            session._signed_in = session._confirmed = session._regenerated = False
            session._assigned.clear()
            return True
        return False

    def _go_on_from(
        self,
        base: bytes,
        key: str,
        record: Record,
        *,
        sid: SessionID | None = None,
        stand_in: bool = False,
    ) -> None:
        """Put this request's changes to *base* on top of *record*, which is stored now.

        :raises ValueError: the record cannot be read.
        """
        note, who = notes.loads(record.note), whose(decode(record.payload), self._settings)
        self._become(merge(base, self._data, record.payload))
        secret = None
        if sid is not None:
            grace = self._settings.renew_grace
            secret = notes.judge(note, sid.secret_digest(), self._age(record), grace)
        self._stored = Stored(key, record, note, who, sid, stand_in, secret)

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
        stored = Stored(
            key, answer.record, notes.loads(answer.record.note), self._who(), sid, stand_in, secret
        )
        self._session._rebase(
            self._loaded._replace(
                data=self._data, stored=stored, now=answer.now, total=answer.total, stale=False
            )
        )
        return Saved(cookie, sid)

    def _forgotten(self, cookie: Cookie) -> Saved:
        self._session._rebase(Loaded({}, dead=self._loaded.dead))
        return Saved(cookie)

    def _lost(self, stored: Stored, reason: str) -> Saved:
        self._note(SessionLost(stored.key, reason))
        self._session._rebase(Loaded({}, dead=stored.sid))
        return Saved()

    def _own(self, base: bytes) -> dict[Any, Any]:
        """What this request itself changed; of a sign-in all that it assigned, the same too."""
        again = {key: self._data[key] for key in self._session._assigned if key in self._data}
        return own_changes(base, self._data) | again

    def _note_end(self, key: str, answer: Gone) -> None:
        """The store found the session due: that is its end, noticed by this request."""
        for event in ends(key, answer, self._settings):
            self._note(event)

    def _who(self) -> Identity:
        if self._identity is None:
            self._identity = whose(self._data, self._settings)
        return self._identity

    def _age(self, record: Record) -> int:
        """Milliseconds from the creation of *record* to when the session was loaded."""
        return self._loaded.now - record.created

    def _become(self, data: dict[Any, Any]) -> None:
        """Go on with other data than the request left: merged, or its own part."""
        self._data, self._identity = data, None

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
