"""The tables of the documentation that follow from the code; ``python tests/support/doc_tables.py`` writes them anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mlflow_ddpm.analysis.findings.rules import RULES
from mlflow_ddpm.core.extra_metrics import PIPELINE_METRICS
from mlflow_ddpm.core.metrics import METRICS

__all__ = ["DOCS", "TABLES", "with_tables"]

DOCS = Path(__file__).parents[2] / "docs"
# By page and heading of the section that has the table: its lines below the head.
TABLES = {
    ("metrics.md", "The table"): [f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in METRICS],
    ("metrics.md", "What the included model adds"): [
        f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in PIPELINE_METRICS
    ],
    ("findings.md", "The rules"): [f"| `{r.name}` | {r.severity.capitalize()} | {r.threshold} |" for r in RULES],
}


def with_tables(name: str, text: str) -> str:
    """Return a page's text with its tables as the code has them."""
    for (page, heading), lines in TABLES.items():
        if page == name:
            table = re.compile(rf"(^## {re.escape(heading)}\n(?:[^|\n][^\n]*\n|\n|\|(?!---)[^\n]*\n)*\|---[^\n]*\n)(?:\|[^\n]*\n)*", re.MULTILINE)
            text = table.sub(lambda match, rows=lines: match[1] + "".join(f"{row}\n" for row in rows), text, count=1)
    return text


def main(docs: Path) -> None:
    """Write the tables of all pages."""
    for name in sorted({page for page, _ in TABLES}):
        text = (docs / name).read_text(encoding="utf-8")
        (docs / name).write_text(with_tables(name, text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
