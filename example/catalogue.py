"""The articles of the shop. Prices are here, never in a session: a cart has article numbers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Article:
    """An article. ``sku`` is its number, and the name of its drawing in ``art.html``."""

    sku: str
    name: str
    text: str
    price: Decimal


ARTICLES = {
    article.sku: article
    for article in (
        Article("lantern", "Storm lantern", "Burns twelve hours, then it is empty.", Decimal(48)),
        Article("mug", "Enamel mug", "Holds 300 ml, and refuses the rest.", Decimal("14.50")),
        Article("rope", "Mooring rope", "Eight metres. Lets go when told to.", Decimal(22)),
        Article("compass", "Brass compass", "One north for everybody on board.", Decimal(65)),
        Article("logbook", "Log book", "192 pages, and not one is lost.", Decimal("18.90")),
        Article("bell", "Ship's bell", "Rings the hour, ends the watch.", Decimal(89)),
    )
}
