"""The report, plots and findings of a loop that counts steps speak of steps and windows, nowhere of epochs."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.text import Text

from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.key_results import key_results_table
from mlflow_ddpm.analysis.run_description import RunPage, describe_run
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import make_figure
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.report import write_report

# Names of columns, files and methods stay what they are.
_NAMES = re.compile(
    r"`[^`]*`|\]\([^)]*\)|epoch_timing\.png|^history.*$|^print.*$|epoch or window of steps", re.MULTILINE
)


def _history() -> RunHistory:
    """Return 40 windows of 1,000 steps, one of them missing, one jumping, resumed, memory creeping."""
    rows = [
        EpochMetrics(
            epoch=1000 * n,
            loss_mean=5.0 if n == 30 else 1 / n,
            lr=0.0 if n > 35 else 1e-3,
            gpu_allocated_mb=1000.0 + 10 * n,
            gpu_peak_mb=39000.0,
            epoch_time_sec=2.0,
            cumulative_time_sec=2.0 * n,
            nonfinite_batches=3 if n in (5, 6) else 0,
            batches=1000,
            partial=0,
            logged_at_ms=n,
        )
        for n in range(1, 41)
        if n != 12
    ]
    run = {"every_n_steps": 1000, "resumed_at_epochs": [20000], "run_name": "by steps"}
    return RunHistory.create(rows, run=run, environment={"gpu_memory_mb": 40000})


def test_a_report_of_steps_has_no_epoch_in_it(tmp_path: Path) -> None:
    """Title, captions, sentences, findings with their thresholds, tables and the missing window."""
    text = write_report(_history(), tmp_path, {})[0].read_text(encoding="utf-8")
    prose = _NAMES.sub("", text)

    assert re.findall(r".*epoch.*", prose, re.IGNORECASE) == []
    assert "There are no rows for these steps: 12000." in text
    assert "| Resumed at steps" in text
    assert "## Metrics per window" in text


def test_findings_name_steps_and_count_windows() -> None:
    """Neighbouring windows are a range, and rates are by window."""
    found = {finding.rule: finding for finding in find_findings(_history())}

    assert found["nonfinite_batches"].where == "steps 5000\N{EN DASH}6000"
    assert "6 batches had a NaN" in found["nonfinite_batches"].sentence
    assert "first at step 5000" in found["nonfinite_batches"].sentence
    assert found["lr_anomaly"].sentence == "The learning rate is 0 in 5 windows: nothing is learned there."
    assert "9.47 MiB a window, at which rate" in found["memory_creep"].sentence
    assert "ten windows before" in found["loss_spike"].threshold


def test_key_results_and_description_name_steps() -> None:
    """The best window is at a step."""
    history = _history()
    table, text = key_results_table(history), describe_run(history, [], RunPage("0", "abc"))

    assert table.head == ("Result", "Value", "Step")
    assert table.rows[0][0] == "Best loss (lowest window mean)"
    assert "lowest mean loss 0.025 (step 40000)" in text
    assert "epoch" not in text.lower()


def test_every_plot_of_steps_has_steps_below() -> None:
    """And no text of it names an epoch."""
    for plot in PLOTS:
        figure = make_figure(plot.name, _history())
        texts = [text.get_text().replace("end_epoch", "") for text in figure.findobj(Text) if isinstance(text, Text)]

        assert [text for text in texts if "epoch" in text.lower()] == []
        assert "Step" in texts or plot.name in ("grad_norm", "throughput", "ema_divergence")
