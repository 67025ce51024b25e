"""LaTeX that prints what it was given."""

from __future__ import annotations

import pytest

from mlflow_ddpm.core.markdown import Table
from mlflow_ddpm.reporting.paper_tables import booktabs, escape_latex


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 % of {a_b} & $c #1", r"50 \% of \{a\_b\} \& \$c \#1"),
        ("C:\\~user^2", r"C:\textbackslash{}\textasciitilde{}user\textasciicircum{}2"),
        ('<b>"quoted"</b>|', r"\textless{}b\textgreater{}''quoted''\textless{}/b\textgreater{}\textbar{}"),
        ("1.5e-05 to -2E3, 1e+10, x1e5", r"$1.5 \times 10^{-5}$ to $-$2E3, $1 \times 10^{10}$, x1e5"),
        ("-0.5, 2-3, a-b \N{EN DASH}", "$-$0.5, 2-3, a-b --"),
        ("a\nb\\end{tabular}\x00", r"a b\textbackslash{}end\{tabular\}"),
    ],
)
def test_no_character_of_a_text_is_a_command(text: str, latex: str) -> None:
    """Names come from anywhere; numbers are set as numbers."""
    assert latex == escape_latex(text)


def test_a_table_is_a_tabular_in_the_style_of_booktabs() -> None:
    """Without a float, so that the paper decides; what it needs is said in a comment of one line."""
    text = booktabs(Table(("A", "B"), [("x_1", "2"), ("y", "")], "lr"))

    assert text.splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"A & B \\",
        r"\midrule",
        r"x\_1 & 2 \\",
        r"y &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
