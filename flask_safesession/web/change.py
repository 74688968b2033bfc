"""What a request made of its session, and what that means: a sign-in, an end, a change.

Nothing here asks a store. A sign-in is another user than was loaded; the same user assigned by the
view of an unsafe request, unless the last sign-in is under a minute old; a user after ``clear()``;
or a confirmed one. A remember-me cookie that brings a user back is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..errors import SessionTooLarge
from ..model import note as notes
from ..model.codec import decode
from ..model.identity import FRESH, Identity, identify
from ..model.note import Note, Secret
from ..model.record import Draft, Record
from ..model.tokens import NO_USER, SessionID, new_stamp, tier_tag
from .session import Loaded, Session, Stored, is_permanent, merge, own_changes

#: Milliseconds after which a stand-in gets an ID of its own, a sign-in may be repeated, and a
#: session that only became empty expires.
MINUTE = 60_000
# What Flask-Login keeps in a session.
_LOGIN_KEYS = ("_user_id", FRESH, "_id")


class Delivery(NamedTuple):
    """What the response to a request can do.

    :param deliverable: it can deliver a cookie.
    :param later: it cannot yet, since this is a save by hand inside a view: what needs a cookie, or
        ends the session, is left to the save that Flask makes.
    :param key: the app's secret key.
    :param client: from where the request comes, if that is to be noted: address and browser.
    :param endpoint: of the request, if it has one.
    :param say: logs a message once: its name, and the text.
    """

    deliverable: bool
    later: bool = False
    key: str | bytes = b""
    client: tuple[str, str] | None = None
    say: Callable[[str, str], None] = lambda *_: None
    endpoint: str | None = None


def whose(data: dict[Any, Any], settings: Settings) -> Identity:
    """Returns the user and the tier of a session with *data*."""
    return identify(data, settings.user_key, settings.tier_key, settings.rules.policy)


class Change:
    """What one request made of its session, and what is stored of it meanwhile."""

    def __init__(self, session: Session, settings: Settings, delivery: Delivery) -> None:
        self.session = session
        self.settings = settings
        self.delivery = delivery
        self.loaded: Loaded = session._loaded
        self.stored: Stored | None = session._loaded.stored
        self.data: dict[Any, Any] = {} if session._data is None else session._data
        #: The ID that this response is to give a session which another request has made.
        self.given: SessionID | None = None
        self._identity: Identity | None = None
        if session._is_confirmed() and self.data.get(FRESH) is False:
            self.data[FRESH] = True  # a remember-me cookie had brought the user back

    @property
    def who(self) -> Identity:
        """Whose the session is, as its data says now."""
        if self._identity is None:
            self._identity = whose(self.data, self.settings)
        return self._identity

    def age(self, record: Record) -> int:
        """Milliseconds from the creation of *record* to when the session was loaded."""
        return self.loaded.now - record.created

    def become(self, data: dict[Any, Any]) -> None:
        """Go on with other data than the request left: merged, or its own part."""
        self.data, self._identity = data, None

    def following_id(self, *, of_stand_in: bool = True) -> SessionID | None:
        """The ID of a sign-in from the browser's ID: all its requests find the same session.

        :param of_stand_in: go on from what stands in for the browser's ID, if anything does.
        """
        stored, loaded = self.stored, self.loaded
        before = stored.sid if stored is not None and stored.sid is not None else loaded.dead
        if before is None or not self.who.user_tag or not self.delivery.key:
            return None
        stands_in = of_stand_in and stored is not None and stored.stand_in
        number = loaded.stand_in + 1 if stands_in else 0
        return before.following(self.who.user_tag, number, self.delivery.key)

    def next_stand_in(self) -> None:
        """Leave a stand-in that has ended, too, to those that are over."""
        self.loaded = self.loaded._replace(stand_in=self.loaded.stand_in + 1)

    def keep_own(self, base: bytes) -> None:
        """Drop what this request did not change itself; of a sign-in nothing that it assigned."""
        again = {key: self.data[key] for key in self.session._assigned if key in self.data}
        self.become(own_changes(base, self.data) | again)

    def go_on_from(
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
        note, who = notes.loads(record.note), whose(decode(record.payload), self.settings)
        self.become(merge(base, self.data, record.payload))
        secret = None
        if sid is not None:
            grace = self.settings.renew_grace
            secret = notes.judge(note, sid.secret_digest(), self.age(record), grace)
        self.stored = Stored(key, record, note, who, sid, stand_in, secret)

    def drop_user(self, stored: Stored) -> None:
        """Drop what a remember-me cookie has restored: no response can deliver the new ID."""
        names = (*self.settings.user_key.names, *_LOGIN_KEYS)
        before = decode(stored.record.payload)
        kept = {k: v for k, v in self.data.items() if k not in names}
        self.become(kept | {k: before[k] for k in names if k in before})
        if self.who.user_tag != stored.who.user_tag:  # it is kept elsewhere, inside of something
            self.become(before)

    def is_ended(self, stored: Stored) -> bool:
        """Whether this request ends the session: it was cleared, or has lost its user."""
        lost = stored.who.user is not None and self.who.user is None
        return self.session._cleared or lost

    def is_only_changed(self, stored: Stored) -> bool:
        """Whether an ordinary commit is all that is to be done."""
        return not (self.is_ended(stored) or self.is_sign_in() or self.needs_new_id(stored))

    def needs_new_id(self, stored: Stored) -> bool:
        """Whether the session goes on under another ID, of the same age."""
        who = self.who
        if stored.stand_in and who.user is None:
            # Sooner, a late request's tier or wish would overwrite the cookie of a newer sign-in.
            return self.delivery.deliverable and self.age(stored.record) >= MINUTE
        moved = (who.user_tag, who.tier) != (stored.who.user_tag, stored.who.tier)
        return moved or self.session._regenerated or stored.note.owes_id

    def is_sign_in(self) -> bool:
        """Whether this request signs a user in, judged against what was loaded."""
        who, stored, session = self.who, self.stored, self.session
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
        recent = stored.record.user != NO_USER and self.age(stored.record) < MINUTE
        if recent and decode(stored.record.payload).get(FRESH) is False:
            return False  # a remember-me cookie has brought the user back, which was no sign-in
        if recent:
            self.delivery.say(
                "sign-in-again",
                "a view has assigned the same user again within a minute of the sign-in, which does"
                " not count as another one: call session.confirm_sign_in() when a user was asked"
                " for the password again, and assign the user only at sign-ins",
            )
        return recent

    def check_user(self) -> None:
        """Refuse a user that this request assigned and that cannot be one."""
        refused = self.who.refused
        if refused and (self.stored is None or refused != self.stored.who.refused):
            raise TypeError(refused)

    def may_set(self, stored: Stored) -> bool:
        """Whether the browser's own ID may be set again: it is the newest."""
        return self.delivery.deliverable and stored.secret is Secret.CURRENT

    def next_note(
        self, stored: Stored, owes_id: bool, ends_soon: bool
    ) -> tuple[Note, SessionID | None]:
        """The note as this commit leaves it, and the ID that the browser will have."""
        note, sid = self._kept_note(stored)
        note = note._replace(owes_id=note.owes_id or owes_id)
        may_set = self.may_set(stored) and not ends_soon
        if may_set or sid is not stored.sid:
            note = note._replace(permanent=is_permanent(self.data))
        return (note._replace(deleted=ends_soon) if ends_soon or may_set else note), sid

    def _kept_note(self, stored: Stored) -> tuple[Note, SessionID | None]:
        """The note as it is to be stored, and the ID with a new secret if one is due."""
        note, sid, age = stored.note, stored.sid, self.age(stored.record)
        note = note._replace(client=self._clients(note))
        if self.given is not None:
            digest = self.given.secret_digest()
            return notes.renewed(note, note.base, digest, max(0, age)), self.given
        if sid is None or stored.secret is None:
            return note, sid
        if stored.secret is Secret.CURRENT and not note.is_presented:
            return notes.presented(note), sid
        is_over = notes.is_due(note, age, self.settings.renew_interval)
        is_due = stored.secret is Secret.CURRENT and is_over
        if self.delivery.deliverable and (is_due or stored.secret is Secret.STRANDED):
            newer = sid.renewed()
            by = sid.secret_digest()
            return notes.renewed(note, by, newer.secret_digest(), age), newer
        return note, sid

    def _clients(self, note: Note) -> tuple[str, ...]:
        """From where the session was begun and is used, if that is to be noted."""
        present, who = self.delivery.client, self.who
        if present is None:
            return note.client
        if who.user is None:
            return ()
        first = note.client[:2] if note.client and not self.is_sign_in() else present
        return (*first, *present)

    def first_note(self, sid: SessionID | None, before: Note | None = None) -> Note:
        """Returns the note of a session under *sid*: a new one, or that of the note *before*.

        :param sid: the ID that its cookie will hold; ``None``: it has no cookie.
        """
        digest = b"" if sid is None else sid.secret_digest()
        permanent = sid is not None and is_permanent(self.data)
        endpoint = self.delivery.endpoint if before is None else before.endpoint
        note = notes.first_note(digest, permanent=permanent, endpoint=endpoint)
        return note._replace(client=self._clients(before or note))

    def draft(self, payload: bytes, note: Note, filed: Record | None = None) -> Draft:
        """What is to be written; *filed* is the record whose tier and user stay."""
        who = self.who
        is_stored = filed is not None and payload == filed.payload
        if len(payload) > self.settings.max_session_size and not is_stored:
            raise SessionTooLarge(len(payload), self.settings.max_session_size)
        limits = self.settings.rules.policy.limits(who.tier)
        tier, user = (
            (tier_tag(who.tier), who.user_tag) if filed is None else (filed.tier, filed.user)
        )
        return Draft(
            new_stamp(), limits.idle, limits.lifetime, tier, user, payload, notes.dumps(note)
        )

    def touch(self) -> int | None:
        """The touch interval in milliseconds; ``None`` for a passive view."""
        if not self.loaded.slide:
            return None
        return self.settings.rules.policy.limits(self.who.tier).touch
