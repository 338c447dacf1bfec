"""A loop by hand over Lightning's Fabric, which wraps network, optimizer and loader."""

from __future__ import annotations

import lightning
import torch

from benchmarks.peers.small_gpt import BATCH, CLIP, DECAY, RATE, Losing, Rows, Watch, factor, steps


def main() -> None:
    """Train."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    plain = Losing()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    model, optimizer = fabric.setup(plain, optimizer)
    loader = fabric.setup_dataloaders(torch.utils.data.DataLoader(Rows(), batch_size=BATCH, shuffle=True))
    watch, batches = Watch(), iter(loader)
    model.train()
    for step in range(steps()):
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor(step)
        loss = model(batch["tokens"])["loss"]
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.step(float(loss.detach()))
    watch.tell()


main()
