"""The README's two commands and its order; what it shares with the other pages is in test_docs.py."""

from __future__ import annotations

from support.common import ROOT
from support.doc_pages import blocks_of

README = ROOT / "README.md"


def test_the_two_commands_come_first_and_use_the_tested_versions() -> None:
    """CI takes them from here and runs them in a fresh clone."""
    run, test = (block.code for block in blocks_of(README, "bash"))

    assert run.strip().endswith("&& mlflow run . --env-manager=local")
    assert test.strip().endswith("&& pytest")
    assert all("pip install -q -c constraints.txt -e" in command for command in (run, test))


def test_the_recommended_loop_comes_before_the_specifications() -> None:
    """As the context manager that ends a run truthfully; then the shortest form, as the specification has it."""
    recommended, specified = (block.code for block in blocks_of(README, "python"))

    assert "with MetricsTracker(" in recommended
    assert "batch_size=" in recommended
    assert ".item()" not in recommended
    assert 'tracker = MetricsTracker(output_dir="./my_metrics")\n' in specified
    assert "tracker.log_batch(loss=loss.item(), lr=optimizer.param_groups[0]" in specified
    assert specified.rstrip().endswith('save_dir="./my_metrics", plot_paths=plot_paths)')


def test_no_line_is_left_to_be_filled_in() -> None:
    """Figures are measured, not promised."""
    assert "@@" not in README.read_text(encoding="utf-8")
