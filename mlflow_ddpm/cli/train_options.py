"""The options of ``mlflow-ddpm train``: its own, and one for each setting of the pipeline."""

import argparse
import shlex
from typing import Any

from mlflow_ddpm.cli.options import AUTO
from mlflow_ddpm.cli.parser import choice, given, typed
from mlflow_ddpm.ddpm.config.config import NO_OPTIONS, options

YES, NO = "yes", "no"  # mlflow run passes every parameter a value


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options, then those of the settings, group by group."""
    parser.add_argument(
        "--output-dir",
        type=given,
        default=AUTO,
        metavar="DIR",
        help="where metrics, samples and checkpoints are written; an unfinished run in the directory is continued "
        "(default: auto: runs/DATA, or runs/DATA-2, ... where that is taken)",
    )
    parser.add_argument(
        "--run-name", type=given, metavar="NAME", help="the run's name in MLflow (default: MLflow makes one up)"
    )
    parser.add_argument(
        "--experiment-name",
        type=given,
        metavar="NAME",
        help="the run's experiment, made if missing (default: MLflow's settings)",
    )
    parser.add_argument("--resume", action="store_true", help="add epochs to a run that had finished")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing and write nothing: print size, steps, memory and settings, and check data, disk, store, "
        "device and output directory",
    )
    parser.add_argument(
        "--download",
        nargs="?",
        const=YES,
        default=NO,
        metavar="URL",
        help="fetch EMNIST's gzip.zip, 0.56 GB, into --data-dir if the files are not there, from NIST or another URL "
        f"of the same file (default: {NO})",
    )
    parser.add_argument(
        "--register-model",
        type=_model_name,
        metavar="NAME",
        help="register the trained model under this name in MLflow's model registry",
    )
    parser.add_argument(
        "--options",
        action=_FurtherOptions,
        metavar="TEXT",
        help='further options in one text, for `mlflow run`: --options="--blocks 2 --compile yes" '
        f"(default: {NO_OPTIONS})",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options():
        group = groups.setdefault(option.group, parser.add_argument_group(option.group))
        group.add_argument(
            option.flag,
            type=choice(*option.choices) if option.choices else typed(option.type, option.noun),
            default=option.default,
            metavar=option.metavar,
            help=f"{option.help} (default: {option.default_text})".replace("%", "%%"),
        )


def _model_name(text: str) -> str:
    """Return a name that MLflow's registry takes: it would refuse another after hours of training."""
    if text.strip() and not set(text) & set("/:"):
        return text
    raise argparse.ArgumentTypeError(f"expected a name without / or :, got {text!r}")


class _FurtherOptions(argparse.Action):
    """Parses the text's options as if they stood in its place."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any = None
    ) -> None:
        """Set the attributes of the text's options."""
        try:
            words = [] if values == NO_OPTIONS else shlex.split(values)
        except ValueError:
            parser.error(f"--options: expected every quote to be closed, got {values!r}")
        parser.parse_args(words, namespace)
