"""Which file a ``sqlite://`` URL means."""

from __future__ import annotations

from pathlib import Path

from ....errors import ConfigError

#: The file where none is named.
DEFAULT_FILE = "safesession.sqlite3"
_SCHEME = "sqlite://"
_ABSOLUTE = "sqlite:////var/lib/myapp/sessions.sqlite3"


def read_file(url: str) -> Path:
    """Returns the file in *url*; one that is not absolute is in the app's instance folder.

    :raises ValueError: it names no file, with what to write instead.
    """
    name = url.removeprefix(_SCHEME)
    if name.lstrip("/").startswith(":memory:"):
        raise ValueError("':memory:' is another store in each thread: use memory:// in tests")
    if "?" in name or "#" in name:
        raise ValueError("a sqlite:// URL takes no parameters")
    if name and not name.startswith("/"):
        raise ValueError(f"write {_SCHEME}/{name}, or with an absolute path {_ABSOLUTE}")
    if name.endswith("/") or "\0" in name:
        raise ValueError("it names a folder: add the name of a file")
    return Path(name[1:] or DEFAULT_FILE)


def find_file(url: str, instance_folder: str) -> Path:
    """Returns the absolute path of the file in *url*; the instance folder is made if missing.

    :raises ConfigError: the folder cannot be made.
    """
    path = Path(instance_folder) / read_file(url)
    if path.is_relative_to(instance_folder):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = (
                f"the folder {str(path.parent)!r} cannot be made ({error.strerror}): make it, let"
                f" the app's user own it, or name another in SAFESESSION_STORE, as in {_ABSOLUTE!r}"
            )
            raise ConfigError([problem]) from error
    return path
