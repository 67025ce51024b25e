"""Eight loops in the shape of public ones, each with the tracker's lines marked ``# +``, one a process.

``python public_loops.py NAME [--stop-after 13] [--resume]`` trains for 22 steps in windows of 5. Beside the tracker
each notes its steps in ``notes.jsonl`` by naive float64 formulas. The shapes alone are theirs; no line is copied.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.tracker import compute_grad_norm
from support.reference_loop import BATCH_SIZE, CLIP, DECAY, LR, dataset, new_model

STEPS, EVERY, ACCUMULATE = 22, 5, 3
_STATE = Path("state.pt")


class Notes:
    """What a loop itself knows of its steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norm, self.lr = 0.0, 0.0
        self.steps = 0

    def batch(self, loss: torch.Tensor) -> None:
        """Note a micro-batch."""
        self.losses.append(float(loss.detach()))

    def gradients(self, model: nn.Module, lr: float) -> None:
        """Note gradients before clipping, and the rate that they are applied with."""
        squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
        self.norm, self.lr = float(torch.stack(squares).sum().sqrt()), lr

    def step(self, model: nn.Module, ema: list[torch.Tensor] | None = None) -> None:
        """Note that a step was done, and fail after the last one wanted."""
        self.steps += 1
        pairs = zip(model.parameters(), ema or (), strict=bool(ema)) if ema else []
        distance = sum(float((p.detach().double() - s.detach().double()).square().sum()) for p, s in pairs) ** 0.5
        line = {"losses": self.losses, "norm": self.norm, "lr": self.lr, "ema": distance if ema else None}
        with Path(f"notes{os.environ.get('RANK', '')}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.losses = []
        if self.steps == ARGS.stop_after:
            raise RuntimeError("stopped")


ARGS, NOTES = argparse.Namespace(), Notes()


def _optimizer(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)


def _resumed(*parts: Any) -> int:
    """Load what was saved after the last step, and return how many steps were done."""
    if not ARGS.resume:
        return 0
    state = torch.load(_STATE)
    for part, saved in zip(parts, state["parts"], strict=True):
        part.load_state_dict(saved)
    return int(state["steps"])


def _save(steps: int, *parts: Any) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save({"steps": steps, "parts": [part.state_dict() for part in parts]}, _STATE)


def _endless() -> Iterator[torch.Tensor]:
    return (batch for _ in itertools.count() for (batch,) in DataLoader(dataset(), BATCH_SIZE))


# DDP models live to the end: freed earlier, torch 2.13 can wait for ever for a thread of gloo's that needs the GIL.
_KEPT: list[nn.Module] = []


def diffusers_unconditional(*, split: bool = False) -> None:
    """Accelerate with accumulation and diffusers' EMAModel; each micro-batch is logged with the steps done so far."""
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=1 if split else ACCUMULATE,
        log_with=AccelerateTracker("out", every_n_steps=EVERY),  # +
    )
    model = new_model()
    ema = EMAModel(model.parameters(), decay=0.9)
    optimizer, schedule = _optimizer(model)
    steps = _resumed(model, optimizer, schedule, ema)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(dataset(), BATCH_SIZE))
    _KEPT.append(model)
    accelerator.init_trackers("project")
    accelerator.get_tracker("mlflow_ddpm").watch(model, ema)  # +
    plain, norm = accelerator.unwrap_model(model), None
    while steps < STEPS:
        for (batch,) in loader:
            with accelerator.accumulate(model):
                loss = model(batch).square().mean()
                NOTES.batch(loss)
                accelerator.backward(loss)
                lr = schedule.get_last_lr()[0]
                if accelerator.sync_gradients:
                    NOTES.gradients(plain, lr)
                    norm = accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                if accelerator.sync_gradients:
                    schedule.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                ema.step(model.parameters())
                steps += 1
            logs = {"loss": loss.detach().item(), "lr": lr, "step": steps}
            accelerator.log(logs | ({"grad_norm": norm} if accelerator.sync_gradients else {}), step=steps)
            if accelerator.sync_gradients:
                _save(steps, plain, optimizer, schedule, ema)
                NOTES.step(plain, ema.shadow_params)
            if steps >= STEPS:
                break
    accelerator.end_training()


def accelerate_two_processes() -> None:
    """The same in two processes, without accumulation."""
    diffusers_unconditional(split=True)


class _Trainer:
    """In the shape of lucidrains' Trainer: it owns model, optimizer and an ema_pytorch.EMA, and trains by steps."""

    def __init__(self) -> None:
        self.model = new_model()
        self.ema = import_module("ema_pytorch").EMA(self.model, beta=0.9, update_every=2, update_after_step=0)
        self.opt, self.schedule = _optimizer(self.model)
        self.step = _resumed(self.model, self.opt, self.schedule, self.ema)
        self.data = itertools.islice(_endless(), 3 * self.step, None)

    def train(self) -> None:
        """Train, accumulating over three batches."""
        tracker = MetricsTracker("out", every_n_steps=EVERY)  # +
        tracker.watch(self.model, self.ema)  # +
        while self.step < STEPS:
            total = torch.zeros(())
            for _ in range(ACCUMULATE):
                loss = self.model(next(self.data)).square().mean()
                NOTES.batch(loss)
                total += loss.detach() / ACCUMULATE
                (loss / ACCUMULATE).backward()
            lr = self.opt.param_groups[0]["lr"]
            NOTES.gradients(self.model, lr)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            self.opt.step()
            self.schedule.step()
            self.opt.zero_grad()
            self.ema.update()
            tracker.log_step(self.step, total, lr, norm, ACCUMULATE * BATCH_SIZE)  # +
            self.step += 1
            _save(self.step, self.model, self.opt, self.schedule, self.ema)
            NOTES.step(self.model, list(self.ema.ema_model.parameters()))
        tracker.close()  # +


def lucidrains_trainer() -> None:
    """A Trainer object with its own average."""
    _Trainer().train()


def _training_loop(model: nn.Module, optimizer: Any, schedule: Any, start: int) -> Iterator[SimpleNamespace]:
    for batch in itertools.islice(_endless(), start, STEPS):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        NOTES.batch(loss)
        loss.backward()
        lr = optimizer.param_groups[0]["lr"]
        NOTES.gradients(model, lr)
        optimizer.step()
        schedule.step()
        yield SimpleNamespace(loss=loss, lr=lr)


def smalldiffusion_generator() -> None:
    """In the shape of smalldiffusion's training loop: a generator, which yields after each step; no clipping."""
    model = new_model()
    average = copy.deepcopy(model)
    optimizer, schedule = _optimizer(model)
    start = _resumed(model, optimizer, schedule, average)
    tracker = MetricsTracker("out", every_n_steps=EVERY)  # +
    tracker.watch(model, average)  # +
    for step, done in enumerate(_training_loop(model, optimizer, schedule, start), start):
        with torch.no_grad():
            for p, s in zip(model.parameters(), average.parameters(), strict=True):
                s.lerp_(p, 0.1)
        tracker.log_step(step, done.loss, done.lr, compute_grad_norm(model), BATCH_SIZE)  # +
        _save(step + 1, model, optimizer, schedule, average)
        NOTES.step(model, list(average.parameters()))
    tracker.close()  # +


class _TrainLoop:
    """In the shape of improved-diffusion's TrainLoop: averages are lists of tensors, the rate is annealed by hand."""

    def __init__(self) -> None:
        self.model = new_model()
        self.opt = torch.optim.SGD(self.model.parameters(), lr=LR)
        self.ema_params = [p.detach().clone() for p in self.model.parameters()]
        self.holder = nn.ParameterList(self.ema_params)
        self.step = _resumed(self.model, self.opt, self.holder)
        self.ema_params = list(self.holder)

    def run_loop(self) -> None:
        """Run all steps."""
        self.tracker = MetricsTracker("out", every_n_steps=EVERY)  # +
        self.tracker.watch(self.model, self.ema_params)  # +
        for batch in itertools.islice(_endless(), self.step, STEPS):
            self.run_step(batch)
            self.step += 1
            _save(self.step, self.model, self.opt, self.holder)
            NOTES.step(self.model, self.ema_params)
        self.tracker.close()  # +

    def run_step(self, batch: torch.Tensor) -> None:
        """Run one step."""
        self.opt.zero_grad()
        loss = self.model(batch).square().mean()
        NOTES.batch(loss)
        loss.backward()
        lr = self.opt.param_groups[0]["lr"] = LR * DECAY**self.step
        NOTES.gradients(self.model, lr)
        norm = compute_grad_norm(self.model)
        self.opt.step()
        with torch.no_grad():
            for s, p in zip(self.ema_params, self.model.parameters(), strict=True):
                s.mul_(0.9).add_(p, alpha=0.1)
        self.tracker.log_step(self.step, loss, lr, norm, len(batch))  # +


def improved_diffusion() -> None:
    """A loop object with a list of averaged parameters."""
    _TrainLoop().run_loop()


def nanogpt_ddp() -> None:
    """In the shape of nanoGPT: DDP by torchrun, micro-steps with one synchronisation, clipping, no average."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    raw = new_model()
    model = DistributedDataParallel(raw)
    _KEPT.append(model)
    optimizer, schedule = _optimizer(raw)
    start = _resumed(raw, optimizer, schedule)
    tracker = MetricsTracker("out", every_n_steps=EVERY)  # +
    data = itertools.islice(_endless(), 4 * start + 2 * rank, None)
    for step in range(start, STEPS):
        total = torch.zeros(())
        for micro_step in range(2):
            model.require_backward_grad_sync = micro_step == 1
            loss = model(next(data)).square().mean() / 2
            NOTES.batch(loss * 2)
            total += loss.detach()
            loss.backward()
        lr = optimizer.param_groups[0]["lr"]
        NOTES.gradients(raw, lr)
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        tracker.log_step(step, total, lr, norm, 2 * BATCH_SIZE)  # +
        _save(step + 1, raw, optimizer, schedule)
        NOTES.step(raw)
        next(data), next(data)
    tracker.close()  # +
    dist.destroy_process_group()


LOOPS: dict[str, Callable[[], None]] = {
    loop.__name__: loop
    for loop in (
        diffusers_unconditional,
        accelerate_two_processes,
        lucidrains_trainer,
        smalldiffusion_generator,
        improved_diffusion,
        nanogpt_ddp,
    )
}

if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("loop", choices=LOOPS)
    options.add_argument("--stop-after", type=int, default=0)
    options.add_argument("--resume", action="store_true")
    options.parse_args(namespace=ARGS)
    torch.set_num_threads(1)
    LOOPS[ARGS.loop]()
    if "WORLD_SIZE" in os.environ:
        os._exit(0)  # without taking the models down
