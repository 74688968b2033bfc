"""The cart: a list in the session that is changed where it stands.

There is no ``session.modified = True`` here. SafeSession compares what is to be stored with
what was loaded, so a change at any depth is noticed.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TypedDict

from flask_safesession import session

from .catalogue import ARTICLES, Article

MOST_OF_ONE = 20


class Line(TypedDict):
    """One line of a cart, as it is stored."""

    sku: str
    quantity: int


def add(sku: str) -> None:
    """Put one more of ``sku`` into the cart."""
    session.setdefault("cart", [])
    line = _find(sku)
    if line is None:
        session["cart"].append(Line(sku=sku, quantity=1))
    else:
        line["quantity"] = min(line["quantity"] + 1, MOST_OF_ONE)


def take(sku: str) -> None:
    """Take one of ``sku`` out again; the last one takes its line with it."""
    line = _find(sku)
    if line is not None and line["quantity"] > 1:
        line["quantity"] -= 1
    else:
        drop(sku)


def drop(sku: str) -> None:
    """Remove the line of ``sku``; an empty cart leaves nothing behind."""
    line = _find(sku)
    if line is not None:
        session["cart"].remove(line)
    if not session.get("cart"):
        session.pop("cart", None)


def clear() -> None:
    """Empty the cart."""
    session.pop("cart", None)


def lines() -> list[tuple[Article, int]]:
    """Return the articles in the cart with their quantities."""
    known = (line for line in _stored() if line["sku"] in ARTICLES)
    return [(ARTICLES[line["sku"]], line["quantity"]) for line in known]


def size() -> int:
    """Return how many things are in the cart."""
    return sum(line["quantity"] for line in _stored())


def total() -> Decimal:
    """Return the price of everything in the cart."""
    return sum((article.price * quantity for article, quantity in lines()), Decimal(0))


def _stored() -> list[Line]:
    stored: list[Line] = session.get("cart", [])
    return stored


def _find(sku: str) -> Line | None:
    return next((line for line in _stored() if line["sku"] == sku), None)
