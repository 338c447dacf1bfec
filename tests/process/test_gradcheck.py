"""`bin/agent gradcheck` as a person runs it, on a kind that another installed distribution brings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 110.0

pytestmark = pytest.mark.process

MODULE = """
from executors.port import Runtime, Settings


class Crooked:
    name, version, runtime, requires = "crooked", 2, Runtime.TORCH, ("torch",)
    Settings = Settings

    def needs(self, settings, facts):
        raise NotImplementedError

    def run(self, job, context):
        raise NotImplementedError

    def gradcheck_instance(self):
        import torch
        from executors.trainable import Base

        class Wrong(torch.autograd.Function):
            @staticmethod
            def forward(ctx, values):
                return values * values

            @staticmethod
            def backward(ctx, grads):
                return grads

        class Training(Base):
            network, rows = torch.nn.Linear(3, 2), 4

            def build(self, rows):
                return torch.ones(len(rows), 3)

            def targets(self, batch):
                return len(batch)

            def loss(self, batch):
                print("chatter of a library")
                return Wrong.apply(self.network(batch)).sum()

        return Training()
"""


def test_a_wrong_gradient_of_an_installed_kind_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    facts = tmp_path / "lab_crooked-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-crooked\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[ramify.kinds]\ncrooked = lab_crooked\n")
    (tmp_path / "lab_crooked.py").write_text(MODULE)
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agents", "gradcheck", "crooked", "--json", "-", "--home", str(tmp_path / "home")],
        capture_output=True, text=True, timeout=DEADLINE_S, env=environ, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert (report["kind"], report["version"], report["ok"]) == ("crooked", 2, False)
    assert {entry["tensor"] for entry in report["worst"]} == {"weight", "bias"}
    assert report["relative"] > 0.1
