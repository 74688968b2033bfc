"""The application's settings: a file, which every worker reads when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(file: Path, settings: Mapping[str, Any]) -> None:
    """Replace the file in one step: a worker may be reading it."""
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(settings))
    draft.replace(file)


def read(file: Path) -> dict[str, Any]:
    """The keyword arguments of ``SafeSession``."""
    settings: dict[str, Any] = json.loads(file.read_text())
    return settings
