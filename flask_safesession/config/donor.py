"""The database of an app that uses SQLAlchemy, as the place of its sessions.

Only the address and the arguments of connections are taken from the app's engine. The store opens
connections of its own, and never uses the pool, the session or a transaction of the app.
SQLAlchemy is not imported.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from flask import Flask

from ..errors import ConfigError
from ..stores.deferred import DeferredStore
from ..stores.opening import Opened, check_store, check_url
from ..stores.urls import SQL_SCHEMES, SQLITE_URL

#: Drivers of the stores, by SQLAlchemy's names.
_OURS = ("psycopg", "pymysql")
# Arguments that say nothing about the server or the way to it.
_OF_DRIVERS = {
    *("charset", "use_unicode", "client_flag", "client_flags", "conv", "cursorclass", "autocommit"),
    *("buffered", "connect_timeout", "read_timeout", "write_timeout", "local_infile"),
    *("context", "client_encoding", "row_factory", "cursor_factory", "prepare_threshold"),
    *("timeout", "command_timeout", "statement_cache_size", "prepared_statement_cache_size"),
    *("prepared_statement_name_func", "async_fallback", "async_creator_fn", "tcp_keepalive"),
}
_INSTEAD = "give SAFESESSION_STORE a URL of its own"


def read_store(given: Any) -> Any:
    """Returns *given* if it can be opened as a store, or has an engine of SQLAlchemy.

    :raises ConfigError: with every problem, without passwords.
    """
    return given if is_donor(given) else check_store(given)


def is_donor(given: object) -> bool:
    """Returns whether *given* is Flask-SQLAlchemy's ``db``, or an engine of SQLAlchemy."""
    is_extension = all(hasattr(type(given), name) for name in ("engine", "init_app"))
    return is_extension or _is_engine(given)


def _is_engine(given: object) -> bool:
    return {"url", "dialect", "pool"} <= {*dir(given)}  # PyMongo's clients have any attribute


def open_donor(given: Any, app: Flask, open_store: Callable[..., Opened]) -> tuple[Any, Opened]:
    """Returns where the sessions are, and the store there.

    If *given* does not know *app* yet, the store is opened by its first call.

    :param given: see :func:`is_donor`.
    :param open_store: opens the store of a URL; takes *connect*, as :class:`.lines.Access`.
    :raises ConfigError: the database cannot be used, with the fix.
    """
    if _is_engine(given) or any(known is given for known in app.extensions.values()):
        url, options = _read(_engine_of(given, app))
        return url, open_store(url, **options)
    deferred = DeferredStore(partial(_open_later, given, weakref.ref(app), open_store))
    return deferred, Opened.of(deferred)


def _open_later(given: Any, app: Callable[[], Any], open_store: Callable[..., Opened]) -> Opened:
    url, options = _read(_engine_of(given, app()))
    return open_store(url, **options)


def _engine_of(given: Any, app: Flask) -> Any:
    if _is_engine(given):
        return getattr(given, "sync_engine", given)
    try:
        with app.app_context():
            return given.engine
    except (RuntimeError, KeyError) as error:
        problem = "SAFESESSION_STORE is Flask-SQLAlchemy's db, which has no engine for this app"
        fix = "set SQLALCHEMY_DATABASE_URI and call db.init_app(app)"
        raise ConfigError([f"{problem}: {fix}"]) from error


def _read(engine: Any) -> tuple[str, dict[str, Any]]:
    """Returns the URL of an engine's database, and what else is needed to open it.

    :raises ConfigError: the store cannot connect as the engine does, with the fix.
    """
    scheme, driver, arguments = engine.dialect.name, engine.dialect.driver, _arguments_of(engine)
    if scheme == "sqlite":
        url = _file_of(engine, is_plain=arguments is not None and driver != "pysqlcipher")
    elif scheme not in SQL_SCHEMES:
        kinds = "PostgreSQL, MySQL, MariaDB or SQLite"
        raise _refused(f"is for {scheme!r}: sessions can be in {kinds}")
    elif arguments is not None:
        url = _url_of(scheme, arguments)
    elif driver in _OURS:
        return f"{scheme}://{engine.url.host or ''}/", {"connect": partial(_connect, engine)}
    else:
        fix = f"use {' or '.join(_OURS)} there, or {_INSTEAD}, with SAFESESSION_STORE_PASSWORD"
        raise _refused(f"connects by a function of the app, and by the driver {driver!r}: {fix}")
    try:
        check_url(url)
    except ValueError as error:
        # Not the URL: its parameters are what the app gives to its driver, perhaps secrets.
        raise _refused(f"is of no use here ({error}): correct that, or {_INSTEAD}") from error
    return url, {}


def _arguments_of(engine: Any) -> dict[str, Any] | None:
    """Returns the arguments of the engine's connections; ``None``: a function of the app connects.

    They are kept in SQLAlchemy's own function alone, which ``creator=`` replaces.
    """
    creator = engine.pool._creator
    is_own = getattr(creator, "__module__", "") == "sqlalchemy.engine.create"
    known = inspect.getclosurevars(creator).nonlocals if is_own else {}
    if engine.dialect.dispatch.do_connect or "cparams" not in known:
        return None
    return dict(known["cparams"])


def _connect(engine: Any) -> Any:
    """Returns a new connection of the driver, made as by the engine, but not in its pool."""
    borrowed = engine.pool.recreate().connect()
    connection = borrowed.dbapi_connection
    borrowed.detach()
    return connection


def _file_of(engine: Any, *, is_plain: bool) -> str:
    name = engine.url.database or ":memory:"
    if ":memory:" in name or engine.url.query.get("mode") == "memory":
        raise _refused(
            "is on SQLite's :memory:, another one in each connection: use memory:// in tests"
        )
    if not is_plain or name.startswith("file:"):
        raise _refused(f"opens SQLite in a way of its own: {_INSTEAD}, such as {SQLITE_URL}")
    return f"{SQLITE_URL}/{Path(name).absolute()}"


def _url_of(scheme: str, arguments: Mapping[str, Any]) -> str:
    """Returns the URL of a server, with all that the driver is given about it."""
    given = {k: v for k, v in arguments.items() if k not in _OF_DRIVERS and v is not None}
    names = (("user",), ("password", "passwd"), ("host",), ("port",), ("database", "dbname", "db"))
    user, password, host, port, database = (
        "".join(str(given.pop(name)) for name in same if name in given) for same in names
    )
    if "," in host or "/" in host:  # several servers, or a socket
        given |= {"host": host, **({"port": port} if port else {})}
        place = ""
    else:
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    secret = f":{quote(password, safe='')}" if password else ""
    person = f"{quote(user, safe='')}{secret}@" if user else ""
    query = urlencode(_with_tls(scheme, given), quote_via=quote)
    return f"{scheme}://{person}{place}/{quote(database, safe='')}" + (f"?{query}" if query else "")


def _with_tls(scheme: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns *given* with the parameters that TLS has in our URLs."""
    tls = given.pop("ssl", None)
    if isinstance(tls, Mapping):  # PyMySQL's and mysqlclient's
        for name, value in tls.items():
            ours = name.replace("check_hostname", "verify_identity").removeprefix("ssl_")
            given[f"ssl_{ours}"] = value
        return given
    # asyncpg's; True is refused by libpq, for which 'true' would verify nothing.
    name = "sslmode" if scheme == "postgresql" and isinstance(tls, str) else "ssl"
    return given if tls is None else {**given, name: tls}


def _refused(problem: str) -> ConfigError:
    return ConfigError([f"the engine of SQLAlchemy in SAFESESSION_STORE {problem}"])
