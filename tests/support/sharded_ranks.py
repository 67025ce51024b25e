"""A rank of an FSDP2 training: sharded parameters, a sharded average, clipping that returns a DTensor."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from mlflow_ddpm import MetricsTracker
from support.reference_loop import dataset, new_model


def main() -> None:
    """Train six steps in windows of three."""
    dist.init_process_group("gloo")
    model, average = new_model(), new_model()
    whole = copy.deepcopy(model)
    fully_shard(model)
    fully_shard(average)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = MetricsTracker("out", every_n_steps=3)
    tracker.watch(model, average)
    (data,) = dataset().tensors
    norms = []
    for step in range(6):
        model(data).square().mean().backward()
        loss = whole(data).square().mean()
        loss.backward()
        norms.append(float(sum((p.grad.double() ** 2).sum() for p in whole.parameters() if p.grad is not None)) ** 0.5)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
        with torch.no_grad():
            for p in whole.parameters():
                p.sub_(0.1 * (p.grad if p.grad is not None else torch.zeros_like(p)))
        optimizer.zero_grad()
        whole.zero_grad()
        tracker.log_step(step, loss, 0.1, norm)
    tracker.close()
    if dist.get_rank() == 0:
        Path("expected.json").write_text(json.dumps({"norms": norms}), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
