"""The terminal: colours, width, log lines, and consoles that cannot show every character. All of it is rich's."""

from __future__ import annotations

import codecs
import functools
import io
import logging
import os
import shutil
import sys
from typing import IO, TYPE_CHECKING

from mlflow_ddpm.core.formatting import printable

if TYPE_CHECKING:
    from rich.console import Console

# What we print ourselves and a console may not have; other characters become escapes, which name a file exactly.
_IN_ASCII = {"\u2013": "-", "\u2212": "-", "\u00b7": "-", "\u00d7": "x", "\u00e9": "e"}  # dashes, minus, dot, times
_UNLIMITED = 1_000_000  # characters: no line of a file or a pipe is cut or wrapped
_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


@functools.cache  # log lines and progress share one, so that they do not tear each other
def console_on(stream: IO[str]) -> Console:
    """Return a stream's console, which has colours on a terminal only, and none under ``NO_COLOR``."""
    from rich.console import Console

    has_color = stream.isatty() and not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        color_system="auto" if has_color else None,
        force_terminal=stream.isatty(),
        width=None if stream.isatty() else _UNLIMITED,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
    )


def width_of(stream: IO[str]) -> int | None:
    """Return the width of a terminal in characters; None for a file or a pipe, whose lines may be of any length."""
    return shutil.get_terminal_size().columns if stream.isatty() else None  # rich takes a dumb one's for 80


def print_error(message: str) -> None:
    """Print an error in one line, without the credentials of an address that was typed."""
    from mlflow_ddpm.core.redaction import redact

    message = redact(message)
    console_on(sys.stderr).print(_labelled("mlflow-ddpm: error", "ERROR", " ".join(message.split())))


def prepare_streams() -> None:
    """Let consoles that are not UTF-8 (``LANG=C`` in a container, Windows code pages) show what they can.

    A stream that was closed (``>&-``) is replaced by one that discards everything.
    """
    codecs.register_error("mlflow_ddpm.console", _encodable)
    sys.stdout, sys.stderr = sys.stdout or _discarding(), sys.stderr or _discarding()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mlflow_ddpm.console")


def discard_stdout() -> None:
    """Have what is still buffered go nowhere: the interpreter would try to write it once more, and fail."""
    sys.stdout = _discarding()


def log_to_stderr() -> None:
    """Show our warnings as plain lines, and spare the user the database migrations of MLflow's first use."""
    log = logging.getLogger("mlflow_ddpm")
    log.handlers[:] = [_ConsoleHandler(sys.stderr)]
    log.propagate = False
    logging.getLogger("mlflow_ddpm.progress").setLevel(logging.INFO)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of a dozen small files
    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _ConsoleHandler(logging.Handler):
    """Prints log lines whole: rich's own handler wraps them, and no path or command could be copied."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line above the progress bar, if there is one."""
        try:
            console_on(self._stream).print(_labelled(record.levelname, record.levelname, record.getMessage()))
        except Exception:  # noqa: BLE001 - as every handler of the standard library
            self.handleError(record)


def _discarding() -> IO[str]:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - open for as long as the process lives


def _labelled(label: str, level: str, message: str) -> object:
    from rich.text import Text

    return Text.assemble((f"{label}:", _STYLES.get(level, "")), " ", "\n".join(map(printable, message.split("\n"))))


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return a replacement for the characters that the console's encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end
