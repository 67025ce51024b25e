"""What people see: colours on a terminal only, lines that fit, links that do not break, streams that are closed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import slow
from support.terminals import run_in_terminal

from mlflow_ddpm import MetricsTracker

ESCAPE = "\x1b["
SMALL = [
    *("--epochs", "2", "--base-channels", "8", "--channel-mults", "1", "--attention-size", "0", "--batch-size", "512"),
    *("--sample-steps", "2", "--eval-per-class", "0", "--sample-every", "0"),
]


@pytest.fixture
def directory(sqlite_uri: str) -> str:
    """A finished run with more columns than a terminal has room for."""
    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker:
        for epoch in range(2):
            tracker.start_epoch(epoch)
            tracker.log_batch(1 / 3 + epoch, lr=0.1, grad_norm=1.0, batch_size=8)
            tracker.end_epoch(extra={f"a_longer_name_{i}": i / 3 for i in range(4)})
    return "out"


@pytest.mark.parametrize(("columns", "term"), [slow(40, "xterm"), (60, "dumb"), slow(80, "xterm"), slow(120, "dumb")])
def test_a_history_fits_the_terminal(directory: str, columns: int, term: str) -> None:
    """Core columns come first; the last line names the others, and ``--all`` shows them below."""
    head, *rows = run_in_terminal("history", directory, columns=columns, NO_COLOR="1", TERM=term).text.splitlines()

    assert head.split()[:2] == ["epoch", "loss_mean"]
    assert all(len(line) <= columns for line in [head, *rows[:2]])
    assert "see them with --all" in rows[2]

    lines = run_in_terminal("history", directory, "--all", columns=columns, NO_COLOR="1", TERM=term).text.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert "a_longer_name_3" in " ".join(lines)


@pytest.mark.parametrize("source", ["out", slow("nowhere")], ids=["table", "error"])
def test_colours_are_for_terminals_and_not_under_no_color(directory: str, source: str) -> None:
    """Files and pipes get plain text, and so does who asks for it."""
    plain = subprocess.run(
        [sys.executable, "-m", "mlflow_ddpm", "history", source], check=False, capture_output=True, env=os.environ
    )

    assert ESCAPE in run_in_terminal("history", source).text
    assert ESCAPE not in run_in_terminal("history", source, NO_COLOR="1").text
    assert ESCAPE.encode() not in plain.stdout + plain.stderr


@pytest.mark.slow
def test_a_training_begins_with_run_output_and_link_and_moves_a_bar(sqlite_uri: str) -> None:
    """The link stands on a line of its own, longer than the terminal is wide; lines of epochs fit."""
    shown = run_in_terminal("train", "--output-dir", "out", "--tracking-uri", sqlite_uri, *SMALL, columns=60)
    run, output, server, link = shown.text.splitlines()[:4]

    assert shown.status == 0, shown.text
    assert re.fullmatch(r"run     \S+ \([0-9a-f]{32}\)", run)
    assert output == "output  out"
    assert server.startswith("server  mlflow ui --backend-store-uri sqlite:///")
    assert re.fullmatch(
        r"http://127\.0\.0\.1:5000/#/experiments/0/runs/[0-9a-f]{32}\?workflowType=machine_learning", link
    )
    assert "epoch 0 (1 of 2)" in shown.text
    epochs = re.findall(r"(epoch [01] \([12] of 2\)  loss_mean [^\r\n]*)", shown.text)
    assert len(epochs) == 2
    assert all(len(line) <= 60 for line in epochs)
    assert shown.text.rindex("\x1b[?25h") > shown.text.rindex("\x1b[?25l")  # the cursor is visible at the end


@pytest.mark.slow
def test_an_interrupt_is_one_line_and_the_cursor_stays_visible(sqlite_uri: str) -> None:
    """The same command continues."""
    sent: list[int] = []

    def interrupt(process: subprocess.Popen[bytes], text: str) -> None:
        if "epoch 0 (1 of 400)" in text and not sent:
            sent.append(1)
            process.send_signal(signal.SIGINT)

    words = ["train", "--output-dir", "out", "--tracking-uri", sqlite_uri, *SMALL, "--epochs", "400"]
    shown = run_in_terminal(*words, on_text=interrupt, NO_COLOR="1")

    assert shown.status == 130, shown.text
    assert "Traceback" not in shown.text
    last = shown.text.strip().splitlines()[-1]
    assert "mlflow-ddpm: error: interrupted; run the same command to continue from the last checkpoint" in last


@pytest.mark.parametrize("words", [["--help"], ["history", "out"], ["status", "nowhere"]])
def test_an_interrupt_after_the_last_line_is_no_traceback(directory: str, words: list[str]) -> None:
    """While Python ends, nothing is left to be said."""
    words = [directory if word == "out" else word for word in words]
    code = f"""
import atexit, os, runpy, signal, sys
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv[1:] = {words!r}
runpy.run_module("mlflow_ddpm", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=os.environ)

    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr


@pytest.mark.parametrize("module", ["mlflow_ddpm.cli.parser", slow("argparse"), slow("rich.console"), "pandas"])
def test_an_interrupt_while_modules_load_is_one_line(module: str, directory: str) -> None:
    """Whichever module it is, of ours or of another library."""
    code = f"""
import runpy, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Interrupt())
sys.argv[1:] = ["history", {directory!r}]
runpy.run_module("mlflow_ddpm", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=os.environ)

    assert (done.returncode, done.stderr) == (130, "mlflow-ddpm: error: interrupted\n")


@pytest.mark.parametrize("closed", [slow(">&-"), slow("2>&-"), slow(">&- 2>&-"), ">/dev/full", slow("| head -c 1")])
def test_streams_that_are_closed_or_full_end_no_command_with_a_traceback(directory: str, closed: str) -> None:
    """What cannot be written is lost; a full disk is an error."""
    for words, status in ((f"history {directory}", 0), ("status nowhere", 1), ("trian", 2)):
        command = f"set -o pipefail; {sys.executable} -m mlflow_ddpm {words} {closed}"
        done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, env=os.environ)

        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode == (1 if closed == ">/dev/full" and status == 0 else status)


def test_a_warning_is_one_line_however_long_on_a_terminal(tmp_path: Path) -> None:
    """Paths and commands in it can be copied."""
    code = (
        "import logging, sys; from mlflow_ddpm.cli.terminal import *; prepare_streams(); log_to_stderr(); "
        "logging.getLogger('mlflow_ddpm').warning('%s', '[red]' + 'x' * 300)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)

    assert done.stderr == "WARNING: [red]" + "x" * 300 + "\n"
