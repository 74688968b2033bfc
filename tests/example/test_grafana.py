"""The dashboard and the alerts of the example: they parse, and ask only for what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from ..addons.test_prometheus import exported

FOLDER = Path(__file__).parents[2] / "example" / "grafana"
DASHBOARD: Any = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
ALERTS: Any = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))
RULES: list[Any] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS: list[Any] = DASHBOARD["panels"]
# What Prometheus itself puts on every series.
TARGET_LABELS = {"job", "instance"}
promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not on this machine"
)


def _expressions() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in PANELS:
        for target in panel["targets"]:
            # What Grafana puts in before it asks.
            text = target["expr"].replace("$__rate_interval", "5m")
            yield pytest.param(text, id=f"{panel['title']}, {target['refId']}")


EXPRESSIONS = list(_expressions())


def nodes(tree: Any) -> Iterator[Any]:
    """Everything in a parsed expression."""
    yield tree
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        below = getattr(tree, name, None)
        for one in below if isinstance(below, list) else [below]:
            if one is not None:
                yield from nodes(one)


def selectors(text: str) -> list[tuple[str, set[str]]]:
    """The metrics that an expression asks for, each with the labels that it is chosen by."""
    found = (n for n in nodes(promql_parser.parse(text)) if type(n).__name__ == "VectorSelector")
    return [(one.name, {m.name for m in one.matchers.matchers}) for one in found]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_asks_only_for_what_is_exported(text: str) -> None:
    there = exported()
    found = selectors(text)
    assert found
    for name, labels in found:
        assert name in there
        assert labels <= there[name] | TARGET_LABELS


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_groups_only_by_labels_that_are_there(text: str) -> None:
    there = exported()
    for node in nodes(promql_parser.parse(text)):
        if type(node).__name__ == "AggregateExpr":
            below = [there[one.name] for one in nodes(node) if hasattr(one, "matchers")]
            by = set(re.findall(r"\w+", str(node.modifier).partition("(")[2]))
            assert by
            assert by <= set.union(TARGET_LABELS, *below)


def test_the_check_sees_what_is_wrong() -> None:
    assert selectors('sum(rate(a_total{b="c"}[5m])) / on (x) max(d) > 1') == [
        ("a_total", {"b"}),
        ("d", set()),
    ]
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum by (x (y")


def test_every_metric_is_shown() -> None:
    shown = {name for param in EXPRESSIONS for name, _ in selectors(str(param.values[0]))}
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in exported()}
    assert families == {re.sub("_(bucket|count|sum)$", "", name) for name in shown}


def test_every_alert_says_what_is_the_matter_and_how_bad_it_is() -> None:
    assert max(Counter(rule["alert"] for rule in RULES).values()) == 1
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.flask_app }}" in rule["annotations"]["summary"]


def test_an_alert_is_told_once_for_all_processes() -> None:
    for rule in RULES:
        assert "instance" not in rule["expr"]
        assert re.search(r"(sum|max|min) by \(job, flask_app", rule["expr"])


def test_no_panel_lies_on_another_or_has_its_number() -> None:
    cells: list[tuple[int, int]] = []
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24  # the width of Grafana's grid
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells += [(column, row) for column in columns for row in rows]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_dashboard_uses_the_variables_that_it_has() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used == defined


@promtool
def test_promtool_finds_the_alerts_sound() -> None:
    run("check", "rules", "alerts.yml")


@promtool
def test_every_alert_is_told_when_it_should_and_not_otherwise() -> None:
    run("test", "rules", "alerts_test.yml")


def test_every_alert_has_a_test_of_both() -> None:
    tests: Any = yaml.safe_load((FOLDER / "alerts_test.yml").read_text("utf-8"))["tests"]
    names = {rule["alert"] for rule in RULES}
    for test, told in zip(tests, (False, True), strict=True):
        expected = {one["alertname"]: bool(one["exp_alerts"]) for one in test["alert_rule_test"]}
        assert expected == dict.fromkeys(names, told)


def run(*command: str) -> None:
    done = subprocess.run(
        ["promtool", *command], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
