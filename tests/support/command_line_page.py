"""``docs/command-line.md``, made from ``--help``: ``python tests/support/command_line_page.py`` writes it.

The lists are made from the parser itself: the layout of ``--help`` depends on the terminal and on Python's version.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mlflow_ddpm.cli.main import build_parser

__all__ = ["PAGE", "command_line_page"]

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
_HEAD = """# Command line

<!-- Made from --help by `python tests/support/command_line_page.py`; a test compares the two. -->

`mlflow-ddpm` without arguments prints its commands, `mlflow-ddpm COMMAND --help` the options of one. A mistake is one
line on standard error, with exit status 2 for a mistake in the call and 1 for everything else; 130 after Ctrl+C.
Results go to standard output, progress and warnings to standard error. Colours and bars appear on a terminal only, and
no colours where `NO_COLOR` is set. Epochs are counted as the loop counts them, from 0: `epoch 3 (4 of 20)`.
`python -m mlflow_ddpm` is the same program.
"""


def command_line_page() -> str:
    """Return the page in Markdown."""
    (commands,) = (action for action in build_parser()._actions if action.nargs == argparse.PARSER)
    parsers: dict[str, argparse.ArgumentParser] = dict(commands.choices or {})
    common = _items(parsers["train"], but=())[:1]  # --tracking-uri
    head = _HEAD.strip() + "\n\nAll commands that ask a tracking store take:\n\n" + common[0]
    return "\n\n".join([head, *(_section(name, parser, common) for name, parser in parsers.items())]) + "\n"


def _section(name: str, parser: argparse.ArgumentParser, common: Sequence[str]) -> str:
    example = f"{parser.epilog}".removeprefix("example: ")
    about = f"{parser.description} Usage: `{parser.usage}`; example: `{example}`"
    return "\n".join([f"## {name}", "", about, "", *_items(parser, but=common)])


def _items(parser: argparse.ArgumentParser, but: Sequence[str]) -> list[str]:
    actions = [action for group in parser._action_groups for action in group._group_actions if action.dest != "help"]
    return [item for action in actions if (item := f"- {_name(action)}: {_help(parser, action)}") not in but]


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar}`"
    value = "" if action.nargs == 0 else f" [{action.metavar}]" if action.nargs == "?" else f" {action.metavar}"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action).replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(command_line_page(), encoding="utf-8")
    print(f"{PAGE.name} has {len(command_line_page().splitlines())} lines")
