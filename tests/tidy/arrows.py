"""Rules about imports: the rings of the house, its few doors to the outside, and no way round in a circle.

Every rule takes a `Tree` and returns complaints, one sentence each; an empty list means that the rule holds.
"""

from __future__ import annotations

import ast
import sys

from tests.tidy.source_tree import Tree, module_name

MINDS = ("planner/", "consensus/", "retrieval/choices.py")  # the rest of retrieval/ computes: hands
WORDS = ("mesh.messages", "mesh.errors", "mesh.limits")
ROLES = ("planner", "scheduler", "worker", "consensus", "gate", "feeder", "gateway")
AGENT_DOORS = ("agents.cli", "agents.commands", "agents.__main__")  # they start roles, so they may import them

# Standard library modules that wait, look at the clock, touch the system, or speak to people.
NOT_FOR_MINDS = frozenset(
    {
        "asyncio",
        "concurrent",
        "ctypes",
        "datetime",
        "fcntl",
        "http",
        "io",
        "logging",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "platform",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
        "warnings",
    }
)
HEAVY = frozenset(
    {
        "torch",
        "numpy",
        "scipy",
        "sklearn",
        "pyarrow",
        "faiss",
        "safetensors",
        "optuna",
        "pandas",
        "transformers",
        "peft",
        "joblib",
        "bm25s",
        "onnx",
        "onnxruntime",
        "tokenizers",
    }
)
SMALL = ("agents/", "mesh/", "planner/", "consensus/")  # what lives in agent processes
UNPICKLERS = frozenset({"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"})

# The adapters: who may import which client library.
ALLOWED_IMPORTERS = {
    "nats": {
        "mesh/broker.py",
        "mesh/broker_client.py",
        "mesh/broker_dial.py",
        "mesh/broker_link.py",
        "mesh/broker_parser.py",
    },
    "nkeys": {"mesh/broker.py", "mesh/nkeypairs.py"},
    "faiss": {"retrieval/vectors.py", "retrieval/stored.py"},
    "msgpack": {"mesh/codec.py"},
    "obstore": {"mesh/objects_s3.py"},
    "zstandard": {"mesh/coding.py"},
}


def agents_import_no_other_role(tree: Tree) -> list[str]:
    """An agent speaks with another through the mesh only. Shared agent code knows no role either."""
    complaints = []
    for path in tree.under("agents/"):
        name = module_name(path)
        if name.startswith(AGENT_DOORS):
            continue
        for found in tree.imports[path]:
            role = role_of(found.name)
            if role and role != role_of(name):
                complaints.append(f"{path}:{found.line} imports {found.name}: send the {role} a message instead")
    return complaints


def role_of(name: str) -> str:
    """agents.worker, agents.worker.task and agents.worker_task all belong to the worker; '' for shared code."""
    parts = name.split(".")
    if len(parts) < 2 or parts[0] != "agents":
        return ""
    return next((role for role in ROLES if parts[1] == role or parts[1].startswith(role + "_")), "")


def minds_import_words_only(tree: Tree) -> list[str]:
    """A mind knows the words, its own package, and the calculating half of the standard library."""
    complaints = []
    for path in tree.under(*MINDS):
        own = path.split("/")[0]
        for found in tree.imports[path]:
            top = found.name.split(".")[0]
            if top == own or found.name in ("mesh", "__future__") or found.name.startswith(WORDS):
                continue
            if top not in sys.stdlib_module_names or top in NOT_FOR_MINDS:
                complaints.append(f"{path}:{found.line} imports {found.name}: a mind decides from what it is given")
    return complaints


def minds_do_not_wait(tree: Tree) -> list[str]:
    """No await, no input or output, no generator of random numbers that nobody seeded."""
    complaints = []
    for path, module in tree.under(*MINDS).items():
        for node in ast.walk(module):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                complaints.append(f"{path}:{node.lineno} awaits: the agent performs, the mind decides")
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("open", "print", "input")
            ):
                complaints.append(f"{path}:{node.lineno} calls {node.func.id}(): minds do no input or output")
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random" and node.attr != "Random":
                complaints.append(f"{path}:{node.lineno} uses random.{node.attr}: take a seeded random.Random")
    return complaints


def outside_libraries_stay_in_their_adapters(tree: Tree) -> list[str]:
    """Who imports nats, nkeys, msgpack, zstandard or faiss is on a list."""
    complaints = []
    for path, imports in tree.imports.items():
        if path.startswith(("tests/", "benchmarks/")):
            continue
        for found in imports:
            allowed = ALLOWED_IMPORTERS.get(found.name.split(".")[0])
            if allowed is not None and path not in allowed:
                complaints.append(f"{path}:{found.line} imports {found.name}: only {', '.join(sorted(allowed))} may")
    return complaints


def agent_processes_stay_small(tree: Tree) -> list[str]:
    """Nothing that an agent process can reach imports torch, numpy and the like; only the child's code does."""
    heavy = {name: found for name, path in tree.modules.items() for found in tree.imports[path] if is_heavy(found.name)}
    small = [name for name, path in tree.modules.items() if path.startswith(SMALL)]
    complaints = [
        f"{tree.modules[name]}:{heavy[name].line} imports {heavy[name].name} and is reached from an agent's process"
        for name in sorted(tree.reached_from(*small) & set(heavy))
    ]
    if "executors.child" in tree.modules:
        kinds = [name for name in tree.modules if name.startswith("executors.kinds")]
        childs = tree.reached_from("executors.child", *kinds)
        for name in sorted(set(heavy) - childs):
            if name.startswith("executors"):
                complaints.append(
                    f"{tree.modules[name]} imports {heavy[name].name} and is not reached from executors/child.py"
                )
    return complaints


def is_heavy(name: str) -> bool:
    """True for libraries that cost an agent tens of megabytes."""
    return name.split(".")[0] in HEAVY


def nothing_unpickles(tree: Tree) -> list[str]:
    """No pickle in any form, no torch.load, no eval or exec of text."""
    complaints = []
    for path, module in tree.code.items():
        if path.startswith("tests/"):
            continue
        for found in tree.imports[path]:
            if found.name.split(".")[0] in UNPICKLERS:
                complaints.append(
                    f"{path}:{found.line} imports {found.name}: tensors travel as safetensors, records as msgpack"
                )
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save", "eval", "exec"):
                complaints.append(f"{path}:{node.lineno} calls {ast.unparse(node.func)}(): it runs what it reads")
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                complaints.append(f"{path}:{node.value.lineno} allows pickle")
    return complaints


def imports_form_no_cycle(tree: Tree) -> list[str]:
    """Whoever follows the imports never comes back. Imports for type checkers only are not followed: they never run."""
    arrows = {
        name: {found.name for found in tree.imports[path] if found.name in tree.modules and not found.for_types_only}
        - {name}
        for name, path in tree.modules.items()
    }
    complaints = []
    while leaves := {name for name, targets in arrows.items() if not targets & set(arrows)}:
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}
    if arrows:  # what is left lies on a cycle or leads to one: walk until a name repeats
        walk = [min(arrows)]
        while len(walk) == len(set(walk)):
            walk.append(min(arrows[walk[-1]] & set(arrows)))
        complaints.append("imports go in a circle: " + " -> ".join(walk[walk.index(walk[-1]) :]))
    return complaints
