"""Data that needs no download: scikit-learn's handwritten digits, and the docstrings of the running Python's own
library.

    `builtin:digits`       1,797 images of 8 x 8 grey values, ten labels (tabular, 64 numbers).
    `builtin:python-docs`  docstrings of modules, classes and functions, read with `ast` (nothing is imported), labelled
                           by top-level package; short ones and packages with few are left out; rows of one source file
                           form one cluster. Another Python version has other docstrings.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from executors.datasets import look
from executors.datasets.table import Columns, Progress, Table
from mesh.errors import DataRefused

DOC_CHARS_MIN = 40
"""A shorter docstring says too little to tell its package."""

DOCS_PER_PACKAGE_MIN = 40
"""Fewer leave next to nothing for validation and holdout."""

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload", "pydoc_data"}
_SOURCE_BYTES_MAX = 2_000_000


def read(name: str, progress: Progress) -> Table:
    """The built-in data set `name` (without `builtin:`)."""
    if name == "digits":
        return _digits(progress)
    if name == "python-docs":
        return _python_docs(Path(sysconfig.get_path("stdlib")), progress)
    raise DataRefused(
        f"there is no built-in data set {name!r}: there are builtin:{' and builtin:'.join(look.BUILTINS)}"
    )


def _digits(progress: Progress) -> Table:
    from sklearn.datasets import load_digits

    data = load_digits()
    progress(1.0)
    columns = [pa.chunked_array([pa.array(values)]) for values in np.asarray(data.data, dtype=np.float64).T]
    labels = pa.chunked_array([pa.array([str(label) for label in data.target], type=pa.large_string())])
    return Table(
        names=[*data.feature_names, "digit"],
        columns=[*columns, labels],
        label="digit",
        bytes_read=int(data.data.nbytes),
    )


def _python_docs(library: Path, progress: Progress) -> Table:
    found: list[tuple[str, str, int]] = []
    sources = list(_sources(library))
    for number, (package, path) in enumerate(sources):
        found += [(package, text, number) for text in _docstrings(path)]
        progress(number / len(sources))
    counts = Counter(package for package, _, _ in found)
    kept = [row for row in found if counts[row[0]] >= DOCS_PER_PACKAGE_MIN]
    if not kept:
        raise DataRefused(
            f"this Python's library at {str(library)!r} has no sources to read: install them, or use builtin:digits"
        )
    columns = Columns(["text", "package"])
    columns.extend([[text for _, text, _ in kept], [package for package, _, _ in kept]])
    table = Table(names=["text", "package"], columns=columns.arrays(), label="package", texts=("text",))
    table.clusters = np.array([number for _, _, number in kept], dtype=np.int32)
    table.bytes_read = sum(len(text) for _, text, _ in kept)
    table.dropped = {f"package with fewer than {DOCS_PER_PACKAGE_MIN} docstrings": len(found) - len(kept)}
    return table


def _sources(library: Path) -> Iterator[tuple[str, Path]]:
    """(top-level package, file) of every module of the standard library, in order."""
    for entry in sorted(library.iterdir()):
        if entry.suffix == ".py" and not entry.stem.startswith("_sysconfigdata"):
            yield entry.stem, entry
        elif entry.is_dir() and entry.name not in _SKIPPED and (entry / "__init__.py").exists():
            for path in sorted(entry.rglob("*.py")):
                if not _SKIPPED & set(path.relative_to(library).parts):
                    yield entry.name, path


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a file that are long enough; nothing from a file that does not parse."""
    try:
        if path.stat().st_size > _SOURCE_BYTES_MAX:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) >= DOC_CHARS_MIN:
                yield text
