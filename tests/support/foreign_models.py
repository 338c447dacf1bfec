"""Tiny random models of transformers and peft, made and loaded by these libraries; run as a program of its own.

    python -m tests.support.foreign_models make FOLDER     encoder/, sharded/, adapter/; answers.json: what they answer
    python -m tests.support.foreign_models check FOLDER    which of the three answer otherwise now; what AutoModel says
                                                           of champion/; the cards in cards/ as a model hub reads them

Both libraries take seconds to import: no test imports them into its own process. Nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "my", "card", "cancel", "it", "please"]
TEXT = "where is my card please"


def make(folder: Path) -> None:
    """Three folders as their libraries save them."""
    import peft
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(7)
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    encoder = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32,
        )
    )  # fmt: skip
    causal = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=2, n_positions=32)
    )
    encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    causal.save_pretrained(folder / "sharded", max_shard_size="40KB")
    tokenizer.save_pretrained(folder / "sharded")
    tuned = peft.get_peft_model(causal, peft.LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(folder / "adapter")
    (folder / "answers.json").write_text(json.dumps(_answers(folder)))


def check(folder: Path) -> dict[str, Any]:
    """What is wrong with the three folders, and what these libraries make of ours."""
    wanted = json.loads((folder / "answers.json").read_text())
    found = _answers(folder)
    return {
        "differ": [name for name in wanted if found.get(name) != wanted[name]],
        "refused": _refused(folder / "champion"),
        "cards": {path.name: _card(path) for path in sorted((folder / "cards").iterdir())},
    }


def _refused(folder: Path) -> str:
    import transformers

    try:
        transformers.AutoModel.from_pretrained(folder)
    except ValueError as error:
        return str(error)
    return ""


def _card(path: Path) -> dict[str, Any]:
    """A card's metadata and its results."""
    from huggingface_hub import ModelCard

    data = ModelCard.load(path).data
    results = [
        [one.task_type, one.dataset_name, one.dataset_split, one.metric_type, one.metric_value]
        for one in data.eval_results or []
    ]
    return {**{name: value for name, value in data.to_dict().items() if name != "model-index"}, "results": results}


def _answers(folder: Path) -> dict[str, Any]:
    """One number list per folder, through from_pretrained alone."""
    import peft
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "encoder")
    tokens = tokenizer(TEXT, return_tensors="pt")
    with torch.inference_mode():
        encoder = transformers.AutoModel.from_pretrained(folder / "encoder").eval()
        causal = transformers.AutoModelForCausalLM.from_pretrained(folder / "sharded").eval()
        plain = causal(input_ids=tokens["input_ids"]).logits
        tuned = peft.PeftModel.from_pretrained(causal, folder / "adapter").eval()
        with_adapter = tuned(input_ids=tokens["input_ids"]).logits
        ids = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        return {
            "tokens": tokens["input_ids"].tolist(),
            "sharded tokens": transformers.AutoTokenizer.from_pretrained(folder / "sharded")(TEXT)["input_ids"],
            "encoder": encoder(**ids).last_hidden_state[0, 0, :8].tolist(),
            "sharded": plain[0, -1].tolist(),
            "adapter": with_adapter[0, -1].tolist(),
            "the adapter changes something": bool((plain - with_adapter).abs().max() > 1e-3),
        }


if __name__ == "__main__":
    action, folder = sys.argv[1], Path(sys.argv[2])
    if action == "make":
        make(folder)
    else:
        print(json.dumps(check(folder), default=str))
