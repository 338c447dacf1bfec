"""A sentence encoder that weighs nothing: a BERT of two narrow layers with random weights, as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WIDTH = 16

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?-"


def write_encoder(folder: Path, *, words: tuple[str, ...] = (), pooling: str = "mean", seed: int = 3) -> Path:
    """An encoder folder: letters, and `words` as pieces of their own."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    network = BertModel(
        BertConfig(
            vocab_size=len(vocabulary), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64, initializer_range=0.3,
        )
    )  # fmt: skip
    torch.set_rng_state(before)
    folder.mkdir(parents=True)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    return folder
