"""Functions for templates. Not values: a page that calls none costs no store call."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from flask import Flask, current_app

from flask_safesession import StoreUnavailable
from flask_safesession.stores.opening import CannotDo

from . import cart
from .people import current_person
from .sessions import safe


def furnish(app: Flask) -> None:
    """Add the functions below to the templates of ``app``."""
    app.jinja_env.globals.update(person=current_person, cart_size=cart.size, store=store, rule=rule)
    app.jinja_env.filters.update(clock=clock, money=money)


def store() -> dict[str, object]:
    """Returns the kind of store, the number of live sessions, and the cap.

    While the store is down ``live`` is ``None``. If it cannot count (Memcached), so is ``cap``.
    """
    settings = _settings()
    where = settings.store
    kind = where.partition("://")[0] if isinstance(where, str) else type(where).__name__
    cap = settings.rules.cap.total
    try:
        return {"kind": kind, "live": safe.count(), "cap": cap}
    except (StoreUnavailable, CannotDo) as error:
        return {"kind": kind, "live": None, "cap": None if isinstance(error, CannotDo) else cap}


def limits(tier: str) -> tuple[timedelta, timedelta]:
    """Returns the idle timeout and the lifetime of ``tier``."""
    of_tier = _settings().rules.policy.limits(tier)
    return timedelta(milliseconds=of_tier.idle), timedelta(milliseconds=of_tier.lifetime)


def rule(tier: str) -> str:
    """Returns a sentence that says when a session of ``tier`` ends."""
    idle, lifetime = limits(tier)
    if idle == lifetime:
        return f"ends {spoken(lifetime)} after it began, used or not."
    return (
        f"ends after {spoken(idle)} without use, "
        f"and at the latest {spoken(lifetime)} after it began."
    )


def spoken(duration: timedelta) -> str:
    """Returns a duration in words.

    >>> spoken(timedelta(minutes=30)), spoken(timedelta(hours=1)), spoken(timedelta(seconds=90))
    ('30 minutes', '1 hour', '90 seconds')
    """
    units = {"hour": timedelta(hours=1), "minute": timedelta(minutes=1), "second": timedelta(0, 1)}
    unit = next((name for name, size in units.items() if not duration % size), "second")
    number = duration / units[unit]
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"


def clock(seconds: float) -> str:
    """Returns a duration as on a clock.

    >>> clock(5), clock(299.9), clock(3723)
    ('0:05', '4:59', '1:02:03')
    """
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def money(amount: Decimal) -> str:
    """Returns an amount in euros.

    >>> money(Decimal("1204.5"))
    '€1,204.50'
    """
    return f"€{amount:,.2f}"


def _settings() -> Any:
    """Returns SafeSession's settings, wherever they were set."""
    return current_app.extensions["safesession"].settings
