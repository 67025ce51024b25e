"""``docs/command-line.md`` and ``--help`` are one."""

from __future__ import annotations

from support.command_line_page import PAGE, command_line_page


def test_the_page_is_made_from_help() -> None:
    """After a change of an option, ``python tests/support/command_line_page.py`` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == command_line_page()


def test_the_page_is_under_150_lines() -> None:
    """A page that people read."""
    assert len(command_line_page().splitlines()) < 150
