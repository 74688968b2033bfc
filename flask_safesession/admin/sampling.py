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
from ..stores.base import LISTED, Counts, Document, IndexedStore, Listed, Live, Page, Rules
from ..stores.opening import Opened

#: Sessions of each tier that are looked at.
SAMPLE = 2000
#: Sessions whose data are read, of those with more data than a list has.
PAYLOADS = 100
#: Places in the range of a tier's deadlines from which its sessions are taken; and how often the
#: range is halved to find where the deadlines begin.
PLACES, HALVINGS = 25, 5
#: Sessions of one store call.
PAGE = 500
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

    :param weight: for how many sessions of the store it stands.
    :param endpoint: where it was created; empty: unknown.
    :param user: the tag of its user; empty: anonymous.
    :param age: seconds since its creation, or its last sign-in.
    :param used_for: seconds from then to its last use; 0: it was never used again.
    :param size: bytes of its data; ``None``: they were not read.
    :param data_weight: for how many sessions of the store these stand.
    """

    handle: str
    weight: float
    endpoint: str
    user: str
    age: float
    used_for: float
    size: int | None = None
    data_weight: float = 0.0
    parts: tuple[Part, ...] = ()

    def with_data(self, payload: bytes, scale: float = 1.0) -> Seen:
        """Returns this session with the sizes of its data.

        :param scale: for how many sessions of the sample they stand.
        """
        parts, weight = tuple(parts_of(payload)), self.weight * scale
        return self._replace(size=len(payload), data_weight=weight, parts=parts)


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

    Makes at most 60 store calls for each tier (two for each shard if there are more), and
    *payloads*, however many sessions there are. Data of small sessions are in the lists already.

    :param payloads: sessions with more data whose data are read.
    :raises CannotDo: the store has no index.
    :raises StoreUnavailable: the store did not answer.
    """
    store, rules = opened.need_index(), settings.rules
    counts, past = store.count(rules), store.document(_GROWTH)
    found: dict[str, Seen] = {}
    for tier in rules.policy.names:
        live = counts.live.get(tier, 0)
        if live <= size:
            picked = [(one, 1.0) for one in _all(store, tier, size)]
        else:
            picked = _from_all_over(opened.shards, tier, (size, live), past.now)
        found |= {one.key: _seen(one, weight, past.now) for one, weight in picked}
    seen = _with_data(opened, rules, list(found.values()), payloads)
    before = _before(store, counts.total, past)
    return Sample(counts, tuple(seen), before, tuple(_of_users(opened, seen)))


def _all(store: IndexedStore, tier: str, most: int) -> Iterator[Listed]:
    """Yields up to *most* sessions of a tier."""
    after = ""
    while most > 0:
        page = store.page(tier, after, min(most, PAGE))
        yield from page.sessions
        after, most = page.next, most - PAGE
        if not after:
            return


class _Spot(NamedTuple):
    """Some sessions of a tier, in the order of lists.

    :param covered: the milliseconds of deadlines that they cover.
    :param is_cut: some of the place were left out.
    """

    sessions: list[Listed]
    covered: int
    is_cut: bool


def _from_all_over(
    shards: tuple[IndexedStore, ...], tier: str, wanted: tuple[int, int], now: int
) -> list[tuple[Listed, float]]:
    """Returns sessions of a tier from places all over its deadlines, with their weights.

    From an end of the list would not do: there, all sessions are new. Places where some were left
    out share the sessions that are in no other, by how close their deadlines are.

    :param wanted: how many to return, and the number of live sessions.
    """
    size, live = wanted
    top, low = _range(shards[0], tier, now)
    places = max(1, PLACES // len(shards))
    width = max(2, -(-(top - low) // places))
    each = max(1, size // (places * len(shards)))
    spots = [
        _look(shard, tier, (top - place * width, width), each)
        for shard in shards
        for place in range(places)
    ]
    rest = live - sum(len(spot.sessions) for spot in spots if not spot.is_cut)
    total = sum(len(spot.sessions) / spot.covered for spot in spots if spot.is_cut)
    return [
        (one, max(1.0, rest / (spot.covered * total)) if spot.is_cut else 1.0)
        for spot in spots
        for one in spot.sessions
    ]


def _look(shard: IndexedStore, tier: str, place: tuple[int, int], limit: int) -> _Spot:
    """Returns up to *limit* sessions from two spots of a place: one may be the middle of a burst.

    :param place: the end of the deadlines, and how many milliseconds it is wide.
    """
    end, width = place
    found = _Spot([], 0, is_cut=False)
    for upper, most in ((end, -(-limit // 2)), (end - width // 2, limit // 2)):
        start = min(upper, end - found.covered)
        page = shard.page(tier, "", most, start) if most else Page((), "")
        ours = [one for one in page.sessions if one.record.deadline >= end - width]
        if len(ours) < most:
            is_cut = start < end - found.covered
            return _Spot(found.sessions + ours, found.covered + start - (end - width), is_cut)
        covered = start - ours[-1].record.deadline if ours else 0
        found = _Spot(found.sessions + ours, found.covered + covered, is_cut=True)
    return found


def _range(shard: IndexedStore, tier: str, now: int) -> tuple[int, int]:
    """Returns times after the last deadline of a tier, and shortly before the first."""
    last = shard.page(tier, "", 1).sessions
    top = last[0].record.deadline + 1 if last else now
    low, high = now, top
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        if shard.page(tier, "", 1, middle).sessions:
            high = middle
        else:
            low = middle
    return top, low


def _seen(one: Listed, weight: float, now: int) -> Seen:
    record = one.record
    seen = Seen(
        one.key,
        weight,
        _endpoint(record),
        record.user,
        max(0, now - record.created) / 1000,
        max(0, record.last_active - record.created) / 1000,
    )
    return seen.with_data(record.payload) if len(dumps(record)) < LISTED else seen


def _with_data(opened: Opened, rules: Rules, seen: list[Seen], most: int) -> list[Seen]:
    """Returns *seen* with the data of some of those whose data did not fit into the list."""
    cut = [at for at, one in enumerate(seen) if one.size is None]
    chosen = cut[:: max(1, -(-len(cut) // most))]
    scale = sum(seen[at].weight for at in cut) / (sum(seen[at].weight for at in chosen) or 1)
    for at in chosen:
        if payload := payload_of(opened, rules, seen[at].handle):
            seen[at] = seen[at].with_data(payload, scale)
    return seen


def payload_of(opened: Opened, rules: Rules, handle: str) -> bytes:
    """Returns the data of a session, without using or changing it; empty if there is none."""
    answer = opened.store.load(handle, Rules(_READ_ONLY, rules.cap), slide=False)
    return answer.record.payload if isinstance(answer, Live) else b""


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
