"""Everybody's sessions, for the admin: SafeSession's own dashboard, behind this app's own check."""

from __future__ import annotations

from flask import Blueprint

from flask_safesession.dashboard import dashboard

from .people import current_person
from .sessions import safe


def pages() -> Blueprint:
    """Make the pages anew for each app."""
    return dashboard(safe, allowed=is_admin, name="control", url_prefix="/control")


def is_admin() -> bool:
    """Tell whether the admin is signed in. A tier is a right here: see ``people.py``."""
    person = current_person()
    return person is not None and person.tier == "admin"
