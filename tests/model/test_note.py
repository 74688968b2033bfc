"""What a record's note says of its secrets, as a table of who may do what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_safesession.model import note as notes
from flask_safesession.model.note import Note, Secret, judge
from flask_safesession.model.policy import OwnLimits
from flask_safesession.model.record import MAX_NOTE
from flask_safesession.stores.base import LISTED
from flask_safesession.web.client import LONGEST_ADDRESS, LONGEST_AGENT

GRACE = 10_000
LONGEST_HEADER = 96  # of a record
FIRST, SECOND, THIRD, FOURTH = (bytes([n]) * 12 for n in range(1, 5))

FRESH = notes.first_note(FIRST)
RENEWED = notes.renewed(FRESH, FIRST, SECOND, 1_000_000)
SETTLED = notes.presented(RENEWED)
STRANDED = notes.renewed(RENEWED, FIRST, THIRD, 1_060_000)


@pytest.mark.parametrize(
    ("note", "digest", "after", "secret"),
    [
        (FRESH, FIRST, 0, Secret.CURRENT),
        (FRESH, SECOND, 0, Secret.REPLACED),
        (RENEWED, SECOND, 0, Secret.CURRENT),
        (RENEWED, FIRST, GRACE, Secret.OLDER),
        (RENEWED, FIRST, GRACE + 1, Secret.STRANDED),
        (SETTLED, FIRST, GRACE, Secret.OLDER),
        (SETTLED, FIRST, GRACE + 1, Secret.REPLACED),
        (SETTLED, SECOND, 10 * GRACE, Secret.CURRENT),
        (SETTLED, THIRD, 0, Secret.REPLACED),
        (STRANDED, THIRD, 60_000, Secret.CURRENT),
        (STRANDED, SECOND, 60_000, Secret.OLDER),
        (STRANDED, SECOND, 60_000 + GRACE + 1, Secret.STRANDED),
        (STRANDED, FIRST, 60_000 + GRACE + 1, Secret.STRANDED),
        (STRANDED, FOURTH, 60_000, Secret.REPLACED),
        (SETTLED._replace(strike=1_000_000), THIRD, GRACE, Secret.REFUSED),
        (SETTLED._replace(strike=1_000_000), THIRD, GRACE + 1, Secret.REPLACED_AGAIN),
        (SETTLED._replace(strike=1_000_000), SECOND, GRACE + 1, Secret.CURRENT),
    ],
)
def test_what_a_secret_may_do(note: Note, digest: bytes, after: int, secret: Secret) -> None:
    """*after*: milliseconds since the first renewal."""
    assert judge(note, digest, 1_000_000 + after, GRACE) is secret


def test_a_secret_that_nobody_presented_gives_way_and_may_still_arrive() -> None:
    assert (STRANDED.base, STRANDED.prev, STRANDED.cur) == (FIRST, SECOND, THIRD)
    late = notes.renewed(STRANDED, SECOND, FOURTH, 2_000_000)
    assert (late.base, late.prev, late.cur) == (SECOND, THIRD, FOURTH)


def test_one_secret_more_is_known_once_the_newest_was_presented() -> None:
    assert SETTLED.is_presented
    assert (SETTLED.base, SETTLED.prev, SETTLED.cur) == (SECOND, FIRST, SECOND)
    assert notes.presented(SETTLED) == SETTLED


def test_without_renewals_a_note_is_one_digest_and_the_endpoint() -> None:
    assert len(notes.dumps(FRESH)) <= 5 + 12
    assert len(notes.dumps(FRESH._replace(endpoint="shop.cart"))) <= 5 + 12 + 3 + len("shop.cart")
    assert notes.dumps(Note()) == b""


def test_an_endpoint_is_cut_and_the_longest_note_is_in_what_lists_read() -> None:
    note = notes.first_note(FIRST, endpoint="\U0001f6d2" * 100)
    assert note.endpoint == "\U0001f6d2" * 80
    longest = note._replace(
        cur=SECOND,
        prev=THIRD,
        since=2**43,
        strike=2**43,
        permanent=True,
        owes_id=True,
        deleted=True,
        client=("é" * LONGEST_ADDRESS, "é" * LONGEST_AGENT) * 2,  # headers are Latin-1
        own=OwnLimits(2**43, 2**43),
    )
    assert LONGEST_HEADER + len(notes.dumps(longest)) <= LISTED


def test_a_session_outside_of_a_view_has_no_endpoint() -> None:
    assert notes.first_note(FIRST, endpoint=None) == FRESH
    assert notes.loads(notes.dumps(FRESH)).endpoint == ""


_digests = st.sampled_from([b"", FIRST, SECOND, THIRD])
_times = st.integers(0, 2**43)


@given(
    st.builds(
        Note,
        cur=_digests,
        base=_digests,
        prev=_digests,
        since=_times,
        strike=_times,
        permanent=st.booleans(),
        owes_id=st.booleans(),
        deleted=st.booleans(),
        client=st.tuples(*[st.text(max_size=60)] * 4) | st.just(()),
        endpoint=st.text(max_size=80),
        own=st.builds(OwnLimits, _times, _times) | st.none(),
    )
)
def test_a_note_comes_back_as_it_was_and_has_its_place(note: Note) -> None:
    raw = notes.dumps(note)
    assert notes.loads(raw) == note
    assert len(raw) <= MAX_NOTE


@pytest.mark.parametrize(
    "raw",
    [
        *(b"\xc1", b"\x01", b"\x81\xa1s\x01", b"\x81", b"\x90" * 2000, b"\x91" * 4000),
        *(b"\x81\xa1s\x94\xc4\x00\xc4\x00\xc4\x00\xa1x", b"\x81\xa1s\x93\xc4\x00\xc4\x00\xc4\x00"),
        *(b"\x81\xa1c\x91\xa1x", b"\x81\xa1t\xa1x", b"\x81\xa1f\xa1x"),
        *(b"\x81\xa1o\x01", b"\x81\xa1o\x93\x01\x01\x01", b"\x81\xa1o\x91\xa1x"),
    ],
)
def test_foreign_bytes_are_not_a_note(raw: bytes) -> None:
    with pytest.raises(ValueError, match="note"):
        notes.loads(raw)


def test_clients_are_those_of_the_sign_in_and_of_the_last_use() -> None:
    note = Note(client=("::1", "Firefox", "::2", "Safari"))
    first, last = note.clients
    found: list[Any] = [first, last]
    assert [(client.address, client.agent) for client in found] == [
        ("::1", "Firefox"),
        ("::2", "Safari"),
    ]
