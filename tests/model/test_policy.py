"""Durations in every spelling, and which limits hold for whom."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_safesession.model.policy import (
    ANONYMOUS_TIER,
    DEFAULT_TIER,
    MAX_DURATION,
    Limits,
    Policy,
    milliseconds,
)
from flask_safesession.model.tokens import tier_tag

SHORT, LONG, USUAL = Limits(1, 2, 0), Limits(3, 4, 0), Limits(5, 6, 0)


# -- durations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(value, expected, id=repr(value))
        for value, expected in [
            (1, 1000),
            (600, 600_000),
            (0.5, 500),
            (1.0004, 1000),
            (0.001, 1),
            (timedelta(minutes=10), 600_000),
            (timedelta(days=1, milliseconds=1), 86_400_001),
            ("600", 600_000),
            ("0.5", 500),
            ("500ms", 500),
            ("1ms", 1),
            ("1.5s", 1500),
            ("30m", 1_800_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("1h30m", 5_400_000),
            ("1d12h30m15s500ms", 131_415_500),
            ("1.5h", 5_400_000),
            (" 10m ", 600_000),
            ("10 m", 600_000),
            ("1h 30m", 5_400_000),
            ("10M", 600_000),
            ("5MS", 5),
            ("3650d", MAX_DURATION),
            (3650 * 86_400, MAX_DURATION),
        ]
    ],
)
def test_a_duration_may_be_seconds_a_timedelta_or_text(value: object, expected: int) -> None:
    assert milliseconds(value) == expected
    assert type(milliseconds(value)) is int


@settings(deadline=None, max_examples=100)
@given(st.integers(1, MAX_DURATION))
def test_all_spellings_of_a_duration_agree(ms: int) -> None:
    spellings = [timedelta(milliseconds=ms), f"{ms}ms", f"{ms // 1000}s{ms % 1000}ms", ms / 1000]
    assert {milliseconds(value) for value in spellings} == {ms}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=f"{type(value).__name__} {str(value)!r}")
        for value in [
            *("", " ", "m", "ten minutes", "-5", "-5m", "+5m", "1e3", "1m30", "30m,", "1,5h"),
            *(".5h", "1.h", "1y", "1µs", "10m\n30s"),
            *("1_000", "٣m", "５", "nan", "inf", None, True, False),
            *(b"10m", Decimal(5), 1j, [10], {10}, {"minutes": 10}, object),
        ]
    ],
)
def test_what_is_no_duration_is_told_how_to_write_one(value: object) -> None:
    with pytest.raises(ValueError, match=r'write seconds, a timedelta, or text such as "30m"'):
        milliseconds(value)


@pytest.mark.parametrize("value", ["1 2", "1 0m", "1 2 h", "1. 5h"])
def test_a_number_is_not_made_of_two(value: str) -> None:
    with pytest.raises(ValueError, match="write seconds"):
        milliseconds(value)


@pytest.mark.parametrize(
    "value",
    [0, 0.0, -1, -0.5, 0.0009, "0", "0s", "0.4ms", timedelta(0), timedelta(days=-1)],
    ids=repr,
)
def test_a_duration_lasts_a_millisecond_at_least(value: object) -> None:
    with pytest.raises(ValueError, match="at least a millisecond"):
        milliseconds(value)


def test_nan_is_no_duration() -> None:
    with pytest.raises(ValueError, match="duration"):
        milliseconds(math.nan)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=name)
        for name, value in {
            "a day over": "3651d",
            "a millisecond over": timedelta(milliseconds=MAX_DURATION + 1),
            "the longest timedelta": timedelta.max,
            "infinity": math.inf,
            "a huge float": 1e308,
            "a huge int": 10**400,
            "huge text": "9" * 400,
            "huge text with a unit": "9" * 400 + "d",
        }.items()
    ],
)
def test_a_duration_lasts_ten_years_at_most(value: object) -> None:
    with pytest.raises(ValueError, match="ten years at most"):
        milliseconds(value)


# -- policies -----------------------------------------------------------------------------------


class Role(str, Enum):
    ADMIN = "admin"


def tiered(*names: str) -> Policy:
    return Policy("tiered", USUAL, dict.fromkeys(names, SHORT))


def test_a_user_has_the_tier_that_the_session_names() -> None:
    policy = Policy("tiered", USUAL, {"customer": SHORT, "admin": LONG})
    assert policy.tier_of("admin", has_user=True) == "admin"
    assert policy.limits("admin") == LONG
    assert policy.limits_by_tag(tier_tag("admin")) == LONG


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "nobody",
        "Admin",
        b"admin",
        1,
        True,
        1.5,
        ["admin"],
        {"admin": 1},
        {"admin"},
        object,
    ],
    ids=repr,
)
def test_an_unknown_tier_is_the_default(value: object) -> None:
    policy = tiered("admin")
    assert policy.tier_of(value, has_user=True) == DEFAULT_TIER
    assert policy.limits(DEFAULT_TIER) == USUAL


def test_the_default_tier_may_be_configured_too() -> None:
    policy = Policy("tiered", USUAL, {"default": LONG})
    assert policy.limits(policy.tier_of(None, has_user=True)) == LONG
    assert policy.limits_by_tag("??????") == LONG


def test_strangers_take_the_anonymous_tier_where_there_is_one() -> None:
    assert tiered("anonymous", "admin").tier_of("admin", has_user=False) == ANONYMOUS_TIER
    assert tiered("admin").tier_of(None, has_user=False) == DEFAULT_TIER


def test_a_stranger_may_have_a_tier_where_there_is_no_anonymous_one() -> None:
    assert tiered("admin").tier_of("admin", has_user=False) == "admin"


def test_a_user_is_never_anonymous() -> None:
    """That tier is evicted first: its name in a session must not cost a user the session."""
    assert tiered("anonymous").tier_of("anonymous", has_user=True) == DEFAULT_TIER


@pytest.mark.parametrize("kind", ["sliding", "fixed"])
def test_without_tiers_everybody_is_the_default(kind: str) -> None:
    policy = Policy(kind, USUAL)
    assert policy.tier_of("admin", has_user=True) == DEFAULT_TIER
    assert policy.tier_of("anonymous", has_user=False) == DEFAULT_TIER


def test_a_tier_from_an_enum_is_the_tier_of_its_value() -> None:
    """Before it is stored the value is an enum's member, and a plain text ever after."""
    tier = tiered("admin").tier_of(Role.ADMIN, has_user=True)
    assert tier_tag(tier) == tier_tag("admin")


def test_a_tag_no_longer_configured_has_the_default_limits() -> None:
    policy = tiered("admin")
    assert policy.name_of(tier_tag("retired")) == DEFAULT_TIER
    assert policy.limits_by_tag(tier_tag("retired")) == USUAL


def test_an_extended_session_has_the_most_of_its_tier_or_the_limits_of_its_tier() -> None:
    longest = USUAL.lifetime * 2
    most = USUAL._replace(idle=longest, lifetime=longest, longest=longest)
    policy = Policy("tiered", USUAL._replace(longest=longest), {"admin": LONG})
    assert policy.limits_by_tag(f"+{tier_tag(DEFAULT_TIER)}") == most
    assert policy.limits_by_tag(f"+{tier_tag('admin')}") == LONG
    assert policy.limits_by_tag(f"+{tier_tag('retired')}") == policy.default


def test_every_tier_is_known_by_its_tag() -> None:
    policy = tiered("anonymous", "customer", "admin")
    for name in ("anonymous", "customer", "admin", "default"):
        assert policy.name_of(tier_tag(name)) == name


def test_tiers_are_evicted_in_the_order_of_their_configuration() -> None:
    assert tiered("b", "anonymous", "a").order == ("default", "b", "a")
    assert tiered("b", "default", "a").order == ("b", "default", "a")
    assert Policy("sliding", USUAL).order == ("default",)
