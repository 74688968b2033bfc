"""What tests of shards share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_safesession.model.policy import DEFAULT_TIER
from flask_safesession.model.record import Draft
from flask_safesession.model.tokens import new_id, new_stamp, tier_tag, user_tag
from flask_safesession.stores.base import Live, Store
from flask_safesession.testing import make_draft, make_rules

RULES = make_rules(total=10_000)
Make = Callable[..., Any]


def add(store: Store, user: object = None, rules: Any = RULES) -> tuple[str, Draft]:
    tag = user_tag(user)[0] if user is not None else ""
    key, draft = new_id(tag).key, make_draft(new_stamp().encode(), rules=rules, user=user)
    assert isinstance(store.create(key, draft, rules), Live)
    return key, draft


def payload(store: Store, key: str) -> bytes | None:
    answer = store.load(key, RULES, slide=False)
    return answer.record.payload if isinstance(answer, Live) else None


def index_of(slot: str, user: object, generation: int = 0) -> str:
    """The name of the index of a user's sessions in a slot."""
    return f"{slot}:u:{user_tag(user)}{tier_tag(DEFAULT_TIER)}{generation:05x}"
