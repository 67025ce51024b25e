"""Loops of Lightning, transformers and Accelerate, one a process: they checkpoint, end themselves, and continue.

``python framework_loops.py lightning --every 2 --end SIGTERM --at 9 --resume`` trains for two epochs, and sends itself
the signal (or fails, with ``--end error``) in its ninth micro-batch. Each micro-batch's loss is appended to
``seen.txt``, independently of the tracker. With ``--serve`` it imports all frameworks once, which takes ten seconds,
and forks a process for each line of JSON that it reads: its folder, environment and arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from support.reference_loop import ACCUMULATE, BATCH_SIZE, CLIP, DECAY, LR, dataset, new_model

EPOCHS = 2
_OPTIONS = argparse.ArgumentParser()
_OPTIONS.add_argument("framework", nargs="?")
_OPTIONS.add_argument("--serve", action="store_true")
_OPTIONS.add_argument("--every", type=int)
_OPTIONS.add_argument("--end", default="")
_OPTIONS.add_argument("--at", type=int, default=0)
_OPTIONS.add_argument("--kill-after", type=int, default=-1, help="SIGKILL at the end of this epoch, in Lightning")
_OPTIONS.add_argument("--resume", action="store_true")
_OPTIONS.add_argument("--mlflow", action="store_true", help="beside the framework's own MLflow logger")
_OPTIONS.add_argument("--devices", type=int, default=1)
ARGS = _OPTIONS.parse_args()
_seen: list[float] = []


def note(loss: torch.Tensor) -> None:
    """Note a micro-batch's loss, and end the process there if that is wanted."""
    _seen.append(float(loss.detach()))
    with Path(f"seen{os.environ.get('LOCAL_RANK', '')}.txt").open("a") as file:
        file.write(f"{_seen[-1]!r}\n")
    if len(_seen) == ARGS.at and ARGS.end == "error":
        raise RuntimeError("broken")
    if len(_seen) == ARGS.at and ARGS.end:
        os.kill(os.getpid(), signal.Signals[ARGS.end])


def _optimizer(model: torch.nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)


def lightning_loop() -> None:
    """Lightning with automatic optimisation, clipping, accumulation and a checkpoint after each step."""
    import mlflow
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import MLFlowLogger

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    class Model(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = new_model()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:  # noqa: ARG002
            loss: torch.Tensor = self.net(batch[0]).square().mean()
            note(loss)
            return loss

        def on_train_epoch_end(self) -> None:
            if self.current_epoch == ARGS.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

        def configure_optimizers(self) -> Any:
            optimizer, schedule = _optimizer(self)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    saving = ModelCheckpoint("checkpoints", save_last=True, every_n_train_steps=1)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=CLIP,
        callbacks=[MetricsCallback("out", every_n_steps=ARGS.every), saving],
        logger=MLFlowLogger("Default", tracking_uri=mlflow.get_tracking_uri()) if ARGS.mlflow else False,
        accelerator="cpu",
        devices=ARGS.devices,
        strategy="ddp" if ARGS.devices > 1 else "auto",
        **dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(Model(), DataLoader(dataset(), BATCH_SIZE), ckpt_path="last" if ARGS.resume else None)


def transformers_loop() -> None:
    """The Trainer of transformers with clipping, accumulation and a checkpoint after each step."""
    import transformers

    from mlflow_ddpm.integrations.transformers import track

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = new_model()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            loss = self.net(x).square().mean()
            note(loss)
            return {"loss": loss}

    model = Model()
    arguments = transformers.TrainingArguments(
        "hf",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        gradient_accumulation_steps=ACCUMULATE,
        max_grad_norm=CLIP,
        report_to="mlflow" if ARGS.mlflow else "none",
        use_cpu=True,
        save_steps=1,
        save_strategy="steps",
        train_sampling_strategy="sequential",
        disable_tqdm=True,
    )
    rows = [{"x": x} for x in dataset().tensors[0]]
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, optimizers=_optimizer(model))
    track(trainer, "out", every_n_steps=ARGS.every)
    trainer.train(resume_from_checkpoint=ARGS.resume or None)


def accelerate_loop() -> None:
    """Accelerate as diffusers' scripts use it: accumulation, an average, state saved after each step."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    log_with = AccelerateTracker("out", every_n_steps=ARGS.every or 2)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE, log_with=log_with)
    model = new_model()
    optimizer, schedule = _optimizer(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(dataset(), BATCH_SIZE))
    accelerator.register_for_checkpointing(schedule)
    accelerator.init_trackers("project", config={"lr": LR})
    per_epoch = -(-len(loader) // ACCUMULATE)
    steps = 0
    if ARGS.resume:
        accelerator.load_state("state")
        steps = int(Path("steps.txt").read_text())
    norm, first = None, steps // per_epoch
    for epoch in range(first, EPOCHS):
        done = (steps % per_epoch) * ACCUMULATE if epoch == first else 0
        for (batch,) in accelerator.skip_first_batches(loader, done) if done else loader:
            with accelerator.accumulate(model):
                loss = model(batch).square().mean()
                note(loss)
                accelerator.backward(loss)
                lr = optimizer.param_groups[0]["lr"]
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                if accelerator.sync_gradients:
                    schedule.step()
                optimizer.zero_grad()
            logs = {"loss": loss.detach(), "lr": lr, "batch_size": len(batch)}
            if accelerator.sync_gradients:
                steps += 1
                logs["grad_norm"] = norm
            accelerator.log(logs, step=steps)
            if accelerator.sync_gradients:
                accelerator.save_state("state")
                Path("steps.txt").write_text(str(steps))
    accelerator.end_training()


def become_one_of_many() -> None:
    """Return in a fork for each line; report the exit status of each, and end when there is no more."""
    for name in (
        "accelerate",
        "lightning.pytorch.loggers",
        "mlflow.store.tracking.sqlalchemy_store",
        "transformers.trainer",
    ):
        import_module(name)
    for line in sys.stdin:
        folder, environment, arguments = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _OPTIONS.parse_args(arguments, ARGS)
            return
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
    sys.exit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if ARGS.serve:
        become_one_of_many()
    loops = {"lightning": lightning_loop, "transformers": transformers_loop, "accelerate": accelerate_loop}
    loops[ARGS.framework]()
