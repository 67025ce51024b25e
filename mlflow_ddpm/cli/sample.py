"""``mlflow-ddpm sample``: images of chosen classes from a finished training."""

import argparse
import os
from pathlib import Path

from mlflow_ddpm.cli.options import Commands, command
from mlflow_ddpm.cli.parser import choice, given, number, typed
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import count_of, display_path

_ALL = "all"


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "sample",
        "draw images of chosen classes with a run's model, as one PNG with a row for each class",
        "mlflow-ddpm sample runs/digits --classes 3,1,4 --per-class 10 -o grid.png",
        arguments="SOURCE",
    )
    parser.add_argument(
        "source",
        type=given,
        metavar="SOURCE",
        help="an output directory, a folder with the model's two files, a run id, runs:/ID, or models:/NAME/1",
    )
    parser.add_argument(
        "--classes", default=_ALL, metavar="A,B", help="names of classes, in the order of the rows (default: all)"
    )
    parser.add_argument(
        "--per-class", type=number(1, int), default=10, metavar="N", help="images of each class (default: %(default)s)"
    )
    parser.add_argument(
        "--guidance",
        type=number(0),
        metavar="SCALE",
        help="classifier-free guidance; 1: plain sampling, 2: clearer classes, less variety (default: the run's)",
    )
    parser.add_argument(
        "--steps", type=number(1, int), metavar="N", help="denoising steps per image (default: the run's)"
    )
    parser.add_argument(
        "--seed",
        type=typed(int, "a whole number"),
        default=0,
        metavar="N",
        help="same seed, same picture (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        type=choice("auto", "cpu", "cuda"),
        metavar="{auto,cpu,cuda}",
        default="auto",
        help="where to draw (default: auto: CUDA where there is one)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("grid.png"), metavar="FILE", help="the PNG (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    _check_output(args.output)
    from mlflow_ddpm.ddpm.sampling import draw_grid
    from mlflow_ddpm.ddpm.saved_model.load import load_model
    from mlflow_ddpm.ddpm.training.distributed import processes
    from mlflow_ddpm.storage.images import encode_png

    with processes(args.device) as procs:
        model = load_model(args.source, tracking_uri=args.tracking_uri, device=procs.device)
        names = model.class_names if args.classes == _ALL else [name.strip() for name in args.classes.split(",")]
        images = model.sample(
            names, per_class=args.per_class, guidance_scale=args.guidance, steps=args.steps, seed=args.seed
        )
    grid = draw_grid(images.reshape(len(names), args.per_class, *images.shape[1:]), names)
    try:
        replace_file(args.output, encode_png(grid))
    except OSError as error:
        raise UsageError(f"--output {args.output} cannot be written: {error.strerror}") from error
    drawn = f"{len(images)} images of {count_of(len(names), 'class', 'classes')}"
    print(f"{display_path(args.output)}: {drawn}, {grid.shape[1]} x {grid.shape[0]} pixels")


def _check_output(path: Path) -> None:
    """Find out before minutes of drawing whether the picture has a place."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--output must be a name that ends in .png, got {path}")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--output must be a file in a directory that exists and can be written to, got {path}")
