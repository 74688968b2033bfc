"""Renders the templates of this folder.

They have their own Jinja environment, with everything escaped: the app's may have other delimiters,
globals, extensions, or no escaping at all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from flask import url_for
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..admin.figures import sized
from ..model.text import printable

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def render(template: str, **context: Any) -> str:
    """Returns the page of *template* with *context*."""
    page = _environment().get_template(template)
    return page.render(context, url_for=url_for, now=now())


def now() -> datetime:
    """Returns the time for display: no session expires by this process's clock."""
    return datetime.now(UTC)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # an upgrade while a process runs must not mix two versions
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, percent=percent, clock=clock, spell=spell, utc=utc)
    made.filters.update(printable=printable, sized=sized)
    return made


def number(count: int) -> str:
    """Returns a count with separators between thousands.

    >>> number(1204500)
    '1,204,500'
    """
    return f"{count:,}"


def percent(part: float, whole: float) -> str:
    """Returns a share of the whole, as text between 0 and 100 for a drawing.

    >>> percent(1, 3), percent(2, 1), percent(1, 0)
    ('33.33', '100.00', '0.00')
    """
    return f"{min(100 * part / whole, 100) if whole else 0:.2f}"


def clock(seconds: float) -> str:
    """Returns the time of day of a moment in seconds since 1970.

    >>> clock(72_900)
    '20:15'
    """
    return utc(datetime.fromtimestamp(seconds, UTC))[11:16]


def spell(seconds: float) -> str:
    """Returns a duration in its two largest units.

    >>> spell(0.4), spell(-5), spell(59)
    ('0 s', '0 s', '59 s')
    >>> spell(3723), spell(90_000)
    ('1 h 2 min', '1 d 1 h')
    """
    left, words = max(int(seconds), 0), []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"


def utc(moment: datetime) -> str:
    """Returns date and time of day of a moment, for display.

    >>> utc(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    '2030-01-02 03:04:05'
    """
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
