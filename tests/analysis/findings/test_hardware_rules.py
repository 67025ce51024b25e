"""Rules on throughput and memory."""

from __future__ import annotations

from dataclasses import replace

from support.histories import healthy_row
from support.unhealthy_runs import findings_by_rule

from mlflow_ddpm.core.metrics import EpochMetrics


def test_memory_is_judged_by_the_card_that_the_environment_names() -> None:
    """Without it, nobody knows what is much."""
    rows = [replace(healthy_row(epoch), gpu_peak_mb=7800.0) for epoch in range(3)]

    assert findings_by_rule(rows) == {}
    assert findings_by_rule(rows, gpu_memory_mb=24_000) == {}
    assert (
        "7800 of the card's 8192 MiB (95%)" in findings_by_rule(rows, gpu_memory_mb=8192)["memory_near_limit"].sentence
    )


def test_a_machine_that_comes_to_a_stand_has_slowed_down_by_all() -> None:
    """Also where most epochs before it were at a stand."""
    speeds = [1.0, *[0.0] * 5, *[0.0, 0.0, 10.0, 10.0, 10.0] * 2, *[0.0] * 5]
    hits = findings_by_rule([EpochMetrics(epoch=epoch, samples_per_sec=speed) for epoch, speed in enumerate(speeds)])

    assert hits["throughput_drop"].epochs == (16, 17, 18, 19, 20)
    assert "from 10 to 0 samples/s, by 100%" in hits["throughput_drop"].sentence
