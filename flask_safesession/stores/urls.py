"""URLs of stores as text: guesses the meant one, and hides passwords."""

from __future__ import annotations

import re
from difflib import get_close_matches

#: The store of one app; with a name after it, of all apps of the process with this URL.
MEMORY_URL = "memory://"
#: The SQLite file in the app's instance folder; with a path after it, another file.
SQLITE_URL = "sqlite://"
#: Memcached servers follow.
MEMCACHED_URL = "memcached://"
#: After a URL of memory: separate sessions in each process are accepted.
PER_PROCESS = "?per_process=yes"

_SERVERS = ("redis", "rediss", "valkey", "valkeys")
#: Schemes of Redis and Valkey servers.
REDIS_SCHEMES: tuple[str, ...] = (
    *_SERVERS,
    "unix",
    *(f"{server}+sentinel" for server in _SERVERS),
    *(f"{server}+cluster" for server in _SERVERS),
)

#: Schemes of SQL servers; the second pair means the same.
SQL_SCHEMES: tuple[str, ...] = ("postgresql", "mysql", "postgres", "mariadb")
#: Schemes of MongoDB: one that names the servers, and one that looks them up in the DNS.
MONGODB_SCHEMES: tuple[str, ...] = ("mongodb", "mongodb+srv")
# The nearest store for what other libraries have.
_NEAREST = {
    **dict.fromkeys(
        ("file", "filesystem", "cachelib", "shelve"),
        f"the nearest store is {SQLITE_URL!r}, one file on this machine",
    ),
    **dict.fromkeys(
        ("dynamodb", "cassandra", "mssql", "oracle", "cockroachdb", "firestore", "sqlalchemy"),
        "the nearest stores are postgresql:// and mysql://",
    ),
    **dict.fromkeys(
        ("simplecache", "simple", "null", "dict"), f"the nearest store is {MEMORY_URL!r}"
    ),
}
_NEARLY_A_URL = re.compile(r"([a-z+-]+)(?::/+|//|:(?=[a-z]))(.+)", re.IGNORECASE)
_NEARLY_A_FILE = re.compile(r"sqlite3?:?(/*)(.*)", re.IGNORECASE)
_SLASHES = 3  # with more, the path is absolute
_ADDRESS = re.compile(r"([\w.-]+|\[[\da-f:]+\])(:\d{1,5})?(?:/(\d*))?", re.IGNORECASE)


def hide_password(url: str) -> str:
    """Returns *url*, which may be malformed, without its password: for messages and logs."""
    hidden = re.sub(r"^((?:[\w.+-]+://)?+[^:@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    # Without a host after it, anything but a port is a password.
    hidden = re.sub(r"^(\w[\w+.-]*://[^:@/?\[]*):(?!\d+(?:[/?,]|$))[^@]*$", r"\1:***", hidden)
    return re.sub(r"(password=)[^&;\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def meant_by(text: str) -> str:
    """Returns the URL that *text* probably means; empty: unclear."""
    if "@" in text or "*" in text:  # it may contain a password
        return ""
    if re.fullmatch("memory:?/*", text, re.IGNORECASE):
        return MEMORY_URL
    if file := _NEARLY_A_FILE.fullmatch(text):
        return SQLITE_URL + ("//" if len(file[1]) > _SLASHES else "/" if file[2] else "") + file[2]
    if text.lower() in (*_SERVERS, "memcached"):
        return f"{text.lower()}://localhost" + (":6379/0" if text.lower() in _SERVERS else ":11211")
    if url := _NEARLY_A_URL.fullmatch(text):
        schemes = (*REDIS_SCHEMES, *SQL_SCHEMES, *MONGODB_SCHEMES, "memcached")
        near = get_close_matches(url[1].lower(), schemes, n=1, cutoff=0.7)
        return f"{near[0]}://{'/' if near[0] == 'unix' else ''}{url[2]}" if near else ""
    return _address_meant(text)


def _address_meant(text: str) -> str:
    if text.startswith("/"):
        return f"unix://{text}"
    if (address := _ADDRESS.fullmatch(text)) and (address[2] or "." in text or text == "localhost"):
        return f"redis://{address[1]}{address[2] or ':6379'}/{address[3] or 0}"
    return ""


def nearest_to(text: str) -> str:
    """Returns a sentence about the store that is nearest to one that does not exist here."""
    scheme, _, driver = text.partition(":")[0].lower().partition("+")
    if driver and scheme in SQL_SCHEMES:
        return f"leave out the driver: write {scheme}://"
    return _NEAREST.get(scheme, "")
