"""URLs and clients in SAFESESSION_STORE: what they are read as, and what is said of wrong ones."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import redis
import valkey
from flask import Flask
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

from flask_safesession import ConfigError, SafeSession
from flask_safesession.stores.redis.url import SCHEMES, Place, read_url, topology_of
from flask_safesession.stores.redis.url_parameters import PARAMETERS
from flask_safesession.stores.urls import REDIS_SCHEMES

from ...support import servers

SECRET = "s3cr3t-0f-mine"
TLS = ("rediss://h", "valkeys+cluster://h", "rediss+sentinel://h/s", "redis+sentinel://h/s")


def person(place: Place) -> tuple[Any, Any]:
    return place.access.options.get("username"), place.access.options.get("password")


def problems(url: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_url(url)
    return [
        text.removeprefix("SAFESESSION_STORE is a URL that cannot be used: ")
        for text in caught.value.problems
    ]


def problem(url: str) -> str:
    [only] = problems(url)
    return only


def url_with(parameter: str) -> str:
    """A URL that may have *parameter* in it."""
    scheme = "redis+sentinel" if parameter.startswith("sentinel") else "rediss"
    return f"{scheme}://h/{'s' if scheme.endswith('l') else ''}?{parameter}="


# -- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "how", "addresses"),
    [
        ("redis://h", "", [("h", 6379)]),
        ("valkey://h:1/", "", [("h", 1)]),
        ("redis://[::1]", "", [("::1", 6379)]),
        ("rediss://[fe80::1%eth0]:7/2", "", [("fe80::1%eth0", 7)]),
        ("redis://a_b.c-d:65535", "", [("a_b.c-d", 65535)]),
        ("redis+sentinel://h/s", "sentinel", [("h", 26379)]),
        ("valkey+sentinel://a,b:1/s", "sentinel", [("a", 26379), ("b", 1)]),
        ("valkeys+sentinel://[::1],[::2]:2/s", "sentinel", [("::1", 26379), ("::2", 2)]),
        ("redis+cluster://a,b:1", "cluster", [("a", 6379), ("b", 1)]),
        ("rediss+cluster://u:p@a:7000,[::1]:7001/0", "cluster", [("a", 7000), ("::1", 7001)]),
        ("unix:///run/x.sock", "unix", []),
    ],
)  # fmt: skip
def test_hosts_are_read(url: str, how: str, addresses: list[tuple[str, int]]) -> None:
    place = read_url(url)
    assert (place.how, list(place.addresses)) == (how, addresses)


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://h", None),
        ("redis://h/", None),
        ("redis://h/3", 3),
        ("redis://h?db=3", 3),
        ("redis://h/3?db=3", 3),
        ("unix:///x?db=4", 4),
        ("redis+sentinel://h/s", None),
        ("redis+sentinel://h/s/5", 5),
        ("redis+sentinel://h/s?db=5", 5),
        ("redis+cluster://h/0", 0),
    ],
)
def test_a_database_stands_in_the_path_or_behind_the_question_mark(
    url: str, database: int | None
) -> None:
    assert read_url(url).access.options.get("db") == database


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis+sentinel://h/main", "main"),
        ("redis+sentinel://h/my%20main/1", "my main"),
        ("unix:///run/a%20b.sock", "/run/a b.sock"),
        ("unix://u:p@/run/x.sock", "/run/x.sock"),
    ],
)
def test_services_and_paths_have_names(url: str, name: str) -> None:
    assert read_url(url).name == name


# -- who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", (None, None)),
        (":p@", (None, "p")),
        ("u:p@", ("u", "p")),
        ("u%40x:p%2F%3A%3F%23%25@", ("u@x", "p/:?#%")),
        (":p@q:r@", (None, "p@q:r")),
        (":p#q@", (None, "p#q")),
        (":%C3%BC@", (None, "ü")),
    ],
)
def test_who_we_are_is_read(scheme: str, written: str, read: tuple[str, str]) -> None:
    rest = "/path" if scheme == "unix" else "h/s" if "sentinel" in scheme else "h"
    assert person(read_url(f"{scheme}://{written}{rest}")) == read


def test_sentinels_have_a_password_of_their_own() -> None:
    place = read_url("redis+sentinel://u:p@h/s?sentinel_username=su&sentinel_password=sp&db=1")
    assert person(place) == ("u", "p")
    assert place.sentinels.options == {"username": "su", "password": "sp"}
    assert read_url("redis+sentinel://u:p@h/s").sentinels.options == {}


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("client_name=web-1", "web-1"),
        ("socket_keepalive=yes", True),
        ("socket_keepalive=OFF", False),
        ("ssl_cert_reqs=Optional", "optional"),
        ("ssl_check_hostname=no", False),
        ("ssl_min_version=1.3", ssl.TLSVersion.TLSv1_3),
        ("ssl_min_version=TLSv1.2", ssl.TLSVersion.TLSv1_2),
        ("ssl_ciphers=ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
        ("username=u&password=p%20q", "u"),
    ],
)
def test_values_are_read(parameter: str, value: object) -> None:
    name = parameter.partition("=")[0]
    assert read_url(f"rediss://h?{parameter}").access.options[name] == value


def test_the_number_of_connections_is_for_the_servers_and_not_for_sentinels() -> None:
    place = read_url("redis+sentinel://h/s?max_connections=7")
    assert (place.access.limit, place.sentinels.limit) == (7, None)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_an_empty_value_is_refused(name: str) -> None:
    assert ": give " in problem(url_with(name))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("db=-1", "a whole number from 0"),
        ("max_connections=0", "a whole number from 1"),
        ("ssl_check_hostname=2", "yes or no"),
        ("client_name=a%20b", "a name in ASCII without spaces"),
        ("ssl_cert_reqs=never", "required or optional or none"),
        ("ssl_min_version=1.1", "1.2 or 1.3"),
        ("ssl_ca_certs=", "a value, or leave it out"),
    ],
)
def test_a_value_that_is_none_is_told_with_what_would_be_one(wrong: str, right: str) -> None:
    assert problem(f"rediss://h?{wrong}").endswith(f": give {right}")


@pytest.mark.parametrize(
    "wrong",
    [
        "db=x", "db=-1", "db=1.0", "db=٣", "max_connections=0", "max_connections=1e3",
        "socket_keepalive=perhaps", "client_name=a%20b", "ssl_cert_reqs=never",
        "ssl_min_version=1.1", "ssl_check_hostname=2",
    ],
)  # fmt: skip
def test_wrong_values_are_named(wrong: str) -> None:
    assert problem(f"rediss://h?{wrong}").startswith(f"?{wrong.replace('%20', ' ')}: give ")


@pytest.mark.parametrize(
    "name",
    ["timeout", "socket_timeout", "socket_connect_timeout", "retry", "retry_on_timeout", "retries"],
)
def test_time_outs_and_retries_name_the_setting(name: str) -> None:
    told = problem(f"redis://h?{name}=5")
    assert told.startswith(f"?{name}= is not for the URL: ")
    assert "SAFESESSION_STORE_TIMEOUT" in told


@pytest.mark.parametrize("name", ["decode_responses", "protocol", "host", "read_from_replicas"])
def test_what_is_the_stores_own_business_is_refused(name: str) -> None:
    assert problem(f"redis://h?{name}=1").startswith(f"?{name}= is unknown: ")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("max_conections", "max_connections"),
        ("maxconnections", "max_connections"),
        ("clientname", "client_name"),
        ("ssl_ca_cert", "ssl_ca_certs"),
        ("sentinel_pasword", "sentinel_password"),
        ("user", "username"),
        ("keepalive", "socket_keepalive"),
    ],
)
def test_an_unknown_parameter_is_told_with_the_nearest_known(wrong: str, right: str) -> None:
    assert problem(f"redis://h?{wrong}=1") == f"?{wrong}= is unknown: did you mean {right}?"


def test_a_parameter_that_resembles_none_is_told_with_all() -> None:
    assert problem("redis://h?colour=red").endswith(f"known are {', '.join(PARAMETERS)}")


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("redis://h?ssl_cert_reqs=none", "begin with rediss"),
        ("redis+sentinel://h/s?ssl_cert_reqs=none", "begin with rediss"),
        ("redis://h?sentinel_password=x", "begin with redis+sentinel"),
        ("redis+cluster://h?sentinel_ssl=yes", "begin with redis+sentinel"),
        ("unix:///x?socket_keepalive=yes", "leave it out"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h/1?db=2", "the db is given twice"),
        ("redis://:p@h?password=q", "the password is given twice"),
    ],
)
def test_a_parameter_in_the_wrong_place_is_told_with_the_mend(url: str, fix: str) -> None:
    assert fix in problem(url)


# -- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "servers", "sentinels"),
    [
        ("redis://h", False, False),
        ("rediss://h", True, True),
        ("valkeys://h", True, True),
        ("valkeys+cluster://h", True, True),
        ("rediss+sentinel://h/s", True, True),
        ("rediss+sentinel://h/s?sentinel_ssl=no", True, False),
        ("redis+sentinel://h/s?sentinel_ssl=on", False, True),
    ],
)  # fmt: skip
def test_an_s_means_encrypted(url: str, servers: bool, sentinels: bool) -> None:
    place = read_url(url)
    assert place.access.encrypted == servers
    assert place.sentinels.encrypted == sentinels
    for access in (place.access, place.sentinels):
        assert any(name.startswith("ssl_") for name in access.options) == access.encrypted


def test_host_names_are_checked_unless_nothing_is() -> None:
    """redis-py does so since its release 6 only."""
    assert read_url("rediss://h").access.options["ssl_check_hostname"] is True
    assert read_url("rediss://h?ssl_cert_reqs=none").access.options["ssl_check_hostname"] is False


def test_files_of_certificates_are_looked_at(tmp_path: Path) -> None:
    files = servers.Certificates.make(tmp_path).of_client()
    query = "&".join(f"{name}={file}" for name, file in files.items())
    options = read_url(f"rediss://h?{query}").access.options
    assert {name: options[name] for name in files} == files
    for name, file in files.items():
        wrong = query.replace(str(file), f"{tmp_path}/none.pem")
        assert "No such file" in problem(f"rediss://h?{wrong}"), name
    other = query.replace("client.key", "server.key")
    assert "ssl_certfile= cannot be used" in problem(f"rediss://h?{other}")


def test_the_password_of_a_key_is_tried_and_never_asked_for(tmp_path: Path) -> None:
    files = servers.Certificates.make(tmp_path).of_client()
    encrypt(Path(files["ssl_keyfile"]), SECRET)
    query = f"ssl_certfile={files['ssl_certfile']}&ssl_keyfile={files['ssl_keyfile']}"
    assert read_url(f"rediss://h?{query}&ssl_password={SECRET}").access.encrypted
    for wrong in (query, f"{query}&ssl_password=x{SECRET}"):
        told = problem(f"rediss://h?{wrong}")
        assert "ssl_certfile= cannot be used" in told
        assert SECRET not in told


def encrypt(key: Path, password: str) -> None:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    how = serialization.BestAvailableEncryption(password.encode())
    pem = serialization.Encoding.PEM
    key.write_bytes(loaded.private_bytes(pem, serialization.PrivateFormat.PKCS8, how))


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("ssl_keyfile=/x", "requires an ?ssl_certfile="),
        ("ssl_cert_reqs=none&ssl_check_hostname=yes", "contradicts"),
        ("ssl_ciphers=nonsense", "?ssl_ciphers= cannot be used"),
        ("ssl_ca_path=/there/is/none&ssl_ca_certs=/nor/this", "?ssl_ca_certs= cannot be used"),
    ],
)
def test_what_cannot_be_about_tls_is_told(query: str, told: str) -> None:
    assert told in problem(f"rediss://h?{query}")


# -- wrong ones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://?db=1", "no host"),
        ("redis+cluster://:p@", "no host"),
        ("redis://h:x", "host:port"),
        ("redis://h:0", "host:port"),
        ("redis://h:65536", "host:port"),
        ("redis://::1", "host:port"),
        ("redis://[::1", "host:port"),
        ("redis+cluster://a,,b", "host:port"),
        ("redis+cluster://a,b:", "host:port"),
        ("redis://a,b", "is it redis+sentinel or redis+cluster?"),
        ("redis://h/x", "the number of a database"),
        ("redis://h/1/2", "the number of a database"),
        ("redis+cluster://h/1", "no database but 0"),
        ("redis+cluster://h?db=1", "no database but 0"),
        ("redis+sentinel://h", "there is no service"),
        ("redis+sentinel://h/?db=1", "there is no service"),
        ("redis+sentinel://h/s/x", "the number of a database"),
        ("redis://u@h", "an @ without a password"),
        ("redis://u:@h", "an @ without a password"),
        ("redis://h?username=u", "a user without a password"),
        ("unix://run/x.sock", "three"),
        ("unix://", "there is no path"),
        ("redis://h\n", "white space"),
        ("redis://h/0 ", "white space"),
    ],
)
def test_what_is_wrong_is_told(url: str, told: str) -> None:
    assert any(told in text for text in problems(url)), problems(url)


def test_all_is_told_at_once() -> None:
    found = problems("redis+sentinel://a:x?db=y&socket_timeout=1&sentinel_ssl=z&ssl_ciphers=q")
    assert len(found) == 6


def test_an_app_does_not_start_with_a_wrong_url() -> None:
    with pytest.raises(ConfigError, match="SAFESESSION_STORE_TIMEOUT"):
        SafeSession(Flask("tested"), store="redis://h?socket_timeout=3")


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}", f"redis://{SECRET}@h", f"redis://:x/{SECRET}@h", f"redis://:x?{SECRET}@h",
        f"redis://u:{SECRET}@h:x", f"redis://u:{SECRET}@h/x", f"redis://u:{SECRET}@h\n",
        f"redis://u:x?{SECRET}=@h", f"redis://u:x?db={SECRET}@h", f"redis://h?pasword={SECRET}",
        f"redis://h?password={SECRET}&db=x", f"redis+sentinel://h?sentinel_password={SECRET}",
        f"redis+sentinel://:{SECRET}@h:x,i/", f"redis+sentinel://:x/{SECRET}@h/{SECRET}",
        f"redis+cluster://u:{SECRET}@[::1/2", f"rediss://h?ssl_password={SECRET}&ssl_keyfile=/x",
        f"redis://:a@h?password={SECRET}", f"unix://u:{SECRET}@x", f"redis://:{SECRET},b@",
    ],
)  # fmt: skip
def test_a_password_is_in_no_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        topology_of(url, print)
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(caught.value.__context__)


def test_settings_and_the_reader_know_the_same_schemes() -> None:
    """Two lists, since settings are read before redis-py is imported."""
    assert REDIS_SCHEMES == SCHEMES


# -- clients --------------------------------------------------------------------------------------


def of_sentinel() -> Any:
    return Sentinel([("localhost", 1)])  # type: ignore[no-untyped-call]


def of_a_cluster() -> RedisCluster:
    return RedisCluster.__new__(RedisCluster)  # making one asks its nodes


def on_another_pool() -> redis.Redis:
    class Pool(redis.ConnectionPool):
        pass

    return redis.Redis(connection_pool=Pool())


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (redis.asyncio.Redis, "that is not"),
        (lambda: of_sentinel().master_for("s", redis_class=redis.asyncio.Redis), "that is not"),
        (of_sentinel, r"give its URL, redis\+sentinel://HOST:26379,HOST:26379/SERVICE"),
        (lambda: of_sentinel().master_for("main"), r"redis\+sentinel://HOST:26379,HOST:26379/main"),
        (lambda: of_sentinel().slave_for("main"), r"redis\+sentinel://HOST:26379,HOST:26379/main"),
        (of_a_cluster, r"give its URL, redis\+cluster://HOST:PORT,HOST:PORT"),
        (valkey.Valkey, "valkey://"),
        (on_another_pool, "give a redis.Redis client"),
        (lambda: redis.Redis(ssl=True, ssl_validate_ocsp=True), "OCSP"),
        (object, "give a redis.Redis client"),
    ],
    ids=[
        "asyncio", "asyncio by Sentinel", "Sentinel", "master",
        "replicas", "cluster", "valkey-py", "pool", "OCSP", "something else",
    ],
)  # fmt: skip
def test_a_client_that_cannot_be_used_is_refused_with_the_mend(make: Any, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"SAFESESSION_STORE is .*{fix}"):
        topology_of(make(), print)


def test_no_client_for_clusters_is_made_of_a_class() -> None:
    with pytest.raises(ConfigError, match=r"give a URL|call it"):
        SafeSession(Flask("tested"), store=RedisCluster)
