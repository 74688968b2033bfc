"""Flask-Session on Memcached."""

from __future__ import annotations

from typing import Any

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

from ....errors import StoreUnavailable

_PORT = "11211"


class MemcachedBackend:
    """Items of one server; each call takes *timeout* seconds at most, and one connection.

    :param server: ``host:port``; the port may be missing.
    """

    def __init__(self, server: str, timeout: float) -> None:
        host, _, port = server.rstrip("/").partition(":")
        self._server = (host, int(port or _PORT))
        self._timeout = timeout

    def get(self, key: str) -> bytes | None:
        """See :meth:`.flask_session.Backend.get`."""
        found: bytes | None = self._call("get", key)
        return found

    def delete(self, key: str) -> None:
        """See :meth:`.flask_session.Backend.delete`."""
        self._call("delete", key, noreply=False)

    def count(self, prefix: str, most: int) -> int | None:
        """See :meth:`.flask_session.Backend.count`: its server has no list of its items."""
        del prefix, most
        return None

    def _call(self, name: str, key: str, **options: Any) -> Any:
        client = Client(self._server, connect_timeout=self._timeout, timeout=self._timeout)
        try:
            return getattr(client, name)(key, **options)
        except (MemcacheError, OSError) as error:
            text = f"the old place of sessions: {type(error).__name__}: {error}"
            raise StoreUnavailable(text) from error
        finally:
            client.close()
