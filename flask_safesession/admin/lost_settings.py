"""Reports settings without effect, and session extensions that replace each other.

Such settings are left over from Flask's own sessions or from Flask-Session, or are overruled.
Nothing fails because of them, so they go unnoticed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from flask import Flask, request_started
from flask.sessions import SecureCookieSessionInterface

from ..config.adopting import FLASK_COOKIE, FLASK_SESSION
from ..config.overrides import Own
from ..config.reading import PREFIX
from ..config.settings import SETTINGS, Settings
from ..events import logger
from ..model.text import name_of
from ..stores.base import Finding
from ..web.interface import SafeSessionInterface

# The settings of all versions of Flask-Session.
_FLASK_SESSION = (
    *("SESSION_TYPE", "SESSION_PERMANENT", "SESSION_USE_SIGNER", "SESSION_KEY_PREFIX"),
    *("SESSION_ID_LENGTH", "SESSION_SERIALIZATION_FORMAT", "SESSION_CLEANUP_N_REQUESTS"),
    *("SESSION_REDIS", "SESSION_MEMCACHED", "SESSION_CACHELIB"),
    *("SESSION_FILE_DIR", "SESSION_FILE_THRESHOLD", "SESSION_FILE_MODE"),
    *("SESSION_MONGODB", "SESSION_MONGODB_DB", "SESSION_MONGODB_COLLECT"),
    *("SESSION_SQLALCHEMY", "SESSION_SQLALCHEMY_TABLE", "SESSION_SQLALCHEMY_SEQUENCE"),
    *("SESSION_SQLALCHEMY_SCHEMA", "SESSION_SQLALCHEMY_BIND_KEY"),
    *("SESSION_DYNAMODB", "SESSION_DYNAMODB_URL", "SESSION_DYNAMODB_REGION"),
    *("SESSION_DYNAMODB_KEY_ID", "SESSION_DYNAMODB_SECRET", "SESSION_DYNAMODB_TABLE_NAME"),
)


def lost_settings(config: Mapping[str, Any], own: Own) -> Iterator[Finding]:
    """Yields a finding for each kind of setting in *config* that has no effect.

    :param own: the app's settings in use.
    """
    adopted = {place.kind for place in own.settings.adopt}
    if FLASK_COOKIE not in adopted:
        yield from _of_flask(config, own.settings)
    if FLASK_SESSION not in adopted and (
        left := [name for name in _FLASK_SESSION if config.get(name) is not None]
    ):
        yield Finding(
            "flask-session-settings",
            f"{', '.join(left)}: settings of Flask-Session, without effect here; remove them and"
            f" set {PREFIX}STORE and {PREFIX}KEY_PREFIX instead",
        )
    for name in SETTINGS:
        if PREFIX + name in config and _differs(config[PREFIX + name], own.given, name.lower()):
            yield Finding(
                "overruled-setting",
                f"{PREFIX}{name} of app.config is not used: the argument {name.lower()} of"
                " SafeSession overrules it, or it was set after SafeSession had read it",
            )


def _of_flask(config: Mapping[str, Any], settings: Settings) -> Iterator[Finding]:
    written = config.get("PERMANENT_SESSION_LIFETIME")
    value = timedelta(seconds=written) if isinstance(written, int) else written
    policy = settings.rules.policy
    longest = max(limits.lifetime for limits in (policy.default, *policy.tiers.values()))
    if (
        isinstance(value, timedelta)
        and value != Flask.default_config["PERMANENT_SESSION_LIFETIME"]
        and value < timedelta(milliseconds=longest)
    ):
        yield Finding(
            "permanent-session-lifetime",
            f"PERMANENT_SESSION_LIFETIME is {written}, less than sessions may last: it ends no"
            f" session; set {PREFIX}IDLE_TIMEOUT and {PREFIX}LIFETIME instead",
        )


def _differs(value: object, given: Mapping[str, Any], name: str) -> bool:
    return name not in given or (value is not given[name] and bool(value != given[name]))


def report_lost_settings(config: Mapping[str, Any], own: Own) -> None:
    """Log each finding as a warning. That an argument wins is documented, so only DEBUG."""
    for finding in lost_settings(config, own):
        level = logging.DEBUG if finding.name == "overruled-setting" else logging.WARNING
        logger.log(level, "%s", finding.text)


class Takeover:
    """Reports another session extension on an app, initialised before or after this one."""

    def __init__(self, app: Flask) -> None:
        kind = type(app.session_interface)
        #: The class of the interface that was replaced, if it was not Flask's own.
        self.before: str = "" if kind is SecureCookieSessionInterface else name_of(kind)
        request_started.connect(self._check, app)  # a weak reference: freed with the app
        if self.before:
            logger.warning("%s", self._text(self.before))

    def findings(self, app: Flask) -> Iterator[Finding]:
        """Yields a finding for each other session extension of *app*."""
        for text in filter(None, (self.before and self._text(self.before), _after(app))):
            yield Finding("second-session-extension", text)

    def _check(self, app: Flask, **_: object) -> None:
        """Check at the first request, when all extensions are initialised."""
        request_started.disconnect(self._check, app)
        if text := _after(app):
            logger.warning("%s", text)

    @staticmethod
    def _text(before: str) -> str:
        return (
            f"app.session_interface was a {before}, and SafeSession has replaced it: remove the"
            " other session extension"
        )


def _after(app: Flask) -> str:
    """Returns the problem if another extension has replaced the session interface, else ``""``."""
    if isinstance(app.session_interface, SafeSessionInterface):
        return ""
    return (
        f"app.session_interface is a {name_of(type(app.session_interface))}: another extension has"
        " replaced SafeSession; initialise SafeSession last, or remove the other"
    )
