"""The address of a tracking store: made absolute, found for an output directory, and whether credentials may go there.

A directory is data: it may have been made by anyone. The store that it names gets the user's credentials only if the
user's own settings, or an argument, name that store as well.
"""

import os
import re
from pathlib import Path

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.core.redaction import redact, without_credentials
from mlflow_ddpm.core.secret_formats import HIDDEN
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.mlflow_requests import server_of

_CREDENTIALS = (
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH"),
    *("MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH"),
)
_LOCAL = ("", "file", "sqlite", "databricks", "databricks-uc", "uc")  # no host, or one of the user's own profiles
_DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_NO_URI = re.compile(r"$|https?(:/?|//+)[^/]|[\w.-]+:\d+(/|$)")  # blank, a slash too few, a server without its scheme


def is_same_store(one: str, other: str) -> bool:
    """Return whether two absolute URIs are one store's; credentials and a last slash make no difference."""
    plain = [re.sub(r"(?<=://)[^/@]*@", "", uri).rstrip("/") for uri in (one, other)]
    return plain[0] == plain[1]


def configured_store() -> str:
    """Return the absolute URI of MLflow's settings; text that is no URI comes back as it is."""
    import mlflow

    configured: str = mlflow.get_tracking_uri()
    try:
        return absolute_uri(configured)
    except UsageError:
        return configured


def absolute_uri(uri: str | Path) -> str:
    """Return a tracking URI with relative paths and ``~`` resolved now, before anyone changes the directory.

    A path is that of a database file (.db, .sqlite, .sqlite3), or of a folder for MLflow's file store. Raises
    UsageError for neither a string nor a path, and for a URI that was made into a path.
    """
    if not isinstance(uri, str | os.PathLike):
        raise UsageError(f"tracking_uri must be a string or a path, got {type(uri).__name__}")
    text = os.fspath(uri)
    if not isinstance(text, str):
        raise UsageError(f"tracking_uri must be a string or a path, got {type(text).__name__}")
    text = text.strip()
    if isinstance(uri, Path) and re.match(r"[a-z][a-z0-9+-]+:/", text):
        raise UsageError(f"tracking_uri is a URI that was made into a path, {text!r}; pass the URI as a string")
    if _NO_URI.match(text) or (os.name != "nt" and re.match(r"[A-Za-z]:[\\/]", text)):
        raise UsageError(f"{text!r} is no tracking URI; use http(s)://HOST:PORT, sqlite:///FILE, or a folder")
    if text.startswith("sqlite:///"):
        is_memory = ":memory:" in text or text == "sqlite:///"
        start = "sqlite:///file:" if text.startswith("sqlite:///file:") else "sqlite:///"  # with options
        return text if is_memory else f"{start}{_resolved(text.removeprefix(start))}"
    if text.startswith("file:") and not text.startswith("file://"):
        return text if text.startswith("file:/") else _resolved(text.removeprefix("file:")).as_uri()
    if "://" in text or re.match(r"(databricks|databricks-uc|uc)(:|$)", text):
        return text
    path = _resolved(text)
    if path.suffix.lower() in _DATABASE_SUFFIXES and not path.is_dir():
        return f"sqlite:///{path}"
    return path.as_uri()


def _resolved(text: str) -> Path:
    return Path(text).expanduser().resolve()


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
