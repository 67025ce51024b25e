"""Rules that check a run for what an experienced engineer would notice, each with a name and a threshold.

A rule judges by the history alone; a healthy run has no finding. Each takes time in proportion to the run's length,
leaves out what was not measured, and needs a number of epochs before it judges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mlflow_ddpm.analysis.findings import hardware_rules as hardware
from mlflow_ddpm.analysis.findings import loss_rules as loss
from mlflow_ddpm.analysis.findings import schedule_rules as schedule
from mlflow_ddpm.analysis.findings.evidence import RuleHit, RunEvidence
from mlflow_ddpm.analysis.run_history import RunHistory

SEVERITIES = ("error", "warning", "info")  # the highest first


class Rule(NamedTuple):
    """One thing to look for."""

    name: str
    title: str
    severity: str
    threshold: str  # as the README and the report state it
    find: Callable[[RunEvidence], RuleHit | None]


class Finding(NamedTuple):
    """What a rule found."""

    rule: str
    title: str
    severity: str
    sentence: str
    epochs: tuple[int, ...]
    threshold: str
    where: str  # the epochs for readers: ``epoch 7``, ``epochs 3-5, 9``; or the steps

    @property
    def label(self) -> str:
        """The severity for readers."""
        return self.severity.capitalize()


RULES = (
    Rule(
        "nonfinite_batches",
        "Non-finite batches",
        "error",
        "one batch whose loss or gradient norm is NaN or infinite, skipped steps left out",
        loss.nonfinite_batches,
    ),
    Rule(
        "nonfinite_weights",
        "Non-finite weights",
        "error",
        "one epoch in which the distance between live and EMA weights is NaN or infinite",
        loss.nonfinite_weights,
    ),
    Rule(
        "divergence",
        "Divergence",
        "error",
        f"the loss ends {loss.DIVERGED - 1:.0%} above its best level and {loss.SIGMAS} standard deviations of "
        "its noise, or not finite",
        loss.divergence,
    ),
    Rule(
        "loss_spike",
        "Loss spike",
        "warning",
        f"an epoch's mean loss {loss.SPIKE - 1:.0%} above the median of the ten epochs before, or its largest "
        f"batch loss {loss.BATCH_SPIKE:g} times theirs, {loss.SIGMAS} standard deviations in either case, and "
        "it comes down again",
        loss.loss_spike,
    ),
    Rule(
        "plateau",
        "Plateau",
        "info",
        f"over the second half of {loss.PLATEAU_EPOCHS} epochs or more the loss improves by less than "
        f"{loss.PLATEAU:.1%}, its noise allowed for",
        loss.plateau,
    ),
    Rule(
        "gradient_explosion",
        "Gradient explosion",
        "error",
        f"a gradient norm {loss.EXPLODED:g} times the median of the ten epochs before, or, at the run's end, "
        f"{loss.EXPLODED:g} times its lowest level",
        loss.gradient_explosion,
    ),
    Rule(
        "gradient_vanishing",
        "Gradient vanishing",
        "error",
        f"a gradient norm of 0, or a median of five epochs below 1/{1 / loss.VANISHED:.0f} of the run's highest",
        loss.gradient_vanishing,
    ),
    Rule(
        "throughput_drop",
        "Throughput drop",
        "warning",
        f"the median of five epochs or more {hardware.SLOWER:.0%} below that of the epochs before, the first left out",
        hardware.throughput_drop,
    ),
    Rule(
        "memory_creep",
        "Memory creeping up",
        "warning",
        f"allocated GPU memory grows by {hardware.CREEP_MIB} MiB and {hardware.CREEP:.0%} or more, steadily, over "
        f"{hardware.CREEP_EPOCHS} epochs or more",
        hardware.memory_creep,
    ),
    Rule(
        "memory_near_limit",
        "Memory near the limit",
        "warning",
        f"peak allocated GPU memory of {hardware.NEAR_LIMIT:.0%} of the card's or more",
        hardware.memory_near_limit,
    ),
    Rule(
        "ema_lagging",
        "EMA lagging",
        "warning",
        f"in the second half of ten epochs or more, the learning rate not rising, the distance between live and EMA "
        f"weights grows {schedule.LAGGING:g}-fold",
        schedule.ema_lagging,
    ),
    Rule(
        "ema_idle",
        "EMA without effect",
        "warning",
        "live and EMA weights are equal at the end of every one of three epochs or more",
        schedule.ema_idle,
    ),
    Rule(
        "lr_anomaly",
        "Learning-rate anomaly",
        "warning",
        f"a learning rate below 0 or not finite, 0 in {schedule.LR_ZERO_EPOCHS} epochs in a row, {schedule.LR_JUMP:g} "
        f"times its earlier peak after it had come down, or at a resume {schedule.LR_JUMP:g} times higher or "
        f"{schedule.LR_FALL:g} times lower than before, a schedule that had fallen below {schedule.LR_RAN_OUT:.1%} of "
        "its peak left out",
        schedule.lr_anomaly,
    ),
    Rule(
        "skipped_steps",
        "Skipped steps",
        "info",
        "one batch whose loss is finite and whose gradient norm is NaN or infinite",
        loss.skipped_steps,
    ),
    Rule("resumed", "Resumed", "info", "any epoch at which a run that had stopped was resumed", schedule.resumed),
)


def find_findings(history: RunHistory) -> list[Finding]:
    """Return what the rules find in a run, the highest severity first; an empty list if nothing is wrong.

    ``history.environment`` may hold ``gpu_memory_mb``, the card's memory, which two rules compare with.
    """
    evidence = RunEvidence(history)
    hits = [(rule, rule.find(evidence)) for rule in RULES]
    findings = [_finding(rule, hit, history) for rule, hit in hits if hit is not None]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _finding(rule: Rule, hit: RuleHit, history: RunHistory) -> Finding:
    noun = "epoch" if len(hit.epochs) == 1 else "epochs"
    where = f"{noun} {history.format_epochs(hit.epochs)}"
    title, sentence, threshold, where = map(history.worded, (rule.title, hit.sentence, rule.threshold, where))
    return Finding(rule.name, title, rule.severity, sentence, tuple(hit.epochs), threshold, where)
