"""From where a user signed in, told in a few words."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from flask_safesession.model.note import Client
from flask_safesession.web import client
from flask_safesession.web.client import describe_client

WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64"
WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
FIREFOX = f"{WINDOWS}; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
# Header, its label, and the label without ua-parser.
KNOWN = [
    (FIREFOX, "Firefox 128 on Windows", "Mozilla 5"),
    (
        f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Version/17.5 Safari/605.1.15",
        "Safari 17 on macOS",
        "Mozilla 5",
    ),
    (
        f"{IPHONE} (KHTML, like Gecko) FxiOS/127.0 Mobile/15E148 Safari/605.1.15",
        "Firefox iOS 127 on iOS",
        "Mozilla 5",
    ),
    (f"{WINDOWS}) Mozilla", "Windows", "Mozilla 5"),
    ("curl/8.5.0", "curl 8", "curl 8"),
    ("Werkzeug/3.1.3", "Werkzeug 3", "Werkzeug 3"),
    ("a strange one", "a strange one", "a strange one"),
    ("", "", ""),
]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Let each test begin with nothing known, and leave nothing."""
    client.label_of.cache_clear()
    yield
    client.label_of.cache_clear()
    client._parser.cache_clear()


@pytest.fixture
def without_ua_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ua_parser", None)
    client._parser.cache_clear()


def request(agent: str | None = None, address: str | None = "192.0.2.7") -> Request:
    environ = EnvironBuilder(environ_base={"REMOTE_ADDR": address}).get_environ()
    if agent is not None:
        environ["HTTP_USER_AGENT"] = agent
    return Request(environ)


@pytest.mark.parametrize(("header", "label"), [known[:2] for known in KNOWN])
def test_a_browser_is_told_in_a_few_words(header: str, label: str) -> None:
    assert describe_client(request(header)) == Client("192.0.2.7", label)


@pytest.mark.parametrize(("header", "label"), [known[::2] for known in KNOWN])
def test_without_ua_parser_it_is_the_first_product(
    header: str, label: str, without_ua_parser: None
) -> None:
    assert describe_client(request(header)).agent == label


def test_what_is_not_said_is_empty() -> None:
    assert describe_client(request(address=None)) == Client("", "")


def test_addresses_are_whole_and_no_longer_than_addresses_are() -> None:
    longest = "ABCD:ABCD:ABCD:ABCD:ABCD:ABCD:192.168.158.190"
    assert describe_client(request(address=longest)).address == longest
    assert describe_client(request(address=longest + "%eth0")).address == longest
    assert describe_client(request(address="un\x00ix:\n")).address == "unix:"


@pytest.mark.parametrize("absent", [True, False], ids=["without ua-parser", "with ua-parser"])
@settings(deadline=None)  # the first call reads the patterns
@given(
    header=st.text(max_size=700)
    | st.builds("{}/{} ({})".format, st.text(), st.integers(), st.text(max_size=600))
)
def test_whatever_a_header_says_the_label_is_short_and_on_one_line(
    absent: bool, header: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if absent:
            patch.setattr(client, "_parser", lambda: client._first_product)
        label = describe_client(request(header)).agent
    assert len(label) <= 60
    assert label == label.strip()
    assert not [c for c in label if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


def test_what_would_change_how_a_page_is_read_is_taken_out() -> None:
    header = "shop/1\u202egpj.\x1b[2J\r\nSet-Cookie: a=1"
    assert describe_client(request(header)).agent == "shop 1"
    assert describe_client(request("odd \u202eone\x1b[2J\n")).agent == "odd one [2J"


def test_a_long_name_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_parser", lambda: lambda _: "b" * 59 + " b 1")
    assert describe_client(request("x")).agent == "b" * 59


def test_a_header_is_cut_before_anything_is_done_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def parse(header: str) -> str:
        parsed.append(header)
        return ""

    monkeypatch.setattr(client, "_parser", lambda: parse)
    describe_client(request("x" * 100_000))
    assert parsed == ["x" * 512]


@pytest.mark.parametrize("piece", ["(", " ", "1.", "a/", "Mozilla/5.0 (", "; ", "Android ", "--"])
def test_a_hostile_header_takes_no_longer_than_a_page(piece: str) -> None:
    describe_client(request(FIREFOX))  # makes the parser
    describe_client(request("an unknown one"))  # and all of its patterns
    start = time.process_time()
    describe_client(request(piece * 512))
    assert time.process_time() - start < 0.2


def test_a_parser_that_fails_costs_only_its_better_label(monkeypatch: pytest.MonkeyPatch) -> None:
    import ua_parser

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(ua_parser, "BasicResolver", lambda _: fail)
    client._parser.cache_clear()
    assert describe_client(request(FIREFOX)).agent == "Mozilla 5"


def test_headers_that_were_seen_are_remembered_and_not_without_end() -> None:
    for number in range(2 * client._KEPT):
        describe_client(request(f"visitor {number}"))
    describe_client(request(f"visitor {2 * client._KEPT - 1}"))
    info = client.label_of.cache_info()
    assert (info.hits, info.currsize) == (1, client._KEPT)


def test_ua_parser_is_imported_only_when_a_client_is_described() -> None:
    code = "import sys, flask_safesession.web.client; sys.exit('ua_parser' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
