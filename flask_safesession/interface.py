"""Flask's session interface: the only place where cookies exist.

``open_session`` hands out a session that has looked at nothing; ``save_session`` stores what
changed and sets the cookie only where the browser's must change, and only after the store has said
yes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Any

import flask
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin

from .codec import UndecodableError, decode
from .errors import RETRY_AFTER, SessionTooLarge, StoreFull, StoreUnavailable
from .events import SessionEnded, StoreFailed, emit, logger
from .saving import Saved, identify, save
from .session import Buried, Loaded, Session, SessionInfo, Stored, as_datetime, is_permanent
from .settings import Settings
from .stores.base import CORRUPT, EMPTIED, UNKNOWN, Gone, Store
from .tokens import SessionID, Verified, sign, unsign

#: The attribute that marks a view as passive.
PASSIVE = "_safesession_passive"

# Cookies of our name in one request that are looked at; a browser sends one, two after a change of
# path or domain.
_MAX_COOKIES = 4
# Headers that belong to the page that is replaced. The others (security policies, CORS) stay.
_OF_THE_PAGE = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "etag",
        "expires",
        "last-modified",
        "link",
        "location",
        "set-cookie",
        "transfer-encoding",
        "www-authenticate",
    }
)


class SafeSessionInterface(SessionInterface):
    """Opens and saves sessions of one app.

    :param settings: what the app asked for.
    :param store: where the sessions are.
    :param wake: called with each request; sees to it that the purge job runs in this process.
    """

    def __init__(self, settings: Settings, store: Store, wake: Callable[[], None]) -> None:
        self._settings = settings
        self._store = store
        self._wake = wake
        self._warned_processes = False
        self._nearly_full = False

    def open_session(self, app: Flask, request: Request) -> Session | None:
        """A session that is not loaded yet, or ``None`` (Flask's null session) without a key."""
        if not app.secret_key:
            return None
        self._wake()
        return Session(partial(self._load, app, request), self._describe, self._settings.user_keys)

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
        if session._failed is None:
            self._save(app, session, response)
        if session._failed is not None:
            self._admit_failure(app, session, response, session._failed)
        _vary_by_cookie(response)
        if session._events:
            events, session._events = session._events, ()
            for event in events:
                emit(app, event)

    # -- loading --------------------------------------------------------------------------------

    def _load(self, app: Flask, request: Request, session: Session) -> Loaded:
        self._warn_of_processes(request)
        buried: Loaded | None = None
        for verified in self._verified(app, request):
            found = self._look_up(verified, session, slide=not _is_passive(app, request))
            if found.stored is not None:
                return found
            buried = found if found.buried is not None else buried
        return buried or Loaded({})

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
        verified = [unsign(value, key, fallbacks) for value in values]
        return [good for good in verified if good is not None]

    def _look_up(self, verified: Verified, session: Session, *, slide: bool) -> Loaded:
        sid = verified.sid
        try:
            answer = self._store.load(sid.key, self._settings.rules, slide=slide)
        except StoreUnavailable as error:
            session._note(StoreFailed("load", str(error)))
            raise
        if isinstance(answer, Gone):
            if answer.buried:
                ended = answer.reason != EMPTIED
                return Loaded({}, buried=Buried(sid.key, answer.reason) if ended else None)
            if answer.reason != UNKNOWN:
                self._note_end(session, sid, answer.reason, answer.tier)
            return Loaded({})
        try:
            data = decode(answer.record.payload)
        except UndecodableError:
            self._note_end(session, sid, CORRUPT, answer.record.tier)
            return Loaded({})
        return Loaded(
            data,
            Stored(sid, answer.record),
            stale=not verified.current,
            slide=slide,
            permanent=is_permanent(data),
            now=answer.now,
        )

    def _note_end(self, session: Session, sid: SessionID, reason: str, tier_tag: str) -> None:
        tier = self._settings.rules.policy.name_of(tier_tag)
        session._note(SessionEnded(sid.key, reason, tier))

    def _describe(self, session: Session) -> SessionInfo:
        stored = session._loaded.stored
        who = identify(session._data or {}, self._settings)
        if stored is None:
            return SessionInfo(who.user, who.tier, None, True, None, None, None)
        sid, record = stored
        times = (record.created, record.last_active, record.deadline)
        return SessionInfo(who.user, who.tier, sid.key, False, *map(as_datetime, times))

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
        try:
            saved = save(session, self._store, self._settings)
        except (StoreUnavailable, StoreFull, SessionTooLarge, TypeError) as error:
            # From here on nothing more is stored, also while an error page is built.
            session._failed = error
            session._changed = True
            if isinstance(error, StoreUnavailable):
                session._note(StoreFailed("save", str(error)))
            if not _is_of_this_request(session):
                raise  # a test's session_transaction(): there is no visitor to answer
            return
        if session._loaded.total:
            self._watch_the_cap(session._loaded.total)
        if saved.cookie != "keep":
            session._cookie = saved
        if isinstance(session._cookie, Saved):
            # Also on the error page that takes the place of a response which had this cookie.
            self._answer_cookie(app, session, response, session._cookie)

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
        if saved.fresh and "Cache-Control" not in response.headers:
            response.cache_control.no_store = True

    def _admit_failure(
        self, app: Flask, session: Session, response: Response, error: Exception
    ) -> None:
        """No success is claimed for what was not stored."""
        if session._changed and response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            _replace(response, _handled(app, error))
            claims_success = response.status_code < HTTPStatus.BAD_REQUEST
            if isinstance(error, (StoreUnavailable, StoreFull)) and claims_success:
                response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        unavailable = response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        if unavailable and "Retry-After" not in response.headers:
            response.headers["Retry-After"] = str(RETRY_AFTER)

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


def _is_passive(app: Flask, request: Request) -> bool:
    view = app.view_functions.get(request.endpoint or "")
    return getattr(view, PASSIVE, False)


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


def _handled(app: Flask, error: Exception) -> Response:
    """The app's response to *error*, as if a view had raised it.

    :raises Exception: *error* itself, where the app has no handler for it.
    """
    try:
        raise error  # noqa: TRY301  # handlers expect the exception that is being handled
    except Exception:  # noqa: BLE001  # and it is raised again where there is none
        handle: Any = app.handle_user_exception
        # Flask after 3.1 passes the context first.
        takes_context = len(inspect.signature(handle).parameters) > 1
        proxy: Any = flask.globals.app_ctx
        context = [proxy._get_current_object()] if takes_context else []
        return app.make_response(handle(*context, error))


def _replace(response: Response, by: Response) -> None:
    """Make *response* say what *by* says. Flask has it already and takes no other."""
    if hasattr(old := response.response, "close"):
        old.close()
    kept = [(name, v) for name, v in response.headers if name.lower() not in _OF_THE_PAGE]
    response.headers.clear()
    response.headers.extend(by.headers)
    response.headers.extend((name, v) for name, v in kept if name not in by.headers)
    response.status = by.status
    response.response = by.response
    response.direct_passthrough = by.direct_passthrough
    response._on_close.extend(by._on_close)
