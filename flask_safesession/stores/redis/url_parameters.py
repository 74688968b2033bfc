"""What may stand behind the question mark of a URL in ``SAFESESSION_STORE``, and what may not."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Container, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

#: What a URL has to be about for some parameters to mean anything: a network, Sentinels.
TCP, SENTINEL = "tcp", "sentinel"

_LACKING = {
    TCP: "there is no network on the way to a socket file: leave it out",
    SENTINEL: "it is about Sentinels: let the URL begin with redis+sentinel",
}
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_REQS = {name: name for name in ("required", "optional", "none")}

#: Reads the text of a value; raises ``ValueError`` with what would be one.
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


#: How the value of each parameter is read.
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
_REFUSED = {
    "SAFESESSION_STORE_TIMEOUT limits every call as a whole, repetitions included": (
        "socket_timeout socket_connect_timeout timeout retry retry_on_timeout retry_on_error"
        " cluster_error_retry_attempts"
    ),
    "the part of the URL before the ? says that": (
        "ssl service_name host port path unix_socket_path"
    ),
    "the store sets that itself": (
        "decode_responses encoding encoding_errors protocol legacy_responses read_from_replicas"
        " readonly load_balancing_strategy require_full_coverage skip_full_coverage_check"
        " reinitialize_steps dynamic_startup_nodes is_master check_connection min_other_sentinels"
        " single_connection_client health_check_interval"
    ),
}
#: Parameters of redis-py that are not for the URL, and why.
OURS: dict[str, str] = {name: why for why, names in _REFUSED.items() for name in names.split()}


def read_parameters(query: str, about: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """The values in *query*, and what is wrong with others.

    :param about: what the URL is about: of :data:`TCP`, :data:`SENTINEL`.
    """
    values: dict[str, Any] = {}
    problems = list[str]()
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in values:
            problems.append(f"?{name}= stands there twice")
        elif problem := _why_not(name, about):
            problems.append(problem)
        else:
            try:
                values[name] = PARAMETERS[name](text)
            except ValueError as error:
                # With an @, it may be the rest of a password that has a ? in it.
                shown = "***" if "password" in name or "@" in text else text
                problems.append(f"?{name}={shown}: give {error}")
    return values, problems


def _why_not(name: str, about: Container[str]) -> str | None:
    if name in OURS:
        return f"?{name}= is not for the URL: leave it out, {OURS[name]}"
    if name in PARAMETERS:
        needs = _needs(name)
        is_so = not needs or needs in about
        return None if is_so else f"?{name}= means nothing here: {_LACKING[needs]}"
    if not re.fullmatch(r"\w{1,40}", name, re.ASCII):  # it may be a piece of a password
        return "there is something behind the ? that is no parameter"
    near = get_close_matches(name, PARAMETERS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PARAMETERS)}"
    return f"?{name}= is unknown: {hint}"


def _needs(name: str) -> str:
    if name.startswith("sentinel_"):
        return SENTINEL
    return TCP if name == "socket_keepalive" else ""


def tls_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a connection with TLS. Host names are checked, whatever redis-py's version."""
    verified = values.get("ssl_cert_reqs") != "none"
    options = {name: value for name, value in values.items() if name.startswith("ssl_")}
    return {"ssl_check_hostname": verified, **options}


def tls_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files and the rest, as it would else be found with the first call."""
    problems = list[str]()
    certificate, key = values.get("ssl_certfile"), values.get("ssl_keyfile")
    if key and not certificate:
        problems.append("?ssl_keyfile= wants an ?ssl_certfile=")
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
