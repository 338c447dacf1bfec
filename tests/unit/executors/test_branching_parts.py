"""The parts of finding branches, each against a slow obvious second way or a known answer."""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter

import numpy as np
import pytest

from consensus import comparison
from executors.branching import choosing, clusters, counting, drift, finding, naming, projecting, proxies
from executors.branching.bytegrams import ORDER, SYMBOLS, ByteGrams
from executors.branching.choosing import Trial
from executors.branching.proxies import Measured
from executors.branching.words import words
from executors.routing import Router, card_of
from mesh.errors import DataRefused
from tests.support.branching import Texts, domain_texts

TEXTS = [text for text, _, _ in domain_texts(120, 4, flipped=False)]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


# -- counting and projecting ------------------------------------------------------------------------------------------


def test_tf_idf_is_that_of_its_formula() -> None:
    texts = ["soup soup bread", "bread wheel", "the soup wheel wheel", "unknown"]
    counts = counting.count([*texts, "soup bread wheel oven " * 3])
    weighing = counting.weighing(counting.count(TEXTS + texts), terms_max=500, documents_min=2)
    assert "the" not in weighing.terms
    made = weighing.tf_idf(counts).toarray()
    documents = [set(words(text)) for text in TEXTS + texts]
    for row, text in enumerate([*texts, "soup bread wheel oven " * 3]):
        found = Counter(word for word in words(text) if word in weighing.terms)
        values = {}
        for word, times in found.items():
            frequency = sum(word in one for one in documents)
            values[word] = (1 + math.log(times)) * (math.log((1 + len(documents)) / (1 + frequency)) + 1)
        length = math.sqrt(sum(value**2 for value in values.values())) or 1.0
        wanted = [values.get(word, 0.0) / length for word in weighing.terms]
        np.testing.assert_allclose(made[row], wanted, atol=1e-6)


def test_a_vocabulary_is_capped_and_ordered() -> None:
    counts = counting.count(["aa bb cc", "aa bb", "aa bb dd", "dd ee"] * 3 + [" ".join(TEXTS)] * 2)
    weighing = counting.weighing(counts, terms_max=12)
    assert weighing.terms[:2] == ("aa", "bb")
    assert len(weighing.terms) == 12
    with pytest.raises(DataRefused, match="share 2 words"):
        counting.weighing(counting.count(["aa bb", "aa bb", "cc dd ee"]), terms_max=100)
    assert counting.count(["aa zz aa"], ["zz", "aa"]).matrix.toarray().tolist() == [[1, 2]]


def test_a_router_places_texts_where_fitting_did() -> None:
    counts = counting.count(TEXTS)
    weighing = counting.weighing(counts, terms_max=500)
    components = projecting.components_of(weighing.tf_idf(counts), 8, 5)
    placed = projecting.places_of(weighing.tf_idf(counts), components)
    centres = np.zeros((1, 8), np.float32)
    router = Router(card_of(weighing.terms, centres), weighing.terms, weighing.idf, components, centres)
    np.testing.assert_allclose(router.embed(TEXTS), placed, atol=1e-6)
    again = projecting.components_of(weighing.tf_idf(counts), 8, 5)
    np.testing.assert_array_equal(again, components)
    assert projecting.dims_for(20_000, 5_000) == 100
    assert projecting.dims_for(9_000, 5_000) == 50
    assert projecting.dims_for(30, 12, 40) == 11


# -- clusters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "k"), [(12, 3), (13, 3), (50, 7), (5, 5), (9, 1), (100, 2)])
def test_balanced_parts_are_of_one_size(rows: int, k: int) -> None:
    distances = generator(rows).uniform(0, 1, (rows, k)) * np.linspace(0.1, 1, k)
    sizes = np.bincount(clusters.balanced(distances), minlength=k)
    assert sizes.min() == rows // k
    assert sizes.max() == -(-rows // k)


def test_whoever_would_lose_most_chooses_first() -> None:
    distances = np.array([[0.0, 0.9], [0.1, 0.2], [0.2, 0.9], [0.0, 0.05]])
    assert clusters.balanced(distances).tolist() == [0, 1, 0, 1]
    total = distances[np.arange(4), clusters.balanced(distances)].sum()
    assert total == pytest.approx(0.45)


def planted(sizes: tuple[int, ...], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    draw = generator(seed)
    middle = np.linalg.qr(draw.standard_normal((12, 12)))[0][: len(sizes)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    vectors = middle[owner] + 0.1 * draw.standard_normal((len(owner), 12))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), owner


def test_planted_parts_are_found_again() -> None:
    vectors, owner = planted((100, 100, 100, 100))
    centres = clusters.fit(vectors, 4, 7)
    near = clusters.squared_distances(vectors.astype(float), centres.astype(float)).argmin(axis=1)
    assert all(len(set(near[owner == one].tolist())) == 1 for one in range(4))
    assert sorted(np.bincount(near).tolist()) == [100] * 4
    np.testing.assert_array_equal(clusters.fit(vectors, 4, 7), centres)


def test_many_vectors_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, owner = planted((90, 90, 90))
    monkeypatch.setattr(clusters, "CHUNK", 60)
    centres = clusters.fit(vectors, 3, 7)
    near = clusters.squared_distances(vectors.astype(float), centres.astype(float)).argmin(axis=1)
    assert all(len(set(near[owner == one].tolist())) == 1 for one in range(3))
    with pytest.raises(ValueError, match="no 3 balanced parts"):
        clusters.fit(vectors[:2], 3, 7)


# -- byte n-grams -----------------------------------------------------------------------------------------------------


def slow_chance(train: list[bytes], weights: list[float], before: list[int], symbol: int) -> float:
    """Witten and Bell, one context after the other, by counting."""
    chance = 1.0 / SYMBOLS
    for length in range(ORDER):
        context = tuple(before[len(before) - length :])
        after: Counter[int] = Counter()
        for document, weight in zip(train, weights, strict=True):
            symbols = [257] * (ORDER - 1) + list(document) + [256]
            for place in range(ORDER - 1, len(symbols)):
                if weight and tuple(symbols[place - length : place]) == context:
                    after[symbols[place]] += weight
        if after:
            chance = (after[symbol] + len(after) * chance) / (sum(after.values()) + len(after))
    return chance


def test_byte_models_foretell_as_a_slow_second_way() -> None:
    train, asked = [b"abracadabra", b"banana band", b"", "été".encode()], [b"abrabanana", b"zz", b""]
    models = ByteGrams(train, asked)
    for weights in ([1.0, 1.0, 1.0, 1.0], [1.0, 0.25, 0.25, 1.0], [0.0, 1.0, 0.0, 0.0]):
        slow = []
        for document in asked:
            symbols = [257] * (ORDER - 1) + list(document) + [256]
            slow += [
                -math.log(slow_chance(train, weights, symbols[:place], symbols[place]))
                for place in range(ORDER - 1, len(symbols))
            ]
        np.testing.assert_allclose(models.nats(np.array(weights)), slow, rtol=1e-9)
    assert models.starts.tolist() == [0, 11, 14, 15]
    only = np.array([False, True, True])
    np.testing.assert_array_equal(models.nats(np.ones(4), only), models.nats(np.ones(4))[11:])


def test_chances_sum_to_one() -> None:
    train = [b"abab", b"ba"]
    models = ByteGrams(train, [bytes([97, symbol]) for symbol in range(256)] + [b"a"])
    nats = models.nats(np.ones(2))
    second = [float(nats[models.starts[one] + 1]) for one in range(257)]
    assert sum(math.exp(-value) for value in second) == pytest.approx(1.0, abs=1e-9)


# -- proxies and choice -----------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_comparison() -> None:
    draw = generator(4)
    differences, owner = draw.choice([-1.0, 0.0, 1.0], 90), np.sort(draw.integers(0, 30, 90))
    effect, low, high, error = proxies.paired(differences, np.ones(90), owner)
    totals = [(float(differences[owner == one].sum()), int((owner == one).sum())) for one in np.unique(owner)]
    same = comparison.Differences("accuracy", array("d", differences.tolist()), tuple(totals), 1.0)
    assert effect == pytest.approx(same.effect)
    assert error == pytest.approx(comparison.standard_error(same))
    assert (low, high) == pytest.approx(comparison.interval(same))
    assert proxies.paired(differences[:1], np.ones(1), owner[:1])[2] == math.inf


def proxy_of(flipped: bool) -> tuple[proxies.Labelled, np.ndarray]:
    rows = domain_texts(900, 2, flipped=flipped)
    labels = np.array([label == "good" for _, label, _ in rows], np.int64)
    count = np.arange(900)
    made = proxies.Labelled(
        [text for text, _, _ in rows], labels, count[count % 3 > 0], count[count % 3 == 0], count, seed=5
    )
    return made, np.array([domain for _, _, domain in rows])


def test_specialists_of_true_domains_help_where_words_mean_two_things() -> None:
    made, domain = proxy_of(flipped=True)
    found = proxies.measured(made, domain, domain, 2, 5, made.flat())
    assert found.flat < 0.8 < 0.95 < found.routed
    assert found.low > 0.1
    assert found.effect == pytest.approx(found.routed - max(found.flat, found.random))


def test_specialists_of_domains_bring_nothing_where_all_words_mean_one_thing() -> None:
    made, domain = proxy_of(flipped=False)
    found = proxies.measured(made, domain, domain, 2, 5, made.flat())
    assert found.effect <= 0.0
    assert not Trial(2, found).passes


def test_byte_specialists_are_measured_against_a_random_split() -> None:
    texts = [text.replace(" ", " and ") for text, _, _ in domain_texts(800, 3, flipped=False)]
    domain = np.array([one for _, _, one in domain_texts(800, 3, flipped=False)])
    count = np.arange(800)
    made = proxies.Documents(texts, count[count % 3 > 0], count[count % 3 == 0], count, 8)
    flat = made.flat()
    found = proxies.measured(made, domain, domain, 3, 5, flat)
    assert found.low > 0.0
    assert found.effect == pytest.approx(found.routed - max(found.flat, found.random))
    random = generator(9).integers(0, 3, 800)
    assert not proxies.measured(made, random, random, 3, 5, flat).low > 0.0
    lengths = [len(texts[row].encode()) + 1 - 8 for row in made._validation.tolist()]
    assert flat.sizes.tolist() == lengths
    losses = proxies.losses_by(made, flat, domain, 4)
    by_hand = [
        -sum(flat.sums[own]) / sum(flat.sizes[own]) for own in (domain[made.rows] == branch for branch in range(3))
    ]
    assert losses == (*(pytest.approx(value) for value in by_hand), None)


def test_one_models_loss_is_higher_in_the_branch_that_is_hard() -> None:
    rows = domain_texts(900, 2, flipped=False)
    hard = np.array([domain == 1 for _, _, domain in rows])
    labels = np.array([label == "good" for _, label, _ in rows], np.int64)
    labels[hard] = generator(4).integers(0, 2, int(hard.sum()))
    count = np.arange(900)
    texts = [text for text, _, _ in rows]
    made = proxies.Labelled(texts, labels, count[count % 3 > 0], count[count % 3 == 0], count, seed=5)
    easy_loss, hard_loss = proxies.losses_by(made, made.flat(), hard.astype(np.int64), 2)
    assert easy_loss is not None
    assert hard_loss is not None
    assert 2.0 * easy_loss < hard_loss


def trial(k: int, effect: float, error: float = 0.005) -> Trial:
    return Trial(k, Measured(k, effect, effect - 2 * error, effect + 2 * error, error, 0.9 + effect, 0.9, 0.8, "flat"))


def test_the_fewest_branches_that_do_as_well_are_taken() -> None:
    def taken(*trials: Trial) -> int:
        found = choosing.chosen(trials)
        return found.k if found else 1

    assert taken(trial(2, 0.020), trial(4, 0.023), trial(8, 0.024)) == 2
    assert taken(trial(2, 0.006), trial(4, 0.023), trial(8, 0.024)) == 4
    assert taken(trial(2, 0.001), trial(4, 0.002)) == 1
    assert taken(trial(2, -0.02), Trial(4, None, "too small")) == 1
    assert taken() == 1
    assert "helps: the best, 4, has specialists -0.10 points of accuracy [-1.10, +0.90] against one flat model" in (
        choosing.sentence([trial(2, -0.02), trial(4, -0.001)], None, "accuracy")
    )


def test_what_is_tried_depends_on_how_much_data_there_is() -> None:
    assert choosing.candidates(10_003, 1_000, 8) == (2, 3, 4, 6, 8)
    assert choosing.candidates(3_500, 1_000, 8) == (2, 3)
    assert choosing.candidates(1_999, 1_000, 8) == ()
    assert choosing.candidates(10_003, 1_000, 8, size_bytes=4_100_000) == (2, 3, 4)
    assert choosing.candidates(10**6, 1_000, 32) == choosing.TRIED


def test_nothing_is_fitted_on_what_is_not_for_training() -> None:
    texts = [text for text, _, _ in domain_texts(400, 4, flipped=False)]
    one, other = Texts(texts), Texts(texts)
    other.texts = [
        text if other.split[row] == 0 else f"strange words of another world number {row} strange"
        for row, text in enumerate(texts)
    ]
    limits = finding.Limits(branches=4, seed=1)
    found = [finding.find(material, limits, lambda phase, share: None).division for material in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    routers = [division.router for division in found if division is not None]
    assert routers[0].vocabulary == routers[1].vocabulary
    assert routers[0].card.names == routers[1].card.names
    for name in ("idf", "components", "centres"):
        np.testing.assert_array_equal(getattr(routers[0], name), getattr(routers[1], name))


# -- names and drift --------------------------------------------------------------------------------------------------


def test_names_tell_branches_apart_in_any_script() -> None:
    rows = domain_texts(600, 4, flipped=False)
    counts = counting.count([text for text, _, _ in rows])
    owner = np.array([domain for _, _, domain in rows])
    usable = counts.frequencies >= 2
    found = naming.keywords(counts, owner, 4, usable)
    named = naming.names(found)
    assert len(set(named)) == 4
    assert all(1 <= len(name) <= naming.NAME_CHARS_MAX and len(name.split(", ")) == 3 for name in named)
    assert set(found[0]) <= set(words("soup bread butter oven pepper kitchen recipe spoon flour onion"))
    assert all(ord(letter) > 0x600 for letter in named[2].replace(", ", ""))


def test_a_name_holds_no_two_forms_of_one_word_and_none_is_given_twice() -> None:
    assert naming.names([["card", "cards", "transfer", "transferring", "pin"]]) == ["card, transfer, pin"]
    same = ["alpha", "beta", "gamma", "delta"]
    assert naming.names([same, same, []]) == ["alpha, beta, gamma", "alpha, beta, gamma, delta", "branch 3"]


def fitted_router() -> Router:
    material = Texts([text for text, _, _ in domain_texts(800, 2, flipped=False)])
    division = finding.find(material, finding.Limits(branches=2, seed=1), lambda phase, share: None).division
    assert division is not None
    return division.router


def test_drift_is_told_of_other_texts_and_of_none_else() -> None:
    router = fitted_router()
    fresh = domain_texts(400, 2, flipped=False, seed=77)
    same = drift.measured(router, [text for text, _, _ in fresh])
    assert not same.advised
    assert "still fit" in same.sentence
    shifted = drift.measured(router, [text for text, _, domain in fresh if domain == 0])
    assert shifted.advised
    assert "shares moved" in shifted.sentence
    between = drift.measured(router, [f"{a[0]} {b[0]}" for a, b in itertools.pairwise(fresh) if a[2] != b[2]])
    assert any("entropy rose" in reason for reason in between.reasons)
    strange = drift.measured(router, ["entirely foreign vocabulary appears everywhere nowadays soup"] * 200)
    assert any("known words" in reason for reason in strange.reasons)
    few = drift.measured(router, ["foreign"] * 10)
    assert not few.advised
    assert "too few" in few.sentence
