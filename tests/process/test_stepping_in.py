"""A person steps in, with the real commands on a real mesh: dead letters, resubmit, drain, cancel, refused."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.messages.results import TaskMoved
from mesh.messages.tasks import TaskState
from tests.support.agent_process import DEADLINE_S, environ
from tests.support.fleet import Fleet, fleet

pytestmark = [pytest.mark.process, pytest.mark.server]


async def agent(mesh: Fleet, *words: str, home: str = "hand") -> tuple[int, str, str]:
    """One command of a person; (exit code, stdout, stderr)."""
    folder = mesh.folder / home
    folder.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "agents", *words, env=environ(folder, NATS_URL=mesh.server.url), cwd=folder,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def document(mesh: Fleet, *words: str) -> Any:
    code, out, err = await agent(mesh, *words, "--json", "-")
    assert code == 0, err
    return json.loads(out)


async def test_a_person_steps_in(tmp_path: Path) -> None:
    async with fleet(tmp_path) as mesh:
        await mesh.start_worker("w1")
        await mesh.submit("bad", {"fail": "reject", "fail_attempts": 1})
        assert (await mesh.ended("bad")).state is TaskState.PARKED
        (letter,) = (await document(mesh, "dead-letters"))["dead_letters"]
        assert (letter["task"], letter["kind"], letter["attempts"]) == ("bad", "noop", 1)
        assert "asked to fail for good" in letter["reason"]
        assert letter["parked_at_ms"] > 0
        assert await document(mesh, "resubmit", "topic") == {"resubmitted": ["bad"], "count": 1}
        # From its checkpoint: the second attempt knows that it is the second, and succeeds.
        record, _ = await mesh.first("bad", lambda one: one.state is TaskState.SUCCEEDED)
        assert not isinstance(record, TaskMoved)
        assert record.outcome is not None
        assert record.outcome.kpis["attempts"] == 2.0
        code, out, _ = await agent(mesh, "dead-letters")
        assert (code, out) == (0, "no task is parked.\n")

        await mesh.start_worker("w2")
        await mesh.submit("long", {"seconds": 60.0})
        moved, _ = await mesh.first("long", lambda one: one.state is TaskState.LEASED)
        assert isinstance(moved, TaskMoved)
        holder = moved.incarnation.partition(".")[0]
        for number in (1, 2):
            made = await document(mesh, "checkpoint", "long")
            assert (made["task"], made["number"], made["worker"]) == ("long", number, holder)
        other = "w2" if holder == "w1" else "w1"
        code, out, err = await agent(mesh, "drain", holder, "--now", "--reason", "it moves")
        assert code == 0, err
        assert f"{holder} gets no new tasks and hands on long." in out or f"{holder} is drained" in out
        await mesh.leased("long", other)
        assert await mesh.lost_leases("long") == ["given-back"]
        code, out, _ = await agent(mesh, "workers")
        assert any(line.split()[:2] == [holder, "drained"] for line in out.splitlines()), out
        code, out, _ = await agent(mesh, "drain", holder, "--undo")
        assert out == f"{holder} is back in service.\n"

        assert await document(mesh, "cancel", "long", "--reason", "enough") == {"canceled": ["long"]}
        assert (await mesh.ended("long")).reason == "enough"
        code, _, err = await agent(mesh, "cancel", "long")
        assert code == 6
        assert err == (
            "bin/agent cancel: no open task or topic is called 'long'; `bin/agent tasks --open` lists them.\n"
        )
        code, out, _ = await agent(mesh, "refused", home=holder)
        assert code == 0
