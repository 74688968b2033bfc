"""Flask-Session on Memcached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from ....errors import StoreUnavailable
from ....stores.memcached.url import read_url


class MemcachedBackend:
    """Items of one server; each call takes *timeout* seconds at most, and one connection.

    :raises ValueError: *url* names none, or several: which has an item, only the old client says.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._server, *others = read_url(url)
        if others:
            raise ValueError("sessions can be adopted from one Memcached server: name only one")
        self._timeout = timeout

    def get(self, key: str) -> bytes | None:
        """See :meth:`.flask_session.Backend.get`."""
        found: bytes | None = self._call("get", key)
        return found

    def delete(self, key: str) -> None:
        """See :meth:`.flask_session.Backend.delete`."""
        self._call("delete", key, noreply=False)

    def count(self, prefix: str, most: int, accepts: Callable[[str], bool]) -> int | None:
        """See :meth:`.flask_session.Backend.count`: its server has no list of its items."""
        del prefix, most, accepts
        self._call("version")  # so that one that is down is reported
        return None

    def _call(self, name: str, *key: str, **options: Any) -> Any:
        client = Client(self._server, connect_timeout=self._timeout, timeout=self._timeout)
        try:
            return getattr(client, name)(*key, **options)
        except (MemcacheError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            client.close()
