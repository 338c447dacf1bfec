"""How a topic ended, for people: lines, comparison, checks, champion, and what to do next. And its exit code."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from agents.commands import output
from agents.commands.story import Ending, Story
from mesh.errors import DataRefused, Interrupted
from mesh.messages.judgement import Candidate, Choice, Recommendation, Verdict

EXIT_NO_VERDICT = 7
"""The topic ended without a verdict: no line produced a model."""


def exit_code(ending: Ending) -> int:
    """0 with a verdict, whatever it says, or with what was wanted; 5 turned down; 7 without; 130 interrupted."""
    return {
        Ending.VERDICT: 0,
        Ending.DONE: 0,
        Ending.TURNED_DOWN: DataRefused.exit_code,
        Ending.FAILED: EXIT_NO_VERDICT,
        Ending.INTERRUPTED: Interrupted.exit_code,
    }[ending]


Next = Callable[..., str]
"""The command line of a next command, from its words: it repeats what leads to the same mesh."""


def plainly(*words: str) -> str:
    """A next command without any option."""
    return shlex.join(["bin/agent", *words])


def tell(command: str, story: Story, ending: Ending, following: Next = plainly, *, quiet: bool = False) -> int:
    """Say how it ended; the exit code. A verdict goes to stdout unless `quiet`, all else as one line to stderr."""
    if ending is not Ending.VERDICT:
        output.note(f"bin/agent {command}: {verdict_text(story, ending, following)}")
    elif not quiet:
        output.say(verdict_text(story, ending, following))
    return exit_code(ending)


def verdict_text(story: Story, ending: Ending, following: Next = plainly) -> str:
    """The end of a topic in readable form."""
    match ending:
        case Ending.VERDICT:
            return "\n".join(_judged(story, following))
        case Ending.TURNED_DOWN:
            return f"{story.topic} was turned down: {output.plain(story.turned_down)}"
        case Ending.DONE:
            return f"{story.topic} is done."
        case Ending.FAILED:
            return f"{story.topic} ended without a verdict: {output.plain(story.why_failed())}."
        case Ending.INTERRUPTED:
            return f"{story.topic} goes on; follow it with `{following('watch', story.topic)}`."


def _judged(story: Story, following: Next) -> list[str]:
    """Both verdicts of a topic that was divided, what its branches came to, and how it ended."""
    assert story.verdict is not None
    lines = ["", *_recommendation(story.verdict.recommendation), "", *_verdict(story.verdict, following)]
    lines += _audit(story, story.verdict)
    if not story.children:
        return lines
    lines += ["", "branches:", _branches(story)]
    if story.tree_verdict is not None:
        lines += ["", "together, " + _recommendation(story.tree_verdict.recommendation)[0]]
        lines += [*_recommendation(story.tree_verdict.recommendation)[1:], "", *_verdict(story.tree_verdict, following)]
        lines += _audit(story, story.tree_verdict)
    return [*lines, "", output.plain(story.settled.why)] if story.settled is not None else lines


def _audit(story: Story, verdict: Verdict) -> list[str]:
    """What the audit split said after a promotion."""
    audit = story.audits.get(verdict.id)
    return [f"audit: {output.plain(audit.why)}"] if audit is not None else []


def _branches(story: Story) -> str:
    rows = []
    for child in list(story.all())[1:]:
        verdict, facts = child.last_verdict, child.plan.facts if child.plan is not None else {}
        told = child.turned_down or (_decision(verdict) if verdict is not None else "not judged")
        model = verdict.champion[:12] if verdict is not None and verdict.champion else "-"
        rows.append((child.label, facts.get("examples"), model, told))
    return output.table(("branch", "examples", "champion", "verdict"), rows)


def _recommendation(found: Recommendation) -> list[str]:
    rows = [
        (
            one.name or one.line.value,
            one.kpis.get("accuracy"),
            one.kpis.get("loss"),
            one.kpis.get("latency_p95_ms"),
            output.size(one.kpis["size_bytes"]) if "size_bytes" in one.kpis else None,
            _evidence(one),
            one.stopped_by or "-",
        )
        for one in found.candidates
    ]
    headers = ("line", "accuracy", "loss", "p95 ms", "size", "reproduced", "stopped by")
    low, high = found.interval
    lines = [
        f"on {found.holdout_examples} holdout examples:",
        output.table(headers, rows),
        "",
        f"recommendation: {found.choice.value} (effect {found.effect:+.4f}, interval {low:+.4f} to {high:+.4f})",
        f"  {output.plain(found.why)}",
    ]
    if found.what_would_change_it:
        lines.append(f"  {output.plain(found.what_would_change_it)}")
    return lines


def _evidence(candidate: Candidate) -> str:
    evidence = candidate.evidence
    if evidence is None:
        return "-"
    independent = "" if evidence.independent else ", same worker"
    return f"{evidence.rate:.1%} (at least {evidence.lower:.1%}{independent})"


def _verdict(verdict: Verdict, following: Next) -> list[str]:
    reason = output.plain(verdict.why.removesuffix(verdict.recommendation.why).strip())
    lines = [f"verdict: {_decision(verdict)}{': ' + reason if reason else ''}"]
    for check in verdict.checks:
        lines.append(f"  {'passed' if check.passed else 'FAILED'}  {check.name}: {output.plain(check.why)}")
    if verdict.champion:
        lines.append(
            f"champion of {verdict.specialization}: version {verdict.champion_version}, {verdict.champion[:12]}; "
            f"take it with `{following('models', 'pull', verdict.specialization, 'DIR')}`"
        )
    return lines


def _decision(verdict: Verdict) -> str:
    """Accepting to keep is no promotion: people must not read it as one."""
    if not verdict.accepted:
        return "rejected"
    return "accepted, the champion stays" if verdict.choice is Choice.KEEP else "accepted"
