"""Rules on loss and gradient."""

import math
from itertools import takewhile

from mlflow_ddpm.analysis.findings.rule import MIN_EPOCHS, RuleHit, rule, short
from mlflow_ddpm.analysis.robust_statistics import blocks, level, noise, outliers, sliding_medians
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.formatting import count_of

SIGMAS = 8  # standard deviations of the noise that a rise must stand out by, besides its own factor
SPIKE, BATCH_SPIKE = 1.5, 5.0
DIVERGED = 1.5
PLATEAU, PLATEAU_EPOCHS = 0.005, 40
EXPLODED, VANISHED = 10.0, 1e-3


@rule("Non-finite batches", "error", "a batch whose loss is NaN or infinite (norm alone: `skipped_steps`)")
def nonfinite_batches(run: RunHistory) -> RuleHit | None:
    """NaN and infinities in loss or gradient."""
    lost = run.nonfinite_epochs("loss_mean")
    # A step that GradScaler skips is no fault: its loss is finite, and its gradients are never applied.
    counts = {row.epoch: row.faulty_batches for row in run.rows if row.faulty_batches > 0}
    skipped = {row.epoch for row in run.rows if row.skipped_steps}
    epochs = sorted({*lost, *counts, *run.nonfinite_epochs("grad_norm")} - (skipped - counts.keys() - set(lost)))
    if not epochs:
        return None
    batches = sum(counts.values())
    what = f"{count_of(batches, 'batch', 'batches') if batches else count_of(len(epochs), 'epoch')} had"
    whole = f"; {count_of(len(lost), 'epoch')} had no finite loss at all" if lost else ""
    return RuleHit(f"{what} a NaN or infinite loss or gradient norm, first in epoch {epochs[0]}{whole}.", epochs)


@rule(
    "Skipped steps", "info", "a batch with a finite loss and a gradient norm that is not (GradScaler skips such steps)"
)
def skipped_steps(run: RunHistory) -> RuleHit | None:
    """Steps with a finite loss and gradients that are not, as GradScaler skips them."""
    counts = {row.epoch: row.skipped_steps for row in run.rows if row.skipped_steps}
    if not counts:
        return None
    return RuleHit(
        f"{count_of(sum(counts.values()), 'step')} had a finite loss and a NaN or infinite gradient norm, first in "
        f"epoch {min(counts)}. With float16 and GradScaler a few are normal: it skips them while it finds its scale.",
        sorted(counts),
    )


@rule("Non-finite weights", "error", "an epoch in which the distance between live and EMA weights is NaN or infinite")
def nonfinite_weights(run: RunHistory) -> RuleHit | None:
    """NaN in the weights, which the EMA distance shows."""
    epochs = run.nonfinite_epochs("ema_delta_norm")
    if not epochs:
        return None
    return RuleHit(
        f"The distance between live and EMA weights is not finite from epoch {epochs[0]} on: weights are NaN or "
        "infinite, and every later checkpoint with them.",
        epochs,
    )


@rule(
    "Divergence",
    "error",
    f"at the run's end the loss is NaN or infinite, or exceeds its best level by more than {DIVERGED - 1:.0%} and by "
    f"more than {SIGMAS} standard deviations of its noise",
)
def divergence(run: RunHistory) -> RuleHit | None:
    """A loss that went up and stayed there."""
    lost = set(run.nonfinite_epochs("loss_mean"))
    last_first = [row.epoch for row in reversed(run.rows) if row.loss_mean is not None]
    tail = list(takewhile(lost.__contains__, last_first))[::-1]
    if tail:
        return RuleHit(f"The loss is not finite from epoch {tail[0]} to the end.", tail)
    points = run.points("loss_mean")
    if len(points) < MIN_EPOCHS:
        return None
    best_epoch, best = min(sliding_medians(points), key=lambda p: p[1])
    end = level(points[-max(3, len(points) // 20) :])
    noise_margin = SIGMAS * noise([p for p in points if p[0] <= best_epoch][-2 * MIN_EPOCHS :])
    if end - best <= max((DIVERGED - 1) * abs(best), noise_margin):
        return None
    divergence_level = best + min((end - best) / 4, (SPIKE - 1) * abs(best))
    start = next((i for i in range(len(points), 0, -1) if points[i - 1][1] <= divergence_level), 0)
    epochs = [epoch for epoch, _ in points[min(start, len(points) - 1) :]]
    return RuleHit(
        f"The loss ends at a level of {short(end)}. Its best level was {short(best)}, about epoch {best_epoch}; since "
        f"epoch {epochs[0]} it has been higher.",
        epochs,
    )


@rule(
    "Loss spike",
    "warning",
    f"in one or more epochs the mean loss is {SPIKE - 1:.0%} above its median over the ten epochs before, or the "
    f"largest batch loss is {BATCH_SPIKE:g} times its own median there; a rise must exceed {SIGMAS} standard "
    "deviations of the noise",
)
def loss_spike(run: RunHistory) -> RuleHit | None:
    """A loss that jumps and comes down again."""
    diverged = divergence.find(run)
    up = set(diverged.epochs) if diverged else set()
    means, largest = run.points("loss_mean"), run.points("loss_max")
    found = {
        **_spikes(largest, BATCH_SPIKE, "a batch loss of"),
        **_spikes(means, SPIKE, "a mean loss of"),  # the more telling of the two
    }
    epochs = sorted(set(found) - up)
    if not epochs:
        return None
    worst = max(epochs, key=lambda epoch: found[epoch][0])
    times, words = found[worst]
    ratio = f", {short(times)} times what the epochs before had" if math.isfinite(times) else ""
    count = count_of(len(epochs), "epoch")
    return RuleHit(f"The loss jumps in {count}, most in epoch {worst}, {words}{ratio}.", epochs)


def _spikes(points: list[tuple[int, float]], factor: float, words: str) -> dict[int, tuple[float, str]]:
    found = {}
    for places in outliers(points, factor=factor, sigmas=SIGMAS):
        before = [value for _, value in points[max(0, places[0] - MIN_EPOCHS) : places[0]]]
        usual = sorted(before)[len(before) // 2]
        for i in places:
            epoch, value = points[i]
            found[epoch] = (value / usual if usual > 0 else math.inf, f"with {words} {short(value)}")
    return found


@rule(
    "Plateau",
    "info",
    f"over the second half of a run of {PLATEAU_EPOCHS} epochs or more, the loss improves by less than {PLATEAU:.1%}, "
    "its noise taken into account",
)
def plateau(run: RunHistory) -> RuleHit | None:
    """A loss that has long stopped falling."""
    points = run.points("loss_mean")
    if len(points) < PLATEAU_EPOCHS or divergence.find(run):
        return None
    half = points[len(points) // 2 :]
    early, late = half[: len(half) // 2], half[len(half) // 2 :]
    end = level(late)
    # The levels lie a quarter of the run apart, so over its second half the loss falls twice as far. Their own
    # uncertainty (that of a median is 1.2533 times a mean's), twice, is added: noise must not look like a standstill.
    standard_error = 1.2533 * noise(half) * math.sqrt(1 / len(early) + 1 / len(late))
    if 2 * (level(early) - end + 2 * standard_error) > PLATEAU * abs(end):
        return None
    tolerance = max(2 * PLATEAU * abs(end), 2 * noise(half))
    start = len(points)
    for block in reversed(blocks(points)):
        if abs(block.level - end) > tolerance:
            break
        start -= len(block.points)
    epochs = [epoch for epoch, _ in points[min(start, len(points) // 2) :]]
    return RuleHit(
        f"The loss has stayed at about {short(end)} since epoch {epochs[0]}. Late in a diffusion training that is "
        "common: look at whether samples still improve.",
        epochs,
    )


@rule(
    "Gradient explosion",
    "error",
    f"the gradient norm is {EXPLODED:g} times its median over the ten epochs before, and {SIGMAS} standard deviations "
    f"above it; or, at the run's end, {EXPLODED:g} times its lowest level",
)
def gradient_explosion(run: RunHistory) -> RuleHit | None:
    """A gradient norm that shoots up, at once or little by little."""
    points = run.points("grad_norm")
    places = [i for found in outliers(points, factor=EXPLODED, sigmas=SIGMAS) for i in found]
    if places:
        epochs = [points[i][0] for i in places]
        worst, top = max((points[i] for i in places), key=lambda p: p[1])
        usual = level([p for i, p in enumerate(points) if i not in set(places)])
        return RuleHit(
            f"The gradient norm reaches {short(top)} in epoch {worst}; its median elsewhere is {short(usual)}.", epochs
        )
    levels = sliding_medians(points)
    if len(points) < MIN_EPOCHS:
        return None
    low_epoch, low = min(levels, key=lambda p: p[1])
    end_epoch, end = levels[-1]
    if end <= EXPLODED * low or low <= 0:
        return None
    return RuleHit(
        f"The gradient norm grows from {short(low)} (epoch {low_epoch}) to {short(end)} (epoch {end_epoch}).",
        [epoch for epoch, _ in points if epoch > low_epoch],
    )


@rule(
    "Gradient vanishing",
    "error",
    f"a gradient norm of 0, or a median of five epochs below 1/{1 / VANISHED:.0f} of the run's highest; epochs "
    "of an explosion do not count",
)
def gradient_vanishing(run: RunHistory) -> RuleHit | None:
    """A gradient norm that all but disappears."""
    exploded = gradient_explosion.find(run)
    beyond = set(exploded.epochs) if exploded else set()
    points = [point for point in run.points("grad_norm") if point[0] not in beyond]
    nothing = [epoch for epoch, value in points if value == 0]
    if nothing:
        count = count_of(len(nothing), "epoch")
        return RuleHit(f"The gradient norm is 0 in {count}: nothing is learned there.", nothing)
    levels = sliding_medians(points)
    highest = max((value for _, value in levels), default=0.0)
    low = [epoch for epoch, value in levels if value < VANISHED * highest]
    if not low:
        return None
    return RuleHit(f"The gradient norm falls from a level of {short(highest)} to {short(levels[-1][1])}.", low)
