"""Text from elsewhere, for terminals and logs."""

from __future__ import annotations


def printable(value: object) -> str:
    r"""*value* on one line, with what cannot be seen written as Python writes it.

    Terminals take control characters for commands, and the marks of writing directions change how
    the rest is read. Users, browsers and other writers to the store can send either.

    >>> printable("\x1b[2J")
    '\\x1b[2J'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """As :func:`printable`, for a text of several lines of ours."""
    return "\n".join(map(printable, text.split("\n")))


def name_of(kind: type) -> str:
    """Returns the name of a class with its module, for messages; of a built-in one alone."""
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
