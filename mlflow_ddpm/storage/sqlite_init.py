"""One process at a time through the first use of a sqlite store.

MLflow creates and migrates the tables at first use without a lock: two processes at once on a new file crash, and can
leave it unusable for good (measured; hydraflow issue 245).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["exclusive_migration"]

_WAIT_SEC = 120  # ten processes at 3-5 s each, on a busy disk


@contextlib.contextmanager
def exclusive_migration(tracking_uri: str) -> Iterator[None]:
    """Hold a lock while the body runs, if the URI is a sqlite file's; other stores need none.

    The lock is a file in the system's temporary directory, so that none lies beside the user's database.

    Raises:
        OSError: the lock could not be had within two minutes.
    """
    if not tracking_uri.startswith("sqlite:"):
        yield
        return
    from filelock import FileLock

    key = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else 0
    lock = FileLock(Path(tempfile.gettempdir()) / f"mlflow_ddpm-{user}-{key}.lock", timeout=_WAIT_SEC)
    with lock:
        yield
