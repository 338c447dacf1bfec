"""What brings the packages that a kind lacks on this machine: one command, as a person would type it.

a package of the locked group `kinds`      bin/agent install kinds
a kind of another distribution             pip, for that distribution, held to the versions that the lock names
anything else                              the environment itself is incomplete: made again
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path

KINDS_GROUP = frozenset({"bm25s", "onnx", "onnxruntime", "optuna", "peft", "tokenizers", "transformers"})
"""Top-level packages that `bin/agent install kinds` installs; a test compares it with the project's extra."""

INSTALL_KINDS = "bin/agent install kinds"


def command(lacking: Collection[str], *, distribution: str = "", problem: str = "") -> str:
    """The command for a kind that lacks these top-level packages, or whose module can not be read (`problem`).

    distribution: the installed package that offers the kind; '' for one of ours.
    """
    if lacking and KINDS_GROUP.issuperset(lacking):
        return INSTALL_KINDS
    if distribution:
        again = "--force-reinstall --no-deps " if problem and not lacking else ""
        return f"{_pip()} install {again}{_constraints()}{distribution}"
    return f"rm -r {_shown(Path(sys.prefix))} && bin/agent doctor"


def _pip() -> str:
    return f"{_shown(Path(sys.executable))} -m pip"


def _constraints() -> str:
    """The lock as pip's constraints, where the environment was made by bin/agent."""
    path = Path(sys.prefix) / "constraints.txt"
    return f"-c {_shown(path)} " if path.exists() else ""


def _shown(path: Path) -> str:
    """Short where it lies below the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
