"""PostgreSQL, on files that are made once per run."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ..servers import Certificates, free_port
from ._folders import copy_certificate, copy_data, folder_for
from ._programs import account_of, needed, run
from ._server import Database


def start_postgresql(
    *options: str,
    port: int | None = None,
    password: str | None = None,
    tls: Certificates | None = None,
    durable: bool = False,
) -> Database:
    """Start one; *options* are settings: ``"idle_in_transaction_session_timeout=1s"``.

    With a *password* it has to be given, also on the socket. With *tls* there is no other way in
    than TLS, but for the socket.
    """
    program, account = needed("postgres"), account_of("postgres")
    if tls is not None:
        _need_tls(program)
    home, port = folder_for(account), port or free_port()
    folder = Path(home.name)
    if password is None:
        copy_data(_template(), folder, account)
    else:
        _initialise(folder, password)
    way_in = "trust" if password is None else "scram-sha-256"
    rules = f"local all all {way_in}\nhost{'ssl' if tls else ''} all all 127.0.0.1/32 {way_in}\n"
    (folder / "rules").write_text(rules)
    settings = _settings(folder, port, durable)
    if tls is not None:
        copy_certificate(tls, folder, account)
        settings += _tls(folder)
    command = [str(program), "-D", str(folder / "data")]
    for setting in [*settings, *options]:
        command += ["-c", setting]
    query = {"sslmode": "verify-full", "sslrootcert": str(tls.folder / "ca.pem")} if tls else {}
    return Database(
        "postgresql",
        port,
        "postgres",
        password,
        "postgres",
        parameters=query,
        command=command,
        home=home,
        account=account,
    ).start()


def _settings(folder: Path, port: int, durable: bool) -> list[str]:
    return [
        f"port={port}",
        "listen_addresses=127.0.0.1",
        f"unix_socket_directories={folder}",
        f"hba_file={folder / 'rules'}",
        "max_connections=200",
        "shared_buffers=16MB",
        "dynamic_shared_memory_type=mmap",  # files in its folder: a killed server leaves nothing
        f"fsync={'on' if durable else 'off'}",
        f"full_page_writes={'on' if durable else 'off'}",
    ]


def _need_tls(program: Path) -> None:
    config = subprocess.check_output([program.with_name("pg_config"), "--configure"], text=True)
    if "openssl" not in config:
        pytest.skip("this PostgreSQL was built without TLS: install Debian's postgresql")


def _tls(folder: Path) -> list[str]:
    files = [f"ssl_cert_file={folder / 'server.pem'}", f"ssl_key_file={folder / 'server.key'}"]
    return ["ssl=on", *files]


@functools.cache
def _template() -> TemporaryDirectory[str]:
    home = folder_for(account_of("postgres"))
    _initialise(Path(home.name), None)
    return home


def _initialise(folder: Path, password: str | None) -> None:
    program = needed("postgres").with_name("initdb")
    command = [str(program), "-D", str(folder / "data"), "-U", "postgres"]
    command += ["--no-sync", "--encoding=UTF8", "--locale=C"]
    if password is None:
        command += ["--auth=trust"]
    else:
        (folder / "password").write_text(password)
        command += ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    run(command, account_of("postgres"), folder)
