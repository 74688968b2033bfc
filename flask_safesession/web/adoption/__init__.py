"""Adopts sessions from older places, so that a team moves in without signing anybody out.

An old cookie leads to an ID of ours that is derived from it with the app's secret key: each request
with the old cookie finds the same session and sets the same cookie. The store decides, in one step,
whether a session is made: a *link*, the digest of the old ID, is stored with it, only where there
is none, and is kept until adoption ends. Then the old record is deleted. In detail:

- *Two requests at once.* The second one finds the link, and loads what the first one has made. Both
  commit it to set the cookie; their changes merge as always.
- *A crash between the link and the deletion; a lost reply; a response that nobody receives.* The
  next request with the old cookie finds the link, and deletes and sets the cookie again.
- *A late request, an old worker that writes its record back.* The link leads to the same session.
  If that has ended, the old cookie is a dead ID: its visitor gets a stand-in, and nothing returns.
- *A logout, ``end_user``, ``end_others``, ``end_all``.* Before they end anything, they close
  adoption for the user, or for all: another device that has not moved yet signs in again. If they
  fail in between, too much is closed, never too little. A session that is adopted at the same
  moment is either refused, or is among those that end.
- *A live cookie of ours* wins: nothing is asked. What has the form of our cookies and does not
  verify is not looked up as anything else.
- *The old ID is the visitor's text.* Only what decoded as a session is deleted, and without a key
  prefix only IDs of the length that Flask-Session makes are looked up.
- *The old place is down.* The request is a 503, and never gets an empty session. A failed deletion
  is not worth an error: the link decides.

An adopted session has a new ID, is never fresh, and keeps its age if that is known. On several
shards see :meth:`..stores.sharded.Sharded.adopt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

import flask

from ...config.overrides import Overrides
from ...config.settings import Settings
from ...errors import SessionTooLarge, StoreUnavailable, TooManySessions
from ...events import SessionCreated
from ...model import note as notes
from ...model.codec import encode
from ...model.identity import FRESH, FS_PAA
from ...model.reason import Reason
from ...model.record import Draft
from ...model.tokens import SessionID, Verified, adopted_id, link_of, new_stamp, tier_tag
from ...stores.base import AdoptingStore, Gone, Live, Moved, Store
from ..change import whose
from ..data import is_empty, is_permanent
from ..outcome import report_end
from ..state import State
from ..unverified import is_of_our_form
from .places.base import Credential, Old, Place

# Old cookies of one request that are looked up.
_MOST = 4
# The name of a document that does not exist: the answer has the store's time.
_CLOCK = "clock"


def close_adoption(store: Store, settings: Settings, user: str = "") -> None:
    """Adopt no more sessions of the user with that tag; empty: of nobody.

    Called before sessions are ended. Without ``SAFESESSION_ADOPT`` it does nothing.
    """
    if settings.adopt:
        cast(AdoptingStore, store).close_adoption(user, settings.adopt_until or 0)


def end_all(store: Store, settings: Settings) -> None:
    """Close adoption for all, and end all sessions, even if the first has failed."""
    try:
        close_adoption(store, settings)
    finally:
        store.end_all(new_stamp())


class Adoption:
    """Finds the session for a request's old cookies.

    :param places: where to look, in this order.
    :param say: logs a message once; takes its name and its text.
    """

    def __init__(
        self, places: Sequence[Place], overrides: Overrides, say: Callable[..., None]
    ) -> None:
        self.places: Sequence[Place] = places
        self._overrides = overrides
        self._say = say

    def find(
        self, state: State, values: list[str], unknown: list[Verified], *, slide: bool
    ) -> tuple[Verified, Live | Gone] | None:
        """Returns the ID of ours for an old cookie, and what the store has under it.

        :param values: of the request's session cookies.
        :param unknown: the IDs of ours among them that the store does not know.
        :raises StoreUnavailable: the store or an old place did not answer.
        """
        foreign = [value for value in dict.fromkeys(values) if not is_of_our_form(value)]
        olds = [
            (place, old)
            for place in self.places
            for old in place.credentials(state.app, foreign[:_MOST], unknown)
        ]
        if not olds or self._is_over():
            return None
        answers = (self._resolve(state, place, old, slide=slide) for place, old in olds)
        return next(filter(None, answers), None)

    def _is_over(self) -> bool:
        """Returns whether adoption has ended, by the store's clock: the old places may be gone."""
        until, store = self._overrides.settings.adopt_until, self._overrides.opened.need_adopting()
        return until is not None and until <= store.document(_CLOCK).now

    def _resolve(
        self, state: State, place: Place, old: Credential, *, slide: bool
    ) -> tuple[Verified, Live | Gone] | None:
        found = place.read(old)
        if found is None or is_empty(found.data):
            key = self._overrides.opened.need_adopting().follow(link_of(old.text))
            return self._load(state, old, key, slide=slide)
        sid, answer = self._adopt(state, place, old, found)
        if isinstance(answer, Gone):
            return None
        with suppress(StoreUnavailable):
            place.delete(old, found)
        if isinstance(answer, Moved):
            return self._load(state, old, answer.key, slide=slide)
        return Verified(sid, current=False), answer

    def _load(
        self, state: State, old: Credential, key: str, *, slide: bool
    ) -> tuple[Verified, Live | Gone] | None:
        """Returns the session that was made before for an old ID, under *key*."""
        sid = next((sid for sid in _ids(state, old, key[:1]) if sid.key == key), None)
        if sid is None:
            return None
        rules = self._overrides.settings.rules
        return Verified(sid, current=False), self._overrides.store.load(key, rules, slide=slide)

    def _adopt(
        self, state: State, place: Place, old: Credential, found: Old
    ) -> tuple[SessionID, Live | Moved | Gone]:
        """Make the session, unless it was made before. Returns its ID, if this made it."""
        settings, link = self._overrides.settings, link_of(old.text)
        store, data = self._overrides.opened.need_adopting(), _without_freshness(found.data)
        who = whose(data, settings)
        sid = next(_ids(state, old, who.user_tag[:1] or link[:1]))
        try:
            draft = _draft(data, found, sid, settings)
            answer = store.adopt(link, sid.key, draft, settings.rules, settings.adopt_until or 0)
        except TooManySessions:
            return sid, Gone("full")  # its user signs in, and sees what the app says of that
        except (SessionTooLarge, TypeError, ValueError) as error:
            self._say("adoption", f"a session of {place.name} cannot be adopted: {error}")
            return sid, Gone(Reason.CORRUPT)
        if isinstance(answer, Live):
            for gone in answer.removed:
                report_end(state, settings, gone.key, gone.reason, gone.tier)
            state.note(SessionCreated(sid.key, who.tier))
        return sid, answer


def _ids(state: State, old: Credential, bucket: str) -> Iterator[SessionID]:
    """Yields the ID for an old one, by the current secret key and by older ones."""
    keys = (state.app.secret_key or "", *(state.app.config.get("SECRET_KEY_FALLBACKS") or ()))
    return (adopted_id(old.text, bucket, key) for key in keys if key)


def _draft(data: dict[str, Any], found: Old, sid: SessionID, settings: Settings) -> Draft:
    who, payload = whose(data, settings), encode(data)
    if len(payload) > settings.max_session_size:
        raise SessionTooLarge(len(payload), settings.max_session_size)
    idle, lifetime, extended = settings.rules.policy.granted(who.tier, found.own)
    endpoint = flask.request.endpoint if flask.has_request_context() else None
    permanent = is_permanent(data)
    note = notes.first_note(sid.secret_digest(), permanent=permanent, endpoint=endpoint)
    return Draft(
        new_stamp(),
        idle,
        lifetime,
        tier_tag(who.tier),
        who.user_tag,
        payload,
        notes.dumps(note._replace(adopted=True, own=found.own)),
        found.created,
        found.last_active,
        extended,
    )


def _without_freshness(data: dict[str, Any]) -> dict[str, Any]:
    """Returns *data* without what Flask-Login and Flask-Security take for a recent sign-in."""
    kept = {key: value for key, value in data.items() if key != FS_PAA}
    return kept | {FRESH: False} if kept.get(FRESH) else kept
