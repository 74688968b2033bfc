"""Where a server's files are, and whose they are."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..servers import Certificates


def account_of(name: str) -> dict[str, Any]:
    """The user who runs a server, as ``Popen`` takes it: servers refuse root."""
    if os.geteuid() != 0:
        return {}
    for candidate in (name, "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(candidate)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise LookupError(f"the user root alone cannot test this server: there is no {name}, no nobody")


def folder_for(account: Mapping[str, Any]) -> TemporaryDirectory[str]:
    """A folder that *account* reaches, unlike pytest's, and short enough for a Unix socket."""
    folder = TemporaryDirectory(prefix="database-")
    give(Path(folder.name), account)
    return folder


def give(path: Path, account: Mapping[str, Any]) -> None:
    if account:
        os.chown(path, account["user"], account["group"])


def copy_certificate(tls: Certificates, folder: Path, account: Mapping[str, Any]) -> None:
    """Where the server reaches them; it refuses a key that others can read."""
    for name in ("ca.pem", "server.pem", "server.key"):
        shutil.copyfile(tls.folder / name, folder / name)
        (folder / name).chmod(0o600)
        give(folder / name, account)


def run(command: list[str], account: Mapping[str, Any], folder: Path) -> None:
    """Run a program to its end, as *account*."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        cwd=folder,
        **account,
    )
    if done.returncode:
        raise ChildProcessError(f"{command[0]}: {done.stdout.decode(errors='replace')[-2000:]}")


def copy(template: Path, to: Path, account: Mapping[str, Any]) -> None:
    """A tenth of the time that it takes to make another one."""
    run(["cp", "-a", str(template), str(to)], account, to.parent)


def find(program: str, *places: Path) -> Path | None:
    """Where *program* is: in the last of *places* that has it, else on the path."""
    for place in reversed(places):
        if (place / program).exists():
            return place / program
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    return Path(found) if found else None
