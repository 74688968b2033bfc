"""Opens the store of a URL, and finds out what a store can do.

The only module that names all stores. Each is imported when it is opened, so that an app does not
load the others.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..model.text import name_of
from .base import AdoptingStore, IndexedStore, RemoteStore, Store, UserStore
from .memory import MemoryStore
from .sharded import Sharded
from .urls import (
    MEMCACHED_URL,
    MEMORY_URL,
    MONGODB_SCHEMES,
    PER_PROCESS,
    REDIS_SCHEMES,
    SERVER_SCHEMES,
    SQL_SCHEMES,
    SQLITE_URL,
    hide_password,
    meant_by,
    nearest_to,
)

_MEMORY_NAME = re.compile(rf"[A-Za-z0-9._-]{{0,100}}({re.escape(PER_PROCESS)})?")


class CannotDo(TypeError):
    """A store lacks an ability. The message names the missing methods."""


@dataclass(frozen=True)
class Opened:
    """A store and the protocols that it implements.

    :param store: the store.
    :param users: the same, if it is a :class:`.UserStore`.
    :param index: the same, if it is an :class:`.IndexedStore`.
    :param adopting: the same, if it is an :class:`.AdoptingStore`.
    :param remote: its servers, if it is on servers.
    :param shards: the shards, or the store itself, for the purge job.
    :param system: its name in traces.
    :param hooks: called around its operations.
    :param no_index: why it is no :class:`.IndexedStore`, if it says so.
    """

    store: Store
    users: UserStore | None = None
    index: IndexedStore | None = None
    adopting: AdoptingStore | None = None
    remote: RemoteStore | None = None
    shards: tuple[IndexedStore, ...] = ()
    system: str = ""
    hooks: tuple[object, ...] = field(default=(), repr=False)
    no_index: str = ""

    @classmethod
    def of(cls, given: Any) -> Opened:
        """Returns *given* with its protocols."""
        if isinstance(given, Sharded):
            first = cls.of(given.shards[0])
            adopting = given if first.adopting else None
            shards = tuple(given.shards)
            return cls(given, given, given, adopting, given.remote, shards, first.system)
        name = type(given).__name__.removesuffix("Store").lower()
        system = getattr(given, "system", name)
        users = None if _missing(given, UserStore) else given
        index = None if _missing(given, IndexedStore) else given
        adopting = None if _missing(given, AdoptingStore) else given
        remote = None if _missing(given, RemoteStore) else given
        shards, why = (index,) if index else (), getattr(given, "no_index", "")
        return cls(given, users, index, adopting, remote, shards, system, no_index=why)

    def need_users(self) -> UserStore:
        """Returns the store as a :class:`.UserStore`.

        :raises CannotDo: it is not one.
        """
        if self.users is None:
            raise self._cannot("cannot list the sessions of a user", UserStore)
        return self.users

    def need_index(self) -> IndexedStore:
        """Returns the store as an :class:`.IndexedStore`.

        :raises CannotDo: it is not one.
        """
        if self.index is None:
            raise self._cannot("has no index of its sessions", IndexedStore)
        return self.index

    def need_adopting(self) -> AdoptingStore:
        """Returns the store as an :class:`.AdoptingStore`.

        :raises CannotDo: it is not one.
        """
        if self.adopting is None:
            raise self._cannot("cannot adopt sessions from older places", AdoptingStore)
        return self.adopting

    def states(self) -> Mapping[str, str]:
        """Returns the state of each server's circuit breaker; none if it is on no servers."""
        return self.remote.states() if self.remote else {}

    @property
    def is_up(self) -> bool:
        """Whether this process uses all servers. Makes no store call."""
        return all(state == "closed" for state in self.states().values())

    def _cannot(self, what: str, protocol: type) -> CannotDo:
        if self.no_index:
            return CannotDo(self.no_index)
        names = ", ".join(_missing(self.store, protocol))
        where = f"{protocol.__module__}.{protocol.__name__}"
        return CannotDo(f"{name_of(type(self.store))} {what}: give it {names} ({where})")


def _missing(store: object, protocol: type) -> list[str]:
    """Returns the methods of *protocol* that *store* lacks."""
    return [name for name in dir(protocol) if name[0] != "_" and not hasattr(store, name)]


def open_store(given: Any, folder: str, *, shards: int, **options: Any) -> Opened:
    """Open the store in the settings; a ready one is used as it is.

    :param given: a URL, a store, or a client of a store's driver.
    :param folder: the base of relative paths.
    :param shards: the number of shards.
    :param options: *prefix*, *timeout* and *wait_replicas*, as in the constructors of stores; for
        SQL servers *password* and *connect*, if the app gives them.
    :raises ConfigError: it cannot be opened, with the fix.
    """
    options["shards"] = shards
    if isinstance(given, str):
        return Opened.of(_SCHEMES[given.partition("://")[0]].open(given, folder, options))
    if is_client(given):
        return Opened.of(_open_redis(given, folder, options))
    opened = Opened.of(given)
    held = max(1, len(opened.shards))
    if held != shards:
        stated = f"SAFESESSION_SHARDS is {shards}, but the store has {held}"
        raise ConfigError([f"{stated}: set it to {held}"])
    return opened


def check_store(given: Any) -> Any:
    """Returns *given* if it can be opened as a store.

    :raises ConfigError: with every problem, without passwords.
    """
    if isinstance(given, str):
        try:
            check_url(given)
        except ValueError as error:
            raise _wrong(given, str(error)) from error
    elif (isinstance(given, type) or not is_client(given)) and (fix := _lacks(given)):
        raise _wrong(given, fix)
    return given


#: What can be given as a store.
ANY_STORE = "give a URL, a Store, Flask-SQLAlchemy's db, SQLAlchemy's engine or a redis-py client"


def check_url(url: str) -> None:
    """Check the URL of a store; nothing is reached.

    :raises ValueError: with what to write instead, without values from the URL.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(_guess(url))
    _SCHEMES[scheme].check(url)


def _lacks(given: object) -> str:
    """Returns what to do so that *given* is a store; empty: it is one."""
    names = dir(given)  # not hasattr(): to it, PyMongo's client has whatever it is asked for
    has_shared = "shared" in names
    if not has_shared and "load" not in names:
        return ANY_STORE
    if isinstance(given, type):
        return "give an instance of this class"
    if missing := _missing(given, Store):
        return f"give it the methods of a Store: {', '.join(missing)}"
    return "" if has_shared else "give its class 'shared': whether processes share the sessions"


# Stores that cannot be divided, by the schemes of their URLs.
_WHOLE = {
    "sqlite": "is one file",
    "memcached": "is Memcached",
    **dict.fromkeys((*SQL_SCHEMES, *MONGODB_SCHEMES), "is one database"),
}


def is_client(given: object) -> bool:
    """Returns whether *given* is a client of a driver."""
    return "execute_command" in dir(given)


def is_in_memory(given: Any) -> bool:
    """Returns whether *given* is the memory of this process."""
    is_url = isinstance(given, str)
    return given.startswith(MEMORY_URL) if is_url else getattr(given, "shared", True) is False


def is_uncounted(given: Any) -> bool:
    """Returns whether *given* is a store of ours that cannot count its sessions."""
    is_url = isinstance(given, str)
    return given.startswith(MEMCACHED_URL) if is_url else hasattr(given, "no_index")


def undivided(given: Any) -> str:
    """Returns why a store has neither shards nor replicas; empty if it may have them."""
    if is_client(given) or isinstance(given, Sharded):
        return ""
    if is_in_memory(given):
        return "is in memory"
    if isinstance(given, str):
        return _WHOLE.get(given.partition("://")[0], "")
    return "is your own"


def _guess(given: str) -> str:
    if near := nearest_to(given):
        return near
    if meant := meant_by(hide_password(given)):
        return f"did you mean {meant}?"
    servers = ", ".join(SERVER_SCHEMES)
    return f"give {MEMORY_URL!r}, {SQLITE_URL!r} or a URL that begins with {servers} and ://"


def _wrong(given: object, fix: str) -> ConfigError:
    shown = repr(hide_password(given)) if isinstance(given, str) else hide_password(repr(given))
    return ConfigError([f"SAFESESSION_STORE is {shown}: {fix}"])


def place_of(opened: Opened, given: object, prefix: str) -> Hashable:
    """Returns an object that is equal for all apps of a process that share their sessions.

    :param given: the store in the settings.
    """
    store = opened.store
    if given is store or not store.shared:
        return id(store)
    place = getattr(store, "path", given)  # a URL may name a different file in each app
    return place if isinstance(place, (str, Path)) else id(given), prefix


def shown_place(opened: Opened, given: object) -> str:
    """Returns where a store is, for operators: without its password.

    :param given: the store in the settings.
    """
    if isinstance(given, str):
        path = getattr(opened.store, "path", None)  # a URL without one means the instance folder
        scheme, separator, rest = given.partition("://")  # the scheme's colon precedes no password
        return f"{SQLITE_URL}/{path}" if path else scheme + separator + hide_password(rest)
    pool = getattr(given, "connection_pool", None)
    where = getattr(pool, "connection_kwargs", {})
    place = f" at {where['host']}:{where.get('port')}/{where.get('db')}" if "host" in where else ""
    return name_of(type(given)) + place


# -- the table of schemes -------------------------------------------------------------------------


def _check_memory(url: str) -> None:
    if not _MEMORY_NAME.fullmatch(url.removeprefix(MEMORY_URL)):
        raise ValueError(
            f"give a name of letters, digits, '.', '_' and '-' after {MEMORY_URL}, or none; after"
            f" that {PER_PROCESS} where each process may have sessions of its own"
        )


def _open_memory(url: str, folder: str, options: Any) -> Store:
    """Returns the store that apps of this process share under a name; without one, a new store."""
    del folder, options
    name = url.removeprefix(MEMORY_URL).removesuffix(PER_PROCESS)
    with _naming:
        store = _named.get(name) or MemoryStore()
        if name:
            _named[name] = store
        return store


# A store is freed with the last app that uses it.
_named: weakref.WeakValueDictionary[str, MemoryStore] = weakref.WeakValueDictionary()
_naming = threading.Lock()


def _check_file(url: str) -> None:
    from .sql.sqlite.url import read_file

    try:
        read_file(url)
    except ValueError as error:
        raise ValueError(f"give a file ({error})") from error


def _open_sqlite(url: str, folder: str, options: Any) -> Store:
    from .sql.sqlite.store import SqliteStore
    from .sql.sqlite.url import find_file

    return SqliteStore(find_file(url, folder), prefix=options["prefix"], timeout=options["timeout"])


def _check_memcached(url: str) -> None:
    from .memcached.url import read_url

    try:
        import pymemcache  # noqa: F401  # is it installed?
    except ModuleNotFoundError as error:
        raise _not_installed(error, "pymemcache") from error
    read_url(url)


def _open_memcached(url: str, folder: str, options: Any) -> Store:
    del folder
    from .memcached.store import MemcachedStore

    return MemcachedStore(url, prefix=options["prefix"], timeout=options["timeout"])


def _check_sql(url: str) -> None:
    from .sql.servers.url import read_url

    sql_driver(url).check(read_url(url).url)


def _open_sql(url: str, folder: str, options: Any) -> Store:
    del folder
    from .sql.servers.lines import Access
    from .sql.servers.store import SqlServerStore

    access = Access(options.get("password"), options.get("connect"))
    bounds = {"prefix": options["prefix"], "timeout": options["timeout"]}
    return SqlServerStore(url, sql_driver(url), access, **bounds)


def sql_driver(url: str) -> Any:
    """Returns how to connect to the SQL server of *url*.

    :raises ValueError: its driver is not installed.
    """
    try:
        if url.startswith("postgres"):
            from .sql.servers.postgresql import DRIVER
        else:
            from .sql.servers.mysql import DRIVER
    except ModuleNotFoundError as error:
        package = "'psycopg[binary]'" if url.startswith("postgres") else "PyMySQL"
        raise _not_installed(error, package) from error
    return DRIVER


def _check_mongodb(url: str) -> None:
    try:
        from .mongodb.url import check_url
    except ModuleNotFoundError as error:
        raise _not_installed(error, "pymongo") from error
    check_url(url)


def _open_mongodb(url: str, folder: str, options: Any) -> Store:
    del folder
    from .mongodb.store import MongoDBStore

    return MongoDBStore(url, prefix=options["prefix"], timeout=options["timeout"])


def _not_installed(error: ModuleNotFoundError, package: str) -> ValueError:
    return ValueError(f"{error.name} is not installed: pip install {package}")


def _check_redis(url: str) -> None:
    from .redis.url import read_url

    read_url(url)


def _open_redis(given: Any, folder: str, options: Any) -> Store:
    del folder
    from .redis.shards import open_shards

    return open_shards(given, **options)


class _Scheme(NamedTuple):
    """How URLs of a scheme are checked (:exc:`ValueError` with the fix) and opened."""

    check: Callable[[str], object]
    open: Callable[[str, str, Any], Store]


_REDIS = _Scheme(_check_redis, _open_redis)
_SCHEMES: dict[str, _Scheme] = {
    "memory": _Scheme(_check_memory, _open_memory),
    "memcached": _Scheme(_check_memcached, _open_memcached),
    "sqlite": _Scheme(_check_file, _open_sqlite),
    **dict.fromkeys(SQL_SCHEMES, _Scheme(_check_sql, _open_sql)),
    **dict.fromkeys(MONGODB_SCHEMES, _Scheme(_check_mongodb, _open_mongodb)),
    **dict.fromkeys(REDIS_SCHEMES, _REDIS),
}
