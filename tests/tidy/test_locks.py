"""The locks, the project's metadata and the bootstrap agree, and the door still opens for an old Python."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.tidy.source_tree import ROOT, repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> dict[str, list[Requirement]]:
    """The locked requirements of a file by their normalised name."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip(" \\"))
            found.setdefault(re.sub(r"[-_.]+", "-", requirement.name).lower(), []).append(requirement)
    return found


def version_of(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


@pytest.mark.parametrize(
    ("lock", "dependencies"),
    [("runtime.txt", PROJECT["dependencies"]), ("kinds.txt", PROJECT["optional-dependencies"]["kinds"])],
)
@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_lock_answers_every_dependency_once(python, system, lock, dependencies):
    locked = pins(lock)
    place = {
        **default_environment(),
        "python_full_version": python,
        "python_version": python[:4],
        "sys_platform": system,
    }
    for wanted in map(Requirement, dependencies):
        if wanted.name != "torch":
            here = [pin for pin in locked[wanted.name] if pin.marker is None or pin.marker.evaluate(place)]
            assert len(here) == 1, f"{wanted.name} is locked {len(here)} times for Python {python} on {system}"
            assert wanted.specifier.contains(version_of(here[0]))


def test_torch_has_one_version_and_no_lock():
    assert [str(pin) for pin in pins("torch.txt")["torch"]] == [
        dependency for dependency in PROJECT["dependencies"] if dependency.startswith("torch")
    ]
    for name in ("runtime.txt", "kinds.txt", "dev.txt"):
        assert "torch" not in pins(name)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [("runtime.txt", "build.txt"), ("runtime.txt", "kinds.txt"), ("runtime.txt", "dev.txt"), ("kinds.txt", "dev.txt")],
)
def test_later_locks_keep_the_versions_of_the_first(earlier, later):
    before = pins(earlier)
    for package, found in pins(later).items():
        if package in before:
            assert {version_of(pin) for pin in found} <= {version_of(pin) for pin in before[package]}, package


def test_the_extra_and_the_lock_are_of_the_same_packages():
    wanted = (ROOT / "requirements" / "kinds.in").read_text("utf-8").splitlines()
    assert [line for line in wanted if not line.startswith("#")] == PROJECT["optional-dependencies"]["kinds"]


@pytest.mark.parametrize("name", ["build.txt", "runtime.txt", "kinds.txt", "dev.txt"])
def test_locks_hold_hashes_and_no_address(name):
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    assert "://" not in text
    for block in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_supported_pythons_are_named_alike():
    sys.path.insert(0, str(ROOT / "bin"))
    try:
        import environment
    finally:
        sys.path.remove(str(ROOT / "bin"))
    first, last = environment.SUPPORTED[0], environment.SUPPORTED[-1]
    assert PROJECT["requires-python"] == f">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"


@pytest.mark.parametrize("path", ["bin/agent", "bin/test", "bin/environment.py"])
def test_the_door_parses_on_python_3_6(path):
    """It has to get as far as its sentence."""
    text = repository().files[path]
    ast.parse(text, path, feature_version=(3, 6))
    assert "from __future__ import annotations" not in text  # Python 3.6 does not know it
