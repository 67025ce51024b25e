"""Tables as CSV (RFC 4180, lines end in a line feed). Every CSV file but a run's own, which grows, is written here."""

import csv
import io
from collections.abc import Iterable, Sequence

Cell = float | str | None


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """Return a file's bytes in UTF-8. An empty cell means not measured; numbers read back as the same float64."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
