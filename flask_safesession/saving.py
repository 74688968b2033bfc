"""What a request did to its session, carried over to the store: one call, more only on a conflict.

Nothing here knows of cookies or responses. What can go wrong, and what then happens:

- *Two requests change one session.* The second commit is refused with the stored bytes; both
  changes are merged key by key, and tried again until the store's time-out.
- *The session ended meanwhile.* Nothing is written and an event says so. A login is the exception:
  what this request itself changed becomes a new session, so that neither a flood nor a double click
  can block logins. A session that was deleted only because it had become empty did not end on
  purpose: changes made meanwhile become a new session, too.
- *A reply is lost.* Stores recognise a repeated call by its stamp.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from .codec import RENEWED_AT, UndecodableError, decode, encode, plain
from .errors import SessionTooLarge, StoreFull, StoreUnavailable, TooManySessions
from .events import (
    Event,
    SessionCreated,
    SessionEnded,
    SessionLost,
    SessionMerged,
    SessionRejected,
    SessionReplayed,
    SessionRotated,
)
from .record import Draft, Record
from .session import Buried, Loaded, Session, Stored, is_empty, is_permanent, merge, own_changes
from .settings import Settings
from .stores.base import (
    CORRUPT,
    EMPTIED,
    RENEWED,
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
from .tokens import NO_USER, SessionID, new_id, new_stamp, tier_tag, user_tag

_REFUSALS: dict[type[Exception], str] = {
    StoreFull: "full",
    SessionTooLarge: "too-large",
    TooManySessions: "user-full",
}

Cookie = Literal["keep", "set", "delete"]

# Parts of a store that a stranger may be refused in.
_PARTS_TRIED = 3
# IDs drawn for that at most: chance may choose the same parts again and again.
_DRAWN = 30


class Saved(NamedTuple):
    """What became of the session.

    :param cookie: what the browser's cookie needs.
    :param sid: the ID that it is to hold.
    :param fresh: the ID is a new one.
    """

    cookie: Cookie = "keep"
    sid: SessionID | None = None
    fresh: bool = False


#: Nothing was to be done.
NOTHING = Saved()


class Identity(NamedTuple):
    """Who a session belongs to, as its data says.

    :param user: the value of the first user key that has one.
    :param tier: the name of its tier.
    :param user_tag: what stands for the user in the store.
    """

    user: Any
    tier: str
    user_tag: str


def identify(data: dict[Any, Any], settings: Settings) -> Identity:
    """The user (the first user key with a value) and the tier of a session with *data*."""
    user = next((data[key] for key in settings.user_keys if data.get(key) is not None), None)
    value = data.get(settings.tier_key)
    tier = settings.rules.policy.tier_of(value, has_user=user is not None)
    return Identity(user, tier, NO_USER if user is None else user_tag(plain(user)))


def ends(sid: SessionID, answer: Gone, settings: Settings) -> Iterator[Event]:
    """What is to be told of a session that a request found at its end."""
    tier = settings.rules.policy.name_of(answer.tier)
    if answer.was_due:
        yield SessionEnded(sid.key, answer.reason, tier)
    elif answer.buried and answer.key:
        yield SessionReplayed(answer.key, sid.key, tier)
        yield SessionEnded(answer.key, REPLAYED, tier)


def save(session: Session, store: Store, settings: Settings) -> Saved:
    """Store what changed, if anything did, and say what the cookie needs.

    :raises StoreUnavailable: the store did not answer, or conflicts went on until its time-out.
    :raises StoreFull: no room.
    :raises SessionTooLarge: over ``SAFESESSION_MAX_SESSION_SIZE``.
    :raises TypeError: something in it cannot be stored.
    """
    stored, data = session._loaded.stored, session._data
    marked = session._forced or session._renewed or session._signed_in or session._cleared
    payload = b""
    if stored is None:
        if not data and not (session._cleared and session._loaded.buried):
            return NOTHING
    elif not session._cleared:
        if data is not None and _is_to_be_renewed(session._loaded, settings):
            session._renewing = True
            data[RENEWED_AT] = _now(session._loaded)
        payload = encode(data or {}, stored.record.payload)
        if payload == stored.record.payload and not marked:
            return NOTHING
    return _Save(session, store, settings).run(payload)


def _now(loaded: Loaded) -> int:
    """The store's clock, as far as it was told: behind it by the touch interval at the most."""
    return max(loaded.now, loaded.stored.record.last_active if loaded.stored else 0)


def _is_to_be_renewed(loaded: Loaded, settings: Settings) -> bool:
    """Whether the ID has been in use for ``SAFESESSION_RENEW_INTERVAL``."""
    stored, interval = loaded.stored, settings.renew_interval
    if interval is None or stored is None or stored.sid.moved or not loaded.slide:
        return False
    renewed = loaded.data.get(RENEWED_AT)
    since = max(stored.record.created, renewed if isinstance(renewed, int) else 0)
    return _now(loaded) - since >= interval


class _Save:
    """One save: the request's data, what it was loaded as, and the attempts to store it."""

    def __init__(self, session: Session, store: Store, settings: Settings) -> None:
        loaded, data = session._loaded, session._data
        self._session = session
        self._store = store
        self._settings = settings
        self._rules: Rules = settings.rules
        self._loaded = loaded
        self._stored = loaded.stored
        self._data: dict[Any, Any] = {} if data is None else data
        self._identity: Identity | None = None
        self._conflicts = 0
        self._until = time.monotonic() + settings.store_timeout

    def run(self, payload: bytes) -> Saved:
        while True:
            try:
                saved = self._attempt(payload)
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
            payload = encode(self._data, self._stored.record.payload if self._stored else None)

    # -- deciding -------------------------------------------------------------------------------

    def _attempt(self, payload: bytes) -> Saved | None:
        """One try; ``None``: something changed meanwhile, so try again."""
        session, stored = self._session, self._stored
        if stored is None:
            return self._start()
        record, who = stored.record, self._who()
        if session._cleared or (record.user != NO_USER and who.user is None):
            return self._end(stored)
        if is_empty(self._data):
            return self._delete(stored)
        moved = who.user_tag != record.user or tier_tag(who.tier) != record.tier
        if moved or session._renewed or session._signed_in:
            return self._rotate(stored, payload)
        if session._renewing and not stored.sid.moved:
            return self._renew(stored, payload)
        return self._commit(stored, payload)

    def _start(self) -> Saved | None:
        buried = self._loaded.buried
        if buried is not None and self._session._cleared and self._end_elsewhere(buried):
            return self._forgotten("delete")
        if is_empty(self._data):
            return NOTHING
        if buried is not None and not self._is_login():
            return self._lost(buried)
        return self._create()

    def _end_elsewhere(self, buried: Buried) -> bool:
        """A logout with an ID that was rotated away: the session goes on, and is over now."""
        if buried.reason not in (ROTATED, RENEWED):
            return False
        answer = self._store.end(buried.handle, new_stamp(), "logout", None)
        if isinstance(answer, Live):
            self._note(SessionEnded(answer.key, "logout", self._tier(answer.record)))
        return isinstance(answer, Live) and is_empty(self._data)

    def _is_login(self) -> bool:
        return self._session._signed_in and self._who().user is not None

    def _own(self, base: bytes) -> dict[Any, Any]:
        """What this request itself changed; of a login all that it assigned, the same too."""
        assigned = self._session._assigned if self._session._signed_in else ()
        again = {key: self._data[key] for key in assigned if key in self._data}
        return own_changes(base, self._data) | again

    # -- doing ----------------------------------------------------------------------------------

    def _create(self) -> Saved | None:
        who, draft = self._who(), self._draft(encode(self._data))
        for left, sid in self._fresh_ids(who):
            try:
                answer = self._store.create(sid.key, draft, self._rules)
            except StoreFull:
                if left:
                    continue
                raise
            if isinstance(answer, Taken):
                return None
            self._note(SessionCreated(sid.key, who.tier))
            return self._done(answer, sid, fresh=True)
        return None

    def _fresh_ids(self, who: Identity) -> Iterator[tuple[int, SessionID]]:
        """New IDs to be tried, and how many are left after each.

        A user's are all in one part of the store; a stranger who is refused in one tries two more.
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

    def _commit(self, stored: Stored, payload: bytes) -> Saved | None:
        sid, expected = stored.sid, stored.record.stamps[0]
        answer = self._store.commit(
            sid.key, self._draft(payload), expected, slide=self._loaded.slide
        )
        if not isinstance(answer, Live):
            return self._not_done(stored, answer)
        sign = self._loaded.stale or is_permanent(self._data) != self._loaded.permanent
        return self._done(answer, sid, cookie="set" if sign and not sid.moved else "keep")

    def _rotate(
        self, stored: Stored, payload: bytes, *, force: bool = False, grace: int = 0
    ) -> Saved | None:
        """Go on under a new ID: a login, a change of tier, a wish; with *force* the end of one.

        With *grace* the old one stays good for so many milliseconds.
        """
        old, record = stored
        # A user's sessions are all in one shard; a stranger's stays in the one where it is.
        sid = new_id(self._who().user_tag[:1] or old.key[:1])
        expected, reason = (None, "logout") if force else (record.stamps[0], ROTATED)
        restart = self._is_login() or self._session._cleared
        reason = RENEWED if grace else reason
        terms = Terms(expected, restart, reason, slide=self._loaded.slide, grace=grace)
        answer = self._store.rotate(old.key, sid.key, self._draft(payload), self._rules, terms)
        if isinstance(answer, Taken):
            return None
        if not isinstance(answer, Live):
            return self._not_done(stored, answer)
        tier = self._who().tier
        if force:
            self._note(SessionEnded(old.key, "logout", self._tier(record)))
            self._note(SessionCreated(sid.key, tier))
        else:
            self._note(SessionRotated(sid.key, old.key, tier))
        return self._done(answer, sid, fresh=True)

    def _renew(self, stored: Stored, payload: bytes) -> Saved | None:
        """Go on under a new ID for its own sake: what is in the way of that is no failure."""
        grace, session, before = self._settings.renew_grace, self._session, stored.record.payload
        try:
            return self._rotate(stored, payload, grace=grace)
        except (StoreFull, StoreUnavailable, SessionTooLarge, TooManySessions):
            session._renewing = False
            self._data.pop(RENEWED_AT, None)
            if renewed := decode(before).get(RENEWED_AT):
                self._data[RENEWED_AT] = renewed
            payload = encode(self._data, before)
            if payload == before and not session._forced:
                return NOTHING
            return self._commit(stored, payload)

    def _end(self, stored: Stored) -> Saved | None:
        """``clear()``, ``invalidate()`` or the loss of the user: over, whatever is in flight."""
        key = stored.sid.key
        if not is_empty(self._data):
            try:
                return self._rotate(stored, encode(self._data), force=True)
            except (StoreUnavailable, StoreFull, SessionTooLarge, TooManySessions, TypeError):
                # What is left in it cannot be stored; the logout holds all the same.
                with suppress(StoreUnavailable):
                    self._store.end(key, new_stamp(), "logout", None)
                raise
        answer = self._store.end(key, new_stamp(), "logout", None)
        if isinstance(answer, Live):
            self._note(SessionEnded(answer.key, "logout", self._tier(answer.record)))
        elif isinstance(answer, Gone) and not answer.repeated:
            self._note_end(stored, answer)
            return self._forgotten("keep")
        return self._forgotten("delete")

    def _delete(self, stored: Stored) -> Saved | None:
        """Nothing is left in it. Unlike a logout, this gives way to a change made meanwhile."""
        sid, record = stored
        answer = self._store.end(sid.key, new_stamp(), EMPTIED, record.stamps[0])
        if isinstance(answer, Conflict) or (isinstance(answer, Gone) and answer.successor):
            return self._not_done(stored, answer)
        if isinstance(answer, Gone) and not answer.repeated:
            self._note_end(stored, answer)
            return self._forgotten("keep")
        # A page that showed the last flash ended nothing: the cookie stays, for a sibling request
        # may be about to store under a new one. An app that took out its last key meant it.
        before = decode(record.payload)
        before.pop("_flashes", None)
        return self._forgotten("keep" if is_empty(before) else "delete")

    def _draft(self, payload: bytes) -> Draft:
        who = self._who()
        if len(payload) > self._settings.max_size:
            raise SessionTooLarge(len(payload), self._settings.max_size)
        limits = self._rules.policy.limits(who.tier)
        tag = tier_tag(who.tier)
        return Draft(new_stamp(), limits.idle, limits.lifetime, tag, who.user_tag, payload)

    # -- what came of it ------------------------------------------------------------------------

    def _not_done(self, stored: Stored, answer: Conflict | Gone) -> Saved | None:
        if isinstance(answer, Gone) and answer.successor:
            # The ID was renewed since this request began: it goes on under the new one. Its next
            # try is refused with what is there, since it still expects what it has loaded.
            self._stored = Stored(stored.sid.at(answer.successor), stored.record)
            return None
        if not isinstance(answer, Gone):
            try:
                self._become(merge(stored.record.payload, self._data, answer.record.payload))
            except UndecodableError:
                return self._not_done(stored, Gone(CORRUPT, tier=answer.record.tier))
            self._stored = Stored(stored.sid, answer.record)
            self._conflicts += 1
            return None
        self._note_end(stored, answer)
        if self._is_login() or answer.reason == EMPTIED:
            # Only what this request itself changed: the rest ended with the session.
            if not self._session._cleared:
                self._become(self._own(stored.record.payload))
            self._stored = None
            return self._create() if not is_empty(self._data) else self._forgotten("keep")
        return self._lost(Buried(stored.sid.key, answer.reason))

    def _done(
        self, answer: Live, sid: SessionID, *, cookie: Cookie = "set", fresh: bool = False
    ) -> Saved:
        for gone in answer.removed:
            self._note(SessionEnded(gone.key, gone.reason, self._rules.policy.name_of(gone.tier)))
        if self._conflicts:
            self._note(SessionMerged(sid.key, self._conflicts))
        permanent = is_permanent(self._data)
        self._session._rebase(
            Loaded(
                self._data,
                Stored(sid, answer.record),
                slide=self._loaded.slide,
                permanent=permanent,
                now=answer.now,
                total=answer.total,
            )
        )
        return Saved(cookie, sid, fresh)

    def _forgotten(self, cookie: Cookie) -> Saved:
        self._session._rebase(Loaded({}))
        return Saved(cookie)

    def _lost(self, buried: Buried) -> Saved:
        self._note(SessionLost(buried.handle, buried.reason))
        self._session._rebase(Loaded({}, buried=buried))
        return Saved()

    def _note_end(self, stored: Stored, answer: Gone) -> None:
        """The store found the session due: that is its end, noticed by this request."""
        for event in ends(stored.sid, answer, self._settings):
            self._note(event)

    def _who(self) -> Identity:
        if self._identity is None:
            self._identity = identify(self._data, self._settings)
        return self._identity

    def _become(self, data: dict[Any, Any]) -> None:
        """Go on with other data than the request left: merged, or its own part."""
        self._data, self._identity = data, None

    def _tier(self, record: Record) -> str:
        return self._rules.policy.name_of(record.tier)

    def _note(self, event: Event) -> None:
        self._session._note(event)
