"""Which tracking store the run of an output directory is sent to, and whether credentials may go there.

A directory is data: it may have been made by anyone. The store that it names gets the user's credentials only if the
user's own settings, or an argument, name that store as well.
"""

import os
from pathlib import Path

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.core.redaction import redact, without_credentials
from mlflow_ddpm.core.secret_formats import HIDDEN
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.mlflow_requests import server_of
from mlflow_ddpm.storage.run_target import absolute_uri, configured_store

_CREDENTIALS = (
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH"),
    *("MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH"),
)
_LOCAL = ("", "file", "sqlite", "databricks", "databricks-uc", "uc")  # no host, or one of the user's own profiles


def store_of(state: DeliveryState, tracking_uri: str | None = None) -> str:
    """Return the tracking URI for an output directory's run.

    It is the one asked for, else the one that has the run, else the one of MLflow's settings. A URI on disk has no
    credentials; those of MLflow's settings are taken if they are for the same store. Raises UsageError where only the
    directory names the store, and the user's credentials would go there.
    """
    import mlflow

    if tracking_uri:
        return absolute_uri(tracking_uri)
    known, configured = state.tracking_uri, configured_store()
    is_chosen = state.run_id is None and mlflow.is_tracking_uri_set()
    if not known or is_chosen or redact(configured) == known:
        return absolute_uri(configured)
    if server_of(known) != server_of(configured) and _sends_credentials(known):
        raise UsageError(
            f"only the output directory names the store {known}; credentials go to no store but one that you name: "
            f"pass --tracking-uri {_printable(known)} (tracking_uri=...), or set MLFLOW_TRACKING_URI"
        )
    return without_credentials(known) if HIDDEN in known else known


def sync_command(directory: Path, tracking_uri: str, *, is_lost: bool = False) -> str:
    """Return the command that sends a directory's run to a store later, as one would type it here.

    ``is_lost``: the store had the run, and makes it anew if it is named.
    """
    known = redact(tracking_uri)
    needs_name = is_lost or (redact(configured_store()) != known and _sends_credentials(known))
    return f"mlflow-ddpm sync {display_path(directory)}{f' --tracking-uri {_printable(known)}' if needs_name else ''}"


def _printable(uri: str) -> str:
    return "URI" if HIDDEN in uri else uri


def _sends_credentials(uri: str) -> bool:
    """Return whether a request to the store would bear credentials from the user's settings."""
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if scheme in _LOCAL:
        return False
    if scheme not in ("http", "https"):  # a database: its driver reads passwords from places of its own
        return True
    from mlflow.utils.credentials import read_mlflow_creds
    from requests.utils import get_netrc_auth

    creds = read_mlflow_creds()  # the environment, and ~/.mlflow/credentials
    known = any(os.environ.get(name) for name in _CREDENTIALS) or get_netrc_auth(uri)
    return bool(creds.username or creds.password or known)
