"""A read-only replica of PostgreSQL: what it serves, and how the primary is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import databases
from ..support.databases import Database
from ..support.databases._folders import folder_for
from ..support.databases._programs import needed, run
from ..support.faults_kit import ANN, OpenSite, good, outage, read
from ..support.servers import free_port, poll

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def primary() -> Iterator[Database]:
    made = databases.start_postgresql("wal_level=replica", "max_wal_senders=4")
    rules = made.folder / "rules"
    rules.write_text(f"{rules.read_text()}host replication all 127.0.0.1/32 trust\n")
    made.ask("SELECT pg_reload_conf()")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def replica(primary: Database) -> Iterator[Database]:
    home, port = folder_for(primary.account), free_port()
    folder = Path(home.name)
    program = needed("postgres")
    data = str(folder / "data")
    source = ["-d", primary.url(), "-D", data, "-R", "--checkpoint=fast", "--no-sync"]
    run([str(program.with_name("pg_basebackup")), *source], primary.account, folder)
    (folder / "rules").write_text((primary.folder / "rules").read_text())
    settings = [
        f"port={port}",
        "listen_addresses=127.0.0.1",
        f"unix_socket_directories={folder}",
        f"hba_file={folder / 'rules'}",
        "shared_buffers=16MB",
        "max_connections=200",
        "dynamic_shared_memory_type=mmap",
    ]
    command = [str(program), "-D", data]
    for setting in settings:
        command += ["-c", setting]
    made = Database(
        "postgresql",
        port,
        "postgres",
        None,
        "postgres",
        command=command,
        home=home,
        account=primary.account,
    ).start()
    yield made
    made.stop()


def _has_copied(primary: Database, replica: Database) -> bool:
    [(written,)] = primary.ask("SELECT pg_current_wal_lsn()")
    [(is_there,)] = replica.ask("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written)
    return bool(is_there)


def test_a_replica_serves_what_only_reads_and_names_the_fix_for_the_rest(
    primary: Database, replica: Database, prefix: str, open_site: OpenSite
) -> None:
    site = open_site(primary.url(), key_prefix=prefix)
    member = site.member()
    poll("the copy", lambda: _has_copied(primary, replica))
    other = open_site(replica.url(), key_prefix=prefix)
    reader, newcomer = other.visitor(like=member), other.visitor()
    assert read(reader) == ANN, "although its first use cannot be recorded"
    assert other.safe.count() == 1
    good(newcomer, "/read")
    outage(reader, "/add/fig")
    outage(newcomer, "/login/eve")
    outage(reader, "/logout")
    assert "target_session_attrs=read-write" in other.errors()
    assert read(member) == ANN


def test_the_primary_is_found_among_two_hosts(
    primary: Database, replica: Database, prefix: str, open_site: OpenSite
) -> None:
    hosts = f"127.0.0.1:{replica.port},127.0.0.1:{primary.port}"
    url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
    site = open_site(url, key_prefix=prefix)
    member = site.member()
    good(member, "/add/fig")
    poll("the copy", lambda: _has_copied(primary, replica))
    assert open_site(replica.url(), key_prefix=prefix).safe.count() == 1
