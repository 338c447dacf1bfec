"""An index on disk: what comes back answers alike; what was changed, cut or mislabelled never reaches FAISS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import ArtifactCorrupt
from retrieval import stored
from retrieval.choices import FAMILIES
from tests.unit.retrieval.test_vectors import built, corpus


@pytest.mark.parametrize("family", FAMILIES)
def test_what_comes_back_answers_alike(tmp_path: Path, family: str) -> None:
    index = built(family, "l2")
    again = stored.load(stored.save(index, tmp_path / "index", {"why": "a test"}))
    assert again.spec == index.spec
    assert again.seed == index.seed
    for got, wanted in zip(again.search(corpus(9, 5), 4), index.search(corpus(9, 5), 4), strict=True):
        assert got.tolist() == wanted.tolist()
    assert stored.read_manifest(tmp_path / "index")["facts"] == {"why": "a test"}


def test_a_loaded_index_takes_more_vectors(tmp_path: Path) -> None:
    again = stored.load(stored.save(built("ivf"), tmp_path / "index"))
    again.add(corpus(30, seed=8))
    assert again.search(corpus(30, seed=8)[:1], 1)[0].tolist() == [[600]]


@pytest.mark.parametrize("name", [stored.BODY, stored.IDS])
def test_a_changed_byte_is_seen_before_faiss_reads_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored.save(built("flat"), tmp_path / "index")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)

    def never(_: Any) -> None:
        raise AssertionError("FAISS read bytes that nobody verified")

    monkeypatch.setattr("faiss.deserialize_index", never)
    with pytest.raises(ArtifactCorrupt, match=f"{name} does not have the digest"):
        stored.load(folder)


def test_a_cut_or_oversized_index_is_not_read(tmp_path: Path) -> None:
    folder = stored.save(built("flat"), tmp_path / "index")
    with pytest.raises(ArtifactCorrupt, match="at most 100"):
        stored.load(folder, bytes_max=100)
    (folder / stored.BODY).write_bytes((folder / stored.BODY).read_bytes()[:-1])
    with pytest.raises(ArtifactCorrupt, match="expected"):
        stored.load(folder)


def changed(folder: Path, **changes: Any) -> Path:
    manifest = json.loads((folder / stored.MANIFEST).read_text())
    for name, value in changes.items():
        manifest[name] = {**manifest[name], **value} if isinstance(value, dict) else value
    (folder / stored.MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 9}, "reads indexes of format 1, got 9"),
        ({"rows": 3}, "expected a flat index of 3 vectors"),
        ({"rows": "many"}, "rows and files"),
        ({"spec": {"dimension": 17}}, "of 17 numbers"),
        ({"spec": {"family": "hnsw"}}, "describes no index"),
        ({"spec": {"shape": 1}}, "describes no index"),
        ({"spec": {"metric": "l2"}}, "expected a flat index"),
        ({"files": {stored.BODY: None}}, "can not be read"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=said):
        stored.load(changed(stored.save(built("flat"), tmp_path / "index"), **changes))


def test_a_folder_without_a_manifest_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"expected index.json of an index"):
        stored.load(tmp_path)
    (tmp_path / "index.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactCorrupt, match=r"expected index.json of an index"):
        stored.load(tmp_path)
