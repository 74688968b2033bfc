"""Decides what a request did to its session: a sign-in, an end or a change.

Nothing here calls a store. A sign-in is a user other than the loaded one; the same user assigned by
the view of an unsafe request, unless the last sign-in is under a minute old; a user after
``clear()``; or a confirmed user. A user restored by a remember-me cookie is not a sign-in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..errors import SessionTooLarge
from ..model import note as notes
from ..model.codec import decode
from ..model.identity import FRESH, Identity, identify
from ..model.note import Note, Secret
from ..model.policy import DEFAULT_TIER, OwnLimits, spelled
from ..model.record import Draft, Record
from ..model.tokens import NO_USER, SessionID, new_stamp, tier_tag
from .data import is_permanent, merge, own_changes
from .state import Loaded, State, Stored

#: Milliseconds after which a stand-in gets an ID of its own, a sign-in may be repeated, and a
#: session that only became empty expires.
MINUTE = 60_000
# Flask-Login's keys in a session.
_LOGIN_KEYS = ("_user_id", FRESH, "_id")


class Delivery(NamedTuple):
    """What the response to a request can deliver.

    :param deliverable: the response can deliver a cookie.
    :param later: not yet, since a view saves by hand: Flask's own save later does what needs a
        cookie or ends the session.
    :param key: the app's secret key.
    :param client: the request's address and browser; ``None`` if they are not recorded.
    :param say: logs a message once; takes its name and its text.
    :param endpoint: the request's endpoint, if it has one.
    """

    deliverable: bool
    later: bool = False
    key: str | bytes = b""
    client: tuple[str, str] | None = None
    say: Callable[[str, str], None] = lambda *_: None
    endpoint: str | None = None


def whose(data: dict[Any, Any], settings: Settings) -> Identity:
    """Returns the user and tier that *data* names."""
    return identify(data, settings.user_key, settings.tier_key, settings.rules.policy)


class Change:
    """One request's changes to its session, and the results of earlier attempts to store them."""

    def __init__(self, state: State, settings: Settings, delivery: Delivery) -> None:
        self.state = state
        self.settings = settings
        self.delivery = delivery
        self.loaded: Loaded = state.loaded
        self.stored: Stored | None = state.loaded.stored
        self.data: dict[Any, Any] = {} if state.data is None else state.data
        #: The ID that this response sets for a session that another request created.
        self.given: SessionID | None = None
        #: The ID of the last attempted rotation, whose reply may be lost.
        self.tried: SessionID | None = None
        #: Whether the ID that follows the browser's may still be free.
        self.can_follow: bool = True
        #: Whether the session that replaced the browser's has not been tried yet.
        self.can_join: bool = True
        #: How often another request changed the session first.
        self.conflicts: int = 0
        self._until = time.monotonic() + settings.store_timeout
        self._identity: Identity | None = None
        if state.is_confirmed and self.data.get(FRESH) is False:
            self.data[FRESH] = True  # a remember-me cookie had restored the user

    @property
    def who(self) -> Identity:
        """The user and tier that the data names now."""
        if self._identity is None:
            self._identity = whose(self.data, self.settings)
        return self._identity

    @property
    def is_out_of_time(self) -> bool:
        """Whether all attempts together have taken the store's time-out."""
        return time.monotonic() > self._until

    def age(self, record: Record) -> int:
        """Returns the age of *record* when it was loaded, in milliseconds."""
        return self.loaded.now - record.created

    def become(self, data: dict[Any, Any]) -> None:
        """Continue with *data* in place of the request's own."""
        self.data, self._identity = data, None

    def following_id(self, *, of_stand_in: bool = True) -> SessionID | None:
        """Returns the ID that a sign-in derives from the browser's ID, the same in each request.

        :param of_stand_in: derive it from the stand-in of the browser's ID, if there is one.
        """
        stored, loaded = self.stored, self.loaded
        before = stored.sid if stored is not None and stored.sid is not None else loaded.dead
        if before is None or not self.who.user_tag or not self.delivery.key:
            return None
        stands_in = of_stand_in and stored is not None and stored.stand_in
        number = loaded.stand_in + 1 if stands_in else 0
        return before.following(self.who.user_tag, number, self.delivery.key)

    def next_stand_in(self) -> None:
        """Continue with the next stand-in: this one has ended, too."""
        self.loaded = self.loaded._replace(stand_in=self.loaded.stand_in + 1)

    def keep_own(self, base: bytes) -> None:
        """Keep only the keys that this request changed or assigned."""
        again = {key: self.data[key] for key in self.state.assigned if key in self.data}
        self.become(own_changes(base, self.data) | again)

    def continue_from(
        self, key: str, record: Record, *, sid: SessionID | None = None, stand_in: bool = False
    ) -> bool:
        """Merge this request's changes into *record*, which is now stored under *key*.

        Returns whether the record could be read; if not, nothing has changed.
        """
        before = b"" if self.stored is None else self.stored.record.payload
        try:
            note, theirs = notes.loads(record.note), decode(record.payload)
            self.become(merge(before, self.data, record.payload))
        except ValueError:
            return False
        who, secret = whose(theirs, self.settings), None
        if sid is not None:
            grace = self.settings.renew_grace
            secret = notes.judge(note, sid.secret_digest(), self.age(record), grace)
        self.stored = Stored(key, record, note, who, sid, stand_in, secret)
        return True

    def drop_user(self, stored: Stored) -> None:
        """Drop the user that a remember-me cookie restored: no response can deliver a new ID."""
        names = (*self.settings.user_key.names, *_LOGIN_KEYS)
        before = decode(stored.record.payload)
        kept = {k: v for k, v in self.data.items() if k not in names}
        self.become(kept | {k: before[k] for k in names if k in before})
        if self.who.user_tag != stored.who.user_tag:  # the user is in a nested value
            self.become(before)

    def is_ended(self, stored: Stored) -> bool:
        """Whether this request cleared the session or removed its user."""
        lost = stored.who.user is not None and self.who.user is None
        return self.state.cleared or lost

    def is_only_changed(self, stored: Stored) -> bool:
        """Whether an ordinary commit is enough."""
        return not (self.is_ended(stored) or self.is_sign_in() or self.needs_new_id(stored))

    def needs_new_id(self, stored: Stored) -> bool:
        """Whether the session needs a new ID, without a sign-in."""
        who = self.who
        if stored.stand_in and who.user is None:
            # Any sooner, a late request would overwrite the cookie of a newer sign-in.
            return self.delivery.deliverable and self.age(stored.record) >= MINUTE
        moved = (who.user_tag, who.tier) != (stored.who.user_tag, stored.who.tier)
        return moved or self.state.regenerated or stored.note.owes_id

    def is_sign_in(self) -> bool:
        """Whether this request signs a user in, judged against what was loaded."""
        who, stored, state = self.who, self.stored, self.state
        if who.user is None:
            return False
        if stored is None or state.cleared:
            return not state.is_restored
        if state.is_confirmed:
            return True
        if who.user_tag != stored.who.user_tag:
            return not state.is_restored
        return state.signed_in and not self._has_just_signed_in(stored)

    def assigns_user(self) -> bool:
        """Whether this request signs a user in, even if within a minute of the last sign-in.

        Used where the session was lost: then a repeated sign-in counts.
        """
        return self.is_sign_in() or (self.state.signed_in and self.who.user is not None)

    def _has_just_signed_in(self, stored: Stored) -> bool:
        recent = stored.record.user != NO_USER and self.age(stored.record) < MINUTE
        recent = recent and not stored.note.adopted  # its user signed in elsewhere
        if recent and decode(stored.record.payload).get(FRESH) is False:
            return False  # restored by a remember-me cookie: not a sign-in
        if recent:
            self.delivery.say(
                "sign-in-again",
                "a view assigned the same user again within a minute of the sign-in, which does not"
                " count as another sign-in: call session.confirm_sign_in() after asking a user for"
                " the password again, and assign the user only at sign-ins",
            )
        return recent

    def check_user(self) -> None:
        """Refuse a value that this request assigned as user and that cannot be one.

        :raises TypeError: with the fix.
        """
        refused = self.who.refused
        if refused and (self.stored is None or refused != self.stored.who.refused):
            raise TypeError(refused)

    def may_set(self, stored: Stored) -> bool:
        """Whether the browser's own ID is the newest, and the response can set it again."""
        return self.delivery.deliverable and stored.secret is Secret.CURRENT

    def next_note(
        self, stored: Stored, owes_id: bool, ends_soon: bool
    ) -> tuple[Note, SessionID | None]:
        """Returns the note to be stored, and the ID that the browser will have."""
        note, sid = self._kept_secrets(stored)
        own, permanent = self._own_limits(stored), note.permanent
        may_set = self.may_set(stored) and not ends_soon
        if may_set or sid is not stored.sid:
            permanent = is_permanent(self.data)
        elif own != note.own:
            # So that the next response that can set the cookie does, with the new maximum age.
            permanent = False
        note = note._replace(
            client=self._clients(note),
            owes_id=note.owes_id or owes_id,
            own=own,
            permanent=permanent,
            deleted=ends_soon or (note.deleted and not may_set),
        )
        return note, sid

    def _kept_secrets(self, stored: Stored) -> tuple[Note, SessionID | None]:
        """Returns the note with its secrets, and the ID, renewed if that is due."""
        note, sid, age = stored.note, stored.sid, self.age(stored.record)
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
        """Returns the first and the current client, if clients are recorded."""
        present, who = self.delivery.client, self.who
        if present is None:
            return note.client
        if who.user is None:
            return ()
        first = note.client[:2] if note.client and not self.is_sign_in() else present
        return (*first, *present)

    def _own_limits(self, kept: Stored | None) -> OwnLimits | None:
        """Returns the session's own limits, counted from its creation.

        Warns once if the tier allows less than this request asked for.

        :param kept: the session whose age and limits stay; ``None``: it starts now, and those of
            the session before it belong to the sign-in that is over.
        """
        asked, tier = self.state.own_limits, self.who.tier
        if asked is None:
            return kept.note.own if kept else None
        usual = self.settings.rules.policy.limits(tier)
        # A visitor who may come back after days must not be signed out after minutes.
        idle = asked.idle or (asked.lifetime if asked.lifetime > usual.lifetime else 0)
        most = usual.extended
        if asked.lifetime > most.lifetime or idle > most.idle:
            self.delivery.say(
                f"own-limits-{tier}",
                f"session.expires_in() asks for {spelled(asked.lifetime)}"
                f" ({spelled(idle or usual.idle)} without use), longer than the settings allow for"
                f" the tier {tier!r}: the session gets {spelled(most.lifetime)}"
                f" ({spelled(most.idle)}). To allow more, set {_longest_of(tier)}",
            )
        age = max(0, self.age(kept.record)) if kept else 0
        return OwnLimits(age + asked.lifetime, idle)

    def first_note(
        self, sid: SessionID | None, before: Note | None = None, *, kept: Stored | None = None
    ) -> Note:
        """Returns the note of a session that gets *sid*.

        :param sid: the ID for its cookie; ``None``: it has no cookie.
        :param before: the note of its old ID; ``None``: the session is new.
        :param kept: the session under its old ID, if its age and own limits stay.
        """
        digest = b"" if sid is None else sid.secret_digest()
        permanent = sid is not None and is_permanent(self.data)
        endpoint = self.delivery.endpoint if before is None else before.endpoint
        note = notes.first_note(digest, permanent=permanent, endpoint=endpoint)
        adopted = before is not None and before.adopted and not self.is_sign_in()
        note = note._replace(client=self._clients(before or note), adopted=adopted)
        return note._replace(own=self._own_limits(kept))

    def draft(self, payload: bytes, note: Note, filed: Record | None = None) -> Draft:
        """Returns what to write.

        :param filed: the record whose tier and user stay; ``None``: those of the data.
        :raises SessionTooLarge: over ``SAFESESSION_MAX_SESSION_SIZE``.
        """
        who = self.who
        is_stored = filed is not None and payload == filed.payload
        if len(payload) > self.settings.max_session_size and not is_stored:
            raise SessionTooLarge(len(payload), self.settings.max_session_size)
        idle, lifetime, extended = self.settings.rules.policy.granted(who.tier, note.own)
        tier, user = (
            (tier_tag(who.tier), who.user_tag) if filed is None else (filed.tier, filed.user)
        )
        kept = notes.dumps(note)
        return Draft(new_stamp(), idle, lifetime, tier, user, payload, kept, extended=extended)

    def touch(self) -> int | None:
        """Returns the touch interval in milliseconds; ``None`` for a passive view."""
        if not self.loaded.slide:
            return None
        return self.settings.rules.policy.limits(self.who.tier).touch


def _longest_of(tier: str) -> str:
    """Returns the name of the setting that allows sessions of *tier* longer limits."""
    if tier == DEFAULT_TIER:
        return "SAFESESSION_LONGEST_LIFETIME"
    return f"SAFESESSION_TIERS[{tier!r}]['longest_lifetime']"
