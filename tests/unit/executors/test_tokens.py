"""Tokenizers lose nothing, know no way to forge the end of a document, and are what transformers loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from executors.models import tokens
from mesh.errors import ArtifactCorrupt, DataRefused

TEXTS = [f"Der Bär frisst {n} Beeren,\n\tthen sleeps… 熊 <|endoftext|> !?\0" for n in range(60)]


def both() -> dict[str, tokens.Vocabulary]:
    return {"bytes": tokens.bytewise(), "bpe": tokens.trained(TEXTS, 400)}


def test_any_text_comes_back_and_no_text_holds_the_end() -> None:
    for name, vocabulary in both().items():
        encoded = vocabulary.encode([*TEXTS, "never seen: ñ🙂\ud7ff"], lambda: None)
        assert len(encoded) == 61
        for row, text in enumerate([*TEXTS, "never seen: ñ🙂\ud7ff"]):
            assert vocabulary.decode(encoded.document(row).tolist()) == text, name
        assert vocabulary.end not in encoded.tokens


def test_bytes_are_the_bytes_as_the_library_says_too() -> None:
    vocabulary = tokens.bytewise()
    everything = bytes(range(128)).decode() + "äß€🙂"
    assert vocabulary.size == tokens.BYTES_VOCABULARY
    direct = vocabulary.encode([everything], lambda: None).tokens.tolist()
    assert direct == [byte + 1 for byte in everything.encode()]
    assert direct == vocabulary.tokenizer.encode(everything, add_special_tokens=False).ids


def test_training_gives_the_same_tokenizer_again_and_stops_at_the_size_asked_for() -> None:
    first, again = tokens.trained(TEXTS, 300), tokens.trained(list(TEXTS), 300)
    assert first.json() == again.json()
    assert first.size == 300
    assert tokens.trained(TEXTS, 5_000).size < 500
    assert tokens.trained(TEXTS, 400).digest != first.digest


def test_a_written_tokenizer_is_read_back_and_by_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name, vocabulary in both().items():
        folder = tmp_path / name
        folder.mkdir()
        tokens.write(vocabulary, folder, 64)
        again = tokens.load(folder)
        assert (again.digest, again.bytewise) == (vocabulary.digest, name == "bytes")
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        text = "Der Bär frisst… 熊\n"
        assert theirs(text)["input_ids"] == vocabulary.encode([text], lambda: None).tokens.tolist()
        assert theirs.eos_token_id == vocabulary.end


def test_long_corpora_are_encoded_in_parts_and_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokens.bytewise().encode(TEXTS, lambda: None)
    monkeypatch.setattr(tokens, "BATCH_CHARS", 100)
    ticks: list[int] = []
    parts = tokens.bytewise().encode(TEXTS, lambda: ticks.append(1))
    assert len(ticks) > 20
    assert np.array_equal(whole.tokens, parts.tokens)
    assert np.array_equal(whole.offsets, parts.offsets)
    monkeypatch.setattr(tokens, "TRAIN_BYTES_MAX", 200)
    assert tokens.trained(TEXTS, 5_000).size < 400


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"expected tokenizer\.json"):
        tokens.load(tmp_path)
    for content in (b"{}", b"\xff\xfe", b"[]", json.dumps({"model": {"type": "?"}}).encode()):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ArtifactCorrupt, match="is no tokenizer"):
            tokens.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokens.bytewise().json())
    with pytest.raises(ArtifactCorrupt, match="257 tokens, and documents begin with 0, end with 300"):
        tokens.load(tmp_path, 0, 300)
    with pytest.raises(DataRefused, match="knows 257 tokens and the model 200"):
        tokens.check_room(tokens.bytewise(), 200)
