"""Hugging Face's Trainer over the small GPT: no checkpoints, no progress bar, its own logging every ten steps."""

from __future__ import annotations

import tempfile
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.small_gpt import BATCH, CLIP, DECAY, RATE, WARM_UP, Losing, Rows, Watch, steps


class Watching(TrainerCallback):
    """Tells the watch of steps."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One step more."""
        self._watch.step()


def main() -> None:
    """Train."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps(), per_device_train_batch_size=BATCH, learning_rate=RATE,
            weight_decay=DECAY, max_grad_norm=CLIP, warmup_steps=WARM_UP, lr_scheduler_type="linear",
            optim="adamw_torch_fused", logging_steps=10, save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, remove_unused_columns=False, label_names=["tokens"], dataloader_pin_memory=False, seed=1,
        )  # fmt: skip
        Trainer(model=Losing(), args=arguments, train_dataset=Rows(), callbacks=[Watching(watch)]).train()
    watch.tell()


main()
