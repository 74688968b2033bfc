"""Samples of every store: bounded, from all over it, and without any effect on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from flask_safesession.admin import sampling
from flask_safesession.admin.diagnosis import diagnose
from flask_safesession.admin.sampling import HALVINGS, PLACES, Sample, take
from flask_safesession.instrumentation.hooks import StoreCall, observe
from flask_safesession.model import note as notes
from flask_safesession.model.codec import encode
from flask_safesession.stores.sharded import shard_of
from flask_safesession.testing import FakeClock, StoreKit, make_draft, new_key

from ..support.cli_kit import MINUTE, Deploy, Deployment, MakeApp

LARGE = {"history": ["a page"] * 300}


@pytest.fixture
def deploy(make_app: MakeApp, kit: StoreKit) -> Deploy:
    return lambda **settings: Deployment(make_app(store=kit.store, **settings), kit.advance)


def fill(
    there: Deployment, count: int, endpoint: str, data: dict[str, Any], user: Any = None
) -> list[str]:
    note = notes.dumps(notes.first_note(b"digest", endpoint=endpoint))
    keys = []
    for _ in range(count):
        draft = make_draft(encode(data), rules=there.rules, user=user, note=note)
        key = new_key()
        if user is not None:  # all sessions of a user begin with the same letter
            key = draft.user[:1] + key[1:]
        there.store.create(key, draft, there.rules)
        keys.append(key)
    return keys


def state_of(there: Deployment) -> Any:
    return there.app.extensions["safesession"]


def sample(there: Deployment, size: int = 500, payloads: int = 100) -> Sample:
    state = state_of(there)
    return take(state.opened, state.settings, size, payloads)


def count_calls(there: Deployment) -> Counter[str]:
    calls: Counter[str] = Counter()

    def hook(operation: str) -> Callable[[StoreCall], object]:
        calls[operation] += 1
        return lambda call: None

    observe(state_of(there).overrides, hook, hook)
    return calls


def endpoints(taken: Sample) -> dict[str, float]:
    found: Counter[str] = Counter()
    for one in taken.seen:
        found[one.endpoint] += one.weight  # type: ignore[assignment]
    return dict(found)


@pytest.mark.every_store
def test_a_small_store_is_looked_at_as_a_whole(deploy: Deploy) -> None:
    there = deploy()
    fill(there, 3, "login", {"csrf_token": "t"})
    large = fill(there, 2, "shop", LARGE)
    ada = fill(there, 4, "login", {"user_id": "ada"}, user="ada")
    there.advance(2 * MINUTE)
    there.store.load(large[0], there.rules, slide=True)
    found = diagnose(there.app, state_of(there))
    assert (found.looked_at, found.sessions, found.is_whole) == (9, 9, True)
    by_origin = {(one.endpoint, one.anonymous): one for one in found.origins}
    assert {key: one.sessions for key, one in by_origin.items()} == {
        ("login", True): 3,
        ("shop", True): 2,
        ("login", False): 4,
    }
    shop = by_origin["shop", True]
    assert (shop.settled, shop.never_used) == (2, 1)
    assert 120 <= shop.median_age <= 125
    assert found.only_tokens == 3
    assert found.sizes is not None
    assert found.sizes.with_data == 9
    assert found.keys[0].name == "history"
    assert found.keys[0].lengths is not None
    assert found.keys[0].lengths.longest == 300
    [user] = found.users
    assert (user.sessions, user.handle in ada) == (4, True)


@pytest.mark.every_store
def test_it_is_read_page_by_page(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PAGE", 4)
    there = deploy()
    keys = fill(there, 10, "shop", {})
    assert sorted(one.handle for one in sample(there).seen) == sorted(keys)
    assert len(sample(there, size=10).seen) == 10


@pytest.mark.every_store
def test_nothing_is_used_ended_or_changed(deploy: Deploy) -> None:
    there = deploy(idle_timeout="30m")
    keys = fill(there, 3, "shop", LARGE)
    there.advance(20 * MINUTE)
    before = [there.store.peek(key) for key in keys]
    # Limits that are shorter now are for the purge to apply.
    sample(deploy(idle_timeout="10m"))
    sample(there)
    assert [there.store.peek(key) for key in keys] == before
    there.advance(11 * MINUTE)
    assert [there.store.peek(key) for key in keys] == [None] * 3


@pytest.mark.every_store
def test_a_large_store_is_sampled_all_over_with_a_bounded_number_of_calls(deploy: Deploy) -> None:
    there = deploy()
    made = Random(1).sample([("shop", LARGE)] * 100 + [("health", {})] * 400, 500)
    for endpoint, data in made:
        fill(there, 1, endpoint, data)
        there.advance(1000)
    calls = count_calls(there)
    taken = sample(there, size=150, payloads=10)
    assert taken.counts.total == 500
    assert 100 <= len(taken.seen) <= 150
    assert calls["page"] <= 60
    assert calls["load"] <= 10
    assert set(calls) == {"count", "document", "keep", "page", "load"}
    found = endpoints(taken)
    assert found["health"] == pytest.approx(400, rel=0.2)
    assert found["shop"] == pytest.approx(100, rel=0.4)
    ages = [one.age for one in taken.seen]
    assert min(ages) < 10
    assert max(ages) > 450
    read = [one for one in taken.seen if one.size is not None and one.parts]
    assert sum(one.data_weight for one in read) == pytest.approx(found["shop"], rel=0.01)


def test_a_burst_does_not_hide_the_rest(deploy: Deploy) -> None:
    there = deploy()
    for _ in range(20):
        fill(there, 2, "shop", {})
        there.advance(MINUTE)
    fill(there, 1000, "health", {})
    found = endpoints(sample(there, size=500))
    assert found["shop"] == pytest.approx(40, rel=0.1)
    assert found["health"] == pytest.approx(1000, rel=0.1)


def test_a_burst_is_not_taken_for_what_is_always_so(deploy: Deploy) -> None:
    there = deploy()
    for _ in range(6000):
        fill(there, 1, "shop", {})
        there.advance(100)
    for _ in range(300):
        fill(there, 1, "health", {})
        there.advance(1)
    found = endpoints(sample(there, size=500))
    assert found["shop"] == pytest.approx(6000, rel=0.2)
    assert found["health"] < 1200


@pytest.mark.every_store
def test_the_number_of_sessions_is_remembered(deploy: Deploy) -> None:
    there = deploy()
    fill(there, 10, "shop", {})
    assert sample(there).before is None
    fill(there, 5, "shop", {})
    assert (sample(there).before or (0,))[0] == 10


def test_growth_is_measured_against_the_last_count(deploy: Deploy) -> None:
    there = deploy()
    fill(there, 10, "shop", {})
    assert sample(there).before is None
    fill(there, 5, "shop", {})
    there.advance(MINUTE)
    count, seconds = sample(there).before or (0, 0.0)
    assert (count, seconds) == (10, 60)
    there.advance(16 * MINUTE)
    assert (sample(there).before or (0,))[0] == 10
    there.advance(MINUTE)
    assert (sample(there).before or (0,))[0] == 15


def test_a_count_of_another_day_is_not_compared(deploy: Deploy) -> None:
    there = deploy()
    sample(there)
    there.advance(24 * 60 * MINUTE + 1)
    assert sample(there).before is None
    there.advance(MINUTE)
    assert (sample(there).before or (9,))[0] == 0


def test_sessions_of_several_shards_are_sampled(
    make_app: MakeApp, make_store: Callable[..., Any]
) -> None:
    app = make_app(store=make_store(4), shards=4)
    there = Deployment(app, FakeClock().advance)
    fill(there, 200, "shop", {"a": 1})
    taken = sample(there, size=50)
    assert sum(one.weight for one in taken.seen) == pytest.approx(200, rel=0.5)
    assert {shard_of(one.handle, 4) for one in taken.seen} == {0, 1, 2, 3}
    assert len({one.handle for one in taken.seen}) == len(taken.seen)
    assert HALVINGS + 2 * PLACES < 60


def test_data_that_cannot_be_read_have_a_size_alone(deploy: Deploy) -> None:
    there = deploy()
    there.store.create(new_key(), make_draft(b"\xc1", rules=there.rules), there.rules)
    [one] = sample(there).seen
    assert (one.size, one.parts, one.endpoint) == (1, (), "")
