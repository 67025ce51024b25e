"""Rules on loss and gradient: which epochs they name, and how."""

from __future__ import annotations

import math
from dataclasses import replace

from support.histories import healthy_row
from support.unhealthy_runs import findings_by_rule, healthy_run


def test_a_loss_that_is_nan_to_the_end_has_diverged() -> None:
    """From the first epoch without a finite loss; a hole in the middle is none."""
    rows = [healthy_row(epoch) for epoch in range(30)]
    hole = [replace(row, loss_mean=math.nan, nonfinite_batches=9) if row.epoch == 12 else row for row in rows]
    end = [replace(row, loss_mean=math.nan, nonfinite_batches=9) if row.epoch >= 12 else row for row in rows]

    assert set(findings_by_rule(hole)) == {"nonfinite_batches"}
    assert set(findings_by_rule(end)) == {"nonfinite_batches", "divergence"}
    assert findings_by_rule(end)["divergence"].epochs == tuple(range(12, 30))


def test_a_spike_names_its_epoch_and_its_height() -> None:
    """One epoch of forty, five times the usual loss."""
    rows = healthy_run(17, 40).rows
    rows[30] = replace(rows[30], loss_mean=5 * (rows[29].loss_mean or 0), loss_max=1e3)
    finding = findings_by_rule(rows)["loss_spike"]

    assert finding.epochs == (30,)
    assert "in 1 epoch, most in epoch 30" in finding.sentence


def test_one_wild_batch_is_a_spike_even_if_the_mean_hides_it() -> None:
    """The largest batch loss tells."""
    rows = healthy_run(17, 40).rows
    rows[30] = replace(rows[30], loss_max=50 * (rows[30].loss_max or 0))

    assert findings_by_rule(rows)["loss_spike"].epochs == (30,)
