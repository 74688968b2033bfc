"""What the page on values says of the codec is true."""

# naive times are values, too

from __future__ import annotations

import re
from collections import Counter, OrderedDict, UserString, defaultdict, deque, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from markupsafe import Markup
from werkzeug.datastructures import CombinedMultiDict, ImmutableDict, ImmutableMultiDict, MultiDict
from werkzeug.local import LocalProxy

from flask_safesession.model.codec import decode, encode
from flask_safesession.model.values import KEPT

PAGE = (Path(__file__).parent / "values.md").read_text("utf-8")


@dataclass
class Line:
    name: str
    count: int


class Role(str, Enum):
    ADMIN = "admin"


class Suit(Enum):
    HEARTS = "hearts"


class Word(str):  # noqa: SLOT000  # its attribute is what would be lost
    lang: str


def word(text: str, lang: str) -> Word:
    made = Word(text)
    made.lang = lang
    return made


class Html:
    def __html__(self) -> str:
        return "<b>tea</b>"


class LazyString(UserString):
    pass


class Fixed(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=3)

    def tzname(self, _: datetime | None) -> str:
        return "MSK"


class Rules(tzinfo):
    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return at and timedelta(hours=at.month)


#: What the examples of the page are written in.
NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (Counter, OrderedDict, defaultdict, deque, Path, UUID)},
    **{kind.__name__: kind for kind in (date, datetime, time, timedelta, timezone, ZoneInfo)},
    **{kind.__name__: kind for kind in (Decimal, Markup, MultiDict, ImmutableMultiDict)},
    **{kind.__name__: kind for kind in (CombinedMultiDict, ImmutableDict, Html, LazyString)},
    **{kind.__name__: kind for kind in (Line, Role, Suit, Fixed, Rules)},
    "LocalProxy": LocalProxy,
    "Word": word,
    "Point": namedtuple("Point", "x y"),  # noqa: PYI024  # as the page has it
}


def rows_of(title: str) -> list[Any]:
    """The examples of each row in the table under *title*: code, and what it makes."""
    [part] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| `(.+?)`.* \| `(.+?)` \|$", part, re.MULTILINE)
    assert len(rows) == part.count("\n| `") >= 5  # noqa: PLR2004  # none is left out
    return [pytest.param(*row, id=row[0]) for row in rows]


def evaluated(code: str) -> Any:
    return eval(code, NAMES)  # noqa: S307  # our own page


def test_the_page_lists_exactly_the_kinds_that_are_kept() -> None:
    named = [row.values[0] for row in rows_of("What comes back as it was")]
    assert sorted(named) == sorted(["None", "bool", *(kind.__name__ for kind in KEPT)])


@pytest.mark.parametrize(("kind", "code"), rows_of("What comes back as it was"))
def test_a_kind_of_the_page_comes_back_as_it_was(kind: str, code: str) -> None:
    value = evaluated(code)
    back = decode(encode({"value": value}))["value"]
    assert type(back).__name__ == type(value).__name__ == kind.replace("None", "NoneType")
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset))


@pytest.mark.parametrize(("code", "plainer"), rows_of("What comes back as something plainer"))
def test_what_comes_back_plainer_does_so_as_the_page_says(code: str, plainer: str) -> None:
    value, plain = evaluated(code), evaluated(plainer)
    assert repr(decode(encode({"value": value}))["value"]) == repr(plain)


@pytest.mark.parametrize(("code", "instead"), rows_of("What is refused"))
def test_what_is_refused_has_something_that_can_be_stored(code: str, instead: str) -> None:
    with pytest.raises(TypeError, match=r'^session\["value"\] cannot be stored'):
        encode({"value": evaluated(code)})
    encode({"value": evaluated(instead)})


def test_the_message_on_the_page_is_that_of_the_error() -> None:
    with pytest.raises(TypeError) as refused:
        encode({"cart": [1, 2, {"file": Path("/tea")}]})
    assert f"```text\n{refused.value}\n```" in PAGE
