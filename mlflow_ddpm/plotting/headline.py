"""A run in one line of words, for the head of the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.plotting.annotations import duration, epochs_text, number
from mlflow_ddpm.plotting.series import series

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["headline"]


def headline(history: pd.DataFrame) -> str:
    """Say how many epochs there are, which was best, which had no finite loss, and how long they took, if measured."""
    if not len(history):
        return "no epochs yet"
    facts = [f"{len(history):,} epoch{'s' if len(history) > 1 else ''}"]
    loss, time = series(history, "loss_mean"), series(history, "cumulative_time_sec")
    if len(loss.finite):
        best = int(np.nanargmin(loss.value))
        facts.append(f"best loss {number(loss.value[best])} at epoch {loss.epoch[best]:.0f}")
    if len(loss.broken):
        facts.append(f"{loss.broken_as} in {epochs_text(loss.broken)}")
    if len(time.finite):
        facts.append("total " + duration(time.finite[-1]))
    return "  \u00b7  ".join(facts)
