"""Benchmarks are found by what they declare, without importing them."""

from __future__ import annotations

import pytest

from benchmarks import catalogue
from mesh.errors import InvariantBroken, NotFound

DECLARED = 'NAME = "{name}"\nWHY = "Because."\nimport a_peer_that_is_not_here\ndef run(frame): ...\n'


def test_the_main_job_is_there_and_can_be_loaded():
    assert callable(catalogue.named("main-job").load())


def test_a_benchmark_is_found_without_its_peers(tmp_path):
    (tmp_path / "one.py").write_text(DECLARED.format(name="first"))
    (tmp_path / "helper.py").write_text('NAME = "not-a-benchmark"\n')
    assert [(one.name, one.module) for one in catalogue.benchmarks(tmp_path, "there")] == [("first", "there.one")]


def test_two_benchmarks_of_one_name_are_a_defect(tmp_path):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(DECLARED.format(name="same"))
    with pytest.raises(InvariantBroken, match="same"):
        catalogue.benchmarks(tmp_path)


def test_a_near_miss_is_named():
    with pytest.raises(NotFound, match="did you mean 'main-job'"):
        catalogue.named("mainjob")
