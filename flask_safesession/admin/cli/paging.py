"""Pages of ``list``."""

from __future__ import annotations

from collections.abc import Callable

from ...web.info import SessionInfo
from ..directory import Page


def part_of(
    found: list[SessionInfo], after: str | None, limit: int
) -> tuple[list[SessionInfo], str | None]:
    """Returns a page of *found*, and the number of those before the next one."""
    start = int(after or 0)
    if start < 0:
        raise ValueError(after)
    end = start + limit
    return found[start:end], str(end) if len(found) > end else None


def walk(
    browse: Callable[[str | None, int], Page],
    is_wanted: Callable[[SessionInfo], bool],
    after: str | None,
    limit: int,
    size: int,
) -> tuple[list[SessionInfo], str | None]:
    """Returns up to *limit* sessions, and the *after* of the next page.

    :param size: sessions of one store call.
    """
    found: list[SessionInfo] = []
    end: tuple[str | None, int] = after, 1
    while True:
        page = browse(after, size)
        for number, one in enumerate(page.sessions, 1):
            if is_wanted(one):
                if len(found) == limit:
                    return found, browse(*end).next
                found.append(one)
                end = after, number
        after = page.next
        if after is None:
            return found, None
