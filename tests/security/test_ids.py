"""IDs and cookies under attack: how they are made, what is refused, where they never appear."""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import random
import secrets
import string
import subprocess
import sys
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import count
from typing import Any

import pytest
from blinker import NamedSignal
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import Signer

from flask_safesession import SafeSession, StoreUnavailable, events, session
from flask_safesession.model.tokens import KEY_LENGTH, SessionID, is_handle, new_id, sign, unsign
from flask_safesession.testing import StoreKit

from ..support.kits import memory_kit
from ..support.security_kit import (
    KEY,
    Answer,
    Site,
    Work,
    before_payload,
    dump,
    login,
    logout,
    overwrite,
    raw,
    read,
    regenerate,
    write,
)

NEW_KEY = "the next key, long enough as well"


@pytest.fixture
def site(kit: StoreKit) -> Site:
    return Site(kit)


@pytest.fixture
def memory_site() -> Site:
    """For cookies that never reach a store."""
    return Site(memory_kit())


# -- 7.2.2, 7.2.3: how they are made --------------------------------------------------------------


def test_an_id_holds_a_series_of_128_and_a_secret_of_256_bits_from_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[bytes] = []

    def draw(size: int | None = None) -> bytes:
        drawn.append(os.urandom(size or 32))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", draw)
    made = new_id().reveal()
    assert [len(part) for part in drawn] == [16, 32]
    assert made[1:] == "".join(urlsafe_b64encode(part).decode().rstrip("=") for part in drawn)
    drawn.clear()
    renewed = new_id().renewed().reveal()
    assert urlsafe_b64encode(drawn[-1]).decode().rstrip("=") in renewed
    assert len(drawn[-1]) == 32


def test_a_renewed_id_names_the_same_session_by_another_secret() -> None:
    first = new_id()
    ids = [first, *(first.renewed() for _ in range(100))]
    assert {sid.key for sid in ids} == {first.key}
    assert len({sid.reveal() for sid in ids}) == 101
    assert len({sid.secret_digest() for sid in ids}) == 101
    assert {len(sid.secret_digest()) for sid in ids} == {12}  # 96 bits


def test_what_the_store_has_of_an_id_is_no_part_of_it() -> None:
    for _ in range(100):
        sid = new_id()
        text = sid.reveal()
        assert sid.key[0] == text[0]  # the bucket, by which a store finds the shard
        assert sid.key[1:] not in text
        assert urlsafe_b64encode(sid.secret_digest()).decode() not in text
        assert sid.stand_in()[1:] not in text


def test_a_dead_id_has_stand_ins_of_its_own_in_the_same_bucket() -> None:
    sid, renewed, other = (first := new_id()), first.renewed(), new_id(first.reveal()[0])
    keys = [one.stand_in(number) for one in (sid, renewed, other) for number in range(3)]
    assert len({*keys, sid.key, other.key}) == 11
    assert keys[:3] == [sid.stand_in(number) for number in range(3)]
    assert {key[0] for key in keys} == {sid.key[0]}
    assert all(is_handle(key) for key in keys)


def test_ids_are_distinct_over_ten_thousand_a_fork_and_a_restart() -> None:
    ids = {new_id().reveal() for _ in range(10_000)}
    ids |= _ids_of_a_fork(1000)
    for _ in range(2):
        ids |= _ids_of_a_new_process(1000)
    assert len(ids) == 13_000


def _ids_of_a_fork(number: int) -> set[str]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, " ".join(new_id().reveal() for _ in range(number)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read().split()
    assert os.waitpid(child, 0)[1] == 0
    assert len(found) == number
    return set(found)


def _ids_of_a_new_process(number: int) -> set[str]:
    code = (
        "import random; random.seed(0)\n"
        "from flask_safesession.model.tokens import new_id\n"
        f"for _ in range({number}): print(new_id().reveal())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_seeding_random_changes_nothing() -> None:
    made = []
    for _ in range(2):
        random.seed(7)
        before = random.getstate()
        made.append(new_id().reveal())
        assert random.getstate() == before
    assert made[0] != made[1]


@pytest.mark.every_store
@pytest.mark.parametrize("rotating", [False, True])
def test_a_collision_of_ids_is_refused_and_overwrites_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, rotating: bool
) -> None:
    taken = site.visit(login("first")).cookie
    mine = [site.visit(write("a", 1)).cookie] if rotating else []
    draws = [site.sid(taken), new_id()]
    monkeypatch.setattr("flask_safesession.web.writing.new_id", lambda _bucket="": draws.pop(0))
    monkeypatch.setattr(SessionID, "following", lambda *_: draws.pop(0))
    second = site.visit(login("second"), *mine).cookie
    assert draws == []
    assert second != taken
    assert site.visit(read, taken).value == {"user_id": "first"}
    assert site.visit(read, second).value["user_id"] == "second"


# -- what is refused ------------------------------------------------------------------------------


def _signed(secret: str, key: str = KEY) -> str:
    """As ``sign`` does it, also for what is no ID."""
    # Made by itsdangerous itself: what is ours is of its form.
    signer = Signer(key, b"flask-safesession.id", key_derivation="hmac", digest_method=sha256)
    return signer.sign(secret.encode()).decode("latin-1")


def _flasks_own() -> str:
    app = Flask("flask's own")
    app.secret_key = KEY
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps({"user_id": 1}))


def _json_cookie() -> str:
    return urlsafe_b64encode(json.dumps({"user_id": 1}).encode()).decode()


def _of_other_salt() -> str:
    return Signer(KEY, salt="cookie-session").sign(new_id().reveal()).decode()


HOSTILE: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "blank": lambda: " ",
    "a quoted blank": lambda: '"   "',
    "a dot": lambda: ".",
    "NUL": lambda: "\0",
    "a quoted NUL": lambda: '"\\000"',
    "a word": lambda: "admin",
    "non-ASCII": lambda: "\xe9\xfc" * 20,
    "broken UTF-8": lambda: "\xff\xfe.\xff",
    "over-long": lambda: "A" * 60_000,
    "an ID unsigned": lambda: new_id().reveal(),
    "an ID with an empty signature": lambda: new_id().reveal() + ".",
    "signed by another key": lambda: _signed(new_id().reveal(), "the attacker's key, long enough"),
    "signed with another salt": _of_other_salt,
    "signed, but no ID": lambda: _signed("admin"),
    "signed, but empty": lambda: _signed(""),
    "signed, but blank": lambda: _signed(" " * 44),
    "signed, but NUL": lambda: _signed("A" + "\0" * 43),
    "signed, but non-ASCII": lambda: _signed("é" * 44),
    "signed, but a line too long": lambda: _signed("A" * 44 + "\n"),
    "signed, but over-long": lambda: _signed("A" * 45),
    "signed, but short": lambda: _signed("A" * 43),
    "signed, but a path": lambda: _signed("../" * 14 + "AA"),
    "Flask's own": _flasks_own,
    "JSON": _json_cookie,
    "JSON, signed": lambda: _signed(_json_cookie()),
    "a pickle, signed": lambda: _signed(urlsafe_b64encode(pickle.dumps([])).decode()),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_empty_blank_nul_over_long_and_forged_ids_are_never_looked_up_or_adopted(
    memory_site: Site, kind: str
) -> None:
    value = HOSTILE[kind]()
    answer = memory_site.visit(read, value)
    assert (answer.status, answer.value, answer.morsel) == (200, {}, None)
    assert memory_site.visit(logout, value).morsel is None
    assert memory_site.store.calls == []
    made = memory_site.visit(write("a", 1), value).cookie
    assert made != value
    assert memory_site.store.calls == ["create"]


@pytest.mark.parametrize("kind", ["Flask's own", "JSON", "JSON, signed", "a pickle, signed"])
def test_no_verification_failure_falls_through_to_another_decoder(
    memory_site: Site, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr("flask_safesession.web.loading.decode", decoded.append)
    assert memory_site.visit(read, HOSTILE[kind]()).value == {}
    assert decoded == []


def test_an_unknown_id_is_never_adopted(site: Site) -> None:
    unknown = _signed(new_id().reveal())
    answer = site.visit(read, unknown)
    assert (answer.value, answer.morsel) == ({}, None)
    made = site.visit(login(1), unknown).cookie
    assert made != unknown
    assert site.visit(read, unknown).value == {}
    assert site.visit(read, made).value == {"user_id": 1}


def test_ten_thousand_random_ids_and_anonymous_logouts_leave_no_record_and_evict_nobody(
    kit: StoreKit,
) -> None:
    site = Site(kit, max_sessions=4)
    live = [site.visit(login(1)).cookie, site.visit(write("a", 1)).cookie]
    rules = site.app.extensions["safesession"].settings.rules
    before = dump(kit.store)
    for _ in range(10_000):  # what a cookie with a random ID comes to
        kit.store.load(new_id().key, rules, slide=True)
    for _ in range(50):
        assert site.visit(read, _signed(new_id().reveal())).morsel is None
        assert site.visit(logout, _signed(new_id().reveal())).morsel is None
    assert dump(kit.store) == before
    assert site.count() == 2
    assert all(site.visit(read, cookie).value for cookie in live)


# Every other way to spell the same bytes in base64; a browser sends back what it was given.
_SPELLINGS = {
    "another last character": lambda c: [c[:-1] + x for x in string.ascii_letters + "0123456789-_"],
    "padding": lambda c: [c + "=", c + "=====", c[:44] + "=" + c[44:]],
    "characters that decoders skip": lambda c: [
        c[:at] + x + c[at:] for x in "\0 !\t\r\n~" for at in (0, 20, 44, 45, 60, 88)
    ],
    "the other alphabet": lambda c: [c.replace("-", "+").replace("_", "/")],
}


@pytest.mark.parametrize("kind", _SPELLINGS)
def test_a_cookie_has_one_spelling_only(kind: str) -> None:
    for _ in range(20):
        good = _signed(new_id().reveal())
        others = [other for other in _SPELLINGS[kind](good) if other != good]
        assert unsign(good, KEY) is not None
        assert [other for other in others if unsign(other, KEY) is not None] == []


def test_a_changed_character_anywhere_is_a_forgery() -> None:
    good = _signed(new_id().reveal())
    for at in range(len(good) - 1):
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        assert unsign(changed, KEY) is None


# -- duplicates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("first", [True, False])
def test_a_forged_duplicate_before_or_after_a_valid_one_never_loads_another_session(
    memory_site: Site, kind: str, first: bool
) -> None:
    mine = memory_site.visit(login("me")).cookie
    memory_site.visit(login("somebody else"))
    forged = HOSTILE[kind]()
    cookies = (forged, mine) if first else (mine, forged)
    assert memory_site.visit(read, *cookies).value == {"user_id": "me"}


def test_a_nameless_cookie_cannot_stand_in_for_the_sessions(memory_site: Site) -> None:
    mine = memory_site.visit(login("me")).cookie
    others = memory_site.visit(login("attacker")).cookie
    for header in (
        f"=session={others}; session={mine}",
        f"session={mine}; =session={others}",
        f"=session={others}",
        f"Xsession={others}; session={mine}",
        f"SESSION={others}; session={mine}",
    ):
        assert memory_site.visit(read, header=header).value.get("user_id") in {"me", None}


def test_an_ended_id_beside_a_live_one_does_not_hide_it(site: Site) -> None:
    ended, mine = site.visit(login("me")).cookie, site.visit(login("me")).cookie
    site.visit(logout, ended)
    assert site.visit(read, ended, mine).value == {"user_id": "me"}
    assert site.visit(read, mine, ended).value == {"user_id": "me"}


def test_a_heap_of_cookies_costs_a_bounded_number_of_store_calls(memory_site: Site) -> None:
    heap = [_signed(new_id().reveal()) for _ in range(200)]
    assert memory_site.visit(read, *heap).value == {}
    assert memory_site.store.calls == ["load"] * 5  # of four IDs, and the first one's stand-in


# Forged cookies as a neighbouring host can set them, each with a path of its own.
_TOSSED: dict[str, Callable[[int], str]] = {
    "one value": lambda _: "junk",
    "many values": str,
    "quoted": lambda n: f'"{n}"',
    "quoted semicolons": lambda n: f'"; session={n}; "',
    "well-formed": lambda n: f"{'A' * 44}.{n:043}",
    "signed by another key": lambda n: _signed("A" * 44, f"another key {n % 50}"),
    "empty": lambda _: "",
}


@pytest.mark.parametrize("kind", _TOSSED)
def test_any_number_of_forged_cookies_does_not_hide_the_real_one(
    memory_site: Site, kind: str
) -> None:
    mine = memory_site.visit(login("me")).cookie
    forged = [_TOSSED[kind](n) for n in range(550)]
    for cookies in ([*forged, mine], [mine, *forged], [*forged, f'"{mine}"']):
        assert memory_site.visit(read, *cookies).value == {"user_id": "me"}


def test_of_a_cookie_header_64_kib_are_looked_at(memory_site: Site) -> None:
    mine = f"session={memory_site.visit(login('me')).cookie}"
    for length, value in ((64 * 1024, {"user_id": "me"}), (64 * 1024 + 1, {})):
        header = f"other={'x' * (length - len(mine) - 8)}; {mine}"
        assert len(header) == length
        assert memory_site.visit(read, header=header).value == value


def test_one_id_in_many_cookies_counts_once(memory_site: Site) -> None:
    mine, ended = (memory_site.visit(login(user)).cookie for user in ("me", "me"))
    memory_site.visit(logout, ended)
    memory_site.store.take()
    assert memory_site.visit(read, *[ended, f'"{ended}"'] * 9, mine).value == {"user_id": "me"}
    assert memory_site.store.take() == ["load", "load"]


# -- key rotation (Flask's CVE-2025-47278) --------------------------------------------------------


def test_after_a_key_rotation_new_cookies_verify_with_the_new_key_alone(site: Site) -> None:
    site.app.config.update(SECRET_KEY=NEW_KEY, SECRET_KEY_FALLBACKS=[KEY])
    made = site.visit(login(1)).cookie
    assert unsign(made, NEW_KEY) is not None
    assert unsign(made, KEY) is None


def test_after_a_key_rotation_old_cookies_are_signed_anew_with_the_next_commit(site: Site) -> None:
    old = site.visit(login(1)).cookie
    site.app.config.update(SECRET_KEY=NEW_KEY, SECRET_KEY_FALLBACKS=["older still", KEY])
    answer = site.visit(read, old)
    assert (answer.value, answer.morsel) == ({"user_id": 1}, None)
    new = site.visit(write("a", 1), old).cookie
    assert unsign(new, NEW_KEY) is not None
    assert unsign(new, KEY) is None
    site.app.config["SECRET_KEY_FALLBACKS"] = None
    assert site.visit(read, new).value == {"user_id": 1, "a": 1}
    assert site.visit(read, old).value == {}


# -- what the store knows (Rack's CVE-2019-16782) -------------------------------------------------


@pytest.mark.every_store
def test_a_dump_of_the_store_holds_no_cookie_value(site: Site) -> None:
    cookies = [site.visit(login("user")).cookie, site.visit(write("a", 1)).cookie]
    cookies.append(site.visit(regenerate, cookies[1]).cookie)
    site.visit(logout, cookies[0])
    everything = dump(site.kit.store)
    assert site.sid(cookies[2]).key.encode() in everything  # the dump does see what is there
    for cookie in cookies:
        parts = {cookie[at : at + 12] for at in range(len(cookie) - 11)}
        assert not any(part.encode() in everything for part in parts)


def test_a_storage_key_sent_as_a_cookie_fails(site: Site) -> None:
    key = site.sid(site.visit(login(1)).cookie).key
    assert len(key) == KEY_LENGTH
    for value in (key, _signed(key), _signed("A" + key), _signed(key.ljust(44, "A"))):
        assert site.visit(read, value).value == {}


# -- the ID stays in the cookie -------------------------------------------------------------------


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> str:
    """The mark of all IDs that are made from here on."""
    numbers, real = count(), secrets.token_urlsafe

    def token_urlsafe(size: int | None = None) -> str:
        return f"CANARY{next(numbers):037d}" if size == 32 else real(size)

    monkeypatch.setattr(secrets, "token_urlsafe", token_urlsafe)
    return "CANARY"


def _locals_of_ours(error: BaseException) -> str:
    """A traceback with the variables of our frames, as an error tracker would send it."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    trace.stack = traceback.StackSummary.from_list(
        [frame for frame in trace.stack if "flask_safesession" in frame.filename]
    )
    return "".join(trace.format())


def _reprs_of_ours() -> str:
    ours = (o for o in gc.get_objects() if str(type(o).__module__).startswith("flask_safesession"))
    return "\n".join(repr(o) + str(o) for o in ours)


@contextmanager
def _every_event(seen: list[str]) -> Iterator[None]:
    def note(sender: Any, event: Any) -> None:
        seen.append(repr(event))
        raise RuntimeError("a receiver that fails is logged")

    with ExitStack() as stack:
        for part in vars(events).values():
            if isinstance(part, NamedSignal):
                stack.enter_context(part.connected_to(note))
        yield


def _life(site: Site) -> Iterator[Answer]:
    """Requests in which everything happens that is shown, logged, raised or signalled."""

    def begin(work: Work) -> Answer:
        return site.visit(work)

    yield (user := begin(login(1)))
    yield (stranger := begin(write("a", 1)))
    yield site.visit(read, user.cookie)
    yield site.visit(lambda: f"{session!r} {session.info!r} {dict(session)!r}", user.cookie)
    yield site.visit(write("a", {1: object()}), user.cookie)
    yield site.visit(write("a", "x" * 300_000), user.cookie)
    yield site.visit(lambda: 1 / 0, user.cookie)
    yield site.visit(regenerate, stranger.cookie)
    yield site.visit(write("b", 1), stranger.cookie)
    yield site.visit(lambda: (write("b", 1)(), site.visit(write("c", 2), user.cookie)), user.cookie)
    for operation, work in (("load", read), ("commit", write("z", 1)), ("rotate", login(2))):
        site.store.failing.add(operation)
        yield site.visit(work, user.cookie)
        site.store.failing.clear()
    site.store.failing.add("end")
    yield site.visit(logout, user.cookie)
    site.store.failing.clear()
    yield site.visit(logout, user.cookie)
    yield site.visit(write("a", 1), user.cookie)
    yield (corrupt := begin(login(1)))
    key = site.sid(corrupt.cookie).key
    good = raw(site.kit.store, key)
    overwrite(site.kit.store, key, before_payload(good) + b"corrupt")
    yield site.visit(read, corrupt.cookie)
    yield site.visit(login(1), corrupt.cookie)
    yield (idle := begin(login(1)))
    site.kit.advance(24 * 3_600_000)
    yield site.visit(read, idle.cookie)
    with site.app.app_context():
        site.safe.purge()


@pytest.mark.every_store
def test_a_canary_id_appears_in_no_body_header_log_traceback_or_repr(
    site: Site, canaries: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    tracebacks: list[str] = []
    signalled: list[str] = []

    @site.app.errorhandler(StoreUnavailable)
    def unavailable(error: StoreUnavailable) -> tuple[str, int]:
        tracebacks.append(_locals_of_ours(error))
        return str(error), 503

    @site.app.errorhandler(TypeError)
    def unstorable(error: TypeError) -> tuple[str, int]:
        tracebacks.append(_locals_of_ours(error))
        return str(error), 500

    with _every_event(signalled):
        answers = list(_life(site))

    assert sum(canaries in answer.headers.get("Set-Cookie", "") for answer in answers) >= 5
    assert {answer.status for answer in answers} == {200, 500, 503}
    for answer in answers:
        others = [f"{name}: {v}" for name, v in answer.headers if name != "Set-Cookie"]
        assert canaries not in answer.text + "\n".join(others)
    assert len(signalled) > 10
    assert canaries not in "".join(signalled)
    assert len(tracebacks) > 3
    assert canaries not in "".join(tracebacks)
    assert "session-ended" in caplog.text
    assert "a receiver that fails" in caplog.text
    shown = "\n".join(repr(vars(record)) for record in caplog.records)
    assert canaries not in caplog.text + shown
    assert canaries not in "".join(capfd.readouterr())
    assert canaries not in _reprs_of_ours()


@pytest.mark.every_store
def test_no_id_is_in_any_log_line(
    site: Site, canaries: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert list(_life(site))
    logged = [record for record in caplog.records if record.name == "flask_safesession"]
    assert len(logged) > 10
    assert not any(canaries in repr(vars(record)) for record in caplog.records)


def test_the_parts_that_carry_an_id_show_its_handle_instead(canaries: str) -> None:
    sid = new_id()
    verified = unsign(sign(sid, KEY), KEY)
    assert canaries in sid.reveal()
    for part in (sid, verified, [sid], {"sid": sid}):
        assert canaries not in f"{part!r} {part!s} {part}"
        assert sid.key in repr(part)


def test_a_stores_password_is_in_no_repr() -> None:
    app = Flask("tested")
    SafeSession(app, store="redis://:word-of-the-store@127.0.0.1:1/0", check_interval=None)
    state = app.extensions["safesession"]
    assert "word-of-the-store" not in f"{state!r} {state.settings!r} {state.store!r}"
