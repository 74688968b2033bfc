"""``flask safesession …``: manage the sessions of an app from a shell."""

from . import diagnose, maintenance, sessions, tune
from .group import commands

__all__ = ["commands", "diagnose", "maintenance", "sessions", "tune"]
