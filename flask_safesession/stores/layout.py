"""Which shard a session is in.

A session's key begins with one of 64 letters: its *bucket*, drawn at random for a stranger, and for
a user the same for all of the user's sessions. Buckets are dealt out to shards, so that another
number of shards changes no ID. While the number is being changed a session is in its old place or
in its new one, never in both; the old one is looked at first.
"""

from __future__ import annotations

import string
from typing import NamedTuple

_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
#: The most shards there can be: one a bucket.
MAX_SHARDS = len(_LETTERS)


class Layout(NamedTuple):
    """How many shards there are.

    :param epoch: grows with each change, so that the newest is known.
    :param before: shards that sessions were in before the change that is under way.
    :param after: shards that they will be in; equal to *before* when nothing is under way.
    :param placing: the one of the two by which new sessions are placed.
    """

    epoch: int
    before: int
    after: int
    placing: int

    @classmethod
    def of(cls, count: int) -> Layout:
        """The layout of a new store."""
        return cls(0, count, count, count)

    @classmethod
    def loads(cls, raw: bytes) -> Layout:
        """The layout as the store keeps it: four numbers."""
        epoch, before, after, placing = (int(part) for part in raw.split(b":"))
        return cls(epoch, before, after, placing)

    def dumps(self) -> str:
        """The reverse of :meth:`loads`."""
        return ":".join(map(str, self))

    @property
    def moving(self) -> bool:
        """Whether a change is under way."""
        return self.before != self.after

    @property
    def shards(self) -> int:
        """Shards that may hold sessions."""
        return max(self.before, self.after)

    @property
    def shares(self) -> int:
        """By what the cap is divided: generously while sessions move, so that none has to go."""
        return min(self.before, self.after)

    def home(self, key: str) -> int:
        """The shard in which a new session with *key* is placed."""
        return bucket_of(key) % self.placing

    def places(self, key: str) -> tuple[int, ...]:
        """The shards in which the session may be, in the order in which they are to be asked."""
        bucket = bucket_of(key)
        old, new = bucket % self.before, bucket % self.after
        return (old,) if old == new else (old, new)


#: What a store is in which no layout stands: older than any.
NONE = Layout(-1, 1, 1, 1)


def bucket_of(key: str) -> int:
    """The number of the bucket that *key* belongs to."""
    return _LETTERS.index(key[0])
