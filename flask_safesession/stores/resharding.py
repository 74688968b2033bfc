"""Moves sessions to another number of shards while everybody goes on using them.

A session is in use in one shard at each moment:

1. Every shard is told of the change. From here on a process that does not find a session in its
   old place asks in its new one, too; new sessions still go to the old place.
2. Every shard is told that new sessions go to their new place. A shard refuses what does not
   belong to it any more, and thereby tells processes that have not heard.
3. Shard by shard, page by page: sessions that belong elsewhere are marked where they are, which
   takes them out of use; put into the new place, once each; removed from the old one. Who meets a
   marked session does the rest for it, so it does not matter whether the mover is slow or dead; and
   several movers do no harm. When a whole walk finds nothing, nothing is left.
4. What leads from renewed IDs to their sessions is copied; nobody renews one meanwhile.
5. For as long as tombstones last, both places are still asked. Then the old number is forgotten.

A change that was interrupted is taken up where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ConfigError, StoreUnavailable
from .base import TOMBSTONE_TTL
from .layout import Layout
from .shard import Shard
from .wire import Departed

# Sessions, and bytes of records, that are on their way at once.
_PAGE = 500
_LOAD = 1_000_000
# Seconds for which a late answer of before could still be on its way; the rest is tombstones' time.
_SETTLE = TOMBSTONE_TTL / 1000 + 5


class Moved(NamedTuple):
    """How far a change has come.

    :param sessions: moved since the last report.
    :param shard: the shard that they were in.
    :param waiting: seconds until ended sessions are forgotten everywhere; then it is done.
    """

    sessions: int
    shard: int = 0
    waiting: float = 0.0


def reshard(
    shards: list[Shard], after: int, *, batch: int, settle: float | None = None
) -> Iterator[Moved]:
    """Move all sessions to *after* shards, reporting after each batch.

    :param shards: all that there can be, in order.
    :param after: the number wanted.
    :param batch: index entries that a server looks at in one step.
    :param settle: seconds to wait at the end; ``None``: as long as tombstones last.
    :raises ConfigError: another change is under way.
    :raises StoreUnavailable: a server did not answer; start it again later.
    """
    layout = _announce(shards, after)
    if not layout.moving:
        return
    batch = min(batch, _PAGE)
    for shard in shards[: layout.before]:
        _mend_index(shard, batch)
    while True:
        moved = 0
        for shard in shards[: layout.before]:
            for number in _empty(shard, shards, layout, batch):
                moved += number
                yield Moved(number, shard.number)
        if not moved:
            break
    for shard in shards[: layout.before]:
        for key, tombstone, left in shard.links(batch):
            shards[layout.home(key)].link(key, tombstone, left)
    wait = _SETTLE if settle is None else settle
    yield Moved(0, waiting=wait)
    time.sleep(wait)
    _finish(shards, layout)


def _announce(shards: list[Shard], after: int) -> Layout:
    """Steps 1 and 2; the layout under which sessions move."""
    known = shards[0].layout()
    # A server may have come back with an older layout, or none.
    found = [layout for shard in shards if (layout := shard.layout())]
    layout = max(found, default=Layout.of(1))
    if not found and after == 1:
        return layout  # a store in one shard says nothing of it
    if layout.moving and layout.after != after:
        under_way = f"a change from {layout.before} to {layout.after} shards is under way"
        mend = f"finish it first, with SAFESESSION_SHARDS at {layout.after}"
        raise ConfigError([f"{under_way}: {mend}"])
    if layout.after == after and not layout.moving:
        _tell(shards, layout)
        return layout
    if not layout.moving:
        told = Layout(layout.epoch + 1, layout.before, after, layout.before)
        # Shard 0 decides, if two begin at once.
        if shards[0].layout(told.dumps(), known.dumps() if known else "none") != told:
            return _announce(shards, after)
        layout = told
    _tell(shards, layout)
    if layout.placing != after:
        layout = Layout(layout.epoch + 1, layout.before, after, after)
        _tell(shards, layout)
    return layout


def _tell(shards: list[Shard], layout: Layout) -> None:
    for shard in shards[: layout.shards]:
        if shard.layout(layout.dumps()) != layout:
            raise StoreUnavailable("another change of the number of shards has overtaken this one")


def _empty(shard: Shard, shards: list[Shard], layout: Layout, batch: int) -> Iterator[int]:
    """Move what belongs elsewhere out of *shard*; how many with each step."""
    for tag in shard.tags():
        cursor = 0
        while True:
            page = shard.depart(layout.epoch, tag, cursor, batch, _LOAD)
            if page is None:  # a server came back without the layout
                _tell(shards, layout)
                continue
            _carry(page, shard, shards, layout)
            if page.sessions:
                yield len(page.sessions)
            cursor = page.cursor
            if cursor == 0 and not page.more:
                break


def _mend_index(shard: Shard, batch: int) -> None:
    """A record that has no entry in the index would be left behind."""
    shard.restart_audit()
    while not shard.audit(batch).done:
        pass


def _carry(page: Departed, shard: Shard, shards: list[Shard], layout: Layout) -> None:
    arrived: dict[int, list[tuple[str, bytes]]] = {}
    for key, raw in page.sessions:
        arrived.setdefault(layout.home(key), []).append((key, raw))
    for number, sessions in arrived.items():
        if shards[number].arrive(layout.epoch, page.tier, sessions):
            shard.forget(layout.epoch, [key for key, _ in sessions])
        else:
            _tell(shards, layout)


def _finish(shards: list[Shard], layout: Layout) -> None:
    """Step 5."""
    final = Layout(layout.epoch + 1, layout.after, layout.after, layout.after)
    for shard in shards[: layout.shards]:
        shard.layout(final.dumps())
