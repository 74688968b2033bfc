"""Flask-Session in files of cachelib, its types ``cachelib`` and ``filesystem``."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import md5, sha256
from itertools import islice
from pathlib import Path

from ....errors import StoreUnavailable

# Before the value: when it expires, in seconds since 1970; 0: never.
_EXPIRY = struct.Struct("I")
_NAME = re.compile("[0-9a-f]{32}|[0-9a-f]{64}")
# cachelib's own file.
_COUNTER = "__wz_cache_count"


class FileBackend:
    """Files in a folder, each named after a digest of its key.

    :param folder: must exist: one that is missing is an outage, and signs nobody out.
    :raises ValueError: it is not absolute. Workers may run in other folders than the old ones.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        if not self._folder.is_absolute():
            raise ValueError(
                "give the absolute path of the folder, as in file:///srv/shop/sessions"
            )

    def get(self, key: str) -> bytes | None:
        """See :meth:`.flask_session.Backend.get`."""
        for name in _names(key):
            try:
                return _live((self._folder / name).read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unavailable(error) from error
        if not self._folder.is_dir():
            raise StoreUnavailable("there is no such folder")
        return None

    def delete(self, key: str) -> None:
        """See :meth:`.flask_session.Backend.delete`."""
        try:
            for name in _names(key):
                (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    def count(self, prefix: str, most: int, accepts: Callable[[str], bool]) -> int | None:
        """See :meth:`.flask_session.Backend.count`: of all files, whose names hide the prefix."""
        del prefix, accepts
        counters = tuple(_names(_COUNTER))
        try:
            files = (file for file in self._folder.iterdir() if _NAME.fullmatch(file.name))
            found = (file for file in files if file.name not in counters and _is_live(file))
            return sum(1 for _ in islice(found, most))
        except OSError as error:
            raise _unavailable(error) from error


def _names(key: str) -> Iterator[str]:
    """Yields the names of a key's file: of newer versions of cachelib, and of older ones."""
    yield sha256(key.encode()).hexdigest()
    yield md5(key.encode(), usedforsecurity=False).hexdigest()


def _live(raw: bytes) -> bytes | None:
    if len(raw) < _EXPIRY.size:
        return None
    (expires,) = _EXPIRY.unpack_from(raw)
    return raw[_EXPIRY.size :] if not expires or expires >= time.time() else None


def _is_live(file: Path) -> bool:
    """Returns whether a file holds a value that has not expired: cachelib keeps the others, too."""
    with suppress(FileNotFoundError), file.open("rb") as opened:
        return _live(opened.read(_EXPIRY.size)) is not None
    return False


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(str(error))
