"""Lightning's Trainer over the small GPT: no checkpoints, no progress bar, no logger."""

from __future__ import annotations

import logging
import tempfile
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor

from benchmarks.peers.small_gpt import BATCH, CLIP, DECAY, RATE, Rows, Watch, factor, loss_of, network, steps


class Module(lightning.LightningModule):
    """The network with its loss and optimizer."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.inner, self._watch = network(), watch

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The loss of a batch."""
        return loss_of(self.inner, batch["tokens"])

    def configure_optimizers(self) -> Any:
        """AdamW and the rates."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        """One step more."""
        self._watch.step(float(outputs["loss"]))


def main() -> None:
    """Train."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_steps=steps(), max_epochs=-1, accelerator="cpu", devices=1, gradient_clip_val=CLIP, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(Rows(), batch_size=BATCH, shuffle=True)
        trainer.fit(Module(watch), loader)
    watch.tell()


main()
