"""What makes sessions grow: each finding, from sessions that are made up."""

from __future__ import annotations

import doctest
import os
from typing import Any

import pytest
from flask import Flask

from flask_safesession.admin import diagnosis, figures
from flask_safesession.admin.diagnosis import Diagnosis, figures_of, place_of, with_findings
from flask_safesession.admin.sampling import Part, Sample, Seen, parts_of
from flask_safesession.config.settings import Settings, read_settings
from flask_safesession.model.codec import encode
from flask_safesession.stores.base import Counts

HOUR = 3600.0
TIERED = {"expiry": "tiered", "tiers": {"anonymous": {"idle_timeout": "20m"}}}


def settings_with(**given: Any) -> Settings:
    return read_settings({}, {"max_sessions": 1000, **given})


def one(  # a session has as many sides
    data: dict[Any, Any] | None = None,
    *,
    endpoint: str = "shop",
    user: str = "",
    age: float = HOUR,
    used_for: float = 600.0,
    weight: float = 1.0,
) -> Seen:
    seen = Seen("handle", weight, endpoint, user, age, used_for)
    return seen if data is None else seen.with_data(encode(data))


def sample(*seen: Seen, **given: Any) -> Sample:
    total = round(sum(session.weight for session in seen))
    counts = Counts({"anonymous": given.pop("total", total)}, 0, 0)
    return Sample(given.pop("counts", counts), seen, given.get("before"), given.get("users", ()))


def found_in(taken: Sample, **settings: Any) -> Diagnosis:
    given = settings_with(**settings)
    return with_findings(figures_of(taken, given), given)


def names(found: Diagnosis) -> list[str]:
    return [problem.name for problem in found.findings]


def healthy() -> list[Seen]:
    carts = [one({"cart": ["mug"] * (n % 5)}, used_for=60.0 * n) for n in range(60)]
    users = [one({"user_id": n}, endpoint="login", user=f"user {n}") for n in range(40)]
    return carts + users


def test_the_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(figures).failed == 0


def test_a_healthy_store_has_no_finding() -> None:
    taken = sample(*healthy(), before=(95, HOUR), users=[("handle", 3)])
    assert names(found_in(taken)) == []


def test_an_empty_store_has_none() -> None:
    found = found_in(sample())
    assert (names(found), found.origins, found.sizes, found.keys) == ([], (), None, ())


# -- where they come from -----------------------------------------------------------------------


def test_an_endpoint_whose_sessions_are_never_used_again_is_found() -> None:
    bots = [one({"a": 1}, endpoint="health", used_for=n // 94) for n in range(100)]
    found = found_in(sample(*healthy(), *bots))
    assert names(found) == ["never-used-again"]
    problem = found.findings[0]
    assert problem.seen == (
        "health creates an anonymous session for every visitor: 100 of 200 sessions;"
        " 94% of the 100 looked at were never used again"
    )
    assert "@safe.exempt" in problem.fix
    assert "less time than the 30m of all" in problem.fix


def test_its_fix_names_the_tier_and_the_token() -> None:
    bots = [one({"csrf_token": "x" * 40}, endpoint="login", used_for=0) for _ in range(50)]
    [problem] = found_in(sample(*bots), **TIERED).findings
    assert "a CSRF token or a flash" in problem.cause
    assert "render the token on demand" in problem.fix
    assert "'anonymous' a shorter idle_timeout in SAFESESSION_TIERS (20m now)" in problem.fix


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param([one(used_for=0, age=59)] * 100, id="too new to tell"),
        pytest.param([one(used_for=0)] * 19, id="too few"),
        pytest.param([one(used_for=0)] * 79 + [one()] * 21, id="used often enough"),
        pytest.param([one()] * 300 + [one(endpoint="x", used_for=0)] * 30, id="a small part"),
    ],
)
def test_it_is_not_found(seen: list[Seen]) -> None:
    assert names(found_in(sample(*seen))) == []


def test_numbers_are_estimates_unless_all_were_looked_at() -> None:
    found = found_in(sample(*[one(used_for=0, weight=30.0)] * 30))
    assert not found.is_whole
    assert "about 900 of 900 sessions; 100% of the 30 looked at" in found.findings[-1].seen


def test_sessions_that_hold_only_a_token_are_found() -> None:
    forms = [one({"csrf_token": "t", "_permanent": True}, used_for=99) for _ in range(30)]
    found = found_in(sample(*healthy(), *forms))
    assert names(found) == ["only-a-token"]
    assert found.only_tokens == 30
    assert "23% of 130 sessions" in found.findings[0].seen


def test_a_session_with_more_or_nothing_has_not_only_a_token() -> None:
    assert figures.has_only_tokens(one({"_flashes": [("message", "hello")]}))
    for data in ({}, {"csrf_token": "t", "cart": []}, {"_permanent": True}):
        assert not figures.has_only_tokens(one(data))


def test_clients_that_sign_in_for_each_call_are_found() -> None:
    calls = [one({"user_id": 1}, endpoint="api", user="1", used_for=0) for _ in range(60)]
    found = found_in(sample(*healthy(), *calls), user_key="user_id")
    assert names(found) == ["sign-in-per-call"]


def test_a_user_with_many_sessions_is_found_by_a_handle() -> None:
    found = found_in(sample(*healthy(), users=[("first", 19), ("second", 20)]))
    assert names(found) == ["many-of-one-user"]
    assert found.findings[0].seen == "one user has 20 sessions; the newest is second"
    assert "`flask safesession show HANDLE --data` shows whose it is" in found.findings[0].fix
    assert [user.handle for user in found.users] == ["second", "first"]


# -- what is in them ----------------------------------------------------------------------------


def test_a_list_that_grows_with_use_is_found() -> None:
    seen = [one({"history": ["page"] * n}, used_for=10.0 * n) for n in range(0, 100, 5)]
    found = found_in(sample(*seen))
    assert names(found) == ["growing-key"]
    assert found.findings[0].seen.startswith("'history' grows with use: 25 entries")


def test_keys_that_grow_in_number_are_found_as_one() -> None:
    seen = [
        one({f"_state_google_{'abcdefgh' * 2}{n}": n for n in range(many)}, used_for=10.0 * many)
        for many in range(0, 100, 5)
    ]
    found = found_in(sample(*seen))
    assert [(key.name, key.several) for key in found.keys] == [("_state_google_#", True)]
    assert names(found) == ["growing-key"]
    assert "keys like it" in found.findings[0].fix


def test_a_list_of_the_same_length_everywhere_does_not_grow() -> None:
    seen = [one({"rights": ["read"] * 120}, used_for=10.0 * n) for n in range(30)]
    assert names(found_in(sample(*seen))) == []


def test_lists_are_not_compared_where_all_have_been_in_use_for_the_same_time() -> None:
    seen = [one({"history": ["page"] * n}, used_for=60.0) for n in range(100)]
    assert names(found_in(sample(*seen))) == []


def test_a_key_that_takes_most_of_the_bytes_is_found() -> None:
    seen = [one({"report": "x" * 5000, "user_id": n}) for n in range(20)]
    found = found_in(sample(*seen))
    assert names(found) == ["large-key"]
    assert found.findings[0].seen.startswith("'report' takes 100% of all bytes, 4.9 KiB in one")


def test_a_session_near_the_limit_is_found() -> None:
    found = found_in(sample(*healthy(), one({"report": "x" * 900})), max_session_size=1024)
    assert names(found) == ["near-the-size-limit"]
    assert "'report'" in found.findings[0].cause


def test_sizes_and_shares_count_for_all_sessions_that_a_session_stands_for() -> None:
    small, large = one({"a": 1}, weight=95.0), one({"b": "x" * 1000}, weight=5.0)
    found = found_in(sample(small, large))
    assert found.sizes is not None
    assert small.size is not None
    assert large.size is not None
    assert (found.sizes.median, found.sizes.percentile_95) == (small.size, small.size)
    assert found.sizes.largest == large.size
    assert found.sizes.total == 95 * small.size + 5 * large.size
    assert [key.name for key in found.keys] == ["b", "a"]


def test_parts_are_names_sizes_and_lengths_and_nothing_else() -> None:
    data = {"cart": ["mug", "rope"], "name": "ada", 7: {"a": 1}}
    assert [*parts_of(encode(data))] == [
        Part("cart", 15, 2),
        Part("name", 9, None),
        Part("(int)", 5, 1),
    ]
    assert [*parts_of(b"not session data")] == []


# -- how many -----------------------------------------------------------------------------------


def test_a_store_that_is_nearly_full_is_found() -> None:
    assert names(found_in(sample(*healthy(), total=800))) == ["nearly-full"]
    assert names(found_in(sample(*healthy(), total=799))) == []


def test_a_store_that_is_full_soon_is_found() -> None:
    found = found_in(sample(*healthy(), total=400, before=(200, HOUR)))
    assert names(found) == ["nearly-full"]
    assert found.findings[0].seen == (
        "400 of 1,000 sessions (40%), +200 an hour: the cap is reached in 3h"
    )
    assert names(found_in(sample(*healthy(), total=400, before=(301, HOUR)))) == []
    assert names(found_in(sample(*healthy(), total=400, before=(500, HOUR)))) == []


def test_the_growth_is_not_known_from_counts_that_are_too_close() -> None:
    assert found_in(sample(*healthy(), before=(1, 59.0))).growth is None
    assert found_in(sample(*healthy(), total=1000, before=(999, 3.0))).growth is None  # at the cap
    found = found_in(sample(*healthy(), before=(100, 60.0)))
    assert found.growth == figures.Growth(0.0, 60.0, None)


@pytest.mark.parametrize(("interval", "seconds"), [("1m", 300), (None, 3600)])
def test_sessions_that_nobody_removes_are_found(interval: Any, seconds: int) -> None:
    def after(overdue: int, due: int = 20) -> Diagnosis:
        counts = Counts({"anonymous": 0}, due, overdue * 1000)
        return found_in(sample(counts=counts), check_interval=interval)

    assert names(after(seconds)) == []
    assert names(after(seconds + 1, due=19)) == []
    found = after(seconds + 1)
    assert names(found) == ["not-removed"]
    assert ("SAFESESSION_CHECK_INTERVAL" in found.findings[0].cause) == (interval is None)


def test_every_finding_has_a_name_that_can_be_ignored() -> None:
    source = diagnosis.__loader__.get_source(diagnosis.__name__)  # type: ignore[union-attr]
    for name in diagnosis.NAMES:
        assert f'"{name}",\n' in source


def test_an_endpoint_is_shown_with_its_path_while_the_app_has_it() -> None:
    app = Flask("tested")
    app.add_url_rule("/login", "sign_in", lambda: "")
    assert place_of(app, "sign_in") == "/login (sign_in)"
    assert place_of(app, "gone") == "gone"


def test_the_memory_of_a_process_is_unknown_where_the_platform_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(figures, "_STATM", tmp_path / "statm")
    assert figures.process_bytes() is None
    (tmp_path / "statm").write_text("100 20 5")
    assert figures.process_bytes() == 20 * os.sysconf("SC_PAGE_SIZE")
