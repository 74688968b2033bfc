"""PgBouncer in transaction mode: the next transaction may get another connection."""

from __future__ import annotations

from pathlib import Path

from ..servers import free_port
from ._folders import folder_for
from ._programs import account_of, needed
from ._server import Database


def start_pgbouncer(behind: Database, *options: str, port: int | None = None) -> Database:
    """Start one in front of *behind*; *options* are settings: ``"default_pool_size=5"``."""
    program, account = needed("pgbouncer"), account_of("pgbouncer")
    home, port = folder_for(account), port or free_port()
    folder = Path(home.name)
    secret = behind.password or ""
    (folder / "users").write_text('"{}" "{}"\n'.format(behind.superuser, secret.replace('"', '""')))
    settings = [
        f"listen_port={port}",
        "listen_addr=127.0.0.1",
        f"unix_socket_dir={folder}",
        f"auth_file={folder / 'users'}",
        f"auth_type={'scram-sha-256' if secret else 'trust'}",
        "pool_mode=transaction",
        "max_client_conn=400",
        *options,
    ]
    databases = f"[databases]\n* = host={behind.host} port={behind.port}\n"
    (folder / "settings").write_text("\n".join([databases, "[pgbouncer]", *settings, ""]))
    return Database(
        "postgresql",
        port,
        behind.superuser,
        behind.password,
        behind.database,
        command=[str(program), str(folder / "settings")],
        home=home,
        account=account,
    ).start()
