"""The journal: ``training_metrics.csv``, one row per epoch, appended and flushed to the disk.

UTF-8, a header, columns in the table's order, then the extras by name, then ``logged_at_ms``. Numbers are written so
that they read back as the same float64; an empty cell means not measured, ``nan`` and ``inf`` mean measured and not
finite. A last line without its line feed is one that a crash tore: readers pass it over, the next writer cuts it off.
"""

import contextlib
import csv
import errno
import io
import itertools
import operator
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.extra_metrics import check_extra_names
from mlflow_ddpm.core.metrics import INTEGRAL_COLUMNS, TABLE_COLUMNS, EpochMetrics
from mlflow_ddpm.storage.foreign_files import MAX_COLUMNS, check_amount, read_bounded
from mlflow_ddpm.storage.guarded_file import FileState, GuardedFile
from mlflow_ddpm.storage.layout import CSV_NAME, TORN_NAME

_TABLE = list(TABLE_COLUMNS)
_table_cells = operator.attrgetter(*_TABLE)
_FORMER_TABLE = _TABLE[: _TABLE.index("skipped_steps")]  # of a run that an earlier version began
_LAST = "logged_at_ms"
_INTEGRAL = (re.compile(r"-?[0-9]{1,19}"), int)
_REAL = (re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|inf|nan)"), float)


def render_csv(rows: Sequence[EpochMetrics]) -> bytes:
    """Return the whole file's bytes."""
    return _render(rows, _extra_names(rows))


def read_csv(path: Path) -> list[EpochMetrics]:
    """Return the rows of the file as they stand in it, superseded ones included; a torn last line is passed over.

    Raises MirrorError, which names line and column, for a file that is not such a CSV; OSError where it cannot be read.
    """
    return parse_csv(read_bounded(path), str(path))


def parse_csv(content: bytes, name: str) -> list[EpochMetrics]:
    """Return the rows of a file's bytes; ``name`` is for messages. Raises as :func:`read_csv`."""
    check_amount(content, name)
    whole = io.BytesIO(content[: content.rfind(b"\n") + 1])
    try:  # decoded and split piece by piece: the text of all cells takes ten times the file
        lines = csv.reader(io.TextIOWrapper(whole, "utf-8-sig", newline=""), strict=True)
        header = next(lines, None)
        if header is None:
            return []
        if len(header) > MAX_COLUMNS:
            raise MirrorError(f"{name} has {len(header):,} columns; at most {MAX_COLUMNS:,} are read")
        if "epoch" not in header or len(set(header)) != len(header):
            expected = "a header with one column 'epoch'"
            raise MirrorError(f"{name} is not a metrics file: expected {expected}, got {header[:5]}")
        forms = [_INTEGRAL if column in INTEGRAL_COLUMNS else _REAL for column in header]
        return [_row(name, number, header, forms, cells) for number, cells in enumerate(lines, start=2) if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise MirrorError(f"{name} is not a CSV file in UTF-8: {error}") from error


class CsvJournal:
    """The file, open for appending. Single writer; not for use from two threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = GuardedFile(path)
        self._extras: list[str] = []  # of the header on disk
        self._written = 0  # rows on disk, as we left the file
        self._last: EpochMetrics | None = None  # the last of them
        self._handle: int | None = None

    def recover(self) -> list[EpochMetrics]:
        """Return the rows on disk, having cut off a torn last line (kept beside the file, named ``.torn``).

        Raises MirrorError for a file that this version of this package did not write, or that was edited, which is left
        untouched; OSError where it cannot be read.
        """
        if not self.path.exists():
            return []
        self._file.adopt()  # before it is read: a version that another program writes meanwhile is not ours
        content = read_bounded(self.path)
        rows = parse_csv(content, str(self.path))
        whole = content.rfind(b"\n") + 1
        extras = self._extras_of_header(content[:whole] or content)
        if any(b.epoch <= a.epoch or b.logged_at_ms <= a.logged_at_ms for a, b in itertools.pairwise(rows)):
            raise MirrorError(
                f"{self.path} was edited: epoch and {_LAST} must rise from row to row; mend it, or move it away"
            )
        is_whole = whole == len(content) or self._cut(content, whole)
        if is_whole and extras is not None and self._is_as_written(content[:whole], extras, len(rows)):
            self._extras, self._written, self._last = extras, len(rows), rows[-1] if rows else None
        return rows

    @staticmethod
    def _is_as_written(content: bytes, extras: Sequence[str], rows: int) -> bool:
        """Return whether the file can be appended to; one that a spreadsheet has saved is written again."""
        is_header_ours = content.startswith(_header(extras).encode()) or not content
        return is_header_ours and b"\r" not in content and content.count(b"\n") == rows + bool(content)

    def _extras_of_header(self, content: bytes) -> list[str] | None:
        """Return the columns after the table's; None if they need a new header.

        A file without a line feed must be the beginning of a header.
        """
        first, feed, _ = content.partition(b"\n")
        names = first.decode("utf-8-sig", "replace").removesuffix("\r").split(",")
        header = [name.removeprefix('"').removesuffix('"') for name in names]  # as a spreadsheet may write them
        is_former = header[: len(_TABLE)] != _TABLE and header[: len(_FORMER_TABLE)] == _FORMER_TABLE
        table = _FORMER_TABLE if is_former else _TABLE
        extras, first_columns = header[len(table) : -1], ",".join(_TABLE).encode()
        is_beginning = first_columns.startswith(first) or first.startswith(first_columns + b",")
        ours = [*table, *extras, _LAST] == header if feed else is_beginning
        try:
            check_extra_names(extras if feed else ())
        except UsageError:
            ours = False
        if not ours:
            raise MirrorError(
                f"{self.path} was not written by this version of mlflow_ddpm (its columns differ); "
                "choose another output_dir, or move the file away"
            )
        return None if is_former else extras

    def _cut(self, content: bytes, whole: int) -> bool:
        """Cut off what follows the last whole line; return whether the disk allowed it."""
        try:
            replace_file(self.path.with_name(TORN_NAME), content[whole:])
            os.truncate(self.path, whole)
            self._file.adopt()
        except OSError:
            return False  # the next write replaces the file
        return True

    def write(self, rows: Sequence[EpochMetrics]) -> None:
        """Append what is new to the file that we left, else replace it by the whole; after an OSError call it again."""
        if self._continues(rows) and self._file.is_ours() and self._append(rows):
            return
        self.close()
        self.forget()  # an error or interrupt from here on leaves a file that the next write replaces
        extras = _extra_names(rows)
        self._file.replace(_render(rows, extras), lambda found: _holds_only(found, rows))
        self._extras = extras
        self._written, self._last = len(rows), rows[-1] if rows else None

    def holds(self, rows: Sequence[EpochMetrics]) -> bool:
        """Read the file of that name and return whether it holds exactly these rows, as we write them."""
        try:
            return read_bounded(self.path) == _render(rows, self._extras)
        except (OSError, MirrorError):
            return False

    def is_current(self, rows: Sequence[EpochMetrics]) -> bool:
        """Return whether the file of that name is the one that we wrote, with all of these rows; does not read it."""
        try:
            return self._written == len(rows) and (not rows or (self._last is rows[-1] and self._file.is_ours()))
        except OSError:
            return False

    def forget(self) -> None:
        """Have the next write replace the whole file."""
        self._last = None

    def _continues(self, rows: Sequence[EpochMetrics]) -> bool:
        """Return whether the rows on disk are the first of these, and the header has a column for every extra."""
        if self._last is None or len(rows) < self._written or rows[self._written - 1] is not self._last:
            return False
        return all(row.extra.keys() <= set(self._extras) for row in rows[self._written :])

    def _append(self, rows: Sequence[EpochMetrics]) -> bool:
        """Append what the file does not have of the rows; return False if another program changed it meanwhile."""
        content = "".join(_lines(rows[self._written :], self._extras)).encode()
        if not content:
            return True
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
        before, self._file.state = self._file.state, None
        taken = os.write(self._handle, content)
        if taken != len(content):
            with contextlib.suppress(OSError):  # the disk is full: readers find whole rows meanwhile
                os.ftruncate(self._handle, before.size if before else 0)
                self._file.adopt()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        os.fsync(self._handle)  # takes milliseconds: time for another program
        status = os.fstat(self._handle)
        after = FileState.create(status)
        if not status.st_nlink or before is None or after[:3] != (before.device, before.inode, before.size + taken):
            return False
        self._written, self._last = len(rows), rows[-1]
        self._file.state = after  # last: an error or interrupt before leaves a file that the next write replaces
        return True

    def close(self) -> None:
        """Close the file."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):  # some network file systems report an earlier write's error here
                os.close(handle)


def _extra_names(rows: Iterable[EpochMetrics]) -> list[str]:
    return sorted({name for row in rows for name in row.extra})


def _render(rows: Sequence[EpochMetrics], extras: Sequence[str]) -> bytes:
    return "".join([_header(extras), *_lines(rows, extras)]).encode()


def _header(extras: Sequence[str]) -> str:
    return ",".join([*_TABLE, *extras, _LAST]) + "\n"


def _lines(rows: Sequence[EpochMetrics], extras: Sequence[str]) -> list[str]:
    """Return the rows' lines. Numbers, like names, need no quotes, and :mod:`csv` takes twice as long to see that."""
    rows_cells = ((*_table_cells(row), *map(row.extra.get, extras), row.logged_at_ms) for row in rows)
    return [",".join(["" if cell is None else str(cell) for cell in cells]) + "\n" for cells in rows_cells]


def _holds_only(content: bytes, rows: Sequence[EpochMetrics]) -> bool:
    """Return whether a file holds no row, or column, that these rows do not hold."""
    try:
        found = parse_csv(content, CSV_NAME)
    except MirrorError:
        return False
    extras = _extra_names([*rows, *found])
    return content.endswith(b"\n") and set(_lines(found, extras)) <= set(_lines(rows, extras))


def _row(
    name: str, line: int, header: Sequence[str], forms: Sequence[tuple[re.Pattern[str], type]], cells: Sequence[str]
) -> EpochMetrics:
    if len(cells) != len(header):
        raise MirrorError(f"{name}, line {line}: expected {len(header)} cells as in the header, got {len(cells)}")
    values: dict[str, Any] = {_LAST: line}
    for column, (pattern, read), cell in zip(header, forms, cells, strict=True):
        if cell and not pattern.fullmatch(cell):  # Python alone would read "1_0" as 10 and " 7" as 7
            raise MirrorError(f"{name}, line {line}, column {column}: expected a number or nothing, got {cell!r}")
        values[column] = read(cell) if cell else None
    try:
        return EpochMetrics.from_cells(values)
    except ValueError as error:
        raise MirrorError(f"{name}, line {line}: {error}") from error
