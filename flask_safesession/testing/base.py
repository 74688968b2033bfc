"""Steps that the parts of the contract share."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER
from ..model.record import Draft, Record
from ..model.tokens import new_id, new_stamp, user_tag
from ..stores.base import Live, Rules, Terms
from ..stores.opening import Opened
from .kit import StoreKit, make_draft, new_key


def used_after(record: Record) -> int:
    """Returns the milliseconds between the creation of a session and its last use.

    A kit may make records older instead of moving a clock: only differences can be compared.
    """
    return record.last_active - record.created


class ContractBase:
    """Steps of tests."""

    # -- help -----------------------------------------------------------------------------------

    def live(self, answer: object) -> Live:
        """Returns *answer*, which has to be a live session."""
        assert isinstance(answer, Live), answer
        return answer

    def add(
        self,
        kit: StoreKit,
        rules: Rules,
        payload: bytes = b"data",
        *,
        user: object = None,
        tier: str = DEFAULT_TIER,
    ) -> str:
        """Create a session; returns its key. All keys of a user begin with one letter."""
        key = new_key() if user is None else self.key_of(user)
        draft = make_draft(payload, rules=rules, user=user, tier=tier)
        assert isinstance(kit.store.create(key, draft, rules), Live)
        return key

    def read(self, kit: StoreKit, key: str, rules: Rules) -> Record | None:
        """Returns the record, without a slide; ``None`` if it is gone."""
        answer = kit.store.load(key, rules, slide=False)
        return answer.record if isinstance(answer, Live) else None

    def holds(self, kit: StoreKit, count: int, rules: Rules) -> bool:
        """Returns whether so many sessions are live, if the store can count them."""
        index = Opened.of(kit.store).index
        return index is None or index.count(rules).total == count

    def rotate(
        self,
        kit: StoreKit,
        key: str,
        rules: Rules,
        *,
        user: object = None,
        tier: str = DEFAULT_TIER,
        expected: str | None = None,
        restart: bool = False,
    ) -> tuple[str, object]:
        """Rotate to a new key; returns that key and the answer."""
        new = new_key() if user is None else self.key_of(user)
        draft = make_draft(b"rotated", rules=rules, user=user, tier=tier)
        return new, kit.store.rotate(key, new, draft, rules, Terms(expected, restart, "rotated"))

    def used(self, kit: StoreKit, rules: Rules, *, user: object = None) -> str:
        """Create a session whose cookie has come back; returns its key."""
        key = self.add(kit, rules, user=user)
        kit.advance(1000)
        self.live(kit.store.load(key, rules, slide=True))
        return key

    def commit(
        self, kit: StoreKit, key: str, rules: Rules, *, touch: int | None = 0, payload: bytes = b"x"
    ) -> Record:
        """Commit to the session, which has to be live; returns its new record."""
        before = self.record(kit, key, rules)
        draft = Draft(
            new_stamp(),
            before.idle,
            before.absolute - before.created,
            before.tier,
            before.user,
            payload,
            before.note,
        )
        return self.live(kit.store.commit(key, draft, before.stamps[0], touch=touch)).record

    def key_of(self, user: object) -> str:
        """Returns a new key in the shard that has the sessions of *user*."""
        return new_id(user_tag(user)[:1]).key

    def record(self, kit: StoreKit, key: str, rules: Rules) -> Record:
        """Returns the record, which has to be live."""
        record = self.read(kit, key, rules)
        assert record is not None
        return record

    def audit(self, kit: StoreKit, rules: Rules, limit: int = 100) -> int:
        """Audit all sessions under *rules*; returns how many were put under shorter limits."""
        changed = 0
        for _ in range(1000):
            step = kit.index.audit(rules, limit)
            changed += step.limited
            if step.done:
                return changed
        raise AssertionError("a round over all sessions does not end")

    def purged(self, kit: StoreKit, rules: Rules) -> int:
        """Remove due sessions; returns how many."""
        due = 0
        while True:
            step = kit.index.purge(rules, 100)
            due += step.due
            if not step.more:
                return due
