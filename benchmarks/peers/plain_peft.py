"""A plain loop over peft: what a person would write for LoRA on labelled texts. The reference of `lora`.

    python -m benchmarks.peers.plain_peft BASE TRAIN HOLDOUT SETTINGS      folders of splits; settings as JSON

transformers loads the base, peft wraps it, AdamW moves it along a straight line behind a warm-up; batches are padded to
their longest text. The last line is JSON: accuracy and loss on the holdout, and what training took.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.executors_stage import clock
from executors.data import read_split

SEED = 7


def main() -> None:
    """Train, answer, tell."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    warnings.simplefilter("ignore")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base, train, holdout, told = Path(sys.argv[1]), *(read_split(Path(name)) for name in sys.argv[2:4]), sys.argv[4]
    asked: dict[str, Any] = json.loads(told)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    auto: Any = AutoModelForSequenceClassification
    plain = auto.from_pretrained(base, num_labels=len(train.schema.labels))
    config: Any = LoraConfig(
        r=asked["rank"], lora_alpha=asked["alpha"], lora_dropout=asked["dropout"], task_type="SEQ_CLS",
        target_modules=["query", "value"],
    )  # fmt: skip
    network: Any = get_peft_model(plain, config)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=asked["learning_rate"], weight_decay=asked["weight_decay"], fused=True)
    began = clock()
    _train(network, optimizer, tokenizer, train, asked)
    ended = clock()
    print(json.dumps({**_answers(network, tokenizer, holdout, asked["tokens_max"]),
                      "wall_s": ended[0] - began[0], "cpu_s": ended[1] - began[1]}))  # fmt: skip


def _train(network: Any, optimizer: Any, tokenizer: Any, train: Any, asked: dict[str, Any]) -> None:
    import torch

    draw = np.random.default_rng(SEED)
    order = np.concatenate(
        [draw.permutation(len(train)) for _ in range(1 + asked["steps_max"] * asked["batch"] // len(train))]
    )
    labels = torch.from_numpy(train.labels)
    network.train()
    for step in range(asked["steps_max"]):
        rows = order[step * asked["batch"] : (step + 1) * asked["batch"]]
        batch = tokenizer([train.texts[row] for row in rows], padding=True, truncation=True,
                          max_length=asked["tokens_max"], return_tensors="pt")  # fmt: skip
        rise = (step + 1) / asked["warmup_steps"]
        fall = (asked["steps_max"] - step) / max(1, asked["steps_max"] - asked["warmup_steps"])
        for group in optimizer.param_groups:
            group["lr"] = asked["learning_rate"] * min(1.0, rise, fall)
        loss = torch.nn.functional.cross_entropy(network(**batch).logits, labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _answers(network: Any, tokenizer: Any, split: Any, tokens_max: int) -> dict[str, float]:
    import torch

    network.eval()
    labels, right, loss = torch.from_numpy(split.labels), 0, 0.0
    with torch.inference_mode():
        for start in range(0, len(split), 32):
            rows = slice(start, start + 32)
            batch = tokenizer(
                split.texts[rows], padding=True, truncation=True, max_length=tokens_max, return_tensors="pt"
            )
            logits = network(**batch).logits
            right += int((logits.argmax(1) == labels[rows]).sum())
            loss += float(torch.nn.functional.cross_entropy(logits, labels[rows], reduction="sum"))
    return {"accuracy": right / len(split), "loss": loss / len(split)}


if __name__ == "__main__":
    main()
