"""Execute the notebooks from top to bottom; as a script, keep their outputs: ``python tests/support/notebooks.py``.

Each runs in an empty directory, in a kernel of this interpreter, with none of the user's settings of Jupyter, IPython
and MLflow, and with no way to any other machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["NOTEBOOKS", "execute", "main"]

ROOT = Path(__file__).parents[2]
NOTEBOOKS = tuple(sorted((ROOT / "notebooks").glob("*.ipynb")))
_TIMEOUT_SEC = 300
_DEAD_PROXY = "http://127.0.0.1:9"  # whatever would go out ends here


def execute(path: Path, place: Path) -> Any:
    """Return the notebook with the outputs of this run, made in ``place``, an empty directory.

    Raises:
        CellExecutionError: a cell raised.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with _alone(place):
        client = NotebookClient(
            notebook, timeout=_TIMEOUT_SEC, kernel_name="python3", resources={"metadata": {"path": str(place)}}
        )
        manager = client.create_kernel_manager()
        # Sockets in a folder of its own: others could take or listen at a port.
        manager.transport, manager.ip = "ipc", str(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "kernel")
        client.execute()
    return _without_traces(notebook)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Give kernels started within an environment of their own."""
    before = dict(os.environ)
    for name in [n for n in before if n.startswith(("MLFLOW_", "JUPYTER", "IPYTHON"))]:
        del os.environ[name]
    hidden = tempfile.TemporaryDirectory(prefix="notebook-")
    folders = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    os.environ |= dict.fromkeys(folders, hidden.name)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm, where Jupyter's widgets are not installed
    os.environ |= {"http_proxy": _DEAD_PROXY, "https_proxy": _DEAD_PROXY, "no_proxy": ""}
    try:
        with hidden:
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _without_traces(notebook: Any) -> Any:
    """Take out what says when and by which Python it was run, and the second form of a picture."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data.pop("image/jpeg", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> int:
    """Run all notebooks and write them back with their outputs."""
    import nbformat

    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as place:
            nbformat.write(execute(path, Path(place)), path)  # type: ignore[no-untyped-call]
    return 0


if __name__ == "__main__":
    sys.exit(main())
