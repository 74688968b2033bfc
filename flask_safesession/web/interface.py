"""Flask's session interface.

``open_session`` hands out a session that has looked at nothing; ``save_session`` stores what
changed and sets the cookie only where the browser's must change, and only after the store has said
yes.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import flask
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.local import LocalProxy

from ..config.overrides import Steering
from ..config.settings import READONLY, Settings
from ..errors import (
    SessionTooLarge,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    UndeliverableSignIn,
)
from ..events import Once, StoreFailed, emit, logger
from ..model.identity import TYPICAL_KEYS
from ..stores.base import Store
from . import transport
from .change import Delivery, whose
from .client import describe_client
from .info import SessionInfo, info_of
from .loading import Loader
from .outage import admit
from .saving import Saved, save
from .scratch import Scratch
from .session import Loaded, Session

#: The attribute that marks a view as passive.
PASSIVE = "_safesession_passive"
#: The attribute that marks a view as exempt.
EXEMPT = "_safesession_exempt"

# Methods that ask for nothing but an answer (RFC 9110, 9.2.1).
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class SafeSessionInterface(SessionInterface):
    """Opens and saves sessions of one app.

    :param steering: has the settings that the app goes by, and its store.
    :param wake: called with each request; sees to it that the purge job runs in this process.
    :param end_user: ends all sessions of a user but for one; how many there were.
    """

    def __init__(
        self, steering: Steering, wake: Callable[[], None], end_user: Callable[..., int]
    ) -> None:
        self._steering = steering
        self._wake = wake
        self._end_user = end_user
        self._nearly_full = False
        self._say = Once()
        self.loader: Loader = Loader(steering, self._say)

    @property
    def _settings(self) -> Settings:
        return self._steering.settings

    @property
    def _store(self) -> Store:
        return self._steering.store

    def open_session(self, app: Flask, request: Request) -> Session | None:
        """A session that is not loaded yet, or ``None`` (Flask's null session) without a key."""
        if not app.secret_key:
            return None
        self._wake()
        load, end = partial(self._load, app, request), partial(self._end_others, app)
        return Session(load, self._describe, self._settings.user_key.names, end)

    def install(self, app: Flask) -> None:
        """Learn from *app* how far it is with a request, by hooks around its views."""
        app.before_request_funcs.setdefault(None, []).insert(0, _begin_dispatch)
        app.after_request_funcs.setdefault(None, []).insert(0, _begin_response)
        before, alive = app.__dict__.get("dispatch_request"), weakref.ref(app)

        def dispatch_request(*context: Any) -> Any:
            # Not the bound method: an app is freed when its last reference goes.
            this: Any = alive()
            return _dispatch(before or partial(type(this).dispatch_request, this), *context)

        app.dispatch_request = dispatch_request  # type: ignore[method-assign]

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what changed; set or delete the cookie if it must change.

        A save that fails becomes the response of the app's error handler, in place: Flask would
        make a 500 of an exception here, and call this a second time for its page.
        """
        session = _behind_proxy(session)
        if not isinstance(session, Session):
            return
        responding, session._responding = session._responding, False  # once for each response
        if session._data is None:
            session._saved = responding
            return
        scratch = session._data if isinstance(session._data, Scratch) else None
        if scratch is not None and scratch.failed is None:
            _leave_exempt(session)
            return
        is_answered = _is_answered(session, responding=responding)
        if session._failed is None:
            self._save(app, session, response, responding=responding)
        if session._failed is not None:
            if not is_answered:
                raise session._failed
            admit(app, session, response, session._failed)
        if scratch is not None:
            session._seal()
            # An anonymous visitor's page, at the address of a user's.
            transport.keep_out_of_shared_caches(response)
        transport.vary_by_cookie(response)
        _send_events(app, session)

    # -- loading --------------------------------------------------------------------------------

    def _load(self, app: Flask, request: Request, session: Session) -> Loaded:
        """What the session of *request* is to hold.

        The mark of a view is looked at here, and not when the session is opened: Flask finds the
        view only then. (A URL converter that uses the session is too early to see the mark, and an
        event of Socket.IO's has nothing to do with a view that matches its address.)

        :raises StoreUnavailable: the store did not answer, and the request cannot do without it.
        :raises ConfigError: the store is memory that the server's processes do not share.
        """
        is_view = session._dispatched and _is_of_this_request(session)
        if is_view and _is_marked(app, request, EXEMPT):
            return Loaded(Scratch())
        try:
            slide = not (is_view and _is_marked(app, request, PASSIVE))
            name = self.get_cookie_name(app)
            return self.loader.find(app, request, session, name, slide=slide)
        except StoreUnavailable as error:
            session._note(StoreFailed("load", str(error)))
            if not self._may_be_a_stranger(request, session):
                raise
            session._failed = error
            return Loaded(Scratch(error))
        finally:
            # In a stream or an event: no response follows that would send them.
            if session._saved or not session._dispatched:
                _send_events(app, session)

    def _may_be_a_stranger(self, request: Request, session: Session) -> bool:
        """Whether the outage policy lets *request* see an empty session.

        Only where it asks for nothing but an answer: what a signed-in user posts, or sends over a
        socket, is not done in a stranger's name, and a logout that found nobody to sign out does
        not say that it worked.
        """
        lenient = self._settings.on_outage == READONLY and request.method in _SAFE_METHODS
        is_page = session._dispatched and not transport.is_socket(request)
        return lenient and is_page and _is_of_this_request(session)

    def _describe(self, session: Session) -> SessionInfo:
        loaded, data = session._loaded, session._data or {}
        who = whose(data, self._settings)
        if loaded.stored is None:
            info = SessionInfo(who.user, who.tier, None, True, None, None, None)
        else:
            stored = loaded.stored
            info = info_of(stored.key, stored.record, stored.note, who, data, loaded.now)
        return info._replace(ended_reason=loaded.ended)

    def _end_others(self, app: Flask, session: Session) -> int:
        stored, user = session._loaded.stored, whose(session._data or {}, self._settings).user
        if user is None:
            return 0
        keep = stored.key if stored else None  # without one, this sign-in is still to be stored
        return self._end_user(app, self._store, self._settings, user, keep)

    # -- saving ---------------------------------------------------------------------------------

    def _save(self, app: Flask, session: Session, response: Response, *, responding: bool) -> None:
        is_socket = flask.has_request_context() and transport.is_socket(flask.request)
        is_final = responding or not _is_of_this_request(session)
        later = session._dispatched and not is_final and not is_socket
        deliverable = is_final and not is_socket
        endpoint = flask.request.endpoint if _is_of_this_request(session) else None
        key, client = app.secret_key or "", self._client(session)
        delivery = Delivery(deliverable, later, key, client, self._say, endpoint)
        try:
            saved = save(session, self._store, self._settings, delivery)
        except UndeliverableSignIn as error:
            session._failed, session._changed = error, True
            raise
        except (StoreUnavailable, StoreFull, SessionTooLarge, TooManySessions, TypeError) as error:
            # From here on nothing more is stored, also while an error page is built.
            session._failed = error
            session._changed = True
            if isinstance(error, StoreUnavailable):
                session._note(StoreFailed("save", str(error)))
            return
        if is_final:
            session._seal()
        if session._loaded.total:
            self._watch_the_cap(session._loaded.total)
        if saved.cookie != "keep":
            session._cookie = saved
            self._look_for_a_user(session)
        if isinstance(session._cookie, Saved):
            # Also on the error page that takes the place of a response which had this cookie.
            transport.answer_cookie(self, app, session, response, session._cookie)

    def _client(self, session: Session) -> tuple[str, str] | None:
        """From where the session is used, if that is to be noted."""
        wanted = self._settings.record_client and session._loaded.slide
        if not wanted or not _is_of_this_request(session):
            return None
        present = describe_client(flask.request)
        return present.address, present.agent

    def _look_for_a_user(self, session: Session) -> None:
        """Hint, once, at a session without a user that has what others keep a user under."""
        data = session._data or {}
        found = next((key for key in TYPICAL_KEYS if data.get(key)), None)
        if found is not None and whose(data, self._settings).user is None:
            self._say(
                "typical-key",
                f"a session without a user has session[{found!r}]. If that is its user, set"
                " SAFESESSION_USER_KEY to it: else a sign-in gives no new ID, and the user's"
                " sessions can be neither listed nor ended",
                logging.INFO,
            )

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


def _send_events(app: Flask, session: Session) -> None:
    if session._events:
        events, session._events = session._events, ()
        for event in events:
            emit(app, event)


def _leave_exempt(session: Session) -> None:
    if session._was_written() and not session._warned:
        session._warned = True
        endpoint = flask.request.endpoint
        logger.warning(
            "the session was written in a request for %r, a view that is marked safe.exempt; the"
            " change is not stored. Take the mark off the view, or let what runs before each"
            " request leave the session alone for it (request.endpoint tells)",
            endpoint,
            extra={"endpoint": endpoint},
        )
    session._seal()


def report_unstored(app: Flask, **_: object) -> None:
    """Receives that a request is over: warns if its session was written after the last save.

    Events of a save that failed, or of a socket that only read, are sent here.
    """
    session = None
    # A request may be over before its session was opened: by a time limit, or a signal. Its own
    # exception is the one that counts.
    with suppress(AssertionError):
        session = _own_session()
    if session is not None:
        session._report_unstored()
        _send_events(app, session)


def _is_marked(app: Flask, request: Request, mark: str) -> bool:
    """Whether the view of *request*, or its class, bears *mark*."""
    view = app.view_functions.get(request.endpoint or "")
    return getattr(view, mark, False) or getattr(getattr(view, "view_class", None), mark, False)


def _is_of_this_request(session: Session) -> bool:
    return flask.has_request_context() and _current() is session


def _is_answered(session: Session, *, responding: bool) -> bool:
    """Whether a response can say that a save has failed: the one that is built, or a later one.

    There is none for an event of Socket.IO's, for a save by hand in a socket or a stream, and for a
    test's ``session_transaction()``.
    """
    if not _is_of_this_request(session):
        return False
    follows = session._dispatched and not session._saved
    return responding or (follows and not transport.is_socket(flask.request))


def _behind_proxy(session: Any) -> Any:
    """The object behind *session*, should it be ``flask.session`` itself."""
    return session._get_current_object() if isinstance(session, LocalProxy) else session


# Asked several times a request, also where nobody uses the session.
_current: Callable[[], Any] = flask.session._get_current_object  # type: ignore[attr-defined]


def _own_session() -> Session | None:
    session = _current()
    return session if isinstance(session, Session) else None


def _begin_dispatch() -> None:
    if (session := _own_session()) is not None:
        session._dispatched = True


def _begin_response(response: Response) -> Response:
    if (session := _own_session()) is not None:
        session._responding = True
    return response


def _dispatch(dispatch: Callable[..., Any], *context: Any) -> Any:
    """Call the view: what it assigns in a request that is not safe may be a sign-in."""
    session = _own_session()
    if session is None or flask.request.method in _SAFE_METHODS:
        return dispatch(*context)
    session._in_unsafe_view = True
    try:
        return dispatch(*context)
    finally:
        session._in_unsafe_view = False
