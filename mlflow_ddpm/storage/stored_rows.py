"""A run's rows out of the points of its metrics in a tracking store.

The tracker writes all points of a row at one step and one timestamp, among them metrics that it measures in every
epoch. Only a place (step, timestamp) where those stand, and fit each other, is a row: points that users log into the
same run, whatever their names and steps, neither add rows nor change any; nor do rows that a user logs once more, or
those of another run, unless they begin beyond our last row: each row follows from an earlier one, and a tag names those
that need not.
"""

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlflow_ddpm.core.errors import HistoryError
from mlflow_ddpm.core.metrics import INTEGRAL_COLUMNS, TABLE_COLUMNS, EpochMetrics

_log = logging.getLogger("mlflow_ddpm.progress")
ROW_MARK = "cumulative_time_sec"  # every row has it
FIRST_ROWS_TAG = "mlflow.mlflow_ddpm.first_rows"  # STEP@MS of each row with which the training began or was resumed
NO_ROW_YET = "-"
_LATER_MAX = 98  # that are kept beside the very first: the tag has at most 5,000 characters
_ALWAYS_MEASURED = ("epoch_time_sec", "cumulative_time_sec", "nonfinite_batches")
_NO_ROWS = ("live/", "system/", "summary/")  # points between rows, MLflow's own, and results of the whole run
_FLOAT_MAX = sys.float_info.max  # SQL stores keep an infinity as the largest double
_PROGRESS_SEC = 2.0
# What a server can make us read: more than any run of ours has.
_MOST_METRICS, _MOST_PAGES, _MOST_POINTS = 10_000, 200, 10_000_000

Place = tuple[int, int]  # step, timestamp in ms
Cells = dict[str, float | None]


def is_row_key(key: str) -> bool:
    """Return whether points of this metric may belong to rows."""
    return key not in ("epoch", "logged_at_ms") and not key.startswith(_NO_ROWS)  # which a row's place shows


def read_pages(fetch: Callable[[str | None], Any], key: str) -> list[Any]:
    """Return all points of a metric; ``fetch`` returns the page of a token; raise HistoryError without end."""
    page = fetch(None)
    points, token = list(page), page.token
    for _ in range(_MOST_PAGES):
        if not token:
            return points
        page = fetch(token)
        points += page
        token = page.token
    raise HistoryError(f"MLflow sends more than {_MOST_PAGES} pages of the metric {key!r}; no run has that many")


def first_rows_tag(tags: Mapping[str, str], rows: Iterable[EpochMetrics]) -> dict[str, str]:
    """Return the tag by which a run names the rows with which a training began or was resumed, unless it does already.

    A run that an older version began has no such tag, and gets none: its own rows would count as another's.
    """
    places = tags.get(FIRST_ROWS_TAG, "").split()
    wanted = dict.fromkeys(f"{row.epoch}@{row.logged_at_ms}" for row in rows)
    new = [place for place in wanted if place not in places]
    kept = [*places, *new]
    return {FIRST_ROWS_TAG: " ".join([*kept[:2], *kept[2:][-_LATER_MAX:]])} if places and new else {}


def read_stored_rows(
    keys: Iterable[str], points_of: Callable[[str], Sequence[Any]], tags: Mapping[str, str]
) -> list[EpochMetrics]:
    """Return every row that was ever logged, superseded ones included, in order of time.

    ``points_of`` returns all points of a metric, each with ``step``, ``timestamp`` and ``value``; ``tags`` are the
    run's. Raises HistoryError for more metrics or points than any run of this package has.
    """
    wanted = sorted(
        filter(is_row_key, keys), key=lambda key: (key not in _ALWAYS_MEASURED, key not in TABLE_COLUMNS, key)
    )
    if not set(wanted).intersection(TABLE_COLUMNS):
        return []
    if len(wanted) > _MOST_METRICS:
        raise HistoryError(f"the run has {len(wanted):,} metrics in MLflow; at most {_MOST_METRICS:,} are read")
    progress = _Progress(len(wanted))
    markers = [key for key in wanted if key in _ALWAYS_MEASURED]
    marking = {key: progress.step(points_of(key)) for key in markers or set(wanted).intersection(TABLE_COLUMNS)}
    rows: dict[Place, Cells] = {place: {} for place in _row_places(marking.values(), is_marked=bool(markers))}
    for key in wanted:
        read = _whole if key in INTEGRAL_COLUMNS else _unclipped
        for point in marking.pop(key, None) or progress.step(points_of(key)):
            cells = rows.get((point.step, point.timestamp))
            if cells is not None:
                cells[key] = read(point.value)
    first = tags.get(FIRST_ROWS_TAG, "").split()
    in_order = sorted(((place, cells) for place, cells in rows.items() if place[0] >= 0), key=lambda row: row[0][1])
    return [
        EpochMetrics.from_cells({**cells, "epoch": step, "logged_at_ms": ms})
        for (step, ms), cells in _without_users_rows(_of_this_run(in_order, first))
    ]


def _row_places(marking: Iterable[Sequence[Any]], *, is_marked: bool) -> list[Place]:
    """Return the places with the most of the always-measured metrics; runs of old versions may have fewer of them.

    Without any of those, every place with a metric of the table is a row.
    """
    counts = Counter(place for points in marking for place in {(p.step, p.timestamp) for p in points})
    most = max(counts.values(), default=0) if is_marked else 1
    return [place for place, count in counts.items() if count >= most]


def _of_this_run(rows: Sequence[tuple[Place, Cells]], first: Collection[str]) -> Iterator[tuple[Place, Cells]]:
    """Yield, in order of time, the rows that follow from the first ones; all, where none of those is there.

    A row's cumulative time is that of the row before and its own. One that follows from none is ours if its step and
    its cumulative time are beyond those of our last: the store may have lost the row between, or a person may have
    rounded the CSV before rows of it were sent.
    """
    begin = {place for place, _ in rows if f"{place[0]}@{place[1]}" in first}
    totals: dict[int, bool] = {}  # cumulative times, in nanoseconds, and whether they are ours
    last = (-1, 0)  # step and cumulative time of our last row
    for place, cells in rows:
        total, own = (_whole((cells.get(name) or 0.0) * 1e9) or 0 for name in (ROW_MARK, "epoch_time_sec"))
        before = total - own
        follows = [totals[time] for time in (before, before - 1, before + 1) if time in totals]
        is_beyond = not follows and place[0] > last[0] >= 0 and total > last[1]
        is_ours = not begin or place in begin or any(follows) or is_beyond
        totals[total] = is_ours or totals.get(total, False)
        if is_ours:
            last = (place[0], total)
            yield place, cells


def _without_users_rows(rows: Iterable[tuple[Place, Cells]]) -> Iterator[tuple[Place, Cells]]:
    """Yield the rows that the tracker measured, in order of time.

    A user may log metrics of the same names at once, or the very row that ``end_epoch`` returned. Such a row has fewer
    whole numbers than those before it, or numbers that do not fit each other, or only those of an earlier row.
    """
    whole: set[str] = set()  # of the rows so far: later versions measure more
    earlier: dict[int, list[dict[str, float]]] = {}
    for (step, ms), cells in rows:
        table = {name: value for name, value in cells.items() if name in TABLE_COLUMNS and value is not None}
        same_step = earlier.setdefault(step, [])
        if not whole <= table.keys() or not _fits(table) or any(_is_copy(table, row) for row in same_step):
            continue
        whole |= table.keys() & INTEGRAL_COLUMNS
        same_step.append(table)
        yield (step, ms), cells


def _fits(row: Mapping[str, float]) -> bool:
    """Return whether numbers of these names can have been measured together; what was not measured fits."""
    seconds, rate = row.get("epoch_time_sec", 0.0), row.get("batches_per_sec")
    if not 0 <= seconds <= row.get("cumulative_time_sec", seconds) or row.get("partial", 0) not in (0, 1):
        return False
    timed = (rate or 0.0) * seconds  # in the first window of steps, one batch fewer than all
    if rate is not None and not (seconds and -0.5 < row.get("batches", timed) - timed < 1.5):  # noqa: PLR2004
        return False
    highest = row.get("loss_max", math.inf)
    return not row.get("loss_std", 0.0) > highest - row.get("loss_min", -math.inf) + abs(highest) * 1e-9


def _is_copy(row: Mapping[str, float], earlier: Mapping[str, float]) -> bool:
    return all(str(earlier.get(name)) == str(value) for name, value in row.items())  # as text, NaN equals itself


def _unclipped(value: float) -> float:
    return value if abs(value) != _FLOAT_MAX else value * 2


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None  # not one of ours


class _Progress:
    """Counts what has been read: logs the metrics from two seconds on, and stops at too many points."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._next = total, 0, time.monotonic() + _PROGRESS_SEC
        self._points = 0

    def step(self, points: Sequence[Any]) -> Sequence[Any]:
        """Count one more metric."""
        self._done += 1
        self._points += len(points)
        if self._points > _MOST_POINTS:
            raise HistoryError(f"the run has more than {_MOST_POINTS:,} points in MLflow, which are not read")
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_SEC
            _log.info("reading the run from MLflow: %d of %d metrics", self._done, self._total)
        return points
