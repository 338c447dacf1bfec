"""Cards: whatever people wrote stays text, what is not known stays out, and the loader is the one that is tested."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from executors import championcard, modelcard
from executors.championcard import Ancestor, Told, champion_card

NASTY = [
    "a: b",
    "'",
    '"',
    "- x",
    "#",
    "---",
    "`",
    "| x |",
    "<script>",
    "[x](y)",
    "ü\u2028",
    "\\",
    "{}",
    "!!python/object:x",
]
CONFIG: dict[str, Any] = {
    "kind": "classify", "architecture": "wide-deep", "modality": "text", "labels": ["a", "b"],
    "features": {"ngrams": {}}, "trained": {"steps": 3, "note": "``` # not a heading"},
}  # fmt: skip


def told(**fields: Any) -> Told:
    values: dict[str, Any] = {
        "specialization": "digits-3fa1c2",
        "digest": "d" * 64,
        "version_number": 2,
        "line": "evolver",
    }
    return Told(**{**values, **fields})


def front(card: str) -> list[str]:
    """The lines of the metadata block."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found is not None
    return found[1].splitlines()


@pytest.mark.parametrize("text", NASTY)
def test_metadata_holds_nothing_that_yaml_reads_otherwise(text: str) -> None:
    """Each line is structure of ours, and its value a plain word of ours, a number or a JSON string."""
    config = {**CONFIG, "architecture": text, "labels": [text, "b"], "features": {"columns": [text]}}
    card = champion_card(
        config,
        told(text=text, data=text, name=text, license=text, changed=text, why=text, base=text, kpis={"accuracy": 0.5}),
        "",
    )
    for lines in (front(card), front(modelcard.card(config, {"validation_accuracy": 0.5}))):
        for line in lines:
            value = re.sub(r"^ *(- )?([a-z_-]+: ?)?", "", line)
            assert not value or value.startswith('"') or re.fullmatch(r"[a-z][a-z-]*|[0-9.]+", value), line
            if value.startswith('"'):
                json.loads(value)


@pytest.mark.parametrize("text", NASTY)
def test_the_text_holds_no_mark_of_theirs(text: str) -> None:
    plain = champion_card(CONFIG, told(), "")
    marked = champion_card(
        CONFIG, told(text=text, changed=text, why=text, base=text, lineage=[Ancestor(1, "e" * 64, "x", text)]), ""
    )
    for mark in ("<script", "](", "```", "<details>"):
        assert marked.count(mark) == plain.count(mark)
    rows = [line for line in marked.splitlines() if line.startswith("| 1 |")]
    assert [len(row.split(" | ")) for row in rows] == [4]


def test_a_table_inside_the_trainings_facts_can_not_end_its_block() -> None:
    card = modelcard.card(CONFIG, {})
    assert card.count("```") == 2


def test_measures_are_those_of_the_holdout_and_nothing_is_made_up() -> None:
    card = champion_card(CONFIG, told(kpis={"accuracy": 0.987654321, "validation_accuracy": 0.999}, holdout_uses=3), "")
    assert "value: 0.987654" in card
    assert "0.999" not in card
    assert "3 challengers met on it" in card
    assert "split: holdout" in card
    bare = champion_card(CONFIG, told(), "")
    assert "model-index" not in bare
    assert "license" not in bare
    assert "datasets" not in bare


def test_a_licence_is_that_of_the_base_model_or_of_the_card_before() -> None:
    assert 'license: "mit"' in champion_card(CONFIG, told(license="mit"), "")
    stored = "---\nlicense: apache-2.0\nlanguage: en\ntags:\n- old\nbase_model: some/model\n---\n# Before\nwords\n"
    card = champion_card(None, told(license="mit"), stored)
    assert front(card)[:3] == ["license: apache-2.0", "language: en", "base_model: some/model"]
    assert "- old" not in front(card)
    assert card.endswith("## Its card before\n\n# Before\nwords\n")


def test_the_loader_stands_in_the_card_as_it_is_tested() -> None:
    card = champion_card(CONFIG, told(), "")
    assert championcard.LOADER.read_text("utf-8").rstrip() in card
    assert "```" not in championcard.LOADER.read_text("utf-8"), "it would end its own block"
