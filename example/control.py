"""All sessions, for the admin: SafeSession's dashboard behind this app's own check."""

from __future__ import annotations

from flask import Blueprint

from flask_safesession.dashboard import dashboard

from .people import current_person
from .sessions import safe


def pages() -> Blueprint:
    """Returns new pages for each app."""
    return dashboard(safe, allowed=is_admin, name="control", url_prefix="/control")


def is_admin() -> bool:
    """Whether the admin is signed in. Here a tier is also a right: see ``people.py``."""
    person = current_person()
    return person is not None and person.tier == "admin"
