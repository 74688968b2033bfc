"""The cart: a list in the session that is changed in place.

There is no ``session.modified = True`` here. SafeSession compares the data with what was loaded, so
it finds changes at any depth.
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
    """Remove one of ``sku``. Removing the last one removes its line."""
    line = _find(sku)
    if line is not None and line["quantity"] > 1:
        line["quantity"] -= 1
    else:
        drop(sku)


def drop(sku: str) -> None:
    """Remove the line of ``sku``, and the cart if it is empty."""
    line = _find(sku)
    if line is not None:
        session["cart"].remove(line)
    if not session.get("cart"):
        session.pop("cart", None)


def clear() -> None:
    """Empty the cart."""
    session.pop("cart", None)


def lines() -> list[tuple[Article, int]]:
    """Returns the articles in the cart with their quantities."""
    known = (line for line in _stored() if line["sku"] in ARTICLES)
    return [(ARTICLES[line["sku"]], line["quantity"]) for line in known]


def size() -> int:
    """Returns the number of things in the cart."""
    return sum(line["quantity"] for line in _stored())


def total() -> Decimal:
    """Returns the price of everything in the cart."""
    return sum((article.price * quantity for article, quantity in lines()), Decimal(0))


def _stored() -> list[Line]:
    stored: list[Line] = session.get("cart", [])
    return stored


def _find(sku: str) -> Line | None:
    return next((line for line in _stored() if line["sku"] == sku), None)
