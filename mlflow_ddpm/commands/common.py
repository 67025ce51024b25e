"""What every command's parser has: a description, an example, and the tracking store."""

from __future__ import annotations

import argparse
from typing import TypeAlias

__all__ = ["AUTO", "Commands", "command"]

AUTO = "auto"  # the default of an option that the command works out for itself

# argparse has no public name for it, and it takes its parameter from type checkers alone.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def command(
    commands: Commands,
    name: str,
    says: str,
    example: str,
    store: str | None = "MLflow's settings: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here",
) -> argparse.ArgumentParser:
    """Add a command; ``store`` says where ``--tracking-uri`` points by default, None leaves that option out."""
    parser = commands.add_parser(
        name,
        help=says,
        description=says[0].upper() + says[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if store is not None:
        parser.add_argument("--tracking-uri", metavar="URI", help=f"tracking store (default: {store})")
    return parser
