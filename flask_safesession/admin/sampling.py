"""Takes a bounded sample of a store's sessions, for :mod:`.diagnosis`.

Nothing is used, ended or evicted by that. A session that is found past its deadline is removed, as
by any other call that finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..errors import StoreUnavailable
from ..model import note as notes
from ..model.codec import UndecodableError, decode, encode_value
from ..model.policy import MAX_DURATION, Limits, Policy
from ..model.record import Record, dumps
from ..model.text import name_of
from ..model.tokens import NO_USER
from ..stores.base import LISTED, Counts, Document, IndexedStore, Listed, Live, Rules
from ..stores.opening import Opened

#: Sessions of each tier that are looked at.
SAMPLE = 500
#: Sessions whose data are read.
PAYLOADS = 100
#: Places in the range of a tier's deadlines from which its sessions are taken.
PLACES = 10
#: Users whose sessions are counted.
USERS = 5
#: Milliseconds for which the growth is measured against the same count.
REMEMBERED = 900_000
#: A count that is older is not compared: a day and a night differ.
TOO_OLD = 86_400_000

_GROWTH = "growth"
# No record's limits are longer, so that no load changes a record.
_READ_ONLY = Policy("sliding", Limits(MAX_DURATION, MAX_DURATION, MAX_DURATION))


class Part(NamedTuple):
    """A top-level key of a session's data, without its value.

    :param bytes: of key and value, as they are stored.
    :param length: the number of entries of a container; ``None``: it is none.
    """

    key: str
    bytes: int
    length: int | None


class Seen(NamedTuple):
    """A session of the sample.

    :param weight: for how many live sessions of its tier it stands.
    :param endpoint: where it was created; empty: unknown.
    :param user: the tag of its user; empty: anonymous.
    :param age: seconds since its creation, or its last sign-in.
    :param used_for: seconds from then to its last use; 0: it was never used again.
    :param size: bytes of its data; ``None``: they were not read.
    """

    handle: str
    weight: float
    endpoint: str
    user: str
    age: float
    used_for: float
    size: int | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Sample:
    """Some sessions of a store, and its counts.

    :param before: the number of sessions at an earlier time, and the seconds since.
    :param of_users: for users with several sessions in the sample: the handle of the newest one,
        and their number in the store.
    """

    counts: Counts
    seen: tuple[Seen, ...]
    before: tuple[int, float] | None
    of_users: tuple[tuple[str, int], ...]


def take(
    opened: Opened, settings: Settings, size: int = SAMPLE, payloads: int = PAYLOADS
) -> Sample:
    """Returns a sample of up to *size* sessions of each tier.

    Makes some twenty store calls, :data:`PLACES` for each tier (one for each shard if there are
    more), and *payloads*, however many sessions there are.

    :param payloads: sessions whose data are read.
    :raises CannotDo: the store has no index.
    :raises StoreUnavailable: the store did not answer.
    """
    store, rules = opened.need_index(), settings.rules
    counts, past = store.count(rules), store.document(_GROWTH)
    found: dict[str, tuple[Listed, float]] = {}
    for tier in rules.policy.names:
        live = counts.live.get(tier, 0)
        limits = rules.policy.limits(tier)
        span = min(limits.idle, limits.lifetime)
        some = _some(opened.shards, tier, live, size, (past.now, span))
        found |= {one.key: (one, max(1.0, live / len(some))) for one in some}
    step = max(1, -(-len(found) // payloads))
    seen = [
        _seen(one, weight, past.now, _payload(opened, rules, one) if at % step == 0 else None)
        for at, (one, weight) in enumerate(found.values())
    ]
    before = _before(store, counts.total, past)
    return Sample(counts, tuple(seen), before, tuple(_of_users(opened, seen)))


def _some(
    shards: tuple[IndexedStore, ...], tier: str, live: int, size: int, range_: tuple[int, int]
) -> list[Listed]:
    """Returns up to *size* sessions of a tier: all, or some from places all over the deadlines.

    One end of a list would not do: there, all sessions are new.

    :param range_: the store's time, and milliseconds from there to the latest deadline.
    """
    now, span = range_
    rounds = 1 if live <= size else max(1, PLACES // len(shards))
    places = rounds * len(shards)
    limit = size if live <= size else max(1, size // places)
    found: dict[str, Listed] = {}
    for place in range(places):
        # The first is the end of the list, wherever that is.
        before = now + span - span * place // places if place and live > size else 0
        page = shards[place % len(shards)].page(tier, "", limit, before)
        found |= {one.key: one for one in page.sessions}
    return list(found.values())[:size]


def _payload(opened: Opened, rules: Rules, one: Listed) -> bytes | None:
    """Returns the session's data: those of the list, if they are not cut off."""
    if len(dumps(one.record)) < LISTED:
        return one.record.payload
    answer = opened.store.load(one.key, Rules(_READ_ONLY, rules.cap), slide=False)
    return answer.record.payload if isinstance(answer, Live) else None


def _seen(one: Listed, weight: float, now: int, payload: bytes | None) -> Seen:
    record = one.record
    seen = Seen(
        one.key,
        weight,
        _endpoint(record),
        record.user,
        max(0, now - record.created) / 1000,
        max(0, record.last_active - record.created) / 1000,
    )
    if payload is None:
        return seen
    return seen._replace(size=len(payload), parts=tuple(parts_of(payload)))


def _endpoint(record: Record) -> str:
    with suppress(ValueError):
        return notes.loads(record.note).endpoint
    return ""


def parts_of(payload: bytes) -> Iterator[Part]:
    """Yields the parts of a session's data; none if they cannot be read."""
    with suppress(UndecodableError):
        for key, value in dict.items(decode(payload)):
            name = key if isinstance(key, str) else f"({name_of(type(key))})"
            length = len(value) if _is_container(value) else None
            yield Part(name, len(encode_value(key)) + len(encode_value(value)), length)


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple, set, frozenset))


def _before(store: IndexedStore, total: int, past: Document) -> tuple[int, float] | None:
    """Returns an earlier count and the seconds since; remembers this one, if that is old."""
    age = past.now - past.written
    if not past.document or age > REMEMBERED:
        with suppress(StoreUnavailable):  # a replica can be read, too
            store.keep(_GROWTH, b"%d" % total, past.document)
    is_number = past.document.isdigit() and age <= TOO_OLD
    return (int(past.document), age / 1000) if is_number else None


def _of_users(opened: Opened, seen: list[Seen]) -> Iterator[tuple[str, int]]:
    """Yields the newest session and the number of sessions, for the users that have most of them.

    Of a user of whom the sample has one session, there are hardly many.
    """
    tags = Counter(one.user for one in seen if one.user != NO_USER)
    for tag, count in tags.most_common(USERS):
        if count > 1 and (found := opened.need_users().sessions_of(tag)):
            yield found[0].key, len(found)
