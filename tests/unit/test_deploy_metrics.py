"""What deploy/ asks of Prometheus: only metrics and labels that there are, valid queries, alerts that fire when they
should and not else."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mesh.metrics import TABLE, Kind

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana" / "ramify.json").read_text("utf-8"))
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))
DECLARED = {metric.name: metric for metric in TABLE}
OF_THE_TARGET = {"job", "instance", "role", "agent", "le", "alertname", "severity"}
"""Labels that scraping adds (agents/scraping.py), and Prometheus itself."""

SELECTED = re.compile(r"\b(mesh_[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\bby \(([^)]*)\)")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed"
)


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """(where it stands, query) of all panels and alerts."""
    for panel in panels():
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for rule in rules():
        yield rule["alert"], rule["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def declared(name: str) -> str:
    """The table's name of a series: a histogram has three."""
    stem = re.sub(r"_(bucket|sum|count)$", "", name)
    return stem if stem in DECLARED and DECLARED[stem].kind is Kind.HISTOGRAM else name


def promtool(*words: str | Path, cwd: Path = PROMETHEUS) -> None:
    done = subprocess.run(["promtool", *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_metric_and_label_stands_in_the_table() -> None:
    for where, query in queries():
        found = [(declared(name), labels) for name, labels in SELECTED.findall(query)]
        assert found or "up{" in query, where
        held = OF_THE_TARGET.union(*(DECLARED[name].labels for name, _ in found if name in DECLARED))
        for name, labels in found:
            assert name in DECLARED, f"{where}: mesh/metrics.py declares no {name}"
            assert set(LABEL.findall(labels)) <= OF_THE_TARGET | set(DECLARED[name].labels), (where, labels)
        for group in GROUPED.findall(query):
            assert set(group.split(", ")) <= held, (where, group)


def test_counters_are_asked_for_their_rise_and_gauges_for_what_they_are() -> None:
    for where, query in queries():
        for name, _ in SELECTED.findall(query):
            rises = re.search(rf"\b(rate|increase)\({name}\b", query) is not None
            assert rises == (DECLARED[declared(name)].kind is not Kind.GAUGE), (where, name)


def test_a_person_can_read_the_dashboard() -> None:
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_no_two_panels_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith("."), rule["alert"]


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text("utf-8"))["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    fired = {check["alertname"] for check in checks if check.get("exp_alerts")}
    quiet = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    assert fired == quiet == {rule["alert"] for rule in rules()}


@needs_promtool
def test_alerts_fire_when_they_should_and_not_else() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    asked = [query.replace("$__rate_interval", "5m") for _, query in queries()]
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    promtool("check", "rules", "queries.yml", cwd=tmp_path)
