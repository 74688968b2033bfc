"""The wire form of a record: fixed width, exact, and strict about what it reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_safesession.model.policy import MAX_DURATION
from flask_safesession.model.record import (
    MAX_NOTE,
    Draft,
    Record,
    dumps,
    dumps_draft,
    header_length,
    limited,
    loads,
    peek_fields,
    record_from,
    touched,
)
from flask_safesession.model.tokens import NO_USER, new_stamp, tier_tag, user_tag

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
    note=st.binary(max_size=MAX_NOTE),
    generation=st.integers(0, 0xFFFFF),
    extended=st.booleans(),
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
    raw, width = dumps(record), 96 if record.user else 80
    assert len(raw) == width + len(record.note) + len(record.payload)
    assert header_length(raw) == width
    assert raw[:width].isascii()


def test_the_header_stands_where_the_scripts_look() -> None:
    stamps = ("aaaaaaa", "bbbbbbb", "ccccccc")
    anonymous = Record(stamps, 1, 0x22, 0x333, 0x4444, "tier", "", b"data", b"a note", 0x55)
    head = b"SS1aaaaaaabbbbbbbccccccc000000000010000000002200000000333000000444400055006tier"
    assert dumps(anonymous) == head + b"-a notedata"
    assert dumps(anonymous._replace(user="u" * 16)) == head + b"+uuuuuuuuuuuuuuuua notedata"


def test_a_draft_has_the_same_form_with_its_lifetime_as_the_deadline() -> None:
    draft = Draft("aaaaaaa", 30, MAX_DURATION, tier_tag("x"), NO_USER, b"data", b"note")
    record = loads(dumps_draft(draft))
    assert record.stamps == ("aaaaaaa", "-" * 7, "-" * 7)
    assert (record.idle, record.absolute, record.generation) == (30, MAX_DURATION, 0)
    assert (record.note, record.payload) == (b"note", b"data")


def test_real_stamps_and_tags_have_the_width_of_their_fields() -> None:
    draft = Draft(new_stamp(), 1, 1, tier_tag("any"), user_tag("any"), b"")
    assert len(dumps_draft(draft)) == 96


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
@given(RECORDS)
def test_what_lists_and_scripts_read_is_in_the_head_and_the_note(record: Record) -> None:
    raw = dumps(record)
    listed = loads(raw[: header_length(raw) + len(record.note)])
    assert listed == record._replace(payload=b"")
    tier, user, created, absolute = peek_fields(raw)
    assert (tier.decode(), user.decode()) == (record.tier, record.user)
    assert (int(created, 16), int(absolute, 16)) == (record.created, record.absolute)


@pytest.mark.parametrize(
    ("age", "later", "touch", "active"),
    [
        pytest.param(0, 1, 10, 1, id="the first use"),
        pytest.param(5, 9, 10, 5, id="within the interval"),
        pytest.param(5, 10, 10, 15, id="when it is over"),
        pytest.param(5, 1, 0, 6, id="without an interval"),
        pytest.param(5, -3, 0, 5, id="by a clock that was set back"),
        pytest.param(0, 20, None, 0, id="not a use"),
    ],
)
def test_a_use_is_recorded_once_in_a_touch_interval(
    age: int, later: int, touch: int | None, active: int
) -> None:
    record = make(age=age)
    after = touched(record, NOW + age + later, touch)
    assert after == record._replace(last_active=NOW + active)


def test_a_session_is_used_once_its_last_use_is_after_its_creation() -> None:
    assert not make(age=0).is_used
    assert make(age=1).is_used


@settings(deadline=None)
@given(RECORDS, DURATIONS, DURATIONS)
def test_todays_limits_only_ever_shorten(record: Record, idle: int, lifetime: int) -> None:
    fresh = limited(record, idle, lifetime)
    assert fresh.idle == min(idle, record.idle)
    assert fresh.absolute == min(record.absolute, record.created + lifetime)
    assert fresh.deadline <= record.deadline
    assert limited(fresh, idle, lifetime) == fresh
    assert fresh._replace(idle=record.idle, absolute=record.absolute) == record


HEAD = dumps(make())[:80]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head, id=name)
        for name, head in {
            "empty": b"",
            "short": HEAD[:-1],
            "of neither kind": HEAD[:79] + b"*",
            "of a user without one": HEAD[:79] + b"+",
            "another's": b"XX1" + HEAD[3:],
            "a newer version's": b"SS2" + HEAD[3:],
            "no number": HEAD[:24] + b"x" * 11 + HEAD[35:],
            "half a number": HEAD[:35] + b"123.5" + b"0" * 6 + HEAD[46:],
            "an underscore": HEAD[:35] + b"1_2" + HEAD[38:],
            "a blank": HEAD[:35] + b" " + HEAD[36:],
            "no generation": HEAD[:67] + b"zzzzz" + HEAD[72:],
            "no length of a note": HEAD[:72] + b"-1 " + HEAD[75:],
            "not ASCII": HEAD[:76] + b"\xff" + HEAD[77:],
        }.items()
    ],
)
def test_what_is_no_header_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any kind of it: nobody shows the text
        loads(head, b"payload")


@settings(deadline=None)
@given(st.binary(min_size=80, max_size=96), st.booleans())
def test_random_headers_are_refused_or_read(noise: bytes, ours: bool) -> None:
    head = b"SS1" + noise[3:] if ours else noise
    try:
        record = loads(head, b"")
    except ValueError:
        return
    assert record.payload == b""
