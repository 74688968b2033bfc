"""What ``flask safesession check`` looks at of a SQLite file."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ...base import Finding

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs")
_LEAST_FREE = 100 * 1024 * 1024


def findings(path: Path) -> list[Finding]:
    """Returns a finding for each thing that should be changed; the file is not opened."""
    return [*_of_the_mode(path), *_of_the_disk(path), *_of_the_file_system(path)]


def _of_the_mode(path: Path) -> Iterator[Finding]:
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Finding(
            "file-mode", f"other users of the machine can read {str(path)!r}: chmod 600 it"
        )


def _of_the_disk(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path.parent).free
    if free < _LEAST_FREE:
        yield Finding(
            "disk-nearly-full",
            f"the disk of {str(path)!r} has {free // 1024**2} MiB left: on a full one nothing can"
            " be saved",
        )


def _of_the_file_system(path: Path) -> Iterator[Finding]:
    kind = _file_system_of(path)
    if kind in _NETWORK:
        yield Finding(
            "network-file-system",
            f"{str(path)!r} is on a network file system ({kind}), whose locks do not protect it:"
            " keep it on a local disk, or use a Redis store",
        )


def _file_system_of(path: Path) -> str:
    """Returns the kind of the file system, as Linux names it; empty where it cannot be known."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    under = [(Path(mount[1]), mount[2]) for mount in mounts if path.is_relative_to(mount[1])]
    return max(under, key=lambda found: len(found[0].parts), default=(path, ""))[1]
