# ruff: noqa: PLR2004  # as in tests/**
"""The figures of planning.md follow from each other, and from those that were measured.

What operations.md says to paste, and the lines of the log in incidents.md, are tried in
tests/faults/test_operations.py and test_operations_log.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.crc import key_slot

from docs.test_documentation import first_code
from flask_safesession.config.settings import read_settings
from flask_safesession.stores.redis import check as server_settings
from flask_safesession.stores.remote import breaker
from flask_safesession.stores.sharded import MAX_SHARDS

DOCS = Path(__file__).parent
PAGES = ("operations", "incidents", "planning")
PAGE = "\n".join((DOCS / f"{name}.md").read_text("utf-8") for name in PAGES)
FLAT = " ".join(PAGE.split())
BENCHMARKS = (DOCS / "benchmarks.md").read_text("utf-8")
TEN_MILLION, BILLION = 10**7, 10**9
MASTERS = {TEN_MILLION: 16, BILLION: 64}


def rows(header: str) -> dict[str, list[str]]:
    """The table whose header begins so: its rows' other cells by their first."""
    _, _, after = PAGE.partition(f"\n{header}")
    assert after, header
    lines = after.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells}


@pytest.fixture(scope="module")
def page() -> Any:
    """The names that the page's formula has."""
    names: dict[str, Any] = {}
    [code] = re.findall(r"```python\n(LOAD.+?)```", PAGE, re.DOTALL)
    exec(code, names)  # noqa: S102  # our own page
    return SimpleNamespace(**names)


CALLS = {call: [int(cell) for cell in cells] for call, cells in rows("| call | µs |").items()}


def flows() -> list[int]:
    """Bytes that a visit sends to a master, gets from it, and adds to its log."""
    calls = ["create", "load", "rotate", *["commit"] * 4, *["load and slide"] * 18]
    return [sum(CALLS[call][column] for call in calls) for column in (1, 2, 3)]


# -- what sessions cost -----------------------------------------------------------------------


def test_the_formula_uses_what_was_measured(page: Any) -> None:
    names = ("load", "load and slide", "create", "commit", "rotate")
    measured = [CALLS[name][0] for name in names]
    assert measured == [page.LOAD, page.SLIDE, page.CREATE, page.COMMIT, page.ROTATE]
    assert f"{1e6 / page.LOAD:,.0f}"[:3] + "000 loads" in FLAT
    assert f"{round(1e6 / (page.LOAD + page.ROTATE), -2):,.0f} logins a second" in FLAT


def test_what_the_benchmarks_say_is_quoted_as_they_do(page: Any) -> None:
    for server, (anonymous, user) in rows("| | anonymous | user,").items():
        measured = re.findall(
            rf"^\| {server} \| [\d,]+ \| (\d+) \| (\d+) \|", BENCHMARKS, re.MULTILINE
        )
        assert (anonymous, user) == measured[-1]
    assert "53,000 to 59,000" in BENCHMARKS
    assert f"{1e6 / 53_000:.0f} µs a session ([53,000 a second]" in FLAT
    assert round(1e6 / 53_000) == page.PURGE


def test_the_worked_example_is_worked_right(page: Any) -> None:
    visits = 1_000_000 / page.LIVES
    assert f"{visits:.0f} visits a second and {visits * page.REQUESTS:,.0f} requests" in FLAT
    assert f"a visit costs {page.VISIT:,} µs of a server" in FLAT
    busy = visits * page.VISIT / 1e6
    assert f"one is busy to {busy:.0%}".replace("%", " %") in FLAT
    assert f"{page.masters(1_000_000):.2f} servers by the formula" in FLAT
    assert f"{page.gigabytes(1_000_000):.2f} GB. **Time is the limit" in FLAT
    rarely = page.VISIT - (4 + 14) * (page.SLIDE - page.LOAD)
    calm = visits * rarely / 1e6
    assert f"{calm:.0%} busy instead of {busy:.0%}".replace("%", " %") in FLAT


def test_what_was_measured_of_forks_fits_together() -> None:
    assert "974 MB: the server stood still for 26 ms" in FLAT
    assert round(26 / 0.974) == 27
    assert "copied 10 kB, 316 MB for 31,000" in FLAT
    assert round(316e6 / 31_000, -3) == 10_000


def test_the_touch_interval_by_default_is_the_pace_of_the_visit() -> None:
    limits = read_settings({}, {"store": "redis://localhost"}).rules.policy.default
    assert (limits.touch, limits.idle) == (30_000, 30 * 60_000)


# -- ten million, a billion -------------------------------------------------------------------


def test_the_table_of_arithmetic_is_worked_out_right(page: Any) -> None:
    table = rows("| | ten million | a billion |")
    received, sent, logged = flows()

    def visits(n: int) -> float:
        return n / page.LIVES

    def size(number: float) -> str:
        return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"

    expected = {
        "visits a second": lambda n: f"{visits(n):,.0f}",
        "requests a second that use the session": lambda n: f"{visits(n) * page.REQUESTS:,.0f}",
        "memory of sessions": lambda n: f"{page.gigabytes(n):,.{MASTERS[n] == 16:d}f} GB",
        "on each of 16, and of 64 masters": lambda n: f"{page.gigabytes(n) / MASTERS[n]:.1f} GB",
        "in all machines: twice, and a replica each": lambda n: f"{4 * page.gigabytes(n):,.0f} GB",
        "the pause of a fork, at 27 ms a gigabyte": lambda n: (
            f"{27 * page.gigabytes(n) / MASTERS[n]:.0f} ms"
        ),
        "to the masters, a second": lambda n: size(visits(n) * received),
        "from the masters": lambda n: size(visits(n) * sent),
        "to all replicas, and to disk": lambda n: size(visits(n) * logged),
        "purge: sessions a second": lambda n: f"{visits(n):,.0f}",
        "purge: of a server's time, in all": lambda n: f"{visits(n) * page.PURGE / 1e4:.0f} %",
        "connections to each master, see below": lambda n: f"{connections(page, n):,.0f}",
    }
    found = {row: table.pop(row) for row in expected}
    assert found == {row: [text(TEN_MILLION), text(BILLION)] for row, text in expected.items()}
    few, many = page.masters(TEN_MILLION), page.masters(BILLION)
    assert table.pop("masters, by time") == [f"{few:.1f}: 16", f"{many:,.0f}"]
    assert table.pop("shards") == [str(MAX_SHARDS), f"{MAX_SHARDS} is the most"]
    assert not table


def connections(page: Any, sessions: int) -> float:
    """Threads of workers, each of which meets each master in time."""
    return float(sessions / page.LIVES * page.REQUESTS * 0.05 / page.BUSY)


def test_what_is_said_of_ten_million_follows(page: Any) -> None:
    threads = connections(page, TEN_MILLION)
    assert f"are {threads:,.0f} threads" in FLAT
    assert f"{threads:,.0f} active ones are {threads * 38e3 / 1e9:.2f} GB" in FLAT
    growth = TEN_MILLION / page.LIVES * flows()[2] / 16
    base = TEN_MILLION / 16 * 530
    assert f"grows by {growth / 1e6:.1f} MB a second on each of the 16" in FLAT
    assert f"base of {base / 1e9:.2f} GB every two minutes" in FLAT
    assert round(base / growth / 60) == 2
    entries = 3 * TEN_MILLION / MAX_SHARDS
    assert f"has {entries / 1e6:.1f} million (index, records, users)" in FLAT
    assert f"takes {entries / 2000 / 60:.0f} hours" in FLAT


def test_what_is_said_of_a_billion_follows(page: Any) -> None:
    seconds = MAX_SHARDS * page.BUSY  # of all masters' time, each second
    visits = seconds * 1e6 / page.VISIT
    live = visits * page.LIVES
    assert f"carry {visits:,.0f} visits a second" in FLAT
    assert f"which is {live / 1e6:.0f} million live sessions" in FLAT
    assert f"at that traffic are {-(-BILLION // live):.0f} of them" in FLAT
    assert f"have {seconds:.0f} s of time a second" in FLAT
    asked = {
        name: BILLION * cost / 1e6 / seconds / 60
        for name, cost in vars(page).items()
        if name in ("LOAD", "SLIDE")
    }
    assert f"asked for every {asked['SLIDE']:.0f} minutes on average" in FLAT
    assert f"every {asked['LOAD']:.0f} minutes without" in FLAT
    valkey = page.gigabytes(BILLION, overhead=407)
    assert f"needs a fifth less memory: {valkey:.0f} GB" in FLAT
    assert round(1 - valkey / page.gigabytes(BILLION), 1) == 0.2


# -- shards -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shards", "masters", "words", "part"),
    re.findall(r"^\| (\d+) \| (\d+) \| (\d.*?) \| ([\d.]+)", PAGE, re.MULTILINE),
)
def test_where_slots_are_in_a_new_cluster(shards: str, masters: str, words: str, part: str) -> None:
    count, nodes = int(shards), int(masters)
    slots = [key_slot(f"{{safesession:{n}}}".encode()) for n in range(count)]
    bounds = [round(n * 16384 / nodes) for n in range(nodes + 1)]  # as redis-cli deals them out
    on = [sum(bounds[n] <= slot < bounds[n + 1] for slot in slots) for n in range(nodes)]
    said = [int(number) for number in re.findall(r"\d+", words)]
    assert said == (sorted(on) if " to " not in words else [min(on), max(on)])
    assert part == f"{max(on) / count * nodes:.1f}"


def test_the_slot_in_the_example_is_that_of_shard_0() -> None:
    slot = key_slot(b"{safesession:0}")
    assert f"SLOTSRANGE {slot} {slot} NODE" in PAGE


def test_the_numbers_of_the_circuit_breaker_are_those_of_the_code() -> None:
    assert (breaker.FAILURES, breaker.PROBE_INTERVAL) == (5, 0.5)
    assert "Five failures in a row open it" in FLAT
    assert "one call every 0.5 s" in FLAT


# -- set-ups ----------------------------------------------------------------------------------


def test_the_rule_to_paste_allows_what_the_page_on_stores_lists() -> None:
    stores = (DOCS / "stores.md").read_text("utf-8")
    [listed] = re.findall(r"`(EVALSHA .+?)`", stores, re.DOTALL)
    allowed = set(
        re.findall(r"\+([a-z]+)", PAGE[PAGE.index("MAY=") : PAGE.index("### One server")])
    )
    assert set(listed.lower().split()) <= allowed


# What a row of settings that is marked begins with, and what `check` says of it.
CHECKED = {
    "Redis 6.2": "is the oldest",
    "`maxmemory-policy": "maxmemory-policy is",
    "`maxmemory` set": "maxmemory is not set",
    "`appendonly": "persistence is off",
    "its last save": "could not save its data",
    "replicas:": "are connected",
    "TLS": "is not encrypted",
    "clocks": "s apart",
}


def test_the_settings_that_are_marked_are_those_that_check_looks_at() -> None:
    marked = re.findall(r"^\| ✓ \| (.+?) \|", PAGE, re.MULTILINE)
    assert len(marked) == len(CHECKED)
    source = Path(server_settings.__file__).read_text("utf-8")
    for setting, (start, finding) in zip(marked, CHECKED.items(), strict=True):
        assert setting.startswith(start)
        assert finding in source


def test_every_fault_has_a_text_to_look_for() -> None:
    faults = rows("| the log, after `error=` |")
    assert len(faults) == 20
    for text in faults:
        assert len(first_code(text)) > len("SomeError: ")
