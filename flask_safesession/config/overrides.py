"""Changes settings while the processes run.

The store keeps one small document with the settings that override each app's own, who set them and
a revision. Each process reads it at its start and once a check interval, and uses it from then on.
A process that cannot use it (its own settings contradict, or a newer version wrote it) logs that
once and keeps its settings.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ..errors import ConfigError, StoreUnavailable
from ..events import SettingsTuned, emit, logger
from ..model.policy import as_datetime, milliseconds, spelled
from ..stores.base import Document, Store
from ..stores.opening import CannotDo, Opened
from .dry_run import count_ends
from .reading import PREFIX
from .settings import SETTINGS, Settings, read_settings

#: The settings that can be changed while the processes run.
TUNABLE: tuple[str, ...] = (
    "idle_timeout",
    "lifetime",
    "longest_lifetime",
    "tiers",
    "max_sessions",
    "check_interval",
)

#: The name of the document in the store.
DOCUMENT = "tuning"

_VERSION = 1
_LONGEST_NAME = 100
# How often a document that another process changes at the same time is read again.
_TRIES = 20


class Tuned(NamedTuple):
    """Settings that override each app's own in all processes.

    :param settings: as they were given.
    :param by: who changed them last.
    :param at: when, by the store's clock.
    :param revision: how often they were changed.
    :param would_end: live sessions that these settings would end; ``None``: not a dry run.
    """

    settings: Mapping[str, Any]
    by: str | None
    at: datetime
    revision: int
    would_end: int | None = None


@dataclass(frozen=True)
class Own:
    """An app's own settings, and how they were given."""

    settings: Settings
    given: Mapping[str, Any] = field(repr=False)  # a URL may hold a password

    @classmethod
    def read(cls, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> Own:
        """Returns the settings in *config*; *arguments* override them.

        :raises ConfigError: with every problem.
        """
        settings = read_settings(config, arguments)
        known = {name: PREFIX + name for name in SETTINGS if PREFIX + name in config}
        given = {name.lower(): config[key] for name, key in known.items()}
        return cls(settings, {**given, **{name.lower(): arguments[name] for name in arguments}})

    def under(self, overrides: Mapping[str, Any]) -> Settings:
        """Returns the settings with *overrides*, which never give a purge job to a process without.

        :raises ConfigError: with every problem.
        """
        if not overrides:
            return self.settings
        merged = {**self.given, **overrides}
        if "tiers" in overrides:
            merged["tiers"] = _merged_tiers(self.given.get("tiers") or {}, overrides["tiers"])
        if self.settings.check_interval is None:
            merged["check_interval"] = None
        return read_settings({}, merged)


class Overrides:
    """The current settings of one app, and their changes. Holds no reference to the app."""

    def __init__(self, app: Any, opened: Opened, own: Own) -> None:
        self.settings: Settings = own.settings
        self.tuned: Tuned | None = None
        self._app = weakref.ref(app)
        #: The store as it was opened.
        self.bare: Opened = opened
        #: The same with hooks: metrics and traces replace it by an observed one.
        self.opened: Opened = opened
        #: The app's own settings, and how they were given.
        self.own: Own = own
        self._seen = b""
        self._lock = threading.Lock()

    @property
    def store(self) -> Store:
        """The store of :attr:`opened`."""
        return self.opened.store

    def refresh(self) -> None:
        """Use the settings in the store.

        :raises StoreUnavailable: the store did not answer.
        """
        if self.opened.index is not None:
            with self._lock:
                self._adopt(self.opened.index.document(DOCUMENT))

    def tune(
        self, changes: Mapping[str, Any], *, by: str | None, reset: bool, dry_run: bool
    ) -> Tuned:
        """Change the settings of all processes, and use them in this one at once.

        :param changes: of :data:`TUNABLE`; ``None`` restores each app's own.
        :param reset: restore all others.
        :raises ConfigError: with every problem; nothing was changed.
        :raises StoreUnavailable: the store did not answer.
        """
        try:
            _check_name(by)
            return self._tune(changes, by=by, reset=reset, dry_run=dry_run)
        except (ConfigError, CannotDo) as error:
            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            raise ConfigError(problems, "The settings cannot be changed") from error

    def forked(self) -> None:
        """Renew the lock in a child: a thread that is not in the child may hold the parent's."""
        self._lock = threading.Lock()

    def _tune(
        self, changes: Mapping[str, Any], *, by: str | None, reset: bool, dry_run: bool
    ) -> Tuned:
        if not changes and not reset:
            raise ConfigError([f"there is nothing to change: give one of {', '.join(TUNABLE)}"])
        store = self.opened.need_index()
        for _ in range(_TRIES):
            found = store.document(DOCUMENT)
            before = _last(found, reset=reset)
            overrides = _changed({} if reset else before.settings, changes)
            settings = self.own.under(overrides)
            tuned = Tuned(overrides, by, as_datetime(found.now), before.revision + 1)
            if dry_run:
                ends = count_ends(store, self.settings, settings, found.now)
                return tuned._replace(would_end=ends)
            if store.keep(DOCUMENT, _dumps(tuned), found.document):
                self.refresh()
                return self.tuned or tuned
        raise StoreUnavailable("other processes keep changing the settings")

    def _adopt(self, found: Document) -> None:
        """Use the settings that were *found*, if they are new; log once if they cannot be used."""
        if found.document == self._seen:
            return
        self._seen = found.document
        try:
            tuned = _loads(found)
            settings = self.own.under(tuned.settings)
        except ConfigError as error:
            logger.error(
                "this process does not use the settings in the store: %s", "; ".join(error.problems)
            )
            return
        self.settings, self.tuned = settings, tuned if found.document else None
        event = SettingsTuned(tuned.revision, tuned.by, shown(tuned.settings))
        if (app := self._app()) is not None:
            emit(app, event)


def shown(settings: Mapping[str, Any]) -> str:
    """Returns *settings* as one line; empty if there are none."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in sorted(settings.items()))


def _merged_tiers(own: Any, tiers: Any) -> Any:
    """Returns an app's own tiers with the overrides of some of them."""
    if not isinstance(tiers, Mapping) or not isinstance(own, Mapping):
        return tiers
    if unknown := [name for name in tiers if name not in own]:
        names = ", ".join(map(repr, own)) or "none"
        raise ConfigError(
            [f"tiers: {name!r} is not a tier of this app (it has {names})" for name in unknown]
        )
    return {
        name: {**limits, **tiers[name]}
        if isinstance(tiers.get(name), Mapping)
        else tiers.get(name, limits)
        for name, limits in own.items()
    }


def _changed(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides *before* with *changes*, as JSON can store them."""
    _check_tunable(changes)
    given = {name: _plain(value) for name, value in changes.items()}
    tiers = given.get("tiers")
    if isinstance(tiers, dict):
        known = {**before.get("tiers", {}), **{k: v for k, v in tiers.items() if v is not None}}
        given["tiers"] = {name: v for name, v in known.items() if tiers.get(name, v) is not None}
    return {name: value for name, value in {**before, **given}.items() if value not in (None, {})}


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        with suppress(ValueError):  # reported with the other problems
            return spelled(milliseconds(value))
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(of) for name, of in value.items()}
    return value if isinstance(value, (str, int, float)) or value is None else repr(value)


def _dumps(tuned: Tuned) -> bytes:
    fields = {"revision": tuned.revision, "by": tuned.by, "settings": tuned.settings}
    document = {"version": _VERSION, **fields}
    return json.dumps(document).encode("ascii")


def _loads(found: Document) -> Tuned:
    """Returns the settings in a document.

    :raises ConfigError: a newer version wrote it, or it cannot be read.
    """
    if not found.document:
        return Tuned({}, None, as_datetime(found.written), 0)
    try:
        document = json.loads(found.document)
        if document["version"] != _VERSION:
            raise ConfigError(["a newer version of Flask-SafeSession wrote them: use that one"])
        settings, revision = dict(document["settings"]), int(document["revision"])
        by = document["by"] and str(document["by"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(["they cannot be read: run `flask safesession tune --reset`"]) from error
    _check_tunable(settings)
    return Tuned(settings, by, as_datetime(found.written), revision)


def _last(found: Document, *, reset: bool) -> Tuned:
    """Returns the settings to change; with *reset*, the document need not be readable."""
    try:
        return _loads(found)
    except ConfigError:
        if not reset:
            raise
        return _loads(found._replace(document=b""))  # as if there were none


def _check_tunable(names: Mapping[str, Any]) -> None:
    if unknown := sorted(set(names) - set(TUNABLE)):
        raise ConfigError([f"{name} cannot be changed while the processes run" for name in unknown])


def _check_name(by: object) -> None:
    usable = isinstance(by, str) and by.isprintable() and 0 < len(by) <= _LONGEST_NAME
    if by is not None and not usable:
        raise ConfigError([f"by is {by!r}: give a name of {_LONGEST_NAME} characters at most"])
