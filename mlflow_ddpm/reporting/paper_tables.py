r"""Tables for papers: a run's key results as CSV in full precision, and tables as LaTeX in the style of booktabs.

A LaTeX table stands alone, without caption and float, so that a paper's own ``\input`` decides where it goes.
"""

import re
from pathlib import Path

from mlflow_ddpm.analysis.key_results import KeyResult, key_results
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.csv_table import csv_bytes
from mlflow_ddpm.core.markdown import Table, one_line
from mlflow_ddpm.storage.layout import SUMMARY_NAME

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "\u2013": "--", "\u2212": "$-$", "\u00d7": r"$\times$",
    "\u00b1": r"$\pm$", "\u03c3": r"$\sigma$",
}  # fmt: skip
_ANY_SPECIAL = re.compile("[" + re.escape("".join(_SPECIAL)) + "]")
_POWER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)e([+-]?\d+)\b")
_NEGATIVE = re.compile(r"(?<![\w.\-])-(?=\d)")


def write_key_results(history: RunHistory, directory: Path) -> list[Path]:
    """Write ``training_summary.csv`` and ``training_summary.tex``, each all or nothing, and return their paths.

    Both hold the report's key results in its order. What was not measured has an empty cell in the CSV, and no line in
    the LaTeX.
    """
    results = key_results(history)
    lines = [(r.label, r.text, "" if r.epoch is None else str(r.epoch)) for r in results if r.value is not None]
    table, tex = (directory / f"{SUMMARY_NAME}.{suffix}" for suffix in ("csv", "tex"))
    replace_file(table, csv_bytes(KeyResult._fields, results))
    replace_file(tex, booktabs(Table(("Result", "Value", history.worded("Epoch")), lines, "llr")).encode())
    return [table, tex]


def escape_latex(text: str) -> str:
    r"""Return plain text as LaTeX that prints it, in one line; a number like 1.5e-05 becomes a power of ten.

    >>> print(escape_latex("50 % of f_1, 1.5e-05"))
    50 \% of f\_1, $1.5 \times 10^{-5}$
    """
    parts, end = [], 0
    text = one_line(text)
    for power in _POWER.finditer(text):
        parts += [_escape(text[end : power.start()]), rf"${power[1]} \times 10^{{{int(power[2])}}}$"]
        end = power.end()
    return "".join([*parts, _escape(text[end:])])


def booktabs(table: Table) -> str:
    r"""Return the table as a ``tabular``; it needs ``\usepackage{booktabs}``, as its first line states."""
    rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in (table.head, *table.rows)]
    body = [rf"\begin{{tabular}}{{{table.align}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([r"% needs \usepackage{booktabs}", *body, r"\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    return _ANY_SPECIAL.sub(lambda power: _SPECIAL[power[0]], _NEGATIVE.sub("\u2212", text))
