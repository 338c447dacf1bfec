"""`bin/agent verdicts`: what the gate decided, KPI by KPI."""

from __future__ import annotations

import argparse
import datetime as dt

from agents.commands import flags, loop, output
from agents.commands.reach import reach_stored
from agents.commands.stored import records
from mesh.messages.judgement import Verdict

EXAMPLE = """bin/agent verdicts
bin/agent verdicts --topic handwritten-digits-3fa1c20b"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Filters."""
    parser.add_argument("--topic", metavar="TOPIC", type=flags.name, help="the verdict of this topic only")
    parser.add_argument("--specialization", metavar="NODE", type=flags.name, help="verdicts of this node only")
    flags.add_json(parser, "the verdicts")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs here and none ever did."""
    output.check_target(given.json)
    return loop.run_simply(_run(given))


async def _run(given: argparse.Namespace) -> int:
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        subject = there.subjects.results(given.topic or "*", Verdict.kind)
        verdicts = await records(there, there.stream("RESULTS"), subject, Verdict)
    if given.specialization:
        verdicts = [one for one in verdicts if one.specialization == given.specialization]
    if given.json:
        output.write_json(given.json, {"verdicts": verdicts})
    if given.json != "-":
        output.say("\n\n".join(picture(one) for one in verdicts) or "no verdict yet.")
    return 0


def picture(verdict: Verdict) -> str:
    """One verdict: the decision, then one line per check."""
    when = dt.datetime.fromtimestamp(verdict.decided_at_ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    head = (
        f"{verdict.specialization}: {'accepted' if verdict.accepted else 'rejected'} ({verdict.choice.value}), {when}"
    )
    rows = [
        (one.name, "passed" if one.passed else "FAILED", output.number(one.value), output.number(one.bound), one.why)
        for one in verdict.checks
    ]
    return f"{head}\n{output.plain(verdict.why)}\n" + output.table(("check", "", "value", "bound", "why"), rows)
