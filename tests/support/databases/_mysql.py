"""MariaDB, on files that are made once per run."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

from ..servers import Certificates, free_port
from ._folders import copy_certificate, copy_data, folder_for
from ._programs import account_of, needed, run
from ._server import Database

_SMALL = ("--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M")


def start_mysql(
    *options: str,
    port: int | None = None,
    password: str | None = None,
    tls: Certificates | None = None,
    durable: bool = False,
) -> Database:
    """Start one; *options* as on a command line: ``"--innodb-lock-wait-timeout=1"``.

    With a *password* it has to be given, also on the socket. With *tls* there is no other way in
    than TLS, but for the socket.
    """
    program, account = needed("mariadbd"), account_of("mariadbd")
    home, port = folder_for(account), port or free_port()
    folder = Path(home.name)
    copy_data(_template(), folder, account)
    (folder / "first.sql").write_text(_first(password))
    command = [str(program), "--no-defaults", *_settings(folder, port, durable)]
    if tls is not None:
        copy_certificate(tls, folder, account)
        command += _tls(folder)
    return Database(
        "mysql",
        port,
        "root",
        password,
        "test",
        parameters={"ssl_ca": str(tls.folder / "ca.pem")} if tls else {},
        command=[*command, *options],
        home=home,
        account=account,
    ).start()


def _settings(folder: Path, port: int, durable: bool) -> list[str]:
    return [
        f"--datadir={folder / 'data'}",
        f"--tmpdir={folder}",
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        f"--init-file={folder / 'first.sql'}",
        "--skip-name-resolve",
        "--max-connections=200",
        *_SMALL,
        "--key-buffer-size=1M",
        "--aria-pagecache-buffer-size=1M",
        f"--innodb-flush-log-at-trx-commit={1 if durable else 2}",  # 0 would lose a second's
    ]


def _first(password: str | None) -> str:
    """Run at each start, before anybody can connect."""
    secret = (password or "").replace("\\", "\\\\").replace("'", "''")
    people = ("'root'@'localhost'", "'root'@'127.0.0.1'")
    return "".join(f"ALTER USER {user} IDENTIFIED BY '{secret}';\n" for user in people)


def _tls(folder: Path) -> list[str]:
    files = {"ca": "ca.pem", "cert": "server.pem", "key": "server.key"}
    options = [f"--ssl-{name}={folder / file}" for name, file in files.items()]
    return [*options, "--require-secure-transport=ON"]  # a Unix socket counts as one


@functools.cache
def _template() -> TemporaryDirectory[str]:
    """Data with the user root and the database test; anonymous users would hide others."""
    account = account_of("mariadbd")
    home = folder_for(account)
    folder = Path(home.name)
    (folder / "more.sql").write_text("DELETE FROM mysql.global_priv WHERE User = '';\n")
    command = ["mariadb-install-db", "--no-defaults", f"--datadir={folder / 'data'}"]
    command += ["--auth-root-authentication-method=normal", f"--extra-file={folder / 'more.sql'}"]
    run([*command, *_SMALL], account, folder)
    return home
