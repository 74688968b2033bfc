# ruff: noqa: PLR2004  # as in tests/**
"""What the pages say of the code is true."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask
from sybil import Example, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import flask_safesession
from docs import timelines
from flask_safesession import SafeSession, Session, events
from flask_safesession.config.settings import SETTINGS, read_settings
from flask_safesession.stores import base

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SECTION = re.compile(r"^### `SAFESESSION_(\w+)`\n(.*?)(?=^##)", re.DOTALL | re.MULTILINE)
SECTIONS = dict(SECTION.findall((DOCS / "configuration.md").read_text("utf-8")))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Where a package index finds the files of this repository.
OURS = f"{PROJECT['urls']['Source']}/blob/main/"
ROW = re.compile(
    r"^\| \[`SAFESESSION_(\w+)`\]\(#safesession_\w+\) \| `(.+?)` \| (.+) \|$", re.MULTILINE
)
ROWS = {name: cells for name, *cells in ROW.findall((DOCS / "configuration.md").read_text("utf-8"))}
README = (ROOT / "README.md").read_text("utf-8")


def field(key: str, name: str) -> str:
    [text] = re.findall(rf"^- {name}: (.+)$", SECTIONS[key], re.MULTILINE)
    return str(text)


def first_code(text: str) -> str:
    found = re.search(r"`(.+?)`", text)
    assert found
    return found[1]


# -- configuration ----------------------------------------------------------------------------


def test_every_key_has_a_section_and_no_other_has() -> None:
    assert sorted(SECTIONS) == sorted(SETTINGS)


def test_the_table_lists_every_key_and_no_other() -> None:
    assert list(ROWS) == list(SETTINGS)


@pytest.mark.parametrize("key", SETTINGS)
def test_the_stated_default_is_true(key: str) -> None:
    assert ast.literal_eval(first_code(field(key, "Default"))) == SETTINGS[key].default
    assert ast.literal_eval(ROWS[key][0]) == SETTINGS[key].default


@pytest.mark.parametrize("key", SETTINGS)
def test_every_key_has_a_unit_a_meaning_and_an_example_that_works(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")  # the examples' servers are not to be asked
    assert re.sub(r"\[(.+?)\]\(.+?\)", r"\1", field(key, "Unit")) == SETTINGS[key].unit
    assert len(SECTIONS[key].split("\n- Unit")[0]) > len("a sentence at least")
    example = first_code(field(key, "Example"))
    known = {"scheduler": BackgroundScheduler()}
    given: dict[str, Any] = eval(f"dict({example})", known)  # noqa: S307  # our own page
    assert key.lower() in given
    SafeSession(Flask("example"), **given)


def test_what_none_means_is_true() -> None:
    memory = read_settings({}, {})
    shared = read_settings({}, {"store": "redis://localhost"})
    assert (memory.rules.cap.total, shared.rules.cap.total) == (10_000, 1_000_000)
    assert (memory.max_session_size, shared.max_session_size) == (65_536, 262_144)
    for settings, idle, touch in (("30m", 30, 0.5), ("2h", 120, 1), ("10m", 10, 1 / 6)):
        limits = read_settings({}, {"idle_timeout": settings}).rules.policy.default
        assert timedelta(milliseconds=limits.idle) == timedelta(minutes=idle)
        assert timedelta(milliseconds=limits.touch) == timedelta(minutes=touch)
    for text in (field("MAX_SESSIONS", "Default"), ROWS["MAX_SESSIONS"][1]):
        assert "10,000 in memory, 1,000,000 on a shared store" in text
    assert "65,536 in memory, 262,144" in field("MAX_SESSION_SIZE", "Default")
    assert "64 KiB in memory, 256 KiB" in ROWS["MAX_SESSION_SIZE"][1]


def test_the_idle_timeout_follows_a_shorter_lifetime() -> None:
    limits = read_settings({}, {"lifetime": "10m"}).rules.policy.default
    assert limits.idle == limits.lifetime


# -- as GitHub shows them ---------------------------------------------------------------------

every_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def prose(page: Path) -> str:
    """A page without its code and its comments."""
    hidden = r"^ *(`{3,}).*?^ *\1$|<!--.*?-->"
    return re.sub(hidden, "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings: the second of a name ends in ``-1``."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    before = [slugs[:place].count(slug) for place, slug in enumerate(slugs)]
    return {f"{slug}-{n}" if n else slug for slug, n in zip(slugs, before, strict=True)}


@every_page
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)(.+?)\)", prose(page)):
        assert leads_somewhere(target, page), target


def leads_somewhere(target: str, page: Path) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


def test_the_readme_has_links_that_a_package_index_can_follow() -> None:
    page, text = ROOT / "README.md", prose(ROOT / "README.md")
    assert not re.findall(r"\]\((?!https?:|#)(.+?)\)", text)
    definition = re.compile(r"^\[(.+?)\]: (http.+)$", re.MULTILINE)
    addresses = dict(definition.findall(text))
    used = re.findall(r"\[([\w./-]+\.md(?:#[\w-]+)?)\]", definition.sub("", text))
    assert addresses == {target: OURS + target for target in used}
    for target in used:
        assert leads_somewhere(target, page), target


def test_the_addresses_of_the_project_are_its_own() -> None:
    for address in PROJECT["urls"].values():
        assert address.startswith(PROJECT["urls"]["Source"])
        assert OURS not in address or (ROOT / address.removeprefix(OURS)).is_file()


def test_the_first_page_leads_to_every_other() -> None:
    linked = re.findall(
        r"^\| \[.+?\]\(([\w-]+)\.md\)", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE
    )
    assert sorted([*linked, "index"]) == sorted(page.stem for page in DOCS.glob("*.md"))


@every_page
def test_comments_and_labels_that_only_sphinx_knows_are_not_there(page: Path) -> None:
    assert not re.findall(r"^%.*|^\([\w-]+\)=$", prose(page), re.MULTILINE)


def test_the_times_in_which_store_are_those_of_the_benchmarks() -> None:
    measured = (DOCS / "benchmarks.md").read_text("utf-8")
    read, on_servers = re.findall(r"^\| read \| (.+) \|$", measured, re.MULTILINE)
    redis, memory, sqlite = (cell.split(" / ")[-1] for cell in read.split(" | ")[-3:])
    _, postgresql, _, mariadb = on_servers.split(" | ")
    told = re.findall(r"(\d+) µs more", (DOCS / "which-store.md").read_text("utf-8"))
    assert told == [memory, sqlite, postgresql, mariadb, redis]


# -- the API ----------------------------------------------------------------------------------


API = (DOCS / "api.md").read_text("utf-8")
ON_THE_PAGE = re.findall(
    r"^ *\.\. (?:auto)?(?:attribute|class|data|exception|function|method):: (?:\w+\.)*(\w+)",
    API,
    re.MULTILINE,
)


@pytest.mark.parametrize("name", flask_safesession.__all__)
def test_what_the_package_exports_is_on_the_page_of_the_api(name: str) -> None:
    assert name in ON_THE_PAGE


@pytest.mark.parametrize(
    "event", [name for name in vars(events) if is_dataclass(vars(events)[name])]
)
def test_every_event_is_on_the_page_of_the_api(event: str) -> None:
    assert event in ON_THE_PAGE


@pytest.mark.parametrize(
    "protocol",
    [
        name
        for name, value in vars(base).items()
        if getattr(value, "_is_protocol", False) and value.__module__ == base.__name__
    ],
)
def test_every_protocol_of_a_store_is_on_the_page_of_the_api(protocol: str) -> None:
    assert f".. autoclass:: {protocol}()\n   :members:" in API


def test_what_a_session_can_do_beyond_a_dict_is_on_the_page_of_the_api() -> None:
    own = {name for name in vars(Session) if not name.startswith("_")} - set(dir(dict))
    assert own >= {"end_others", "info"}
    assert own <= set(ON_THE_PAGE)


# -- pictures, commands, code -----------------------------------------------------------------


@pytest.mark.parametrize("name", timelines.PICTURES)
def test_the_pictures_show_what_the_store_does(name: str) -> None:
    drawn = (timelines.FOLDER / f"{name}.svg").read_text("utf-8")
    assert drawn == timelines.draw(timelines.PICTURES[name]), "run: python docs/timelines.py"


def test_the_commands_that_an_acl_has_to_allow_are_those_that_are_sent() -> None:
    [listed] = re.findall(r"`(EVALSHA .+?)`", (DOCS / "stores.md").read_text("utf-8"), re.DOTALL)
    scripts = (ROOT / "flask_safesession/stores/redis/lua").glob("*.lua")
    called = {
        command
        for script in scripts
        for command in re.findall(r"redis\.p?call\('(\w+)'", script.read_text("utf-8"))
    }
    sent = called | {"EVALSHA", "EVAL", "GET", "SET", "WAIT", "INFO"}
    assert set(listed.split()) == sent


def test_the_table_of_keys_has_every_kind_that_is_written() -> None:
    stores = ROOT / "flask_safesession/stores/redis"
    files = [*stores.glob("lua/*.lua"), stores / "store.py"]
    code = "".join(path.read_text("utf-8") for path in files)
    written = set(re.findall(r"(?:p \.\. '|%s|self\.slot\}|prefix\}:0\}\}):(\w+)", code)) - {"none"}
    page = (DOCS / "stores.md").read_text("utf-8")
    assert written >= {"s", "t", "e", "ended", "shards", "doc"}
    assert written == set(re.findall(r"^\| `\{safesession:0\}:(\w+)", page, re.MULTILINE))


def readme_examples() -> list[Example]:
    reader = Sybil([PythonCodeBlockParser()], path="..")
    document = reader.parse(ROOT / "README.md")
    document.namespace["__name__"] = "page"
    return list(document.examples())


def test_the_code_in_the_readme_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "a secret that only this test knows")
    examples = readme_examples()
    assert len(examples) == 2, "the example, and what it is said to do"
    for example in examples:
        example.evaluate()


def test_the_readme_has_the_two_commands() -> None:
    for command in (
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/flask --app example run",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
    ):
        assert f"    {command}\n" in README
