"""Tiny instances of a language model's training, for the gradient check: every layer of the real network, with dropout,
shared keys and a free output layer in one of them."""

from __future__ import annotations

import numpy as np
import torch

from executors.models import tokens
from executors.models.languagelearner import HeldOut, LanguageLearner, stream_of
from executors.models.transformer import Shape, Transformer

TEXTS = ["to be, or not to be", "that is the question", "whether 'tis nobler"]


def instances() -> dict[str, LanguageLearner]:
    """A tied network, and one with shared keys and an output layer of its own."""
    return {
        "tied": _learner(Shape(tokens.BYTES_VOCABULARY, 8, 2, 2, 2, 4, 12, 16)),
        "untied": _learner(Shape(tokens.BYTES_VOCABULARY, 8, 1, 2, 1, 4, 12, 16, tied=False)),
    }


def _learner(shape: Shape) -> LanguageLearner:
    vocabulary = tokens.bytewise()
    documents = vocabulary.encode(TEXTS, lambda: None)
    held_out = HeldOut(documents, np.array([len(text) for text in TEXTS], np.int64))
    network = Transformer(shape, dropout=0.1)
    return LanguageLearner(
        network, vocabulary, stream_of(documents, vocabulary), held_out, shape.context, torch.device("cpu")
    )
