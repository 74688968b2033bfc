"""A change of the number of shards while everybody goes on: ``flask safesession reshard``."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic

from .history import RESHARD, Fault
from .settings import read, write

WAITS = "until it is safe"
"""What the command says when all is moved; new processes get the new number from then on."""
UNFINISHED = f"{RESHARD}, not finished"
BATCH = 5
"""Few at a time, so that it takes a while."""


async def reshard(file: Path, shards: int, until: float, done: list[Fault]) -> None:
    """Move to so many shards, a few seconds after the start; again whenever a fault ended it."""
    await asyncio.sleep(5)
    changed = file.with_suffix(".changed")
    write(changed, {**read(file), "shards": shards})
    start, moved = monotonic(), False
    while monotonic() < until and not moved:
        moved = await _move(changed, file, until)
        await asyncio.sleep(1)
    done.append(Fault(RESHARD if moved else UNFINISHED, start, monotonic()))


async def _move(changed: Path, file: Path, until: float) -> bool:
    """Run the command; whether it went through."""
    command = [sys.executable, "-m", "flask", "--app", "benchmarks.soaking.app:make_app"]
    command += ["safesession", "reshard", "--batch", str(BATCH)]
    environment = {**os.environ, "SOAK": str(changed)}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_follow(process, changed, file), until - monotonic())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
    return code == 0


async def _follow(process: asyncio.subprocess.Process, changed: Path, file: Path) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        if WAITS.encode() in line:
            write(file, read(changed))
    await process.wait()
