"""Rules that check a run for what an experienced engineer would notice, each with a name and a threshold.

A rule judges by the history alone; a healthy run has no finding. Each takes time in proportion to the run's length,
leaves out what was not measured, and needs a number of epochs before it judges.
"""

from typing import NamedTuple

from mlflow_ddpm.analysis.findings import hardware_rules as hardware
from mlflow_ddpm.analysis.findings import loss_rules as loss
from mlflow_ddpm.analysis.findings import schedule_rules as schedule
from mlflow_ddpm.analysis.findings.rule import Rule, RuleHit
from mlflow_ddpm.analysis.run_history import RunHistory

SEVERITIES = ("error", "warning", "info")  # the highest first


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
    loss.nonfinite_batches,
    loss.nonfinite_weights,
    loss.divergence,
    loss.loss_spike,
    loss.plateau,
    loss.gradient_explosion,
    loss.gradient_vanishing,
    hardware.throughput_drop,
    hardware.memory_creep,
    hardware.memory_near_limit,
    schedule.ema_lagging,
    schedule.ema_idle,
    schedule.lr_anomaly,
    loss.skipped_steps,
    schedule.resumed,
)


def find_findings(history: RunHistory) -> list[Finding]:
    """Return what the rules find in a run, the highest severity first; an empty list if nothing is wrong.

    ``history.environment`` may hold ``gpu_memory_mb``, the card's memory, which two rules compare with.
    """
    hits = [(rule, rule.find(history)) for rule in sorted(RULES, key=lambda rule: SEVERITIES.index(rule.severity))]
    return [_finding(rule, hit, history) for rule, hit in hits if hit is not None]


def _finding(rule: Rule, hit: RuleHit, history: RunHistory) -> Finding:
    noun = "epoch" if len(hit.epochs) == 1 else "epochs"
    where = f"{noun} {history.format_epochs(hit.epochs)}"
    title, sentence, threshold, where = map(history.worded, (rule.title, hit.sentence, rule.threshold, where))
    return Finding(rule.name, title, rule.severity, sentence, tuple(hit.epochs), threshold, where)
