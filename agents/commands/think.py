"""`bin/agent think`: what the two lines of a topic would try, with how much, and why; or what was planned for it."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

from agents.commands import flags, loop, output
from agents.commands.asking import answer_of
from agents.commands.reach import Reach, found, reach
from mesh.errors import Reject
from mesh.messages.base import Facts
from mesh.messages.services import Proposed, Think, Thought

EXAMPLE = """bin/agent think handwritten-digits-3fa1c2
bin/agent think "handwritten digits" --budget 5m --json -"""

ANSWER_S = 10.0
"""Patience with a planner: it reads the graph and the verdicts of some topics."""

MODALITIES = ("text", "tabular", "corpus", "encoder")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """About what, and what is assumed of a topic that is not published."""
    parser.add_argument("about", metavar="TOPIC", help="a topic's id, a node's id, or the text of a topic")
    parser.add_argument(
        "--budget", metavar="DURATION", type=flags.duration_s, default=180.0,
        help="training time per line, for what is not published yet (default: 3m)",
    )  # fmt: skip
    parser.add_argument("--task", metavar="KIND", default="", help="executor kind, where nothing is known of the data")
    parser.add_argument(
        "--modality", choices=MODALITIES, default="", help="form of the data, where nothing is known of it"
    )
    flags.add_json(parser, "the answer")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 without a mesh or a planner, 6 where nothing can be said."""
    output.check_target(given.json)
    try:
        question = Think(about=given.about, budget_s=given.budget, task=given.task, modality=given.modality)
    except ValueError as error:
        raise Reject(f"this can not be asked: {error}.") from None
    return loop.run_simply(_run(given, question))


async def _run(given: argparse.Namespace, question: Think) -> int:
    settings = await asyncio.to_thread(found, flags.settings_of(given), flags.selected_of(given))
    async with reach(settings) as there:
        thought = await asked(there, question)
    if given.json:
        output.write_json(given.json, output.builtin(thought))
    if given.json != "-":
        output.say(picture(thought))
    return 0


async def asked(there: Reach, question: Think) -> Thought:
    """A planner's answer. BusUnavailable when none answers, Reject with its reason when it can not."""
    return await answer_of(there, "planner", question, Thought, timeout_s=ANSWER_S)


# -- for people -------------------------------------------------------------------------------------------------------


def picture(thought: Thought) -> str:
    """The node, then each line, then budgets, account, past changes and branches."""
    where = thought.specialization or f"a new one under {thought.parent}"
    state = "was planned" if thought.planned else "would be tried"
    lines = [
        f"{output.plain(thought.name)}: {where} ({output.plain(thought.why)})",
        f"this {state}, as {thought.task} of {thought.modality}; "
        + (f"champion {thought.champion[:12]}" if thought.champion else "no champion yet"),
    ]
    for one in thought.proposals:
        lines += _line(one)
    lines += _facts(thought.facts)
    if thought.branches:
        rows = [
            (one.id, one.state, str(one.examples), one.champion[:12] or "none", output.plain(one.why))
            for one in thought.branches
        ]
        lines += ["branches:", output.table(("node", "state", "examples", "champion", "why"), rows)]
    return "\n".join(lines)


def _line(one: Proposed) -> list[str]:
    base = f"from {one.base[:12]}" if one.base else "from zero"
    charged = one.charged.get("charged")
    account = f", charged {output.number(charged)} core seconds" if isinstance(charged, int | float) else ""
    shown = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(one.settings.items()))
    return [
        f"{one.line.value}: {one.executor} {base}, {output.number(one.budget_s)} s{account}",
        f"  {output.plain(one.why)}",
        f"  settings: {shown or 'the defaults of its kind'}",
    ]


def _facts(facts: Facts) -> list[str]:
    lines = []
    for name in ("shares", "account"):
        why = _map(facts, name).get("why")
        if why:
            rule = _map(facts, name).get("rule")
            lines.append(f"{name}: {output.plain(str(why))}" + (f" [{rule}]" if rule else ""))
    rows = facts.get("lineage")
    if isinstance(rows, list) and rows:
        lines.append("past changes:")
        lines += [f"  {_lesson(row)}" for row in rows if isinstance(row, dict)]
    return lines


def _lesson(row: dict[str, Any]) -> str:
    low, high = (row.get("interval") or [0.0, 0.0])[:2]
    verdict = "accepted" if row.get("accepted") else "not accepted"
    return (
        f"{row.get('topic')} {row.get('line')}: {output.plain(str(row.get('changed') or 'nothing was said'))}: "
        f"{row.get('metric')} {float(row.get('effect') or 0.0):+.4g} [{float(low):+.4g}, {float(high):+.4g}], {verdict}"
    )


def _map(facts: Facts, name: str) -> Facts:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}
