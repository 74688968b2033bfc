"""The shop: open to all visitors, with a cart that needs no account."""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from . import cart
from .catalogue import ARTICLES
from .people import current_person

pages = Blueprint("shop", __name__)

CHANGES = {"add": cart.add, "take": cart.take, "drop": cart.drop}


@pages.get("/")
def home() -> str:
    """Show the articles. Looking around stores nothing."""
    return render_template("shop.html", articles=ARTICLES.values())


@pages.get("/cart")
def show_cart() -> str:
    """Show the cart."""
    lines, total = cart.lines(), cart.total()
    return render_template("cart.html", lines=lines, total=total, most=cart.MOST_OF_ONE)


@pages.post("/cart/<sku>")
def change_cart(sku: str) -> Response:
    """Add one of ``sku``, remove one, or remove all, by the button's value."""
    change = CHANGES.get(request.form.get("change", "add"))
    if sku not in ARTICLES or change is None:
        abort(404)
    change(sku)
    return redirect(url_for(".show_cart"), 303)


@pages.post("/order")
def order() -> Response:
    """Buy the cart. The bill requires a signed-in person."""
    if current_person() is None:
        return redirect(url_for("account.sign_in"), 303)
    if cart.lines():
        cart.clear()
        flash("Thank you. Your order is on its way to nowhere, since this is a demonstration.")
    return redirect(url_for(".home"), 303)
