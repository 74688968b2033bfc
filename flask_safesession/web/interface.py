"""Flask's session interface.

``open_session`` returns a session that has looked at nothing; ``save_session`` stores what changed
and sets the cookie only where the browser's must change, and only after the store has confirmed it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import flask
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.local import LocalProxy

from ..config.overrides import Steering
from ..config.reading import READONLY
from ..config.settings import Settings
from ..errors import (
    SessionTooLarge,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    UndeliverableSignIn,
)
from ..events import Once, StoreFailed, logger
from ..model.identity import TYPICAL_KEYS
from ..stores.base import Store
from . import hooks, transport
from .change import Delivery, whose
from .client import describe_client
from .info import SessionInfo, info_of
from .loading import Loader
from .outage import admit
from .saving import save
from .scratch import Scratch
from .session import Session, is_current, state_of
from .state import Loaded, State

#: The attribute that marks a view as passive.
PASSIVE = "_safesession_passive"
#: The attribute that marks a view as exempt.
EXEMPT = "_safesession_exempt"


class SafeSessionInterface(SessionInterface):
    """Opens and saves sessions of one app.

    :param steering: has the app's current settings, and its store.
    :param wake: called with each request; starts the purge job in this process if it must be.
    :param end_user: ends all sessions of a user but for one, and returns how many there were.
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
        """Returns a session that is not loaded yet; ``None`` (a null session) without a key."""
        if not app.secret_key:
            return None
        self._wake()
        return Session(State(self, app, request, self._settings.user_key.names))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what changed; set or delete the cookie if it must change.

        A save that fails becomes the response of the app's error handler, in place: Flask would
        make a 500 of an exception here, and call this a second time for its page.
        """
        session = _behind_proxy(session)
        if not isinstance(session, Session):
            return
        state = state_of(session)
        responding, state.responding = state.responding, False  # once for each response
        if state.data is None:
            state.sealed = responding
            return
        scratch = state.data if isinstance(state.data, Scratch) else None
        if scratch is not None and scratch.failed is None:
            _leave_exempt(state)
            return
        is_answered = _is_answered(state, responding=responding)
        if state.failed is None:
            self._save(state, response, responding=responding)
        if state.failed is not None:
            if not is_answered:
                raise state.failed
            admit(app, state, response, state.failed)
        if scratch is not None:
            state.seal()
            # An anonymous visitor's page, at the address of a user's.
            transport.keep_out_of_shared_caches(response)
        transport.vary_by_cookie(response)
        state.send_events()

    # -- what a session asks for ----------------------------------------------------------------

    def load(self, state: State) -> Loaded:
        """Returns what the session is to hold.

        The mark of a view is read here, and not when the session is opened: Flask finds the view
        only then. (A URL converter that uses the session is too early to see the mark, and an event
        of Socket.IO's has nothing to do with a view that matches its address.)

        :raises StoreUnavailable: the store did not answer, and the request cannot do without it.
        """
        is_view = state.dispatched and is_current(state)
        if is_view and _is_marked(state, EXEMPT):
            return Loaded(Scratch())
        self._warn_of_processes(state.request)
        try:
            slide = not (is_view and _is_marked(state, PASSIVE))
            return self.loader.find(state, self.get_cookie_name(state.app), slide=slide)
        except StoreUnavailable as error:
            state.note(StoreFailed("load", str(error)))
            if not self._may_be_anonymous(state):
                raise
            state.failed = error
            return Loaded(Scratch(error))
        finally:
            # In a stream or an event: no response follows that would send them.
            if state.sealed or not state.dispatched:
                state.send_events()

    def _may_be_anonymous(self, state: State) -> bool:
        """Whether the outage policy gives the request an empty session.

        Only where it asks for nothing but an answer: what a signed-in user posts, or sends over a
        socket, is not done in an anonymous visitor's name, and a logout that found no user to sign
        out does not claim that it worked.
        """
        request = state.request
        lenient = self._settings.on_outage == READONLY and request.method in hooks.SAFE_METHODS
        is_page = state.dispatched and not transport.is_socket(request)
        return lenient and is_page and is_current(state)

    def describe(self, state: State) -> SessionInfo:
        """Returns what is known of the session as it is now."""
        loaded, data = state.loaded, state.data or {}
        who = whose(data, self._settings)
        if loaded.stored is None:
            info = SessionInfo(who.user, who.tier, None, True, None, None, None)
        else:
            stored = loaded.stored
            info = info_of(stored.key, stored.record, stored.note, who, data, loaded.now)
        return info._replace(ended_reason=loaded.ended)

    def end_others(self, state: State) -> int:
        """End the other sessions of this one's user. Returns how many there were."""
        stored, user = state.loaded.stored, whose(state.data or {}, self._settings).user
        if user is None:
            return 0
        keep = stored.key if stored else None  # without one, this sign-in is still to be stored
        return self._end_user(state.app, self._store, self._settings, user, keep)

    def _warn_of_processes(self, request: Request) -> None:
        if not self._store.shared and request.environ.get("wsgi.multiprocess"):
            self._say(
                "processes",
                "sessions are kept in memory, but this server runs several processes, which do not"
                " share it: visitors will lose their sessions between them. Set SAFESESSION_STORE"
                " to 'sqlite://' (one machine) or to a redis:// URL",
                logging.WARNING,
            )

    # -- saving ---------------------------------------------------------------------------------

    def _save(self, state: State, response: Response, *, responding: bool) -> None:
        is_socket = flask.has_request_context() and transport.is_socket(flask.request)
        is_final = responding or not is_current(state)
        later = state.dispatched and not is_final and not is_socket
        deliverable = is_final and not is_socket
        key = state.app.secret_key or ""
        delivery = Delivery(deliverable, later, key, self._client(state), self._say)
        try:
            saved = save(state, self._store, self._settings, delivery)
        except UndeliverableSignIn as error:
            state.failed, state.changed = error, True
            raise
        except (StoreUnavailable, StoreFull, SessionTooLarge, TooManySessions, TypeError) as error:
            # From here on nothing more is stored, also while an error page is built.
            state.failed, state.changed = error, True
            if isinstance(error, StoreUnavailable):
                state.note(StoreFailed("save", str(error)))
            return
        if is_final:
            state.seal()
        if state.loaded.total:
            self._watch_the_cap(state.loaded.total)
        if saved.cookie != "keep":
            state.cookie = saved
            self._look_for_a_user(state)
        if state.cookie.cookie != "keep":
            # Also on the error page that takes the place of a response which had this cookie.
            transport.answer_cookie(self, state.app, state, response)

    def _client(self, state: State) -> tuple[str, str] | None:
        """Returns from where the session is used, if that is to be noted."""
        if not (self._settings.record_client and state.loaded.slide and is_current(state)):
            return None
        present = describe_client(flask.request)
        return present.address, present.agent

    def _look_for_a_user(self, state: State) -> None:
        """Log a hint, once, if a session without a user has a key under which users usually are."""
        data = state.data or {}
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


def _leave_exempt(state: State) -> None:
    if state.was_written and not state.warned:
        state.warned = True
        endpoint = flask.request.endpoint
        logger.warning(
            "the session was written in a request for %r, a view that is marked safe.exempt; the"
            " change is not stored. Take the mark off the view, or let what runs before each"
            " request leave the session alone for it (request.endpoint tells)",
            endpoint,
            extra={"endpoint": endpoint},
        )
    state.seal()


def _is_marked(state: State, mark: str) -> bool:
    """Whether the view of the request, or its class, has *mark*."""
    view = state.app.view_functions.get(state.request.endpoint or "")
    return getattr(view, mark, False) or getattr(getattr(view, "view_class", None), mark, False)


def _is_answered(state: State, *, responding: bool) -> bool:
    """Whether a response can say that a save has failed: the one that is built, or a later one.

    There is none for an event of Socket.IO's, for a save by hand in a socket or a stream, and for a
    test's ``session_transaction()``.
    """
    if not is_current(state):
        return False
    follows = state.dispatched and not state.sealed
    return responding or (follows and not transport.is_socket(flask.request))


def _behind_proxy(session: Any) -> Any:
    """Returns the object behind *session*, if that is ``flask.session`` itself."""
    return session._get_current_object() if isinstance(session, LocalProxy) else session
