"""How far a training is, where there is no terminal; ``test_terminal.py`` looks at the bar."""

from __future__ import annotations

import io

from mlflow_ddpm.cli.progress import progress_on
from mlflow_ddpm.core.metrics import EpochMetrics


def test_each_epoch_is_one_plain_line_with_both_counts() -> None:
    """The number that the loop gave, and which of how many; a log or a CI shows nothing else."""
    stream = io.StringIO()
    with progress_on(stream) as progress:
        for epoch in (3, 4):
            for batch in (1, 2):
                progress.on_batch(epoch, batch, 2, 20)
            progress.on_epoch(EpochMetrics(epoch=epoch, loss_mean=0.5, samples_per_sec=310.0, extra={"fid": 2.5}))

    assert stream.getvalue().splitlines() == [
        "epoch 3 (4 of 20)  loss_mean 0.5  310 samples/s  fid 2.5",
        "epoch 4 (5 of 20)  loss_mean 0.5  310 samples/s  fid 2.5",
    ]


def test_a_line_in_a_file_is_never_cut_or_wrapped() -> None:
    """Whatever the number of extras."""
    stream = io.StringIO()
    with progress_on(stream) as progress:
        progress.on_batch(0, 1, 1, 1)
        progress.on_epoch(EpochMetrics(epoch=0, extra={f"extra_{i:03}": float(i) for i in range(100)}))

    (line,) = stream.getvalue().splitlines()
    assert line.endswith("extra_099 99")
