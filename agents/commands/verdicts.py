"""`bin/agent verdicts`: what the gate decided, check by check, and what the audit split said afterwards; `verdicts
replay` computes one again from its evidence."""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Mapping

from agents.commands import flags, loop, output, verdicts_replay
from agents.commands.reach import reach_stored
from agents.commands.stored import records
from mesh.errors import NotFound, SettingsInvalid
from mesh.messages.judgement import Audit, Comparison, Verdict

EXAMPLE = """bin/agent verdicts
bin/agent verdicts handwritten-digits-3fa1c20b
bin/agent verdicts replay handwritten-digits-3fa1c20b-verdict"""

REPLAY = "replay"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`[NAME]`, or `replay NAME`, and filters."""
    parser.add_argument(
        "words", metavar="NAME", nargs="*",
        help="a topic, a node of the graph or a verdict: its verdicts alone, with every comparison; "
        "'replay NAME': compute that verdict again from its stored evidence (1 when it does not come out the same)",
    )  # fmt: skip
    parser.add_argument("--topic", metavar="TOPIC", type=flags.name, help="the verdicts of this topic only")
    parser.add_argument("--specialization", metavar="NODE", type=flags.name, help="verdicts of this node only")
    flags.add_json(parser, "the verdicts")


def run(given: argparse.Namespace) -> int:
    """Exit code 4 and a sentence when no mesh runs here and none ever did, 6 for an unknown name; of a replay 1 when
    the verdict does not come out the same."""
    output.check_target(given.json)
    words = list(given.words)
    given.name = words.pop() if words else ""
    if words not in ([], [REPLAY]) or (given.name == REPLAY and not words):
        raise SettingsInvalid(
            "verdicts expects nothing, one NAME, or replay NAME; `bin/agent verdicts` lists the names."
        )
    return loop.run_simply(verdicts_replay.replay(given) if words else show(given))


async def show(given: argparse.Namespace) -> int:
    """List verdicts, the newest last."""
    async with reach_stored(flags.settings_of(given), flags.selected_of(given)) as there:
        results = there.stream("RESULTS")
        found = await records(there, results, there.subjects.results(given.topic or "*", Verdict.kind), Verdict)
        looks = await records(there, results, there.subjects.results(given.topic or "*", Audit.kind), Audit)
    if given.specialization:
        found = [one for one in found if one.specialization == given.specialization]
    if given.name:
        found = [one for one in found if given.name in (one.id, one.topic, one.specialization)]
        if not found:
            raise NotFound(f"no verdict, and no topic or node with one, is called {given.name!r}.")
    audits = {look.verdict: look for look in looks}
    if given.json:
        ids = {one.id for one in found}
        output.write_json(given.json, {"verdicts": found, "audits": [one for one in looks if one.verdict in ids]})
    if given.json != "-":
        output.say("\n\n".join(picture(one, audits, whole=bool(given.name)) for one in found) or "no verdict yet.")
    return 0


def picture(verdict: Verdict, audits: Mapping[str, Audit], *, whole: bool = False) -> str:
    """One verdict: the decision, then each check with its number, its bound and why; `whole`: and what was compared."""
    when = dt.datetime.fromtimestamp(verdict.decided_at_ms / 1_000, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    head = (
        f"{verdict.specialization}: {'accepted' if verdict.accepted else 'rejected'} ({verdict.choice.value}), {when}"
    )
    parts = [head, output.plain(verdict.why), _checks(verdict)]
    if whole:
        parts += [f"verdict {verdict.id}, of the topic {verdict.topic}", _compared(verdict.recommendation.comparisons)]
        if change := verdict.recommendation.what_would_change_it:
            parts.append(f"what would change it: {output.plain(change)}")
    if (look := audits.get(verdict.id)) is not None:
        times = f"look {look.looks} at this split" if look.looks else "a look at this split"
        parts.append(f"audit ({times}): {output.plain(look.why)}")
    return "\n".join(part for part in parts if part)


def _checks(verdict: Verdict) -> str:
    rows = [
        (one.name, "passed" if one.passed else "FAILED", output.number(one.value), output.number(one.bound))
        for one in verdict.checks
    ]
    table = output.table(("check", "", "value", "bound"), rows).splitlines()
    width = max(map(len, table))
    whys = ("why", *(output.plain(one.why) for one in verdict.checks))
    return "\n".join(f"{line.ljust(width)}  {why}".rstrip() for line, why in zip(table, whys, strict=True))


def _compared(comparisons: tuple[Comparison, ...]) -> str:
    if not comparisons:
        return ""
    rows = [
        (f"{one.a} - {one.b}", one.metric, f"{one.effect:+.4f}", f"[{one.low:+.4f}, {one.high:+.4f}]",
         f"{one.p_value:.2g}", f"{one.alpha:.3g}", one.items)
        for one in comparisons
    ]  # fmt: skip
    table = output.table(("compared", "metric", "effect", "interval", "p", "alpha", "items"), rows).splitlines()
    width = max(map(len, table))
    methods = ("method", *(output.plain(one.method) for one in comparisons))
    return "\n".join(f"{line.ljust(width)}  {method}".rstrip() for line, method in zip(table, methods, strict=True))
