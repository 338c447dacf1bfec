"""The kind `branch`: what it makes, that no example changes its side, and when a topic stays whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from executors import kinds
from executors.datasets import parquet, splits
from executors.kinds.branch import Branch, BranchSettings
from executors.kinds.profile import CORPUS_TASK, DEFAULT_SALT
from executors.port import Made, Stopped
from executors.routing import Router
from mesh.errors import DataRefused, ModelRefused
from planner import branches as planners
from tests.support.branching import DOMAINS, branched, domain_texts, labelled_csv
from tests.support.datasets import Watching, job, profile, table, tensors_of, texts_of, written


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Made]:
    """A topic whose words mean two things: (folder, its data, what the kind made of it)."""
    folder = tmp_path_factory.mktemp("helped")
    source = labelled_csv(folder, domain_texts(1_600, 2, flipped=True))
    return folder, source, branched(source, folder, examples_per_branch=400)


def examples_of(made: Made) -> Counter[tuple[str, str, str]]:
    """(split, text, label's name) of a profile's splits."""
    names = made.facts["label_names"]
    return Counter(
        (side, text, names[label])
        for side in splits.SPLITS
        for text, label in zip(texts_of(made.outputs[side]), tensors_of(made.outputs[side])["y"].tolist(), strict=True)
    )


def profiles_of_branches(made: Made, folder: Path, **settings: Any) -> Counter[tuple[str, str, str]]:
    """What the branches' own profiles say, all together."""
    told = {"text_column": ",".join(made.facts["text_columns"]), "label_column": made.facts["label_column"]}
    found: Counter[tuple[str, str, str]] = Counter()
    for index, name in enumerate(made.facts["files"]):
        found += examples_of(profile(made.outputs[f"branch-{index}"], folder, name=name, **told, **settings))
    return found


def test_true_sub_domains_are_found_and_named(helped: tuple[Path, Path, Made]) -> None:
    _, source, made = helped
    facts = made.facts
    assert facts["branches"] == 2
    assert set(made.outputs) == {"router", "branch-0", "branch-1"}
    assert sum(facts["sizes"]) == facts["examples"] == 1_600
    assert facts["helps"]["passes"]
    assert facts["helps"]["low"] > 0.0
    assert "2 branches: on validation specialists are +" in facts["why"]
    router = Router.load(made.outputs["router"])
    homes = [[set(name.split(", ")) <= set(domain.split()) for domain in DOMAINS[:2]] for name in facts["names"]]
    assert sorted(homes) == [[False, True], [True, False]], facts["names"]
    rows = [line.split(",")[0] for line in source.read_text().splitlines()[1:]]
    assert np.bincount(router.nearest(rows)).tolist() == facts["sizes"]
    assert router.card.fitted.seen == sum(facts["splits"]["validation"])
    assert [sum(of) for of in zip(*facts["splits"].values(), strict=True)] == facts["sizes"]
    assert len(facts["losses"]) == 2
    assert all(0.0 < loss < 5.0 for loss in facts["losses"])


def test_a_branchs_own_profile_splits_it_as_the_whole(helped: tuple[Path, Path, Made], tmp_path: Path) -> None:
    _, source, made = helped
    assert profiles_of_branches(made, tmp_path) == examples_of(profile(source, tmp_path))


def test_rare_labels_repeated_inputs_and_another_salt_change_no_side(tmp_path: Path) -> None:
    rows = [(text, label) for text, label, _ in domain_texts(900, 3, flipped=True)]
    rows += [(text, f"rare {number % 40}") for number, (text, _) in enumerate(rows[:120])]
    rows += [(text.upper(), label) for text, label in rows[200:260]] + [("", "good"), ("no label", "")]
    source = written(tmp_path / "rare.csv", table(rows))
    made = branched(source, tmp_path, branches=3, salt="pepper")
    assert made.facts["branches"] == 3
    assert made.facts["settled"] > 0
    whole = examples_of(profile(source, tmp_path, salt="pepper"))
    assert profiles_of_branches(made, tmp_path, salt="pepper") == whole
    assert sum(whole.values()) == sum(made.facts["sizes"])


def test_several_text_columns_and_names_of_ones_own(tmp_path: Path) -> None:
    rows = [(text[:20], label, text) for text, label, _ in domain_texts(700, 2, flipped=True)]
    source = written(tmp_path / "mail.csv", table(rows, header=("Subject", "Kind", "The body")))
    settings = {"text_column": "Subject,The body", "label_column": "Kind"}
    made = branched(source, tmp_path, branches=2, **settings)
    assert (made.facts["text_columns"], made.facts["label_column"]) == (["Subject", "The body"], "Kind")
    assert profiles_of_branches(made, tmp_path) == examples_of(profile(source, tmp_path, **settings))


def test_the_planner_reads_what_it_says(helped: tuple[Path, Path, Made]) -> None:
    facts = helped[2].facts
    branch = planners._branch(1, facts, "d" * 64)
    assert (branch.name, branch.examples) == (facts["names"][1], facts["sizes"][1])
    assert (branch.data_name, branch.keywords[0]) == ("branch-1.parquet", facts["keywords"][1][0])
    assert branch.loss == facts["losses"][1]
    assert BranchSettings().salt == DEFAULT_SALT


def test_the_same_data_make_the_same_bytes(helped: tuple[Path, Path, Made], tmp_path: Path) -> None:
    _, source, made = helped
    again = branched(source, tmp_path, examples_per_branch=400)
    assert again.facts == made.facts
    for name, path in made.outputs.items():
        for one in sorted(path.iterdir()) if path.is_dir() else [path]:
            other = again.outputs[name] / one.name if path.is_dir() else again.outputs[name]
            assert other.read_bytes() == one.read_bytes(), name


def test_a_topic_that_splitting_does_not_help_stays_whole(tmp_path: Path) -> None:
    source = labelled_csv(tmp_path, domain_texts(1_200, 2, flipped=False))
    made = branched(source, tmp_path, examples_per_branch=400)
    assert (made.facts["branches"], made.outputs) == (1, {})
    assert "helps: the best" in made.facts["why"]
    assert not made.facts["helps"]["passes"]
    asked = branched(source, tmp_path, examples_per_branch=400, branches=4)
    assert asked.facts["branches"] == len(asked.facts["sizes"]) == 4
    assert "as many as were asked for" in asked.facts["why"]


def test_what_is_too_small_stays_whole_and_says_so(tmp_path: Path) -> None:
    source = labelled_csv(tmp_path, domain_texts(300, 2, flipped=True))
    few = branched(source, tmp_path).facts
    assert (few["branches"], few["why"]) == (1, "300 examples are too few for two branches, which need 2,000")
    many = branched(source, tmp_path, branches=30)
    assert many.facts["branches"] == 1
    assert many.facts["why"].startswith("no division can be used: of 30 branches one")
    assert branched(source, tmp_path, branches=1).facts["why"] == "it stays whole, as was asked for"


def test_tables_of_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="stays whole"):
        branched("builtin:digits", tmp_path)


def test_clusters_of_rows_come_along(tmp_path: Path) -> None:
    values = pa.table({"text": ["aa", "bb"], "group": pa.array([7, 7], pa.int32())})
    pq.write_table(values.replace_schema_metadata({parquet.CLUSTERS: b"group"}), tmp_path / "one.parquet")
    read = parquet.read(tmp_path / "one.parquet", "one", lambda share: None)
    assert read.names == ["text"]
    assert read.clusters is not None
    assert read.clusters.tolist() == [7, 7]
    wrong = values.set_column(1, "group", pa.array(["a", "b"])).replace_schema_metadata({parquet.CLUSTERS: b"group"})
    pq.write_table(wrong, tmp_path / "wrong.parquet")
    with pytest.raises(DataRefused, match="clusters"):
        parquet.read(tmp_path / "wrong.parquet", "wrong", lambda share: None)


def test_a_branch_knows_which_of_its_rows_belong_together(tmp_path: Path) -> None:
    rows = domain_texts(700, 2, flipped=True)
    values = {"text": [text for text, _, _ in rows], "label": [label for _, label, _ in rows]}
    file = pa.table({**values, "file": pa.array([number // 7 for number in range(700)], pa.int32())})
    pq.write_table(file.replace_schema_metadata({parquet.CLUSTERS: b"file"}), tmp_path / "files.parquet")
    made = branched(tmp_path / "files.parquet", tmp_path, branches=2)
    for index in range(2):
        read = parquet.read(made.outputs[f"branch-{index}"], "branch", lambda share: None)
        assert read.names == ["text", "label"]
        assert read.clusters is not None
        place = {text: number // 7 for number, text in enumerate(values["text"])}
        assert read.clusters.tolist() == [place[text] for text in read.columns[0].to_pylist()]


def test_a_later_run_takes_the_same_branches_while_they_fit(helped: tuple[Path, Path, Made], tmp_path: Path) -> None:
    router = helped[2].outputs["router"]
    grown = labelled_csv(tmp_path, domain_texts(1_800, 2, flipped=True, seed=8))
    again = branched(grown, tmp_path, router=router, examples_per_branch=400)
    assert again.facts["reused"]
    assert again.facts["names"] == helped[2].facts["names"]
    assert "as before: the branches still fit" in again.facts["why"]
    for path in router.iterdir():
        assert (again.outputs["router"] / path.name).read_bytes() == path.read_bytes()
    other = branched(grown, tmp_path, router=router, branches=3)
    assert other.facts["branches"] == 3
    assert "divided anew, because 3 branches are asked for" in other.facts["why"]


def test_other_data_are_divided_anew(helped: tuple[Path, Path, Made], tmp_path: Path) -> None:
    rows = [row for row in domain_texts(2_400, 4, flipped=True, seed=8) if row[2] >= 2]
    moved = branched(
        labelled_csv(tmp_path, rows), tmp_path, router=helped[2].outputs["router"], examples_per_branch=400
    )
    assert not moved.facts["reused"]
    assert moved.facts["drift"]["advised"]
    assert "divided anew, because the branches should be found anew: " in moved.facts["why"]
    assert set(moved.facts["names"]) != set(helped[2].facts["names"])
    with pytest.raises(ModelRefused):
        branched(labelled_csv(tmp_path, rows), tmp_path, router=tmp_path)


def corpus_file(folder: Path, per_domain: int = 260) -> Path:
    """Documents of three domains, three of each source."""
    draw = np.random.Generator(np.random.Philox(2))
    rows = []
    for number in range(3 * per_domain):
        domain = DOMAINS[number % 3].split()
        text = " and ".join(domain[index] for index in draw.integers(0, 10, 30))
        rows.append({"text": f"{text} {number}", "source": f"file {number // 9}-{number % 3}"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    return folder / "corpus.parquet"


def test_a_corpus_is_divided_by_its_sources_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from executors.branching import choosing
    from executors.datasets import documents

    monkeypatch.setattr(choosing, "BYTES_PER_BRANCH", 10_000)
    source = corpus_file(tmp_path)
    made = branched(source, tmp_path, task=CORPUS_TASK, examples_per_branch=200)
    facts = made.facts
    assert (facts["branches"], facts["modality"], facts["helps"]["metric"]) == (3, "corpus", "bits per byte")
    assert 0 < facts["lead_bytes"] <= 288
    whole = documents.read(str(source), "", DEFAULT_SALT, lambda share: None)
    wanted = Counter(zip(whole.texts, whole.sources, whole.split.tolist(), strict=True))
    found: Counter[tuple[str, str, int]] = Counter()
    for index, name in enumerate(facts["files"]):
        part = documents.read(str(made.outputs[f"branch-{index}"]), name, DEFAULT_SALT, lambda share: None)
        found += Counter(zip(part.texts, part.sources, part.split.tolist(), strict=True))
    assert found == wanted
    few = branched(corpus_file(tmp_path, 60), tmp_path, task=CORPUS_TASK, branches=3)
    assert few.facts["branches"] == 1
    assert "sources" in few.facts["why"]


def test_it_stops_when_asked_and_reports_on_the_way(tmp_path: Path) -> None:
    source = labelled_csv(tmp_path, domain_texts(300, 2, flipped=True))
    context = Watching()
    given = job(tmp_path / "one", BranchSettings(branches=2), kind="branch", inputs={"data": str(source)})
    Branch().run(given, context)
    shares = [share for _, share, _ in context.reports]
    assert {"reading", "placing", "dividing", "trying", "naming"} <= {phase for _, _, phase in context.reports}
    assert 0.0 <= min(shares) <= max(shares) <= 1.0
    with pytest.raises(Stopped):
        Branch().run(given, Watching(stop_after=4))


def test_its_needs_grow_with_the_data_and_settings_are_bounded() -> None:
    small, large = (kinds.needs_of("branch", {}, {"bytes": size, "examples": size // 100}) for size in (10**6, 10**8))
    assert small is not None
    assert large is not None
    assert 450 << 20 < small.memory_bytes < 1 << 30 < large.memory_bytes
    for wrong in ({"branches": 33}, {"branches": -1}, {"salt": ""}, {"temperature": 0.0}, {"dims": 2_000}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            BranchSettings(**wrong)
