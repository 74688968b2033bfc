"""Rows 1 to 4: the server is killed, and restarted with its data or without."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from flask.testing import FlaskClient

from flask_safesession import StoreUnavailable
from flask_safesession.events import SessionLost, StoreFailed, StoreStateChanged
from flask_safesession.testing.kit import together

from ..support import servers
from ..support.faults_kit import (
    ANN,
    CHANGES,
    FIRSTS,
    OpenSite,
    cookie_of,
    good,
    open_circuit,
    outage,
    read,
    records,
    use_in_error_page,
)

pytestmark = pytest.mark.faults


# -- 1: killed before a load --------------------------------------------------------------------


def test_fault_01_a_server_killed_before_the_load_is_a_503_until_it_is_back(
    kept: servers.Server, open_site: OpenSite
) -> None:
    sites = {path: open_site(kept.url) for path in ("/read", *CHANGES)}
    for site in sites.values():
        use_in_error_page(site)
    visitors = {path: site.member() for path, site in sites.items()}
    kept.kill()
    for path, site in sites.items():
        assert outage(visitors[path], path).text == "back soon"
        assert site.take() == ["load"], "nothing is to be saved"
        assert [event.operation for event in site.take_events(StoreFailed)] == ["load"]
        untouched = good(visitors[path], "/untouched")
        assert not {"Set-Cookie", "Vary"} & set(untouched.headers.keys())
    kept.restart()
    for visitor in visitors.values():
        assert read(visitor) == ANN


@pytest.mark.parametrize("path", FIRSTS)
def test_fault_01_who_has_no_session_gets_none_from_a_dead_server(
    kept: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(kept.url)
    stranger = site.visitor()
    kept.kill()
    assert read(stranger) == {}  # that needs no server
    outage(stranger, path)
    assert cookie_of(stranger) is None
    kept.restart()
    good(stranger, path)
    assert len(records(kept)) == 1


def test_fault_01_a_process_that_starts_while_the_server_is_dead_serves_when_it_is_back(
    kept: servers.Server, open_site: OpenSite
) -> None:
    member = open_site(kept.url).member()
    kept.kill()
    for shards in (1, 4):
        site = open_site(kept.url, shards=shards)
        outage(site.visitor(like=member), "/read")
        outage(site.visitor(), "/add/fig")
    kept.restart()
    assert read(open_site(kept.url).visitor(like=member)) == ANN


def test_fault_01_the_job_says_it_once_and_the_commands_say_what_to_look_at(
    kept: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(kept.url, check_interval="1h")
    job = site.app.extensions["safesession"].job
    member = site.member()
    kept.kill()
    assert [job.run() for _ in range(3)] == [None] * 3
    assert [event.operation for event in site.take_events(StoreFailed)] == ["purge"]
    for command in ("purge", "stats", "check"):
        result = site.app.test_cli_runner().invoke(args=["safesession", command])
        assert result.exit_code == 1
        assert "store cannot be used" in result.output
    with pytest.raises(StoreUnavailable):
        site.safe.count()
    kept.restart()
    servers.poll("the job", job.run)
    assert site.safe.count() == 1
    assert read(member) == ANN


# -- 2: killed between load and save ------------------------------------------------------------


@pytest.mark.parametrize("path", CHANGES)
def test_fault_02_a_server_killed_before_the_save_leaves_the_session_as_it_was(
    kept: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(kept.url)
    use_in_error_page(site)
    member = site.member()
    site.strike(kept.kill)
    assert outage(member, path).text == "back soon"
    assert site.take() == ["load", CHANGES[path]], "the error page must not try again"
    assert [event.operation for event in site.take_events(StoreFailed)] == ["save"]
    kept.restart()
    assert read(member) == ANN


@pytest.mark.parametrize("path", FIRSTS)
def test_fault_02_no_cookie_goes_out_for_a_session_that_was_not_stored(
    kept: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(kept.url)
    use_in_error_page(site)
    good(site.visitor(), "/add/fig")  # the connection is there
    site.take()
    stranger = site.visitor()
    site.strike(kept.kill)
    outage(stranger, path)
    assert site.take() == ["create"]
    kept.restart()
    assert read(stranger) == {}
    assert len(records(kept)) == 1


# -- 3: restarted, data kept --------------------------------------------------------------------


def _read_one(clients: list[FlaskClient], number: int) -> dict[str, Any]:
    return read(clients[number])


def test_fault_03_the_next_request_after_a_restart_works_whatever_it_is(
    kept: servers.Server, open_site: OpenSite
) -> None:
    paths = ["/read", *CHANGES, *FIRSTS]
    sites = [open_site(kept.url) for _ in paths]
    visitors = [site.member() for site in sites[: -len(FIRSTS)]]
    visitors += [site.visitor() for site in sites[-len(FIRSTS) :]]
    for site in sites:  # several connections each, and all will be dead
        others = [site.member() for _ in range(4)]
        together(4, partial(_read_one, others))
    kept.restart()
    for path, visitor, site in zip(paths, visitors, sites, strict=True):
        good(visitor, path)
        assert site.take_events(StoreFailed) == []
    for visitor, cart in zip(visitors, (["pear"], ["pear", "fig"], ["pear"]), strict=False):
        assert read(visitor)["cart"] == cart


@pytest.mark.parametrize("path", ["/read", *CHANGES])
def test_fault_03_a_restart_in_the_middle_of_a_request_is_not_noticed(
    kept: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(kept.url)
    member = site.member()
    site.strike(kept.restart)
    good(member, path)
    expected: dict[str, dict[str, Any]] = {
        "/add/fig": {"user_id": "ann", "cart": ["pear", "fig"]},
        "/login/eve": {"user_id": "eve", "cart": ["pear"]},
        "/logout": {},
        "/empty": {},
    }
    assert read(member) == expected.get(path, ANN)


def test_fault_03_the_site_is_back_within_a_second_of_the_server(
    kept: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(kept.url)
    member = site.member()
    kept.kill()
    open_circuit(site)
    kept.restart()
    took = servers.poll("the site", lambda: member.get("/read").status_code == 200, every=0.01)
    assert took < 1
    assert read(member) == ANN
    assert [event.state for event in site.take_events(StoreStateChanged)] == ["open", "closed"]


# -- 4: restarted, data lost --------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_04_after_a_loss_of_data_everybody_is_a_stranger_until_they_write(
    kept: servers.Server, open_site: OpenSite, shards: int
) -> None:
    site = open_site(kept.url, shards=shards)
    reader, writer, leaver = (site.member() for _ in range(3))
    before = [cookie_of(client) for client in (reader, writer, leaver)]
    lost = records(kept).keys()
    kept.restart(empty=True)
    assert read(reader) == {}
    assert good(reader, "/renew").headers.get("Set-Cookie") is None
    good(writer, "/add/fig")
    assert read(writer) == {"cart": ["fig"]}
    good(leaver, "/logout")
    after = [cookie_of(client) for client in (reader, writer, leaver)]
    assert after[:2] == before[:2]  # it may be another server's for a moment
    assert len(records(kept)) == 1
    assert not lost & records(kept).keys(), "another session stands in for the lost one"
    assert read(site.visitor(like=reader)) == {}, "an unknown ID is never taken over"
    good(reader, "/login/ann")
    assert read(reader) == {"user_id": "ann"}


@pytest.mark.parametrize("path", CHANGES)
def test_fault_04_data_lost_in_the_middle_of_a_request_is_not_written_back(
    kept: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(kept.url)
    member = site.member()
    before = cookie_of(member)
    site.strike(lambda: kept.restart(empty=True))
    response = good(member, path)
    assert site.take_events(StoreFailed) == []
    if path == "/login/eve":  # a login goes on, with what it brought itself
        assert cookie_of(member) != before
        assert read(member) == {"user_id": "eve"}
    else:
        assert records(kept) == {}
        assert "Set-Cookie" not in response.headers
        assert read(member) == {}
    assert read(site.visitor()) == {}


def test_fault_04_a_change_that_went_with_the_data_is_told(
    kept: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(kept.url)
    member = site.member()
    site.strike(lambda: kept.restart(empty=True))
    assert "Set-Cookie" not in good(member, "/add/fig").headers
    assert [event.reason for event in site.take_events(SessionLost)] == ["unknown"]


def test_fault_04_processes_that_start_after_a_loss_of_data_find_the_shards_again(
    kept: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(kept.url, shards=4)
    kept.restart(empty=True)
    members = [site.member(f"user {n}") for n in range(12)]  # some in each shard
    site.safe.purge()
    another = open_site(kept.url, shards=4)
    found = [read(another.visitor(like=member))["user_id"] for member in members]
    assert found == [f"user {n}" for n in range(12)]
    assert another.command("stats")["sessions"] == 12
