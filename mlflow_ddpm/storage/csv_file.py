"""The journal: ``training_metrics.csv``, one row per epoch, appended and flushed to the disk.

UTF-8, a header, columns in the table's order, then the extras by name, then ``logged_at_ms``. Numbers are written so
that they read back as the same float64; an empty cell means not measured, ``nan`` and ``inf`` mean measured and not
finite. A last line without its line feed is one that a crash tore: readers pass it over, the next writer cuts it off.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.extra_metrics import check_extra_names
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics, Number
from mlflow_ddpm.storage.layout import TORN_NAME

__all__ = ["CsvJournal", "parse_csv", "read_csv", "render_csv"]

_TABLE = [m.name for m in METRICS]
_INTEGRAL = frozenset(m.name for m in METRICS if m.integral) | {"logged_at_ms"}
_LAST = "logged_at_ms"
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_FLOAT = re.compile(r"-?([0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|inf|nan)")


def render_csv(rows: Sequence[EpochMetrics]) -> bytes:
    """Return the whole file's bytes."""
    extras = _extra_names(rows)
    lines = [",".join([*_TABLE, *extras, _LAST]), *(_line(row, extras) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def read_csv(path: Path) -> list[EpochMetrics]:
    """Return the rows of the file as they stand in it, superseded ones included; a torn last line is passed over.

    Raises:
        MirrorError: the file is not such a CSV; the message names the line and column.
        OSError: it cannot be read.
    """
    return parse_csv(path.read_bytes(), str(path))


def parse_csv(content: bytes, name: str) -> list[EpochMetrics]:
    """Return the rows of a file's bytes; ``name`` is for messages. Raises as :func:`read_csv`."""
    try:
        text = content[: content.rfind(b"\n") + 1].decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MirrorError(f"{name} is not a CSV file in UTF-8: {error}") from error
    if not lines:
        return []
    header = lines[0]
    if "epoch" not in header or len(set(header)) != len(header):
        raise MirrorError(f"{name} is not a metrics file: expected a header with one column 'epoch', got {header[:5]}")
    return [_row(name, number, header, cells) for number, cells in enumerate(lines[1:], start=2)]


class CsvJournal:
    """The file, open for appending. Single writer; not for use from two threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._extras: list[str] | None = None  # of the header on disk; None: the file must be written whole
        self._handle: int | None = None

    def recover(self) -> list[EpochMetrics]:
        """Return the rows on disk, having cut off a torn last line (kept beside the file, named ``.torn``).

        Raises:
            MirrorError: the file was not written by this version of this package, or was edited. It is left untouched.
            OSError: it cannot be read.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        rows = parse_csv(content, str(self.path))
        whole = content.rfind(b"\n") + 1
        extras = self._extras_of_header(content[:whole] or content)
        if any(b.epoch <= a.epoch or b.logged_at_ms <= a.logged_at_ms for a, b in itertools.pairwise(rows)):
            raise MirrorError(
                f"{self.path} was edited: epoch and {_LAST} must rise from row to row; mend it, or move it away"
            )
        torn = whole < len(content) and not self._cut(content, whole)
        self._extras = None if torn or not whole else extras
        return rows

    def _extras_of_header(self, content: bytes) -> list[str]:
        """Return the columns after the table's. A file without a line feed must be the beginning of a header."""
        first, feed, _ = content.partition(b"\n")
        header = first.decode("utf-8-sig", "replace").removesuffix("\r").split(",")
        extras = header[len(_TABLE) : -1]
        table = ",".join(_TABLE).encode()
        is_beginning = table.startswith(first) or first.startswith(table + b",")
        ours = [*_TABLE, *extras, _LAST] == header if feed else is_beginning
        try:
            check_extra_names(extras if feed else ())
        except UsageError:
            ours = False
        if not ours:
            raise MirrorError(
                f"{self.path} was not written by this version of mlflow_ddpm (its columns differ); "
                "choose another output_dir, or move the file away"
            )
        return extras

    def _cut(self, content: bytes, whole: int) -> bool:
        """Cut off what follows the last whole line; return whether the disk allowed it."""
        try:
            replace_file(self.path.with_name(TORN_NAME), content[whole:])
            os.truncate(self.path, whole)
        except OSError:
            return False  # the next write replaces the file
        return True

    def fits(self, row: EpochMetrics) -> bool:
        """Say whether the file stands and its header has a column for every extra of the row."""
        return self._extras is not None and row.extra.keys() <= set(self._extras)

    def append(self, row: EpochMetrics) -> None:
        """Write one more row, which must fit, and flush it to the disk.

        Raises:
            OSError: it could not be written; the file must then be rewritten whole (:meth:`rewrite`).
        """
        line = (_line(row, self._extras or ()) + "\n").encode()
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        extras, self._extras = self._extras, None  # nothing fits until this row stands whole
        if os.write(self._handle, line) != len(line):
            raise OSError(f"{self.path}: the disk took only a part of the row")
        os.fsync(self._handle)
        self._extras = extras

    def rewrite(self, rows: Sequence[EpochMetrics]) -> None:
        """Replace the file by these rows, all or nothing."""
        self.close()
        self._extras = None
        replace_file(self.path, render_csv(rows))
        self._extras = _extra_names(rows)

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _extra_names(rows: Iterable[EpochMetrics]) -> list[str]:
    return sorted({name for row in rows for name in row.extra})


def _line(row: EpochMetrics, extras: Sequence[str]) -> str:
    numbers = [getattr(row, name) for name in _TABLE]
    numbers += [row.extra.get(name) for name in extras]
    return ",".join("" if n is None else repr(n) for n in (*numbers, row.logged_at_ms))


def _row(name: str, number: int, header: Sequence[str], cells: Sequence[str]) -> EpochMetrics:
    if len(cells) != len(header):
        raise MirrorError(f"{name}, line {number}: expected {len(header)} cells as in the header, got {len(cells)}")
    values = {column: _number(name, number, column, cell) for column, cell in zip(header, cells, strict=True)}
    epoch, logged = values.get("epoch"), values.pop(_LAST, number)
    if not isinstance(epoch, int) or not isinstance(logged, int) or min(epoch, logged) < 0:
        raise MirrorError(f"{name}, line {number}: epoch and {_LAST} must be whole numbers >= 0, got {epoch}, {logged}")
    table = {key: values.pop(key) for key in _TABLE if key in values}
    extra = {key: value for key, value in values.items() if value is not None}
    return EpochMetrics(**table, extra=extra, logged_at_ms=logged)  # type: ignore[arg-type]


def _number(name: str, line: int, column: str, cell: str) -> Number:
    if not cell:
        return None
    pattern, read = (_INTEGER, int) if column in _INTEGRAL else (_FLOAT, float)
    if not pattern.fullmatch(cell):  # Python alone would read "1_0" as 10 and " 7" as 7
        raise MirrorError(f"{name}, line {line}, column {column}: expected a number or nothing, got {cell!r}")
    return read(cell)
