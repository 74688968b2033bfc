"""The error for a value that would not come back as what it was."""

from __future__ import annotations

from .text import name_of


class Unstorable(TypeError):
    """A value cannot be stored.

    :param base: the kind of which it is a subclass; ``None``: of none.
    """

    def __init__(self, value: object, base: type | None = None) -> None:
        super().__init__(f"{class_name(value)} objects cannot be stored")
        self.value: object = value
        self.base: type | None = base


def class_name(value: object) -> str:
    """Returns the name of the class of *value*, with its module."""
    return name_of(type(value))
