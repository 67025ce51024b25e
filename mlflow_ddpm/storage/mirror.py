"""A run's files on local disk: complete by themselves, written before anything goes to MLflow.

One process at a time writes to a directory. A disk that is full or read-only is a warning, not an exception: the rows
stay in memory and the next write tries them all again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.atomic_file import remove_remains, replace_file, shown
from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written
from mlflow_ddpm.core.run_summary import summarise
from mlflow_ddpm.storage.csv_file import CsvJournal, read_csv, render_csv
from mlflow_ddpm.storage.directory_lock import DirectoryLock
from mlflow_ddpm.storage.json_file import JsonWriter, encode_row, read_document, render_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME, OWN_FILES, SUPERSEDED_NAME

__all__ = ["Mirror"]

_log = logging.getLogger("mlflow_ddpm")


class Mirror:
    """The writer of one output directory. Its rows are those that no later one superseded, by epoch.

    Raises:
        UsageError: another live process writes here, or the path is not a directory.
        MirrorError: the directory's files are not ours or are damaged; they are left untouched.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = DirectoryLock(directory)
        self._journal = CsvJournal(directory / CSV_NAME)
        self._warned = False
        if self._lock.is_held:
            remove_remains(directory, OWN_FILES)
        try:
            self.rows: list[EpochMetrics] = keep_last_written(self._journal.recover())
            self.previous_run, self.previous_config = self._previous()
        except MirrorError:
            self._lock.release()
            raise
        except OSError as error:
            self._lock.release()
            raise MirrorError(f"{directory} cannot be read ({error}); make it readable, or choose another") from error
        self._consistent = threading.Lock()  # held for microseconds: rows, their JSON and the summary change together
        self._encoded: list[str] = []  # of the first rows; whoever writes the JSON makes up for the rest
        self._summary = summarise(self.rows)
        self.run: dict[str, Any] = {}
        self.config: Mapping[str, Any] = {}
        self.environment: Mapping[str, Any] = {}
        self._snapshot = JsonWriter(directory / JSON_NAME, self._render, self.warn)

    def write(self, row: EpochMetrics) -> None:
        """Make a row durable; rows of its epoch and later ones, left from before a resume, make way for it."""
        superseded = bool(self.rows) and self.rows[-1].epoch >= row.epoch
        if superseded:
            self._keep_superseded([old for old in self.rows if old.epoch >= row.epoch])
        with self._consistent:
            if superseded:
                kept = sum(old.epoch < row.epoch for old in self.rows)
                del self.rows[kept:], self._encoded[kept:]
                self._summary = summarise(self.rows)
            self.rows.append(row)
            self._summary.add(row)
        self._write(row, anew=superseded)
        self._snapshot.request()

    def _keep_superseded(self, rows: list[EpochMetrics]) -> None:
        """Say that rows make way, and put them aside: a loop that began anew by mistake has lost nothing."""
        path = self.directory / SUPERSEDED_NAME
        _log.warning(
            "epoch %d is recorded already: the rows from there to epoch %d make way for new ones, and are kept in %s",
            rows[0].epoch,
            rows[-1].epoch,
            shown(path),
        )
        try:
            before = read_csv(path) if path.exists() else []
            replace_file(path, render_csv([*before, *rows]))
        except (OSError, MirrorError) as error:
            _log.warning("the superseded rows could not be kept: %s", error)

    def _write(self, row: EpochMetrics, *, anew: bool) -> None:
        try:
            if anew or not self._journal.fits(row):
                self._journal.rewrite(self.rows)
            else:
                self._journal.append(row)
        except OSError as error:
            self.warn(error)

    def describe(self, *, run: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Set what the JSON says beside the epochs, and have it written soon."""
        with self._consistent:
            self.run.update(run)
            self.config, self.environment = config, environment
        self._snapshot.request()

    def flush(self) -> None:
        """Bring the JSON up to this moment."""
        self._snapshot.write_now()

    def close(self, **run: object) -> None:
        """Write the JSON a last time, with these entries in ``run``, and let the directory go."""
        with self._consistent:
            self.run.update(run)
            if self._summary.epochs != len(self.rows):  # a signal came in the middle of an append
                self._encoded, self._summary = [], summarise(self.rows)
        if self.rows and not self._journal.fits(self.rows[-1]):  # an earlier write failed or was interrupted
            self._write(self.rows[-1], anew=True)
        self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Let the directory go as it is."""
        self._snapshot.stop()
        self._journal.close()
        self._lock.release()

    def _render(self) -> bytes:
        with self._consistent:
            self._encoded += map(encode_row, self.rows[len(self._encoded) :])
            rows, summary, run = list(self._encoded), replace(self._summary), dict(self.run)
        return render_document(run, self.config, self.environment, summary, rows)

    def _previous(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return what the JSON of an earlier life says: run and config."""
        path = self.directory / JSON_NAME
        told = read_document(path) if path.exists() else None
        return (told.run, told.config) if told else ({}, {})

    def warn(self, error: OSError) -> None:
        """Say once that the disk takes nothing."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "cannot write to %s (%s); training goes on, rows are kept in memory and tried again each epoch. "
                "Make room or make it writable",
                shown(self.directory),
                error.strerror or error,
            )
