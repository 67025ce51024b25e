"""A rank of an FSDP2 training: sharded parameters, a sharded average, clipping that returns a DTensor."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.ema_distance import ema_distance
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
    seen = {"norms": norms, "flat": _distance_of_flat_shards(), "replicated": _distance_to_replicas()}
    if dist.get_rank() == 0:
        Path("expected.json").write_text(json.dumps(seen), encoding="utf-8")
    dist.destroy_process_group()


def _distance_of_flat_shards() -> str:
    """Return why it is refused under FSDP1, whose shards are plain parameters."""
    model = FullyShardedDataParallel(new_model(), device_id=torch.device("cpu"))
    try:
        return str(ema_distance(model, model))
    except UsageError as error:
        return str(error)


def _distance_to_replicas() -> float:
    """Return the distance to an average, 0.1 away in each of 20 elements, that each rank has whole."""
    model, mesh = nn.Linear(4, 4), init_device_mesh("cpu", (dist.get_world_size(),))
    return ema_distance(model, [distribute_tensor(p.detach() + 0.1, mesh, [Replicate()]) for p in model.parameters()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
