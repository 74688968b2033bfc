"""Flask's session interface: the only place where cookies exist.

``open_session`` hands out a session that has looked at nothing; ``save_session`` stores what
changed and sets the cookie only where the browser's must change, and only after the store has said
yes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any

import flask
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin

from .client import describe_client
from .codec import CLIENT, UndecodableError, decode
from .errors import SessionTooLarge, StoreFull, StoreUnavailable, TooManySessions
from .events import SessionEnded, StoreFailed, emit, logger
from .failure import admit
from .keys import READONLY
from .saving import Saved, ends, identify, save
from .scratch import Scratch
from .session import (
    Buried,
    Loaded,
    Session,
    SessionInfo,
    Stored,
    is_permanent,
)
from .settings import Settings
from .steering import Steering
from .stores.base import CORRUPT, EMPTIED, Gone, Store
from .tokens import Verified, sign, unsign
from .unverified import report_unverified
from .users import clients_in, end_user, info_of

#: The attribute that marks a view as passive.
PASSIVE = "_safesession_passive"
#: The attribute that marks a view as exempt.
EXEMPT = "_safesession_exempt"

# Cookies of our name in one request that are looked at; a browser sends one, two after a change of
# path or domain.
_MAX_COOKIES = 4
# Methods that ask for nothing but an answer (RFC 9110, 9.2.1).
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class SafeSessionInterface(SessionInterface):
    """Opens and saves sessions of one app.

    :param steering: has the settings that the app goes by.
    :param store: where the sessions are.
    :param wake: called with each request; sees to it that the purge job runs in this process.
    """

    def __init__(self, steering: Steering, store: Store, wake: Callable[[], None]) -> None:
        self._steering = steering
        self._store = store
        self._wake = wake
        self._warned_processes = False
        self._nearly_full = False

    @property
    def _settings(self) -> Settings:
        return self._steering.settings

    def open_session(self, app: Flask, request: Request) -> Session | None:
        """A session that is not loaded yet, or ``None`` (Flask's null session) without a key."""
        if not app.secret_key:
            return None
        self._wake()
        load, end = partial(self._load, app, request), partial(self._end_others, app)
        return Session(load, self._describe, self._settings.user_keys, end)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what changed; set or delete the cookie if it must change.

        A save that fails becomes the response of the app's error handler, in place: Flask would
        make a 500 of an exception here, and call this a second time for its page.
        """
        if not isinstance(session, Session):
            return
        if session._data is None:
            session._saved = True
            return
        scratch = session._data if isinstance(session._data, Scratch) else None
        if scratch is not None and scratch.failed is None:
            _leave_exempt(session)
            return
        if session._failed is None:
            self._save(app, session, response)
        if session._failed is not None:
            admit(app, session, response, session._failed)
        if scratch is not None:
            session._seal()
            _keep_out_of_caches(response)  # a stranger's page, at a visitor's address
        _vary_by_cookie(response)
        _send_events(app, session)

    # -- loading --------------------------------------------------------------------------------

    def _load(self, app: Flask, request: Request, session: Session) -> Loaded:
        """What the session of *request* is to hold.

        The mark of a view is looked at here, and not when the session is opened: Flask finds the
        view only then. (A URL converter that uses the session is too early to see the mark.)

        :raises StoreUnavailable: the store did not answer, and the request cannot do without it.
        """
        if _is_marked(app, request, EXEMPT) and _is_of_this_request(session):
            return Loaded(Scratch())
        self._warn_of_processes(request)
        try:
            return self._find(app, request, session)
        except StoreUnavailable as error:
            session._note(StoreFailed("load", str(error)))
            if not self._may_be_a_stranger(request, session):
                raise
            session._failed = error
            return Loaded(Scratch(error))
        finally:
            if session._saved:  # in a stream: no response follows that would send them
                _send_events(app, session)

    def _may_be_a_stranger(self, request: Request, session: Session) -> bool:
        """Whether the outage policy lets *request* see an empty session.

        Only where it asks for nothing but an answer: what a signed-in user posts is not done in a
        stranger's name, and a logout that found nobody to sign out does not say that it worked.
        """
        lenient = self._settings.on_outage == READONLY and request.method in _SAFE_METHODS
        return lenient and _is_of_this_request(session)

    def _find(self, app: Flask, request: Request, session: Session) -> Loaded:
        slide = not _is_marked(app, request, PASSIVE)
        over = Loaded({})
        for verified in self._verified(app, request):
            found = self._look_up(verified, session, slide=slide)
            if found.stored is not None:
                return found
            buried, ended = over.buried or found.buried, over.ended or found.ended
            over = over._replace(buried=buried, ended=ended)
        return over

    def _verified(self, app: Flask, request: Request) -> list[Verified]:
        """The IDs in cookies of our name whose signature holds; forged ones count for nothing."""
        name, header = self.get_cookie_name(app), request.environ.get("HTTP_COOKIE", "")
        if f"{name}=" not in header:
            return []
        # Split here: Werkzeug's parser is for every kind of value, and takes longer than the rest.
        pairs = [cookie.strip().partition("=") for cookie in header.split(";")]
        values = [value.strip('"') for key, _, value in pairs if key == name][:_MAX_COOKIES]
        key = app.secret_key or ""
        fallbacks = [old for old in app.config.get("SECRET_KEY_FALLBACKS") or () if old]
        verified = [good for value in values if (good := unsign(value, key, fallbacks)) is not None]
        if not verified:
            report_unverified(values)
        return verified

    def _look_up(self, verified: Verified, session: Session, *, slide: bool) -> Loaded:
        sid = verified.sid
        answer = self._store.load(sid.key, self._settings.rules, slide=slide)
        if isinstance(answer, Gone):
            for event in ends(sid, answer, self._settings):
                session._note(event)
            over = answer.buried and answer.reason != EMPTIED
            buried = Buried(sid.key, answer.reason) if over else None
            return Loaded({}, buried=buried, ended=answer.to_be_told)
        if answer.key not in ("", sid.key):
            sid = sid.at(answer.key)
        self._hear(answer.now)
        try:
            data = decode(answer.record.payload)
        except UndecodableError:
            tier = self._settings.rules.policy.name_of(answer.record.tier)
            session._note(SessionEnded(sid.key, CORRUPT, tier))
            return Loaded({})
        return Loaded(
            data,
            Stored(sid, answer.record),
            stale=not verified.current,
            slide=slide,
            permanent=is_permanent(data),
            now=answer.now,
        )

    def _describe(self, session: Session) -> SessionInfo:
        loaded, data = session._loaded, session._data or {}
        who = identify(data, self._settings)
        if loaded.stored is None:
            new = SessionInfo(who.user, who.tier, None, True, None, None, None)
            return new._replace(ended_reason=loaded.ended)
        return info_of(loaded.stored.sid.key, loaded.stored.record, who, data, self._now(loaded))

    def _now(self, loaded: Loaded) -> int:
        """The store's clock, in milliseconds.

        A load that has nothing to write does not tell it; then it lies within the touch interval
        after the last use, where earlier answers let it be.
        """
        if loaded.now or loaded.stored is None:
            return loaded.now
        record = loaded.stored.record
        earliest = record.last_active
        limits = self._settings.rules.policy.limits_by_tag(record.tier)
        if self._steering.ahead is None:
            return earliest + limits.touch  # a sign-in rather looks older than newer
        guess = max(earliest, int(self._steering.ahead + time.monotonic() * 1000))
        return min(guess, earliest + limits.touch) if loaded.slide else guess

    def _hear(self, now: int) -> None:
        """The store said that it is *now*."""
        if now:
            self._steering.ahead = now - time.monotonic() * 1000

    def _end_others(self, app: Flask, session: Session) -> int:
        stored, user = session._loaded.stored, identify(session._data or {}, self._settings).user
        if user is None:
            return 0
        keep = stored.sid.key if stored else None  # without one, this sign-in is still to be stored
        return end_user(app, self._store, self._settings, user, keep)

    def _warn_of_processes(self, request: Request) -> None:
        if self._warned_processes or self._store.shared:
            return
        if request.environ.get("wsgi.multiprocess"):
            self._warned_processes = True
            logger.warning(
                "sessions are kept in memory, but this server runs several processes, which do not"
                " share it: visitors will lose their sessions between them. Set SAFESESSION_STORE"
                " to a redis:// URL"
            )

    # -- saving ---------------------------------------------------------------------------------

    def _save(self, app: Flask, session: Session, response: Response) -> None:
        if self._settings.record_client:
            self._note_client(session)
        try:
            saved = save(session, self._store, self._settings)
        except (StoreUnavailable, StoreFull, SessionTooLarge, TooManySessions, TypeError) as error:
            # From here on nothing more is stored, also while an error page is built.
            session._failed = error
            session._changed = True
            if isinstance(error, StoreUnavailable):
                session._note(StoreFailed("save", str(error)))
            if not _is_of_this_request(session):
                raise  # a test's session_transaction(): there is no visitor to answer
            return
        session._seal()
        self._hear(session._loaded.now)
        if session._loaded.total:
            self._watch_the_cap(session._loaded.total)
        if saved.cookie != "keep":
            session._cookie = saved
        if isinstance(session._cookie, Saved):
            # Also on the error page that takes the place of a response which had this cookie.
            self._answer_cookie(app, session, response, session._cookie)

    def _note_client(self, session: Session) -> None:
        """Write down from where a user signed in, and where the session was used last."""
        data = session._data or {}
        if not _is_of_this_request(session) or not session._loaded.slide:
            return
        if identify(data, self._settings).user is None:
            data.pop(CLIENT, None)
            return
        present, (first, _) = describe_client(flask.request), clients_in(data.get(CLIENT))
        if first is None or session._signed_in:
            first = present
        data[CLIENT] = [*first, *present]

    def _answer_cookie(
        self, app: Flask, session: Session, response: Response, saved: Saved
    ) -> None:
        name, lines = self.get_cookie_name(app), response.headers.getlist("Set-Cookie")
        if session._cookie_line in lines:
            response.headers.setlist("Set-Cookie", [c for c in lines if c != session._cookie_line])
        attributes: dict[str, Any] = {
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "secure": self.get_cookie_secure(app),
            "httponly": self.get_cookie_httponly(app),
            "samesite": self.get_cookie_samesite(app),
            "partitioned": self.get_cookie_partitioned(app),
        }
        if saved.sid is None:
            response.delete_cookie(name, **attributes)
        else:
            value, max_age = sign(saved.sid, app.secret_key or ""), _max_age(app, session)
            response.set_cookie(name, value, max_age=max_age, **attributes)
        session._cookie_line = response.headers.getlist("Set-Cookie")[-1]
        if saved.fresh:
            _keep_out_of_caches(response)

    def _watch_the_cap(self, total: int) -> None:
        """Warn once at 80 % of the cap, and again after it was under 75 %."""
        cap = self._settings.rules.cap.total
        if total >= cap * 0.8 and not self._nearly_full:
            self._nearly_full = True
            logger.warning(
                "the store holds %d sessions of %d: raise SAFESESSION_MAX_SESSIONS, or sessions"
                " will be evicted soon",
                total,
                cap,
                extra={"sessions": total, "cap": cap},
            )
        elif total < cap * 0.75:
            self._nearly_full = False


def _vary_by_cookie(response: Response) -> None:
    if "Vary" in response.headers:
        response.vary.add("Cookie")
    else:  # the usual case, without building a set for it
        response.headers.add("Vary", "Cookie")


def _keep_out_of_caches(response: Response) -> None:
    if "Cache-Control" not in response.headers:
        response.cache_control.no_store = True


def _send_events(app: Flask, session: Session) -> None:
    if session._events:
        events, session._events = session._events, ()
        for event in events:
            emit(app, event)


def _leave_exempt(session: Session) -> None:
    if session._was_written() and not session._saved:
        endpoint = flask.request.endpoint
        logger.warning(
            "the session was written in a request for %r, a view that is marked safe.exempt; the"
            " change is not stored. Take the mark off the view, or let what runs before each"
            " request leave the session alone for it (request.endpoint tells)",
            endpoint,
            extra={"endpoint": endpoint},
        )
    session._seal()


def _is_marked(app: Flask, request: Request, mark: str) -> bool:
    """Whether the view of *request*, or its class, bears *mark*."""
    view = app.view_functions.get(request.endpoint or "")
    return getattr(view, mark, False) or getattr(getattr(view, "view_class", None), mark, False)


def _is_of_this_request(session: Session) -> bool:
    current: Any = flask.session
    return flask.has_request_context() and current._get_current_object() is session


def _max_age(app: Flask, session: Session) -> int | None:
    """Seconds that the cookie lasts: never less than the session may, so it needs no refresh."""
    loaded = session._loaded
    if loaded.stored is None or not loaded.permanent:
        return None
    left = (loaded.stored.record.absolute - loaded.now) / 1000
    return ceil(max(app.permanent_session_lifetime.total_seconds(), left))
