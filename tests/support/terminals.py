"""Run a command in a real terminal of a given width, and return what it showed there."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Shown", "run_in_terminal"]


class Shown(NamedTuple):
    """What a terminal got, colours and cursor movements included."""

    text: str
    status: int


def run_in_terminal(
    *words: str, columns: int = 80, on_text: Callable[[subprocess.Popen[bytes], str], None] | None = None, **env: str
) -> Shown:
    """Run ``mlflow-ddpm``; ``on_text`` is called with the process and all text so far, whenever there is more."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow_ddpm", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **env},
        start_new_session=True,
    )
    os.close(theirs)
    content = b""
    while True:
        try:
            portion = os.read(ours, 65536)
        except OSError:  # Linux's way to report that the last process has closed the terminal
            break
        if not portion:
            break
        content += portion
        if on_text:
            on_text(process, content.decode("utf-8", "replace"))
    os.close(ours)
    return Shown(content.decode("utf-8", "replace"), process.wait(timeout=60))
