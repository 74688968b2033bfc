"""All sessions, for the admin: SafeSession's dashboard behind this app's own check."""

from __future__ import annotations

from flask import Blueprint, abort, redirect, url_for

from flask_safesession.dashboard import dashboard

from .people import PEOPLE, current_person
from .sessions import safe


def pages() -> Blueprint:
    """Returns new pages for each app."""
    return dashboard(
        safe,
        allowed=is_admin,
        name_of=name_of,
        find_user=find_user,
        back="account.desk",
        name="control",
        url_prefix="/control",
    )


def is_admin() -> bool:
    """Whether the admin is signed in. Here a tier is also a right: see ``people.py``."""
    person = current_person()
    if person is None:
        abort(redirect(url_for("account.sign_in"), 303))
    return person.tier == "admin"


def name_of(username: str) -> str | None:
    """Returns the name of a person, for lists."""
    person = PEOPLE.get(username)
    return person.name if person else None


def find_user(text: str) -> str | None:
    """Returns the username of the person with that name. Usernames are found without."""
    names = {person.name.casefold(): username for username, person in PEOPLE.items()}
    return names.get(text.casefold())
