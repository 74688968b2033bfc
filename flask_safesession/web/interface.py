"""Flask's session interface.

``open_session`` returns a session that has read neither cookie nor store. ``save_session`` stores
what changed. It sets the cookie only if the browser's must change, after the store has confirmed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, update_wrapper
from inspect import ismethod
from typing import Any, TypeVar, cast

from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.local import LocalProxy

from ..config.overrides import Overrides
from ..config.settings import READONLY
from ..errors import StoreUnavailable, UndeliverableSignIn, UnfitStore
from ..events import Once, StoreFailed, logger
from ..model.identity import TYPICAL_KEYS
from ..model.policy import Limits
from . import hooks, transport
from .adoption import Adoption
from .change import Delivery, whose
from .client import describe_client
from .info import SessionInfo, info_of
from .loading import Loader
from .outage import answer_failure, as_outage
from .saving import save
from .scratch import Scratch
from .session import Session, is_current, state_of
from .state import Loaded, State
from .writing import NOT_STORED

_View = TypeVar("_View", bound=Callable[..., Any])

#: The attribute that marks a view as passive.
PASSIVE = "_safesession_passive"
#: The attribute that marks a view as exempt.
EXEMPT = "_safesession_exempt"


class SafeSessionInterface(SessionInterface):
    """Opens and saves sessions of one app.

    :param overrides: holds the app's current settings and its store.
    :param wake: called at each request; starts the purge job in this process if it is not running.
    :param end_user: ends all sessions of a user except one, and returns how many it ended.
    :param adoption: finds sessions in older places; ``None``: there are none.
    """

    def __init__(
        self,
        overrides: Overrides,
        wake: Callable[[], None],
        end_user: Callable[..., int],
        adoption: Adoption | None = None,
    ) -> None:
        self._overrides = overrides
        self._wake = wake
        self._end_user = end_user
        self._nearly_full = False
        self._say = Once()
        self.loader: Loader = Loader(overrides, self._say, adoption)

    def open_session(self, app: Flask, request: Request) -> Session | None:
        """Returns a session, not yet loaded; ``None`` (a null session) without a secret key."""
        if not app.secret_key:
            return None
        self._wake()
        return Session(State(self, app, request, self._overrides.settings.user_key.names))

    def save_session(
        self,
        app: Flask,  # noqa: ARG002  # as Flask calls it
        session: SessionMixin,
        response: Response,
    ) -> None:
        """Store what changed; set or delete the cookie if it must change.

        If the save fails, *response* becomes that of the app's error handler: Flask would turn an
        exception here into a 500, and call this again for that page.
        """
        if isinstance(session, LocalProxy):  # flask.session itself
            session = session._get_current_object()
        if not isinstance(session, Session):
            return
        state = state_of(session)
        responding, state.responding = state.responding, False  # once for each response
        if state.data is None:
            state.sealed = responding
        elif isinstance(state.data, Scratch) and state.data.failed is None:
            _leave_exempt(state)
        else:
            self._finish(state, response, responding=responding)

    def _finish(self, state: State, response: Response, *, responding: bool) -> None:
        is_own = responding or is_current(state)
        is_final = responding or not is_own
        is_socket = transport.is_socket(state.request)
        # A save by hand inside a view: the response is still to come.
        later = state.dispatched and not is_final and not is_socket
        is_answered = responding or (later and not state.sealed)
        if state.failed is None:
            deliverable = is_final and not is_socket
            self._save(state, response, is_own=is_own, deliverable=deliverable, later=later)
        if state.failed is None:
            if is_final:
                state.seal()
        elif is_answered:
            answer_failure(state, response, state.failed)
        else:
            # No response can report it: an event of Socket.IO's, a save by hand in a socket or a
            # stream, a test's session_transaction().
            raise state.failed
        if isinstance(state.data, Scratch):
            state.seal()
            # The page is an anonymous visitor's, at the address of a user's.
            transport.keep_out_of_shared_caches(response)
        transport.vary_by_cookie(response)
        state.send_events()

    # -- called by the session ----------------------------------------------------------------

    def load(self, state: State) -> Loaded:
        """Returns the session behind the request's cookies, with its data.

        The mark of a view is read here because Flask matches the URL after opening the session. (A
        URL converter that uses the session is too early to see the mark, and an event of
        Socket.IO's is unrelated to a view that matches its address.)

        :raises StoreUnavailable: the store did not answer, and the request cannot do without it.
        :raises ConfigError: the store is memory that the server's processes do not share.
        """
        view = _view_of(state) if state.dispatched else None
        if _is_marked(view, EXEMPT):
            return Loaded(Scratch())
        try:
            slide = not _is_marked(view, PASSIVE)
            return self.loader.find(state, self.get_cookie_name(state.app), slide=slide)
        except (StoreUnavailable, UnfitStore) as found:
            error = as_outage(found)
            state.note(StoreFailed("load", str(error)))
            if not self._may_be_anonymous(state):
                raise error from error.__cause__
            state.failed = error
            return Loaded(Scratch(error))
        finally:
            # In a stream or an event, no response follows that would send them.
            if state.sealed or not state.dispatched:
                state.send_events()

    def _may_be_anonymous(self, state: State) -> bool:
        """Whether the outage policy gives the request an empty session.

        Only safe requests for pages get one: what a signed-in user posts, or sends over a socket,
        must not be done as an anonymous visitor, and a logout that found no user to sign out must
        not claim success.
        """
        is_safe = state.request.method in hooks.SAFE_METHODS
        is_page = state.dispatched and not transport.is_socket(state.request)
        is_lenient = self._overrides.settings.on_outage == READONLY
        return is_lenient and is_safe and is_page and is_current(state)

    def describe(self, state: State) -> SessionInfo:
        """Returns the info of the session as it is now."""
        loaded, data = state.loaded, state.data or {}
        who = whose(data, self._overrides.settings)
        if loaded.stored is None:
            info = SessionInfo(who.user, who.tier, None, True, None, None, None)
        else:
            stored = loaded.stored
            info = info_of(stored.key, stored.record, stored.note, who, data, loaded.now)
        return info._replace(ended_reason=loaded.ended)

    def limits(self, state: State) -> Limits:
        """Returns the limits of the session's tier as it is now."""
        settings = self._overrides.settings
        return settings.rules.policy.limits(whose(state.data or {}, settings).tier)

    def end_others(self, state: State) -> int:
        """End the other sessions of this session's user. Returns how many it ended."""
        stored, user = state.loaded.stored, whose(state.data or {}, self._overrides.settings).user
        if user is None:
            return 0
        keep = stored.key if stored else None  # without one, this sign-in is still to be stored
        return self._end_user(
            state.app, self._overrides.opened, self._overrides.settings, user, keep
        )

    # -- saving ---------------------------------------------------------------------------------

    def _save(
        self, state: State, response: Response, *, is_own: bool, deliverable: bool, later: bool
    ) -> None:
        endpoint = state.request.endpoint if is_own else None
        key, client = state.app.secret_key or "", self._client(state) if is_own else None
        delivery = Delivery(deliverable, later, key, client, self._say, endpoint)
        try:
            saved = save(state, self._overrides.store, self._overrides.settings, delivery)
        except (*NOT_STORED, UnfitStore, TypeError, UndeliverableSignIn) as found:
            error = as_outage(found) if isinstance(found, UnfitStore) else found
            # From now on nothing more is stored, not even while an error page is built.
            state.failed, state.changed = error, True
            if isinstance(error, UndeliverableSignIn):
                raise
            if isinstance(error, StoreUnavailable):
                state.note(StoreFailed("save", str(error)))
            return
        if state.loaded.total:
            self._watch_the_cap(state.loaded.total)
        if saved.cookie != "keep":
            state.saved = saved
            self._look_for_a_user(state)
        if state.saved.cookie != "keep":
            # Also on an error page that replaces a response with this cookie.
            transport.answer_cookie(self, state, response)

    def _client(self, state: State) -> tuple[str, str] | None:
        """Returns address and browser of the current request, if they are to be recorded."""
        wanted = self._overrides.settings.record_client and state.loaded.slide
        return describe_client(state.request) if wanted else None

    def _look_for_a_user(self, state: State) -> None:
        """Log a hint, once, if a session without a user has a typical user key."""
        data = state.data or {}
        found = next((key for key in TYPICAL_KEYS if data.get(key)), None)
        if found is not None and whose(data, self._overrides.settings).user is None:
            self._say(
                "typical-key",
                f"a session without a user has session[{found!r}]. If that is its user, set"
                " SAFESESSION_USER_KEY to it: otherwise a sign-in gives no new ID, and the user's"
                " sessions can be neither listed nor ended",
                logging.INFO,
            )

    def _watch_the_cap(self, total: int) -> None:
        """Warn once at 80 % of the cap, and again after it was under 75 %."""
        cap = self._overrides.settings.rules.cap.total
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
        endpoint = state.request.endpoint
        logger.warning(
            "the session was written in a request for %r, a view that is marked safe.exempt; the"
            " change is not stored. Remove the mark from the view, or make before_request functions"
            " skip the session for it (compare request.endpoint)",
            endpoint,
            extra={"endpoint": endpoint},
        )
    state.seal()


def marked(view: _View, mark: str) -> _View:
    """Returns *view* with a mark. A bound method takes none, so a function stands in for it."""
    if ismethod(view):
        view = cast(_View, update_wrapper(partial(view), view))
    setattr(view, mark, True)
    return view


def _view_of(state: State) -> Any:
    return state.app.view_functions.get(state.request.endpoint or "")


def _is_marked(view: Any, mark: str) -> bool:
    """Whether a view, or its class, has *mark*."""
    return getattr(view, mark, False) or getattr(getattr(view, "view_class", None), mark, False)
