"""``flask safesession …``: look after the sessions of an app from a shell."""

from . import maintenance, people, tuning
from .group import commands

__all__ = ["commands", "maintenance", "people", "tuning"]
