"""What the main job's benchmark reads: roles from command lines, a status document, a result document."""

from __future__ import annotations

import pytest

from benchmarks import main_job
from benchmarks.frame import Frame
from benchmarks.processes import MB, Seen


def seen(pid: int, megabytes: float, *command: str) -> Seen:
    return Seen(pid, 0.0, command, int(megabytes * MB), 0.0)


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["/v/bin/python", "-P", "-m", "agents", "scheduler"], "scheduler"),
        (["/v/bin/python", "-P", "-m", "agents", "up", "--home", "/tmp/x"], "up"),
        (["/v/bin/python", "-P", "-m", "executors.child", "7"], "worker's children"),
        (["/x/nats-server", "-c", "/tmp/x/broker.conf"], "nats-server"),
        ([], "unnamed"),
    ],
)
def test_roles_are_read_from_command_lines(command, role):
    assert main_job.role_of(command) == role


def test_memory_is_summed_by_role_and_judged_without_the_worker():
    frame = Frame(quick=True)
    main_job.memory(
        frame,
        [
            seen(1, 50, "python", "-m", "agents", "scheduler"),
            seen(2, 70, "python", "-m", "agents", "gate"),
            seen(3, 60, "python", "-m", "agents", "worker"),
            seen(4, 40, "python", "-m", "agents", "worker"),
        ],
    )
    assert [(row.who, row.value) for row in frame.rows] == [("gate", 70), ("scheduler", 50), ("worker", 100)]
    assert [(aim.got, aim.met) for aim in frame.aims] == [(70, True)]


def test_a_mesh_is_complete_with_all_roles():
    agents = [{"role": role} for role in main_job.ROLES]
    assert main_job.roles_missing({"agents": agents, "workers": [{}]}) == []
    assert main_job.roles_missing({"agents": agents[:-1], "workers": []}) == ["gate", "worker"]


def test_a_broken_result_document_is_no_result(tmp_path):
    path = tmp_path / "result.json"
    assert main_job.document_in(path) == {}
    path.write_text("[1]")
    assert main_job.document_in(path) == {}
