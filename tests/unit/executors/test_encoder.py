"""Sentence encoders: the same vectors as transformers computes, whatever the batch; folders that are none are refused
in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from executors.models import encoder, encoderfolder
from mesh.errors import ModelRefused
from tests.support.encoders import WIDTH, write_encoder

TEXTS = [
    "card", "where is my card", "a longer question, about the limit of a card that never came", "", "top up!",
    "one " * 80,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "mean")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_transformers(tmp_path: Path, pooling: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = write_encoder(tmp_path / "encoder", pooling=pooling)
    found = encoder.load(folder).encode(TEXTS)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(TEXTS, found, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
        with torch.no_grad():
            states = model.eval()(**inputs).last_hidden_state[0]
        plain = states[0] if pooling == "cls" else states.mean(dim=0)
        assert np.allclose(vector, torch.nn.functional.normalize(plain, dim=0).numpy(), atol=1e-5)


def test_a_vector_hardly_depends_on_its_batch_and_the_same_texts_give_the_same_bytes(folder: Path) -> None:
    found = encoder.load(folder)
    together, again = found.encode(TEXTS * 3), found.encode(TEXTS * 3)
    alone = np.concatenate([found.encode([text]) for text in TEXTS])
    assert together.shape == (18, WIDTH)
    assert together.dtype == np.float32
    assert together.tobytes() == again.tobytes()
    assert np.abs(together[:6] - alone).max() < 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)


def test_batches_are_bounded_and_hold_every_text_once() -> None:
    lengths = [int(n) for n in np.random.default_rng(1).integers(1, 300, 700)]
    batches = list(encoder.batched(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(700))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or (
            len(batch) * longest <= encoder.TOKENS_PER_BATCH and len(batch) <= encoder.ROWS_PER_BATCH
        )
    heights = [lengths[batch[0]] for batch in batches]
    assert heights == sorted(heights, reverse=True)


def test_bf16_gives_float32_vectors_that_are_close(folder: Path) -> None:
    exact, half = encoder.load(folder), encoder.load(folder, precision="bf16")
    one, other = exact.encode(TEXTS), half.encode(TEXTS)
    assert other.dtype == np.float32
    assert (one * other).sum(axis=1).min() > 0.99
    assert not np.array_equal(one, other)


def test_a_saved_encoder_is_the_same_and_keeps_its_digest_only_with_its_weights(folder: Path, tmp_path: Path) -> None:
    first = encoder.load(folder)
    saved = encoder.load(first.save(tmp_path / "saved"))
    assert np.array_equal(first.encode(TEXTS), saved.encode(TEXTS))
    with torch.no_grad():
        next(first.network.parameters()).add_(0.1)
    changed = encoder.load(first.save(tmp_path / "changed"))
    assert not np.allclose(changed.encode(TEXTS), saved.encode(TEXTS))
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("told of it")
    assert encoderfolder.digest_of(tmp_path / "copy") == first.digest
    assert changed.digest != first.digest


def spoiled(folder: Path, tmp_path: Path, how: str) -> Path:
    copy = tmp_path / how.replace(" ", "-")
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    if how == "no tokenizer":
        (copy / "tokenizer.json").unlink()
    elif how == "a larger tokenizer":
        config["vocab_size"] = 20
        weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][:20].clone()
    elif how == "a tensor missing":
        del weights["encoder.layer.1.output.dense.weight"]
    elif how == "another shape":
        config["intermediate_size"] = 48
    elif how == "not finite":
        weights["embeddings.word_embeddings.weight"][3, 3] = float("nan")
    elif how == "a step behind":
        (copy / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    elif how == "another pooling":
        (copy / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    elif how == "unknown":
        config["model_type"] = "somebody-elses"
    (copy / "config.json").write_text(json.dumps(config))
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    if how == "a pickle":
        torch.save(weights, copy / "pytorch_model.bin")
        (copy / "model.safetensors").unlink()
    return copy


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no tokenizer", "has no tokenizer"),
        ("a larger tokenizer", "do not belong together"),
        ("a tensor missing", "missing or of another shape"),
        ("another shape", "of another shape|can not load"),
        ("not finite", "not finite"),
        ("a step behind", "'Dense'"),
        ("another pooling", "pools by"),
        ("unknown", "can not load the encoder"),
        ("a pickle", "a pickle"),
    ],
)
def test_a_folder_that_is_no_encoder_is_refused_in_a_sentence(
    folder: Path, tmp_path: Path, how: str, said: str
) -> None:
    with pytest.raises(ModelRefused, match=said):
        encoder.load(spoiled(folder, tmp_path, how))
