"""Finds the servers that a URL in ``SAFESESSION_STORE`` names, and checks every part of it.

``redis`` may be ``valkey``, and ``rediss`` or ``valkeys`` where everything is encrypted (TLS)::

    redis://user:password@host:port/database
    unix://user:password@/path/to/socket?db=1
    redis+sentinel://user:password@host:port,host:port/service/database
    redis+cluster://user:password@host:port,host:port
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import redis

from ...errors import ConfigError
from ...events import Event
from ..remote.breaker import Notify
from ..urls import ENCODE
from .clients import topology_of_client
from .servers.cluster import Cluster
from .servers.sentinel import Sentinel
from .servers.standalone import Access, Address, Standalone, Topology
from .servers.timed import timed
from .url_parameters import CLUSTER, SENTINEL, UNIX, read_parameters, tls_options, tls_problems

_SERVERS, _ENCRYPTED = ("redis", "rediss", "valkey", "valkeys"), ("rediss", "valkeys")
#: The schemes of URLs.
SCHEMES: tuple[str, ...] = (
    *_SERVERS,
    UNIX,
    *(f"{server}+{SENTINEL}" for server in _SERVERS),
    *(f"{server}+{CLUSTER}" for server in _SERVERS),
)
_COMMON = ("client_name", "socket_keepalive")
_PERSON = ("username", "password")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\[\]:@]+))(?::([0-9]{1,5}))?")
_PORT, _SENTINEL_PORT, _LAST_PORT = 6379, 26379, 65535


class Place(NamedTuple):
    """The parts of a URL.

    :param how: ``unix``, ``sentinel``, ``cluster``, or nothing: one server.
    :param addresses: of the server, of the Sentinels, or of some nodes.
    :param name: of the service, for Sentinels; or of a socket file.
    :param access: how to connect to the servers.
    :param sentinels: how to connect to the Sentinels.
    """

    how: str
    addresses: tuple[Address, ...]
    name: str
    access: Access
    sentinels: Access


def topology_of(given: object, notify: Notify) -> Topology:
    """Returns the servers that a URL or a ready client names; a client itself is not used.

    :raises ConfigError: with every problem, and what to do instead; no password is shown.
    """
    if not isinstance(given, str):
        return topology_of_client(given, notify)
    place = read_url(given)
    access = place.access
    if place.how == SENTINEL:
        sentinels = [place.sentinels.to(address, _ignore) for address in place.addresses]
        return Sentinel(place.name, sentinels, access, notify)
    if place.how == CLUSTER:
        return Cluster(place.addresses, access, notify)
    if place.how == UNIX:
        return Standalone(access.by(timed(access.kind), place.name, notify, path=place.name))
    return Standalone(access.to(place.addresses[0], notify))


def _ignore(event: Event) -> None:
    """Ignore the event: with one Sentinel down, the store may work."""


def read_url(url: str) -> Place:
    """Returns the parts of *url*.

    :raises ConfigError: with every problem in it.
    """
    scheme, _, rest = url.partition("://")
    kind, _, how = scheme.partition("+")
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    reader = _Reader(how or (UNIX if kind == UNIX else ""), encrypted=kind in _ENCRYPTED)
    if scheme not in SCHEMES:
        reader.problems.append(f"it begins with none of {', '.join(SCHEMES)}")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        reader.problems.append("there is white space in it: remove it, or write it as %20")
    reader.read_query(query)
    reader.read_authority(authority)
    reader.read_path(path)
    if reader.problems:
        raise ConfigError(
            f"SAFESESSION_STORE is a URL that cannot be used: {text}" for text in reader.problems
        )
    return reader.place()


class _Reader:
    """Reads a URL part by part and collects its problems."""

    def __init__(self, how: str, *, encrypted: bool) -> None:
        self.problems = list[str]()
        self._how = how
        self._encrypted = encrypted
        self._addresses: tuple[Address, ...] = ()
        self._name = ""
        self._values: dict[str, Any] = {}

    def read_query(self, query: str) -> None:
        self._values, problems = read_parameters(query, self._how)
        self.problems += problems
        of_tls = [name for name in self._values if name.startswith("ssl_")]
        if self._encrypted or self._values.get("sentinel_ssl"):
            self.problems += tls_problems(self._values)
        elif of_tls:
            self.problems.append(f"?{of_tls[0]}= is for TLS: begin with rediss or valkeys")

    def read_authority(self, authority: str) -> None:
        credentials, at, hosts = authority.rpartition("@")
        user, colon, password = credentials.partition(":")
        if at and not (colon and password):
            self.problems.append(f"there is an @ without a password before it; {ENCODE}")
        self._set("username", unquote(user))
        self._set("password", unquote(password))
        if "username" in self._values and "password" not in self._values:
            self.problems.append("there is a user without a password")
        if self._how != UNIX:
            self._read_hosts(hosts)
        elif hosts:
            self.problems.append("a path begins with /, so write three: unix:///path")

    def _read_hosts(self, hosts: str) -> None:
        found = [_address(text, self._how) for text in hosts.split(",")]
        self._addresses = tuple(address for address in found if address)
        if not hosts:
            self.problems.append(f"it has no host; {ENCODE}")
        elif None in found:
            self.problems.append(f"write host, host:port or [::1]:port; {ENCODE}")
        elif len(found) > 1 and not self._how:
            self.problems.append("there are several hosts: is it redis+sentinel or redis+cluster?")

    def read_path(self, path: str) -> None:
        if self._how == UNIX:
            self._name = "/" + unquote(path)
            if not path:
                self.problems.append("there is no path in it: unix:///path/to/socket")
            return
        database = path.strip("/")
        if self._how == SENTINEL:
            service, _, database = database.partition("/")
            self._name = unquote(service)
            if not service:
                self.problems.append("there is no service: redis+sentinel://host:port/service")
        if database and not re.fullmatch("[0-9]{1,9}", database):
            self.problems.append(f"the path should be the number of a database; {ENCODE}")
        elif database:
            self._set("db", int(database))
        if self._how == CLUSTER and self._values.get("db"):
            self.problems.append("a cluster has no database but 0: leave it out")

    def place(self) -> Place:
        values, secure = self._values, self._encrypted
        common = {name: values[name] for name in _COMMON if name in values}
        person = {name: values[name] for name in (*_PERSON, "db") if name in values}
        guard = {
            name: values[f"sentinel_{name}"] for name in _PERSON if f"sentinel_{name}" in values
        }
        limit = values.get("max_connections")
        return Place(
            self._how,
            self._addresses,
            self._name,
            self._access({**common, **person}, secure, limit),
            self._access({**common, **guard}, values.get("sentinel_ssl", secure), None),
        )

    def _access(self, options: Mapping[str, Any], secure: bool, limit: int | None) -> Access:
        if self._how == UNIX:
            return Access(redis.UnixDomainSocketConnection, options, limit)
        if secure:
            return Access(redis.SSLConnection, {**options, **tls_options(self._values)}, limit)
        return Access(redis.Connection, options, limit)

    def _set(self, name: str, value: Any) -> None:
        """Store a value that a URL can give in two places."""
        if value in ("", None):
            return
        if name in self._values and self._values[name] != value:
            self.problems.append(f"the {name} is given twice: leave out ?{name}=")
        self._values[name] = value


def _address(text: str, how: str) -> Address | None:
    """Returns host and port; ``None``: *text* is not an address."""
    if not (match := _HOST.fullmatch(text)):
        return None
    v6, name, port = match.groups()
    number = int(port) if port else _SENTINEL_PORT if how == SENTINEL else _PORT
    return (v6 or unquote(name), number) if 0 < number <= _LAST_PORT else None
