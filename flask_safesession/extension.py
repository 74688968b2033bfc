"""``SafeSession``: reads the settings, opens the store, puts the shards together."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, TypeVar, cast

import flask
from flask import Flask, current_app, has_app_context, has_request_context

from .admin import cli, directory
from .admin.directory import Page
from .admin.job import PurgeJob
from .admin.lost_settings import Takeover, report_lost_settings
from .admin.neighbours import Neighbours
from .admin.purge import PurgeReport, purge, total
from .admin.stats import Stats, stats_of
from .config.overrides import Overrides, Own, Tuned
from .config.settings import Settings
from .errors import ConfigError, NotFresh, StoreUnavailable
from .events import Event, emit, logger
from .model.policy import milliseconds
from .model.text import name_of
from .model.tokens import new_stamp
from .stores.base import Store
from .stores.opening import Opened, open_store, place_of
from .web import collisions, hooks
from .web.client import label_of
from .web.info import SessionInfo
from .web.interface import EXEMPT, PASSIVE, SafeSessionInterface
from .web.session import Session, current_state

#: The session of the current request: the same proxy as :data:`flask.session`, with our types.
session: Session = cast(Session, flask.session)

_View = TypeVar("_View", bound=Callable[..., Any])
_EXTENSION = "safesession"


@dataclass(frozen=True)
class State:
    """What one app has of the extension, at ``app.extensions["safesession"]``."""

    overrides: Overrides
    job: PurgeJob
    takeover: Takeover
    #: Where the sessions are: apps of one process with equal places share them.
    place: Hashable = field(repr=False)  # a URL may hold a password

    @property
    def settings(self) -> Settings:
        """The settings that the app goes by just now."""
        return self.overrides.settings

    @property
    def opened(self) -> Opened:
        """The store as the app calls it, and what it can do."""
        return self.overrides.opened

    @property
    def store(self) -> Store:
        """The store as the app calls it."""
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

    def __init__(self, app: Flask | None = None, **overrides: Any) -> None:
        self._overrides = overrides
        # In the order of init_app. The values say nothing: a set would have no order.
        self._apps: weakref.WeakKeyDictionary[Flask, None] = weakref.WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, **overrides: Any) -> None:
        """Install the session interface, the purge job and the commands on *app*.

        A shared store is asked once whether it is in as many shards as the settings say. An app
        starts also while its store is down.

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
        opened = _open(app, own.settings)
        current = Overrides(app, opened, own)
        neighbours = Neighbours(app, current, own.settings)
        if not _is_command():
            _begin(opened, current, neighbours)
        report_lost_settings(app.config, own)
        place = place_of(opened, own.settings.store, own.settings.key_prefix)
        state = State(current, PurgeJob(app, current, neighbours), Takeover(app), place)
        app.extensions[_EXTENSION] = state
        collisions.register(app, place)
        if own.settings.record_client:
            label_of("")  # reads its patterns, for which no visitor should have to wait
        app.session_interface = SafeSessionInterface(current, state.job.wake, directory.end_user)
        hooks.install(app)
        app.cli.add_command(cli.commands)
        self._apps[app] = None

    def count(self) -> int:
        """Sessions that are live now, in this extension's store.

        With several stores, this and the following methods act on that of the current app.

        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        return state.opened.need_index().count(state.settings.rules).total

    def stats(self) -> Stats:
        """How many sessions there are, and how their servers are, as this process sees them.

        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        return stats_of(state.opened, state.settings)

    def servers(self) -> Mapping[str, str]:
        """The circuit breaker of each of the store's servers, without asking any: for probes.

        ``closed``: all is well; ``open``: down; ``half-open``: down, and being asked again.
        """
        remote = self._state()[1].opened.remote
        return remote.states() if remote else {}

    def purge(self) -> PurgeReport:
        """Remove now what is due, whoever's turn it is. The job does it by itself.

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
        tiers: Any = ...,
        max_sessions: Any = ...,
        check_interval: Any = ...,
        by: str | None = None,
        dry_run: bool = False,
        reset: bool = False,
    ) -> Tuned:
        """Change settings of all processes on the store, within one check interval of each.

        Arguments are as in the settings; ``None`` gives one back to each app's own, and what is not
        named stays as it is. Of ``tiers`` only those that are to change have to be named. Shorter
        limits also hold for sessions that exist, longer ones from their next change on.

        :param by: who it is, for :meth:`tuned` and the log.
        :param dry_run: change nothing, and count how many sessions would end: ``would_end``.
        :param reset: give back everything that is not named.
        :raises ConfigError: these settings cannot be used, with every problem.
        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        asked = {
            "idle_timeout": idle_timeout,
            "lifetime": lifetime,
            "tiers": tiers,
            "max_sessions": max_sessions,
            "check_interval": check_interval,
        }
        changes = {name: value for name, value in asked.items() if value is not ...}
        tuned = state.overrides.tune(changes, by=by, reset=reset, dry_run=dry_run)
        state.job.adopt()
        return tuned

    def tuned(self) -> Tuned | None:
        """What this process goes by over the app's own settings, who gave it and when.

        ``None``: nothing was ever given. Asks no store.
        """
        return self._state()[1].overrides.tuned

    @staticmethod
    def passive(view: _View) -> _View:
        """Mark a view as passive: its requests do not restart the session's idle time.

        For polling: a page that asks every minute would otherwise keep a session alive for ever.
        """
        setattr(view, PASSIVE, True)
        return view

    @staticmethod
    def exempt(view: _View) -> _View:
        """Mark a view as exempt: its requests do without a session, and never touch the store.

        For health checks and webhooks. What they see is an empty session, whatever the cookie says.
        No cookie is set or deleted, and the idle time goes on. What is written to it is not stored,
        which a warning tells.
        """
        setattr(view, EXEMPT, True)
        return view

    @staticmethod
    def fresh(within: Any = "10m") -> Callable[[_View], _View]:
        """Let a view be used only for a while after its user has signed in.

        For what matters most: changes of the password, payments (ASVS 7.5.1, 7.5.3). Using the
        session does not make it fresh again, nor does assigning the same user before each request.
        A posted sign-in does, ``session.confirm_sign_in()``, and Flask-Login's ``confirm_login``.
        To be put below ``@app.route``.

        :param within: a duration, as in the settings.
        :raises NotFresh: by the view, where the sign-in is older, or there is none. HTTP 403.
        """
        if callable(within):
            raise TypeError('fresh() is called before it decorates: @safe.fresh(within="10m")')
        longest = milliseconds(within) / 1000

        def decorate(view: _View) -> _View:
            @wraps(view)
            def checked(*args: Any, **kwargs: Any) -> Any:
                info = session.info
                age = (
                    (info.now - info.authenticated_at)
                    if info.now and info.authenticated_at
                    else None
                )
                if age is None or age.total_seconds() > longest:
                    raise NotFresh(longest, _assigned_in_vain())
                return current_app.ensure_sync(view)(*args, **kwargs)

            return cast(_View, checked)

        return decorate

    # -- whose sessions -------------------------------------------------------------------------

    def sessions_of(self, user: Any) -> list[SessionInfo]:
        """The live sessions of *user* (a value under the user key), newest first.

        That of the current request is marked (``current``).

        :raises ValueError: *user* is nobody, or cannot be a user; also of :meth:`end_user`.
        :raises StoreUnavailable: the store did not answer; also of the following methods.
        """
        state = self._state()[1]
        return directory.sessions_of(state.opened, state.settings, user, _current_handle(state))

    def browse(self, tier: str | None = None, after: str | None = None, limit: int = 50) -> Page:
        """Some of all sessions, tier by tier, those that end last first.

        :param tier: only sessions of that tier.
        :param after: the ``next`` of the page before.
        :raises ValueError: *after* is not where a page ended, or *limit* is not positive.
        """
        state = self._state()[1]
        return directory.browse(state.opened, state.settings, tier, after, limit)

    def find(self, handle: str) -> SessionInfo | None:
        """The session with that handle, without using it; ``None`` if there is none."""
        state = self._state()[1]
        return directory.find(state.opened, state.settings, handle)

    def end(self, handle: str) -> bool:
        """End the session with that handle, whatever is in flight; whether there was one.

        Whether the current user may is for the app to check: see that the handle is among
        ``sessions_of(user)``.
        """
        app, state = self._state()
        return directory.end(app, state.store, state.settings, handle)

    def end_user(self, user: Any, keep: str | None = None) -> int:
        """End all sessions of *user* in one step; how many there were.

        A login that races with it is either ended or came after it.

        :param keep: the handle of one that is to stay.
        :raises ValueError: *keep* is no handle.
        """
        app, state = self._state()
        return directory.end_user(app, state.opened, state.settings, user, keep)

    def end_all(self) -> None:
        """End all sessions there are, of users and of strangers, in one step.

        The purge removes them, and sends ``session_ended`` for each.
        """
        self._state()[1].store.end_all(new_stamp())

    def _state(self) -> tuple[Flask, State]:
        """The app to act on, and its state: never an app that this extension was not given.

        :raises RuntimeError: there is none, or it is not certain which one.
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
    """The handle of the request's session, if there is one, and it is in the store of *state*."""
    if not has_request_context() or _EXTENSION not in current_app.extensions:
        return None
    is_ours = current_app.extensions[_EXTENSION].place == state.place
    return session.info.handle if is_ours and current_state() is not None else None


def _assigned_in_vain() -> str:
    """Returns the user key that this request has assigned without signing in."""
    state = current_state()
    return "" if state is None else state.assigned_in_vain


def _open(app: Flask, settings: Settings) -> Opened:
    opened = open_store(
        settings.store,
        app.instance_path,
        prefix=settings.key_prefix,
        timeout=settings.store_timeout,
        shards=settings.shards,
        wait_replicas=settings.wait_replicas,
    )
    if opened.remote is not None:
        opened.remote.report_to(partial(_emit, weakref.ref(app)))
    return opened


def _begin(opened: Opened, overrides: Overrides, neighbours: Neighbours) -> None:
    """Ask the store once what it is like; one that is down is asked when it is up."""
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
    """Whether this is a ``flask`` command: one of them mends what others are refused for."""
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"
