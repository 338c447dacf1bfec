"""Causal language models that weigh nothing, over bytes, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_causal(folder: Path, *, kind: str = "llama", width: int = 32, seed: int = 5) -> Path:
    """A folder with a random network of two layers ('llama' or 'gpt2') and a tokenizer of one token per byte."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    ends: dict[str, Any] = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": None, "initializer_range": 0.2}
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    network: Any
    if kind == "gpt2":
        network = GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=width, n_layer=2, n_head=2, n_positions=64, **ends))
    else:
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=257, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, **ends,
            )
        )  # fmt: skip
    torch.set_rng_state(before)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    made = Tokenizer(models.BPE({**vocabulary, "<end>": len(vocabulary)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    wrapped: Any = PreTrainedTokenizerFast
    return wrapped(tokenizer_object=made, bos_token="<end>", eos_token="<end>")
