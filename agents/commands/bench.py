"""`bin/agent bench`: measure something on this machine, and keep what was measured with its conditions.

    bench NAME      run one benchmark; rows and aims for people, one document for programs
    bench list      the benchmarks there are; also without a name
    bench report    write BENCHMARKS.md from the full runs that were kept

Benchmarks start meshes of their own in temporary home folders; settings and running meshes of the user are left alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from agents.commands import flags, output
from mesh.errors import DataRefused, EnvironmentUnfit, SettingsInvalid

if TYPE_CHECKING:
    from benchmarks.document import Document

EXAMPLE = """bin/agent bench list
bin/agent bench main-job --quick
bin/agent bench main-job --keep && bin/agent bench report"""

EXIT_NOT_MEASURED = 1
"""A measurement failed; its row says why. An aim that was missed is a result, and no failure."""

RUNS_MAX = 1_000
"""More runs than this are a typing error: the shortest benchmark would take hours."""

TASKS_MAX = 1_000_000
"""A durability run of this size takes a night."""

SEED_MAX = 10**18 - 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which benchmark, how thoroughly, on what, and where to."""
    parser.add_argument("benchmark", metavar="NAME", nargs="?", default="list", help="one of them, 'list' or 'report'")
    parser.add_argument("--quick", action="store_true", help="only see that it works, within a minute; no measurement")
    parser.add_argument(
        "--runs",
        metavar="N",
        type=flags.whole(1, RUNS_MAX, "number of runs"),
        help="measure N times instead of the benchmark's own number",
    )
    parser.add_argument("--data", metavar="PATH", type=Path, help="measure on this dataset as well, where that applies")
    parser.add_argument(
        "--tasks",
        metavar="N",
        type=flags.whole(1, TASKS_MAX, "number of tasks"),
        help="with so many tasks, where that applies",
    )
    parser.add_argument(
        "--seed", metavar="N", type=flags.whole(0, SEED_MAX), help="of what is random, to repeat a run that failed"
    )
    parser.add_argument(
        "--peers-python", metavar="PYTHON", type=Path, help="the interpreter that has the peers (default: this one)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the full run's document for `bench report`")
    flags.add_json(parser, "the document")


def run(given: argparse.Namespace) -> int:
    """0 when everything was measured, whether or not the aims were met; 1 when a measurement failed."""
    output.check_target(given.json)
    if given.benchmark in ("list", "report"):
        for option in ("quick", "runs", "data", "tasks", "seed", "peers_python", "keep"):
            if getattr(given, option):
                flag = option.replace("_", "-")
                raise SettingsInvalid(f"`bench {given.benchmark}` does not take --{flag}: it measures nothing.")
        return _list(given) if given.benchmark == "list" else _report(given)
    return _measure(given)


def _list(given: argparse.Namespace) -> int:
    found = _catalogue().benchmarks()
    if given.json:
        output.write_json(given.json, {"benchmarks": [{"name": one.name, "why": one.why} for one in found]})
    if given.json != "-":
        width = max((len(one.name) for one in found), default=0)
        for one in found:
            output.say(f"{one.name:<{width}}  {one.why}")
    return 0


def _report(given: argparse.Namespace) -> int:
    _catalogue()
    from benchmarks import report
    from benchmarks.frame import CHECKOUT

    documents = report.kept()
    path = CHECKOUT / "BENCHMARKS.md"
    try:
        path.write_text(report.page(documents), encoding="utf-8", newline="\n")
    except OSError as error:
        raise EnvironmentUnfit(
            f"{path} can not be written ({error.strerror or error}): make the checkout writable."
        ) from None
    if given.json:
        output.write_json(given.json, {"written": str(path), "benchmarks": [one.name for one in documents]})
    if given.json != "-":
        output.say(f"{path} holds {len(documents)} {'benchmark' if len(documents) == 1 else 'benchmarks'}")
    return 0


def _measure(given: argparse.Namespace) -> int:
    if given.keep and given.quick:
        raise SettingsInvalid("--keep needs a full run: a quick one measures nothing.")
    if given.data is not None and not given.data.exists():
        raise DataRefused(f"--data {str(given.data)!r}: there is no such file or folder.")
    chosen = _catalogue().named(given.benchmark)
    from benchmarks import report
    from benchmarks.frame import Frame, perform

    data = given.data.resolve() if given.data is not None else None
    if given.peers_python is not None and shutil.which(given.peers_python) is None:
        raise SettingsInvalid(f"--peers-python {str(given.peers_python)!r} must be a Python interpreter.")
    frame = Frame(
        quick=given.quick,
        data=data,
        runs=given.runs,
        tasks=given.tasks,
        seed=given.seed,
        peers_python=given.peers_python.absolute() if given.peers_python is not None else None,
        say=output.note,
    )
    document = perform(chosen.name, chosen.why, chosen.load(), frame)
    if given.json:
        output.write_json(given.json, document)
    if given.json != "-":
        output.say(picture(document))
    if given.keep and not frame.failures:
        output.note(f"kept as {report.keep(document)}; `bin/agent bench report` writes the page")
    for failure in frame.failures:
        output.note(f"not measured: {failure}")
    return EXIT_NOT_MEASURED if frame.failures else 0


def picture(document: Document) -> str:
    """Rows and aims as two tables."""
    rows = [
        (row.who, row.metric, row.value, row.low, row.high, row.unit, "skipped" if row.skipped else str(row.runs))
        for row in document.rows
    ]
    parts = [output.table(("who", "metric", "median", "low", "high", "unit", "runs"), rows)]
    if document.aims:
        aims = [
            (aim.aim, aim.wanted, "not measured" if aim.got is None else output.number(aim.got), _met(aim.met))
            for aim in document.aims
        ]
        parts += ["", output.table(("aim", "wanted", "got", "met"), aims)]
    if document.conditions.quick:
        parts += ["", "quick: these figures only show that the benchmark works."]
    return "\n".join(parts)


def _met(met: bool) -> str:
    return "yes" if met else "NO"


def _catalogue() -> ModuleType:
    """The catalogue; benchmarks belong to the checkout and are not part of an installed package."""
    try:
        from benchmarks import catalogue
    except ModuleNotFoundError as error:
        raise EnvironmentUnfit(
            f"the benchmarks are not installed here ({error.name} is missing in {sys.prefix}): run this in a checkout."
        ) from None
    return catalogue
