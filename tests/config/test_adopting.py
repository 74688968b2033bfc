"""Which older places may be named, and what is said of those that may not."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, SafeSession
from flask_safesession.config.settings import read_settings
from flask_safesession.stores.memory import MemoryStore

from ..support.counting import PlainStore

END = "2030-12-31"


def problem(*adopt: Any, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_settings({}, {"adopt": list(adopt), **settings})
    [only] = caught.value.problems
    return only


def refusal(*adopt: Any, config: dict[str, Any] | None = None, **settings: Any) -> str:
    """What an app says of places that only turn out to be wrong when they are opened."""
    app = Flask("tested")
    app.config |= config or {}
    with pytest.raises(ConfigError) as caught:
        SafeSession(app, adopt=list(adopt), check_interval=None, **settings)
    [only] = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("given", "store", "prefix", "shards"),
    [
        ("redis://h/1?prefix=shop&shards=4", "redis://h/1", "shop", 4),
        (
            "redis://u:a&b@h/1?client_name=x&prefix=shop",
            "redis://u:a&b@h/1?client_name=x",
            "shop",
            0,
        ),
        ("redis://h?prefix=shop&client_name=x", "redis://h?client_name=x", "shop", 0),
        ("memory://old", "memory://old", "", 0),
    ],
    ids=["both", "last", "first", "none"],
)
def test_prefix_and_shards_are_parameters_of_a_place(
    given: str, store: str, prefix: str, shards: int
) -> None:
    [place] = read_settings({}, {"adopt": given}).adopt
    assert (place.store, place.prefix, place.shards) == (store, prefix, shards)


@pytest.mark.parametrize(
    "given",
    [END, date(2030, 12, 31), datetime.fromisoformat(END), "2030-12-31T01:00+01:00"],
    ids=["text", "date", "datetime", "zone"],
)
def test_a_date_is_in_utc_unless_it_has_a_zone(given: object) -> None:
    until = read_settings({}, {"adopt_until": given}).adopt_until
    assert until == datetime(2030, 12, 31, tzinfo=UTC).timestamp() * 1000


def test_a_zone_is_kept() -> None:
    given = datetime(2030, 12, 31, 5, tzinfo=timezone(timedelta(hours=5)))
    assert read_settings({}, {"adopt_until": given}) == read_settings({}, {"adopt_until": END})


def test_flasks_cookies_require_a_date() -> None:
    assert problem("flask-cookie") == (
        "SAFESESSION_ADOPT_UNTIL is None by default: 'flask-cookie' in SAFESESSION_ADOPT requires a"
        " date, from which on old cookies, and copies of them, are worth nothing"
    )
    assert read_settings({}, {"adopt": ["flask-cookie"], "adopt_until": END}).adopt
    assert "'soon'" in problem("flask-cookie", adopt_until="soon")


@pytest.mark.parametrize("url", ["mongodb://h", "redis:", "redis://", "x", "redis+cluster://h"])
def test_an_unknown_place_of_flask_session_is_answered_with_all_known_ones(url: str) -> None:
    if "://" in url:
        assert "after flask-session+ give a URL that begins with redis, " in problem(
            f"flask-session+{url}"
        )
    else:
        assert "give a list of 'flask-cookie'" in problem(f"flask-session+{url}")


def test_no_message_has_a_password() -> None:
    for url in (
        "flask-session+mongodb://u:hunter2@h",
        "rediss://u:hunter2@h/0?shards=x",
        "s3://u:hunter2@h",
    ):
        assert "hunter2" not in problem(url)
    settings = read_settings({}, {"adopt": ["flask-session+redis://u:hunter2@h"]})
    assert "hunter2" not in repr(settings) + settings.adopt[0].name


def test_every_wrong_place_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({}, {"adopt": ["flask-session+x://h", "redis://h?shards=99", "rdis://h"]})
    assert len(caught.value.problems) == 3
    assert all(text.startswith("SAFESESSION_ADOPT ") for text in caught.value.problems)


def test_the_store_itself_is_no_older_place() -> None:
    url = "redis://h/0"
    for same in (url, f"{url}?prefix=safesession", f"{url}?shards=4"):
        assert "which is SAFESESSION_STORE itself" in problem(same, store=url)
    for other in (f"{url}?prefix=old", f"{url}?prefix=old&shards=2", "redis://h/1"):
        assert read_settings({}, {"adopt": other, "store": url}).adopt
    store = MemoryStore()
    assert "which is SAFESESSION_STORE itself" in problem(store, store=store)


def test_a_store_that_cannot_adopt_says_so() -> None:
    said = refusal("memory://old", store=PlainStore())
    assert said.startswith(
        "SAFESESSION_ADOPT cannot be used: tests.support.counting.PlainStore cannot"
    )
    assert "adopt, adoptions, audit, close_adoption, count, document, end_user, follow" in said


def test_memcached_adopts_nothing() -> None:
    said = problem("memory://old", store="memcached://localhost")
    assert "Memcached may lose what it remembers of an adopted session" in said


def test_an_old_file_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "old.sqlite3"
    assert f"there is no file {missing}" in refusal(f"sqlite:///{missing}")
    assert not missing.exists()


def test_the_name_of_a_table_is_no_sql() -> None:
    said = refusal(
        "flask-session+postgresql://h/db", config={"SESSION_SQLALCHEMY_TABLE": 'x"; DROP'}
    )
    assert said == (
        "SESSION_SQLALCHEMY_TABLE: 'x\"; DROP' has more than letters, digits, spaces and _ - $"
    )


@pytest.mark.parametrize(
    ("place", "fix"),
    [
        ("redis://h/0?foo=1", "SAFESESSION_ADOPT is a URL that cannot be used: ?foo= is unknown"),
        ("redis://h/zero", "the path should be the number of a database"),
        ("memcached://a,b", "sessions can be adopted from one Memcached server: name only one"),
        ("memcached://a:b", "write memcached://host:port"),
        ("file://folder", "give the absolute path of the folder, as in file:///"),
        ("postgresql+psycopg2://h/db", "memcached, file and ://, without SQLAlchemy's driver"),
    ],
)
def test_a_url_of_flask_session_is_refused_with_its_fix(place: str, fix: str) -> None:
    assert fix in refusal(f"flask-session+{place}")


def test_settings_that_adoption_uses_are_not_left_over(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("tested")
    app.config |= {"SESSION_KEY_PREFIX": "shop:", "PERMANENT_SESSION_LIFETIME": 60}
    places = ["flask-session+redis://localhost", "flask-cookie"]
    SafeSession(app, adopt=places, adopt_until=END, check_interval=None)
    assert not caplog.records
