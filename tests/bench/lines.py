"""The floor that trackers are measured against: one line of 17 numbers, written with the standard library's CSV."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["VALUES", "CsvLine"]

VALUES = {f"metric_{k:02d}": 0.1234567890123 * (k + 1) for k in range(17)}


class CsvLine:
    """A CSV file that takes the same line again and again."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, list(VALUES))
        self._writer.writeheader()

    def flushed(self) -> None:
        """Write a line and hand it to the system: it survives the process."""
        self._writer.writerow(VALUES)
        self._file.flush()

    def synced(self) -> None:
        """Write a line and have it on the disk: it survives the machine."""
        self.flushed()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
