"""What is told of an epoch beside its loss: by noise level, by part of the U-Net, and how far the last step went."""

from __future__ import annotations

import copy
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.common import ROOT, slow
from support.pipeline import ALONE, RecordingTracker, new_trainer, tiny
from torch import Tensor, nn

from mlflow_ddpm.core.extra_metrics import PIPELINE_METRICS
from mlflow_ddpm.ddpm import train as training
from mlflow_ddpm.ddpm.evaluation.sample_quality import SampleEvaluator, SampleQuality
from mlflow_ddpm.ddpm.train import prepare, train_with
from mlflow_ddpm.ddpm.training import diagnostics as insights
from mlflow_ddpm.ddpm.training.diagnostics import PARTS, EpochDiagnostics, part_norms, parts_of, update_to_weight
from mlflow_ddpm.ddpm.training.trainer import Trainer, build_model, clip_gradients, gradient_norms
from mlflow_ddpm.tracking.timing import AccumulatingTimer

torch.set_num_threads(1)


def model_with_gradients(**values: Any) -> nn.Module:
    """A U-Net with a random gradient for every parameter, of any size."""
    model = build_model(tiny(**values), 10)
    for i, p in enumerate(model.parameters()):
        p.grad = torch.randn(p.shape) * 10 ** (i % 5 - 2)
    return model


def fed(*batches: tuple[list[float], list[int]]) -> EpochDiagnostics:
    """What was told of losses and timesteps out of 20."""
    diagnostics = EpochDiagnostics(build_model(tiny(), 10), 20)
    for losses, at in batches:
        diagnostics.add_losses(torch.tensor(losses), torch.tensor(at))
    return diagnostics


@pytest.mark.parametrize("largest", [0.0, 1e-3, 1.0, 1e9])
def test_clipping_is_that_of_torch_to_the_last_bit(largest: float) -> None:
    """The total that is returned and every gradient that is left; 0 leaves them all."""
    ours = model_with_gradients()
    theirs = copy.deepcopy(ours)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    parameters = list(ours.parameters())
    total = clip_gradients(parameters, gradient_norms(parameters), largest)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), largest or math.inf)

    assert torch.equal(expected, total)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


def test_the_parts_norms_add_up_to_the_total_and_are_those_of_their_gradients() -> None:
    """By their squares; each part's is that of all its gradients laid end to end."""
    model = model_with_gradients()
    parameters = list(model.parameters())
    norms = gradient_norms(parameters)
    parts = part_norms(norms[None], parts_of(model))[0]  # (G,)
    middle = torch.cat([p.grad.flatten() for n, p in model.named_parameters() if n.startswith("middle")])  # type: ignore[union-attr]
    embedding = [p.grad for n, p in model.named_parameters() if n.startswith(("time", "label")) and p.grad is not None]

    assert float(parts.square().sum().sqrt()) == pytest.approx(float(torch.linalg.vector_norm(norms)), rel=1e-6)
    assert float(parts[PARTS.index("middle")]) == pytest.approx(float(middle.double().norm()), rel=1e-6)
    assert float(parts[PARTS.index("embedding")]) == pytest.approx(
        float(torch.cat([g.flatten() for g in embedding]).double().norm()), rel=1e-6
    )


@pytest.mark.parametrize(
    "values", [{}, {"patch_size": 1, "blocks": 2}, {"channel_mults": (1,), "attention_size": 0, "image_size": 16}]
)
def test_every_parameter_of_any_model_belongs_to_a_part(values: dict[str, Any]) -> None:
    """And every part has some."""
    model = build_model(tiny(**values), 10)

    assert set(parts_of(model).tolist()) == set(range(len(PARTS)))


def test_losses_are_told_apart_by_quarter_of_the_timestep() -> None:
    """Of 20 timesteps, 0 to 4 are the first quarter, with least noise, and 15 to 19 the last; images count alike."""
    told = fed(([1, 2, 3, 4], [0, 5, 10, 15]), ([3, 5], [4, 19]), ([7.5], [4])).read(ALONE)

    assert [told[f"loss_t/q{q}"] for q in (1, 2, 3, 4)] == pytest.approx([11.5 / 3, 2, 3, 4.5])


@pytest.mark.parametrize("fold_at", [1, 2, 256])
def test_folding_changes_nothing(monkeypatch: pytest.MonkeyPatch, fold_at: int) -> None:
    """Sums on the device, at any time, give the same means as all at the end."""
    monkeypatch.setattr(insights, "_FOLD_AT", fold_at)
    diagnostics = fed()
    norms = torch.rand(5, len(diagnostics._parts))
    for i in range(5):
        diagnostics.add_losses(torch.tensor([1.0 + i, 2.0]), torch.tensor([i, 19 - i]))
        diagnostics.add_gradients(norms[i])
    told = diagnostics.read(ALONE)
    expected = part_norms(norms, diagnostics._parts).mean(0)

    assert (told["loss_t/q1"], told["loss_t/q2"], told["loss_t/q4"]) == (3.0, None, 2.0)
    assert [told[f"grad_part/{part}"] for part in PARTS] == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_value_that_is_not_finite_hides_no_other() -> None:
    """It is left out of its mean; where there is no other the mean is NaN, and without images None."""
    diagnostics = fed(([1, math.nan, 3, math.inf], [0, 0, 0, 19]))
    finite, broken = torch.ones(len(diagnostics._parts)), torch.ones(len(diagnostics._parts))
    broken[diagnostics._parts == PARTS.index("middle")] = math.nan
    diagnostics.add_gradients(finite)
    diagnostics.add_gradients(broken)
    told = diagnostics.read(ALONE)

    assert told["loss_t/q1"] == 2.0
    assert told["loss_t/q2"] is None
    assert math.isnan(told["loss_t/q4"] or 0)
    assert told["grad_part/middle"] == pytest.approx(float((diagnostics._parts == PARTS.index("middle")).sum()) ** 0.5)


def test_an_epoch_forgets_the_one_before_it() -> None:
    """Also what had been folded."""
    diagnostics = fed(([1], [0]))
    diagnostics.read(ALONE)
    diagnostics.start_epoch()

    assert diagnostics.read(ALONE) == {name: None for name in diagnostics.read(ALONE) if name != "time/data_sec"} | {
        "time/data_sec": 0.0
    }


def test_the_step_is_measured_against_the_weights_before_it() -> None:
    """Weights 3 and 4 that move by 0.03 and 0.04: a hundredth; weights of nothing but zeros move infinitely far."""
    before = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    after = [torch.tensor([3.03]), torch.tensor([[4.04]])]

    assert float(update_to_weight(before, after)) == pytest.approx(0.01, rel=1e-5)
    assert float(update_to_weight([torch.zeros(2)], [torch.ones(2)])) == math.inf


def test_the_learner_tells_what_its_batches_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each quarter's mean over the very losses that were trained on, all norms, and the last step of the epoch."""
    trainer = new_trainer(tiny(batch_size=300))
    seen: list[tuple[Tensor, Tensor]] = []
    weights: list[Tensor] = []
    add, step = trainer.diagnostics.add_losses, trainer._optimizer.step

    def note_losses(loss: Tensor, at: Tensor) -> None:
        seen.append((loss.detach(), at))
        add(loss, at)

    def note_weights() -> None:
        weights.append(flat(trainer))
        step()

    monkeypatch.setattr(trainer.diagnostics, "add_losses", note_losses)
    monkeypatch.setattr(trainer._optimizer, "step", note_weights)
    norms = [float(result.grad_norm) for result in trainer.train_epoch(0)]
    told = trainer.diagnostics.read(ALONE)
    losses, at = (torch.cat(list(column)) for column in zip(*seen, strict=True))
    last = weights[-1]

    assert len(losses) == 1500
    for quarter in range(4):
        mine = losses[(at >= 5 * quarter) & (at < 5 * (quarter + 1))].double()
        assert told[f"loss_t/q{quarter + 1}"] == pytest.approx(float(mine.mean()), rel=1e-12)
    assert all(0 < (told[f"grad_part/{part}"] or 0) <= max(norms) for part in PARTS)
    assert told["update/weight_ratio"] == pytest.approx(float((flat(trainer) - last).norm() / last.norm()), rel=1e-4)


def flat(trainer: Trainer) -> Tensor:
    """All weights, end to end, in float64."""
    return torch.cat([p.detach().double().flatten() for p in trainer.model.parameters()])


def test_seconds_add_up_until_they_are_taken() -> None:
    """Here on a clock that moves by one at each look."""
    seconds = AccumulatingTimer(clock=itertools.count().__next__)
    for _ in range(3):
        with seconds:
            pass

    assert (seconds.take(), seconds.take()) == (3, 0)


def test_every_row_tells_the_pipelines_metrics_and_counts_each_checkpoint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row's maintenance is its own samples and the checkpoint before it: one and two looks, the first row one."""
    monkeypatch.setattr(training, "AccumulatingTimer", lambda: AccumulatingTimer(clock=itertools.count().__next__))
    tracker = RecordingTracker()
    train_with(tracker, prepare(tiny(epochs=3), ALONE, tmp_path), tmp_path)
    insights_named = {m.name for m in PIPELINE_METRICS if m.category == "Diagnostics"}

    assert [set(row.extra) for row in tracker.rows] == [insights_named] * 3
    assert [row.extra["time/maintenance_sec"] for row in tracker.rows] == [1, 2, 2]


@pytest.mark.slow
def test_grids_of_all_epochs_start_from_one_noise(tmp_path: Path) -> None:
    """A model that does not learn draws the same picture again and again: what differs else is what was learnt."""
    drawn: list[bytes] = []

    class Keeping(RecordingTracker):
        def log_image(self, name: str, image: Any, epoch: int) -> None:  # noqa: ARG002
            drawn.append(image.tobytes())

    for lr in (1e-30, 1e-2):
        directory = tmp_path / str(lr)
        config = tiny(epochs=3, sample_every=1, lr=lr, sampler="ancestral")
        train_with(Keeping(), prepare(config, ALONE, directory), directory)

    assert len(drawn) == 6
    assert len(set(drawn[:3])) == 1
    assert len(set(drawn[3:])) == 3


def test_preparing_is_timed_once_for_each_batch() -> None:
    """Of an epoch of four batches; the order is drawn with the first."""
    trainer = new_trainer(tiny())
    trainer.diagnostics.data_timer = AccumulatingTimer(clock=itertools.count().__next__)
    list(trainer.train_epoch(0))

    assert trainer.diagnostics.read(ALONE)["time/data_sec"] == 4


@pytest.mark.parametrize("every", [slow(0), 2])
def test_samples_are_judged_when_it_was_asked_for_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Of five epochs every second, and the last; without a wish the last alone. Its row has what the judge says."""
    said = SampleQuality(0.9, 0.8, None, 3.0, 1.0, 0.99)
    monkeypatch.setattr(SampleEvaluator, "evaluate", lambda *_: said)
    tracker = RecordingTracker()
    train_with(tracker, prepare(tiny(epochs=5, eval_every=every, eval_per_class=2), ALONE, tmp_path), tmp_path)
    judged = [row.epoch for row in tracker.rows if said.metrics().items() <= row.extra.items()]

    assert judged == ([1, 3, 4] if every else [4])
    assert [row.epoch for row in tracker.rows if "sample/accuracy" in row.extra] == judged


@pytest.mark.slow
def test_the_benchmark_of_its_cost_runs() -> None:
    """One epoch of each; nothing is asserted of any time."""
    command = [sys.executable, str(ROOT / "tests" / "bench" / "diagnostics.py"), "--quick"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env, timeout=300)

    assert "with diagnostics, beside the same without" in done.stdout
