"""Describes a request's client: its address, and a short name of its browser.

Headers are untrusted text: they are cut before anything else, and cleaned. Templates must still
escape the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from ..model.note import Client

#: The most characters of an address: an IPv6 address that contains an IPv4 one.
LONGEST_ADDRESS = 45
#: The most characters of a browser's name.
LONGEST_AGENT = 60

# Characters of a header that are parsed. Browsers send 100 to 250; the time of ua-parser's hundreds
# of patterns grows faster than the text.
_LONGEST_HEADER = 512
# Headers whose label is cached: a few browsers send nearly all requests.
_KEPT = 256
# Names of ua-parser's that people do not know.
_NAMES = {"Mac OS X": "macOS", "Chrome OS": "ChromeOS"}
_PRODUCT = re.compile(r"([A-Za-z]{1,40})/([0-9]{1,9})")


def describe_client(request: Any) -> Client:
    """Returns the client of *request*. Never raises, whatever its headers contain.

    :param request: Flask's, or Werkzeug's.
    """
    header = request.headers.get("User-Agent") or ""
    address = _printable(request.remote_addr or "").replace(" ", "")
    return Client(address[:LONGEST_ADDRESS], label_of(header[:_LONGEST_HEADER]))


@lru_cache(_KEPT)
def label_of(header: str) -> str:
    """Returns a short name for the browser that sent *header*, by ua-parser if installed."""
    return _parser()(_printable(header))[:LONGEST_AGENT].rstrip()


def _printable(text: str) -> str:
    """Returns *text* on one line, without invisible and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _first_product(header: str) -> str:
    """Returns the first product of *header* with its version, or else the header itself."""
    found = _PRODUCT.search(header)
    return " ".join(found.groups()) if found else header


@cache
def _parser() -> Callable[[str], str]:
    """Returns the function that labels a header. The import of ua-parser takes half a second."""
    try:
        # The resolver in Python: faster ones require a compiled extension.
        from ua_parser import BasicResolver, Domain, load_lazy_builtins
    except ImportError:
        return _first_product
    resolve, domains = BasicResolver(load_lazy_builtins()), Domain.USER_AGENT | Domain.OS

    def parse(header: str) -> str:
        try:
            found = resolve(header, domains)
        except Exception:  # noqa: BLE001  # a label is never worth a failed sign-in
            return _first_product(header)
        browser, system = found.user_agent, found.os
        name = " ".join(filter(None, (browser.family, browser.major))) if browser else ""
        where = _NAMES.get(system.family, system.family) if system else ""
        return " on ".join(filter(None, (name, where))) or _first_product(header)

    return parse
