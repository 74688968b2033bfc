"""What goes into a session comes out of it, byte for byte; what cannot is refused with its path."""

# ruff: noqa: DTZ001, DTZ901  # naive times are kept, too

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from functools import cached_property
from http.cookies import Morsel, SimpleCookie
from time import localtime
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.datastructures import (
    CombinedMultiDict,
    ImmutableDict,
    ImmutableList,
    ImmutableMultiDict,
    MultiDict,
)
from werkzeug.local import LocalProxy

from flask_safesession.model.codec import (
    MAX_DEPTH,
    UndecodableError,
    decode,
    encode,
    encode_value,
)

BERLIN = ZoneInfo("Europe/Berlin")
OFFSETS = st.timedeltas(
    timedelta(hours=-24) + timedelta(microseconds=1),
    timedelta(hours=24) - timedelta(microseconds=1),
)
ZONES = st.none() | OFFSETS.map(timezone) | st.sampled_from([BERLIN, ZoneInfo("UTC")])
TEXT = st.text(st.characters(codec=None, exclude_categories=()))
HASHABLE_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.binary()
    | TEXT.map(Markup)
    | st.datetimes(timezones=ZONES, allow_imaginary=True)
    | st.dates()
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
)
SCALARS = HASHABLE_SCALARS | st.decimals(allow_nan=True)
HASHABLES = (
    HASHABLE_SCALARS
    | st.lists(HASHABLE_SCALARS, max_size=3).map(tuple)
    | st.frozensets(HASHABLE_SCALARS | st.tuples(HASHABLE_SCALARS), max_size=3)
)
VALUES = st.recursive(
    SCALARS | HASHABLES | st.sets(HASHABLES, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLES, inner, max_size=3)
        | st.dictionaries(HASHABLES, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(HASHABLES, inner, max_size=3).map(Counter)
        | st.dictionaries(HASHABLES, inner, max_size=3).map(lambda v: defaultdict(list, v))
        | st.dictionaries(TEXT, st.lists(inner, min_size=1, max_size=3), max_size=3).map(MultiDict)
    ),
    max_leaves=5,
)
SESSIONS = st.dictionaries(HASHABLES, VALUES, max_size=3)

# Examples are slow to make where the machine is busy, which says nothing about the codec.
few = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def shape(value: object) -> str:
    """Everything about *value* that must survive: types, order, signs of zero, folds, offsets."""
    name = type(value).__name__
    if isinstance(value, dict):
        parts = value.lists() if isinstance(value, MultiDict) else value.items()
        return f"{name}({', '.join(f'{shape(key)}: {shape(part)}' for key, part in parts)})"
    if isinstance(value, (list, tuple)):
        return f"{name}({', '.join(map(shape, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{name}({', '.join(sorted(map(shape, value)))})"
    if isinstance(value, (datetime, time)):
        plain = value.replace(tzinfo=None, fold=0)
        key = getattr(value.tzinfo, "key", None)
        return f"{name}({plain!r} {value.fold} {value.utcoffset()!r} {key})"
    return f"{name}({value!r})"


def through(value: object) -> Any:
    """*value* after a way to the store and back."""
    return decode(encode({"value": value}))["value"]


def refusal(data: dict[Any, Any]) -> str:
    with pytest.raises(TypeError) as caught:
        encode(data)
    return str(caught.value)


# -- round trips --------------------------------------------------------------------------------


@few
@given(SESSIONS)
def test_every_kind_of_value_comes_back_as_it_was_and_has_one_spelling(
    data: dict[Any, Any],
) -> None:
    packed = encode(data)
    back = decode(packed)
    assert shape(back) == shape(data)
    assert encode(back) == packed


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=name)
        for name, value in {
            "none": None,
            "bool": [True, False],
            "int": [0, -1, 2**63, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 7**400, -(7**400)],
            "float": [0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 5e-324],
            "text": ["", "é", "\x00", "😀", "\ud800", "a\udfffb"],
            "bytes": [b"", b"\x00\xff"],
            "tuple": [(), (1, (2, [3])), ((),)],
            "set": [set(), {1, "a", (2,), None, frozenset({3})}],
            "frozenset": [frozenset(), frozenset({frozenset({1}), b"x"})],
            "datetime": [datetime.min, datetime.max, datetime(2024, 2, 29, 1, 2, 3, 4, fold=1)],
            "aware": [
                datetime(2024, 1, 1, tzinfo=UTC),
                datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-5, microseconds=1))),
                datetime(1850, 1, 1, tzinfo=timezone(timedelta(seconds=3208))),
            ],
            "date": [date.min, date.max],
            "time": [time.min, time.max, time(1, fold=1), time(1, tzinfo=UTC)],
            "timedelta": [timedelta.min, timedelta.max, timedelta(0), timedelta(microseconds=-1)],
            "uuid": UUID(int=5),
            "decimal": [Decimal(text) for text in ("0", "-0", "1.10", "1E+9", "NaN", "-Infinity")],
            "snan": Decimal("sNaN12"),
            "markup": [Markup("<b>"), Markup(""), Markup("\ud800")],
            "keys": {
                1: "int",
                "1": "text",
                1.5: "float",
                None: 0,
                (1, "a"): 1,
                b"b": 2,
                date.min: 3,
            },
            "big keys": {2**70: 1, True: 2, Markup("<i>"): 3, frozenset({1}): 4},
        }.items()
    ],
)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert shape(through(value)) == shape(value)
    packed = encode({"value": value})
    assert encode(decode(packed)) == packed


def test_a_zone_keeps_its_key_and_the_time_its_fold() -> None:
    first = datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN)
    for value in (first, first.replace(fold=1), time(2, 30, tzinfo=BERLIN, fold=1)):
        back = through(value)
        assert (shape(back), back.tzinfo.key) == (shape(value), "Europe/Berlin")
    noon = datetime(2026, 10, 24, 12, tzinfo=BERLIN)
    assert str(through(noon) + timedelta(days=1)) == "2026-10-25 12:00:00+01:00"


def test_a_fixed_zone_keeps_its_name() -> None:
    named = timezone(timedelta(hours=1), "CET")
    for value in (datetime(2024, 1, 1, tzinfo=named), time(1, tzinfo=named)):
        assert through(value).tzname() == "CET"


class Always(tzinfo):
    """A fixed zone of some library."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=3)

    def tzname(self, _: datetime | None) -> str:
        return "MSK"

    def dst(self, _: datetime | None) -> None:
        return None


class Rules(Always):
    """A zone with rules, which are what would be lost."""

    def utcoffset(self, at: datetime | None) -> Any:
        return at and timedelta(hours=1 + (4 <= at.month <= 10))


class Stubborn(Always):
    def utcoffset(self, at: datetime | None) -> timedelta:
        assert at
        return timedelta(hours=at.month)


def test_a_fixed_zone_of_somebody_elses_becomes_one_of_pythons() -> None:
    back = through(datetime(2024, 1, 1, tzinfo=Always())).tzinfo
    assert (type(back), back.utcoffset(None), back.tzname(None)) == (
        timezone,
        timedelta(hours=3),
        "MSK",
    )


@pytest.mark.parametrize("zone", [Rules(), Stubborn()])
def test_a_zone_whose_rules_would_be_lost_is_refused(zone: tzinfo) -> None:
    message = refusal({"due": [datetime(2024, 1, 1, tzinfo=zone)]})
    assert message == (
        f'session["due"][0] cannot be stored in the session: {__name__}.{type(zone).__name__}'
        " objects cannot be stored: use a zoneinfo.ZoneInfo, or .astimezone(datetime.timezone.utc)"
    )


def test_a_server_without_a_zone_reads_the_rest_of_the_session() -> None:
    packed = encode({"due": datetime(2024, 7, 1, tzinfo=BERLIN), "cart": [1]})
    for unknown in (b"Nowhere/Berlin", b"../../etc/host"):
        data = decode(packed.replace(b"Europe/Berlin", unknown[:13].ljust(13, b"n")))
        assert data["due"].utcoffset() == timedelta(hours=2)
        assert data["cart"] == [1]


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "not the value"


class Whole(int):
    def __repr__(self) -> str:
        return "not the value"


class Real(float):
    pass


class Raw(bytes):
    pass


class Moment(datetime):
    pass


class Frozen(datetime):
    """As that of freezegun: what tests have for a time."""

    @property
    def nanosecond(self) -> int:
        return 0


class Day(date):
    pass


class Length(timedelta):
    pass


class Ident(UUID):
    pass


class Money(Decimal):
    def __str__(self) -> str:
        return "not the value"


class Safe(Markup):
    __slots__ = ()


class Pair(tuple[int, int]):
    """Adds methods alone."""

    __slots__ = ()


class Scores(dict[str, float]):
    pass


class Basket(dict[str, int]):
    """Keeps what it can work out again."""

    @cached_property
    def total(self) -> int:
        return sum(self.values())

    def __init__(self, items: dict[str, int]) -> None:
        super().__init__(items)
        assert self.total


class Tally(Counter[str]):
    pass


class Item(NamedTuple):
    name: str
    price: Any


class Role(str, Enum):
    ADMIN = "admin"


class Level(IntEnum):
    TOP = 3


@pytest.mark.parametrize(
    ("value", "base"),
    [
        pytest.param(value, base, id=f"{type(value).__name__}-{n}")
        for n, (value, base) in enumerate(
            [
                (Text("a"), "a"),
                (Whole(5), 5),
                (Whole(2**80), 2**80),
                (Real(1.5), 1.5),
                (Raw(b"a"), b"a"),
                (bytearray(b"a"), b"a"),
                (memoryview(b"ab"), b"ab"),
                (Moment(2024, 1, 1, 5), datetime(2024, 1, 1, 5)),
                (
                    Frozen(2024, 1, 1, tzinfo=BERLIN, fold=1),
                    datetime(2024, 1, 1, tzinfo=BERLIN, fold=1),
                ),
                (Day(2024, 1, 1), date(2024, 1, 1)),
                (Length(1), timedelta(1)),
                (Ident(int=7), UUID(int=7)),
                (Money("1.10"), Decimal("1.10")),
                (Safe("<b>"), Markup("<b>")),
                (Pair((1, 2)), (1, 2)),
                (Basket({"tea": 5}), {"tea": 5}),
                (Tally("aab"), Counter("aab")),
                (Scores(a=float("nan")), {"a": float("nan")}),
                (ImmutableDict(a=1), {"a": 1}),
                (ImmutableList([1]), [1]),
                (Role.ADMIN, "admin"),
                (Level.TOP, 3),
            ]
        )
    ],
)
def test_a_subclass_becomes_its_base(value: object, base: object) -> None:
    assert shape(through(value)) == shape(base)
    assert shape(through([value])) == shape([base])
    assert encode({"value": value}) == encode({"value": base})


class Word(str):  # noqa: SLOT000  # its attribute is what would be lost
    """Text in a language."""

    lang: str


class Tagged(list[int]):
    __slots__ = ("tag",)

    def __init__(self, *items: int) -> None:
        super().__init__(items)
        self.tag = "x"


class Loud(dict[str, str]):
    """Shows other values than it has stored."""

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key).upper()


class Backwards(list[int]):
    def __iter__(self) -> Any:
        return reversed(self)


class Nanos(datetime):
    """As that of pandas: finer than its base, also where it does not show."""

    def to_pydatetime(self) -> datetime:
        return datetime(self.year, self.month, self.day)


class Exact(timedelta):
    """As that of pandas: what it has beyond its base counts when it is compared."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Exact and super().__eq__(other)

    __hash__ = timedelta.__hash__


class Never(datetime):
    """As the time of pandas that is none."""

    year = float("nan")  # type: ignore[assignment]


@dataclass
class Extended:
    name: str

    def __post_init__(self) -> None:
        self.price = 5


class Scalar:
    """As those of numpy: a value in an array without dimensions."""

    dtype, ndim = "kind", 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value

    def __bool__(self) -> bool:
        return bool(self.value)


def english(text: str) -> Word:
    word = Word(text)
    word.lang = "en"
    return word


def own() -> list[int]:
    return []


LOSING = {
    "text with an attribute": english("tea"),
    "a list with a slot": Tagged(1),
    "a dict that shows something else": Loud(a="b"),
    "a list that shows something else": Backwards([1, 2]),
    "a named tuple": Item("tea", 5),
    "more fields than items": localtime(0),
    "nanoseconds": Nanos(2024, 1, 1),
    "unlike its base": Exact(1),
    "no time": Never(2024, 1, 1),
    "a cookie": SimpleCookie("a=b"),
    "more than its fields": Extended("tea"),
    "a function of its own": defaultdict(own),
    "a truth of numpy's": Scalar(True),
    "a time of numpy's": Scalar(date(2024, 1, 1)),
    "a complex number of numpy's": Scalar(1j),
    "several dicts": CombinedMultiDict([MultiDict([("a", "1"), ("a", "2")])]),
    "several dicts without anything": CombinedMultiDict(),
}


@pytest.mark.parametrize("value", [pytest.param(v, id=name) for name, v in LOSING.items()])
def test_what_would_lose_something_is_refused_with_path_module_and_fix(value: Any) -> None:
    culprit = value["a"] if isinstance(value, SimpleCookie) else value
    kind, where = type(culprit), '["a"]' if culprit is not value else ""
    message = refusal({"v": [value]})
    start = f'session["v"][0]{where} cannot be stored in the session: {kind.__module__}.'
    assert message.startswith(f"{start}{kind.__qualname__} objects cannot be stored: ")
    assert "store" in (fix := message.rpartition("stored: ")[2]) or "convert it with" in fix


@pytest.mark.parametrize("value", [pytest.param(v, id=name) for name, v in LOSING.items()])
def test_the_fix_of_a_refusal_works(value: Any) -> None:
    fixes: dict[str, Callable[[], object]] = {
        "str(...)": lambda: str(value),
        "list(...)": lambda: list(value),
        "dict(...)": lambda: {
            key: dict(part) if isinstance(part, Morsel) else part for key, part in value.items()
        },
        "tuple(...)": lambda: tuple(value),
        "bool(...)": lambda: bool(value),
        "datetime(...)": lambda: datetime(2024, 1, 1),
        "timedelta(...)": lambda: timedelta(value.days),
        ".item()": lambda: value.value,
        ".to_pydatetime()": lambda: Nanos.to_pydatetime(value),
        ".to_dict(flat=False)": lambda: value.to_dict(flat=False),
    }
    message = refusal({"v": value})
    told = [fix for name, fix in fixes.items() if name in message]
    assert told or "an ID from which" in message
    for fix in told:
        encode({"v": fix()})


@pytest.mark.parametrize(
    "value",
    [
        MultiDict([("tag", "red"), ("tag", "blue"), ("q", "x")]),
        ImmutableMultiDict([("tag", "red"), ("tag", "blue")]),
        OrderedDict(b=1, a=2),
        Counter("aab"),
        defaultdict(list, a=[1]),
        defaultdict(None, a=1),
    ],
)
def test_a_container_with_a_way_of_its_own_keeps_it(value: Any) -> None:
    back = through([value])[0]
    assert (type(back), back) == (type(value), value)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)
    assert encode({"value": back}) == encode({"value": value})


def test_text_of_a_class_that_is_markup_becomes_markup() -> None:
    class Trusted(str):
        __slots__ = ()

        def __html__(self) -> str:
            return self

    assert shape(through(Trusted("<b>"))) == shape(Markup("<b>"))


def test_enum_members_as_keys_become_their_values() -> None:
    assert shape(through({Role.ADMIN: 1, Level.TOP: 2})) == shape({"admin": 1, 3: 2})


class Html:
    def __init__(self, text: str) -> None:
        self.text = text

    def __html__(self) -> str:
        return self.text


class LazyString:
    """Like those of translation libraries, which have no common base."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class _LazyString(LazyString):
    pass


@dataclass
class Line:
    """A line of a cart, as an app may have it."""

    name: str
    price: object


def test_a_dataclass_becomes_a_dict() -> None:
    assert through([Line("pear", Line("inner", 2))]) == [
        {"name": "pear", "price": {"name": "inner", "price": 2}}
    ]
    with pytest.raises(TypeError, match=r'session\["cart"\]\[0\]\.price cannot'):
        encode({"cart": [Line("pear", object())]})


@pytest.mark.parametrize(
    "data", [{"v": {Html("a"): 1, Html("a"): 2}}, {"v": {Html("a"), Html("a")}}]
)
def test_keys_and_members_that_would_become_one_are_refused(data: dict[str, Any]) -> None:
    assert re.match(r'session\["v"\] cannot .* would become one', refusal(data))


def test_an_object_with_html_becomes_markup() -> None:
    assert shape(through(Html("<b>"))) == shape(Markup("<b>"))


@pytest.mark.parametrize("kind", [LazyString, _LazyString, type("Mine", (LazyString,), {})])
def test_a_lazy_string_becomes_its_text(kind: type[LazyString]) -> None:
    assert shape(through([kind("hello")])) == shape(["hello"])


def test_a_lazy_string_of_markup_becomes_markup() -> None:
    assert shape(through(LazyString(Markup("<b>")))) == shape(Markup("<b>"))


@pytest.mark.parametrize("value", [1, Markup("a"), [1, (2,)], LazyString("a"), Role.ADMIN])
def test_a_proxy_is_stored_as_what_it_stands_for(value: object) -> None:
    proxy = LocalProxy(lambda: value)
    assert encode({"value": proxy}) == encode({"value": value})
    assert encode({"value": [proxy]}) == encode({"value": [value]})


# -- one spelling -------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
from flask_safesession.model.codec import encode
words = [f"word {n}" for n in range(50)]
pairs = frozenset(frozenset({a, b}) for a in words[:9] for b in words[:9])
print(encode({"set": set(words), "frozen": frozenset(words), "nested": pairs}).hex())
"""


def test_a_set_has_the_same_bytes_in_every_process() -> None:
    def run(seed: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert run("1") == run("2") != ""


def test_what_python_takes_for_equal_has_bytes_of_its_own() -> None:
    values = [1, True, 1.0, Decimal(1), 0, False, 0.0, -0.0, "1", b"1", Markup("1"), (), [], {}]
    values += [set(), frozenset(), None, "", datetime(2024, 1, 1), date(2024, 1, 1)]
    assert len({encode_value(value) for value in values}) == len(values)


def test_a_change_deep_inside_changes_the_bytes() -> None:
    data: dict[str, Any] = {"cart": [{"count": 1}]}
    before = encode(data)
    data["cart"][0]["count"] = True
    assert encode(data, known=before) != before
    assert encode({"cart": [{"count": 1}]}, known=before) == before


# -- what cannot be stored ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "path"),
    [
        pytest.param(data, path, id=path)
        for data, path in [
            ({"cart": object()}, 'session["cart"]'),
            ({"cart": [1, 2, Item("tea", object())]}, 'session["cart"][2].price'),
            ({"a": {"b": [0, {7: (1, object())}]}}, 'session["a"]["b"][1][7][1]'),
            ({"a": {1, 2.5, object()}}, 'session["a"] member'),
            ({"a": frozenset({(1, object())})}, 'session["a"] member[1]'),
            ({("a", 1): {"x": object()}}, 'session[("a", 1)]["x"]'),
            ({("a", object()): 1}, 'session key ("a", <object>)[1] '),
            ({"a\x1b\u202e": object()}, 'session["a\\x1b\\u202e"] '),
            ({"fine": 1, "worse": [object()], "worst": object()}, 'session["worse"][0]'),
        ]
    ],
)
def test_a_refusal_names_the_path(data: dict[Any, Any], path: str) -> None:
    message = refusal(data)
    assert message.startswith(path)
    assert "object objects cannot be stored" in message


class Plain(Enum):
    A = 1


@pytest.mark.parametrize(
    "value", [1j, range(3), deque([1]), UserDict(a=1), Plain.A, len, ZoneInfo("UTC")], ids=repr
)
def test_what_has_no_plain_base_is_refused(value: object) -> None:
    assert refusal({"a": [value]}).startswith('session["a"][0] cannot be stored')


def test_the_objects_own_text_is_not_in_the_refusal() -> None:
    class Account:
        def __repr__(self) -> str:
            return "password=hunter2"

    assert "hunter2" not in refusal({"account": Account()})
    assert "hunter2" not in refusal({Account(): 1}) + refusal({(1, Account()): object()})


class Unreadable(list[int]):
    def __iter__(self) -> Any:
        raise KeyError("template")


class Broken:
    def __html__(self) -> str:
        raise KeyError("template")


_unset: ContextVar[int] = ContextVar("_unset")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=name)
        for name, value in {
            "__html__ fails": Broken(),
            "its iteration fails": Unreadable([1]),
            "a dataclass without a field": Line.__new__(Line),
            "unbound proxy": LocalProxy(_unset),
            "_fields without attributes": ast.Name.__new__(ast.Name),
            "_fields is None": type("Form", (), {"_fields": None})(),
        }.items()
    ],
)
def test_an_object_that_fails_while_it_is_looked_at_is_refused_with_its_path(
    value: object,
) -> None:
    message = refusal({"a": [value]})
    assert message.startswith('session["a"][0] cannot be stored')
    assert f"{type(value).__qualname__} objects cannot be stored" in message
    assert "template" not in message
    assert "attribute" not in message


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=name)
        for name, value in {
            "a list as key": {(ImmutableList([1]),): 1},
            "a dict as key": {ImmutableDict(a=1): 1},
            "the arguments of a request as key": {ImmutableMultiDict([("a", "1")]): 1},
            "a list in a set": {ImmutableList([1])},
            "an extension of msgpack's": msgpack.ExtType(1, b"x"),
            "an unknown extension": msgpack.ExtType(99, b""),
        }.items()
    ],
)
def test_nothing_is_stored_that_could_not_be_loaded(value: object) -> None:
    """Refused, or readable: stored and unreadable would be the visitor's whole session lost."""
    try:
        packed = encode({"value": value})
    except TypeError:
        return
    assert encode(decode(packed)) == packed


# -- depth --------------------------------------------------------------------------------------


def nested(kind: str, levels: int) -> Any:
    """That many containers of a kind in each other."""
    wrap: dict[str, Any] = {
        "list": lambda v: [v],
        "tuple": lambda v: (v,),
        "dict": lambda v: {"k": v},
        "frozenset": lambda v: frozenset({v}),
        "key": lambda v: (v,),
        "form": lambda v: defaultdict(None, k=v),
        "lines": lambda v: Line("a", v),
    }
    value: Any = 1
    for _ in range(levels):
        value = wrap[kind](value)
    return {value: 1} if kind == "key" else value


KINDS = ["list", "tuple", "dict", "frozenset", "form", "lines"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_levels_are_kept(kind: str) -> None:
    back = through(nested(kind, MAX_DEPTH))
    assert encode({"value": back}) == encode({"value": nested(kind, MAX_DEPTH)})


@pytest.mark.parametrize("leaf", [datetime(2024, 1, 1, tzinfo=BERLIN), Markup("a"), frozenset()])
def test_there_may_be_any_value_in_the_innermost_level(leaf: Any) -> None:
    value = leaf
    for _ in range(MAX_DEPTH - (leaf == frozenset())):
        value = (value,)
    assert shape(through(value)) == shape(value)


@pytest.mark.parametrize("kind", [*KINDS, "key"])
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 250, 5000])
def test_more_are_refused(kind: str, levels: int) -> None:
    assert "nested more than 100 deep" in refusal({"a": nested(kind, levels)})


def test_what_contains_itself_is_refused() -> None:
    items: list[Any] = [1]
    items.append(items)
    table: dict[str, Any] = {}
    table["self"] = table
    mixed: list[Any] = []
    mixed.append(({"a": mixed},))
    for value in (items, table, mixed):
        assert "contains itself" in refusal({"a": value})


WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "list": lambda packed: b"\x91" + packed,
    "dict": lambda packed: b"\x81\xa1k" + packed,
    "key": lambda packed: b"\x81" + packed + b"\x01",
    "tuple": lambda packed: msgpack.packb(msgpack.ExtType(1, b"\x91" + packed)),
    "set": lambda packed: msgpack.packb(msgpack.ExtType(2, msgpack.packb([packed]))),
    "frozenset": lambda packed: msgpack.packb(msgpack.ExtType(3, msgpack.packb([packed]))),
    "default": lambda packed: msgpack.packb(msgpack.ExtType(16, b"\x92\xc0\x81\x01" + packed)),
}


def stored(kind: str, levels: int) -> bytes:
    """The bytes of so many containers in each other, which no :func:`encode` may have made."""
    packed = b"\x01"
    for _ in range(levels):
        packed = WRAPS[kind](packed)
    return b"\x81\xa1x" + packed


@pytest.mark.parametrize("kind", ["list", "dict", "tuple", "frozenset", "default"])
def test_bytes_nested_as_deep_as_they_may_be_are_read(kind: str) -> None:
    packed = stored(kind, MAX_DEPTH)
    assert encode(decode(packed)) == packed


@pytest.mark.parametrize("kind", WRAPS)
@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 400, 2000])
def test_bytes_nested_deeper_are_undecodable(kind: str, levels: int) -> None:
    with pytest.raises(UndecodableError, match="not session data"):
        decode(stored(kind, levels))


IN_A_SMALL_THREAD = """
import sys, threading
from flask_safesession.model.codec import UndecodableError, decode, encode
import msgpack

def run():
    try:
        {work}
    except UndecodableError:
        pass
    print("alive")

threading.stack_size({stack})
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def survives(work: str, *, stack: int) -> bool:
    """Whether a process survives *work* on a thread with *stack* bytes of stack."""
    code = IN_A_SMALL_THREAD.format(work=work.replace("\n", "\n        "), stack=stack)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return run.stdout == "alive\n"


@pytest.mark.parametrize("code", [1, 3])
def test_bytes_nested_without_end_do_not_kill_the_process(code: int) -> None:
    work = (
        "packed = b'\\x90'\n"
        f"for _ in range(3000): packed = msgpack.packb([msgpack.ExtType({code}, packed)])\n"
        "decode(b'\\x81\\xa1x' + packed)"
    )
    assert survives(work, stack=8 * 2**20)


def test_what_may_be_stored_can_be_loaded_on_a_small_stack() -> None:
    """A thread has one megabyte on Alpine."""
    work = (
        "value = ()\nfor _ in range(99): value = (value,)\n"
        "assert decode(encode({1: value}))[1] == value"
    )
    assert survives(work, stack=2**20)


# -- hostile bytes ------------------------------------------------------------------------------


def is_refused_or_data(packed: bytes) -> None:
    try:
        data = decode(packed)
    except UndecodableError:
        return
    assert isinstance(data, dict)


@few
@given(st.binary())
def test_random_bytes_are_undecodable_or_data(packed: bytes) -> None:
    is_refused_or_data(packed)


@few
@given(st.integers(-128, 127), st.binary() | VALUES.map(encode_value))
def test_random_extensions_are_undecodable_or_data(code: int, inside: bytes) -> None:
    size = len(inside).to_bytes(4, "big")
    is_refused_or_data(b"\x81\xa1x\xc9" + size + code.to_bytes(1, "big", signed=True) + inside)


@few
@given(SESSIONS, st.data())
def test_damaged_bytes_are_undecodable_or_data(data: dict[Any, Any], draw: st.DataObject) -> None:
    packed = bytearray(encode(data))
    at = draw.draw(st.integers(0, len(packed) - 1))
    packed[at] = draw.draw(st.integers(0, 255))
    is_refused_or_data(bytes(packed))


@few
@given(SESSIONS.filter(bool), st.data())
def test_truncated_and_extended_bytes_are_undecodable(
    data: dict[Any, Any], draw: st.DataObject
) -> None:
    packed = encode(data)
    cut = draw.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + b"\x00"):
        with pytest.raises(UndecodableError):
            decode(wrong)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(packed, id=name)
        for name, packed in {
            "nothing": b"",
            "no dict": encode_value([1]),
            "text": encode_value("text"),
            "pickle": b"\x80\x04}\x94.",
            "a huge array": b"\x81\xa1x\xdd\xff\xff\xff\xff",
            "a huge map": b"\xdf\xff\xff\xff\xff",
            "an unknown extension": msgpack.packb({"x": msgpack.ExtType(77, b"")}),
            "a list as key": b"\x81\x90\x01",
            "a month 13": msgpack.packb({"x": msgpack.ExtType(5, msgpack.packb([2024, 13, 1]))}),
            "a long exponent": msgpack.packb({"x": msgpack.ExtType(9, b"1e" + b"9" * 30)}),
            "a form without lists": msgpack.packb({"x": msgpack.ExtType(12, b"\x81\xa1a\x01")}),
            "a factory of another kind": msgpack.packb(
                {"x": msgpack.ExtType(16, msgpack.packb(["eval", {}]))}
            ),
            "a form": msgpack.packb(msgpack.ExtType(12, b"\x80")),
            "an offset of a year": msgpack.packb(
                {"x": msgpack.ExtType(6, msgpack.packb([1, 0, 0, 0, 0, 10**15]))}
            ),
        }.items()
    ],
)
def test_foreign_bytes_are_undecodable(packed: bytes) -> None:
    with pytest.raises(UndecodableError, match="not session data"):
        decode(packed)
