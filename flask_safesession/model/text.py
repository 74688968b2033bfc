"""Makes text from users, browsers and stores safe for terminals and logs."""

from __future__ import annotations


def printable(value: object) -> str:
    r"""Returns *value* on one line, with unprintable characters as Python escapes.

    Terminals execute control characters, and marks of writing direction change how text is read.

    >>> printable("\x1b[2J")
    '\\x1b[2J'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Returns *text* with :func:`printable` applied to each line."""
    return "\n".join(map(printable, text.split("\n")))


def span(seconds: float) -> str:
    """Returns a duration in its two largest units.

    >>> span(3723), span(59)
    ('1h2m', '59s')
    """
    rest, parts = int(seconds), list[str]()
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= size or (unit == "s" and not parts):
            parts.append(f"{rest // size}{unit}")
        rest %= size
    return "".join(parts[:2])


def name_of(kind: type) -> str:
    """Returns the name of a class with its module, for messages; of a built-in one without it."""
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
