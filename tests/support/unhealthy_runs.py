"""Seeded training runs: healthy ones of every kind, and for each finding one that is sick in that way alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_ddpm.analysis.findings.rules import Finding, find_findings
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics

NAN, INF = math.nan, math.inf
CARD_MB = 24_000


def history_of(
    rows: Sequence[EpochMetrics], environment: Mapping[str, Any] | None = None, resumed: Sequence[int] = ()
) -> RunHistory:
    """Return the history of rows that are sorted already."""
    return RunHistory(rows=tuple(rows), run={"resumed_at_epochs": list(resumed)}, environment=environment or {})


def findings_by_rule(rows: Sequence[EpochMetrics], **environment: int) -> dict[str, Finding]:
    """Return what is found in rows."""
    return {finding.rule: finding for finding in find_findings(history_of(rows, environment))}


@dataclass
class Run:
    """What the rules are given."""

    rows: list[EpochMetrics]
    environment: dict[str, Any] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)

    @property
    def history(self) -> RunHistory:
        """The run as it is read back."""
        return history_of(self.rows, self.environment, self.resumed)

    def change(self, epoch: int, **values: Any) -> None:
        """Give an epoch other values."""
        self.rows[epoch] = replace(self.rows[epoch], **values)


def healthy_run(seed: int, epochs: int | None = None, *, measure_all: bool = False) -> Run:
    """Return a run in which nothing is wrong: its length, schedule, noise, device and extras follow from the seed.

    The loss falls as a power of the epoch towards a floor, as diffusion losses do; batch losses are skewed; the
    gradient norm settles and may creep up again; the EMA distance levels off or follows the learning rate down.
    """
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    epochs = epochs if epochs is not None else round(10 ** dice.uniform(0, 3))
    rate = _schedule(dice, epochs)
    floor, fall, power = dice.uniform(0.01, 0.5), dice.uniform(0.2, 2.0), dice.uniform(0.3, 0.9)
    noise, spread = dice.choice((0.002, 0.01, 0.04, 0.1)), dice.uniform(0.1, 0.5)
    norm, norm_fall, norm_creep = 10 ** dice.uniform(-2, 1), dice.uniform(1, 20), dice.uniform(0, 2)
    speed, wobble = 10 ** dice.uniform(1, 5), dice.choice((0.005, 0.03, 0.1))
    on_gpu, has_ema, has_norm, has_size = (dice.random() < share or measure_all for share in (0.5, 0.7, 0.8, 0.8))
    held = dice.uniform(500, 0.6 * CARD_MB)
    settled, distance = dice.uniform(0.02, 0.2) * epochs + 0.5, 10 ** dice.uniform(-1, 1)
    step_at = dice.randrange(epochs)
    rows, total = [], 0.0
    for epoch in range(epochs):
        mean = (floor + fall * (epoch + 1) ** -power) * math.exp(dice.gauss(0, noise))
        seconds = 5000 / speed * math.exp(abs(dice.gauss(0, wobble))) * (1.0 if epoch else dice.uniform(1, 4))
        total += seconds
        drift = 1 - math.exp(-(epoch + 1) / settled)
        rows.append(
            EpochMetrics(
                epoch=epoch,
                loss_mean=mean,
                loss_std=spread * mean,
                loss_min=0.6 * mean,
                loss_max=mean * (1 + spread * (2 + abs(dice.gauss(0, 1)))),
                loss_median=0.96 * mean,
                lr=rate(epoch),
                grad_norm=norm
                * (1 + norm_fall / (epoch + 1) + norm_creep * epoch / epochs)
                * math.exp(dice.gauss(0, 2 * noise))
                if has_norm
                else None,
                samples_per_sec=5000 / seconds if has_size else None,
                batches_per_sec=50 / seconds,
                gpu_allocated_mb=held + (64 if epoch >= step_at else 0) if on_gpu else None,
                gpu_reserved_mb=1.3 * held + 200 * (epoch > step_at) if on_gpu else None,
                gpu_peak_mb=1.25 * held + dice.uniform(0, 20) if on_gpu else None,
                ema_delta_norm=distance
                * drift
                * (0.1 + rate(epoch) / rate.peak if rate.follows else 1.0)
                * math.exp(dice.gauss(0, 0.03))
                if has_ema
                else None,
                epoch_time_sec=seconds,
                cumulative_time_sec=total,
                nonfinite_batches=0,
                skipped_steps=0,
                batches=50,
                partial=0,
                extra={"fid": 300 / (epoch + 1) ** 0.5} if dice.random() < 0.1 else {},
                logged_at_ms=1_700_000_000_000 + epoch,
            )
        )
    if epochs > 20 and seed % 5 == 0:  # an epoch lost to a crash is no sickness
        del rows[epochs // 3]
    return Run(rows, {"gpu_memory_mb": CARD_MB} if on_gpu else {})


class _schedule:  # noqa: N801 - called like a function, and asked for its peak
    """A learning rate by epoch: constant, cosine, linear, steps or warm restarts, with or without warm-up."""

    def __init__(self, dice: random.Random, epochs: int) -> None:
        self.peak = 10 ** dice.uniform(-5, -2)
        self._kind = dice.choice(("constant", "cosine", "linear", "steps", "restarts"))
        self._epochs = epochs
        self._warmup = dice.choice((0, 0, 1, 5, max(1, epochs // 20)))
        self.follows = self._kind != "restarts" and dice.random() < 0.5

    def __call__(self, epoch: int) -> float:
        done = (epoch + 1) / self._epochs
        course = {
            "constant": 1.0,
            "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
            "linear": 1 - done,
            "steps": 0.1 ** int(3 * epoch / self._epochs),
            "restarts": 0.505 + 0.495 * math.cos(math.pi * self._place_in_cycle(epoch)),
        }[self._kind]
        return self.peak * course * min(1.0, (epoch + 1) / (self._warmup + 1))

    def _place_in_cycle(self, epoch: int) -> float:
        after_warmup = max(0, epoch - self._warmup)
        return 4 * after_warmup / self._epochs % 1


def _base(seed: int) -> Run:
    """Return a healthy GPU run of 60 to 400 epochs in which everything is measured, to make sick."""
    epochs = random.Random(seed).randrange(60, 400)  # noqa: S311 - a test's dice
    return healthy_run(5 * seed + 1, epochs, measure_all=True)


def _nonfinite_batches(run: Run, dice: random.Random) -> None:
    for _ in range(dice.randrange(1, 4)):
        run.change(dice.randrange(len(run.rows) - 1), nonfinite_batches=dice.randrange(1, 9))


def _skipped_steps(run: Run, dice: random.Random) -> None:
    for epoch in range(dice.randrange(1, 4)):
        steps = dice.randrange(1, 9)
        run.change(epoch, nonfinite_batches=steps, skipped_steps=steps)


def _nonfinite_weights(run: Run, dice: random.Random) -> None:
    for epoch in range(dice.randrange(len(run.rows)), len(run.rows)):
        run.change(epoch, ema_delta_norm=NAN)


def _divergence(run: Run, dice: random.Random) -> None:
    count = len(run.rows)
    start = dice.randrange(count // 3, 4 * count // 5)
    for epoch in range(start, count):
        loss = (run.rows[epoch].loss_mean or 0) * (1 + 3 * (1 - math.exp(-(epoch - start + 1) / 10)))
        run.change(epoch, loss_mean=loss, loss_max=2.2 * loss)


def _loss_spike(run: Run, dice: random.Random) -> None:
    for _ in range(dice.randrange(1, 4)):
        epoch = dice.randrange(12, len(run.rows) - 1)
        loss = dice.uniform(4, 40) * (run.rows[epoch].loss_mean or 0)
        run.change(epoch, loss_mean=loss, loss_max=2 * loss)


def _plateau(run: Run, dice: random.Random) -> None:
    stuck = dice.randrange(10, len(run.rows) // 3)
    level = run.rows[stuck].loss_mean or 0
    for epoch in range(stuck, len(run.rows)):
        run.change(epoch, loss_mean=level * (1 + dice.gauss(0, 0.002)), loss_max=2 * level)


def _gradient_explosion(run: Run, dice: random.Random) -> None:
    if dice.random() < 0.5:
        epoch = dice.randrange(12, len(run.rows))
        run.change(epoch, grad_norm=dice.uniform(40, 1e6) * (run.rows[epoch].grad_norm or 0))
        return
    for epoch, row in enumerate(run.rows):
        run.change(epoch, grad_norm=(row.grad_norm or 0) * math.exp(6 * epoch / len(run.rows)))


def _exploding_for_long(run: Run, dice: random.Random) -> None:
    """Multiply the gradient norm anew in each epoch, at the end or in a spell that ends."""
    start = dice.randrange(20, len(run.rows) - 15)
    for epoch in range(start, min(start + 12, len(run.rows)) if dice.random() < 0.5 else len(run.rows)):
        run.change(epoch, grad_norm=4.0 ** min(epoch - start + 2, 300) * (run.rows[epoch].grad_norm or 0))


def _gradient_vanishing(run: Run, dice: random.Random) -> None:
    start, zero = dice.randrange(20, len(run.rows) - 10), dice.random() < 0.5
    for epoch in range(start, len(run.rows)):
        run.change(epoch, grad_norm=0.0 if zero else (run.rows[epoch].grad_norm or 0) * 1e-5)


def _throughput_drop(run: Run, dice: random.Random) -> None:
    count = len(run.rows)
    start, length, share = dice.randrange(15, count // 2), count // 3, dice.uniform(0.2, 0.5)
    for epoch in range(start, start + length):
        row = run.rows[epoch]
        rates = (
            (row.samples_per_sec or 0) * share if row.samples_per_sec else None,
            (row.batches_per_sec or 0) * share,
        )
        run.change(epoch, samples_per_sec=rates[0], batches_per_sec=rates[1])


def _memory_creep(run: Run, dice: random.Random) -> None:
    leak = dice.uniform(2000, 5000) / len(run.rows)
    for epoch in range(len(run.rows)):
        held = 3000 + leak * epoch + dice.uniform(0, leak / 2)
        run.change(epoch, gpu_allocated_mb=held, gpu_reserved_mb=1.3 * held, gpu_peak_mb=1.2 * held)


def _memory_near_limit(run: Run, dice: random.Random) -> None:
    high = dice.uniform(0.92, 0.99) * CARD_MB
    for epoch in range(dice.randrange(len(run.rows)), len(run.rows)):
        run.change(epoch, gpu_peak_mb=high)


def _ema_lagging(run: Run, dice: random.Random) -> None:
    rate = dice.uniform(0.01, 1)
    for epoch in range(len(run.rows)):
        run.change(epoch, ema_delta_norm=rate * (epoch + 1) * math.exp(dice.gauss(0, 0.02)), lr=1e-3)


def _ema_idle(run: Run, _dice: random.Random) -> None:
    for epoch in range(len(run.rows)):
        run.change(epoch, ema_delta_norm=0.0)


def _lr_anomaly(run: Run, dice: random.Random) -> None:
    count = len(run.rows)
    epoch = dice.randrange(count // 2, count - 5)
    kind = dice.choice(("negative", "zero", "burst"))
    for e in range(count):
        run.change(e, lr=1e-3 * (1 - 0.9 * e / count))
    for e in range(epoch, epoch + 4):
        run.change(e, lr={"negative": -1e-5, "zero": 0.0, "burst": 0.02}[kind])


def _lr_at_resume(run: Run, dice: random.Random) -> None:
    count = len(run.rows)
    run.resumed = [dice.randrange(2 * count // 3, count - 1)]
    for epoch in range(count):
        lost = epoch >= run.resumed[0]
        run.change(epoch, lr=1e-3 * (1.0 if lost else 0.5 + 0.5 * math.cos(math.pi * epoch / count)))


def _resumed(run: Run, dice: random.Random) -> None:
    run.resumed = sorted(dice.sample(range(1, len(run.rows)), dice.randrange(1, 4)))


# Rule, what makes a run sick in that way, and the findings that must go with it.
SICKNESSES: Mapping[str, tuple[Callable[[Run, random.Random], None], frozenset[str]]] = {
    "nonfinite_batches": (_nonfinite_batches, frozenset()),
    "nonfinite_weights": (_nonfinite_weights, frozenset()),
    "divergence": (_divergence, frozenset()),
    "loss_spike": (_loss_spike, frozenset()),
    "plateau": (_plateau, frozenset()),
    "gradient_explosion": (_gradient_explosion, frozenset()),
    "gradient_explosion for long": (_exploding_for_long, frozenset()),
    "gradient_vanishing": (_gradient_vanishing, frozenset()),
    "throughput_drop": (_throughput_drop, frozenset()),
    "memory_creep": (_memory_creep, frozenset()),
    "memory_near_limit": (_memory_near_limit, frozenset()),
    "ema_lagging": (_ema_lagging, frozenset()),
    "ema_idle": (_ema_idle, frozenset()),
    "lr_anomaly": (_lr_anomaly, frozenset()),
    "lr_anomaly at a resume": (_lr_at_resume, frozenset({"resumed"})),
    "skipped_steps": (_skipped_steps, frozenset()),
    "resumed": (_resumed, frozenset()),
}


def sick_run(kind: str, seed: int) -> Run:
    """Return a healthy run made sick in one way."""
    run = _base(seed)
    SICKNESSES[kind][0](run, random.Random(seed))  # noqa: S311 - a test's dice
    return run
