"""What may stand behind the question mark of a URL in ``SAFESESSION_STORE``, and what may not."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Container, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

#: What a URL has to be about for some parameters to mean anything: a network, Sentinels.
TCP, SENTINEL = "tcp", "sentinel"

_LACKING = {
    TCP: "there is no network on the way to a socket file: leave it out",
    SENTINEL: "it is about Sentinels: let the URL begin with redis+sentinel",
}
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class _Parameter(NamedTuple):
    """How a value is read (``ValueError``: it is none), what values there are, what it needs."""

    read: Callable[[str], Any]
    values: str
    needs: str = ""


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise ValueError
        return int(text)

    return read


def _switch(text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise ValueError
    return text.lower() in _YES


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError
    return text


def _one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.lower() not in choices:
            raise ValueError
        return choices[text.lower()]

    return read


_REQS = {name: name for name in ("none", "optional", "required")}
_TLS_VERSIONS = {**_VERSIONS, **{f"tlsv{name}": version for name, version in _VERSIONS.items()}}

#: By name.
PARAMETERS: dict[str, _Parameter] = {
    "db": _Parameter(_whole(0), "the number of a database"),
    "username": _Parameter(_text, "a user of the server's ACL"),
    "password": _Parameter(_text, "that user's password"),
    "client_name": _Parameter(_name, "a name without spaces, for CLIENT LIST"),
    "max_connections": _Parameter(_whole(1), "a whole number above zero"),
    "socket_keepalive": _Parameter(_switch, "yes or no", TCP),
    "ssl_ca_certs": _Parameter(_text, "a file with certificates to trust"),
    "ssl_ca_path": _Parameter(_text, "a folder with certificates to trust"),
    "ssl_certfile": _Parameter(_text, "a file with the client's certificate"),
    "ssl_keyfile": _Parameter(_text, "a file with the client's key"),
    "ssl_password": _Parameter(_text, "the password of the key"),
    "ssl_cert_reqs": _Parameter(_one_of(_REQS), "required, optional or none"),
    "ssl_check_hostname": _Parameter(_switch, "yes or no"),
    "ssl_min_version": _Parameter(_one_of(_TLS_VERSIONS), "1.2 or 1.3"),
    "ssl_ciphers": _Parameter(_text, "ciphers as OpenSSL names them"),
    "sentinel_username": _Parameter(_text, "a user of the Sentinels' ACL", SENTINEL),
    "sentinel_password": _Parameter(_text, "that user's password", SENTINEL),
    "sentinel_ssl": _Parameter(_switch, "yes or no", SENTINEL),
}

_LIMIT = "SAFESESSION_STORE_TIMEOUT limits every call as a whole"
_AGAIN = f"the store tries again by itself, where it does no harm, and {_LIMIT}"
_BYTES = "sessions are bytes"
_MASTERS = "sessions are read where they are written"
_FINDS = "the store keeps itself informed of the nodes"
#: Parameters of redis-py that are the store's own business, and why.
OURS: dict[str, str] = {
    **dict.fromkeys(["socket_timeout", "socket_connect_timeout", "timeout"], _LIMIT),
    **dict.fromkeys(["retry", "retry_on_timeout", "retry_on_error"], _AGAIN),
    **dict.fromkeys(["decode_responses", "encoding", "encoding_errors"], _BYTES),
    **dict.fromkeys(["protocol", "legacy_responses"], "the store speaks RESP2"),
    **dict.fromkeys(["read_from_replicas", "readonly", "load_balancing_strategy"], _MASTERS),
    **dict.fromkeys(["require_full_coverage", "skip_full_coverage_check"], _FINDS),
    **dict.fromkeys(["reinitialize_steps", "dynamic_startup_nodes"], _FINDS),
    **dict.fromkeys(["is_master", "check_connection", "min_other_sentinels"], _FINDS),
    "cluster_error_retry_attempts": _AGAIN,
    "single_connection_client": "the store has as many connections as it has calls at once",
    "health_check_interval": "the store looks at a connection that was idle before it uses it",
    "ssl": "rediss and valkeys at the beginning of the URL say that",
    "service_name": "it stands as a path: redis+sentinel://host:port/service",
    **dict.fromkeys(["host", "port", "path", "unix_socket_path"], "it stands before the ?"),
}


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
            parameter = PARAMETERS[name]
            try:
                values[name] = parameter.read(text)
            except ValueError:
                # With an @, it may be the rest of a password that has a ? in it.
                shown = "***" if "password" in name or "@" in text else text
                problems.append(f"?{name}={shown}: give {parameter.values}")
    return values, problems


def _why_not(name: str, about: Container[str]) -> str | None:
    if name in OURS:
        return f"?{name}= is not for the URL: leave it out, {OURS[name]}"
    if name in PARAMETERS:
        needs = PARAMETERS[name].needs
        is_so = not needs or needs in about
        return None if is_so else f"?{name}= means nothing here: {_LACKING[needs]}"
    if not re.fullmatch(r"\w{1,40}", name, re.ASCII):  # it may be a piece of a password
        return "there is something behind the ? that is no parameter"
    near = get_close_matches(name, PARAMETERS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(PARAMETERS)}"
    return f"?{name}= is unknown: {hint}"


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
