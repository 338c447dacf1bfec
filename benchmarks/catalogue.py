"""The benchmarks there are: modules of this package that declare `NAME`, `WHY` and `run`.

They are found by reading, not by importing: listing them costs nothing, and one whose peers are not installed does not
keep the others from being listed.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import InvariantBroken, NotFound

if TYPE_CHECKING:
    from benchmarks.frame import Frame

FOLDER = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark: its name, its purpose in a sentence, its module."""

    name: str
    why: str
    module: str

    def load(self) -> Callable[[Frame], None]:
        """Its `run`; imports the module."""
        run: Callable[[Frame], None] = importlib.import_module(self.module).run
        return run


def benchmarks(folder: Path = FOLDER, package: str = "benchmarks") -> list[Benchmark]:
    """All benchmarks by name. InvariantBroken when two of them share one."""
    found: dict[str, Benchmark] = {}
    for path in sorted(folder.glob("*.py")):
        declared = _declared(path)
        if declared is None:
            continue
        name, why = declared
        if name in found:
            raise InvariantBroken(f"{path.name} and {found[name].module} both declare the benchmark {name!r}.")
        found[name] = Benchmark(name, why, f"{package}.{path.stem}")
    return [found[name] for name in sorted(found)]


def named(name: str) -> Benchmark:
    """The benchmark of that name. NotFound with the nearest one when there is none."""
    known = {one.name: one for one in benchmarks()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise NotFound(f"there is no benchmark {name[:60]!r}; {hint}`bin/agent bench list` lists them all.")


def _declared(path: Path) -> tuple[str, str] | None:
    """NAME and WHY of a module that also defines `run`; None for other modules."""
    module = ast.parse(path.read_text(encoding="utf-8"), str(path))
    texts: dict[str, str] = {}
    runs = False
    for node in module.body:
        runs = runs or (isinstance(node, ast.FunctionDef) and node.name == "run")
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            texts.update({ast.unparse(target): node.value.value for target in node.targets})
    return (texts["NAME"], texts["WHY"]) if runs and {"NAME", "WHY"} <= texts.keys() else None
