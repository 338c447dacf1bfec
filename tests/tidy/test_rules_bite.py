"""Every rule finds the violation that it exists for, and leaves the lawful neighbour alone."""

from __future__ import annotations

import pytest

from tests.tidy import arrows, manners
from tests.tidy.source_tree import Tree

SUBJECTS = 'def ledger(self):\n    return f"{self.prefix}.ledger"\n'

# rule, a made-up tree that breaks it, a made-up tree that does not
CASES = [
    (
        arrows.agents_import_no_other_role,
        {"agents/worker.py": "from agents.gate import x", "agents/gate.py": ""},
        {
            "agents/worker.py": "from agents.worker_task import x",
            "agents/cli.py": "import agents.gate",
            "agents/gate.py": "",
        },
    ),
    (
        arrows.agents_import_no_other_role,
        {"agents/runtime.py": "from agents import worker", "agents/worker.py": ""},
        {"agents/worker.py": "from agents import runtime", "agents/runtime.py": ""},
    ),
    (
        arrows.minds_import_words_only,
        {"planner/a.py": "from mesh import broker", "mesh/broker.py": ""},
        {
            "planner/a.py": "from mesh import limits\nimport math\nfrom planner import b",
            "mesh/limits.py": "",
            "planner/b.py": "",
        },
    ),
    (
        arrows.minds_import_words_only,
        {"consensus/a.py": "from time import monotonic"},
        {"consensus/a.py": "import heapq"},
    ),
    (arrows.minds_import_words_only, {"consensus/a.py": "import numpy"}, {"executors/a.py": "import numpy"}),
    (arrows.minds_import_words_only, {"planner/a.py": "import consensus.b"}, {"planner/a.py": "from . import b"}),
    (arrows.minds_do_not_wait, {"planner/a.py": "async def f(): pass"}, {"agents/a.py": "async def f(): pass"}),
    (arrows.minds_do_not_wait, {"planner/a.py": "print(1)"}, {"planner/a.py": "format(1)"}),
    (arrows.minds_do_not_wait, {"planner/a.py": "random.shuffle(x)"}, {"planner/a.py": "random.Random(1).shuffle(x)"}),
    (
        arrows.outside_libraries_stay_in_their_adapters,
        {"agents/a.py": "from nats.errors import Error"},
        {"mesh/broker.py": "import nats", "tests/a.py": "import nats"},
    ),
    (
        arrows.outside_libraries_stay_in_their_adapters,
        {"mesh/outbox.py": "import msgpack"},
        {"mesh/codec.py": "import msgpack"},
    ),
    (
        arrows.agent_processes_stay_small,
        {"agents/a.py": "def f():\n    from executors import b", "executors/b.py": "import torch"},
        {"agents/a.py": "from executors import port", "executors/port.py": "", "executors/b.py": "import torch"},
    ),
    (
        arrows.agent_processes_stay_small,
        {"executors/child.py": "", "executors/b.py": "import numpy"},
        {"executors/child.py": "import executors.b", "executors/b.py": "import numpy"},
    ),
    (arrows.nothing_unpickles, {"mesh/a.py": "import pickle"}, {"mesh/a.py": "import json"}),
    (arrows.nothing_unpickles, {"executors/a.py": "torch.load(path)"}, {"executors/a.py": "model.eval()"}),
    (
        arrows.nothing_unpickles,
        {"executors/a.py": "load(p, allow_pickle=True)"},
        {"executors/a.py": "load(p, allow_pickle=False)"},
    ),
    (
        arrows.imports_form_no_cycle,
        {"mesh/a.py": "import mesh.b", "mesh/b.py": "def f():\n    import mesh.c", "mesh/c.py": "from mesh import a"},
        {"mesh/a.py": "import mesh.b", "mesh/b.py": "if TYPE_CHECKING:\n    import mesh.a"},
    ),
    (
        manners.only_subjects_spells_subjects,
        {"mesh/subjects.py": SUBJECTS, "agents/a.py": 'y = f"{prefix}.ledger.x"'},
        {"mesh/subjects.py": SUBJECTS, "agents/a.py": '"""mesh.ledger"""\ny = "the ledger"'},
    ),
    (
        manners.only_codec_makes_records,
        {"mesh/a.py": "import msgspec\nmsgspec.msgpack.encode(1)"},
        {"mesh/codec.py": "import msgspec\nmsgspec.msgpack.encode(1)", "mesh/a.py": "msgspec.to_builtins(1)"},
    ),
    (manners.every_module_tells_its_story, {"mesh/a.py": "x = 1"}, {"mesh/a.py": '"""Why."""'}),
    (
        manners.systems_differ_in_one_place,
        {"executors/isolation.py": "if sys.platform == 'win32': pass"},
        {"mesh/platform.py": "if sys.platform == 'win32': pass", "bin/bootstrap.py": "os.name"},
    ),
    (manners.no_shapeless_names, {"mesh/utils.py": ""}, {"mesh/outbox.py": ""}),
    (manners.lines_are_short, {"mesh/a.py": "x" * 121}, {"mesh/a.py": "x" * 120, "docs/a.md": "x" * 200}),
    (
        manners.functions_are_short,
        {"mesh/a.py": "def f():\n" + "    x\n" * 60},
        {"mesh/a.py": "def f():\n" + "    x\n" * 59},
    ),
    (
        manners.most_functions_are_much_shorter,
        {"mesh/a.py": "".join(f"def f{i}():\n" + "    x\n" * 50 for i in range(100))},
        {"mesh/a.py": "".join(f"def f{i}():\n" + "    x\n" * 9 for i in range(100))},
    ),
    (
        manners.no_trace_of_one_machine,
        {"README.md": "https://pypi" + ".org/simple"},
        {"README.md": "the package index"},
    ),
    (
        manners.no_trace_of_one_machine,
        {"docs/a.md": "see /" + "work/main/x"},
        {"docs/a.md": "see network/work/maintenance"},
    ),
]


@pytest.mark.parametrize(("rule", "broken", "lawful"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_rule_bites(rule, broken, lawful):
    assert rule(Tree(broken))
    assert rule(Tree(lawful)) == []


def test_the_list_of_long_functions_shrinks():
    tree = Tree({"mesh/a.py": "def f():\n" + "    x\n" * 69})
    assert manners.functions_are_short(tree, {"mesh/a.py:f": 70}) == []
    assert "shrunk" in manners.functions_are_short(tree, {"mesh/a.py:f": 80})[0]


@pytest.mark.parametrize("rule", {rule for rule, _, _ in CASES}, ids=lambda rule: rule.__name__)
def test_an_empty_tree_is_lawful(rule):
    assert rule(Tree({})) == []
