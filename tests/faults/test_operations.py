"""What docs/operations.md and docs/planning.md say to paste works, pasted as it is.

Machines are addresses of the loopback network: 10.0.0.1 is 127.0.0.2, and so on; ports are free
ones, ``/var/lib/redis`` is a folder of the test's. Nothing else is changed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from redis.crc import key_slot

from flask_safesession import StoreUnavailable
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.sharded import MAX_SHARDS

from ..support import servers
from ..support.faults_kit import ANN, OpenSite, Site, good, read

pytestmark = pytest.mark.faults

DOCS = Path(__file__).parents[2] / "docs"
PAGE = "\n".join((DOCS / name).read_text("utf-8") for name in ("operations.md", "planning.md"))
CLI = "redis-cli"
# A cluster's nodes also listen 10,000 above, where no outgoing connection should be.
HIGHEST = 20_000
TLS = re.compile(r"```text\n(.+?)```", re.DOTALL)


def blocks(section: str, language: str) -> list[str]:
    """What stands in the fences of a section."""
    [text] = re.findall(rf"^### {section}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


[RULES] = re.findall(r"```sh\n(MAY=.+?)```", PAGE, re.DOTALL)


def low_port() -> int:
    while True:
        if (port := servers.free_port()) <= HIGHEST:
            return port


class Machines:
    """The machines of one section, and what has been pasted on them."""

    def __init__(self, kind: str, folder: Path, section: str, *, tls: bool = False) -> None:
        self.section = section
        self.tls = tls
        self.running: dict[tuple[str, int], Any] = {}  # processes by address
        self._ports = {"6379": low_port(), "26379": low_port()}
        self.sentinel_port = self._ports["26379"]
        self._kind, self._folder = kind, folder
        if tls:
            self._certify()

    def _certify(self) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert(*(f"127.0.0.{n}" for n in range(1, 8)))
        authority.cert_pem.write_to_path(str(self._folder / "ca.pem"))
        leaf.private_key_pem.write_to_path(str(self._folder / "server.key"))
        leaf.cert_chain_pems[0].write_to_path(str(self._folder / "server.pem"))

    def _here(self, text: str) -> str:
        """*text* with addresses, ports and folders that are to be had here."""
        text = re.sub(r"\b10\.0\.0\.(\d)\b", lambda found: f"127.0.0.{int(found[1]) + 1}", text)
        text = re.sub(r"\b2?6379\b", lambda found: str(self._ports[found[0]]), text)
        return text.replace("/etc/redis", str(self._folder))

    def _encrypted(self, script: str) -> str:
        """As the page says it is done."""
        [lines] = TLS.findall(PAGE)
        if "cluster-enabled" in script:
            lines += "tls-cluster yes\n"
        for port in ("6379", "26379"):
            script = script.replace(f"\nport {port}\n", f"\n{lines.replace('6379', port)}")
        return script.replace("redis-cli ", "redis-cli --tls --cacert /etc/redis/ca.pem ")

    def paste(self, machine: int = 1, block: int = 0) -> None:
        """Paste a block of the section on a machine, and wait until what it starts answers."""
        folder = self._folder / str(machine)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        script = blocks(self.section, "sh")[block].replace("ME=10.0.0.1", f"ME=10.0.0.{machine}")
        script = self._here(self._encrypted(script) if self.tls else script)
        script = script.replace("/var/lib/redis", str(folder / "data"))
        starts = re.findall(r"^redis-server (.+)$", script, re.MULTILINE)
        script = re.sub(r"^redis-server .+$", "", script, flags=re.MULTILINE)
        subprocess.run(["sh", "-euc", RULES + script], cwd=folder, check=True, timeout=60)
        for arguments in starts:
            self._start(folder, arguments.split())

    def _start(self, folder: Path, arguments: list[str]) -> None:
        """As a child of the test, which ends it, with its log where the test looks."""
        file, *flags = arguments
        text = (folder / file).read_text()
        [host] = re.findall(r"^bind (\S+)", text, re.MULTILINE)
        port = int(re.findall(r"^(?:tls-)?port (\d+)", text, re.MULTILINE)[-1])
        [password] = re.findall(r"^requirepass (\S+)", text, re.MULTILINE)
        binary = servers.binaries()[self._kind]
        log = folder / f"{file}.log"
        stays = ("--daemonize", "no", "--logfile", "")  # the last of a kind counts
        process = servers.spawn([binary, str(folder / file), *flags, *stays], log)
        self.running[host, port] = process
        client = self.client(host, port, password)

        def answers() -> bool:
            if process.poll() is not None:
                raise ChildProcessError(log.read_text()[-2000:])
            return bool(client.ping())

        with closing(client):
            servers.poll(f"{file} of {host}", answers)

    def client(
        self, host: str, port: int, password: str = "ADMIN-SECRET", user: str | None = None
    ) -> redis.Redis:
        options: dict[str, Any] = {"username": user} if user else {}
        if self.tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self._folder / "ca.pem")}
        return redis.Redis(host=host, port=port, password=password, socket_timeout=5, **options)

    def settings(self) -> dict[str, Any]:
        """What the section's app has in its configuration."""
        given: dict[str, Any] = {}
        exec(self._here(blocks(self.section, "python")[0]), given)
        del given["__builtins__"]
        settings = {name.removeprefix("SAFESESSION_").lower(): given[name] for name in given}
        if self.tls:
            url = settings["store"].replace("redis", "rediss", 1)
            end = f"{'&' if '?' in url else '?'}ssl_ca_certs={self._folder / 'ca.pem'}"
            settings["store"] = url + end
        return settings

    def masters(self) -> list[tuple[str, int]]:
        found = []
        for host, port in self.running:
            if port != self.sentinel_port:
                with closing(self.client(host, port)) as client:
                    role: Any = client.role()
                if role[0] == b"master":
                    found.append((host, port))
        return found

    def master(self) -> tuple[str, int]:
        """Where shard 0 is."""
        return next(one for one in self.masters() if 0 in self.shards_of(one))

    def shards_of(self, address: tuple[str, int]) -> list[int]:
        """Of the shards, those that a master serves."""
        found = []
        with closing(self.client(*address)) as client:
            for shard in range(MAX_SHARDS):
                with suppress(redis.exceptions.MovedError):
                    client.get(f"{{safesession:{shard}}}:nothing")
                    found.append(shard)
        return found

    def move(self, slot: int, source: tuple[str, int], target: tuple[str, int]) -> None:
        """Paste what the page says of that, for another slot and other nodes."""
        [script] = blocks("Moving a slot", "sh")
        for name, value in (("SLOT", slot), ("FROM", source[0]), ("TO", target[0])):
            script = re.sub(rf"^{name}=\S+", f"{name}={value}", script, flags=re.MULTILINE)
        subprocess.run(["sh", "-euc", self._here(script)], check=True, timeout=60)

    def kill(self, address: tuple[str, int]) -> None:
        servers.end(self.running.pop(address))

    def stop(self) -> None:
        for process in self.running.values():
            servers.end(process)


@pytest.fixture
def machines(kind: str, tmp_path: Path) -> Iterator[Callable[..., Machines]]:
    made: list[Machines] = []

    def make(section: str, *, tls: bool = False) -> Machines:
        if tls and not servers.has_tls(kind):
            pytest.skip(f"{kind} was built without TLS")
        made.append(Machines(kind, tmp_path, section, tls=tls))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def site_on(machines: Machines, open_site: OpenSite) -> Site:
    """The section's app, once all its servers agree that they are well."""
    settings = machines.settings()
    ways = {name: settings[name] for name in ("shards", "wait_replicas") if name in settings}
    store = RedisStore(settings["store"], timeout=5, **ways)

    def is_sound() -> bool:
        try:
            return store.inspect() == []
        except StoreUnavailable:  # the nodes of a cluster do not all know of each other yet
            return False

    with closing(store):
        servers.poll("a sound set-up", is_sound, 60, every=0.1)
    return open_site(settings.pop("store"), **settings)


def use(site: Site) -> None:
    """All that an app and its operator do; the ACL user may do all of it."""
    member, other = site.member(), site.member("eve", "fig")
    for path in ("/add/fig", "/renew", "/login/ann"):
        good(member, path)
    good(other, "/logout")
    assert read(other) == {}
    assert read(member) == {**ANN, "cart": ["pear", "fig"]}
    assert site.command("purge")["repaired"] == 0
    assert site.command("stats")["sessions"] == 1
    assert site.app.extensions["safesession"].job.run() is not None
    assert site.store.inspect() == []


def start_one(machines: Callable[..., Machines], *, tls: bool = False) -> Machines:
    one = machines("One server", tls=tls)
    one.paste()
    return one


def start_sentinels(machines: Callable[..., Machines], *, tls: bool = False) -> Machines:
    trio = machines("Sentinel", tls=tls)
    for machine in (1, 2, 3):
        trio.paste(machine)
    return trio


def start_cluster(machines: Callable[..., Machines], *, tls: bool = False) -> Machines:
    six = machines("Cluster", tls=tls)
    for machine in range(1, 7):
        six.paste(machine)
    six.paste(1, block=1)
    return six


def test_the_set_up_of_one_server_works_when_pasted(
    machines: Callable[..., Machines], open_site: OpenSite
) -> None:
    one = start_one(machines)
    site = site_on(one, open_site)
    use(site)
    [address] = one.running
    client = one.client(*address, "APP-SECRET", "sessions")
    with closing(client), pytest.raises(redis.exceptions.NoPermissionError):
        client.get("other")


@pytest.mark.parametrize("start", [start_one, start_sentinels, start_cluster])
def test_each_set_up_works_with_tls(
    machines: Callable[..., Machines], open_site: OpenSite, start: Any
) -> None:
    fleet = start(machines, tls=True)
    assert fleet.settings()["store"].startswith("rediss")
    use(site_on(fleet, open_site))


def lose_a_master(fleet: Machines, site: Site) -> None:
    member, gone = site.member(), site.member("eve", "fig")
    copy = site.visitor(like=gone)
    good(gone, "/logout")
    fleet.kill(fleet.master())
    everywhere = [f"/login/user-{n}" for n in range(32)]  # in each shard, that is
    servers.poll(
        "another master",
        lambda: all(site.visitor().get(path).status_code == 200 for path in everywhere),
        60,
    )
    assert read(member) == ANN
    assert read(copy) == {}
    good(member, "/logout")


def test_the_set_up_with_sentinels_survives_the_loss_of_the_master(
    machines: Callable[..., Machines], open_site: OpenSite
) -> None:
    trio = start_sentinels(machines)
    site = site_on(trio, open_site)
    use(site)
    servers.poll("Sentinels that have seen all", lambda: all(_see_all(trio)), 30, every=0.2)
    lose_a_master(trio, site)


def test_the_cluster_has_its_slots_moved_as_the_page_says_and_survives_the_loss_of_a_master(
    machines: Callable[..., Machines], open_site: OpenSite
) -> None:
    six = start_cluster(machines)
    site = site_on(six, open_site)
    use(site)
    members = [site.member(f"user-{n}") for n in range(32)]
    source, target = six.masters()[-1], six.masters()[0]
    shard = six.shards_of(source)[0]
    six.move(key_slot(f"{{safesession:{shard}}}".encode()), source, target)
    servers.poll("the move", lambda: shard in six.shards_of(target))
    for n, member in enumerate(members):
        assert read(member)["user_id"] == f"user-{n}"
        good(member, "/add/fig")
    assert site.command("purge")["repaired"] == 0
    lose_a_master(six, site)


def _see_all(fleet: Machines) -> Iterator[bool]:
    """Whether each Sentinel can hold a failover; they ask for replicas every ten seconds."""
    for host, port in fleet.running:
        if port == fleet.sentinel_port:
            with closing(fleet.client(host, port, "SENTINEL-SECRET")) as client:
                seen: Any = client.sentinel_master("sessions")
            yield (seen["num-slaves"], seen["num-other-sentinels"]) == (2, 2)
