"""The mapping itself: a dictionary in all that views rely on, loaded at first use, once."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from flask import Flask
from flask.sessions import SessionMixin

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.policy import Limits
from flask_safesession.web.data import is_empty
from flask_safesession.web.info import SessionInfo
from flask_safesession.web.session import Session
from flask_safesession.web.state import Loaded, State


class FakeHost:
    """Loads *data* and counts how often it was asked."""

    def __init__(self, data: dict[str, Any] | None = None, error: Exception | None = None) -> None:
        self.data, self.error, self.calls = data or {}, error, 0

    def load(self, state: State) -> Loaded:
        self.calls += 1
        if self.error:
            raise self.error
        return Loaded(dict(self.data))

    def describe(self, state: State) -> SessionInfo:
        return SessionInfo(None, "default", None, True, None, None, None)

    def limits(self, state: State) -> Limits:
        return Limits(1_800_000, 43_200_000, 30_000)

    def end_others(self, state: State) -> int:
        return 0


def make(
    data: dict[str, Any] | None = None, error: Exception | None = None
) -> tuple[Session, FakeHost]:
    host, app = FakeHost(data, error), Flask("tested")
    with app.test_request_context() as context:
        return Session(State(host, app, context.request, ("user_id",))), host


USES: dict[str, Callable[[Session], object]] = {
    "getitem": lambda s: s["a"],
    "get": lambda s: s.get("a"),
    "in": lambda s: "a" in s,
    "len": len,
    "iter": list,
    "reversed": lambda s: list(reversed(s)),
    "bool": bool,
    "dict": dict,
    "keys": lambda s: list(s.keys()),
    "items": lambda s: list(s.items()),
    "values": lambda s: list(s.values()),
    "==": lambda s: s == {"a": 1},
    "set": lambda s: s.__setitem__("b", 1),
    "del": lambda s: s.__delitem__("a"),
    "pop": lambda s: s.pop("a"),
    "pop a default": lambda s: s.pop("x", None),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("a", 1),
    "update": lambda s: s.update(b=2),
    "clear": lambda s: s.clear(),
    "copy": lambda s: s.copy(),
    "|": lambda s: s | {"b": 1},
    "unpack": lambda s: {**s},
    "permanent": lambda s: s.permanent,
    "new": lambda s: s.new,
    "info": lambda s: s.info,
    "invalidate": lambda s: s.invalidate(),
    "regenerate": lambda s: s.regenerate(),
    "expires_in": lambda s: s.expires_in("1h"),
    "modified = True": lambda s: setattr(s, "modified", True),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_use_loads_once(use: Callable[[Session], object]) -> None:
    session, loader = make({"a": 1})
    use(session)
    list(session)
    assert loader.calls == 1


def assign_and_read(session: Session) -> bool:
    session.permanent = True
    return session.permanent


NON_USES: dict[str, Callable[[Session], object]] = {
    "repr": repr,
    "str": str,
    "permanent = True": lambda s: setattr(s, "permanent", True),
    "permanent that was assigned": assign_and_read,
    "modified": lambda s: s.modified,
    "accessed": lambda s: s.accessed,
    "_remember": lambda s: "_remember" in s,
    "isinstance": lambda s: isinstance(s, (SessionMixin, MutableMapping)),
}


@pytest.mark.parametrize("use", NON_USES.values(), ids=NON_USES)
def test_looking_at_the_object_loads_nothing(use: Callable[[Session], object]) -> None:
    session, loader = make({"a": 1})
    use(session)
    assert loader.calls == 0


def test_it_behaves_like_the_dict_that_it_holds() -> None:
    session, _ = make({"a": 1, "b": [2]})
    assert session == {"a": 1, "b": [2]}
    assert dict(session) == session.copy() == {**session}
    assert list(session) == ["a", "b"]
    assert list(reversed(session)) == ["b", "a"]
    assert session | {"c": 3} == {"a": 1, "b": [2], "c": 3}
    assert {"a": 0, "z": 1} | session == {"a": 1, "z": 1, "b": [2]}
    session |= {"c": 3}
    assert isinstance(session, Session)
    assert session.pop("c") == 3
    with pytest.raises(KeyError):
        del session["missing"]
    five: Any = 5
    with pytest.raises(TypeError):
        operator.or_(session, five)
    with pytest.raises(TypeError):
        operator.or_(five, session)


def test_its_copies_are_plain_dicts_of_their_own() -> None:
    session, _ = make({"a": [1]})
    any_session: Any = session
    shallow, deep = copy.copy(any_session), copy.deepcopy(any_session)
    deep["a"].append(2)
    shallow["b"] = 1
    assert type(shallow) is type(deep) is dict
    assert dict(session) == {"a": [1]}


def test_popitem_takes_the_last() -> None:
    session, _ = make({"a": 1, "b": 2})
    assert [session.popitem(), session.popitem()] == [("b", 2), ("a", 1)]
    with pytest.raises(KeyError):
        session.popitem()


def test_accessed_says_whether_the_session_was_used_and_not_whether_it_was_reached() -> None:
    session, _ = make({"a": 1})
    session.accessed = True  # as Flask does, whoever reaches for the object
    repr(session)
    assert not session.accessed
    session.get("a")
    assert session.accessed


def test_modified_says_whether_a_key_was_assigned_or_removed() -> None:
    session, _ = make({"a": [1]})
    seen = []
    session["a"].append(2)
    session.pop("missing", None)
    session.setdefault("a", [])
    seen.append(session.modified)
    session["b"] = 1
    seen.append(session.modified)
    session.modified = False
    seen.append(session.modified)
    del session["a"]
    seen.append(session.modified)
    assert seen == [False, True, False, True]


def test_permanence_that_was_assigned_before_loading_holds_after_it() -> None:
    for stored, assigned in ((False, True), (True, False)):
        session, _ = make({"_permanent": stored, "a": 1})
        session.permanent = assigned
        assert session["_permanent"] is assigned
    session, _ = make({"a": 1})
    session.permanent = False
    assert dict(session) == {"a": 1}
    session.permanent = True
    assert session.permanent
    assert session["_permanent"] is True


def test_a_failed_load_is_told_once_and_then_there_is_an_empty_scratch() -> None:
    session, loader = make(error=StoreUnavailable("down"))
    with pytest.raises(StoreUnavailable, match="down"):
        session.get("a")
    assert dict(session) == {}
    session["a"] = 1
    assert session["a"] == 1
    assert loader.calls == 1


def test_two_new_sessions_share_nothing() -> None:
    one, two = make()[0], make()[0]
    one["a"] = 1
    assert dict(two) == {}


def test_its_repr_shows_data_only_once_loaded() -> None:
    session, _ = make({"a": 1})
    assert repr(session) == "<Session not loaded>"
    session.get("a")
    assert repr(session) == "<Session {'a': 1}>"


@pytest.mark.parametrize(
    ("data", "empty"),
    [({}, True), ({"_permanent": True}, True), ({"a": None}, False), ({"_flashes": []}, False)],
    ids=str,
)
def test_only_permanence_counts_as_empty(data: dict[str, Any], empty: bool) -> None:
    assert is_empty(data) is empty
