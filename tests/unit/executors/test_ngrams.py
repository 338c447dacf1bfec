"""Hashed n-grams against scikit-learn's vectorizers, and against a slow count in plain Python."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion

from executors import ngrams
from executors.ngrams import Ngrams

TEXTS = [
    "How do I pay with my card?",
    "a b c  _x9 déjà-vu   How  do I",
    "x",
    "no\tspaces\nbut other white space",
    "卡什么时候到 我的卡",
    "How do I pay with my card? How do I pay?",
    "emoji 😀😀 and ünïcödé ÅÄÖ",
]


def matrix(vocabulary: ngrams.Vocabulary, texts: list[str]) -> csr_matrix:
    found = vocabulary.transform(texts)
    return csr_matrix((found.values, found.indices, found.offsets), shape=(len(found), len(vocabulary)))


def vectorizers() -> FeatureUnion:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    return FeatureUnion([("words", words), ("characters", characters)])


def test_same_features_and_same_similarities_as_scikit_learn() -> None:
    peer = vectorizers()
    expected = peer.fit_transform(TEXTS)
    vocabulary = ngrams.fit(TEXTS, Ngrams())
    assert len(vocabulary) == expected.shape[1]
    ours = matrix(vocabulary, TEXTS)
    assert np.allclose((ours @ ours.T).toarray(), (expected @ expected.T).toarray(), atol=1e-5)
    unseen = ["card paying in 2 days", "entirely other", ""]
    similar = (matrix(vocabulary, unseen) @ ours.T).toarray()
    assert np.allclose(similar, (peer.transform(unseen) @ expected.T).toarray(), atol=1e-5)


def test_document_frequencies_equal_a_slow_count() -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(["ab", "abc", "c", "dd", "é"], k=draw.randint(0, 6))) for _ in range(60)]
    counted: dict[str, int] = {}
    for text in texts:
        seen = set()
        for word in text.split():
            padded = f" {word} "
            seen |= {padded[at : at + 2] for at in range(len(padded) - 1)}
        for gram in seen:
            counted[gram] = counted.get(gram, 0) + 1
    vocabulary = ngrams.fit(texts, Ngrams(word_max=0, char_min=2, char_max=2))
    idf = sorted(np.log((1 + len(texts)) / (1 + count)) + 1 for count in counted.values())
    assert np.allclose(np.sort(vocabulary.idf), idf, atol=1e-6)


def test_chunks_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ngrams.fit(TEXTS, Ngrams())
    expected = whole.transform(TEXTS)
    monkeypatch.setattr(ngrams, "CHUNK_CHARACTERS", 10)
    ticks: list[int] = []
    pieces = ngrams.fit(TEXTS, Ngrams(), tick=lambda: ticks.append(1))
    assert np.array_equal(pieces.hashes, whole.hashes)
    assert np.array_equal(pieces.idf, whole.idf)
    found = pieces.transform(TEXTS)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.values, expected.values)
    assert len(ticks) > 3


def test_rows_in_any_order() -> None:
    vocabulary = ngrams.fit(TEXTS, Ngrams())
    whole = matrix(vocabulary, TEXTS).toarray()
    picked = vocabulary.transform(TEXTS).rows(np.array([3, 0, 3]))
    dense = csr_matrix((picked.values, picked.indices, picked.offsets), shape=(3, len(vocabulary))).toarray()
    assert np.array_equal(dense, whole[[3, 0, 3]])


def test_the_most_frequent_features_stay() -> None:
    vocabulary = ngrams.fit(["aa bb", "aa cc", "aa dd"], Ngrams(char_max=0, word_max=1), features_max=1)
    assert len(vocabulary) == 1
    assert vocabulary.transform(["aa"]).indices.tolist() == [0]
    assert len(vocabulary.transform(["bb"]).indices) == 0
    assert len(ngrams.fit(["aa bb", "aa cc"], Ngrams(char_max=0, word_max=1), documents_min=2)) == 1


def test_the_head_of_a_vocabulary_is_the_smaller_vocabulary() -> None:
    whole = ngrams.fit(TEXTS, Ngrams())
    small = ngrams.fit(TEXTS, Ngrams(), features_max=50)
    head = whole.head(whole.transform(TEXTS), 50)
    expected = small.transform(TEXTS)
    assert np.array_equal(head.indices, expected.indices)
    assert np.array_equal(head.offsets, expected.offsets)
    assert np.allclose(head.values, expected.values, atol=1e-6)
    encoded = whole.transform(TEXTS)
    assert whole.head(encoded, len(whole)) is encoded


def test_features_are_numbered_by_the_texts_they_stand_in() -> None:
    vocabulary = ngrams.fit(["aa bb", "aa bb cc", "aa dd"], Ngrams(char_max=0, word_max=1))
    assert vocabulary.transform(["aa"]).indices.tolist() == [0]
    assert vocabulary.transform(["bb"]).indices.tolist() == [1]
    assert [vocabulary.frequent(3, least) for least in (1, 2, 3, 4)] == [4, 2, 1, 0]


def test_texts_without_anything_known_become_empty_rows() -> None:
    vocabulary = ngrams.fit(["hello world"], Ngrams())
    found = vocabulary.transform(["", "zzz", "\ud800"])
    assert found.offsets.tolist() == [0, 0, 0, 0]
    assert len(vocabulary.transform([])) == 0
    assert len(ngrams.fit(["", " "], Ngrams())) == 0


def test_long_texts_are_cut() -> None:
    vocabulary = ngrams.fit(["ab" * 10 + " zz"], Ngrams(characters_max=20, char_max=0))
    assert len(vocabulary) == 1
