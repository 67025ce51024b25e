"""Rules on learning rate, EMA and resumes."""

from collections.abc import Sequence
from itertools import groupby, pairwise

from mlflow_ddpm.analysis.findings.rule import MIN_EPOCHS, RuleHit, rule, short
from mlflow_ddpm.analysis.robust_statistics import Points, level
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.formatting import count_of

LAGGING = 1.6
IDLE_EPOCHS = 3
LR_JUMP, LR_FALL = 3.0, 10.5  # a step schedule divides by 10
LR_RAN_OUT = 1e-3  # of its peak: a schedule at its end, which more epochs stretch
LR_ZERO_EPOCHS = 3


@rule(
    "EMA lagging",
    "warning",
    "in the second half of a run of ten epochs or more, the distance between live and EMA weights grows "
    f"{LAGGING:g}-fold, although the learning rate does not rise",
)
def ema_lagging(run: RunHistory) -> RuleHit | None:
    """The EMA falls behind the weights. One that keeps up drifts as their random walk does, or levels off."""
    points = run.points("ema_delta_norm")
    if len(points) < MIN_EPOCHS:
        return None
    middle, end = _middle_and_end(points)
    rates = run.points("lr")
    lr_middle, lr_end = map(level, _middle_and_end(rates)) if len(rates) >= MIN_EPOCHS else (0.0, 0.0)
    is_warming_up = lr_end > 1.2 * lr_middle
    if level(end) <= LAGGING * level(middle) or level(middle) <= 0 or is_warming_up:
        return None
    return RuleHit(
        f"The EMA falls behind: its distance to the live weights still grows, from {short(level(middle))} (epoch "
        f"{middle[len(middle) // 2][0]}) to {short(level(end))} (epoch {end[-1][0]}). Samples drawn from it show an "
        "old model; a smaller decay, or a decay that warms up, suits a run of this length.",
        [epoch for epoch, _ in points if epoch > middle[-1][0]],
    )


def _middle_and_end(points: Points) -> tuple[Points, Points]:
    width = max(3, len(points) // 10)
    start = (len(points) - width) // 2
    return points[start : start + width], points[-width:]


@rule("EMA without effect", "warning", "in a run of three epochs or more, live and EMA weights are always equal")
def ema_idle(run: RunHistory) -> RuleHit | None:
    """The EMA is never updated, or has a decay of 0."""
    points = run.points("ema_delta_norm")
    if len(points) < IDLE_EPOCHS or any(value for _, value in points):
        return None
    return RuleHit(
        "Live and EMA weights are equal at the end of every epoch: the average is not kept apart, has a decay of 0, "
        "or the weights do not change.",
        [epoch for epoch, _ in points],
    )


@rule(
    "Learning-rate anomaly",
    "warning",
    f"the learning rate is negative, NaN or infinite; is 0 for {LR_ZERO_EPOCHS} epochs in a row; falls and later "
    f"exceeds {LR_JUMP:g} times its earlier peak; or, at a resume, falls to less than 1/{LR_FALL:g}, or rises to more "
    f"than {LR_JUMP:g} times the rate before (unless that was below {LR_RAN_OUT:.1%} of the peak, at a schedule's end)",
)
def lr_anomaly(run: RunHistory) -> RuleHit | None:
    """A learning rate that no schedule intends."""
    points = run.points("lr")
    bad = sorted({*run.nonfinite_epochs("lr"), *(epoch for epoch, value in points if value < 0)})
    if bad:
        return RuleHit(f"The learning rate is negative or not finite, first in epoch {bad[0]}.", bad)
    zero = _zero(points)
    if zero:
        return RuleHit(f"The learning rate is 0 in {count_of(len(zero), 'epoch')}: nothing is learned there.", zero)
    return _jump_at_resume(points, run.resumed_at_epochs) or _jump_after_descent(points)


def _zero(points: Points) -> list[int]:
    """Return the epochs of the first stretch at 0 that is long enough."""
    stretches = [[epoch for epoch, _ in group] for is_zero, group in groupby(points, lambda p: p[1] == 0) if is_zero]
    return next((epochs for epochs in stretches if len(epochs) >= LR_ZERO_EPOCHS), [])


def _jump_at_resume(points: Points, resumes: Sequence[int]) -> RuleHit | None:
    peak = 0.0
    for (_, before), (epoch, after) in pairwise(points):
        peak = max(peak, before)
        rises = after > LR_JUMP * before > LR_JUMP * LR_RAN_OUT * peak
        if epoch in resumes and before > 0 and after > 0 and (rises or before > LR_FALL * after):
            return RuleHit(
                f"The learning rate jumps from {short(before)} to {short(after)} where the run was resumed, at epoch "
                f"{epoch}: was the scheduler's state restored?",
                [epoch],
            )
    return None


def _jump_after_descent(points: Points) -> RuleHit | None:
    peak, has_fallen, found = 0.0, False, []
    for epoch, value in points:
        if has_fallen and value > LR_JUMP * peak:
            found.append((epoch, value))
        elif not found:
            has_fallen = has_fallen or value < peak
            peak = max(peak, value)
    if not found:
        return None
    top = max(value for _, value in found)
    return RuleHit(
        f"The learning rate rises to {short(top)} in epoch {found[0][0]}, {short(top / peak)} times its earlier peak, "
        "after it had come down.",
        [epoch for epoch, _ in found],
    )


@rule("Resumed", "info", "an epoch at which a stopped run was resumed")
def resumed(run: RunHistory) -> RuleHit | None:
    """The run was stopped and resumed."""
    if not run.resumed_at_epochs:
        return None
    return RuleHit("The training had stopped and was resumed here as the same run.", run.resumed_at_epochs)
