"""A run's files on local disk: complete by themselves, written before anything goes to MLflow.

One process at a time writes to a directory. A disk that is full, read-only or gone is a warning, not an exception: the
rows stay in memory, and each later write brings the files up to all of them.
"""

import errno
import itertools
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from mlflow_ddpm.core.atomic_file import remove_remains, replace_file
from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.core.metrics import EpochMetrics, supersedes
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.csv_file import CsvJournal, read_csv, render_csv
from mlflow_ddpm.storage.directory_lock import DirectoryLock
from mlflow_ddpm.storage.images import load_encoder
from mlflow_ddpm.storage.json_file import JsonWriter, RunDocument, encode_row, render_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME, OWN_FILES, SUPERSEDED_NAME
from mlflow_ddpm.storage.mlflow_requests import import_apart
from mlflow_ddpm.storage.recovery import merge_rows, recover_files

_log = logging.getLogger("mlflow_ddpm")


class Mirror:
    """The writer of one output directory. Its rows are those that no later one superseded, by epoch.

    Nothing is touched before :meth:`open`, so that whoever made one lets it go whatever interrupts that. A copy in a
    forked child writes nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self._pid = directory, os.getpid()
        self._run: dict[str, Any] = {}
        self._config: Mapping[str, Any] = {}
        self._environment: Mapping[str, Any] = {}
        self._writing = threading.RLock()  # of the CSV; taken before the other one; by an interrupted thread again
        self._consistent = threading.RLock()  # held for microseconds: rows and the rest of the JSON change together
        self.revision = 0  # of all that the JSON holds: rises with whatever is new
        self._encoded: list[str] = []  # of the first rows; whoever writes the JSON adds the rest
        self._warned: int | None = None  # error number of the fault that the user knows of
        self._closed = False
        self._lock = DirectoryLock(directory)
        self.rows: list[EpochMetrics] = []
        self.previous_run: Mapping[str, Any] = {}
        self.previous_config: Mapping[str, Any] = {}
        self._journal = CsvJournal(directory / CSV_NAME)
        self._json = JsonWriter(directory / JSON_NAME, self._render, self._may_write, self._on_json_written)

    def open(self) -> Self:
        """Become the directory's writer, and take over what an earlier one left.

        Raises:
            UsageError: another live process writes here, or the path is not a directory.
            MirrorError: the directory's files are not ours or are damaged; they are left untouched.
        """
        try:
            self._lock.acquire()
            if self._lock.is_held:
                remove_remains(self.directory, OWN_FILES)
            found, is_restored = recover_files(self._journal, self._json)
            self.rows, self.previous_run, self.previous_config = list(found.rows), found.run, found.config
            if is_restored:
                self._write_csv()
            import_apart(load_encoder)
        except OSError as error:
            self._lock.release()
            message = f"{self.directory} cannot be read ({error}); make it readable, or choose another"
            raise MirrorError(message) from error
        except BaseException:
            self._lock.release()
            raise
        return self

    @property
    def is_foreign(self) -> bool:
        """Whether this is a copy in a forked child, or the directory was let go: nothing is written then."""
        return self._closed or os.getpid() != self._pid

    def write(self, row: EpochMetrics) -> None:
        """Make a row durable; rows of its epoch and later ones, left from before a resume, make way for it."""
        if self.is_foreign:
            return
        every = self._run.get("every_n_steps")
        with self._writing:
            superseded = list(itertools.takewhile(lambda old: supersedes(row, old, every), reversed(self.rows)))[::-1]
            if superseded:
                self._keep_superseded(superseded)
            with self._consistent:
                kept = len(self.rows) - len(superseded)
                del self.rows[kept:], self._encoded[kept:]
                self.rows.append(row)
                self.revision += 1
            self._write_csv()
        self._json.request()

    def restore(self, rows: Sequence[EpochMetrics], source: str) -> None:
        """Take over rows that another copy of the run has, ours not; raise MirrorError if they are another run's."""
        with self._writing:
            with self._consistent:
                merged = merge_rows(self.rows, rows, self._journal.path, self._run.get("every_n_steps"))
                restored = len({row.logged_at_ms for row in merged} - {row.logged_at_ms for row in self.rows})
                if not restored:
                    return
                self.rows[:], self._encoded = merged, []
                self.revision += 1
            path, count = display_path(self._journal.path), count_of(restored, "row")
            _log.warning("%s: restored from %s: %s", path, source, count)
            self._write_csv()

    def describe(self, *, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Set the JSON's config and environment, which must not change afterwards."""
        self._config, self._environment = config, environment

    def update_run(self, known: Mapping[str, Any]) -> None:
        """Add to the JSON's run section, and have it written soon."""
        with self._consistent:
            self._run.update(known)
            self.revision += 1
        if not self.is_foreign:
            self._json.request()

    def flush(self, timeout: float = 30.0) -> bool:
        """Bring CSV and JSON up to this moment; return whether they hold everything."""
        if self.is_foreign:
            return False
        with self._writing:
            if not (self._lock.may_write and self._journal.is_current(self.rows)):
                self._write_csv()  # which takes a lock anew that another program deleted
        if not self._json.holds(self.revision):
            self._json.write_now(timeout)
        return self._journal.is_current(self.rows) and self._json.holds(self.revision)

    def current_files(self, since: int | None = None) -> list[Path]:
        """Return those of CSV and JSON whose file of that name holds everything, or what there was at a revision."""
        current = []
        with self._writing:
            if self.rows and self._journal.is_current(self.rows):
                current.append(self.directory / CSV_NAME)
        if self._json.holds(self.revision if since is None else since):
            current.append(self.directory / JSON_NAME)
        return current

    def close(self, outcome: RunOutcome) -> bool:
        """Write all files a last time and let the directory go; return whether the CSV, read back, has every row."""
        if self.is_foreign:
            return False
        with self._consistent:
            self._run["status"] = outcome.status
            if outcome.at_ms is not None:
                self._run["end_time_ms"] = outcome.at_ms
            self.revision += 1
            del self._encoded[len(self.rows) :]  # a signal may have come in the middle of a write
        self.flush()
        is_safe = self._is_safe()
        if not is_safe:
            self._rescue()
        self.abandon()
        return is_safe

    def _is_safe(self) -> bool:
        """Read the CSV of that name back; write it again if it does not hold every row."""
        with self._writing:
            if not self.rows or self._journal.holds(self.rows):
                return True
            self._journal.forget()
            self._write_csv()
            return self._journal.holds(self.rows)

    def abandon(self) -> None:
        """Let the directory go as it is."""
        if not self.is_foreign:
            self._closed = True
            self._json.stop()
            self._journal.close()
            self._lock.release()

    def move_aside(self) -> Path:
        """Let the directory go under another name, the first free of ``DIR-1``, ``DIR-2``, ...; return that name.

        Raises UsageError for the working directory, one that holds the running script, or a mount point.
        """
        directory = self.directory.resolve()
        names = (directory.with_name(f"{directory.name}-{number}") for number in itertools.count(1))
        target = next(name for name in names if not os.path.lexists(name))
        script = getattr(sys.modules.get("__main__"), "__file__", None)
        try:
            in_use = [Path.cwd(), *([Path(script).resolve()] if script else [])]
            if any(path.is_relative_to(directory) for path in in_use):
                raise OSError(errno.EBUSY, "the program runs in it")  # noqa: TRY301 - one message for all reasons
            self._json.stop()
            self._journal.close()
            self._lock.rename(target)
        except OSError as error:
            self.abandon()
            raise UsageError(
                f"{display_path(self.directory)} holds a finished run and cannot be moved aside ({error.strerror}); "
                "choose another output_dir, or pass resume=True to add to that run"
            ) from error
        self._closed = True
        directory.mkdir(exist_ok=True)  # what a link of that name points to is there again
        return target

    def warn(self, error: OSError) -> None:
        """Warn that the disk takes nothing, once for each cause."""
        if self._warned != (error.errno or 0):
            self._warned = error.errno or 0
            _log.warning(
                "cannot write to %s (%s); training continues, rows are kept in memory and written when it is possible. "
                "Make room or make it writable",
                display_path(self.directory),
                error.strerror or error,
            )

    def _keep_superseded(self, rows: list[EpochMetrics]) -> None:
        """Log and save the superseded rows, so that a loop that began anew by mistake loses nothing."""
        path = self.directory / SUPERSEDED_NAME
        _log.warning(
            "row %d is recorded already: rows up to %d are replaced, and kept in %s",
            *(rows[0].epoch, rows[-1].epoch, display_path(path)),
        )
        try:
            before = read_csv(path) if path.exists() else []
            replace_file(path, render_csv([*before, *rows]))
        except (OSError, MirrorError) as error:
            _log.warning("the superseded rows could not be kept: %s", error)

    def _write_csv(self) -> None:
        """Bring the CSV up to all rows, those included that an earlier write could not take."""
        try:
            self._lock.renew()
            self._journal.write(self.rows)
        except OSError as error:
            self.warn(error)

    def _may_write(self) -> bool:
        return not self.is_foreign and self._lock.may_write

    def _on_json_written(self, error: OSError | None) -> None:
        if error:
            self.warn(error)
        elif self._warned is not None and self._journal.is_current(self.rows):
            self._warned = None
            where, count = display_path(self.directory), count_of(len(self.rows), "row")
            _log.warning("%s can be written again, and has every row (%s)", where, count)

    def _render(self) -> tuple[int, bytes]:
        with self._consistent:
            self._encoded += map(encode_row, self.rows[len(self._encoded) :])
            document = RunDocument(dict(self._run), self._config, self._environment, list(self.rows))
            encoded, revision = list(self._encoded), self.revision
        return revision, render_document(document, encoded)

    def _rescue(self) -> None:
        """Write the rows, which would be lost with this process, to the system's folder of temporary files."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"mlflow_ddpm-{self.directory.name}-"))
            replace_file(folder / CSV_NAME, render_csv(self.rows))
        except OSError as error:
            _log.error("%s could not be written, nor could %s (%s)", self._journal.path, tempfile.gettempdir(), error)
        else:
            _log.error(
                "%s could not be written; everything (%s) is in %s: copy it there when it can be written, and continue",
                display_path(self.directory / CSV_NAME),
                count_of(len(self.rows), "row"),
                display_path(folder / CSV_NAME),
            )
