"""Reading documents: every token is foretold once, from half a context at least, whatever stands beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from executors.models import reading, tokens
from executors.models.languagelearner import stream_of
from executors.models.tokens import Encoded, Vocabulary
from executors.models.transformer import Shape, Transformer

VOCABULARY = tokens.bytewise()
TEXTS = ["a", "bc" * 3, "a longer document, of some thirty letters", "x" * 15, "y" * 16, "z" * 17]


def network() -> Transformer:
    torch.manual_seed(1)
    made = Transformer(Shape(tokens.BYTES_VOCABULARY, 16, 2, 2, 2, 8, 24, context=16)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    return made


def encoded(texts: list[str] = TEXTS) -> Encoded:
    return VOCABULARY.encode(texts, lambda: None)


def read(texts: list[str], *, overlap: bool = True) -> reading.Readings:
    return reading.read(
        network(), encoded(texts), VOCABULARY, torch.device("cpu"), lambda: None, context=16, overlap=overlap
    )


@pytest.mark.parametrize("overlap", [True, False])
def test_every_target_counts_once_and_sees_half_a_context(overlap: bool) -> None:
    for length in range(1, 60):
        found = reading.windows(np.array([length]), 16, overlap=overlap)
        counted = [
            place for one in found for place in range(one.first + one.tokens - one.counted, one.first + one.tokens)
        ]
        assert counted == list(range(length))
        assert all(one.tokens <= 16 and one.first >= 0 for one in found)
        if overlap:
            assert all(one.tokens - one.counted >= 8 for one in found[1:])


def test_a_short_document_costs_what_the_network_says_token_by_token() -> None:
    found = read(TEXTS)
    for row, text in enumerate(TEXTS[:4]):
        whole = torch.tensor([[0, *(byte + 1 for byte in text.encode()), 0]])
        if whole.shape[1] > 17:
            continue
        with torch.inference_mode():
            shares = torch.log_softmax(network()(whole[:, :-1]), -1)[0].double()
        expected = -float(shares.gather(1, whole[0, 1:, None]).sum())
        assert found.nats[row] == pytest.approx(expected, rel=1e-5)
        assert found.tokens[row] == len(text) + 1
        assert found.right[row] == int((shares.argmax(1) == whole[0, 1:]).sum())


def test_what_stands_beside_a_document_moves_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    together = read(TEXTS)
    alone = [read([text]).nats[0] for text in TEXTS]
    assert together.nats == pytest.approx(alone, rel=1e-5)
    monkeypatch.setattr(reading, "TOKENS_AT_ONCE", 20)
    monkeypatch.setattr(reading, "LOGITS_AT_ONCE", 1_000)
    assert read(TEXTS).nats == pytest.approx(alone, rel=1e-5)


def test_a_network_that_knows_nothing_needs_eight_bits_and_a_bit_for_each_byte() -> None:
    blind = network()
    with torch.no_grad():
        blind.model.norm.weight.zero_()
    found = reading.read(blind, encoded(), VOCABULARY, torch.device("cpu"), lambda: None)
    size = sum(len(text) for text in TEXTS)
    bits = reading.measures(found, size)["bits_per_byte"]
    assert bits == pytest.approx(math.log2(257) * (size + len(TEXTS)) / size, rel=1e-6)


def test_a_tick_that_raises_ends_the_reading() -> None:
    def tick() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        reading.read(network(), encoded(), VOCABULARY, torch.device("cpu"), tick)


def test_the_stream_is_all_documents_between_their_ends() -> None:
    one = stream_of(encoded(["ab", "c", ""]), VOCABULARY).tolist()
    assert one == [0, 98, 99, 0, 100, 0, 0]
    two = Vocabulary(VOCABULARY.tokenizer, 5, 6, VOCABULARY.bytewise)
    assert stream_of(encoded(["ab", "c"]), two).tolist() == [5, 98, 99, 6, 5, 100, 6]
