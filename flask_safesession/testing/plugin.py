"""The sessions of an app in a test: what the pytest plugin's fixtures return.

Nothing here imports pytest: an :class:`AppKit` works under any test runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar, cast, get_args

from flask import Flask
from flask.testing import FlaskClient

from ..config.settings import Settings
from ..events import Event, SessionEnded, emit
from ..model.policy import ANONYMOUS_TIER, DEFAULT_TIER, MAX_DURATION, Limits, Policy, milliseconds
from ..model.reason import Reason
from ..model.tokens import new_stamp
from ..stores.base import Gone, Live, Rules, Store
from ..stores.opening import Opened
from ..web.info import SessionInfo
from ..web.interface import SafeSessionInterface
from ..web.session import Session, state_of
from .tampering import Clock, clock_of, down

_E = TypeVar("_E")

# Limits for the load of expire(): they end a session at once.
_AT_ONCE = {"idle": Limits(0, MAX_DURATION, 0), "lifetime": Limits(MAX_DURATION, 0, 0)}
# Flask-Login's key for the user, also SafeSession's first.
_LOGIN_KEY = "_user_id"


class AppKit:
    """The sessions of one app in a test; the fixture ``safesession`` returns one.

    It is a context manager. On ``memory://`` time stands still in it, and after it the store and
    its clock are as they were before. On a server, changes stay.

    :param app: an app with SafeSession.
    :param advance: for your own store: called with milliseconds to let time pass for it.
    :raises TypeError: *app* has no SafeSession.
    """

    def __init__(self, app: Flask, *, advance: Callable[[int], None] | None = None) -> None:
        state = getattr(app, "extensions", {}).get("safesession")
        if state is None:
            raise TypeError(f"{app!r} has no SafeSession: call SafeSession(app) before the test")
        self.app: Flask = app
        #: Payloads of the signals since the test began, in order.
        self.events: list[Event] = []
        self._state = state
        self._opened: Opened = state.overrides.bare
        self._store: Store = self._opened.store
        self._given = advance
        self._clock: Clock | None = None

    def __enter__(self) -> Self:
        self._clock = clock_of(self._opened, self._given)
        for kind in get_args(Event):
            kind.signal.connect(self._receive, self.app)
        return self

    def __exit__(self, *exc: object) -> None:
        for kind in get_args(Event):
            kind.signal.disconnect(self._receive, self.app)
        if self._clock is not None:
            self._clock.restore()

    # -- time -----------------------------------------------------------------------------------

    def travel(self, duration: object) -> None:
        """Let time pass for the store: sessions get older, and nothing else does.

        The clocks of your app and of Python stay as they are. On a server, all sessions under the
        app's prefix are made older instead.

        :param duration: as in the settings: seconds, a ``timedelta``, or text such as ``"31m"``.
        :raises ValueError: it is not a duration.
        :raises RuntimeError: the store is your own, and *advance* was not given.
        """
        if self._clock is None:
            raise RuntimeError("an AppKit is a context manager: time passes inside its with block")
        self._clock.advance(milliseconds(duration))

    # -- sign in --------------------------------------------------------------------------------

    def sign_in(
        self,
        user: object,
        tier: str | None = None,
        *,
        client: FlaskClient | None = None,
        data: Mapping[str, Any] | None = None,
        key: str | None = None,
        **request: Any,
    ) -> FlaskClient:
        """Returns a client with a session of *user*, as after a login; no view is called.

        With Flask-Login in the app, the session is as after ``login_user``. A client that has a
        session gets a new ID, as at every login, and keeps its data.

        :param user: the value for the session, or a user object of Flask-Login's.
        :param tier: the name of a tier in the settings.
        :param client: the client to sign in; by default a new one.
        :param data: more data for the session.
        :param key: the session key for the user; by default one of ``SAFESESSION_USER_KEY``.
        :param request: arguments as for ``app.test_request_context()``, such as ``base_url``.
        :raises ValueError: there is no such tier.
        :raises StoreUnavailable: the store did not answer.
        """
        self._check_tier(tier)
        client = client or self.app.test_client()
        login = getattr(self.app, "login_manager", None)
        key = key or self._user_key(login)
        with self._transaction(client, request) as session:
            if login is not None and key == _LOGIN_KEY:
                user = str(user.get_id() if hasattr(user, "get_id") else user)
                session.update(_fresh=True, _id=self._identifier(client, login, request))
            session[key] = user
            if tier is not None:
                session[self._settings.tier_key] = tier
            session.update(data or {})
            session.confirm_sign_in()  # also for the same user
        return client

    def _check_tier(self, tier: str | None) -> None:
        tiers = [name for name in self._settings.rules.policy.tiers if name != ANONYMOUS_TIER]
        if tier not in (None, DEFAULT_TIER, *tiers):
            known = ", ".join(tiers) or "none"
            raise ValueError(f"SAFESESSION_TIERS has no tier {tier!r} for users; it has {known}")

    def _user_key(self, login: object) -> str:
        keys = self._settings.user_key.names
        if not keys:
            raise ValueError("SAFESESSION_USER_KEY is a function: give key=, the key to assign")
        if login is not None and _LOGIN_KEY in keys:
            return _LOGIN_KEY
        return next((key for key in keys if key != _LOGIN_KEY), keys[0])

    def _identifier(self, client: FlaskClient, login: Any, request: Mapping[str, Any]) -> str:
        """Returns Flask-Login's identifier of the client, for its ``session_protection``."""
        with self.app.test_request_context(**self._options(client, request)):
            return str(login._session_identifier_generator())

    # -- one client's session -------------------------------------------------------------------

    def read(self, client: FlaskClient) -> dict[str, Any] | None:
        """Returns the data of the client's session; ``None`` without a live one. Does not slide."""
        session = self._peek(client)
        return None if session.new else session.copy()

    def info(self, client: FlaskClient) -> SessionInfo | None:
        """Returns user, tier, handle and times of the client's session; ``None``: none is live."""
        session = self._peek(client)
        return None if session.new else session.info

    @contextmanager
    def change(self, client: FlaskClient, **request: Any) -> Iterator[Session]:
        """Yields the client's session, to change it in a ``with`` block as a view would.

        :param request: arguments as for ``app.test_request_context()``.
        :raises LookupError: the client has no live session.
        """
        self._live(client)
        with self._transaction(client, request) as session:
            yield session

    def expire(self, client: FlaskClient, reason: Literal["idle", "lifetime"] = "idle") -> None:
        """End the client's session by a timeout, now; other sessions stay as they are.

        :param reason: the limit that ends it.
        :raises LookupError: the client has no live session.
        """
        handle = self._live(client)
        rules = Rules(Policy("sliding", _AT_ONCE[reason]), self._settings.rules.cap)
        gone = self._store.load(handle, rules, slide=False)
        if isinstance(gone, Gone) and not gone.has_tombstone:
            self._emit_end(handle, gone.reason, gone.tier)

    def end(self, client: FlaskClient, reason: str = Reason.REVOKED) -> None:
        """End the client's session as an administrator would, or from another device.

        :raises LookupError: the client has no live session.
        """
        handle = self._live(client)
        ended = self._store.end(handle, new_stamp(), reason, None)
        if isinstance(ended, Live):
            self._emit_end(handle, reason, ended.record.tier)

    # -- the store ------------------------------------------------------------------------------

    @contextmanager
    def outage(self, *operations: str) -> Iterator[None]:
        """Take the store down while the ``with`` block lasts.

        :param operations: only these: ``"load"``, ``"create"``, ``"commit"``, ``"rotate"``,
            ``"end"``, and others of the store; by default all.
        :raises ValueError: the store has no such operation.
        """
        with down(self._opened, operations):
            yield

    def happened(self, kind: type[_E]) -> list[_E]:
        """Returns those of :attr:`events` of one kind, such as ``SessionEnded``."""
        return [event for event in self.events if isinstance(event, kind)]

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _settings(self) -> Settings:
        return cast(Settings, self._state.settings)

    def _receive(self, sender: object, event: Event) -> None:
        del sender
        self.events.append(event)

    def _emit_end(self, handle: str, reason: str, tier_tag: str) -> None:
        tier = self._settings.rules.policy.name_of(tier_tag)
        emit(self.app, SessionEnded(handle, reason, tier))

    @contextmanager
    def _transaction(self, client: FlaskClient, request: Mapping[str, Any]) -> Iterator[Session]:
        with client.session_transaction(**self._options(client, request)) as session:
            yield cast(Session, session)

    def _options(self, client: FlaskClient, request: Mapping[str, Any]) -> dict[str, Any]:
        """Returns arguments for a request like the client's own: same path, same environment."""
        path = self.app.session_interface.get_cookie_path(self.app)
        return {"path": path, "environ_base": client.environ_base, **request}

    def _live(self, client: FlaskClient) -> str:
        info = self.info(client)
        if info is None or info.handle is None:
            raise LookupError("the client has no live session: sign it in, or let it make one")
        return info.handle

    def _peek(self, client: FlaskClient) -> Session:
        """Returns the client's session, without the slide that a request would make."""
        interface = cast(SafeSessionInterface, self.app.session_interface)
        name = interface.get_cookie_name(self.app)
        # Of every path and domain: the session is that of the client, not of one address.
        cookies = [c for c in (client._cookies or {}).values() if c.key == name]
        header = {"HTTP_COOKIE": "; ".join(f"{name}={cookie.value}" for cookie in cookies)}
        environ = {**client.environ_base, **header}
        request = self.app.test_request_context(environ_base=environ).request
        session = interface.open_session(self.app, request)
        if session is None:
            raise RuntimeError("there are no sessions without app.secret_key: set one")
        state = state_of(session)
        state.hold(interface.loader.find(state, name, slide=False))
        state.send_events()
        return session
