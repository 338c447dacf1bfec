"""The repository's source as data: files, modules, imports. What the rules of this folder read.

A `Tree` is made from the files that git knows (or would add), or from a made-up mapping, so that every rule can be
shown to bite. Nothing is imported or run: everything here is read with `ast`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mesh", "agents", "planner", "consensus", "executors", "retrieval", "console", "benchmarks")
TEXT_BYTES_MAX = 2_000_000  # larger tracked files are data, and no rule reads them
SKIPPED_FOLDERS = frozenset(
    {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "__pycache__"}
)


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, where, and under which circumstances."""

    name: str
    line: int
    for_types_only: bool  # inside `if TYPE_CHECKING:`


@dataclasses.dataclass(frozen=True)
class Tree:
    """Paths (relative, with forward slashes) and their text."""

    files: dict[str, str]

    @functools.cached_property
    def code(self) -> dict[str, ast.Module]:
        """Every Python file, parsed: packages, `bin/`, `tests/`."""
        return {path: ast.parse(text, path) for path, text in sorted(self.files.items()) if is_python(path, text)}

    @functools.cached_property
    def modules(self) -> dict[str, str]:
        """Dotted names of our modules and their paths."""
        return {module_name(path): path for path in self.code if path.split("/")[0] in PACKAGES}

    def under(self, *places: str) -> dict[str, ast.Module]:
        """The parsed files in these folders (`planner/`) or at these paths (`mesh/codec.py`)."""
        return {path: tree for path, tree in self.code.items() if path.startswith(places)}

    @functools.cached_property
    def imports(self) -> dict[str, list[Import]]:
        """What each file imports, anywhere in it; `from a import b` counts as `a.b` where that is a module of ours."""
        return {path: list(self._imports_of(path, tree)) for path, tree in self.code.items()}

    def _imports_of(self, path: str, tree: ast.Module) -> Iterator[Import]:
        typing_lines = set(lines_for_types_only(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = absolute_base(path, node)
                deeper = [f"{base}.{alias.name}" for alias in node.names]
                names = [name if name in self.modules else base for name in deeper]
            else:
                continue
            for name in dict.fromkeys(names):
                yield Import(name, node.lineno, node.lineno in typing_lines)

    def reached_from(self, *starts: str) -> set[str]:
        """Modules of ours that run when `starts` are imported, however deep, lazy imports included."""
        reached: set[str] = set()
        waiting = [name for name in starts if name in self.modules]
        while waiting:
            name = waiting.pop()
            if name in reached:
                continue
            reached.add(name)
            waiting += [parent for parent in parents(name) if parent in self.modules]
            for found in self.imports[self.modules[name]]:
                if not found.for_types_only and found.name in self.modules:
                    waiting.append(found.name)
        return reached


@functools.cache
def repository() -> Tree:
    """The tree as it stands: tracked files and those that git would add."""
    files = {}
    for path in sorted(listed_files()):
        if path.is_file() and path.stat().st_size <= TEXT_BYTES_MAX:
            try:
                files[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # data, not text
    return Tree(files)


def listed_files() -> list[Path]:
    """From git; in an unpacked archive without git, from the disk."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*") if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)]
    return [ROOT / name for name in listed.decode().split("\0") if name]


def is_python(path: str, text: str) -> bool:
    """True for `.py` files and for scripts that say so in their first line."""
    return path.endswith(".py") or (
        path.startswith("bin/") and text.startswith("#!") and "python" in text.split("\n")[0]
    )


def module_name(path: str) -> str:
    """mesh/messages/base.py is mesh.messages.base; a package's `__init__` is the package."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parents(name: str) -> list[str]:
    """The packages around a module."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def absolute_base(path: str, node: ast.ImportFrom) -> str:
    """The module that a `from` import names, relative ones resolved."""
    if not node.level:
        return node.module or ""
    package = path.removesuffix(".py").split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def lines_for_types_only(tree: ast.Module) -> Iterator[int]:
    """Line numbers inside `if TYPE_CHECKING:`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in node.body:
                yield from range(inner.lineno, (inner.end_lineno or inner.lineno) + 1)
