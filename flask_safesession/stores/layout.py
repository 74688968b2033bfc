"""Which shard a session is in.

A session's key begins with one of 64 letters: its *bucket*, drawn at random for a stranger, and for
a user the same for all of the user's sessions. Buckets are dealt out to the shards.
"""

from __future__ import annotations

import string

_LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
#: The most shards there can be: one a bucket.
MAX_SHARDS = len(_LETTERS)


def shard_of(key: str, shards: int) -> int:
    """Returns the number of the shard that *key* belongs to, of so many *shards*."""
    return _LETTERS.find(key[:1]) % shards
