"""``training_metrics.json``: the whole run in one strict JSON document (RFC 8259).

``schema_version``, ``run``, ``config``, ``environment``, ``summary``, ``epochs``. It is replaced as a whole, so it
parses at any instant; during a run it may lag behind the CSV by seconds, since rewriting a growing history at
every epoch would cost more with every epoch.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.extra_metrics import check_extra_names
from mlflow_ddpm.core.metrics import INTEGRAL_COLUMNS, EpochMetrics
from mlflow_ddpm.core.run_summary import summarise
from mlflow_ddpm.core.strict_json import dumps, number, read_number
from mlflow_ddpm.storage.foreign_files import check_amount, check_depth, read_bounded
from mlflow_ddpm.storage.guarded_file import GuardedFile

SCHEMA_VERSION = 1
_LEFT_SEC = 0.2  # a lock that is held for longer while nothing is written was left by an interrupted thread


class RunDocument(NamedTuple):
    """What the document holds; of a run without one, nothing."""

    run: Mapping[str, Any] = MappingProxyType({})
    config: Mapping[str, Any] = MappingProxyType({})
    environment: Mapping[str, Any] = MappingProxyType({})
    rows: Sequence[EpochMetrics] = ()


def encode_row(row: EpochMetrics) -> str:
    """Return one epoch's JSON object, on one line."""
    cells = {name: number(value) for name, value in row.values().items()}
    return json.dumps({**cells, "logged_at_ms": row.logged_at_ms}, allow_nan=False, ensure_ascii=False)


def render_document(document: RunDocument, encoded: Iterable[str] | None = None) -> bytes:
    """Return the document's bytes; ``encoded`` are its rows, so that each is encoded once in a run's life."""
    head = {"schema_version": SCHEMA_VERSION, **document._asdict()}
    rows = head.pop("rows")
    text = dumps({**head, "summary": summarise(rows, document.run)._asdict()}, indent=2).removesuffix("\n}")
    epochs = ",\n".join(f"    {row}" for row in encoded or map(encode_row, rows))
    whole = f'{text},\n  "epochs": [\n{epochs}\n  ]\n}}\n' if epochs else f'{text},\n  "epochs": []\n}}\n'
    return whole.encode("utf-8", "backslashreplace")  # a file name that is no Unicode becomes an escape, as JSON has it


def read_document(path: Path, *, with_rows: bool = True) -> RunDocument:
    """Return the document in a file, faster without its rows; raise MirrorError if it is no such document."""
    try:
        content = read_bounded(path)
        check_amount(content, str(path))
        document = json.loads(content)
        check_depth(document, str(path))
        if document["schema_version"] != SCHEMA_VERSION:
            raise MirrorError(
                f"{path} has schema_version {document['schema_version']}, this mlflow_ddpm reads {SCHEMA_VERSION}"
            )
        rows = [_row(epoch) for epoch in document["epochs"]] if with_rows else []
        run, config, environment = (dict(**document[part]) for part in ("run", "config", "environment"))
        return RunDocument(run, config, environment, rows)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise MirrorError(f"{path} is not a training_metrics.json: {error or type(error).__name__}") from error


def _row(cells: Mapping[str, Any]) -> EpochMetrics:
    row = EpochMetrics.from_cells({name: _number(name, cell) for name, cell in cells.items()})
    check_extra_names(row.extra)
    return row


def _number(name: str, cell: object) -> float | None:
    value = read_number(cell)
    return value if value is None or name in INTEGRAL_COLUMNS else float(value)  # other writers of JSON drop the ".0"


class JsonWriter:
    """Writes the document off the training thread, the newest content only, at a bounded share of one core.

    Nothing depends on the thread: it may die with the process, and :meth:`write_now` needs none. ``render`` returns the
    revision and content of this moment; ``on_written`` is called after each write with what went wrong, or None.
    """

    _SHARE = 0.003  # of one core, at most, goes into writing
    _PAUSE_SEC = 0.2  # between two writes, at least

    def __init__(
        self,
        path: Path,
        render: Callable[[], tuple[int, bytes]],
        may_write: Callable[[], bool],
        on_written: Callable[[OSError | None], None],
    ) -> None:
        self._file = GuardedFile(path)
        self._render, self._may_write, self._on_written = render, may_write, on_written
        self._revision = -1  # of the content on disk
        self._wanted, self._closed = threading.Event(), threading.Event()
        # Reentrant: an interrupt between acquire() and its `try` leaves it held by the thread that will stop this one.
        self._writing = threading.RLock()
        self._is_busy = False  # something is being written
        self._thread: threading.Thread | None = None

    def recover(self) -> RunDocument | None:
        """Return what an earlier process left in the file, None if nothing; raise MirrorError if it is not ours."""
        if not self._file.path.exists() or not self._file.path.stat().st_size:
            return None
        self._file.adopt()  # before it is read: a version that another program writes meanwhile is not ours
        return read_document(self._file.path)

    def request(self) -> None:
        """Ask for a write soon; return at once."""
        if not self._wanted.is_set():  # else set() would take a lock for nothing
            self._wanted.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlflow_ddpm-json", daemon=True)
            self._thread.start()

    def write_now(self, timeout: float) -> None:
        """Write the content of this moment on the caller's thread, which waits for another write to end at most."""
        with self._held(timeout) as may_write:
            if may_write:
                self._wanted.clear()
                self._write()

    def holds(self, revision: int) -> bool:
        """Return whether the file of that name is the one that we wrote, at this revision or a later one."""
        with self._held(1.0), contextlib.suppress(OSError):  # a file being replaced is neither old nor new
            return self._revision >= revision and self._file.is_ours()
        return False

    @contextlib.contextmanager
    def _held(self, timeout: float) -> Iterator[bool]:
        """Hold the lock, or do without one that an interrupted thread left; yield whether no other thread writes."""
        left, rest = min(timeout, _LEFT_SEC), max(0.0, timeout - _LEFT_SEC)
        has_lock = self._writing.acquire(timeout=left) or (self._is_busy and self._writing.acquire(timeout=rest))
        try:
            yield has_lock or not self._is_busy
        finally:
            if has_lock:
                self._writing.release()

    def _write(self) -> None:
        if not self._may_write():
            return
        self._is_busy = True
        try:
            self._replace()
        finally:
            self._is_busy = False

    def _replace(self) -> None:
        revision, content = self._render()
        try:
            self._file.replace(content, lambda found: _holds_only(found, content))
        except OSError as error:
            self._on_written(error)
        else:
            self._revision = revision
            self._on_written(None)

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


def _holds_only(content: bytes, ours: bytes) -> bool:
    """Return whether a document holds no epoch that ours does not hold."""
    try:
        epochs = {json.dumps(epoch, sort_keys=True) for epoch in json.loads(content)["epochs"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return epochs <= {json.dumps(epoch, sort_keys=True) for epoch in json.loads(ours)["epochs"]}
