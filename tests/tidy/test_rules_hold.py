"""The invariants of the house, checked on the source as it stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.tidy import arrows, manners
from tests.tidy.source_tree import ROOT, repository

RULES = [
    arrows.agents_import_no_other_role,
    arrows.minds_import_words_only,
    arrows.minds_do_not_wait,
    arrows.outside_libraries_stay_in_their_adapters,
    arrows.agent_processes_stay_small,
    arrows.nothing_unpickles,
    arrows.imports_form_no_cycle,
    manners.only_subjects_spells_subjects,
    manners.only_codec_makes_records,
    manners.every_module_tells_its_story,
    manners.systems_differ_in_one_place,
    manners.no_shapeless_names,
    manners.lines_are_short,
    manners.functions_are_short,
    manners.most_functions_are_much_shorter,
    manners.no_trace_of_one_machine,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule):
    complaints = rule(repository())
    assert not complaints, "\n" + "\n".join(complaints)


def test_rules_read_something():
    """A tree read from the wrong place would satisfy every rule."""
    assert {"bin/agent", "tests/tidy/arrows.py"} <= set(repository().code)


def test_agent_processes_load_nothing_heavy():
    """The libraries that our modules import import others: what really gets loaded decides."""
    names = [
        name for name, path in repository().modules.items() if path.startswith(arrows.SMALL) and "__main__" not in name
    ]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted({set(arrows.HEAVY)!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=ROOT, env=python_path(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def python_path():
    """This process's environment, with the repository importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}
