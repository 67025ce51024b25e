"""What an earlier process left in an output directory: CSV and JSON together, since either may have lost epochs.

The fuller one counts, by its epochs, not by its date; the emptier one is written again from it.
"""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written
from mlflow_ddpm.storage.csv_file import CsvJournal, read_csv
from mlflow_ddpm.storage.foreign_files import own_file
from mlflow_ddpm.storage.json_file import JsonWriter, RunDocument, read_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME, OWN_FILES

_log = logging.getLogger("mlflow_ddpm")


def recover_files(journal: CsvJournal, json: JsonWriter) -> tuple[RunDocument, bool]:
    """Open both files for writing; raise MirrorError, touching none, if they do not fit.

    Returns the run as they have it, one row per epoch, and whether the CSV must be written again: the JSON had epochs
    that it had lost.
    """
    from_csv = keep_last_written(_recover_csv(journal, json))
    try:
        document = json.recover()
    except MirrorError as error:
        remedy = f"; move it away, and it is written again from {CSV_NAME}" if from_csv else ""
        raise MirrorError(f"{error}{remedy}") from error
    if document is None:
        return RunDocument(rows=from_csv), False
    rows = merge_rows(from_csv, document.rows, journal.path, document.run.get("every_n_steps"))
    restored = [row.logged_at_ms for row in rows] != [row.logged_at_ms for row in from_csv]
    if restored:
        journal.forget()
        _log.warning(
            "%s had %d of %s; the others are restored from %s",
            *(display_path(journal.path), len(from_csv), count_of(len(rows), "row"), JSON_NAME),
        )
    return document._replace(rows=rows), restored


def _recover_csv(journal: CsvJournal, json: JsonWriter) -> list[EpochMetrics]:
    try:
        return journal.recover()
    except MirrorError as error:
        rows: Sequence[EpochMetrics] = ()
        with contextlib.suppress(MirrorError, OSError):
            document = json.recover()
            rows = document.rows if document else ()
        if rows:
            remedy = f"{JSON_NAME} has {count_of(len(rows), 'row')}, which are restored once it is moved away"
            raise MirrorError(f"{error}; {remedy}") from error
        raise


def read_rows(directory: Path) -> list[EpochMetrics]:
    """Return the epochs of an output directory, without changing a file: what CSV and JSON hold together.

    Raises MirrorError where a file is damaged or a link, or they hold two different runs; OSError where one cannot be
    read.
    """
    csv, json = directory / CSV_NAME, directory / JSON_NAME
    for name in OWN_FILES:
        own_file(directory, name)  # the directory may be a stranger's
    from_csv = keep_last_written(read_csv(csv)) if csv.exists() else []
    has_json = json.exists() and json.stat().st_size > 0
    if not has_json:
        return from_csv
    document = read_document(json)
    return merge_rows(from_csv, document.rows, csv, document.run.get("every_n_steps"))


def merge_rows(
    csv: Sequence[EpochMetrics], json: Sequence[EpochMetrics], path: Path, every_n_steps: int | None = None
) -> list[EpochMetrics]:
    """Return the rows of a run from its two files, of which either may have lost some.

    Rows are distinguished by their time, which rises strictly, so a row that a later one superseded stays superseded.
    Raises MirrorError where the JSON has epochs that the CSV does not have, and they share none: two different runs.
    """
    by_time = {row.logged_at_ms: row for row in (*json, *csv)}  # the CSV wins: it is the journal
    rows = keep_last_written(by_time.values(), every_n_steps)
    shares_none = len(by_time) == len(csv) + len(json)
    if csv and json and shares_none and {row.epoch for row in rows} != {row.epoch for row in csv}:
        raise MirrorError(
            f"{path} and {JSON_NAME} hold two different runs, of {len(csv)} and {len(json)} rows; move one away"
        )
    return rows
