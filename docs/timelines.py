"""Draw the timelines of ``expiry.md``: the store itself says when each session ends.

``python docs/timelines.py`` writes ``docs/_static/*.svg`` anew; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from flask_safesession.model.policy import Limits, Policy
from flask_safesession.model.record import Record
from flask_safesession.stores.base import Cap, Live, Rules
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock, make_draft, new_key

FOLDER = Path(__file__).parent / "_static"
MINUTE = 60_000
WIDTH, LEFT, RIGHT, TOP, ROW = 800, 200, 40, 40, 66

# The pictures bring their own ground, so that they can be read on any page; colours are chosen by
# the reader's system.
STYLE = """
.ground{fill:#fff;stroke:#d0d7de}text{font:14px system-ui,sans-serif;fill:#24292f}
.name{font-weight:600}.note,.tick{font-size:12px;fill:#57606a}.grid{stroke:#d0d7de}
.life{fill:#9cc4ea}.idle{fill:#9cc4ea;fill-opacity:.35;stroke:#0a5ca8;stroke-dasharray:3 3}
.use{fill:#0a3d70}.passive{fill:#fff;stroke:#0a3d70;stroke-width:2}
.why{paint-order:stroke;stroke:#fff;stroke-width:4px}.late{stroke:#8c959f;stroke-width:2}.end{stroke:#b3261e;stroke-width:3}.why{fill:#b3261e}
.limit{stroke:#b3261e;stroke-dasharray:6 4}
@media(prefers-color-scheme:dark){
.ground{fill:#161b22;stroke:#3d444d}text{fill:#e6edf3}.note,.tick{fill:#9da7b1}
.grid{stroke:#3d444d}.life{fill:#2f5f93}.idle{fill:#2f5f93;stroke:#79b8ff}.use{fill:#d6e9ff}
.passive{fill:#161b22;stroke:#d6e9ff}.late{stroke:#7d8590}.end,.limit{stroke:#ff7b72}
.why{fill:#ff7b72;stroke:#161b22}}
"""


@dataclass(frozen=True)
class Line:
    """One visitor: when there were requests (minutes), and under which limits.

    :param marked: minutes whose requests are drawn hollow: passive, or not written down.
    """

    name: str
    note: str
    limits: Limits
    requests: tuple[int, ...]
    marked: tuple[int, ...] = ()
    passive: bool = False


@dataclass(frozen=True)
class Picture:
    """A timeline.

    :param until: minutes that the axis shows.
    :param limit: the minute of the absolute deadline, where all lines have the same.
    """

    title: str
    about: str
    until: int
    step: int
    lines: tuple[Line, ...]
    limit: int | None = None


def limits(*, idle: int, lifetime: int, touch: int = 0) -> Limits:
    return Limits(idle * MINUTE, lifetime * MINUTE, touch * MINUTE)


SAME = (0, 3, 7, 15, 27, 40)
POLLS = tuple(range(0, 61, 4))
PICTURES = {
    "sliding": Picture(
        "Sliding: 30 minutes idle, 2 hours in all",
        "The first visitor stops after 40 minutes, and the session ends half an hour later. The"
        " second goes on, and the session ends two hours after it was made.",
        140,
        20,
        (
            Line("goes away", "last use at 40", limits(idle=30, lifetime=120), (0, 12, 25, 40)),
            Line(
                "stays",
                "a request every 16 minutes",
                limits(idle=30, lifetime=120),
                tuple(range(0, 140, 16)),
            ),
        ),
        limit=120,
    ),
    "fixed": Picture(
        "Fixed: 1 hour, whatever happens",
        "A session with one request and a session that is used all the time both end an hour after"
        " they were made.",
        80,
        10,
        (
            Line("goes away", "one request", limits(idle=60, lifetime=60), (0,)),
            Line(
                "stays",
                "a request every 7 minutes",
                limits(idle=60, lifetime=60),
                tuple(range(0, 80, 7)),
            ),
        ),
        limit=60,
    ),
    "tiered": Picture(
        "Tiered: the same six requests in four tiers",
        "The teller's session ends after 5 minutes, the admin's when a pause is longer"
        " than 10 minutes, the anonymous visitor's 15 and the customer's 30 minutes after the last"
        " request.",
        80,
        10,
        (
            Line("teller", "5 minutes in all", limits(idle=5, lifetime=5), SAME),
            Line("admin", "10 idle, 1 hour in all", limits(idle=10, lifetime=60), SAME),
            Line("anonymous", "15 idle", limits(idle=15, lifetime=720), SAME),
            Line("customer", "30 idle", limits(idle=30, lifetime=720), SAME),
        ),
    ),
    "passive": Picture(
        "A page that asks every 4 minutes, at 30 minutes idle",
        "Where the view is not passive, polling keeps the session alive. Where it is, the session"
        " ends 30 minutes after the page was opened.",
        80,
        10,
        (
            Line("plain view", "each poll is use", limits(idle=30, lifetime=720), POLLS),
            Line(
                "passive view",
                "polls are not use",
                limits(idle=30, lifetime=720),
                POLLS,
                marked=POLLS[1:],
                passive=True,
            ),
        ),
    ),
    "touch": Picture(
        "Touch interval of 5 minutes, at 30 minutes idle",
        "Without an interval each use is written down and the session ends 30 minutes after the"
        " last. With one, the last use at 15 minutes is not written, since the one at 12 was, and"
        " the session ends 3 minutes earlier.",
        60,
        10,
        (
            Line(
                "interval 0",
                "each use is written",
                limits(idle=30, lifetime=720),
                (0, 3, 6, 12, 15),
            ),
            Line(
                "interval 5 min",
                "hollow: not written",
                limits(idle=30, lifetime=720, touch=5),
                (0, 3, 6, 12, 15),
                marked=(3, 15),
            ),
        ),
    ),
}


def outcome(line: Line, until: int) -> tuple[Record, tuple[int, ...]]:
    """What a store makes of *line*: its last record, and the requests that came too late."""
    clock = FakeClock(0)
    store = MemoryStore(clock)
    rules = Rules(Policy("sliding", line.limits), Cap.of(100, 100, evict=True))
    key, late = new_key(), []
    created = store.create(key, make_draft(rules=rules), rules)
    assert isinstance(created, Live)
    record = created.record
    for minute in line.requests[1:]:
        clock.advance(minute * MINUTE - clock.now)
        answer = store.load(key, rules, slide=not (line.passive and minute in line.marked))
        if isinstance(answer, Live):
            record = answer.record
        elif minute <= until:
            late.append(minute)
    return record, tuple(late)


def draw(picture: Picture) -> str:
    """The picture as SVG."""
    bottom = TOP + ROW * len(picture.lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 56}" role="img">',
        f"<title>{escape(picture.title)}</title><desc>{escape(picture.about)}</desc>",
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{bottom + 55}" rx="8"/>',
        f'<text class="name" x="20" y="26">{escape(picture.title)}</text>',
    ]
    for minute in range(0, picture.until + 1, picture.step):
        x = across(picture, minute)
        parts.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 18, str(minute), "tick"))
    parts.append(text(across(picture, picture.until / 2), bottom + 40, "minutes", "tick"))
    if picture.limit is not None:
        x = across(picture, picture.limit)
        parts.append(f'<line class="limit" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
    for number, line in enumerate(picture.lines):
        parts += draw_line(picture, line, TOP + ROW * number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_line(picture: Picture, line: Line, top: int) -> list[str]:
    record, late = outcome(line, picture.until)
    start, active = across(picture, 0), across(picture, record.last_active / MINUTE)
    over = record.deadline / MINUTE
    end = across(picture, min(over, picture.until))
    y = top + 30
    parts = [
        text(20, y + 2, line.name, "name", "start"),
        text(20, y + 20, line.note, "note", "start"),
        bar("life", start, active, y),
        bar("idle", active, end, y),
    ]
    for minute in line.requests:
        x = across(picture, minute)
        if minute in late:
            parts.append(f'<path class="late" d="M{x - 4} {y - 4}l8 8m0 -8l-8 8"/>')
        else:
            kind = "passive" if minute in line.marked else "use"
            parts.append(f'<circle class="{kind}" cx="{x}" cy="{y}" r="5"/>')
    if over <= picture.until:
        parts.append(f'<line class="end" x1="{end}" y1="{y - 14}" x2="{end}" y2="{y + 14}"/>')
        parts.append(text(end, y + 28, f"{record.end_reason}, {over:g}", "why note"))
    return parts


def across(picture: Picture, minute: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * minute / picture.until, 1)


def bar(kind: str, start: float, end: float, y: int) -> str:
    width = round(end - start, 1)
    return f'<rect class="{kind}" x="{start}" y="{y - 10}" width="{width}" height="20"/>'


def text(x: float, y: float, words: str, kind: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


if __name__ == "__main__":
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(picture), encoding="utf-8")
