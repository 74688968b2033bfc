"""``flask safesession …``: manage the sessions of an app from a shell."""

from . import adopt, maintenance, sessions, tune
from .group import commands

__all__ = ["adopt", "commands", "maintenance", "sessions", "tune"]
