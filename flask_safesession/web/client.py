"""From where a user signed in: the address and the browser, as a person would name them.

What a header says is a stranger's text: it is cut before anything is done with it, and cleaned. A
template has to escape the label as it does any other text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from ..model.note import Client

#: The most characters of an address: those of an IPv6 one that holds an IPv4 one.
LONGEST_ADDRESS = 45
#: The most characters of the name of a browser.
LONGEST_AGENT = 60

# Of a header that is looked at. Browsers send 100 to 250 characters; what ua-parser's hundreds of
# patterns take grows faster than the text.
_LONGEST_HEADER = 512
# Headers whose label is kept: a handful of browsers makes nearly all requests.
_KEPT = 256
# What ua-parser calls by names that people do not know.
_NAMES = {"Mac OS X": "macOS", "Chrome OS": "ChromeOS"}
_PRODUCT = re.compile(r"([A-Za-z]{1,40})/([0-9]{1,9})")


def describe_client(request: Any) -> Client:
    """From where *request* comes. Never fails, whatever its headers say.

    :param request: Flask's, or Werkzeug's.
    """
    header = request.headers.get("User-Agent") or ""
    address = _printable(request.remote_addr or "").replace(" ", "")
    return Client(address[:LONGEST_ADDRESS], label_of(header[:_LONGEST_HEADER]))


@lru_cache(_KEPT)
def label_of(header: str) -> str:
    """A short name for the browser that sends *header*, by ua-parser if it is installed."""
    return _parser()(_printable(header))[:LONGEST_AGENT].rstrip()


def _printable(text: str) -> str:
    """*text* on one line, without what is not seen or changes how the rest is read."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _first_product(header: str) -> str:
    """The first product that *header* names, with its version; without any, the header itself."""
    found = _PRODUCT.search(header)
    return " ".join(found.groups()) if found else header


@cache
def _parser() -> Callable[[str], str]:
    """Returns what makes a label of a header; ua-parser takes half a second the first time."""
    try:
        # Its resolver in Python: faster ones need a compiled extension.
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
