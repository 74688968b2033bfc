"""Where a server's files are, and whose they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..servers import Certificates
from ._programs import run


def folder_for(account: Mapping[str, Any]) -> TemporaryDirectory[str]:
    """A folder that *account* reaches, unlike pytest's, and short enough for a Unix socket."""
    folder = TemporaryDirectory(prefix="database-")
    _give(Path(folder.name), account)
    return folder


def _give(path: Path, account: Mapping[str, Any]) -> None:
    if account:
        os.chown(path, account["user"], account["group"])


def copy_data(template: TemporaryDirectory[str], to: Path, account: Mapping[str, Any]) -> None:
    """A tenth of the time that it takes to initialise it again."""
    run(["cp", "-a", f"{template.name}/data", str(to)], account, to)


def copy_certificate(tls: Certificates, folder: Path, account: Mapping[str, Any]) -> None:
    """Where the server reaches them; it refuses a key that others can read."""
    for name in ("ca.pem", "server.pem", "server.key"):
        shutil.copyfile(tls.folder / name, folder / name)
        (folder / name).chmod(0o600)
        _give(folder / name, account)
