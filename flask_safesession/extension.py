"""``SafeSession``: reads the settings, opens the store, installs the interface and the job."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar, Unpack, cast

import flask
from flask import Flask, current_app, has_app_context, has_request_context

from .admin import cli, directory
from .admin.directory import Page
from .admin.job import PurgeJob
from .admin.lost_settings import Takeover, report_lost_settings
from .admin.neighbours import Neighbours
from .admin.people import People
from .admin.purge import PurgeReport, purge, total
from .admin.stats import Stats, stats_of
from .config import donor
from .config.arguments import SettingsDict
from .config.overrides import Overrides, Own, Tuned
from .config.settings import Settings
from .errors import ConfigError, NotFresh, StoreUnavailable
from .events import Event, emit, logger
from .model.policy import milliseconds
from .model.text import name_of
from .stores.base import Store
from .stores.deferred import DeferredStore
from .stores.opening import Opened, open_store, place_of
from .web import collisions, hooks
from .web.adoption import Adoption, end_all
from .web.adoption.opening import open_adoption
from .web.client import label_of
from .web.info import SessionInfo
from .web.interface import EXEMPT, PASSIVE, SafeSessionInterface, marked
from .web.session import Session, current_state

#: The same proxy as :data:`flask.session`, typed as :class:`Session`.
session: Session = cast(Session, flask.session)

_View = TypeVar("_View", bound=Callable[..., Any])
_EXTENSION = "safesession"


@dataclass(frozen=True)
class State:
    """The extension's state of one app, at ``app.extensions["safesession"]``."""

    overrides: Overrides
    job: PurgeJob
    takeover: Takeover
    #: Where the sessions are stored: apps of one process with equal places share them.
    place: Hashable = field(repr=False)  # a URL may hold a password
    #: ``None`` without ``SAFESESSION_ADOPT``.
    adoption: Adoption | None = None
    #: What operators call users.
    people: People = field(default_factory=People)

    @property
    def settings(self) -> Settings:
        """The settings that the app currently uses."""
        return self.overrides.settings

    @property
    def opened(self) -> Opened:
        """The app's store, with the hooks around its calls."""
        return self.overrides.opened

    @property
    def store(self) -> Store:
        """The store of :attr:`opened`."""
        return self.overrides.store


class SafeSession:
    """Server-side sessions for Flask that end when they should.

    In its shortest form::

        app = Flask(__name__)
        SafeSession(app, idle_timeout="10m")

    :param app: the app to set up now; otherwise call :meth:`init_app`, for one app or several.
    :param overrides: settings in lower case without the prefix; they win over ``app.config``.
    :raises ConfigError: with every problem in the settings.
    """

    def __init__(self, app: Flask | None = None, **overrides: Unpack[SettingsDict]) -> None:
        self._overrides = overrides
        # In the order of init_app, which a set would not keep. The values are unused.
        self._apps: weakref.WeakKeyDictionary[Flask, None] = weakref.WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, **overrides: Unpack[SettingsDict]) -> None:
        """Install the session interface, the purge job and the commands on *app*.

        A shared store must have as many shards as the settings say. The app also starts while its
        store is down.

        :param overrides: settings for this app; they win over those of the constructor.
        :raises ConfigError: with every problem in the settings.
        :raises TypeError: *app* is not a Flask app.
        """
        if not isinstance(app, Flask):
            raise TypeError(
                f"SafeSession takes a Flask app, not an object of class {name_of(type(app))};"
                " settings are given by name, as in SafeSession(app, store=...)"
            )
        if _EXTENSION in app.extensions:
            raise ConfigError(
                [f"app {app.name!r} has SafeSession already: make it once, or call init_app once"]
            )
        own = Own.read(app.config, {**self._overrides, **overrides})
        given, opened = _open(app, own.settings)
        current = Overrides(app, opened, own)
        adoption = open_adoption(app, current)
        neighbours = Neighbours(app, current, own.settings)
        if not (_is_command() or isinstance(opened.store, DeferredStore)):
            _begin(opened, current, neighbours)
        report_lost_settings(app.config, own)
        place = place_of(opened, given, own.settings.key_prefix)
        job = PurgeJob(app, current, neighbours)
        state = State(current, job, Takeover(app), place, adoption)
        app.extensions[_EXTENSION] = state
        collisions.register(app, place)
        if own.settings.record_client:
            label_of("")  # loads the patterns, so that no visitor has to wait for that
        app.session_interface = SafeSessionInterface(
            current, state.job.wake, directory.end_user, adoption
        )
        hooks.install(app)
        app.cli.add_command(cli.commands)
        self._apps[app] = None

    def count(self) -> int:
        """Returns the number of live sessions in the store.

        With several stores, this and the following methods use that of the current app.

        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        return state.opened.need_index().count(state.settings.rules).total

    def stats(self) -> Stats:
        """Returns the number of sessions, and the state of their servers as this process sees it.

        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        return stats_of(state.opened, state.settings)

    def servers(self) -> Mapping[str, str]:
        """Returns the state of each server's circuit breaker, for probes. Makes no store call.

        ``closed``: the server answers; ``open``: it is down; ``half-open``: it is tried again.
        """
        return self._state()[1].opened.states()

    def purge(self) -> PurgeReport:
        """Remove due sessions now. The purge job does so regularly.

        :raises StoreUnavailable: the store did not answer.
        """
        app, state = self._state()
        state.overrides.refresh()
        state.opened.need_index()
        shards = state.opened.shards
        settings = state.settings.for_shards(len(shards))
        return total([purge(app, shard, settings) for shard in shards])

    def reconfigure(  # noqa: PLR0913  # one for each setting
        self,
        *,
        idle_timeout: Any = ...,
        lifetime: Any = ...,
        longest_lifetime: Any = ...,
        tiers: Any = ...,
        max_sessions: Any = ...,
        check_interval: Any = ...,
        by: str | None = None,
        dry_run: bool = False,
        reset: bool = False,
    ) -> Tuned:
        """Change settings of all processes on the store, within one check interval of each.

        Arguments are as in the settings. ``None`` restores the app's own setting; an omitted one
        stays as it is. ``tiers`` needs only the tiers that change. Shorter limits apply to existing
        sessions, longer ones from each session's next change on.

        :param by: who changes them, for :meth:`tuned` and the log.
        :param dry_run: change nothing, and count the sessions that would end (``would_end``).
        :param reset: restore every setting that is not given.
        :raises ConfigError: these settings cannot be used, with every problem.
        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        asked = {
            "idle_timeout": idle_timeout,
            "lifetime": lifetime,
            "longest_lifetime": longest_lifetime,
            "tiers": tiers,
            "max_sessions": max_sessions,
            "check_interval": check_interval,
        }
        changes = {name: value for name, value in asked.items() if value is not ...}
        tuned = state.overrides.tune(changes, by=by, reset=reset, dry_run=dry_run)
        state.job.adopt()
        return tuned

    def tuned(self) -> Tuned | None:
        """Returns the settings that override the app's own in this process, who set them and when.

        ``None``: none were ever set. Makes no store call.
        """
        return self._state()[1].overrides.tuned

    @staticmethod
    def passive(view: _View) -> _View:
        """Mark a view as passive: its requests do not restart the session's idle time.

        For polling: a page that polls every minute would otherwise keep a session alive for ever.
        """
        return marked(view, PASSIVE)

    @staticmethod
    def exempt(view: _View) -> _View:
        """Mark a view as exempt: its requests have an empty session and make no store call.

        For health checks and webhooks. No cookie is set or deleted, and the idle time continues.
        A write to the session is not stored, and logs a warning.
        """
        return marked(view, EXEMPT)

    @staticmethod
    def fresh(within: Any = "10m") -> Callable[[_View], _View]:
        """Require a recent sign-in for a view, such as a password change or a payment.

        See ASVS 7.5.1, 7.5.3. A posted sign-in makes the session fresh, as do
        ``session.confirm_sign_in()`` and Flask-Login's ``confirm_login``; use of the session, or
        assigning the same user before each request, does not. Put it below ``@app.route``.

        :param within: a duration, as in the settings.
        :raises NotFresh: by the view, if the sign-in is older or there is none. HTTP 403.
        """
        if callable(within):
            raise TypeError('fresh() must be called: @safe.fresh(within="10m")')
        longest = milliseconds(within) / 1000

        def decorate(view: _View) -> _View:
            @wraps(view)
            def checked(*args: Any, **kwargs: Any) -> Any:
                _require_sign_in(longest)
                return view(*args, **kwargs)

            @wraps(view)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                _require_sign_in(longest)
                return await view(*args, **kwargs)

            return cast(_View, awaited if iscoroutinefunction(view) else checked)

        return decorate

    # -- sessions of users ----------------------------------------------------------------------

    def sessions_of(self, user: Any) -> list[SessionInfo]:
        """Returns the live sessions of *user* (the value under the user key), newest first.

        The session of the current request has ``current`` set.

        :raises ValueError: *user* is not a user; also raised by :meth:`end_user`.
        :raises StoreUnavailable: the store did not answer; also raised by the following methods.
        """
        state = self._state()[1]
        return directory.sessions_of(state.opened, state.settings, user, _current_handle(state))

    def browse(self, tier: str | None = None, after: str | None = None, limit: int = 50) -> Page:
        """Returns a page of all live sessions: tier by tier, anonymous ones last.

        Of a tier, those that end last come first.

        :param tier: only sessions of that tier.
        :param after: the ``next`` of the previous page.
        :raises ValueError: *after* is not the ``next`` of a page, or *limit* is not positive.
        """
        state = self._state()[1]
        return directory.browse(state.opened, state.settings, tier, after, limit)

    def find(self, handle: str) -> SessionInfo | None:
        """Returns the live session with that handle, without recording a use; ``None``: none."""
        state = self._state()[1]
        return directory.find(state.opened, state.settings, handle)

    def end(self, handle: str) -> bool:
        """End the session with that handle, whatever is in flight. Returns whether there was one.

        The app has to check that the current user may do this: that the handle is among
        ``sessions_of(user)``.
        """
        app, state = self._state()
        return directory.end(app, state.store, state.settings, handle)

    def end_user(self, user: Any, keep: str | None = None) -> int:
        """End all sessions of *user* in one step. Returns how many there were.

        A concurrent login is either ended or comes after it.

        :param keep: the handle of a session to keep.
        :raises ValueError: *keep* is not a handle.
        """
        app, state = self._state()
        return directory.end_user(app, state.opened, state.settings, user, keep)

    def end_all(self) -> None:
        """End all sessions, anonymous ones included, in one step.

        The purge removes them and sends ``session_ended`` for each.
        """
        state = self._state()[1]
        end_all(state.store, state.settings)

    def _state(self) -> tuple[Flask, State]:
        """Returns the app to act on, one of those of this extension, and its state.

        :raises RuntimeError: there is none, or several could be meant.
        """
        proxy: Any = current_app
        app = self._app_for(proxy._get_current_object() if has_app_context() else None)
        return app, app.extensions[_EXTENSION]

    def _app_for(self, current: Flask | None) -> Flask:
        apps = list(self._apps)
        if current is not None and current in apps:
            return current
        if len({app.extensions[_EXTENSION].place for app in apps}) == 1:
            return apps[0]
        if not apps:
            raise RuntimeError("this SafeSession has no app: call init_app(app) first")
        names = ", ".join(repr(app.name) for app in apps)
        raise RuntimeError(
            f"this SafeSession has several stores, of the apps {names}: use it inside"
            " app.app_context() of the app that is meant"
        )


def _current_handle(state: State) -> str | None:
    """Returns the handle of the request's session, if it is in the store of *state*."""
    if not has_request_context() or _EXTENSION not in current_app.extensions:
        return None
    is_ours = current_app.extensions[_EXTENSION].place == state.place
    return session.info.handle if is_ours and current_state() is not None else None


def _require_sign_in(longest: float) -> None:
    """Raise ``NotFresh`` unless the last sign-in is at most *longest* seconds ago."""
    info = session.info
    age = info.now - info.authenticated_at if info.now and info.authenticated_at else None
    if age is None or age.total_seconds() > longest:
        raise NotFresh(longest, _assigned_in_vain())


def _assigned_in_vain() -> str:
    """Returns the user key that this request assigned without signing in."""
    state = current_state()
    return "" if state is None else state.assigned_in_vain


def _open(app: Flask, settings: Settings) -> tuple[Any, Opened]:
    """Returns where the sessions are, and the store there."""
    given, options = settings.store, {"password": settings.store_password}
    open_here: Callable[..., Opened] = partial(
        open_store,
        folder=app.instance_path,
        prefix=settings.key_prefix,
        timeout=settings.store_timeout,
        shards=settings.shards,
        wait_replicas=settings.wait_replicas,
        **(options if settings.store_password else {}),
    )
    if donor.is_donor(given):
        given, opened = donor.open_donor(given, app, open_here)
    else:
        opened = open_here(given)
    if opened.remote is not None:
        opened.remote.report_to(partial(_emit, weakref.ref(app)))
    return given, opened


def _begin(opened: Opened, overrides: Overrides, neighbours: Neighbours) -> None:
    """Check the store once; if it is down, it is checked by its first call."""
    try:
        overrides.refresh()
        with suppress(StoreUnavailable):  # it takes no writes
            neighbours.begin()
    except StoreUnavailable as error:
        logger.warning(
            "the session store does not answer (%s): the app starts, and requests that use the"
            " session get a 503 until it does",
            error,
        )
        return
    finally:
        opened.store.close()  # the process may fork from here
    if opened.remote is not None:
        opened.remote.prepare()


def _emit(app: weakref.ref[Flask], event: Event) -> None:
    if (alive := app()) is not None:
        emit(alive, event)


def _is_command() -> bool:
    """Returns whether this is a ``flask`` command: these start on any store, to fix it."""
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"
