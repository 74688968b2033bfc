"""What a transaction locks, so that no two are in each other's way more than they must.

Sessions are in sixteen *parts* by the first letter of their keys. A user's keys begin with the
first letter of the user's tag, so they are all in one part. Each part has a row in ``seats``. A
transaction that adds or removes sessions locks the rows of their parts, in ascending order; then
records, others' only where nobody else has locked them. The last rows are for the purge and for
documents. Commits and uses lock one record and nothing else. So no two transactions wait for each
other.

**The cap.** Each row also has a quota: how many sessions its part may count. The quotas add up to
the cap, so it is kept exactly although creations in different parts do not wait for each other. A
transaction counts all its changes in one of its parts, since only the sum is the number of
sessions. When a quota is reached, the creation begins again and locks all rows: then it evicts, or
deals out the quotas anew. Small caps are always handled so.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping

from ...base import Cap
from ...tables import Scope
from ..connections import Place, has_quotas
from ..schema import DOCUMENTS, PARTS, PURGE

_LETTERS = string.ascii_letters + string.digits + "-_"
EVERYTHING: frozenset[int] = frozenset(range(PARTS))
_TASKS = {"all": PURGE, "purge": PURGE, "documents": DOCUMENTS}
#: The least that a part gets when quotas are dealt out: otherwise they would not last.
LEAST = 2


def part_of(key: str) -> int:
    """Returns the part of a key or a user tag."""
    return _LETTERS.find(key[:1]) % PARTS


def place_of(scope: Scope, wider: Collection[str] | None) -> Place:
    """Returns the rows to lock for a transaction that writes, and the one in which it counts.

    :param wider: further keys, after a try that turned out to need them; ``None``: everything.
    """
    names = [*scope.keys, *([scope.user] if scope.user else [])]
    own = _TASKS.get(scope.task, part_of(names[0]) if names else 0)
    is_small = scope.cap is not None and not has_quotas(scope.cap)
    if wider is None or scope.task == "all" or is_small:
        return Place(EVERYTHING | {own}, own, whole=True)
    parts = {part_of(name) for name in (*names, *wider)}
    return Place(frozenset({own, *parts}), own, whole=False)


def quotas(cap: Cap, held: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Returns the quotas of the parts, for all sessions and for users'; none if room is scarce.

    :param held: the sessions, and those of users, that each row counts; the purge's are negative.
    """
    total, users = (sum(counted) for counted in zip((0, 0), *held.values(), strict=True))
    room, room_for_users = (cap.total - total) // PARTS, (cap.users - users) // PARTS
    if not has_quotas(cap) or min(room, room_for_users) < LEAST:
        return {}
    rows = {part: held.get(part, (0, 0)) for part in EVERYTHING}
    return {part: (all_ + room, of + room_for_users) for part, (all_, of) in rows.items()}
