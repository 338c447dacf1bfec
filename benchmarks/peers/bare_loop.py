"""The loop that a careful person writes by hand: what every trainer is measured by."""

from __future__ import annotations

import torch

from benchmarks.peers.small_gpt import BATCH, CLIP, DECAY, RATE, Watch, factor, loss_of, network, steps, windows


def main() -> None:
    """Train."""
    model, tokens, watch = network(), windows(), Watch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    order = torch.Generator().manual_seed(1)
    place, rows = len(tokens), torch.empty(0, dtype=torch.int64)
    model.train()
    for step in range(steps()):
        if place + BATCH > len(rows):
            place, rows = 0, torch.randperm(len(tokens), generator=order)
        batch = tokens[rows[place : place + BATCH]]
        place += BATCH
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor(step)
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch.step(float(loss.detach()))
    watch.tell()


main()
