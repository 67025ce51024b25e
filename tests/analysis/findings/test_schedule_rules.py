"""Rules on the learning rate and resumes."""

from __future__ import annotations

from support.unhealthy_runs import history_of

from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.core.metrics import EpochMetrics


def test_more_epochs_after_a_schedule_that_had_run_out_are_no_anomaly() -> None:
    """`train --resume --epochs N` stretches the cosine: the rate rises from next to nothing."""
    rates = [1e-3, 5e-4, 1e-8, 8e-4, 4e-4, 1e-8]
    rows = [EpochMetrics(epoch=epoch, loss_mean=1.0, lr=lr) for epoch, lr in enumerate(rates)]

    found = find_findings(history_of(rows, resumed=[3]))

    assert [finding.rule for finding in found] == ["resumed"]
