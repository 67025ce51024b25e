r"""Tables for papers: a LaTeX ``tabular`` in the style of booktabs that says what it was given.

The table stands alone, without caption and float, so that a paper's own ``\input`` decides where it goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow_ddpm.core.markdown import Table, one_line

__all__ = ["booktabs", "escape_latex"]

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "\u2013": "--", "\u2212": "$-$", "\u00d7": r"$\times$",
    "\u00b1": r"$\pm$", "\u03c3": r"$\sigma$",
}  # fmt: skip
_ANY_SPECIAL = re.compile("[" + re.escape("".join(_SPECIAL)) + "]")
_POWER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)e([+-]?\d+)\b")
_NEGATIVE = re.compile(r"(?<![\w.\-])-(?=\d)")


def escape_latex(text: str) -> str:
    r"""Return plain text as LaTeX that prints it, in one line; a number like 1.5e-05 becomes a power of ten.

    >>> print(escape_latex("50 % of f_1, 1.5e-05"))
    50 \% of f\_1, $1.5 \times 10^{-5}$
    """
    parts, at = [], 0
    text = one_line(text)
    for found in _POWER.finditer(text):
        parts += [_escape(text[at : found.start()]), rf"${found[1]} \times 10^{{{int(found[2])}}}$"]
        at = found.end()
    return "".join([*parts, _escape(text[at:])])


def booktabs(table: Table, comments: Sequence[str] = ()) -> str:
    r"""Return the table as a ``tabular``; it needs ``\usepackage{booktabs}``, which a first comment line says."""
    lines = [f"% {one_line(comment)}" for comment in ("needs \\usepackage{booktabs}", *comments)]
    rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in (table.head, *table.rows)]
    body = [rf"\begin{{tabular}}{{{table.align}}}", r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([*lines, *body, r"\end{tabular}"]) + "\n"


def _escape(text: str) -> str:
    return _ANY_SPECIAL.sub(lambda found: _SPECIAL[found[0]], _NEGATIVE.sub("\u2212", text))
