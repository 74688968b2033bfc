"""Parameters after the question mark of a URL in ``SAFESESSION_STORE``."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

#: The topologies of URLs; without one, a single server on a network.
UNIX, SENTINEL, CLUSTER = "unix", "sentinel", "cluster"

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_REQS = {name: name for name in ("required", "optional", "none")}

#: Parses a value; raises ``ValueError`` with what is accepted.
_Check: TypeAlias = Callable[[str], Any]


def _whole(least: int) -> _Check:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise ValueError(f"a whole number from {least}")
        return int(text)

    return read


def _switch(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise ValueError("yes or no")
    return text.lower() in _YES


def _text(text: str) -> str:
    if not text:
        raise ValueError("a value, or leave it out")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("a name in ASCII without spaces")
    return text


def _one_of(choices: Mapping[str, Any], prefix: str = "") -> _Check:
    def read(text: str) -> Any:
        found = choices.get(text.lower().removeprefix(prefix))
        if found is None:
            raise ValueError(" or ".join(choices))
        return found

    return read


#: All parameters, each with the parser of its value.
PARAMETERS: dict[str, _Check] = {
    "db": _whole(0),
    "username": _text,
    "password": _text,
    "client_name": _name,
    "max_connections": _whole(1),
    "socket_keepalive": _switch,
    "ssl_ca_certs": _text,
    "ssl_ca_path": _text,
    "ssl_certfile": _text,
    "ssl_keyfile": _text,
    "ssl_password": _text,
    "ssl_cert_reqs": _one_of(_REQS),
    "ssl_check_hostname": _switch,
    "ssl_min_version": _one_of(_VERSIONS, "tlsv"),
    "ssl_ciphers": _text,
    "sentinel_username": _text,
    "sentinel_password": _text,
    "sentinel_ssl": _switch,
}
# redis-py's parameters in whose place there is a setting.
_TIMEOUTS = re.compile("timeout|retry|retries")


def read_parameters(query: str, how: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the values in *query*, and what is wrong with the others.

    :param how: the topology of the URL: empty, or one of :data:`UNIX`, :data:`SENTINEL`,
        :data:`CLUSTER`.
    """
    values: dict[str, Any] = {}
    problems = list[str]()
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in values:
            problems.append(f"?{name}= is given twice")
        elif problem := _why_not(name, how):
            problems.append(problem)
        else:
            try:
                values[name] = PARAMETERS[name](text)
            except ValueError as error:
                # With an @, it may be the rest of a password that has a ? in it.
                shown = "***" if "password" in name or "@" in text else text
                problems.append(f"?{name}={shown}: give {error}")
    return values, problems


def _why_not(name: str, how: str) -> str | None:
    """Returns why the URL cannot have the parameter *name*."""
    if name.startswith("sentinel_") and name in PARAMETERS and how != SENTINEL:
        return f"?{name}= is for Sentinels: begin with redis+sentinel"
    if name == "socket_keepalive" and how == UNIX:
        return f"?{name}= is for networks, not for a socket file: leave it out"
    if name in PARAMETERS:
        return None
    if not re.fullmatch(r"\w{1,40}", name, re.ASCII):  # it may be a piece of a password
        return "what follows the ? is not a parameter"
    if _TIMEOUTS.search(name):
        return f"?{name}= is not for the URL: use SAFESESSION_STORE_TIMEOUT, which covers retries"
    near = get_close_matches(name, PARAMETERS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PARAMETERS)}"
    return f"?{name}= is unknown: {hint}"


def tls_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a connection with TLS, which by default checks the host name.

    redis-py does so by default only since its release 6.
    """
    verified = values.get("ssl_cert_reqs") != "none"
    options = {name: value for name, value in values.items() if name.startswith("ssl_")}
    return {"ssl_check_hostname": verified, **options}


def tls_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with files and other values, so that it is known at the start."""
    problems = list[str]()
    certificate, key = values.get("ssl_certfile"), values.get("ssl_keyfile")
    if key and not certificate:
        problems.append("?ssl_keyfile= requires an ?ssl_certfile=")
    if values.get("ssl_cert_reqs") == "none" and values.get("ssl_check_hostname"):
        problems.append("?ssl_check_hostname=yes contradicts ?ssl_cert_reqs=none: leave out one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    secret = values.get("ssl_password", "")  # without one, OpenSSL would ask on the terminal
    trusted, folder = values.get("ssl_ca_certs"), values.get("ssl_ca_path")
    checks: dict[str, Callable[[], object]] = {}
    if certificate:
        checks["ssl_certfile"] = lambda: context.load_cert_chain(certificate, key, lambda: secret)
    if trusted or folder:
        checks["ssl_ca_certs"] = lambda: context.load_verify_locations(trusted, folder)
    if ciphers := values.get("ssl_ciphers"):
        checks["ssl_ciphers"] = lambda: context.set_ciphers(ciphers)
    for name, check in checks.items():
        try:
            check()
        except (OSError, ValueError) as error:  # among them ssl.SSLError
            problems.append(f"?{name}= cannot be used: {error}")
    return problems
