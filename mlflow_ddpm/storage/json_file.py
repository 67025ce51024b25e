"""``training_metrics.json``: the whole run in one strict JSON document (RFC 8259).

``schema_version``, ``run``, ``config``, ``environment``, ``summary``, ``epochs``. It is replaced as a whole, so it
parses at any instant; while a run goes on it may lag behind the CSV by seconds, since rewriting a growing history at
every epoch would cost more with every epoch.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.extra_metrics import check_extra_names
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.core.run_summary import Summary
from mlflow_ddpm.core.strict_json import dumps, number, read_number

__all__ = [
    "SCHEMA_VERSION",
    "JsonWriter",
    "RunDocument",
    "encode_row",
    "read_document",
    "render_document",
]

SCHEMA_VERSION = 1
_TABLE = frozenset(m.name for m in METRICS)


class RunDocument(NamedTuple):
    """What the document holds."""

    run: Mapping[str, Any]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[EpochMetrics]


def encode_row(row: EpochMetrics) -> str:
    """Return one epoch's JSON object, on one line."""
    cells = {name: number(value) for name, value in row.values().items()}
    return json.dumps({**cells, "logged_at_ms": row.logged_at_ms}, allow_nan=False, ensure_ascii=False)


def render_document(
    run: Mapping[str, Any],
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    summary: Summary,
    encoded_rows: Sequence[str],
) -> bytes:
    """Return the document's bytes; the rows come already encoded, so that each is encoded once in a run's life."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "config": config,
        "environment": environment,
        "summary": summary.as_dict(),
    }
    text = dumps(head, indent=2).removesuffix("\n}")
    epochs = ",\n".join(f"    {row}" for row in encoded_rows)
    whole = f'{text},\n  "epochs": [\n{epochs}\n  ]\n}}\n' if epochs else f'{text},\n  "epochs": []\n}}\n'
    return whole.encode("utf-8", "backslashreplace")  # a file name that is no Unicode becomes an escape, as JSON has it


def read_document(path: Path) -> RunDocument:
    """Return what a file holds.

    Raises:
        MirrorError: it is not such a document.
        OSError: it cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["schema_version"] != SCHEMA_VERSION:
            raise MirrorError(
                f"{path} has schema_version {document['schema_version']}, this mlflow_ddpm reads {SCHEMA_VERSION}"
            )
        rows = [_row(epoch) for epoch in document["epochs"]]
        run, config, environment = (dict(**document[part]) for part in ("run", "config", "environment"))
        return RunDocument(run, config, environment, rows)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise MirrorError(f"{path} is not a training_metrics.json: {error or type(error).__name__}") from error


def _row(cells: Mapping[str, Any]) -> EpochMetrics:
    values = {name: read_number(cell) for name, cell in cells.items() if name != "logged_at_ms"}
    table = {name: _float_unless_integral(name, values[name]) for name in values if name in _TABLE}
    extra = {name: float(value) for name, value in values.items() if name not in _TABLE and value is not None}
    check_extra_names(extra)
    epoch, logged = cells["epoch"], cells["logged_at_ms"]
    if type(epoch) is not int or type(logged) is not int or min(epoch, logged) < 0:
        raise ValueError(f"epoch and logged_at_ms must be whole numbers >= 0, got {epoch!r}, {logged!r}")
    return EpochMetrics(**table, extra=extra, logged_at_ms=logged)  # type: ignore[arg-type]


_INTEGRAL = frozenset(m.name for m in METRICS if m.integral)


def _float_unless_integral(name: str, value: float | None) -> float | None:
    if value is None or name in _INTEGRAL:
        return value
    return float(value)  # other writers of JSON drop the ".0"


class JsonWriter:
    """Writes the document off the training thread, the newest content only, at a bounded share of one core.

    Nothing depends on the thread: it may die with the process, and :meth:`write_now` needs none.
    """

    _SHARE = 0.003  # of one core, at most, goes into writing
    _PAUSE_SEC = 0.2  # between two writes, at least

    def __init__(self, path: Path, render: Callable[[], bytes], warn: Callable[[OSError], None]) -> None:
        self._path, self._render, self._warn = path, render, warn
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None

    def request(self) -> None:
        """Ask for a write soon; return at once."""
        self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlflow_ddpm-snapshot", daemon=True)
            self._thread.start()

    def write_now(self) -> None:
        """Write the content of this moment, on the caller's thread."""
        with self._writing:
            self._wanted.clear()
            self._write()

    def _write(self) -> None:
        try:
            replace_file(self._path, self._render())
        except OSError as error:
            self._warn(error)

    def stop(self) -> None:
        """Let the thread end; what it has not written stays unwritten."""
        self._closed.set()
        self._wanted.set()
        with self._writing:  # when this returns nothing is being written
            pass

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            if self._closed.is_set():
                return
            began = time.perf_counter()
            with self._writing:
                if not self._closed.is_set():
                    self._wanted.clear()
                    self._write()
            self._closed.wait(max(self._PAUSE_SEC, (time.perf_counter() - began) / self._SHARE))
