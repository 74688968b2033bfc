"""``flask safesession …``: manage the sessions of an app from a shell."""

from . import adopt, diagnose, maintenance, sessions, tune
from .group import commands

__all__ = ["adopt", "commands", "diagnose", "maintenance", "sessions", "tune"]
