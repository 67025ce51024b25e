"""Rank and world size, from whatever launched the process."""

from __future__ import annotations

import pytest

from mlflow_ddpm.core import ranks


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"}, (1, 2)),
        ({"PMIX_RANK": "2"}, (2, 3)),
        ({"PMIX_RANK": "0"}, (0, 1)),
        ({"PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "8"}, (1, 8)),
        ({"PMIX_RANK": "3", "RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "1"}, (0, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),
        ({"RANK": "", "WORLD_SIZE": "none"}, (0, 1)),
    ],
)
def test_the_launchers_variables_tell_who_this_is(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun goes before Slurm and MPI; a batch script with several tasks allotted is still one process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert (ranks.rank(), ranks.world_size()) == expected
