"""Rules on throughput and GPU memory."""

from itertools import pairwise
from statistics import median

from mlflow_ddpm.analysis.findings.rule import RuleHit, rule, short
from mlflow_ddpm.analysis.robust_statistics import Block, blocks, noise
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import metric

SLOWER, SLOWER_SIGMAS = 0.3, 5
CREEP, CREEP_MIB, CREEP_EPOCHS = 0.05, 64, 20
_CREEP_STEADY, _CREEP_STEP = 0.8, 0.4  # share of rising blocks, at least; share of the largest step, at most
NEAR_LIMIT = 0.9


@rule(
    "Throughput drop",
    "warning",
    f"for five epochs or more, the median throughput is {SLOWER:.0%} below that of the epochs before, not counting "
    "the first",
)
def throughput_drop(run: RunHistory) -> RuleHit | None:
    """A machine that became slower and stayed so for a while."""
    name = "samples_per_sec" if len(run.points("samples_per_sec")) > 1 else "batches_per_sec"
    points = run.points(name)[1:]  # the first epoch compiles, fills caches and starts workers
    cut = blocks(points)
    if not cut:
        return None
    noise_std = noise(points)
    slow = [block for i, block in enumerate(cut) if i and _is_slow(block, cut[:i], noise_std)]
    if not slow:
        return None
    first = cut.index(slow[0])
    before = median(block.level for block in cut[:first])
    worst = min(block.level for block in slow)
    epochs = [e for block in slow for e, value in block.points if value < (1 - SLOWER / 2) * before]
    return RuleHit(
        f"Throughput falls from {short(before)} to {short(worst)} {metric(name).unit}, by {1 - worst / before:.0%}: "
        "look for another job on the machine, a slower data source or a card that has grown hot.",
        epochs,
    )


def _is_slow(block: Block, before: list[Block], noise_std: float) -> bool:
    usual = median(block.level for block in before)
    margin = SLOWER_SIGMAS * 1.2533 * noise_std / len(block.points) ** 0.5  # of a median
    return usual > 0 and usual - block.level > max(SLOWER * usual, margin)


@rule(
    "Memory creeping up",
    "warning",
    f"over {CREEP_EPOCHS} epochs or more, allocated GPU memory grows steadily, by at least {CREEP_MIB} MiB and "
    f"{CREEP:.0%}",
)
def memory_creep(run: RunHistory) -> RuleHit | None:
    """Memory that is never given back: tensors kept from epoch to epoch."""
    points = run.points("gpu_allocated_mb")[1:]  # the first epoch allocates the optimiser's state
    if len(points) + 1 < CREEP_EPOCHS:
        return None
    cut = blocks(points, at_least=3)
    start, end = cut[0].level, cut[-1].level
    steps = [b.level - a.level for a, b in pairwise(cut)]
    rise = end - start
    is_steady = sum(step > 0 for step in steps) >= _CREEP_STEADY * len(steps) and max(steps) <= _CREEP_STEP * rise
    if rise < max(CREEP_MIB, CREEP * start) or not is_steady:
        return None
    per_epoch = rise / (cut[-1].points[-1][0] - cut[0].points[0][0]) * run.row_length
    total = _card_mb(run)
    left = max(0, round(((total or 0) - end) / per_epoch))
    full = f", at which rate the card's {total} MiB are full {left} epochs later" if total else ""
    return RuleHit(
        f"Allocated GPU memory grows from {short(start)} to {short(end)} MiB, {short(per_epoch)} MiB an epoch{full}: "
        "something keeps tensors, such as a loss that is summed up with its graph.",
        [epoch for epoch, _ in points],
    )


@rule("Memory near the limit", "warning", f"allocated GPU memory peaks at {NEAR_LIMIT:.0%} of the card's or more")
def memory_near_limit(run: RunHistory) -> RuleHit | None:
    """Memory that a slightly larger batch would not find."""
    total, points = _card_mb(run), run.points("gpu_peak_mb")
    if not total or not points:
        return None
    high = [epoch for epoch, value in points if value >= NEAR_LIMIT * total]
    if not high:
        return None
    epoch, peak = max(points, key=lambda p: p[1])
    return RuleHit(
        f"GPU memory peaks at {short(peak)} of the card's {total} MiB ({peak / total:.0%}) in epoch {epoch}: a larger "
        "batch, or another job on the card, ends in an out-of-memory error.",
        high,
    )


def _card_mb(run: RunHistory) -> int | None:
    total = run.environment.get("gpu_memory_mb")
    return total if isinstance(total, int) and not isinstance(total, bool) and total > 0 else None
