"""`bin/agent gradcheck KIND`: are a training kind's gradients those of its loss? (docs/gradcheck.md)

The check runs in a child process of its own, as a worker's tasks do, because agents import no torch; a kind that
crashes, hangs or eats memory ends as one sentence. Needs no broker.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from agents.commands import flags, loop, output
from executors import kinds
from executors.frames import Finished, Frame, Start
from executors.isolation import Bounds, Child
from executors.port import Runtime
from mesh.errors import TaskRefused

EXAMPLE = """bin/agent gradcheck classify
bin/agent gradcheck all --json gradients.json"""

EXIT_WRONG = 1
"""A gradient is not that of its loss."""

WALL_S, STALL_S, MEMORY_BYTES = 600.0, 120.0, 2 << 30
"""Bounds of one check: seconds in all, seconds of silence, bytes. Instances are tiny: a check takes a second or two."""

ENTRIES_MAX = 100_000

SHOWN = 5
"""Offenders that are printed; the document names more."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Which kind, how closely."""
    parser.add_argument("kind", metavar="KIND", help="an executor kind that trains, or 'all' of them")
    parser.add_argument(
        "--threshold", metavar="X", type=float, default=1e-3, help="largest relative error of a right gradient (0.001)"
    )
    parser.add_argument(
        "--entries",
        metavar="N",
        type=flags.whole(1, ENTRIES_MAX, "number of entries"),
        default=32,
        help="numbers of each parameter tensor to look at (32)",
    )
    flags.add_json(parser, "the report")


def run(given: argparse.Namespace) -> int:
    """0 when all gradients are right, else 1."""
    output.check_target(given.json)
    return loop.run_simply(_run(given))


async def _run(given: argparse.Namespace) -> int:
    reports = [await checked(name, given.threshold, given.entries) for name in wanted(given.kind)]
    if given.json:
        output.write_json(given.json, reports[0] if given.kind != "all" else {"reports": reports})
    if given.json != "-":
        for report in reports:
            for line in told(report):
                output.say(line)
    return 0 if all(report["ok"] for report in reports) else EXIT_WRONG


def wanted(name: str) -> list[str]:
    """The kinds to check. TaskRefused when `name` is none that trains, or can not run here."""
    training = [each for each, info in sorted(kinds.kind_infos().items()) if _offers(info)]
    if name == "all":
        return [each for each in training if not kinds.missing(kinds.kind_infos()[each])]
    if name not in training:
        kinds.load(name)
        raise TaskRefused(f"the kind {name!r} offers no gradients to check; these do: {', '.join(training)}, or all")
    kinds.load(name)
    return [name]


def _offers(info: kinds.KindInfo) -> bool:
    return not info.problem and hasattr(kinds.declared(info), "gradcheck_instance")


async def checked(name: str, threshold: float, entries: int) -> dict[str, Any]:
    """The report on one kind, made in a child. The errors of a child that failed, as a worker sees them."""
    with tempfile.TemporaryDirectory(prefix="ramify-gradcheck-") as folder:
        child = await Child.start(Runtime.TORCH, folder=Path(folder), threads=1, say=_unsaid)
        try:
            scratch = Path(folder) / "scratch"
            scratch.mkdir()
            ending = await child.run(
                _start(name, scratch, threshold, entries), Bounds(WALL_S, STALL_S, MEMORY_BYTES), _unheard
            )
        finally:
            await child.close()
        assert isinstance(ending, Finished)  # nobody asks it to stop
        report: dict[str, Any] = json.loads(Path(ending.outputs["report"]).read_bytes())
        return report


def _start(name: str, scratch: Path, threshold: float, entries: int) -> Start:
    return Start(
        run=1,
        task=f"gradcheck-{name}",
        kind="gradcheck",
        kind_version=kinds.kind_infos()["gradcheck"].version,
        settings={"kind": name, "threshold": threshold, "entries": entries},
        inputs={},
        scratch=str(scratch),
        cores=1.0,
        memory_bytes=MEMORY_BYTES,
        budget_s=WALL_S,
    )


def told(report: dict[str, Any]) -> list[str]:
    """A report in words: the verdict, then what is worst."""
    verdict = "right" if report["ok"] else "WRONG"
    head = f"{report['kind']}: gradients are {verdict}: largest relative error {report['relative']:.1e}"
    lines = [f"{head} (allowed {report['threshold']:g}) in {len(report['tensors'])} tensors, {report['seconds']:.1f} s"]
    rows = [
        (
            f"{entry['case']}: {entry['tensor']}" if entry["case"] else entry["tensor"],
            str(entry["index"]),
            f"{entry['analytic']:.6e}",
            f"{entry['numerical']:.6e}",
            f"{entry['relative']:.1e}",
        )
        for entry in report["worst"][:SHOWN]
    ]
    lines.append(output.table(("tensor", "index", "analytic", "numerical", "relative"), rows))
    idle = [f"{row['case']}: {row['tensor']}".removeprefix(": ") for row in report["tensors"] if not row["reached"]]
    if idle:
        lines.append(f"the loss does not depend on {', '.join(idle)}")
    return lines


def _unsaid(line: str) -> None:
    """A child's chatter; its end stands in the error, if there is one."""


def _unheard(frame: Frame) -> None:
    """Progress; the check is over before a bar would help."""
