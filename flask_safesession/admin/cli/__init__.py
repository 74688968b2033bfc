"""``flask safesession …``: manage the sessions of an app from a shell."""

from . import maintenance, sessions, tune
from .group import commands

__all__ = ["commands", "maintenance", "sessions", "tune"]
