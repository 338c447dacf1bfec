"""What `doctor` and `install` say of executor kinds: ours, and those of another installed distribution."""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.commands import doctor, install
from executors import kinds, mending
from executors.kinds import KindInfo
from executors.port import Runtime
from mesh.errors import EnvironmentUnfit

ROOT = Path(__file__).parents[3]

MODULE = """
from executors.port import Made, Runtime, Settings
from mesh.messages.tasks import Needs

class Shout:
    name, version, runtime, requires = "shout", 4, Runtime.LIGHT, {requires!r}
    Settings = Settings

    def needs(self, settings, facts):
        return Needs(cores=1.0, memory_bytes=1 << 20, disk_bytes=0)

    def run(self, job, context):
        return Made(kpis={{"loudness": 11.0}})
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    kinds.kind_infos.cache_clear()
    yield
    kinds.kind_infos.cache_clear()
    sys.modules.pop("lab_shouting", None)


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, requires: tuple[str, ...], offers: str) -> None:
    """What pip leaves behind: a module and a dist-info folder on the path."""
    facts = folder / "lab_kinds-1.2.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-kinds\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text(f"[ramify.kinds]\nshout = {offers}\n")
    (folder / "lab_shouting.py").write_text(MODULE.format(requires=requires))
    monkeypatch.syspath_prepend(str(folder))


def said() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.kinds()}


def test_a_kind_of_another_distribution_is_listed_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, (), "lab_shouting:Shout")
    found = said()
    assert (found["kind shout"].state, found["kind shout"].says) == ("ok", "version 4, of lab-kinds 1.2")
    assert found["kind noop"].says == "version 1, built in"
    assert kinds.load("shout").name == "shout"


@pytest.mark.parametrize(
    ("requires", "offers", "words"),
    [
        (("no_such_package",), "lab_shouting", r"lacks no_such_package: .* -m pip install (-c \S+ )?lab-kinds$"),
        ((), "lab_shouting:Whisper", r"lacks AttributeError: .*--force-reinstall --no-deps .*lab-kinds$"),
    ],
)
def test_what_it_lacks_comes_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requires: tuple[str, ...], offers: str, words: str
) -> None:
    installed(tmp_path, monkeypatch, requires, offers)
    finding = said()["kind shout"]
    assert finding.state == "note"
    assert re.search(words, finding.says), finding.says


def test_a_kind_without_its_optional_packages_names_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tune = KindInfo("tune", "executors.kinds.noop", "Noop", 1, Runtime.LIGHT, ("json", "no_such_peft"))
    monkeypatch.setattr(kinds, "kind_infos", lambda: {"tune": tune})
    monkeypatch.setattr(mending, "KINDS_GROUP", mending.KINDS_GROUP | {"no_such_peft"})
    finding = said()["kind tune"]
    assert finding.says == (
        "lacks no_such_peft: a worker here does not offer it; to mend it: bin/agent install kinds"
    )  # fmt: skip
    with pytest.raises(EnvironmentUnfit, match="of tune are not installed"):
        install.run(argparse.Namespace(group="kinds", json=None))
    assert "lacks no_such_peft" in capsys.readouterr().out


def test_an_incomplete_environment_is_made_again() -> None:
    assert mending.command(["torch"]).startswith("rm -r ")
    assert mending.command(["peft", "torch"]).startswith("rm -r ")
    assert mending.command(["peft"], distribution="lab-kinds") == mending.INSTALL_KINDS


def test_the_group_is_what_the_project_calls_so() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {re.split(r"[^\w-]", name)[0] for name in project["optional-dependencies"]["kinds"]} == mending.KINDS_GROUP
