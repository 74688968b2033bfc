"""``SafeSession``: reads the settings, opens the store, puts the parts together."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from flask import Flask, current_app, has_app_context

from . import cli
from .errors import ConfigError
from .interface import PASSIVE, SafeSessionInterface
from .reaper import PurgeReport, Reaper, purge
from .settings import MEMORY_URL, Settings, hide_password, read_settings
from .stores.base import Store
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

        The store is not contacted: an app starts also while its store is down.

        :param overrides: settings for this app; they win over those of the constructor.
        :raises ConfigError: with every problem in the settings.
        """
        if _EXTENSION in app.extensions:
            raise ConfigError(
                [f"app {app.name!r} has SafeSession already: make it once, or call init_app once"]
            )
        settings = read_settings(app.config, {**self._overrides, **overrides})
        store = _open_store(settings)
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

    options: dict[str, Any] = {"prefix": settings.key_prefix, "timeout": settings.store_timeout}
    if not isinstance(given, str):
        return RedisStore(given, **options)
    try:
        return RedisStore.from_url(given, **options)
    except ValueError:  # its text may show a piece of the password
        url = hide_password(given)
    raise ConfigError([f"SAFESESSION_STORE is {url!r}: it is not a URL that redis-py understands"])
