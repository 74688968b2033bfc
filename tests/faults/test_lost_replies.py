"""Row 40: a reply is lost on the way, and the session goes on before the call is made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from flask_safesession import session
from flask_safesession.stores.base import Live
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.redis.servers.connections import Connections
from flask_safesession.testing import make_draft, make_rules, new_key

from ..support import servers
from ..support.faults_kit import OpenSite, Site, assert_whole, good, read, unavailable

pytestmark = pytest.mark.faults

Lose = Callable[..., None]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """Loses the first call whose arguments have some bytes in them, and does something then."""

    def arm(part: bytes, then: Callable[[], object], *, done: bool) -> None:
        exchange = Connections.exchange
        armed = [True]

        def lossy(self: Connections, *commands: Any, careful: bool = False) -> list[Any]:
            words = [word for word in commands[0] if isinstance(word, bytes)]
            if not armed or not any(part in word for word in words):
                return exchange(self, *commands, careful=careful)
            armed.clear()
            if done:
                exchange(self, *commands, careful=careful)
            then()
            raise redis.ConnectionError("reset by peer")

        monkeypatch.setattr(Connections, "exchange", lossy)

    return arm


def use_up(site: Site) -> None:
    """A view that takes a one-time token out of the session."""

    def use() -> str:
        return str(session.pop("cart", None))

    site.app.add_url_rule("/use", "use", use)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("others", [1, 2])
def test_fault_40_a_later_change_stays_when_a_commit_whose_reply_was_lost_is_repeated(
    steady: servers.Server, open_site: OpenSite, lose: Lose, shards: int, others: int
) -> None:
    site = open_site(steady.url, shards=shards)
    use_up(site)
    member = site.member()
    good(member, "/use")
    tab = site.visitor(like=member)
    paths = ["/use", "/login/ann"][:others]
    lose(b"token", lambda: [good(tab, path) for path in paths], done=True)
    good(member, "/add/token")
    assert "cart" not in read(member), "the token has been used"
    assert_whole(site, steady)


def test_fault_40_a_commit_of_which_nothing_tells_whether_it_was_done_is_a_503(
    steady: servers.Server, open_site: OpenSite, lose: Lose
) -> None:
    site = open_site(steady.url)
    use_up(site)
    member = site.member()
    good(member, "/use")
    tab = site.visitor(like=member)
    paths = ["/use", "/add/a", "/add/b"]
    lose(b"token", lambda: [good(tab, path) for path in paths], done=True)
    unavailable(member.get("/add/token"))
    assert read(member) == {"user_id": "ann", "cart": ["a", "b"]}
    assert_whole(site, steady)


@pytest.mark.parametrize("others", range(3))
def test_fault_40_a_commit_that_was_not_done_is_merged_with_the_changes_meanwhile(
    steady: servers.Server, open_site: OpenSite, lose: Lose, others: int
) -> None:
    site = open_site(steady.url)
    site.app.add_url_rule("/set/<key>", "set", _set)
    member = site.member()
    tab = site.visitor(like=member)
    paths = [f"/set/{number}" for number in range(others)]
    lose(b"token", lambda: [good(tab, path) for path in paths], done=False)
    good(member, "/set/token")
    assert read(member).keys() - {"user_id", "cart"} == {"token", *map(str, range(others))}
    assert_whole(site, steady)


def _set(key: str) -> str:
    session[key] = "set"
    return ""


def test_fault_40_a_repeated_commit_answers_with_the_session_as_it_is(
    steady: servers.Server, lose: Lose
) -> None:
    rules, key, first = make_rules(), new_key(), make_draft()
    store = RedisStore.from_url(steady.url)
    store.create(key, first, rules)
    mine, theirs = make_draft(b"mine"), make_draft(b"theirs")
    other = RedisStore.from_url(steady.url)
    lose(b"mine", lambda: other.commit(key, theirs, mine.stamp, touch=0), done=True)
    answer = store.commit(key, mine, first.stamp, touch=0)
    assert isinstance(answer, Live)
    assert answer.record.payload == b"theirs"
    assert answer.record.stamps == (theirs.stamp, mine.stamp, first.stamp)
    store.close()
    other.close()
