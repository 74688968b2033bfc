"""The sessions of the benchmarks: a shop's visitors, 300 to 500 bytes packed."""

from __future__ import annotations

from typing import Any

NAMES = ("Ada Lovelace", "Grace Hopper", "Hedy Lamarr", "Mary Somerville", "Emmy Noether")
WARES = ("Sextant", "Brass barometer", "Marine chronometer in a walnut box", "Tide tables")


def stranger(number: int) -> dict[str, Any]:
    """The data of a visitor who has not signed in. Every number gives other data."""
    return {
        "csrf_token": f"{number * 2654435761 % 2**160:040x}",
        "locale": "en_GB",
        "theme": "dark",
        "name": NAMES[number % len(NAMES)],
        "visits": number % 1000,
        "last_page": f"/catalogue/instruments/{number}?sort=price&page=3",
        "cart": [_line(number, position) for position in range(2 + number % 3)],
    }


def user(number: int) -> dict[str, Any]:
    """The data of somebody who has signed in; each number is a user of their own."""
    return {**stranger(number), "user_id": user_id(number)}


def user_id(number: int) -> str:
    """The ID of a user, as an application would store it in the session."""
    return f"user-{number:08d}"


def _line(number: int, position: int) -> dict[str, Any]:
    return {
        "sku": f"{(number + position) % 10_000_000:07d}-{position}",
        "title": WARES[(number // 3 + position) % len(WARES)],
        "quantity": position + 1,
        "price": 199.5,
    }
