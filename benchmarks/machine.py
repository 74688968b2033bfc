"""Where the figures were measured: the machine and the versions of everything."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("Flask", "Werkzeug", "redis", "msgpack", "Flask-Session", "cachelib")


def describe(server_name: str) -> dict[str, str]:
    """What the results depend on, each with a short name."""
    about = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "server": server_name,
        "load": f"{os.getloadavg()[0]:.1f}",  # near the number of cores, times say little
    }
    return about | {package: version(package) for package in PACKAGES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
