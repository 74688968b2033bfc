"""Steps that the parts of the contract share."""

from __future__ import annotations

from collections.abc import Iterable

from ..model.policy import DEFAULT_TIER
from ..model.record import Draft, Record
from ..model.tokens import new_id, new_stamp, user_tag
from ..stores.base import Conflict, Gone, IndexedStore, Live, Rules, Terms
from ..stores.opening import Opened
from .kit import StoreKit, make_draft, make_rules, new_key

#: The rules of tests for which any will do.
RULES = make_rules()


def used_after(record: Record) -> int:
    """Returns the milliseconds between the creation of a session and its last use.

    A kit may make records older instead of moving a clock: only differences can be compared.
    """
    return record.last_active - record.created


class ContractBase:
    """Steps of tests. Without *rules*, all of them use the same ones."""

    # -- answers --------------------------------------------------------------------------------

    def live(self, answer: object) -> Live:
        """Returns *answer*, which has to be a live session."""
        assert isinstance(answer, Live), answer
        return answer

    def gone(self, answer: object) -> Gone:
        """Returns *answer*, which has to say why there is no session."""
        assert isinstance(answer, Gone), answer
        return answer

    def conflict(self, answer: object) -> Record:
        """Returns the record that another request has written, according to *answer*."""
        assert isinstance(answer, Conflict), answer
        return answer.record

    # -- steps ----------------------------------------------------------------------------------

    def create(
        self,
        kit: StoreKit,
        key: str,
        rules: Rules = RULES,
        payload: bytes = b"data",
        *,
        user: object = None,
        tier: str = DEFAULT_TIER,
    ) -> Live:
        """Create a session under *key*; returns the answer."""
        draft = make_draft(payload, rules=rules, user=user, tier=tier)
        return self.live(kit.store.create(key, draft, rules))

    def add(
        self,
        kit: StoreKit,
        rules: Rules = RULES,
        payload: bytes = b"data",
        *,
        user: object = None,
        tier: str = DEFAULT_TIER,
    ) -> str:
        """Create a session; returns its key. All keys of a user begin with one letter."""
        key = new_key() if user is None else self.key_of(user)
        self.create(kit, key, rules, payload, user=user, tier=tier)
        return key

    def slide(self, kit: StoreKit, key: str, rules: Rules = RULES) -> Record:
        """Load the session, which has to be live, with a slide; returns its record."""
        return self.live(kit.store.load(key, rules, slide=True)).record

    def used(self, kit: StoreKit, rules: Rules = RULES, *, user: object = None) -> str:
        """Create a session whose cookie has come back; returns its key."""
        key = self.add(kit, rules, user=user)
        kit.advance(1000)
        self.slide(kit, key, rules)
        return key

    def read(self, kit: StoreKit, key: str, rules: Rules = RULES) -> Record | None:
        """Returns the record, without a slide; ``None`` if it is gone."""
        answer = kit.store.load(key, rules, slide=False)
        return answer.record if isinstance(answer, Live) else None

    def record(self, kit: StoreKit, key: str, rules: Rules = RULES) -> Record:
        """Returns the record, which has to be live, without a slide."""
        return self.live(kit.store.load(key, rules, slide=False)).record

    def living(self, kit: StoreKit, keys: Iterable[str], rules: Rules = RULES) -> list[str]:
        """Returns those of *keys* whose sessions are live."""
        return [key for key in keys if self.read(kit, key, rules)]

    def holds(self, kit: StoreKit, count: int, rules: Rules = RULES) -> bool:
        """Returns whether so many sessions are live, if the store can count them."""
        index = Opened.of(kit.store).index
        return index is None or index.count(rules).total == count

    def commit(
        self,
        kit: StoreKit,
        key: str,
        rules: Rules = RULES,
        *,
        touch: int | None = 0,
        payload: bytes = b"x",
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

    def rotate(  # noqa: PLR0913  # one for each part of the call
        self,
        kit: StoreKit,
        key: str,
        rules: Rules = RULES,
        *,
        user: object = None,
        tier: str = DEFAULT_TIER,
        expected: str | None = None,
        restart: bool = False,
        reason: str = "rotated",
    ) -> tuple[str, object]:
        """Rotate to a new key; returns that key and the answer."""
        new = new_key() if user is None else self.key_of(user)
        draft = make_draft(b"rotated", rules=rules, user=user, tier=tier)
        return new, kit.store.rotate(key, new, draft, rules, Terms(expected, restart, reason))

    def moved(self, kit: StoreKit, key: str, *, restart: bool) -> str:
        """Rotate ann's session, by a sign-in if *restart*; returns its new key."""
        new, answer = self.rotate(kit, key, user="ann", restart=restart)
        self.live(answer)
        return new

    def key_of(self, user: object) -> str:
        """Returns a new key in the shard that has the sessions of *user*."""
        return new_id(user_tag(user)[:1]).key

    def audit(self, kit: StoreKit, rules: Rules = RULES, limit: int = 100) -> int:
        """Audit all sessions under *rules*; returns how many were put under shorter limits."""
        changed = 0
        for _ in range(1000):
            step = kit.index.audit(rules, limit)
            changed += step.limited
            if step.done:
                return changed
        raise AssertionError("a round over all sessions does not end")

    def purged(self, kit: StoreKit, rules: Rules = RULES) -> int:
        """Remove due sessions; returns how many."""
        due = 0
        while True:
            step = kit.index.purge(rules, 100)
            due += step.due
            if not step.more:
                return due

    def walk(self, store: IndexedStore, tier: str, limit: int) -> list[str]:
        """Returns the keys of all pages."""
        found: list[str] = []
        after = ""
        while True:
            page = store.page(tier, after, limit)
            assert len(page.sessions) <= limit
            found += [one.key for one in page.sessions]
            after = page.next
            if not after:
                return found
