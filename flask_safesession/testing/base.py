"""What the parts of the contract share."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER
from ..model.record import Draft, Record
from ..model.tokens import new_id, new_stamp, user_tag
from ..stores.base import Live, Rules, Terms
from ..stores.opening import Opened
from .kit import StoreKit, make_draft, new_key


def used_after(record: Record) -> int:
    """How long after its creation a session was used last, in milliseconds.

    A kit may make records older instead of turning a clock: only differences can be compared.
    """
    return record.last_active - record.created


class ContractBase:
    """Steps that tests are made of."""

    # -- help -----------------------------------------------------------------------------------

    def live(self, answer: object) -> Live:
        """*answer*, which has to be a live session."""
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
        """Create a session; its key. All keys of a user begin with one letter."""
        key = new_key() if user is None else self.key_of(user)
        draft = make_draft(payload, rules=rules, user=user, tier=tier)
        assert isinstance(kit.store.create(key, draft, rules), Live)
        return key

    def read(self, kit: StoreKit, key: str, rules: Rules) -> Record | None:
        """The record as it is, without a slide; ``None`` if it is gone."""
        answer = kit.store.load(key, rules, slide=False)
        return answer.record if isinstance(answer, Live) else None

    def holds(self, kit: StoreKit, count: int, rules: Rules) -> bool:
        """Whether so many sessions are live, as far as the store can count them."""
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
        """Rotate to a new key; that key and the answer."""
        new = new_key() if user is None else self.key_of(user)
        draft = make_draft(b"rotated", rules=rules, user=user, tier=tier)
        return new, kit.store.rotate(key, new, draft, rules, Terms(expected, restart, "rotated"))

    def used(self, kit: StoreKit, rules: Rules, *, user: object = None) -> str:
        """Create a session whose cookie has come back; its key."""
        key = self.add(kit, rules, user=user)
        kit.advance(1000)
        self.live(kit.store.load(key, rules, slide=True))
        return key

    def commit(
        self, kit: StoreKit, key: str, rules: Rules, *, touch: int | None = 0, payload: bytes = b"x"
    ) -> Record:
        """Write the session anew, which has to be there; the record that it becomes."""
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
        """A new key in the part of the store in which the sessions of *user* are."""
        return new_id(user_tag(user)[:1]).key

    def record(self, kit: StoreKit, key: str, rules: Rules) -> Record:
        """The record as it is, which has to be there."""
        record = self.read(kit, key, rules)
        assert record is not None
        return record
