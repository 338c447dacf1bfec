"""The main job as a user has it: from the command to the result, and what the mesh costs while it waits.

    cold        `bin/agent run …` on a fresh home: broker and agents are started by it
    warm        the same while `bin/agent up` runs
    status      wall time of `bin/agent status`, beside a running mesh
    memory      resident set of each agent process of the idle mesh
    idle        processor time of all its processes, broker and commands included, before any task ran
    noop        a task that computes nothing, from its submit to its recorded result

The virtual environment is there already; the system's file cache is as it is. Times end when the command has returned,
after it stopped what it had started. Every run publishes a topic that is new to its mesh, so that no champion of an
earlier run helps.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import probe
from benchmarks.frame import Frame
from benchmarks.processes import MB, Seen, Tally, family
from benchmarks.programs import Program
from mesh.errors import RamifyError

NAME = "main-job"
WHY = "Time from one command to a trained, checked and judged model, and what the mesh costs beside it."

TOPIC = "handwritten digits"
DATA = "builtin:digits"

RUN_S_MAX = 600.0
"""Patience with one run; ten times the aim."""

UP_S_MAX = 40.0
NOOP_S_MAX = 60.0
IDLE_S = 20.0
QUICK_IDLE_S = 2.0

SETTLE_S_MAX = 60.0
"""How long a fresh mesh may be busy with its own start (children that import torch) before it counts as idle."""

SETTLED_PERCENT = 10.0
"""A mesh that uses less of a core than this, over a second, has settled."""

ROLES = ("scheduler", "planner", "consensus", "gate")
"""Agents that have to answer before the mesh counts as up; the worker is listed beside them."""

AGENT_MB_MAX = 80.0


def run(frame: Frame) -> None:
    """The whole benchmark; a quick one starts a mesh and gives it tasks of no work, and trains nothing."""
    if not frame.quick:
        cold(frame)
    with frame.home() as home, frame.started(home, "up") as up:
        if not wait_for_mesh(frame, home, up):
            frame.fail("up", "command to a complete mesh", "s", up.stop().trouble or "no complete mesh answered")
            return
        status(frame, home)
        idle(frame, home, up)
        noop(frame, home)
        if not frame.quick:
            warm(frame, home)


# -- from command to result -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
    """One `bin/agent run` that came to a verdict."""

    wall_s: float
    """Command to its return."""
    said_s: float
    """Command to verdict, as the result document says."""
    cpu_s: float
    rss_max_bytes: int
    tree: dict[str, Any]


def one_job(frame: Frame, home: Path, topic: str, data: str, *, who: str) -> Job | None:
    """Run one topic to its verdict; None, with a failed row for `who`, when it comes to none."""
    result = home / "result.json"
    result.unlink(missing_ok=True)
    patience_s = frame.timeout_s(RUN_S_MAX)
    with frame.started(home, "run", topic, "--data", data, "--branches", "never", "--json", str(result)) as program:
        ended = program.wait(patience_s) is not None
        program.tally.look()
        done = program.stop()
    document = document_in(result)
    tree = document.get("tree")
    if not ended or done.trouble or not tree or tree.get("value") is None:
        late = "" if ended else f"it did not end within {patience_s:.0f} s"
        frame.fail(who, "command to result", "s", late or done.trouble or "its document holds no result")
        return None
    frame.say(f"{who}: {done.wall_s:.1f} s, accuracy {tree['value']:.4f}")
    return Job(done.wall_s, document["seconds"], program.tally.cpu_s, program.tally.rss_max_bytes, tree)


def document_in(path: Path) -> dict[str, Any]:
    """The result document; empty when none was written."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def rows(frame: Frame, who: str, jobs: Sequence[Job]) -> None:
    """What a user waits for and pays, and what he gets beside the linear yardstick on the same holdout."""
    if not jobs:
        return
    frame.row(who, "command to result", [job.wall_s for job in jobs], "s")
    frame.row(who, "command to verdict, as the document says", [job.said_s for job in jobs], "s")
    frame.row(who, "processor time of all processes", [job.cpu_s for job in jobs], "s")
    holdout = f"on {jobs[0].tree.get('holdout_examples')} holdout examples"
    frame.row(who, "holdout accuracy", [job.tree["value"] for job in jobs], "1", holdout)
    linear = [job.tree["baseline_linear"] for job in jobs if job.tree.get("baseline_linear") is not None]
    if linear:
        frame.row(f"{who}: tuned linear baseline", "holdout accuracy", linear, "1", "on the same examples")


def cold(frame: Frame) -> None:
    """Each run on a home of its own: it starts the broker and the agents, and stops them."""
    jobs = []
    for _ in range(frame.runs(3)):
        with frame.home() as home:
            job = one_job(frame, home, TOPIC, DATA, who="cold run")
        if job is None:
            break
        jobs.append(job)
    rows(frame, "cold run", jobs)
    if jobs:
        frame.row("cold run", "most memory of all processes", [job.rss_max_bytes / MB for job in jobs], "MB")
    frame.at_most("result on the digits, cold", 60.0, "s", [job.wall_s for job in jobs])
    frame.at_least("holdout accuracy on the digits", 0.96, "1", [job.tree["value"] for job in jobs])


def warm(frame: Frame, home: Path) -> None:
    """Runs beside `up`: on the digits, and once on the user's own data."""
    jobs: list[Job] = []
    for number in range(frame.runs(3)):
        job = one_job(frame, home, f"{TOPIC}, run {number + 1}", DATA, who="warm run")
        if job is None:
            break
        jobs.append(job)
    rows(frame, "warm run", jobs)
    frame.at_most("result on the digits, warm", 60.0, "s", [job.wall_s for job in jobs])
    if frame.data is not None:
        who = f"warm run on {frame.data.name}"
        job = one_job(frame, home, frame.data.stem, str(frame.data), who=who)
        rows(frame, who, [job] if job is not None else [])


# -- what the mesh costs ----------------------------------------------------------------------------------------------


def wait_for_mesh(frame: Frame, home: Path, up: Program) -> bool:
    """Wait until every role has answered; a row with the time it took. The last question's own time is in it."""

    def complete() -> bool:
        done = frame.timed(home, "status", "--json", "-")
        return not done.trouble and roles_missing(json.loads(done.stdout)) == []

    up_s = up.wait(frame.timeout_s(UP_S_MAX), complete)
    if up_s is not None:
        frame.row("up", "command to a complete mesh", up_s, "s", "seen by asking for the status again and again")
    return up_s is not None


def roles_missing(document: dict[str, Any]) -> list[str]:
    """Roles that are not in a status document."""
    present = {agent["role"] for agent in document["agents"]} | ({"worker"} if document["workers"] else set())
    return [role for role in (*ROLES, "worker") if role not in present]


def status(frame: Frame, home: Path) -> None:
    """Wall time of the command, one interpreter's start included."""
    done = frame.repeat(frame.runs(10, quick=3), home, "status")
    walls = [ran.wall_s for ran in done if not ran.trouble]
    frame.row("status", "command to answer", walls, "s", done[-1].trouble)
    if walls:
        frame.row("status", "processor time", [1_000 * ran.cpu_s for ran in done if not ran.trouble], "ms")
    frame.at_most("status answers at once", 0.5, "s", walls)


def idle(frame: Frame, home: Path, up: Program) -> None:
    """Memory by role, then processor time of all processes over IDLE_S seconds of nothing to do."""
    settled_s = settle(frame, home, up.pid)
    if settled_s is None:
        frame.fail("idle mesh", "processor time", "% of a core", f"it was still busy after {SETTLE_S_MAX:.0f} s")
        return
    frame.row("idle mesh", "busy with its own start for", settled_s, "s")
    memory(frame, family(str(home), up.pid))
    tally = Tally(str(home), up.pid)
    time.sleep(QUICK_IDLE_S if frame.quick else IDLE_S)
    tally.look()
    percent = 100 * tally.cpu_s / tally.wall_s
    frame.row("idle mesh", "processor time", percent, "% of a core", f"over {tally.wall_s:.0f} s, all processes")
    frame.at_most("an idle mesh costs next to nothing", 3.0, "% of a core", [percent])


def noop(frame: Frame, home: Path) -> None:
    """From a submitted task to its recorded result, with nothing to compute between them."""
    try:
        seconds = probe.round_trips(home, frame.runs(30, quick=5), frame.timeout_s(NOOP_S_MAX))
    except RamifyError as error:
        frame.fail("noop task", "submitted to recorded", "ms", str(error))
        return
    frame.row("noop task", "submitted to recorded", [1_000 * value for value in seconds], "ms", "one at a time")


def settle(frame: Frame, home: Path, root: int) -> float | None:
    """Wait until the mesh has done what it does at its start; the seconds that took, or None."""
    begun = time.perf_counter()
    patience_s = frame.timeout_s(SETTLE_S_MAX / 3 if frame.quick else SETTLE_S_MAX)
    while time.perf_counter() - begun < patience_s:
        tally = Tally(str(home), root)
        time.sleep(1.0)
        tally.look()
        if 100 * tally.cpu_s / tally.wall_s < SETTLED_PERCENT:
            return time.perf_counter() - begun
    return None


def memory(frame: Frame, members: Sequence[Seen]) -> None:
    """A row per role; the aim is for agents other than the worker, whose children hold models."""
    by_role: dict[str, list[float]] = {}
    for seen in members:
        by_role.setdefault(role_of(seen.command), []).append(seen.rss_bytes / MB)
    for role in sorted(by_role):
        together = f"{len(by_role[role])} processes together" if len(by_role[role]) > 1 else ""
        frame.row(role, "memory, idle", sum(by_role[role]), "MB", together)
    agents = [statistics.fmean(by_role[role]) for role in (*ROLES, "keeper") if role in by_role]
    frame.at_most("an agent other than the worker is small", AGENT_MB_MAX, "MB", [max(agents)] if agents else [])


def role_of(command: Sequence[str]) -> str:
    """What a process of the mesh is, from its command line: the word after `agents`, or the program's name."""
    words = list(command)
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if module == "agents":
        return next((word for word in words[words.index("agents") + 1 :] if not word.startswith("-")), module)
    if module.startswith("executors"):
        return "worker's children"
    return module or (Path(words[0]).name if words else "unnamed")
