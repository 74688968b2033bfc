"""The wire form of a record: fixed width, exact, and strict about what it reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_safesession.expiry import MAX_DURATION
from flask_safesession.record import (
    Draft,
    Record,
    dumps,
    dumps_draft,
    header_length,
    limited,
    loads,
    record_from,
)
from flask_safesession.tokens import NO_USER, new_stamp, tier_tag, user_tag

STAMPS = st.text("abcXYZ019_-", min_size=7, max_size=7)
# Eleven hexadecimal digits of milliseconds last until the year 2527.
TIMES = st.integers(0, 9_000_000_000_000)
DURATIONS = st.integers(1, MAX_DURATION)
RECORDS = st.builds(
    Record,
    stamps=st.tuples(STAMPS, STAMPS, STAMPS),
    created=TIMES,
    last_active=TIMES,
    absolute=TIMES,
    idle=DURATIONS,
    tier=st.text().map(tier_tag),
    user=st.just(NO_USER) | st.text().map(user_tag),
    payload=st.binary(),
)
NOW = 1_700_000_000_000


def make(*, idle: int = 30, lifetime: int = 100, age: int = 10) -> Record:
    """A record that was made at NOW and used *age* later."""
    draft = Draft("stamp-1", idle, lifetime, tier_tag("default"), NO_USER, b"payload")
    return record_from(draft, created=NOW, last_active=NOW + age, stamps=())


@settings(deadline=None)
@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    raw = dumps(record)
    end = header_length(raw)
    assert loads(raw) == loads(raw[:end], raw[end:]) == record


@settings(deadline=None)
@given(RECORDS)
def test_every_header_of_a_kind_has_the_same_width(record: Record) -> None:
    raw, width = dumps(record), 88 if record.user else 72
    assert len(raw) == width + len(record.payload)
    assert header_length(raw) == width
    assert raw[:width].isascii()


def test_the_header_stands_where_the_scripts_look() -> None:
    stamps = ("aaaaaaa", "bbbbbbb", "ccccccc")
    stranger = Record(stamps, 1, 0x22, 0x333, 0x4444, "tier", "", b"data")
    head = b"SS1aaaaaaabbbbbbbccccccc0000000000100000000022000000003330000004444tier"
    assert dumps(stranger) == head + b"-data"
    assert dumps(stranger._replace(user="u" * 16)) == head + b"+uuuuuuuuuuuuuuuudata"


def test_a_draft_has_the_same_form_with_its_lifetime_as_the_deadline() -> None:
    draft = Draft("aaaaaaa", 30, MAX_DURATION, tier_tag("x"), NO_USER, b"data")
    record = loads(dumps_draft(draft))
    assert record.stamps == ("aaaaaaa", "-" * 7, "-" * 7)
    assert (record.idle, record.absolute, record.payload) == (30, MAX_DURATION, b"data")


def test_real_stamps_and_tags_have_the_width_of_their_fields() -> None:
    draft = Draft(new_stamp(), 1, 1, tier_tag("any"), user_tag("any"), b"")
    assert len(dumps_draft(draft)) == 88


def test_a_record_keeps_the_stamps_of_its_last_three_writes() -> None:
    stamps: tuple[str, ...] = ()
    for stamp in ("write-1", "write-2", "write-3", "write-4"):
        draft = make()._replace(stamps=("x", "x", "x"))
        stamps = record_from(
            Draft(stamp, 1, 1, draft.tier, NO_USER, b""), created=0, last_active=0, stamps=stamps
        ).stamps
    assert stamps == ("write-4", "write-3", "write-2")


@pytest.mark.parametrize(
    ("idle", "lifetime", "age", "deadline", "reason"),
    [
        pytest.param(30, 100, 10, 40, "idle", id="idle"),
        pytest.param(30, 100, 69, 99, "idle", id="idle-just-before"),
        pytest.param(30, 100, 70, 100, "lifetime", id="both-at-once"),
        pytest.param(30, 100, 99, 100, "lifetime", id="lifetime"),
        pytest.param(100, 100, 0, 100, "lifetime", id="fixed"),
    ],
)
def test_a_session_ends_by_whichever_limit_comes_first(
    idle: int, lifetime: int, age: int, deadline: int, reason: str
) -> None:
    record = make(idle=idle, lifetime=lifetime, age=age)
    assert (record.deadline - NOW, record.end_reason) == (deadline, reason)


@settings(deadline=None)
@given(RECORDS, DURATIONS, DURATIONS)
def test_todays_limits_only_ever_shorten(record: Record, idle: int, lifetime: int) -> None:
    fresh = limited(record, idle, lifetime)
    assert fresh.idle == min(idle, record.idle)
    assert fresh.absolute == min(record.absolute, record.created + lifetime)
    assert fresh.deadline <= record.deadline
    assert limited(fresh, idle, lifetime) == fresh
    assert fresh._replace(idle=record.idle, absolute=record.absolute) == record


HEAD = dumps(make())[:72]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head, id=name)
        for name, head in {
            "empty": b"",
            "short": HEAD[:-1],
            "of neither kind": HEAD[:71] + b"*",
            "of a user without one": HEAD[:71] + b"+",
            "another's": b"XX1" + HEAD[3:],
            "a newer version's": b"SS2" + HEAD[3:],
            "no number": HEAD[:24] + b"x" * 11 + HEAD[35:],
            "half a number": HEAD[:35] + b"123.5" + b"0" * 6 + HEAD[46:],
            "an underscore": HEAD[:35] + b"1_2" + HEAD[38:],
            "a blank": HEAD[:35] + b" " + HEAD[36:],
            "not ASCII": HEAD[:68] + b"\xff" + HEAD[69:],
        }.items()
    ],
)
def test_what_is_no_header_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any kind of it: nobody shows the text
        loads(head, b"payload")


@settings(deadline=None)
@given(st.binary(min_size=72, max_size=88), st.booleans())
def test_random_headers_are_refused_or_read(noise: bytes, ours: bool) -> None:
    head = b"SS1" + noise[3:] if ours else noise
    try:
        record = loads(head, b"")
    except ValueError:
        return
    assert record.payload == b""
