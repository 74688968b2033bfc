"""``SafeSession``: reads the settings, opens the store, puts the parts together."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from flask import Flask, current_app, has_app_context

from . import cli
from .errors import ConfigError
from .events import Event, emit
from .figures import Stats, stats_of
from .interface import EXEMPT, PASSIVE, SafeSessionInterface
from .reaper import PurgeReport, Reaper, purge
from .settings import MEMORY_URL, Settings, read_settings
from .stores.base import Networked, Store
from .stores.memory import MemoryStore

_View = TypeVar("_View", bound=Callable[..., Any])
_EXTENSION = "safesession"


@dataclass(frozen=True)
class State:
    """What one app has of the extension, at ``app.extensions["safesession"]``."""

    settings: Settings
    store: Store
    reaper: Reaper


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
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, **overrides: Any) -> None:
        """Install the session interface, the purge job and the commands on *app*.

        A shared store is asked once whether it is in as many shards as the settings say. An app
        starts also while its store is down.

        :param overrides: settings for this app; they win over those of the constructor.
        :raises ConfigError: with every problem in the settings.
        """
        if _EXTENSION in app.extensions:
            raise ConfigError(
                [f"app {app.name!r} has SafeSession already: make it once, or call init_app once"]
            )
        settings = read_settings(app.config, {**self._overrides, **overrides})
        store = _open_store(settings)
        if isinstance(store, Networked):
            store.report_to(partial(_emit, weakref.ref(app)))
            if not _is_command():
                store.prepare()
        state = State(settings, store, Reaper(app, store, settings))
        app.extensions[_EXTENSION] = state
        app.session_interface = SafeSessionInterface(settings, store, state.reaper.wake)
        app.cli.add_command(cli.commands)
        self._apps.add(app)

    def count(self) -> int:
        """Sessions that are live now, in the store of the current app.

        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        return state.store.census(state.settings.rules).total

    def stats(self) -> Stats:
        """How many sessions there are, and how their servers are, as this process sees them.

        :raises StoreUnavailable: the store did not answer.
        """
        state = self._state()[1]
        return stats_of(state.store, state.settings)

    def servers(self) -> Mapping[str, str]:
        """The circuit breaker of each of the store's servers, without asking any: for probes.

        ``closed``: all is well; ``open``: down; ``half-open``: down, and being asked again.
        """
        store = self._state()[1].store
        return store.states() if isinstance(store, Networked) else {}

    def purge(self) -> PurgeReport:
        """Remove now what is due, whoever's turn it is. The job does it by itself.

        :raises StoreUnavailable: the store did not answer.
        """
        app, state = self._state()
        return purge(app, state.store, state.settings)

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

    def _state(self) -> tuple[Flask, State]:
        if has_app_context() and _EXTENSION in current_app.extensions:
            app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]
        elif len(self._apps) == 1:
            app = next(iter(self._apps))
        else:
            raise RuntimeError(
                "SafeSession does not know which app is meant: use it inside app.app_context()"
            )
        return app, app.extensions[_EXTENSION]


def _open_store(settings: Settings) -> Store:
    given = settings.store
    if given == MEMORY_URL:
        return MemoryStore()
    if not isinstance(given, str) and hasattr(given, "census"):
        return cast(Store, given)
    # Imported here: apps on memory do not pay for redis-py.
    from .stores.redis import RedisStore

    return RedisStore(
        given,
        prefix=settings.key_prefix,
        timeout=settings.store_timeout,
        shards=settings.shards,
        wait_replicas=settings.wait_replicas,
    )


def _emit(app: weakref.ref[Flask], event: Event) -> None:
    if (alive := app()) is not None:
        emit(alive, event)


def _is_command() -> bool:
    """Whether this is a ``flask`` command: one of them mends what others are refused for."""
    return os.environ.get("FLASK_RUN_FROM_CLI") == "true"
