"""Opens the older places in ``SAFESESSION_ADOPT``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask

from ...config.adopting import FLASK_COOKIE, FLASK_SESSION, OldPlace
from ...config.overrides import Overrides
from ...config.reading import PREFIX
from ...errors import ConfigError
from ...events import Once
from ...stores.opening import CannotDo, open_store
from . import Adoption
from .places.base import Place
from .places.cookies import FlaskCookies
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
    ready = not isinstance(place.store, str)
    opened = open_store(
        place.store,
        app.instance_path,
        prefix=place.prefix or settings.key_prefix,
        timeout=settings.store_timeout,
        shards=place.shards or (_shards_of(place.store) if ready else settings.shards),
        wait_replicas=0,
    )
    return SafeSessionPlace(place.name, opened, lambda: overrides.settings)


def _shards_of(store: Any) -> int:
    return max(1, len(getattr(store, "shards", ())))


def _backend(place: OldPlace, app: Flask, timeout: float) -> Backend:
    url: str = place.store
    scheme = url.partition(":")[0]
    if scheme == "file":
        from .places.files import FileBackend

        return FileBackend(url.removeprefix("file://"))
    if scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
        from .places.redis import RedisBackend

        return RedisBackend(url, timeout)
    try:
        return _other_backend(scheme, url, app, timeout)
    except ModuleNotFoundError as error:
        fix = f"{error.name} is not installed: pip install it as long as you adopt"
        raise ConfigError([f"{PREFIX}ADOPT has {place.name!r}, but {fix}"]) from error


def _other_backend(scheme: str, url: str, app: Flask, timeout: float) -> Backend:
    if scheme == "memcached":
        from .places.memcached import MemcachedBackend

        return MemcachedBackend(url, timeout)
    from .places.sql import SqlBackend

    return SqlBackend(url, app.config, timeout)
