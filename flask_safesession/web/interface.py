"""Flask's session interface.

``open_session`` hands out a session that has looked at nothing; ``save_session`` stores what
changed and sets the cookie only where the browser's must change, and only after the store has said
yes.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
from ..events import SessionEnded, StoreFailed, emit, logger
from ..model import note as notes
from ..model.codec import decode
from ..model.identity import TYPICAL_KEYS
from ..model.note import GOOD, Note, Secret
from ..model.record import Draft, Record
from ..model.tokens import NO_USER, SessionID, Verified, new_stamp, tier_tag
from ..stores.base import CORRUPT, REPLAYED, ROTATED, UNKNOWN, Conflict, Gone, Live, Store
from . import collisions, transport
from .change import Delivery, whose
from .client import describe_client
from .info import SessionInfo, info_of
from .outage import admit
from .saving import MAX_STAND_INS, Saved, end_stolen, ends, save
from .scratch import Scratch
from .session import Loaded, Session, Stored, Suspect

#: The attribute that marks a view as passive.
PASSIVE = "_safesession_passive"
#: The attribute that marks a view as exempt.
EXEMPT = "_safesession_exempt"

# Methods that ask for nothing but an answer (RFC 9110, 9.2.1).
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Where a socket keeps the key of the session that its handshake was served.
_SOCKET_KEY = "flask_safesession.key"
# Corrupt records that were reported by this process: each is reported once.
_REPORTED = 1000
# Tries of noting that a replaced secret came back, should others write at that moment.
_TRIES = 3


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
        self._said: set[str] = set()
        self._corrupt: OrderedDict[str, None] = OrderedDict()

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
        """
        is_view = session._dispatched and _is_of_this_request(session)
        if is_view and _is_marked(app, request, EXEMPT):
            return Loaded(Scratch())
        self._warn_of_processes(request)
        try:
            slide = not (is_view and _is_marked(app, request, PASSIVE))
            return self.find(app, request, session, slide=slide)
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
        is_page = session._dispatched and not _is_socket(request)
        return lenient and is_page and _is_of_this_request(session)

    def find(self, app: Flask, request: Request, session: Session, *, slide: bool) -> Loaded:
        """The session behind the cookies of *request*.

        :raises StoreUnavailable: the store did not answer.
        """
        over, name = Loaded({}, slide=slide), self.get_cookie_name(app)
        known = transport.verified(app, request, name)
        for verified in known:
            found = self._look_up(request, verified, session, slide=slide)
            if found.stored is not None:
                return found
            ended, is_known = over.ended or found.ended, over.is_known or found.is_known
            suspect = over.suspect or found.suspect
            first = over if over.dead is not None else found
            over = first._replace(ended=ended, is_known=is_known, suspect=suspect)
        if over.suspect is not None and self._judge(request, session, over.suspect):
            over = over._replace(ended=over.ended or REPLAYED)
        if not over.is_known:
            values = partial(transport.values, request, name)
            collisions.watch(app, request, values, verified=bool(known))
        return over if over.dead is None else self._stand_in(over, over.dead, session)

    def _look_up(
        self, request: Request, verified: Verified, session: Session, *, slide: bool
    ) -> Loaded:
        sid = verified.sid
        over = Loaded({}, dead=sid, slide=slide)
        answer = self._store.load(sid.key, self._settings.rules, slide=slide)
        if isinstance(answer, Gone):
            self._report_end(session, sid.key, answer)
            rotated, known = answer.buried and answer.reason == ROTATED, answer.reason != UNKNOWN
            return over._replace(rotated=rotated, ended=answer.to_be_told, is_known=known)
        over = over._replace(is_known=True)
        try:
            stored, data = self._read(session, sid.key, answer)
        except ValueError:
            return over
        age, grace = answer.now - stored.record.created, self._settings.renew_grace
        secret = notes.judge(stored.note, sid.secret_digest(), age, grace)
        if secret not in GOOD and not _is_resolved(request, session, sid.key):
            return over._replace(suspect=Suspect(stored, secret, age))
        _resolve(request, session, sid.key)
        return Loaded(
            data,
            stored._replace(sid=sid, secret=secret),
            stale=not verified.current,
            slide=slide,
            now=answer.now,
        )

    def _stand_in(self, over: Loaded, dead: SessionID, session: Session) -> Loaded:
        """The session that stands in for an ID that is over; new, if there is none yet."""
        for number in range(MAX_STAND_INS):
            key = dead.stand_in(number)
            answer = self._store.load(key, self._settings.rules, slide=over.slide)
            found = over._replace(stand_in=number)
            if isinstance(answer, Gone):
                self._report_end(session, key, answer)
                if not answer.buried:
                    return found
                if (key := answer.successor) and not answer.user:
                    # It has an ID of its own, whose response may be lost or on its way.
                    answer = self._store.load(key, self._settings.rules, slide=over.slide)
            if isinstance(answer, Live):
                with suppress(ValueError):
                    stored, data = self._read(session, key, answer)
                    stored = stored._replace(stand_in=key == dead.stand_in(number))
                    return found._replace(data=data, stored=stored, now=answer.now)
        return over._replace(stand_in=MAX_STAND_INS)

    def _read(self, session: Session, key: str, answer: Live) -> tuple[Stored, dict[Any, Any]]:
        """What is stored under *key*, filed as its data says, and these data.

        :raises ValueError: it cannot be read.
        """
        record = answer.record
        try:
            note, data = notes.loads(record.note), decode(record.payload)
        except ValueError:
            tier = self._settings.rules.policy.name_of(record.tier)
            self._report_corrupt(session, key, tier)
            raise
        who = whose(data, self._settings)
        if who.refused:
            self._say("user", f"{who.refused}. It counts as no user", logging.WARNING)
        if not who.failed and (who.user_tag, tier_tag(who.tier)) != (record.user, record.tier):
            record = self._refile(key, record, who.user_tag, who.tier)
        return Stored(key, record, note, who), data

    def _refile(self, key: str, record: Record, user: str, tier: str) -> Record:
        """File a session anew whose user or tier was read otherwise when it was stored.

        It is bookkeeping: where it cannot be done now, the next load tries again.
        """
        limits = self._settings.rules.policy.limits(tier)
        draft = Draft(new_stamp(), limits.idle, limits.lifetime, tier_tag(tier), user, b"")
        with suppress(StoreUnavailable):
            answer = self._store.refile(key, draft, record.stamps[0])
            if isinstance(answer, Live):
                return answer.record
        return record

    def _judge(self, request: Request, session: Session, suspect: Suspect) -> bool:
        """A replaced secret came back: note it, or end the session; whether its visitor is shown.

        Only where the browser has no better cookie: it may keep an old one for another path.
        Sockets judge nobody: their handshake's cookie stays as it was.
        """
        stored, secret, age = suspect
        if not session._dispatched or _is_socket(request):
            return False
        if secret is Secret.REPLACED:
            self._note_strike(stored, max(1, age))
        if secret is not Secret.REPLACED_AGAIN:
            return False
        events = list(end_stolen(self._store, self._settings, stored.key))
        for event in events:
            session._note(event)
        return bool(events) and stored.record.user != NO_USER

    def _note_strike(self, stored: Stored, age: int) -> None:
        """Note that a replaced secret came back; if that cannot be, nobody is reported."""
        note, record = stored.note, stored.record
        with suppress(StoreUnavailable, ValueError):
            for _ in range(_TRIES):
                draft = _same(record, note._replace(strike=age))
                answer = self._store.commit(stored.key, draft, record.stamps[0], touch=None)
                if not isinstance(answer, Conflict):
                    return
                record, note = answer.record, notes.loads(answer.record.note)

    def _report_end(self, session: Session, key: str, answer: Gone) -> None:
        if answer.reason == CORRUPT:
            self._report_corrupt(session, key, self._settings.rules.policy.name_of(answer.tier))
            return
        for event in ends(key, answer, self._settings):
            session._note(event)

    def _report_corrupt(self, session: Session, key: str, tier: str) -> None:
        """Report once what cannot be read: it stays until it is due, and is met at every use."""
        if key not in self._corrupt:
            self._corrupt[key] = None
            if len(self._corrupt) > _REPORTED:
                self._corrupt.popitem(last=False)
            session._note(SessionEnded(key, CORRUPT, tier))

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

    def _warn_of_processes(self, request: Request) -> None:
        if not self._store.shared and request.environ.get("wsgi.multiprocess"):
            self._say(
                "processes",
                "sessions are kept in memory, but this server runs several processes, which do not"
                " share it: visitors will lose their sessions between them. Set SAFESESSION_STORE"
                " to 'sqlite://' (one machine) or to a redis:// URL",
                logging.WARNING,
            )

    def _say(self, name: str, text: str, level: int = logging.WARNING) -> None:
        """Log *text*, once."""
        if name not in self._said:
            self._said.add(name)
            logger.log(level, "%s", text)

    # -- saving ---------------------------------------------------------------------------------

    def _save(self, app: Flask, session: Session, response: Response, *, responding: bool) -> None:
        is_socket = flask.has_request_context() and _is_socket(flask.request)
        is_final = responding or not _is_of_this_request(session)
        later = session._dispatched and not is_final and not is_socket
        deliverable = is_final and not is_socket
        delivery = Delivery(deliverable, later, self._client(session), self._say)
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
    return flask.has_request_context() and _behind_proxy(flask.session) is session


def _is_answered(session: Session, *, responding: bool) -> bool:
    """Whether a response can say that a save has failed: the one that is built, or a later one.

    There is none for an event of Socket.IO's, for a save by hand in a socket or a stream, and for a
    test's ``session_transaction()``.
    """
    follows = session._dispatched and not session._saved and not _is_socket(flask.request)
    return _is_of_this_request(session) and (responding or follows)


def _is_socket(request: Request) -> bool:
    """Whether *request* opens a WebSocket: its response is not one that delivers a cookie."""
    upgrade = request.environ.get("HTTP_UPGRADE", "").lower() == "websocket"
    return upgrade or bool(getattr(request.url_rule, "websocket", False))


def _is_resolved(request: Request, session: Session, key: str) -> bool:
    """Whether the handshake of this socket was served that session."""
    return not session._dispatched and request.environ.get(_SOCKET_KEY) == key


def _resolve(request: Request, session: Session, key: str) -> None:
    """Let later events of a socket have the session that its handshake's cookie led to."""
    if not session._dispatched:
        request.environ[_SOCKET_KEY] = key


def _same(record: Record, note: Note) -> Draft:
    """*record* once more, with another note."""
    return Draft(
        new_stamp(),
        record.idle,
        record.absolute - record.created,
        record.tier,
        record.user,
        record.payload,
        notes.dumps(note),
    )


def _behind_proxy(session: Any) -> Any:
    """The object behind *session*, should it be ``flask.session`` itself."""
    return session._get_current_object() if isinstance(session, LocalProxy) else session


def _own_session() -> Session | None:
    session = _behind_proxy(flask.session)
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
