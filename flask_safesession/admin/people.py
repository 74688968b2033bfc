"""Names of users, for operators: the store has digests alone, so the app gives the names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import current_app

from ..model.identity import is_user
from ..model.text import name_of as class_name_of


@dataclass
class People:
    """The functions of an app that :func:`~flask_safesession.dashboard.dashboard` was given.

    :param name_of: returns the name of a user, or ``None``; the user is given as text.
    :param find_user: returns the user (the value under the user key) that an operator's text
        means, or ``None``.
    """

    name_of: Callable[[str], Any] | None = None
    find_user: Callable[[str], Any] | None = None

    def name(self, user: Any) -> str:
        """Returns the name of *user*, with the user behind it if that is another text."""
        name = current_app.ensure_sync(self.name_of)(str(user)) if self.name_of else None
        return str(user) if name is None or str(name) == str(user) else f"{name} ({user})"

    def find(self, text: str) -> Any:
        """Returns the user that *text* means; *text* itself if the app knows no other.

        :raises TypeError: the app's function returned something that cannot be a user.
        """
        found = current_app.ensure_sync(self.find_user)(text) if self.find_user else None
        if found is None:
            return text
        if not is_user(found):
            kind = class_name_of(type(found))
            raise TypeError(f"find_user(…) returned a {kind}: return the value under the user key")
        return found
