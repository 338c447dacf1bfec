"""The kind `profile`: its facts, its manners, what it says of the tasks after it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgpack
import msgspec
import pytest

from executors import kinds
from executors.kinds.profile import Profile, ProfileSettings, needs_of_kinds
from executors.port import Stopped
from mesh.errors import DataRefused
from planner.profile import Profile as PlannersProfile
from tests.support.datasets import Watching, job, profile, questions, table, written


def test_the_facts(tmp_path: Path) -> None:
    path = written(tmp_path / "data.csv", table(questions(600)))
    facts = profile(path, tmp_path).facts
    assert (facts["task"], facts["modality"], facts["rows"], facts["labels"]) == ("classify", "text", 600, 3)
    assert facts["label_digest"] == hashlib.sha256(b"card\nfees\nloan").hexdigest()
    assert facts["label_names"] == ["card", "fees", "loan"]
    assert sum(facts["splits"].values()) == facts["examples"] == 600
    assert set(facts["keywords"][:3]) == {"card", "fees", "loan"}
    assert (facts["imbalance"], facts["warnings"], facts["bytes"]) == (1.0, [], path.stat().st_size)
    checked = PlannersProfile.of(facts)
    assert checked.fits == "text"
    assert set(checked.needs) == {"classify", "baseline", "evaluate"}
    assert all(400 << 20 < checked.needs_of(kind).memory_bytes < 1 << 30 for kind in ("classify", "evaluate"))


def test_who_wants_an_adapter_gets_the_same_splits_under_another_task(tmp_path: Path) -> None:
    path = written(tmp_path / "data.csv", table(questions(600)))
    plain, adapted = profile(path, tmp_path), profile(path, tmp_path, task="lora")
    assert adapted.facts["task"] == "lora"
    assert adapted.facts["splits"] == plain.facts["splits"]
    assert set(PlannersProfile.of(adapted.facts).needs) == {"lora", "baseline", "evaluate"}
    corpus = tmp_path / "notes.md"
    corpus.write_text("\n\n".join(f"# {n}\n\nOf rivers and boats, {n} times told. " + f"{n} " * 400 for n in range(60)))
    found = PlannersProfile.of(profile(corpus, tmp_path, task="lora").facts)
    assert (found.task, found.modality, found.labels) == ("lora", "corpus", 0)
    numbers = "\n".join(f"{k % 7}.5,{k % 11},{'yes' if k % 3 else 'no'}" for k in range(300))
    with pytest.raises(DataRefused, match="leave out --task lora"):
        profile(written(tmp_path / "t.csv", f"a,b,label\n{numbers}\n".encode()), tmp_path, task="lora")


def test_the_form_of_a_table_depends_on_its_columns_alone(tmp_path: Path) -> None:
    def fits(name: str, columns: str, times: int) -> str:
        rows = "\n".join(f"{k * times % 7}.5,{k % 11},{'yes' if k % 3 else 'no'}" for k in range(300))
        path = written(tmp_path / f"{name}.csv", f"{columns}\n{rows}\n".encode())
        return PlannersProfile.of(profile(path, tmp_path).facts).fits

    one = fits("one", "width,height,label", 1)
    assert one.startswith("tabular, 2 inputs, ")
    assert fits("other", "width,height,label", 3) == one
    assert fits("renamed", "width,depth,label", 1) != one


def test_facts_are_bounded(tmp_path: Path) -> None:
    rows = [
        (f"{text} {'long ' * 50}", f"{label} {k % 300} {'x' * 150}") for k, (text, label) in enumerate(questions(3_000))
    ]
    facts = profile(written(tmp_path / "data.csv", table(rows)), tmp_path).facts
    assert (facts["labels"], len(facts["label_names"])) == (300, 100)
    assert len(msgpack.packb(facts)) < 48 * 1024
    assert PlannersProfile.of(facts).labels == 300


def test_label_names_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    rows = [(text, str(k % 12)) for k, (text, _) in enumerate(questions())]
    facts = profile(written(tmp_path / "data.csv", table(rows)), tmp_path).facts
    assert facts["label_names"] == [str(k) for k in range(12)]


def test_unbalanced_labels_are_told(tmp_path: Path) -> None:
    rows = [(text, "yes" if k % 50 == 0 else "no") for k, (text, _) in enumerate(questions(1_000))]
    facts = profile(written(tmp_path / "data.csv", table(rows)), tmp_path).facts
    assert facts["imbalance"] == 49.0
    assert any("98 % of the examples have the label 'no'" in warning for warning in facts["warnings"])


def test_it_reports_and_stops_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "data.csv", table(questions(600)))
    watching = Watching()
    Profile().run(job(tmp_path / "a", ProfileSettings(), inputs={"data": str(path)}), watching)
    done = [share for _, share, _ in watching.reports]
    assert done == sorted(done)
    assert [phase for _, _, phase in watching.reports][:: len(done) - 1] == ["reading", "splits"]
    with pytest.raises(Stopped):
        Profile().run(job(tmp_path / "b", ProfileSettings(), inputs={"data": str(path)}), Watching(stop_after=2))


def test_settings_and_needs() -> None:
    with pytest.raises(ValueError, match="salt"):
        ProfileSettings(salt="")
    small, large = (Profile().needs(ProfileSettings(), {"bytes": size}) for size in (0, 1 << 30))
    assert small.memory_bytes < 320 * 1024 * 1024
    assert large.memory_bytes < 6 * (1 << 30)


def test_needs_are_the_kinds_own(tmp_path: Path) -> None:
    facts = {"modality": "tabular", "examples": 1_000_000, "features": 100, "labels": 2, "bytes": 400_000_000}
    needs = needs_of_kinds(facts)
    for name, kind in ((name, kinds.load(name)) for name in needs):
        assert needs[name] == msgspec.to_builtins(kind.needs(kind.Settings(), facts))
    assert needs["classify"]["memory_bytes"] > 1_000_000_000
