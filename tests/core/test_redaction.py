"""What looks like a credential is hidden; what merely sounds like one is kept."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.common import slow
from support.credential_examples import (
    ORDINARY_CONFIGS,
    ORDINARY_NAMES,
    ORDINARY_TEXTS,
    SECRET_CONFIGS,
    SECRET_NAMES,
    SECRET_TEXTS,
)

from mlflow_ddpm.core.redaction import redact, redacted, without_credentials
from mlflow_ddpm.core.secret_formats import HIDDEN
from mlflow_ddpm.core.strict_json import plain
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.tracking.run_metadata import describe_environment

LONG_PARTS = [
    *(
        "password_",
        "token='",
        "x://",
        "x://a:b@",
        "sk-ab-",
        "glab-",
        "eyJ-",
        "'",
        "--",
        "a:",
        "a.b:c@d.e ",
        "A_B ",
        "hook/",
        '{"a":',
        "zip -P ",
        "a:b@t(",
        "ab-c1.",
        "secrets:\n ",
        "=a%3D",
        'Authorization: Basic a="',
        "with the token ",
        "https://a.hooks.",
    ),
]


def _unmarked(value: Any, replacement: str = r"\1") -> Any:
    """Return a value with every text between marks replaced, by default by itself."""
    if isinstance(value, dict):
        return {key: _unmarked(item, replacement) for key, item in value.items()}
    if isinstance(value, list):
        return [_unmarked(item, replacement) for item in value]
    return re.sub("«(.*?)»", replacement, value) if isinstance(value, str) else value


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_value_under_a_secrets_name_is_hidden(name: str) -> None:
    """However the name is written."""
    found = redacted({"deep": {name: "hunter2 9xyz7"}})

    assert found.value == {"deep": {name: HIDDEN}}
    assert found.names == (f"deep.{name}",)


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_an_ordinary_hyperparameter_keeps_its_value(name: str) -> None:
    """Text, number, switch or list: a tool that hides what it should show is switched off."""
    values = ["cosine", 7, 0.5, True, None, [1, 2], "<pad>", "id-of-column", "val/loss", "resnet-50"]
    config = {str(i): {name: value} for i, value in enumerate(values)}

    assert redacted(config) == (config, (), ())


@pytest.mark.parametrize("marked", SECRET_TEXTS)
def test_a_credential_in_a_text_is_hidden_under_any_name(marked: str) -> None:
    """In a config, in an error message, and within a longer text; nothing is left to hide a second time."""
    marked = marked.replace("\\n", "\n")
    text, secrets = _unmarked(marked), re.findall("«(.*?)»", marked)
    for wrapped in (text, f"cannot use {text} here", f'("{text}")'):
        clean = redact(wrapped)

        assert [secret for secret in secrets if secret in clean] == []
        assert HIDDEN in clean
        assert clean == redact(clean)
    assert redacted({"note": text}).names == ("note",)


@pytest.mark.parametrize("text", ORDINARY_TEXTS)
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    """Addresses, names, checksums, sentences, source code; alone and within a longer text."""
    for wrapped in (text, f"see {text} there", f"x, {text}"):
        assert redact(wrapped) == wrapped


@pytest.mark.parametrize("config", SECRET_CONFIGS, ids=str)
def test_a_credential_in_a_structure_is_hidden_and_nothing_else(config: dict[str, Any]) -> None:
    """Lists, headers, pairs of name and value, command lines, and what stands below a secret's name."""
    assert redacted(_unmarked(config)).value == _unmarked(config, HIDDEN)


@pytest.mark.parametrize("config", ORDINARY_CONFIGS, ids=str)
def test_an_ordinary_structure_stays_as_it_is(config: dict[str, Any]) -> None:
    """The value decides where the name alone does not."""
    assert redacted(config) == (config, (), ())


def test_the_pipelines_own_settings_hide_nothing() -> None:
    """Nor does what a run says of its machine."""
    told = {"config": Config().as_dict(), "environment": describe_environment()}

    assert redacted(told) == (plain(told), (), ())


@pytest.mark.parametrize("part", [*LONG_PARTS[:4], *map(slow, LONG_PARTS[4:])])
def test_a_long_text_is_read_in_one_go(part: str) -> None:
    """A pattern that goes back and forth would take minutes here."""
    assert redact(part * 20_000).count("=") <= 20_000


def test_everything_below_a_secrets_name_goes_but_switches_and_references() -> None:
    """Texts and PINs are hidden; counts, True, None, the empty text, paths and ${NAME} are not."""
    kept = {"c": None, "d": True, "e": "", "f": "${HF_TOKEN}", "g": "/run/secrets/x", "n": 3}

    assert redacted({"secrets": {"a": "x", "b": [123456, "y"], **kept}}).value == {
        "secrets": {"a": HIDDEN, "b": [HIDDEN, HIDDEN], **kept}
    }


def test_a_value_of_the_environments_secrets_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the name and the format; a short or plain word is not, it would be found everywhere."""
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "blue42horse")
    monkeypatch.setenv("PGPASSWORD", "correcthorsebattery")
    monkeypatch.setenv("OTHER_TOKEN", "digits")
    monkeypatch.setenv("THIRD_TOKEN", "/home/me/token.txt")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-long1")

    assert redact("no entry for blue42horse") == "no entry for ***"
    assert redact("psql correcthorsebattery") == "psql ***"
    for text in ("digits false-and-long1", "/home/me/token.txt", "/data/blue42horse/x", "blue42horses"):
        assert redact(text) == text


def test_a_known_secret_is_found_in_other_texts() -> None:
    """What was hidden in the config is searched for in the rest of it, in tags and in error messages."""
    config = {"command": "login correct-horse", "password": "correct-horse", "secret": "letmein", "mode": "letmein"}
    value, names, known = redacted(config)

    assert value == {"command": "login ***", "password": "***", "secret": "***", "mode": "letmein"}
    assert set(names) == {"command", "password", "secret"}
    assert redact("login failed for correct-horse", known) == "login failed for ***"


def test_a_known_secret_is_not_cut_out_of_paths_and_longer_words() -> None:
    """One that may be a name means itself there; one that looks generated is hidden everywhere."""
    config = {"password": "digits-2024", "data": "/data/digits-2024/train", "name": "digits-2024-small"}
    key = "aB3dE5fG7hI9jK1lM3"

    assert redacted(config).value == {**config, "password": HIDDEN}
    assert redacted({"api_key": key, "at": f"/x/{key}/y"}).value == {"api_key": HIDDEN, "at": "/x/***/y"}


def test_what_merely_looks_random_is_not_searched_for_elsewhere() -> None:
    """It is hidden where a name, an address or its form allows the guess, and nowhere else."""
    value = "aB3dE5fG7hI9jK1lM3nO5pQ7rS"

    assert redacted({"weather_key": value, "run": value}).value == {"weather_key": HIDDEN, "run": value}
    for text in (
        f"weather_key: {value}",
        f"--weather-key {value}",
        f"the weather key is {value}",
        f"https://h/hook/{value}",
        f"https://h/x?weather_key={value}",
        f"login {value}",
        f"name,token\nx,{value}",
    ):
        found = redacted({"note": text, "run": value, "data": f"/data/{value}/x"}).value

        assert found == {"note": text.replace(value, HIDDEN), "run": value, "data": f"/data/{value}/x"}


def test_a_redacted_uri_can_still_be_used() -> None:
    """MLflow and database drivers take credentials from their own variables."""
    assert without_credentials(redact("http://u:p@host:5000/x")) == "http://host:5000/x"
    assert without_credentials(redact("postgresql://h/d?a=1&password=p&b=2")) == "postgresql://h/d?a=1&b=2"
    assert without_credentials(redact("postgresql://h/d?password=p")) == "postgresql://h/d"


def test_no_log_line_of_the_package_holds_a_credential(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever words it, wherever it came from."""
    logging.getLogger("mlflow_ddpm").warning("cannot reach %s", "http://me:pa55word@host/")

    assert caplog.messages == ["cannot reach http://***@host/"]


@settings(max_examples=15, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_redacting_twice_is_redacting_once(value: object) -> None:
    """A run that is resumed, synced and published goes through it many times."""
    once = redacted({"config": value}).value

    assert redacted(once).value == once
