"""`bin/agent graph`: what is drawn, what people change, and the whole graph there and back."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents import cli
from agents.commands import graph, graph_drawing, graph_editing, graph_exchange
from agents.commands.graph_drawing import Paper, columns, cut, isolated, picture
from agents.commands.reach import Reach
from mesh import codec
from mesh.errors import DataRefused, NotFound, RamifyError, SettingsInvalid
from mesh.graph_bucket import GraphBucket
from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization
from mesh.messages.judgement import Champion
from mesh.messages.tasks import Line
from planner import changes, seeds
from tests.support.memory_mesh import MemoryMesh


@pytest.fixture
async def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryMesh:
    """A mesh in memory with the seeds, which the commands reach."""
    made = await MemoryMesh(tmp_path / "mesh").start()

    @contextlib.asynccontextmanager
    async def reach(*_: object) -> AsyncIterator[Reach]:
        yield Reach(made.settings, made.server.connect("cli"), made.subjects)

    for module in (graph, graph_editing, graph_exchange):
        monkeypatch.setattr(module, "reach_stored", reach)
    monkeypatch.setattr(graph_editing.publishing, "publisher", lambda: "ada@here")
    await GraphBucket(made.leader, made.subjects).change(
        lambda found: changes.seeded(found.nodes, found.taken), lambda: 1_000
    )
    return made


def parsed(*words: str) -> argparse.Namespace:
    given = cli.parser_of("graph", cli.load("graph")).parse_args([*words])
    graph.check(given)
    return given


async def command(*words: str) -> int:
    """The command as its `run` does it, in the test's own loop."""
    given = parsed(*words)
    match given.action:
        case "show":
            return await graph._show(given)
        case "log":
            return await graph_editing.log(given)
        case "export":
            return await graph_exchange.export(given)
        case "import":
            return await graph_exchange.take_in(given, graph_exchange.look(given.words[0]))
    return await graph_editing.edit(given)


async def nodes(mesh: MemoryMesh) -> dict[str, Specialization]:
    return (await GraphBucket(mesh.leader, mesh.subjects).read()).nodes


# -- the drawing ------------------------------------------------------------------------------------------------------


def a_tree() -> dict[str, Specialization]:
    """root > math > (alg > pri, جبر), with one that was merged."""
    rows = [
        Specialization(id=ROOT, name="everything", state=NodeState.SEED),
        Specialization(id="math", name="mathematics", names={"ar": "الرياضيات"}, parent=ROOT, state=NodeState.SEED),
        Specialization(id="alg", name="algebra", parent="math", state=NodeState.SEED),
        Specialization(
            id="priors-1", name="priors", parent="alg", task="classify", examples=1_234, labels=3, why="topic t asked"
        ),
        Specialization(id="b0", name="数字", parent="math", task="classify", state=NodeState.HYPOTHESIS),
        Specialization(
            id="old", name="old", parent="math", state=NodeState.MERGED, into="alg", why="x", reason="too few"
        ),
    ]
    return {node.id: node for node in rows}


CHAMPION = Champion(
    specialization="priors-1", version_number=2, model="c" * 64, topic="t", task="t-evolver", line=Line.EVOLVER,
    verdict="v", kpis={"accuracy": 0.91234, "loss": 0.2},
)  # fmt: skip


def test_the_tree_is_drawn_with_champions_sizes_scores_and_states() -> None:
    drawn = picture(a_tree(), {"priors-1": CHAMPION}, Paper())
    plain = drawn.replace("\u2068", "").replace("\u2069", "")
    assert plain.splitlines() == [
        "root  everything",
        "└─ math  mathematics  الرياضيات",
        "   ├─ alg  algebra",
        "   │  └─ priors-1                1,234 examples, 3 labels   v2 evolver, accuracy 0.9123   topic t asked",
        "   └─ b0  数字                   hypothesis   0 examples   no champion yet",
        "1 node is merged or retired; `bin/agent graph --all` shows it",
    ]
    everything = picture(a_tree(), {}, Paper(), everything=True)
    assert "old" in everything
    assert "merged into alg   too few" in everything


def test_right_to_left_names_turn_nothing_around_them() -> None:
    for line in picture(a_tree(), {}, Paper()).splitlines():
        inside = re.sub("\u2068[^\u2068\u2069]*\u2069", "", line)
        assert not any(unicodedata.bidirectional(letter) in ("R", "AL", "AN") for letter in inside), line
        assert "\u2068" not in inside
    evil = {"x": Specialization(id="x", name="a\u202eb\u2067c\x1b[31mجبر\u2069")}
    (line,) = picture(evil, {}, Paper()).splitlines()
    assert line == "x  \u2068a?b?c?[31mجبر?\u2069"
    assert isolated("plain") == "plain"


def test_lines_are_cut_at_the_width_in_columns_as_drawn() -> None:
    assert columns("数字") == 4
    assert columns("الرياضياتُ") == 9
    assert columns("\u2068جبر\u2069") == 3
    for width in range(8, 90):
        for line in picture(a_tree(), {"priors-1": CHAMPION}, Paper(width), everything=True).splitlines()[:-1]:
            assert columns(line) <= width
            assert line.count("\u2068") == line.count("\u2069")
    assert cut("数字数字", 4) == "数…"


def test_colour_is_for_a_terminal_and_changes_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = picture(a_tree(), {"priors-1": CHAMPION}, Paper(60))
    coloured = picture(a_tree(), {"priors-1": CHAMPION}, Paper(60, colour=True))
    assert "\x1b[1mpriors-1\x1b[0m" in coloured
    assert "\x1b[33mb0\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert graph_drawing.paper() == Paper()


def test_a_circle_and_a_lost_parent_are_drawn_and_end() -> None:
    broken = {
        "a": Specialization(id="a", name="a", parent="b"), "b": Specialization(id="b", name="b", parent="a"),
        "c": Specialization(id="c", name="c", parent="gone"),
    }  # fmt: skip
    assert picture(broken, {}, Paper()).splitlines() == ["c", "a", "└─ b"]
    assert picture({}, {}, Paper()).startswith("the graph is empty")


async def test_the_command_draws_and_writes_the_nodes(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command("--json", str(tmp_path / "graph.json")) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == len(seeds.SEEDS)
    assert "│  │  │  └─ stats-mcmc" in shown or "│  └─ stats-mcmc" in shown
    document = json.loads((tmp_path / "graph.json").read_text())
    assert {node["id"] for node in document["nodes"]} == {seed.id for seed in seeds.SEEDS}
    assert document["nodes"][0]["champion"] is None


# -- changes ----------------------------------------------------------------------------------------------------------


async def test_people_change_the_graph_and_the_history_says_who_when_what_and_why(
    mesh: MemoryMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(graph_editing, "now_ms", lambda: 1_763_769_600_000)
    for words in (
        ("expand", "stats-bayesian", "hidden Markov models", "--keywords", "hmm, viterbi، نموذج", "--arabic",
         "نماذج ماركوف المخفية", "--why", "asked for"),
        ("rename", "hidden-markov-models", "HMM"),
        ("move", "hidden-markov-models", "stats-stochastic-processes", "--why", "closer"),
        ("merge", "hidden-markov-models", "stats-mcmc"),
        ("expand", "physics", "string theory", "--id", "physics-strings", "--why", "a wish"),
        ("retire", "physics-strings", "--why", "nobody tests it"),
    ):  # fmt: skip
        assert await command(*words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "hidden-markov-models stands below stats-bayesian",
        "hidden-markov-models is called 'HMM' now",
        "hidden-markov-models stands below stats-stochastic-processes now",
        "hidden-markov-models is merged into stats-mcmc",
        "physics-strings stands below physics",
        "physics-strings is retired",
    ]
    now = await nodes(mesh)
    made = now["hidden-markov-models"]
    assert made.keywords == ("hmm", "viterbi", "نموذج")
    assert (made.state, made.into, made.by) == (NodeState.MERGED, "stats-mcmc", "ada@here")
    assert "viterbi" in now["stats-mcmc"].keywords
    await command("log", "hidden-markov-models")
    told = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert told == [
        ["2025-11-22 00:00:00Z", "ada@here", "expanded", "hidden-markov-models", "new below stats-bayesian",
         "asked for"],
        ["2025-11-22 00:00:00Z", "ada@here", "renamed", "hidden-markov-models", "called HMM", "a person's wish"],
        ["2025-11-22 00:00:00Z", "ada@here", "moved", "hidden-markov-models",
         "stats-bayesian > stats-stochastic-processes", "closer"],
        ["2025-11-22 00:00:00Z", "ada@here", "merged", "hidden-markov-models", "active > merged", "a person's wish"],
    ]  # fmt: skip
    await command("log", "--json", str(tmp_path / "log.json"))
    history = json.loads((tmp_path / "log.json").read_text())["changes"]
    assert len(history) == len(seeds.SEEDS) + 7
    assert history[-1]["node"]["reason"] == "nobody tests it"
    assert [one["seq"] for one in history] == sorted(one["seq"] for one in history)


async def test_a_change_can_be_read_by_a_program(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await command("retire", "optimization", "--below", "--why", "no need", "--json", "-")
    document = json.loads(capsys.readouterr().out)
    assert document["sentence"] == "optimization is retired with 13 below it"
    assert document["changed"][-1]["id"] == "optimization"


REFUSED: list[tuple[tuple[str, ...], type[RamifyError], str]] = [
    (("expand", "physics"), SettingsInvalid, "graph expand expects PARENT NAME"),
    (("expand", "physics", "x"), SettingsInvalid, "add --why"),
    (("retire", "physics"), SettingsInvalid, "add --why"),
    (("show", "physics"), SettingsInvalid, "expects nothing more"),
    (("merge", "a", "b", "--below"), SettingsInvalid, "--below belongs to graph retire"),
    (("log", "--dry-run"), SettingsInvalid, "--dry-run belongs to graph import"),
    (("expand", "fysics", "x", "--why", "y"), NotFound, "did you mean physics"),
    (("retire", "physics", "--why", "y"), SettingsInvalid, "--below"),
    (("log", "nowhere"), NotFound, "no node 'nowhere'"),
]


@pytest.mark.parametrize(("words", "wanted", "said"), REFUSED)
async def test_refusals_are_sentences_and_change_nothing(
    mesh: MemoryMesh, words: tuple[str, ...], wanted: type[RamifyError], said: str
) -> None:
    before = await nodes(mesh)
    with pytest.raises(wanted) as caught:
        await command(*words)
    assert said in str(caught.value)
    assert await nodes(mesh) == before


async def test_a_mesh_without_a_graph_is_a_sentence(tmp_path: Path, mesh: MemoryMesh) -> None:
    there = Reach(mesh.settings, mesh.server.connect("x"), type(mesh.subjects)("other"))
    with pytest.raises(NotFound, match="has no graph"):
        await graph_editing.check_graph(there)


# -- there and back ---------------------------------------------------------------------------------------------------


async def test_what_is_exported_is_what_comes_back(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await command("expand", "physics", "سلاسل", "--id", "physics-strings", "--why", "a wish")
    await command("retire", "opt-games", "--why", "no need")
    await command("merge", "physics-geo", "physics-astro")
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert await command("export", str(first)) == 0
    bucket = mesh.subjects.bucket("graph")
    await mesh.leader.purge(bucket)
    assert await nodes(mesh) == {}
    capsys.readouterr()
    assert await command("import", str(first)) == 0
    assert capsys.readouterr().out == f"{len(seeds.SEEDS) + 1} nodes are new and 0 are changed\n"
    assert await command("export", str(second)) == 0
    assert first.read_bytes() == second.read_bytes()
    written = (await mesh.leader.state(bucket)).last_seq
    await command("import", str(first))
    assert "the graph says it all already" in capsys.readouterr().out
    assert (await mesh.leader.state(bucket)).last_seq == written
    node = (await nodes(mesh))["physics-strings"]
    assert (node.event, node.by, node.reason) == (NodeEvent.IMPORTED, "ada@here", "imported from first.json")


async def test_a_dry_run_says_what_would_change(
    mesh: MemoryMesh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = [
        {"id": "new", "name": "New", "parent": "physics"},
        {"id": "physics-geo", "name": "earth", "parent": "root"},
    ]
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"format": 1, "nodes": fields}))
    before = await nodes(mesh)
    await command("import", str(path), "--dry-run")
    assert await nodes(mesh) == before
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("physics-geo: physics > root, seed > active, called earth")
    assert said[1] == "new: new below physics"
    assert said[-1] == "nothing is written; 1 nodes would be new and 1 would be changed"


BROKEN: list[tuple[Any, str]] = [
    ("{", "is no JSON document"),
    ([], "is no graph of format 1"),
    ({"format": 2, "nodes": []}, "is no graph of format 1"),
    ({"format": 1, "nodes": [7]}, "node 1 of the graph is a map"),
    ({"format": 1, "nodes": [{"id": "A B", "name": "x"}]}, "a specialization's id must be"),
    ({"format": 1, "nodes": [{"id": "a"}]}, "missing required field `name`"),
    ({"format": 1, "nodes": [{"id": "a", "name": "x", "labels": "many"}]}, "Expected `int`"),
    ({"format": 1, "nodes": [{"id": "a", "name": "x", "nmae": "y"}]}, "has the field 'nmae'"),
    ({"format": 1, "nodes": [{"id": "a", "name": "x", "by": "somebody else"}]}, "has the field 'by'"),
    ({"format": 1, "nodes": [{"id": "a", "name": "x", "state": "great"}]}, "Invalid enum value"),
    ({"format": 1, "nodes": [{"id": "a", "name": "x", "keywords": ["k" * 1_000] * 300}]}, "bytes"),
]


@pytest.mark.parametrize(("document", "said"), BROKEN)
def test_a_broken_document_is_refused_before_any_mesh_is_reached(tmp_path: Path, document: Any, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(DataRefused) as caught:
        graph_exchange.look(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "ok", "name": "x", "parent": "root"}, {"id": "b", "name": "x", "parent": "gone"}], "parent gone"),
        ([{"id": "ok", "name": "x", "parent": "root"}, {"id": "c", "name": "x"}], "only root may have none"),
        ([{"id": "a", "name": "x", "parent": "b"}, {"id": "b", "name": "x", "parent": "a"}], "circle"),
        ([{"id": "a", "name": "x", "parent": "root"}] * 2, "stands there more often"),
        ([{"id": "physics", "name": "x", "parent": "root", "state": "retired"}], "its parent physics is retired"),
    ],
)
async def test_a_document_that_makes_no_tree_is_refused_whole(
    mesh: MemoryMesh, tmp_path: Path, rows: list[dict[str, str]], said: str
) -> None:
    path = tmp_path / "no-tree.json"
    path.write_text(json.dumps({"format": 1, "nodes": rows}))
    before = await nodes(mesh)
    with pytest.raises(SettingsInvalid) as caught:
        await command("import", str(path))
    assert said in str(caught.value)
    assert await nodes(mesh) == before


async def test_a_node_of_a_newer_program_is_left_out_and_left_alone(mesh: MemoryMesh, tmp_path: Path) -> None:
    key = mesh.subjects.key("graph", "opt-games")
    await mesh.leader.append(key, b"from the future")
    await command("export", str(tmp_path / "graph.json"))
    assert "opt-games" not in (tmp_path / "graph.json").read_text()
    last = await mesh.leader.last(mesh.subjects.bucket("graph"), key)
    assert last is not None
    assert last.data == b"from the future"
    with pytest.raises(SettingsInvalid, match="used before"):
        await command("expand", "optimization", "game theory", "--id", "opt-games", "--why", "again")


def test_a_champions_record_is_not_asked_for_by_an_export() -> None:
    document = graph_exchange.document({ROOT: seeds.nodes()[0]})
    (fields,) = document["nodes"]
    assert not set(fields) & set(graph_exchange.MADE_BY)
    assert codec.encode(graph_exchange.node_of(fields, 1).evolve(event="seeded", by="seeds")) == codec.encode(
        seeds.nodes()[0]
    )
