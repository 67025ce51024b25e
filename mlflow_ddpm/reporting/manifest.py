"""What lies in a run's output directory: the specification's tree, pictures and samples, with size and checksum.

The only part of the report that looks at the disk; it reads files and changes none.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.storage.foreign_files import is_link_below
from mlflow_ddpm.storage.layout import CSV_NAME, HTML_NAME, JSON_NAME, REPORT_NAME, SAMPLES_FOLDER

_DATA = {
    CSV_NAME: "One row per epoch or window of steps, every metric at full precision",
    JSON_NAME: "The whole run: config, environment, summary and rows",
    REPORT_NAME: "The report in Markdown, a HuggingFace model card",
    HTML_NAME: "The report as one page with its pictures inside, for a browser, MLflow's artifact viewer and mail",
}
# The JSON changes during the run; a report cannot hold its own checksum, nor two each other's.
_CHANGING = {JSON_NAME, REPORT_NAME, HTML_NAME}


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """One file as the manifest names it; ``size`` and ``sha256`` are None if it is absent or still changes."""

    link: str  # relative to the report, forward slashes
    about: str
    size: int | None = None
    sha256: str | None = None


def find_plot_files(names: Iterable[str], save_dir: Path, plot_paths: Mapping[str, Path] | None) -> dict[str, Path]:
    """Return the plots to embed, those given or in ``save_dir``; raise UsageError for an unknown or missing one."""
    names = list(names)
    if plot_paths is None:
        drawn = {name: save_dir / f"{name}.png" for name in names}
        return {name: path for name, path in drawn.items() if _is_own_file(path, save_dir)}
    unknown = sorted(set(plot_paths) - set(names))
    if unknown:
        raise UsageError(f"plot_paths names {unknown[0]!r}, which is no plot; the plots are {', '.join(names)}")
    chosen = {name: Path(plot_paths[name]) for name in names if name in plot_paths}
    for name, path in chosen.items():
        if not path.is_file():
            raise UsageError(f"plot_paths[{name!r}] is {str(path)!r}, which does not exist; draw the plots first")
    return chosen


def sample_files(save_dir: Path) -> list[OutputFile]:
    """Return the sample grids in ``save_dir/samples``, in the order of the numbers in their names."""
    paths = [path for path in (save_dir / SAMPLES_FOLDER).glob("*.png") if _is_own_file(path, save_dir)]
    paths.sort(key=lambda path: _natural(path.name))
    return [_describe(path, "Generated samples", save_dir) for path in paths]


def output_files(save_dir: Path, titles: Mapping[str, str], plots: Mapping[str, Path]) -> list[OutputFile]:
    """Return the specification's files, present or not, for the manifest.

    ``titles`` holds the title of every plot by name; ``plots`` the pictures that the report embeds.
    """
    plot_files = [(plots.get(name, save_dir / f"{name}.png"), f"Plot: {title}") for name, title in titles.items()]
    data_files = [(save_dir / name, about) for name, about in _DATA.items()]
    return [_describe(path, about, save_dir) for path, about in [*data_files, *plot_files]]


def relative_link(path: Path, save_dir: Path) -> str:
    """Return the path as a link from a report in ``save_dir``."""
    return Path(os.path.relpath(path, save_dir)).as_posix()


def _describe(path: Path, about: str, save_dir: Path) -> OutputFile:
    link = relative_link(path, save_dir)
    if link in _CHANGING or not path.is_file() or (path.is_relative_to(save_dir) and is_link_below(save_dir, path)):
        return OutputFile(link=link, about=about)
    content = path.read_bytes()
    return OutputFile(link=link, about=about, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _is_own_file(path: Path, save_dir: Path) -> bool:
    """Return whether a path is a plain file of the directory, and no link: that may lead to any private file."""
    return path.is_file() and not is_link_below(save_dir, path)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key under which epoch_9 comes before epoch_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
