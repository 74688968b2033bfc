"""Row 38: the store takes no writes, while our own notes ask for some at every read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from flask.testing import FlaskClient

from flask_safesession import session

from ..support import servers
from ..support.faults_kit import MINUTE, OpenSite, Site, age, cookie_of, good, read, unavailable

pytestmark = pytest.mark.faults

Refusing = Callable[[servers.Server], AbstractContextManager[None]]
REFUSING = {
    "OOM": servers.no_memory,
    "NOREPLICAS": servers.no_replicas,
    "READONLY": servers.a_replica,
    "MISCONF": servers.no_snapshots,
}
ELSEWHERE: dict[str, Any] = {
    "headers": {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0"},
    "environ_base": {"REMOTE_ADDR": "10.9.8.7"},
}


def visitors(site: Site, server: servers.Server) -> dict[str, FlaskClient]:
    """Members, each with something else that is to be noted at the next use."""
    names = ("due", "renewed", "presented", "changed", "looked at")
    found = {name: site.member() for name in names}
    age(server, 11 * MINUTE)
    for name in ("renewed", "presented", "changed"):
        good(found[name], "/read")
    for name in ("presented", "changed"):
        good(found[name], "/read")
    good(found["changed"], "/add/fig")
    found["never used"] = site.member()
    return found


@pytest.mark.parametrize("touch", [0, "30s"])
@pytest.mark.parametrize("refusing", REFUSING.values(), ids=REFUSING)
def test_fault_38_pages_that_only_read_are_served_with_renewals_and_client_notes(
    own: servers.Server, open_site: OpenSite, refusing: Refusing, touch: Any
) -> None:
    settings: dict[str, Any] = {"renew_interval": "10m", "record_client": True}
    site = open_site(own.url, touch_interval=touch, **settings)
    site.app.add_url_rule("/peek", "peek", site.safe.passive(lambda: dict(session)))
    clients = visitors(site, own)
    cookies = {name: cookie_of(client) for name, client in clients.items()}
    with refusing(own):
        for name, client in clients.items():
            for path in ("/peek", "/read", "/read"):
                response = client.get(path, **ELSEWHERE)
                assert response.status_code == 200, (name, path)
                assert (response.json or {})["user_id"] == "ann", (name, path)
                assert "Set-Cookie" not in response.headers, (name, path)
            unavailable(client.get("/add/plum", **ELSEWHERE))
    assert {name: cookie_of(client) for name, client in clients.items()} == cookies
    for client in clients.values():
        good(client, "/add/plum")
        assert read(client)["cart"][-1] == "plum"
    assert cookie_of(clients["due"]) != cookies["due"], "what was put off is made up for"
