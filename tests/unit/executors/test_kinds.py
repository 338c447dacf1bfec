"""The table of kinds: readable without libraries, open for installed packages, honest about what is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import msgspec
import pytest

from executors import kinds
from executors.port import Runtime
from mesh.errors import TaskRefused

LEAST = {
    "search-step": {
        "study": "s",
        "kind": "classify",
        "space": {"learning_rate": {"type": "log-float", "low": 1e-4, "high": 0.1}},
    },
    "replay": {"kind": "classify", "task": "t-1"},
}
"""Settings that have to be said; other kinds go without any."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    kinds.kind_infos.cache_clear()
    yield
    kinds.kind_infos.cache_clear()


def test_the_table_says_what_the_kinds_say() -> None:
    infos = kinds.kind_infos()
    assert {"noop", "profile", "baseline", "classify", "evaluate"} <= set(infos)
    for name, info in infos.items():
        kind = kinds.declared(info)
        assert (kind.name, kind.version, kind.runtime) == (name, info.version, info.runtime)
        assert kind.needs(msgspec.convert(LEAST.get(name, {}), kind.Settings), {}).memory_bytes > 0
    assert kinds.missing(infos["profile"]) == []


def test_a_kind_says_what_its_settings_take() -> None:
    facts = {"modality": "text", "rows": 5_000, "labels": 20, "bytes": 2_000_000}
    small, large = (kinds.needs_of("classify", {"hidden": [width]}, facts) for width in (32, 512))
    assert small is not None
    assert large is not None
    assert large.memory_bytes > 2 * small.memory_bytes
    assert large.disk_bytes > small.disk_bytes
    assert kinds.needs_of("classify", {"hidden": "wide"}, facts) is None
    assert kinds.needs_of("nobody's", {}, facts) is None


def test_the_table_imports_no_library() -> None:
    program = (
        "import sys; from executors import kinds\n"
        "for info in kinds.kind_infos().values(): kinds.missing(info), kinds.declared(info)\n"
        "print(sorted({'numpy', 'pyarrow', 'sklearn', 'torch', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **entries: str) -> None:
    """Pretend that a package offers these entry points, from the module `plugged_kinds`."""
    (folder / "plugged_kinds.py").write_text(
        "class Count:\n"
        "    name, version, runtime, requires = 'count', 3, 'light', ('no_such_package',)\n"
        "    def run(self, job, context): return None\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "plugged_kinds", raising=False)
    found = EntryPoints(EntryPoint(name, value, kinds.GROUP) for name, value in entries.items())
    monkeypatch.setattr(kinds, "entry_points", lambda group: found)


def test_an_installed_package_adds_a_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(
        monkeypatch,
        tmp_path,
        count="plugged_kinds",
        broken="no_such_module",
        noop="plugged_kinds:Count",
        odd="plugged_kinds",
    )
    infos = kinds.kind_infos()
    assert (infos["count"].attribute, infos["count"].version, infos["count"].runtime) == ("Count", 3, Runtime.LIGHT)
    assert kinds.missing(infos["count"]) == ["no_such_package"]
    assert infos["noop"].module == "executors.kinds.noop"
    assert "ModuleNotFoundError" in kinds.missing(infos["broken"])[0]
    assert "holds no kind" in kinds.missing(infos["odd"])[0]
    with pytest.raises(TaskRefused, match="no_such_package"):
        kinds.load("count")


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TaskRefused, match="noop"):
        kinds.load("unheard-of")
