"""The table, what is counted, the text that Prometheus reads, and that every use in the source fits the table."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import parser

from mesh import metrics
from mesh.metrics import TABLE, Kind, Metrics

ROOT = Path(__file__).parents[2]
METHODS = {"count": Kind.COUNTER, "set_total": Kind.COUNTER, "set": Kind.GAUGE, "observe": Kind.HISTOGRAM}


def samples(found: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample of the rendered text, read back by the client library's own parser."""
    families = parser.text_string_to_metric_families(found.render().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_names_follow_the_conventions_of_prometheus() -> None:
    names = [declared.name for declared in TABLE]
    assert len(names) == len(set(names))
    for declared in TABLE:
        assert re.fullmatch(r"mesh_[a-z_]+", declared.name)
        assert declared.name.endswith("_total") == (declared.kind is Kind.COUNTER)
        assert declared.help.endswith(".")
        assert not {"le", "task", "topic", "id"} & set(declared.labels)


def test_counters_gauges_and_totals() -> None:
    found = Metrics()
    found.count("mesh_leases_total")
    found.count("mesh_leases_total", 2)
    found.set("mesh_tasks", 5, state="ready")
    found.set("mesh_tasks", 3, state="ready")
    found.set_total("mesh_stale_writes_total", 7)
    found.set_total("mesh_stale_writes_total", 6)  # a total never falls
    found.set("mesh_agent_info", 1, role="gate", name='a"b\n', version="1")
    assert samples(found) == {
        ("mesh_leases_total",): 3,
        ("mesh_tasks", "ready"): 3,
        ("mesh_stale_writes_total",): 7,
        ("mesh_agent_info", 'a"b\n', "gate", "1"): 1,
    }
    assert found.value("mesh_leases_total") == 3
    assert found.value("mesh_tasks", state="leased") == 0


def test_histograms_are_cumulative() -> None:
    found = Metrics()
    for seconds in (0.0005, 0.002, 0.3, 99.0):
        found.observe("mesh_ledger_append_seconds", seconds)
    seen = samples(found)
    assert seen["mesh_ledger_append_seconds_bucket", "0.0005"] == 1
    assert seen["mesh_ledger_append_seconds_bucket", "0.0025"] == 2
    assert seen["mesh_ledger_append_seconds_bucket", "10.0"] == 3
    assert seen["mesh_ledger_append_seconds_bucket", "+Inf"] == 4
    assert seen["mesh_ledger_append_seconds_count",] == 4
    assert seen["mesh_ledger_append_seconds_sum",] == pytest.approx(99.3025)
    assert found.value("mesh_ledger_append_seconds") == 4


def test_what_is_forgotten_is_shown_no_more() -> None:
    found = Metrics()
    found.set("mesh_tasks", 5, state="ready")
    found.set("mesh_leading", 0)
    found.forget("mesh_tasks", "mesh_workers")
    assert samples(found) == {("mesh_leading",): 0}


def test_a_use_beyond_the_table_is_a_defect() -> None:
    found = Metrics()
    uses: list[Callable[[], None]] = [
        lambda: found.count("mesh_nothing_total"),
        lambda: found.count("mesh_tasks", state="ready"),
        lambda: found.set("mesh_tasks", 1),
        lambda: found.set("mesh_tasks", 1, state="ready", role="x"),
        lambda: found.count("mesh_leases_total", -1),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="mesh_"):
            use()
    assert found.render() == b""


def test_labels_that_are_ids_after_all_end_in_other() -> None:
    found = Metrics()
    for number in range(metrics.SERIES_MAX + 50):
        found.count("mesh_child_kills_total", reason=f"r{number}")
    seen = samples(found)
    assert len(seen) == metrics.SERIES_MAX + 1
    assert seen["mesh_child_kills_total", "other"] == 50


def everything() -> Metrics:
    """Every metric of the table, touched with two values of each label."""
    found = Metrics()
    for declared in TABLE:
        for word in ("a", "b c") if declared.labels else ("",):
            labels = dict.fromkeys(declared.labels, word)
            match declared.kind:
                case Kind.COUNTER:
                    found.count(declared.name, **labels)
                case Kind.GAUGE:
                    found.set(declared.name, 2.5, **labels)
                case Kind.HISTOGRAM:
                    found.observe(declared.name, 0.3, **labels)
    return found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_nothing_to_complain_about() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=everything().render(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_what_two_feed_stands_in_the_text_once() -> None:
    """An agent's own metrics and those of its process."""
    one, other = everything(), everything()
    text = metrics.rendered((one, other)).decode()
    assert [line for line in text.splitlines() if line.startswith("# HELP")] == [
        f"# HELP {declared.name} {declared.help}" for declared in TABLE
    ]
    assert "mesh_leases_total 2.0" in text
    assert "mesh_store_bytes 2.5" in text
    assert "mesh_ledger_append_seconds_count 1.0" in text


def test_threads_do_not_lose_counts() -> None:
    found = Metrics()

    def work() -> None:
        for _ in range(5_000):
            found.count("mesh_beats_total")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.value("mesh_beats_total") == 20_000


def test_counting_does_not_load_the_client_library() -> None:
    code = (
        "import sys; from mesh import metrics; metrics.count('mesh_beats_total');"
        "before = 'prometheus_client' in sys.modules;"
        "text = metrics.render(); print(before, b'mesh_beats_total 1.0' in text)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_every_use_in_the_source_fits_the_table() -> None:
    declared = {metric.name: metric for metric in TABLE}
    uses = [
        use
        for package in ("agents", "mesh", "executors")
        for path in (ROOT / package).rglob("*.py")
        for use in in_(path)
    ]
    for where, method, name, labels in uses:
        assert name in declared, f"{where} uses {name}, which mesh/metrics.py does not declare"
        assert METHODS[method] is declared[name].kind, f"{where} uses {name} as a {METHODS[method]}"
        assert labels == set(declared[name].labels), f"{where} uses {name} with labels {labels}"


def test_every_declared_metric_is_fed_somewhere() -> None:
    fed = {
        name
        for package in ("agents", "mesh", "executors")
        for path in (ROOT / package).rglob("*.py")
        for _, _, name, _ in in_(path)
    }
    unfed = sorted(metric.name for metric in TABLE if metric.name not in fed)
    assert unfed == [], "declared in mesh/metrics.py and fed nowhere: feed them where they happen, or drop them"


def in_(path: Path) -> list[tuple[str, str, str, set[str | None]]]:
    """(where, method, metric, labels) of every call whose first argument is a metric's name."""
    return [
        (
            f"{path.relative_to(ROOT)}:{node.lineno}",
            node.func.attr,
            node.args[0].value,
            {word.arg for word in node.keywords},
        )
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and node.args[0].value.startswith("mesh_")
    ]


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `mesh_")]
    assert rows == [row(metric) for metric in TABLE]


def row(metric: metrics.Declared) -> str:
    """A metric as its line in the page."""
    return f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
