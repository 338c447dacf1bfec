"""The seeds are a tree, in two languages, with words that are written with care."""

from __future__ import annotations

import re
import unicodedata

from mesh import codec
from mesh.messages.graph import ROOT, NodeState
from planner import graph, placing, seeds

NODES = {node.id: node for node in seeds.nodes()}


def test_they_are_a_tree_with_the_ids_that_everybody_knows() -> None:
    assert len(NODES) == len(seeds.SEEDS)
    assert 40 <= len(NODES) <= 60
    assert graph.faults(NODES) == []
    assert graph.path(NODES, "stats-bayesian") == (ROOT, "mathematics", "statistics", "stats-bayesian")
    for above in ("physics", "statistics", "optimization"):
        assert NODES[above].parent == "mathematics"
        assert sum(node.parent == above for node in NODES.values()) >= 10
    for known in ("stats-inference", "opt-convex", "physics-quantum"):
        assert known in NODES


def test_parents_stand_before_their_children() -> None:
    seen: set[str] = set()
    for seed in seeds.SEEDS:
        assert not seed.parent or seed.parent in seen, seed.id
        seen.add(seed.id)


def test_every_seed_has_names_and_keywords_in_both_languages() -> None:
    arabic = re.compile("[\u0621-\u064a]")
    for seed in seeds.SEEDS:
        node = seed.node()
        assert arabic.search(node.names["ar"]), seed.id
        assert node.name.isascii(), seed.id
        assert node.state is NodeState.SEED
        assert node.why
        if seed.parent:
            in_arabic = [word for word in node.keywords if arabic.search(word)]
            assert len(in_arabic) >= 4, seed.id
            assert len(node.keywords) - len(in_arabic) >= 4, seed.id


def test_keywords_stand_once_and_say_something() -> None:
    for seed in seeds.SEEDS:
        keywords = seed.node().keywords
        assert len(set(keywords)) == len(keywords), seed.id
        for word in keywords:
            assert placing.words(word), (seed.id, word)
            assert unicodedata.normalize("NFC", word) == word, (seed.id, word)
            assert word == " ".join(word.split()), (seed.id, word)
            assert not (re.search("[a-z]", word) and re.search("[\u0621-\u064a]", word)), (seed.id, word)


def test_a_seed_finds_itself_by_its_names() -> None:
    places = placing.Places(NODES.values())
    for seed in seeds.SEEDS[1:]:
        for name in (seed.english, seed.arabic):
            assert places.nearest(name)[0].id == seed.id, (name, places.nearest(name)[:2])


def test_a_seeded_node_is_a_small_record() -> None:
    assert all(len(codec.encode(node)) < 2_500 for node in NODES.values())
