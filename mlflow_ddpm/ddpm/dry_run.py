"""What a training would be, and what is in its way, before the first step. Nothing is written.

Every check is made, whatever the others found, so that all problems are shown at once.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import MlflowDdpmError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.config.fields import typed_text
from mlflow_ddpm.ddpm.data.emnist_download import check_offer
from mlflow_ddpm.ddpm.data.emnist_files import Archive
from mlflow_ddpm.ddpm.data.images import Dataset
from mlflow_ddpm.ddpm.data.loading import is_missing, load_dataset
from mlflow_ddpm.ddpm.output_dir import is_same_finished_run, nearest_existing, plan_output_dir
from mlflow_ddpm.ddpm.train import check_same_run
from mlflow_ddpm.ddpm.training.checkpoint import load_newest
from mlflow_ddpm.ddpm.training.distributed import choose_device
from mlflow_ddpm.ddpm.training.memory_estimate import Memory, estimate_memory, free_memory
from mlflow_ddpm.storage.layout import CHECKPOINT_FOLDER
from mlflow_ddpm.storage.run_target import preflight_store

MIB = 2**20
_CHECKPOINTS = 3  # two that are kept and one that is being written
_ARTIFACTS = 50 * MIB  # plots, report and sample grids, here and in a store on the same disk


class Plan(NamedTuple):
    """What would happen, by subject, and what is in its way: one line each."""

    facts: list[tuple[str, str]]
    problems: list[str]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Make a problem of what the body raises."""
        try:
            yield
        except MlflowDdpmError as error:
            self.problems.append(str(error))
        except OSError as error:
            self.problems.append(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def plan_training(
    config: Config,
    directory: Path,
    *,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    resume: bool = False,
    offer: Archive | None = None,
) -> Plan:
    """Return the plan of a resolved configuration; in a torchrun job, that of each of its processes.

    With ``offer`` the data would be fetched from there if it were missing.
    """
    plan = Plan([], [])
    dataset, device = None, torch.device("cpu")
    with plan.collecting():
        device = choose_device(config.train.device)
    with plan.collecting():
        if offer and is_missing(config.data):
            size = f"{offer.size / 1e6:.0f} MB"
            plan.facts.append(("data", f"not there, {size} to fetch; steps and memory are not estimated"))
            check_offer(Path(config.data.dir), offer)
        else:
            dataset = load_dataset(config.data)
            plan.facts.append(("data", _describe_data(dataset, config)))
    if dataset:
        _plan_size(plan, config, dataset, device, directory)
    plan.facts.append(("device", _describe_device(device, config)))
    with plan.collecting():
        plan.facts.append(("output", _plan_output(directory, config, resume=resume)))
    with plan.collecting():
        plan.facts.append(("store", preflight_store(tracking_uri=tracking_uri, experiment_name=experiment_name)))
    plan.facts.extend(_list_settings(config))
    return plan


def _plan_size(plan: Plan, config: Config, dataset: Dataset, device: torch.device, directory: Path) -> None:
    classes, images = len(dataset.class_names), len(dataset.train.labels)
    batch, epochs = config.train.batch_size, config.train.epochs
    steps = -(-images // batch)
    images_size = dataset.train.nbytes + dataset.test.nbytes
    memory = estimate_memory(config, classes, images_size, processes=ranks.world_size(), device=device)
    parts = ", ".join(f"{name.replace('_', ' ')} {_mib(size)}" for name, size in memory._asdict().items())
    plan.facts.extend(
        [
            ("model", f"preset {config.train.preset}: {memory.weights // 4:,} parameters"),
            ("steps", f"{steps:,} an epoch of batches of {batch:,}, {steps * epochs:,} in {count_of(epochs, 'epoch')}"),
            ("memory", f"about {_mib(memory.total)} MiB a process, beside what Python, torch and MLflow take:"),
            ("", parts),
        ]
    )
    free = free_memory(device)
    if memory.total > free:
        plan.problems.append(
            f"the training needs about {memory.total // MIB:,} MiB, {device} has {free // MIB:,} MiB free; choose a "
            "smaller --batch-size or --preset"
        )
    _plan_disk(plan, memory, directory)


def _plan_disk(plan: Plan, memory: Memory, directory: Path) -> None:
    needed = _CHECKPOINTS * memory.state + 2 * memory.weights + _ARTIFACTS
    existing = nearest_existing(directory)
    free = shutil.disk_usage(existing).free
    plan.facts.append(("disk", f"about {needed // MIB:,} MiB of {free // MIB:,} MiB free in {display_path(existing)}"))
    if needed > free:
        plan.problems.append(
            f"checkpoints and artifacts need about {needed // MIB:,} MiB, {display_path(existing)} has {free // MIB:,} "
            "MiB free; make room, or choose another --output-dir"
        )


def _plan_output(directory: Path, config: Config, *, resume: bool) -> str:
    """Return what would become of the output directory; raise MlflowDdpmError if it cannot be used."""
    output = plan_output_dir(directory, config, resume=resume)
    checkpoint = load_newest(directory / CHECKPOINT_FOLDER)
    if checkpoint is None or is_same_finished_run(directory, config):
        return output
    check_same_run(checkpoint.state["config"], config, checkpoint.path)
    done = f"{checkpoint.epoch + 1} of {config.train.epochs}"
    return f"{output}, continuing after epoch {checkpoint.epoch} ({done})"


def _describe_data(dataset: Dataset, config: Config) -> str:
    train, test, size = len(dataset.train.labels), len(dataset.test.labels), config.data.image_size
    classes = len(dataset.class_names)
    return (
        f"{dataset.name}: {train:,} images of {classes} classes to train on, {test:,} held out, seen at {size}x{size}"
    )


def _describe_device(device: torch.device, config: Config) -> str:
    threads = count_of(config.train.threads or torch.get_num_threads(), "thread")
    name = threads if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{device}, {name}, {count_of(ranks.world_size(), 'process', 'processes')}"


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}" if size >= 10 * MIB else f"{size / MIB:.1f}"


def _list_settings(config: Config) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for group, settings in config.as_dict().items():
        values = "  ".join(f"{name} {typed_text(value)}" for name, value in settings.items())
        lines.append(("" if lines else "settings", f"{group}: {values}"))
    return lines
