"""Opens the older places in ``SAFESESSION_ADOPT``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flask import Flask

from ...config.adopting import FLASK_COOKIE, FLASK_SESSION, OldPlace
from ...config.overrides import Overrides
from ...config.reading import PREFIX
from ...errors import ConfigError
from ...events import Once
from ...stores.opening import CannotDo, Opened, open_store
from ...stores.urls import SQL_SCHEMES
from . import Adoption
from .places.base import Place
from .places.cookies import FlaskCookies
from .places.files import FileBackend
from .places.flask_session import Backend, FlaskSession
from .places.formats import decode, decode_plain
from .places.safesession import SafeSessionPlace


def open_adoption(app: Flask, overrides: Overrides) -> Adoption | None:
    """Returns the adoption of *app*; ``None`` without ``SAFESESSION_ADOPT``. Makes no call.

    :raises ConfigError: the store cannot adopt, or a place cannot be opened, with the fix.
    """
    settings = overrides.settings
    if not settings.adopt:
        return None
    try:
        overrides.opened.need_adopting()
    except CannotDo as error:
        raise ConfigError([f"{PREFIX}ADOPT cannot be used: {error}"]) from error
    say = Once()
    return Adoption([*_opened(app, overrides, say)], overrides, say)


def _opened(app: Flask, overrides: Overrides, say: Callable[..., None]) -> Iterator[Place]:
    settings = overrides.settings
    for place in settings.adopt:
        if place.kind == FLASK_COOKIE:
            yield FlaskCookies()
        elif place.kind == FLASK_SESSION:
            is_file = place.store.startswith("file:")
            backend = _backend(place, app, settings.store_timeout)
            read = decode_plain if is_file else decode
            yield FlaskSession(place.name, backend, app.config, say, read)
        else:
            yield _own(app, place, overrides)


def _own(app: Flask, place: OldPlace, overrides: Overrides) -> SafeSessionPlace:
    settings = overrides.settings
    shards = place.shards or settings.shards
    opened = open_store(
        place.store,
        app.instance_path,
        prefix=place.prefix or settings.key_prefix,
        timeout=settings.store_timeout,
        shards=shards if isinstance(place.store, str) else len(Opened.of(place.store).shards) or 1,
        wait_replicas=0,
    )
    file = getattr(opened.store, "path", None)
    if file is not None and not Path(file).exists():
        raise _wrong(place, f"there is no file {file}")
    return SafeSessionPlace(place.name, opened, lambda: overrides.settings)


def _backend(place: OldPlace, app: Flask, timeout: float) -> Backend:
    url: str = place.store
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "file":
            return FileBackend(rest)
        if scheme == "memcached":
            from .places.memcached import MemcachedBackend

            return MemcachedBackend(url, timeout)
        if scheme == "sqlite":
            from .places.sql import in_file

            path = Path(app.instance_path) / rest.removeprefix("/")
            return in_file(str(path), app.config, timeout)
        if scheme in SQL_SCHEMES:
            from .places.sql import on_server

            return on_server(url, app.config, timeout)
        from .places.redis import RedisBackend

        return RedisBackend(url, timeout)
    except ModuleNotFoundError as error:
        text = f"{error.name} is not installed: pip install it for as long as you adopt"
        raise _wrong(place, text) from error
    except ValueError as error:
        raise _wrong(place, str(error)) from error


def _wrong(place: OldPlace, problem: str) -> ConfigError:
    return ConfigError([f"{PREFIX}ADOPT has {place.name!r}: {problem}"])
