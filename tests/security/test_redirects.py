"""No script and no response of ours leads to another site, whatever a path or a query says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from flask import Flask

from example import create_app
from flask_safesession.stores.memory import MemoryStore

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    script
    for folder in ("flask_safesession", "example")
    for script in (ROOT / folder).rglob("*.js")
)
# What takes a page to another address, up to the end of the statement.
NAVIGATION = re.compile(
    r"\blocation(?:\.\w+)?\s*=(?!=)[^;]*"
    r"|\blocation\.(?:assign|replace)\([^;]*"
    r"|\bopen\([^;]*"
    r"|\.(?:href|action|formAction)\s*=(?!=)[^;]*"
)
WITH_ITS_ORIGIN = re.compile(r"location = new URL\(.*, location\)")
ELSEWHERE = "elsewhere.example"
LINK_ELSEWHERE = re.compile(rf'(?:href|action|src|data-[\w-]+)="[a-z:]*[/\\]+{ELSEWHERE}')


def navigations() -> Iterator[str]:
    for script in SCRIPTS:
        yield from NAVIGATION.findall(script.read_text(encoding="utf-8"))


def test_no_script_of_ours_navigates_to_a_path_without_its_origin() -> None:
    found = list(navigations())
    assert len(found) == 1
    assert [how for how in found if not WITH_ITS_ORIGIN.fullmatch(how)] == []


@pytest.mark.usefixtures("cheap_passwords")
@pytest.mark.parametrize("form", ["//{0}{1}", "/\\{0}{1}", "{1}?next=//{0}&url=//{0}&q=//{0}"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_redirect_or_link_of_ours_is_made_of_a_path_or_an_address_in_a_query(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, form: str, method: str
) -> None:
    monkeypatch.setenv("SECRET_KEY", "a secret that only these tests know")
    app = create_app(store=store, check_interval=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    for path in addresses(app):
        visitor = app.test_client()
        visitor.post("/sign-in", data={"username": "ada", "password": "ten-and-sixty"})
        answer = visitor.open(form.format(ELSEWHERE, path), method=method)
        to = urljoin("http://localhost/", answer.headers.get("Location", ""))
        assert urlsplit(to).netloc == "localhost", path
        assert not LINK_ELSEWHERE.search(answer.text), path


def addresses(app: Flask) -> list[str]:
    """The addresses of the example and of what it mounts that need no further values."""
    return sorted({rule.rule for rule in app.url_map.iter_rules() if not rule.arguments})
