"""Reads the URLs of MongoDB."""

from __future__ import annotations

import re

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from ..urls import ENCODE


def check_url(url: str) -> None:
    """Check the form of *url*; no name is resolved.

    :raises ValueError: with what to write instead.
    """
    scheme, _, rest = url.partition("://")
    person, at, place = rest.rpartition("@")
    if scheme != "mongodb" and (":" in place or "," in place):
        raise ValueError("with mongodb+srv:// give one host without a port")
    _parse(place)
    try:
        _parse(person + at + place)
    except ValueError:  # its text may have parts of the password
        raise ValueError(ENCODE) from None


def server_of(url: str) -> str:
    """Returns the hosts in *url*, for messages."""
    return re.split("[/?]", url.partition("://")[2].rpartition("@")[2])[0]


def _parse(place: str) -> None:
    try:
        parse_uri(f"mongodb://{place}")
    except PyMongoError as error:
        raise ValueError(str(error)) from error
