"""Getting into servers: users and passwords, TLS, and announced addresses."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.redis import RedisStore, open_shards

from ..stores.redis.test_connections import answering
from ..support import fleets, servers
from ..support.faults_kit import commands_of_the_docs
from .test_cluster import RULES, add, audited, prefix_on, slot, use

pytestmark = pytest.mark.faults

SECRET = "p@ss:w/or?d#%"
ALLOWED = [*commands_of_the_docs(), "role", "cluster", "asking"]
USER = f"on >{SECRET} ~{{app:0}}:* -@all " + " ".join(f"+{command}" for command in ALLOWED)


@pytest.fixture
def open_store() -> Iterator[Callable[..., RedisStore]]:
    made: list[Any] = []

    def make(given: Any, prefix: str = "app", shards: int = 1, **options: Any) -> Any:
        made.append(open_shards(given, prefix=prefix, timeout=2, shards=shards, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def whole(store: RedisStore) -> None:
    """All operations."""
    use(store)
    store.purge(RULES, 10)
    store.count(RULES)
    audited(store)
    store.lease("purge", 10)


# -- users and passwords --------------------------------------------------------------------------


def test_a_user_who_may_do_what_the_documentation_lists_is_enough(
    kind: str, tmp_path: Path, open_store: Callable[..., RedisStore]
) -> None:
    with servers.running(kind, tmp_path, users={"app": USER}, unix=True) as server:
        whole(open_store(server.url_for("app", SECRET)))
        with pytest.raises(StoreUnavailable, match="correct the user name or password"):
            add(open_store(server.url_for("app", "wrong")))
        whole(open_store(f"unix://app:{quote(SECRET, safe='')}@{server.socket}?db=0"))


def test_a_cluster_wants_no_more(
    kind: str, tmp_path: Path, open_store: Callable[..., RedisStore]
) -> None:
    with fleets.cluster(kind, tmp_path, 2, 0, users={"app": USER}) as two:
        whole(open_store(two.url_for("app", SECRET)))


def test_sentinels_have_passwords_of_their_own(
    kind: str, tmp_path: Path, open_store: Callable[..., RedisStore]
) -> None:
    with fleets.sentinels(
        kind, tmp_path, password=SECRET, sentinel_password="theirs", users={"app": USER}
    ) as trio:
        url = trio.url_for("app", SECRET)
        whole(open_store(f"{url}?sentinel_password=theirs"))
        with pytest.raises(StoreUnavailable, match="Authentication required"):
            add(open_store(url))
        with pytest.raises(StoreUnavailable, match="user name or password"):
            add(open_store(f"{trio.url_for('app', 'wrong')}?sentinel_password=theirs"))


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(kind: str, tmp_path: Path) -> servers.Certificates:
    if not servers.has_tls(kind):
        pytest.skip(f"{kind} here was built without TLS")
    folder = tmp_path / "certificates"
    folder.mkdir()
    return servers.Certificates.make(folder)


def test_one_server_with_tls(
    kind: str,
    tmp_path: Path,
    certificates: servers.Certificates,
    open_store: Callable[..., RedisStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with servers.running(kind, tmp_path, tls=certificates) as server:
        whole(open_store(server.url))
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            add(open_store(server.url.partition("?")[0]))
        add(open_store(f"{server.url.partition('&')[0]}&ssl_cert_reqs=none&{client_files(server)}"))

        monkeypatch.setattr(socket, "getaddrinfo", answering("127.0.0.1"))
        named = server.url.replace("127.0.0.1", "sessions.test")
        with pytest.raises(StoreUnavailable, match="Hostname mismatch"):
            add(open_store(named))
        whole(open_store(f"{named}&ssl_check_hostname=no"))


def client_files(server: servers.Server) -> str:
    return server.url.partition("&")[2]


def test_a_cluster_with_tls(
    kind: str,
    tmp_path: Path,
    certificates: servers.Certificates,
    open_store: Callable[..., RedisStore],
) -> None:
    with fleets.cluster(kind, tmp_path, 2, 0, tls=certificates) as two:
        for master in two.masters():
            whole(open_store(two.url, prefix_on(two, master)))


def test_sentinels_with_tls(
    kind: str,
    tmp_path: Path,
    certificates: servers.Certificates,
    open_store: Callable[..., RedisStore],
) -> None:
    with fleets.sentinels(kind, tmp_path, tls=certificates) as trio:
        whole(open_store(trio.url))
        trio.failover()
        whole(open_store(trio.url))


# -- addresses that nodes announce ----------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ("unknown-endpoint", ""),
        ("hostname", ""),
        ("hostname", "localhost"),
        ("ip", "localhost"),
    ],
    ids=["nothing", "a name that is missing", "a name", "an address"],
)
def test_nodes_are_found_whatever_they_announce(
    kind: str, tmp_path: Path, open_store: Callable[..., RedisStore], settings: tuple[str, str]
) -> None:
    with fleets.cluster(kind, tmp_path, 2, 0) as two:
        source, target = two.masters()
        for server in two.servers:
            server.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", settings[0])
            server.ask("CONFIG", "SET", "cluster-announce-hostname", settings[1])
        servers.poll("the names", lambda: all(announced(s, *settings) for s in two.servers))
        prefix = prefix_on(two, source)
        store = open_store(two.url, prefix)
        whole(store)
        number = two.slot_of(slot(prefix))
        two.begin_move(number, target)
        two.finish_move(number)
        whole(store)


def announced(server: servers.Server, kind: str, name: str) -> bool:
    """Whether all nodes have heard what the others announce."""
    hosts = {entry[2][0] for entry in server.ask("CLUSTER SLOTS")}
    wanted = {"unknown-endpoint": None, "ip": b"127.0.0.1"}.get(kind, name.encode() or b"?")
    return hosts == {wanted}


# -- what is no cluster, and what is one ----------------------------------------------------------


def test_a_server_that_is_no_cluster_is_told(
    own: servers.Server, open_store: Callable[..., RedisStore]
) -> None:
    with pytest.raises(StoreUnavailable, match="cluster support disabled"):
        add(open_store(f"redis+cluster://127.0.0.1:{own.port}"))


def test_several_shards_are_on_several_nodes(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(cluster_six.url, "many", shards=16)
    for number in range(32):
        add(store, user=number)
    assert store.count(RULES).total == 32
    holding = [m for m in cluster_six.masters() if m.ask("DBSIZE")]
    assert len(holding) == 3
    whole(store)
