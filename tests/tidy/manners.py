"""Rules about what files contain: subjects and bytes in one place, docstrings, sizes, no trace of one machine.

Every rule takes a `Tree` and returns complaints, one sentence each; an empty list means that the rule holds.
"""

from __future__ import annotations

import ast
import re

from tests.tidy.source_tree import PACKAGES, Tree

LINE_CHARACTERS_MAX = 120
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_P95_MAX = 45
FUNCTIONS_FOR_P95 = 100  # with fewer, the largest five percent are a handful and say nothing

# Functions above FUNCTION_LINES_MAX, as "path:name" and their length today. The list may only shrink.
LONG_FUNCTIONS: dict[str, int] = {}

SHAPELESS_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "stuff", "tools", "shared"})

# Split, so that this file does not contain what it looks for.
FOREIGN_PLACES = re.compile(
    "|".join(
        [
            r"(?<![\w.-])/" + r"work/(main|shared|\.library)",
            r"/" + r"root/",
            r"/" + r"tmp/team",
            r"/" + r"opt/(pypi|wheels)",
            r"pypi" + r"\.org",
            r"files\." + r"pythonhosted",
        ]
    )
)


def only_subjects_spells_subjects(tree: Tree) -> list[str]:
    """Subject names are built in mesh/subjects.py, from its own functions; its f-strings say which words are meant."""
    home = "mesh/subjects.py"
    if home not in tree.code:
        return []
    words = {match[1] for text, _ in literals(tree.code[home]) if (match := re.match(r"\{\}\.([a-z]+)(?:\.|$)", text))}
    any_word = "|".join(sorted(words))
    spelled = re.compile(rf"(?:\{{\}}|mesh)\.(?:{any_word})(?:\.|$)|\$KV\.")
    complaints = []
    for path, module in tree.under(*(f"{package}/" for package in PACKAGES)).items():
        for text, line in literals(module):
            if path != home and words and spelled.match(text):
                complaints.append(f"{path}:{line} spells the subject {text!r}: take it from {home}")
    return complaints


def only_codec_makes_records(tree: Tree) -> list[str]:
    """msgspec's own msgpack is as much a second border as the msgpack library."""
    complaints = []
    for path, module in tree.under(*(f"{package}/" for package in PACKAGES)).items():
        for node in ast.walk(module):
            named = isinstance(node, ast.Attribute) and ast.unparse(node) == "msgspec.msgpack"
            taken = isinstance(node, ast.ImportFrom | ast.Import) and "msgspec.msgpack" in full_names(node)
            if path != "mesh/codec.py" and (named or taken):
                complaints.append(
                    f"{path}:{node.lineno} uses msgspec.msgpack: only mesh/codec.py turns bytes into records"
                )
    return complaints


def every_module_tells_its_story(tree: Tree) -> list[str]:
    """Each Python file opens with a docstring."""
    return [f"{path} has no docstring" for path, module in tree.code.items() if not ast.get_docstring(module)]


def systems_differ_in_one_place(tree: Tree) -> list[str]:
    """Linux, macOS and Windows part ways in mesh/platform.py, and in bin/, which runs before it can be imported."""
    complaints = []
    for path, module in tree.under(*(f"{package}/" for package in PACKAGES)).items():
        for node in ast.walk(module):
            asked = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if path != "mesh/platform.py" and asked in ("sys.platform", "os.name", "platform.system"):
                complaints.append(f"{path}:{node.lineno} asks {asked}: what differs stands in mesh/platform.py")
    return complaints


def no_shapeless_names(tree: Tree) -> list[str]:
    """A file whose name fits anything collects everything."""
    return [
        f"{path}: name the file by what it holds"
        for path in tree.code
        if path.rsplit("/", 1)[-1].removesuffix(".py") in SHAPELESS_NAMES
    ]


def lines_are_short(tree: Tree) -> list[str]:
    """Code, shell scripts and settings stay within the line length."""
    complaints = []
    for path, text in tree.files.items():
        if path in tree.code or path.endswith((".toml", ".sh")) or path.startswith((".ci/", "bin/")):
            for number, line in enumerate(text.splitlines(), 1):
                if len(line) > LINE_CHARACTERS_MAX:
                    complaints.append(f"{path}:{number} has {len(line)} characters, {LINE_CHARACTERS_MAX} are allowed")
    return complaints


def functions_are_short(tree: Tree, allowed: dict[str, int] | None = None) -> list[str]:
    """No function above the limit but those on the list, and the list follows their shrinking."""
    allowed = LONG_FUNCTIONS if allowed is None else allowed
    lengths = function_lengths(tree)
    complaints = [
        f"{name} has {lines} lines, {allowed.get(name, FUNCTION_LINES_MAX)} are allowed: split it"
        for name, lines in lengths.items()
        if lines > allowed.get(name, FUNCTION_LINES_MAX)
    ]
    for name, lines in allowed.items():
        if lengths.get(name, 0) < lines:
            complaints.append(
                f"{name} has shrunk to {lengths.get(name, 0)} lines: lower or drop its entry in LONG_FUNCTIONS"
            )
    return complaints


def most_functions_are_much_shorter(tree: Tree) -> list[str]:
    """The 95th percentile keeps the limit from becoming the habit."""
    lengths = sorted(function_lengths(tree).values())
    if len(lengths) < FUNCTIONS_FOR_P95:
        return []
    p95 = lengths[int(0.95 * (len(lengths) - 1))]
    return [f"95% of functions have up to {p95} lines, {FUNCTION_LINES_P95_MAX} are aimed at"] * (
        p95 > FUNCTION_LINES_P95_MAX
    )


def function_lengths(tree: Tree) -> dict[str, int]:
    """Lines of every function outside the tests, its docstring not counted, by "path:name"."""
    lengths = {}
    for path, module in tree.code.items():
        if path.startswith("tests/"):
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node):
                    lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                lengths[f"{path}:{node.name}"] = lines
    return lengths


def no_trace_of_one_machine(tree: Tree) -> list[str]:
    """No path of the machine it was written on, no host of a package index: pip's configuration knows both."""
    complaints = []
    for path, text in tree.files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if found := FOREIGN_PLACES.search(line):
                complaints.append(f"{path}:{number} names {found[0]!r}")
    return complaints


def literals(module: ast.Module) -> list[tuple[str, int]]:
    """Every string in the code with its line, placeholders of f-strings as {}; docstrings and bare strings left out."""
    bare = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in node.values}
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            found.append(
                ("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values), node.lineno)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare | parts:
            found.append((node.value, node.lineno))
    return found


def full_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that an import statement names."""
    prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    return [prefix + alias.name for alias in node.names]
