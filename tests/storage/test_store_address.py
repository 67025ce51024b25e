"""Which store a directory's run goes to, and that credentials go to no store that only the directory names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.store_address import absolute_uri, store_of, sync_command


def _state(tracking_uri: str, run_id: str | None = "r") -> DeliveryState:
    return DeliveryState(tracking_uri=tracking_uri, run_id=run_id)


def test_a_runs_store_need_not_be_named_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the credentials of MLflow's settings if they are for that store, which has none on disk."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:p@configured")

    assert store_of(_state("http://known")) == "http://known"
    assert store_of(_state("http://known"), "http://asked") == "http://asked"
    assert store_of(_state("http://***@configured")) == "http://u:p@configured"
    assert store_of(_state("http://***@known")) == "http://known"
    assert store_of(DeliveryState()) == "http://u:p@configured"


def test_a_run_that_never_reached_a_store_goes_to_the_one_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """But to the one that it was meant for where the settings name none."""
    assert store_of(_state("http://known", None)) == "http://known"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://configured")
    assert store_of(_state("http://known", None)) == "http://configured"


@pytest.mark.parametrize(
    "credential",
    ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"],
)
def test_credentials_go_to_no_store_that_only_the_directory_names(
    credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to another port or scheme of the same host, either; naming the store is enough."""
    monkeypatch.setenv(credential, "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mine:5000")

    for stranger in (
        "https://theirs:5000",
        "http://mine:5000",
        "https://mine:5001",
        "https://mine.theirs:5000",
        r"https://theirs\@mine:5000",
    ):
        with pytest.raises(UsageError, match=re.escape(f"pass --tracking-uri {stranger} ")):
            store_of(_state(stranger))
        assert store_of(_state(stranger), stranger) == stranger
    assert store_of(_state("https://mine:5000/prefix")) == "https://mine:5000/prefix"
    assert store_of(_state("sqlite:////tmp/x.db")) == "sqlite:////tmp/x.db"


def test_credentials_in_mlflows_own_file_count_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow sends what ~/.mlflow/credentials holds to every server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = u\nmlflow_tracking_password = p\n"
    )

    with pytest.raises(UsageError, match="credentials go to no store but one that you name"):
        store_of(_state("http://theirs"))


def test_credentials_in_netrc_count_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for a host, whatever its port, and for every host under "default"."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine theirs login u password p\n")
    (tmp_path / ".netrc").chmod(0o600)

    with pytest.raises(UsageError, match="credentials go to no store but one that you name"):
        store_of(_state("http://theirs:8080"))
    assert store_of(_state("http://others")) == "http://others"


def test_a_database_that_only_the_directory_names_is_not_opened() -> None:
    """Its driver takes passwords from variables and files of its own."""
    with pytest.raises(UsageError, match="credentials"):
        store_of(_state("postgresql://me@theirs/db"))


def test_the_sync_command_names_the_store_where_credentials_would_not_go_there_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that what a message advises works."""
    assert sync_command(Path("out"), "http://known") == "mlflow-ddpm sync out"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    assert sync_command(Path("out"), "http://known") == "mlflow-ddpm sync out --tracking-uri http://known"
    assert sync_command(Path("out"), "http://u:p@known") == "mlflow-ddpm sync out --tracking-uri URI"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://known")
    assert sync_command(Path("out"), "http://known") == "mlflow-ddpm sync out"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///a.db", "sqlite:///{here}/a.db"),
        ("sqlite:///a.db?timeout=5", "sqlite:///{here}/a.db?timeout=5"),
        ("sqlite:////x/a b.db", "sqlite:////x/a b.db"),
        ("sqlite:///~/a.db", "sqlite:///{home}/a.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("a.db", "sqlite:///{here}/a.db"),
        (Path("runs/a.SQLITE"), "sqlite:///{here}/runs/a.SQLITE"),
        (Path("my runs"), "file://{here}/my%20runs"),
        ("my runs", "file://{here}/my%20runs"),
        ("~/runs", "file://{home}/runs"),
        (Path("~/runs"), "file://{home}/runs"),
        ("file:runs", "file://{here}/runs"),
        ("file:///x/runs", "file:///x/runs"),
        (" http://host:5000 \n", "http://host:5000"),
        ("databricks", "databricks"),
        ("databricks-uc", "databricks-uc"),
        ("databricks://profile", "databricks://profile"),
        ("uc:http://host", "uc:http://host"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
    ],
)
def test_a_tracking_uri_is_absolute(given: str | Path, expected: str) -> None:
    """Whoever changes the directory later finds the same store."""
    assert absolute_uri(given) == expected.format(here=Path.cwd(), home=Path.home())


@pytest.mark.parametrize("uri", [" ", "http:/h:5000", "http//h", "http:h", "localhost:5000", "h.org:80/x", "C:\\runs"])
def test_an_address_that_would_pass_for_a_folder_is_refused(uri: str) -> None:
    """A folder of that name would be made, or MLflow would complain about its file store."""
    with pytest.raises(UsageError, match="is no tracking URI"):
        absolute_uri(uri)
