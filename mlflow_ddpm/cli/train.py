"""``mlflow-ddpm train``: train, track, publish."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_ddpm.cli.options import AUTO, Commands, command
from mlflow_ddpm.cli.train_options import NO, YES, add_training_options
from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import ConfigError, MlflowDdpmError, StoreUnavailableError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.ddpm.config.config import Config, from_options, name_flags, options, run_params

if TYPE_CHECKING:
    from mlflow_ddpm.ddpm.data.emnist_files import Archive
    from mlflow_ddpm.tracker import MetricsTracker

_STORE_WAIT_SEC = 10.0
_FIRST_USE_SEC = 60.0


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "train",
        "train a model, record every epoch, and publish plots and report at the end",
        "mlflow-ddpm train --data emnist-mnist --data-dir ~/emnist --epochs 8",
    )
    add_training_options(parser)
    parser.set_defaults(
        run=run,
        when_interrupted="; run the same command to continue from the last checkpoint",
        when_out_of_memory="; choose a smaller --batch-size or --base-channels: --dry-run estimates what they take",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command; an error that names a setting names its option."""
    try:
        _run(args)
    except ConfigError as error:
        raise ConfigError(name_flags(str(error))) from None


def _run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.ddpm.output_dir import choose_output_dir, is_same_finished_run, mark_published, plan_output_dir
    from mlflow_ddpm.storage.directory_lock import check_writable
    from mlflow_ddpm.tracking.sync import sync_directory

    asked = from_options({o.dest: getattr(args, o.dest) for o in options()})
    config = asked.resolve()
    directory = choose_output_dir(config) if args.output_dir == AUTO else Path(args.output_dir)
    first = ranks.rank() == 0
    if args.dry_run:
        if first:
            _plan(args, config, directory)
        return
    if first:  # before a download, and before a run is made
        plan_output_dir(directory, config, resume=args.resume)
        _check_store(args, directory)
        check_writable(directory)
    _fetch(config, _offer(args.download), loud=first)
    if not args.resume and is_same_finished_run(directory, config):
        if first:  # what a training that was killed while it ended had not delivered
            with contextlib.suppress(StoreUnavailableError):
                sync_directory(directory, tracking_uri=args.tracking_uri)
    else:
        _train(args, config, directory, run_params(asked, output_dir=args.output_dir), first=first)
    if first:
        from mlflow_ddpm.cli.run_overview import run_overview
        from mlflow_ddpm.publishing.publish import publish_or_render

        store = _store_of(directory, args.tracking_uri)
        print(run_overview(publish_or_render(directory, store), store))
        _log_model(config, directory, store, args.register_model)
        mark_published(directory)  # last: whatever a kill keeps from being made, the same command makes


def _plan(args: argparse.Namespace, config: Config, directory: Path) -> None:
    from mlflow_ddpm.ddpm.dry_run import plan_training

    plan = plan_training(
        config,
        directory,
        tracking_uri=args.tracking_uri,
        experiment_name=args.experiment_name,
        resume=args.resume,
        offer=_offer(args.download),
    )
    for subject, text in plan.facts:
        print(f"{subject:<9}{text}")
    for problem in plan.problems:
        print(f"problem: {name_flags(problem)}", file=sys.stderr)
    if plan.problems:
        raise MlflowDdpmError(f"the dry run found {count_of(len(plan.problems), 'problem')}; nothing was written")


def _check_store(args: argparse.Namespace, directory: Path) -> None:
    """Raise what the store would refuse a run for. A store that is away, or slow, does not delay the training."""
    from mlflow_ddpm.storage.mlflow_requests import in_time
    from mlflow_ddpm.storage.run_target import preflight_store

    uri = _store_of(directory, args.tracking_uri)
    with contextlib.suppress(StoreUnavailableError, TimeoutError):
        in_time(_STORE_WAIT_SEC, lambda: preflight_store(tracking_uri=uri, experiment_name=args.experiment_name))


def _offer(download: str) -> Archive | None:
    """Return what ``--download`` means, None if nothing is to be fetched."""
    from mlflow_ddpm.ddpm.data.emnist_files import EMNIST

    if download == NO:
        return None
    return EMNIST if download == YES else EMNIST._replace(url=download)


def _fetch(config: Config, archive: Archive | None, *, loud: bool) -> None:
    """Fetch the data set if it is not there; processes of one machine or disk take turns, and one of them fetches."""
    from mlflow_ddpm.cli.progress import download_on
    from mlflow_ddpm.ddpm.data.emnist_download import fetch_archive
    from mlflow_ddpm.ddpm.data.loading import is_missing

    if archive and is_missing(config.data):
        with download_on(sys.stderr) if loud else contextlib.nullcontext(min) as progress:  # min: shows nothing
            fetch_archive(Path(config.data.dir), archive, progress=progress)


def _train(args: argparse.Namespace, config: Config, directory: Path, params: dict[str, str], *, first: bool) -> None:
    from mlflow_ddpm.cli.progress import progress_on

    with progress_on(sys.stderr) if first else contextlib.nullcontext() as progress:
        from mlflow_ddpm.ddpm.train import train

        train(
            config,
            output_dir=directory,
            run_name=args.run_name,
            experiment_name=args.experiment_name,
            tracking_uri=args.tracking_uri,
            resume=args.resume,
            params=params,
            progress=progress,
            on_start=_print_start,
        )


def _print_start(tracker: MetricsTracker) -> None:
    """Print where the run is: its name, its directory, and its page in MLflow."""
    from mlflow_ddpm.cli.run_overview import Line, aligned, run_lines
    from mlflow_ddpm.storage.mlflow_requests import in_time

    run_id = _wait_for_run(tracker)
    lines: list[Line] = [("run", "not created yet; it is created, and gets all rows, as soon as MLflow answers")]
    if run_id:
        lines = [("run", run_id)]
        with contextlib.suppress(TimeoutError):
            lines = in_time(_STORE_WAIT_SEC, lambda: run_lines(run_id, tracker.tracking_uri))
    lines.insert(1, ("output", display_path(tracker.output_dir)))
    print(aligned(lines), flush=True)


def _wait_for_run(tracker: MetricsTracker) -> str | None:
    """Return the run's id, None if MLflow does not answer. A new database takes MLflow some seconds to make."""
    from mlflow_ddpm.storage.mlflow_call import is_first_use

    start = until = time.monotonic()
    while (run_id := tracker.run_id) is None:
        if is_first_use(tracker.tracking_uri or ""):
            until = min(time.monotonic() + _STORE_WAIT_SEC, start + _FIRST_USE_SEC)
        if time.monotonic() >= until:
            break
        time.sleep(0.1)
    return run_id


def _store_of(directory: Path, tracking_uri: str | None) -> str | None:
    """Return the store that the run went to, which a command that continues it need not name again."""
    from mlflow_ddpm.storage.delivery_state import DeliveryState
    from mlflow_ddpm.storage.store_address import store_of

    state = DeliveryState.load(directory)
    return store_of(state, tracking_uri) if state else tracking_uri


def _log_model(config: Config, directory: Path, tracking_uri: str | None, register_as: str | None) -> None:
    """Log an MLflow model as well; the run is complete, and a failure here must not make it look failed."""
    from mlflow_ddpm.ddpm.saved_model.mlflow_model import log_mlflow_model
    from mlflow_ddpm.storage.delivery_state import DeliveryState

    state = DeliveryState.load(directory)
    if state is None or state.run_id is None or not state.ended:
        return
    try:
        last = config.train.epochs - 1
        uri = log_mlflow_model(state.run_id, directory, epoch=last, tracking_uri=tracking_uri, register_as=register_as)
    except Exception as error:  # noqa: BLE001 - tracing has as many ways to fail as MLflow has stores
        text = " ".join(str(error).split())[:300]
        print(f"        no MLflow model was logged ({type(error).__name__}: {text})", file=sys.stderr)
    else:
        if uri:
            print(f"mlflow  {uri}; draw images with: mlflow-ddpm sample {uri}")
