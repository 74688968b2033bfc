"""Putting sessions that nobody uses under shorter limits, in the memory store.

The twin of ``lua/relimit.lua``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from ..model.policy import Policy
from .shelf import Bucket


class Round:
    """A walk over all sessions, some at a time. It begins anew when limits become shorter."""

    def __init__(self) -> None:
        self.policy: Policy | None = None  # of the last round
        self._bucket: int | None = None  # where it stands; None: it is over
        self._after = b""

    @property
    def over(self) -> bool:
        """Whether there is nothing more to look at."""
        return self._bucket is None

    def begin(self, policy: Policy) -> Policy:
        """Begin a round if *policy* is shorter than the last one's; the policy to go by."""
        if self.policy is None or policy.shortens(self.policy):
            self.policy, self._bucket, self._after = policy, 0, b""
        elif self.over:
            self.policy = policy
        return self.policy

    def entries(self, buckets: Mapping[str, Bucket], limit: int) -> list[bytes]:
        """The next *limit* entries of the index at most, all of one bucket."""
        if self._bucket is None or self._bucket >= len(buckets):
            self._bucket = None
            return []
        bucket = list(buckets.values())[self._bucket]
        found = list(islice(bucket.irange(self._after, inclusive=(False, True)), limit))
        if len(found) == limit:
            self._after = found[-1]
        else:
            self._bucket, self._after = self._bucket + 1, b""
        return found
