"""The documentation's tables that follow from the code; ``python tests/support/doc_tables.py`` writes them."""

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
    for (page, heading), rows in TABLES.items():
        if page == name:
            before, title, after = text.partition(f"## {heading}\n")
            above, rule, below = re.split(r"(^\|---[|-]*\n)", after, maxsplit=1, flags=re.MULTILINE)
            rest = below[below.index("\n\n") + 1 :] if "\n\n" in below else ""
            text = before + title + above + rule + "".join(f"{row}\n" for row in rows) + rest
    return text


def main(docs: Path) -> None:
    """Write the tables of all pages."""
    for name in sorted({page for page, _ in TABLES}):
        text = (docs / name).read_text(encoding="utf-8")
        (docs / name).write_text(with_tables(name, text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
