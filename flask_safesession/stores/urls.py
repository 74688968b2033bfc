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
#: All schemes of servers.
SERVER_SCHEMES: tuple[str, ...] = (*SQL_SCHEMES, *MONGODB_SCHEMES, *REDIS_SCHEMES, "memcached")
# The nearest store for what other libraries have.
_NEAREST = {
    **dict.fromkeys(
        ("file", "filesystem", "cachelib", "shelve"),
        f"the nearest store is {SQLITE_URL!r}, one file on this machine",
    ),
    **dict.fromkeys(
        ("dynamodb", "dynamo", "cassandra", "mssql", "oracle", "cockroachdb", "firestore"),
        "the nearest stores are postgresql:// and mysql://",
    ),
    **dict.fromkeys(
        ("sqlalchemy", "db"),
        "give Flask-SQLAlchemy's db itself, or a URL of postgresql://, mysql:// or sqlite://",
    ),
    **dict.fromkeys(("psql", "pgsql", "pg"), "write postgresql://"),
    **dict.fromkeys(
        ("simplecache", "simple", "null", "dict"), f"the nearest store is {MEMORY_URL!r}"
    ),
}
_NEARLY_A_URL = re.compile(r"([a-z+-]+)(?::/+|//|:(?=[a-z]))(.+)", re.IGNORECASE)
_NEARLY_A_FILE = re.compile(r"sqlite3?:?(/*)(.*)", re.IGNORECASE)
_FILE = re.compile(r"[^:]+\.(?:db|sqlite3?)", re.IGNORECASE)
# What follows a scheme that was given alone.
_PLACES = {
    **dict.fromkeys(_SERVERS, "localhost:6379/0"),
    "memcached": "localhost:11211",
    "mongodb": "localhost/?replicaSet=rs0",
    **dict.fromkeys(SQL_SCHEMES, "user@localhost/database"),
}
_SLASHES = 3  # with more, the path is absolute
_ADDRESS = re.compile(r"([\w.-]+|\[[\da-f:]+\])(:\d{1,5})?(?:/(\d*))?", re.IGNORECASE)


#: What to do if user or password are not as URLs have them.
ENCODE = (
    "in user and password, write '@', ':', '/', '?', '#' and '%' as %40, %3A, %2F, %3F, %23 and %25"
)
_NOT_ENCODED = re.compile("[@/?#]|%(?![0-9a-f]{2})", re.IGNORECASE)


def check_person(url: str) -> None:
    """Check the form of user and password, parts of which drivers would take for something else.

    Their messages, and ours about a server that does not answer, would repeat these parts.

    :raises ValueError: with what to write instead.
    """
    if _NOT_ENCODED.search(url.partition("://")[2].rpartition("@")[0]):
        raise ValueError(ENCODE)


def hide_password(url: str) -> str:
    """Returns *url*, which may be malformed, without its password: for messages and logs."""
    hidden = re.sub(r"^((?:[\w.+-]+://)?+[^:@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    # Without a host after it, anything but a port is a password.
    hidden = re.sub(r"^(\w[\w+.-]*://[^:@/?\[]*):(?!\d+(?:[/?,]|$))[^@]*$", r"\1:***", hidden)
    return re.sub(r"(password=)[^&;\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def meant_by(text: str) -> str:
    """Returns the URL that *text* probably means; empty: unclear."""
    if "@" in text or "*" in text:  # it may contain a password
        near = _scheme_near(text.partition(":")[0])
        return f"{near}://" if near else ""
    if re.fullmatch("memory:?/*", text, re.IGNORECASE):
        return MEMORY_URL
    if file := _file_meant(text):
        return file
    if place := _PLACES.get(text.lower()):
        return f"{text.lower()}://{place}"
    if url := _NEARLY_A_URL.fullmatch(text):
        near = _scheme_near(url[1])
        return f"{near}://{'/' if near == 'unix' else ''}{url[2]}" if near else ""
    return _address_meant(text)


def _scheme_near(scheme: str) -> str:
    return next(iter(get_close_matches(scheme.lower(), SERVER_SCHEMES, n=1, cutoff=0.7)), "")


def _file_meant(text: str) -> str:
    if file := _NEARLY_A_FILE.fullmatch(text):
        return SQLITE_URL + ("//" if len(file[1]) > _SLASHES else "/" if file[2] else "") + file[2]
    return f"{SQLITE_URL}/{text}" if _FILE.fullmatch(text) else ""


def _address_meant(text: str) -> str:
    if text.startswith("/"):
        return f"unix://{text}"
    if (address := _ADDRESS.fullmatch(text)) and (address[2] or "." in text or text == "localhost"):
        return f"redis://{address[1]}{address[2] or ':6379'}/{address[3] or 0}"
    return ""


def nearest_to(text: str) -> str:
    """Returns a sentence about the store that is nearest to one that does not exist here."""
    scheme, _, driver = text.partition(":")[0].lower().partition("+")
    if driver and scheme in (*SQL_SCHEMES, "sqlite"):
        return f"leave out the driver: write {scheme}://"
    return _NEAREST.get(scheme, "")
