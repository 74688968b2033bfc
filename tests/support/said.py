"""What the processes of a hammer say, each in a file of its own: a line when something is done."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

#: When, what, and of which session or stamp.
Said = tuple[int, str, str]
#: How a process may have ended; some are killed.
WELL, PERHAPS_KILLED = (0,), (0, -signal.SIGKILL)


def file_of(folder: Path, number: int) -> Path:
    """Where a process writes: a pipe would be full."""
    return folder / f"said{number}"


def heard(
    folder: Path,
    processes: Mapping[int, subprocess.Popen[bytes]],
    *,
    ends: Collection[int] = PERHAPS_KILLED,
    patience: float = 120,
) -> list[Said]:
    """What all of them said, in the order in which it was."""
    said: list[Said] = []
    for number, process in processes.items():
        if process.wait(patience) not in ends:
            said.append((0, "failed", f"process {number}"))
        said += read(folder, number)
    return sorted(said)


def read(folder: Path, number: int) -> list[Said]:
    """What one of them said. The last line of a killed one may be torn."""
    text = file_of(folder, number).read_text()
    lines = text.splitlines()[: None if text.endswith("\n") else -1]
    words = (line.split(" ", 2) for line in lines)
    return [(int(when), what, of) for when, what, of in words]


def find_wrong(said: list[Said]) -> list[str]:
    """What must not be: a session that was seen after its end, a stamp that two have won.

    Where all sessions are ended, those that were made before it have ended.
    """
    made: dict[str, int] = {}
    ended, won, wrong, ended_before = set(), set(), [], 0
    for when, what, of in said:
        if what == "failed":
            wrong.append(of)
        elif what == "created":
            made[of] = when
        elif what == "all":
            ended_before = max(ended_before, int(of))
        elif what == "ended":
            ended.add(of)
        elif what == "seen" and (of in ended or made.get(of, when) < ended_before):
            wrong.append(f"{of} came back")
        elif what == "won" and of in won:
            wrong.append(f"{of} was won twice")
        elif what == "won":
            won.add(of)
    return wrong
