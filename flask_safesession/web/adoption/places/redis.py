"""Flask-Session on Redis or Valkey."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from ....errors import StoreUnavailable

_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}


class RedisBackend:
    """Strings on one server; each call takes *timeout* seconds at most."""

    def __init__(self, url: str, timeout: float) -> None:
        scheme, _, rest = url.partition("://")
        self._client: Any = redis.Redis.from_url(
            f"{_SCHEMES.get(scheme, scheme)}://{rest}",
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # Once more on a new connection: an idle one may have been cut.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )

    def get(self, key: str) -> bytes | None:
        """See :meth:`.flask_session.Backend.get`. A value of another type is none."""
        try:
            found: bytes | None = self._client.get(key)
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                return None
            raise _unavailable(error) from error
        except RedisError as error:
            raise _unavailable(error) from error
        return found

    def delete(self, key: str) -> None:
        """See :meth:`.flask_session.Backend.delete`."""
        try:
            self._client.delete(key)
        except RedisError as error:
            raise _unavailable(error) from error

    def count(self, prefix: str, most: int, accepts: Callable[[str], bool]) -> int | None:
        """See :meth:`.flask_session.Backend.count`. Walks the keys of the database."""
        pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in prefix) + "*"
        try:
            found = self._client.scan_iter(match=pattern, count=1000, _type="STRING")
            names = (key.decode(errors="replace")[len(prefix) :] for key in found)
            return sum(1 for _ in islice(filter(accepts, names), most))
        except RedisError as error:
            raise _unavailable(error) from error


def _unavailable(error: RedisError) -> StoreUnavailable:
    return StoreUnavailable(f"{type(error).__name__}: {error}")
