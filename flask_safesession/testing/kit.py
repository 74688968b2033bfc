"""Parts of tests of stores: a clock, a kit for one store, rules and drafts."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

from ..model.policy import DEFAULT_TIER, Limits, Policy
from ..model.record import Draft
from ..model.tokens import NO_USER, new_id, new_stamp, tier_tag, user_tag
from ..stores.base import AdoptingStore, Cap, IndexedStore, Rules, Store, UserStore
from ..stores.engine import Engine
from ..stores.opening import Opened
from ..stores.tables import Tables

MINUTE = 60_000

# Takes ARGV[1] milliseconds off every time in the store, and off the indexes.
_AGE = """
local p, by = string.sub(KEYS[1], 1, -7), tonumber(ARGV[1])
local tables = {[':tombstones:anonymous'] = 1, [':tombstones:users'] = 1, [':ended'] = 1}
local function shift(name, from, to)
  local time = tonumber(redis.call('GETRANGE', name, from, to), 16) - by
  redis.call('SETRANGE', name, from, string.format('%011x', time))
end
for _, name in ipairs(redis.call('KEYS', ARGV[2])) do
  local kind = string.sub(name, #p + 1, #p + 3)
  if kind == ':s:' and redis.call('GETRANGE', name, 0, 2) == 'SS1' then
    shift(name, 24, 34)
    shift(name, 35, 45)
    shift(name, 46, 56)
  elseif kind == ':u:' then
    for _, entry in ipairs(redis.call('ZRANGE', name, 0, -1)) do
      redis.call('ZINCRBY', name, -by * 1000, entry)
    end
  elseif kind == ':t:' or kind == ':e:' or tables[string.sub(name, #p + 1)] then
    for _, entry in ipairs(redis.call('ZRANGE', name, 0, -1)) do
      redis.call('ZINCRBY', name, -by, entry)
    end
  elseif string.sub(name, -6) == ':users' then
    for _, entry in ipairs(redis.call('ZRANGE', name, 0, -1)) do
      local time = tonumber(string.sub(entry, 17, 27), 16) - by
      redis.call('ZREM', name, entry)
      redis.call('ZADD', name, 0,
        string.sub(entry, 1, 16) .. string.format('%011x', time) .. string.sub(entry, 28))
    end
  end
  local ttl = redis.call('PTTL', name)
  if ttl > by then
    redis.call('PEXPIRE', name, ttl - by)
  elseif ttl > 0 then
    redis.call('DEL', name)
  end
end
return 1
"""


class FakeClock:
    """A clock for :class:`~flask_safesession.stores.memory.MemoryStore` that stands still.

    :param now: milliseconds since 1970.
    """

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self.now: int = now

    def __call__(self) -> int:
        """Returns the time in milliseconds."""
        return self.now

    def advance(self, milliseconds: int) -> None:
        """Move the clock forward."""
        self.now += milliseconds


def age_redis(client: Any, milliseconds: int, prefix: str = "safesession") -> None:
    """Make everything under *prefix* older, as if time had passed.

    For tests only: it walks every key of the database.
    """
    ours = re.compile(re.escape(f"{{{prefix}:") + r"\d+}")
    names = (name if isinstance(name, str) else name.decode() for name in client.scan_iter("{*"))
    for slot in {found.group() for name in names if (found := ours.match(name))}:
        client.eval(_AGE, 1, f"{slot}:tiers", milliseconds, f"{slot}:*")


@dataclass(frozen=True)
class StoreKit:
    """A store for the contract, and a way to let time pass for it.

    :param store: empty.
    :param advance: called with milliseconds; the store's clock is that much later afterwards.
    :param exact_clock: time stands still between calls, so that tests check limits to the
        millisecond; otherwise to five seconds, for busy machines.
    """

    store: Store
    advance: Callable[[int], None]
    exact_clock: bool = True

    @property
    def users(self) -> UserStore:
        """Returns the store if it can list and end a user's sessions; otherwise skips the test."""
        if (users := Opened.of(self.store).users) is None:
            raise SkipTest("the store cannot list a user's sessions")
        return users

    @property
    def index(self) -> IndexedStore:
        """Returns the store if it has an index of all sessions; otherwise skips the test."""
        if (index := Opened.of(self.store).index) is None:
            raise SkipTest("the store has no index of its sessions")
        return index

    @property
    def adopting(self) -> AdoptingStore:
        """Returns the store if it adopts sessions from older places; otherwise skips the test."""
        if (adopting := Opened.of(self.store).adopting) is None:
            raise SkipTest("the store adopts no sessions")
        return adopting

    @property
    def tables(self) -> Tables:
        """Returns the backend of the engine; otherwise skips the test."""
        if not isinstance(self.store, Engine):
            raise SkipTest("the store is not on the engine")
        self.store.document("none")  # a store may prepare its backend at the first operation
        return self.store.tables

    @property
    def tolerance(self) -> int:
        """Returns the milliseconds that a test leaves before and after a limit."""
        return 1 if self.exact_clock else 5000


def make_rules(  # noqa: PLR0913  # one for each setting
    *,
    total: int = 1000,
    per_user: int = 100,
    evict: bool = True,
    idle: int = 30 * MINUTE,
    lifetime: int = 720 * MINUTE,
    touch: int = 0,
    longest: int = 0,
    tiers: dict[str, Limits] | None = None,
) -> Rules:
    """Returns rules for a test; times in milliseconds."""
    kind = "tiered" if tiers else "sliding"
    policy = Policy(kind, Limits(idle, lifetime, touch, longest), tiers or {})
    return Rules(policy, Cap.of(total, per_user, evict=evict))


def make_draft(
    payload: bytes = b"data",
    *,
    rules: Rules | None = None,
    user: object = None,
    tier: str = DEFAULT_TIER,
    note: bytes = b"",
) -> Draft:
    """Returns a draft for a test, with the limits that *rules* have for *tier*."""
    limits = (rules or make_rules()).policy.limits(tier)
    tag = NO_USER if user is None else user_tag(user)
    return Draft(new_stamp(), limits.idle, limits.lifetime, tier_tag(tier), tag, payload, note)


def new_key() -> str:
    """Returns a new storage key."""
    return new_id().key


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Returns the results of *work* in *count* threads that start at the same moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait(timeout=30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
