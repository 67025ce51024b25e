"""A run's artifacts, listed with sizes and brought here.

What a server answers decides neither where files go nor how much disk and memory they take.
"""

import contextlib
import posixpath
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlflow_ddpm.core.errors import MirrorError, StoreUnavailableError
from mlflow_ddpm.storage.foreign_files import is_link_below
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER
from mlflow_ddpm.storage.mlflow_call import artifact_repository, translate_mlflow_errors
from mlflow_ddpm.storage.mlflow_requests import ANSWER_SEC, SLOWEST, in_time
from mlflow_ddpm.storage.mlflow_run import MlflowRun

_MAX_FILES = 20_000
_MAX_FOLDERS = 200
_THREADS = 4
_CHUNK = 2**20


class Artifact(NamedTuple):
    """One file among a run's artifacts."""

    path: str  # relative to the run's root, forward slashes
    size: int | None  # bytes; None if the store does not know

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class Artifacts:
    """The artifacts of one run, or of a logged model, which has a repository of its own.

    Links in a store on this machine are not followed, and files whose names begin with a dot are left out. Every method
    raises :class:`MirrorError` for more than a run of ours has, and for more than ``max_bytes`` to fetch; and
    :class:`StoreError` as :class:`mlflow_ddpm.storage.mlflow_run.MlflowRun` does.
    """

    def __init__(self, run: MlflowRun, *, max_bytes: int = 2**30, repository: Any = None) -> None:
        self._run, self._max_bytes = run, max_bytes
        with translate_mlflow_errors(run.tracking_uri):
            self._repository = repository or artifact_repository(run.tracking_uri, run.run_id)

    def find(self, folder: str, *, is_deep: bool = False) -> list[Artifact]:
        """Return the files in a folder; those in its folders too, if ``is_deep``."""
        folders, files = [folder], []
        for here in folders:  # grows meanwhile
            for path, entry in self._entries(here):
                if not entry.is_dir:
                    files.append(Artifact(path, None if entry.file_size is None else int(entry.file_size)))
                elif is_deep:
                    folders.append(path)
            if len(files) > _MAX_FILES or len(folders) > _MAX_FOLDERS:
                raise MirrorError(
                    f"run {self._run.run_id} lists more than {_MAX_FILES:,} artifacts or {_MAX_FOLDERS} folders; "
                    "no run of mlflow_ddpm has so much"
                )
        return files

    def _entries(self, folder: str) -> Iterator[tuple[str, Any]]:
        with translate_mlflow_errors(self._run.tracking_uri):
            entries = in_time(ANSWER_SEC, lambda: list(self._repository.list_artifacts(folder)))
        for entry in entries:
            path = PurePosixPath(entry.path)
            if ".." in path.parts or path.parent != PurePosixPath(folder):
                raise MirrorError(f"run {self._run.run_id} lists {entry.path!r} in {folder!r}, which is not in there")
            root = getattr(self._repository, "artifact_dir", None)  # of a store on this machine
            is_link = root is not None and is_link_below(Path(root), Path(root, path))
            if not path.name.startswith(".") and not is_link:
                yield str(path), entry

    def fetch(self, artifacts: Iterable[Artifact], into: Path) -> list[Path]:
        """Download files into an empty directory, below it as their paths say, and return their places in order."""
        wanted = list(artifacts)
        if sum(artifact.size or 0 for artifact in wanted) > self._max_bytes:
            raise MirrorError(
                f"the artifacts of run {self._run.run_id} have more than {self._max_bytes >> 30} GiB; fetch them with "
                f"`mlflow artifacts download --run-id {self._run.run_id} --artifact-path FOLDER`"
            )
        paths = [into / artifact.path for artifact in wanted]
        for folder in {path.parent for path in paths}:
            folder.mkdir(parents=True, exist_ok=True)
        if len(wanted) == 1:  # also when the interpreter exits, where no pool takes a task
            self._download(wanted[0], paths[0])
            return paths
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._download, wanted, paths))
        return paths

    def _download(self, artifact: Artifact, path: Path) -> None:
        with translate_mlflow_errors(self._run.tracking_uri):
            if hasattr(self._repository, "_host_creds"):  # MLflow's own server, which may send without end
                self._stream(artifact, path)
            else:
                download = self._repository._download_file  # noqa: SLF001 - the public one lists anew
                limit = ANSWER_SEC + (artifact.size or 0) / SLOWEST
                in_time(limit, lambda: download(artifact.path, str(path)))

    def _stream(self, artifact: Artifact, path: Path) -> None:
        from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

        most, left = artifact.size, self._max_bytes if artifact.size is None else artifact.size
        began = time.monotonic()
        credentials = self._repository._host_creds  # noqa: SLF001 - as its own download does
        with http_request(credentials, posixpath.join("/", artifact.path), "GET", stream=True) as response:
            augmented_raise_for_status(response)
            with path.open("wb") as file:
                for chunk in _chunks(response):
                    left -= len(chunk)
                    if time.monotonic() - began > ANSWER_SEC + path.stat().st_size / SLOWEST:
                        raise StoreUnavailableError(f"{artifact.path} comes too slowly from MLflow")
                    if left < 0:
                        raise MirrorError(f"{artifact.path} is larger than the {most} bytes that the store lists")
                    file.write(chunk)
        if most is not None and left > 0:
            raise StoreUnavailableError(f"{artifact.path} ended {left} bytes before the {most} that the store lists")


@contextlib.contextmanager
def fetched_file(run: MlflowRun, name: str) -> Iterator[Path | None]:
    """Give a temporary copy of one of a run's own files; None if the run has none of that name. Raises as Artifacts."""
    artifacts = Artifacts(run)
    with tempfile.TemporaryDirectory() as folder:
        listed = [file for file in artifacts.find(ARTIFACT_FOLDER) if file.name == name]
        yield next(iter(artifacts.fetch(listed, Path(folder))), None)


def _chunks(response: Any) -> Iterator[bytes]:
    """Yield what has come of a file, be it a byte; older versions of urllib3 wait for more."""
    read = getattr(response.raw, "read1", None)
    if read is None:
        yield from response.iter_content(_CHUNK)
    while read and (chunk := read(_CHUNK, decode_content=True)):
        yield chunk
