"""The three people who can sign in, each on their own tier.

A real application has a table of users here. The passwords are printed on the sign-in page because
this is a demonstration; signing in compares hashes only.
"""

from __future__ import annotations

from dataclasses import dataclass

from werkzeug.security import check_password_hash, generate_password_hash

from flask_safesession import session


@dataclass(frozen=True)
class Person:
    """A person with an account. ``tier`` is a name in ``sessions.TIERS``."""

    username: str
    name: str
    tier: str
    password_hash: str


DEMO_PASSWORDS = {"tess": "counter-five", "ada": "ten-and-sixty", "carl": "sliding-door"}


def _person(username: str, name: str, tier: str) -> Person:
    return Person(username, name, tier, generate_password_hash(DEMO_PASSWORDS[username]))


PEOPLE = {
    person.username: person
    for person in (
        _person("carl", "Carl Usk", "customer"),
        _person("tess", "Tess Tiller", "teller"),
        _person("ada", "Ada Minh", "admin"),
    )
}
# Compared if the username is unknown, so that the time does not reveal which names exist.
_NOBODY = generate_password_hash("nobody has this password")


def authenticate(username: str, password: str) -> Person | None:
    """Returns the person with this username and password, else ``None``."""
    person = PEOPLE.get(username)
    matches = check_password_hash(person.password_hash if person else _NOBODY, password)
    return person if matches else None


def current_person() -> Person | None:
    """Returns the person who is signed in on this request's session."""
    return PEOPLE.get(session.get("user_id", ""))
