"""Reads the URLs of SQL servers."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ...urls import check_person

#: The schemes of URLs; the first one of each kind is shown in messages.
POSTGRESQL, MYSQL = ("postgresql", "postgres"), ("mysql", "mariadb")
_MOST, _DEFAULT_MOST = "max_connections", 20
_SERVER = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]{1,5})?")
_PORTS = {**dict.fromkeys(POSTGRESQL, 5432), **dict.fromkeys(MYSQL, 3306)}


class Place(NamedTuple):
    """The parts of a URL.

    :param url: without the parameters that are ours.
    :param server: for messages, without user and password.
    :param most: the most connections of a process at once.
    """

    url: str
    server: str
    most: int


def read_url(url: str) -> Place:
    """Returns the parts of *url*.

    :raises ValueError: with what to write instead.
    """
    check_person(url)
    head, mark, query = url.partition("?")
    given = [part for part in query.split("&") if part]
    ours = [part.partition("=")[2] for part in given if part.partition("=")[0] == _MOST]
    most = ours[-1] if ours else str(_DEFAULT_MOST)
    if not re.fullmatch("[1-9][0-9]{0,3}", most):
        raise ValueError(f"{_MOST} is {most!r}: give a whole number from 1 to 9999")
    rest = "&".join(part for part in given if part.partition("=")[0] != _MOST)
    return Place(head + (mark + rest if rest else ""), _server_of(url), int(most))


def _server_of(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    if not all(_SERVER.fullmatch(server) for server in place.split(",")):
        raise ValueError("give the server as host or host:port, after a user with @")
    if not place:
        socket = re.search("(?:^|&)(?:host|unix_socket)=([^&]+)", parts.query)
        return unquote(socket[1]) if socket else "localhost"
    return place if ":" in place else f"{place}:{_PORTS[parts.scheme]}"
