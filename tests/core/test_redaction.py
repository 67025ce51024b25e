"""What looks like a credential is told from what merely sounds like one."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_ddpm.core.redaction import HIDDEN, redact, redacted, without_credentials
from mlflow_ddpm.core.strict_json import plain
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.tracking.environment import describe_environment


def _words(text: str) -> list[str]:
    return text.split()


SECRET_NAMES = _words("""
    hf_token token TOKEN HF_TOKEN hub_token api_key apiKey openai_api_key OPENAI_API_KEY password db_password dbPassword
    passwd pwd secret client_secret secret_key aws_secret_access_key AWS_ACCESS_KEY_ID access_token refreshToken
    auth_token github.token wandb.api_key wandb_key ssh_key private_key signing_key credentials user_password token_2
    db_pass authorization cookie session_token storage_account_key mlflow_tracking_password apikey hfToken
    neptune_api_token WANDB_API_KEY personal_access_token password_hash encryption_key sas_token slack_bot_token
    api_key_prod
""")
ORDINARY_NAMES = _words("""
    max_tokens token_dim tokenizer keypoints num_keys key_dim password_free num_tokens n_tokens tokens_per_sec pad_token
    eos_token bos_token_id token_id tokens cls_token class_token mask_token key keys query_key_dim key_padding_mask
    keyframe monkey hockey keyword secretary_problem token_dropout tokenizer_name token_length prng_key rng_key sort_key
    image_key label_key monitor_key author authors auth_required passes forward_pass n_passes pass bypass compass
    passthrough pin_memory access accessible session user username secret_name token_file credentials_dir
    password_length use_auth key_head_dim num_key_value_heads kv_heads token_mixer special_tokens stop_tokens
    max_new_tokens lr optim.lr data.name sha256 git_commit run_key patch_tokens num_register_tokens attention_keys
    tokens_seen vision_token_count user_tokens hash license private public_data unk_token sep_token image_token
    text_token extra_tokens token_embedding token_type_ids time_token null_token
""")
# Made up, in the form of the real thing; what must be gone from each.
SECRET_TEXTS = {
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh": "hf_A",
    "ghp_" + "a1B2" * 9: "a1B2",
    "github_pat_11ABCDEFG0123456789_abc": "11ABC",
    "glpat-abcdefgh1234567890": "abcdefgh",
    "AKIAIOSFODNN7EXAMPLE": "AKIA",
    "sk-proj-abcDEF1234567890abcdef": "abcDEF",
    "sk-abcdefghij0123456789": "abcdef",
    "xoxb-1234567890-abc": "12345",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_def-123": "abc_def",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----": "MIIE",
    "-----BEGIN PRIVATE KEY-----\\nMIIEow": "MIIE",
    "postgresql://user:pa55word@host/db": "pa55word",
    "postgresql://user:pa55/w@rd@host/db": "pa55",
    "https://t0ken@host/x": "t0ken",
    "https://store.example/y?sv=1&sig=aBc%2B&se=2": "aBc",
    "https://s3.example/?X-Amz-Signature=abcdef&X-Amz-Credential=ABC%2F1": "abcdef",
    "host=db password=pa55word user=me": "pa55word",
    "DefaultEndpointsProtocol=https;AccountKey=abcd==;x=y": "abcd",
    "run --hf-token abc123 --epochs 3": "abc123",
    "run --api-key=abc123": "abc123",
    "{'password': 'a b c'}": "a b c",
    '{"token": "abc123"}': "abc123",
    "Authorization: Bearer abc123def456": "abc123",
    "Authorization: Basic dXNlcjpwYXNz": "dXNl",
}
ORDINARY_TEXTS = [
    *("https://github.com/a/b", "http://127.0.0.1:5000/a@b", "https://h/@user/x", "ssh://git@github.com/a/b"),
    *("git@github.com:a/b", "sk-learn-digits-classifier-version-2", "max_tokens=5", "tokens=512", "tokenizer=bpe"),
    *("token_dim=3", "expected a token: got '<'", "Basic Understanding", "hf_internal_testing_model", "eyJ", "a@b.c"),
    *("hf_dataset_emnist", "0123456789abcdef0123456789abcdef01234567", "sha256:" + "ab" * 32, "num_keys=3", "lr=0.1"),
    *("glimpse-attention-model-large", "--max-tokens 512", "bearer of bad news", "sqlite:////tmp/a@b/c.db"),
    *("file:///home/me@work/x", "s3://bucket/a@b", "pad_token='<pad>'", "see https://a.b/c and mail me@x.y", "***"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_value_under_a_telling_name_is_hidden(name: str) -> None:
    """However the name is written, and however harmless the value looks."""
    found = redacted({"deep": {name: "hunter two"}})

    assert found.value == {"deep": {name: HIDDEN}}
    assert found.names == (f"deep.{name}",)


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_an_ordinary_hyperparameter_keeps_its_value(name: str) -> None:
    """Text, number, switch or list: a tool that hides what it should show is switched off."""
    config = {str(i): {name: value} for i, value in enumerate(["cosine", 7, 0.5, True, None, [1, 2], "<pad>"])}

    assert redacted(config) == (config, (), ())


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_a_text_of_telling_shape_is_hidden_under_any_name(text: str) -> None:
    """In a config, in an error message, and within a longer text; nothing is left to hide a second time."""
    for wrapped in (text, f"cannot use {text} here", f'("{text}")'):
        clean = redact(wrapped)

        assert SECRET_TEXTS[text] not in clean
        assert HIDDEN in clean
        assert clean == redact(clean)
    assert redacted({"note": text}).names == ("note",)


@pytest.mark.parametrize("text", ORDINARY_TEXTS)
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    """Addresses, names, checksums and sentences."""
    assert redact(text) == text


def test_the_pipelines_own_settings_hide_nothing() -> None:
    """Nor does what a run says of its machine."""
    told = {"config": Config().as_dict(), "environment": describe_environment()}

    assert redacted(told) == (plain(told), (), ())


@pytest.mark.parametrize(
    "part", ["password_", "token='", "x://", "x://a:b@", "sk-ab-", "glab-", "eyJ-", "'", "--", "a:"]
)
def test_a_long_text_is_read_in_one_go(part: str) -> None:
    """A pattern that goes back and forth would take minutes here."""
    assert redact(part * 20_000).count("=") <= 20_000


def test_everything_below_a_telling_name_goes_but_switches_and_references() -> None:
    """Texts and numbers are hidden; True, None, the empty text and ${NAME} tell nothing."""
    config = {"secrets": {"a": "x", "b": [1, "y"], "c": None, "d": True, "e": "", "f": "${HF_TOKEN}"}}

    assert redacted(config).value == {
        "secrets": {"a": HIDDEN, "b": [HIDDEN, HIDDEN], "c": None, "d": True, "e": "", "f": "${HF_TOKEN}"}
    }


def test_a_token_among_command_line_arguments_is_hidden() -> None:
    """``sys.argv`` is a usual part of a config."""
    argv = ["train.py", "--hf-token", "abc", "--lr", "0.1", "--password=abc", "--max-tokens", "5"]

    expected = ["train.py", "--hf-token", HIDDEN, "--lr", "0.1", f"--password={HIDDEN}", "--max-tokens", "5"]
    assert redacted({"argv": argv}).value == {"argv": expected}


def test_a_value_of_the_environments_secrets_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the name and the shape; a short or plain word is not, it would be found everywhere."""
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "blue42horse")
    monkeypatch.setenv("OTHER_TOKEN", "digits")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-and-long1")

    assert redact("no entry for blue42horse") == "no entry for ***"
    assert redact("digits false-and-long1") == "digits false-and-long1"


def test_a_known_secret_is_found_in_other_texts() -> None:
    """What was hidden in the config is looked for in the rest of it, in tags and in error messages; a word is not."""
    config = {"command": "login correct-horse", "password": "correct-horse", "secret": "disabled", "mode": "disabled"}
    value, names, known = redacted(config)

    assert value == {"command": "login ***", "password": "***", "secret": "***", "mode": "disabled"}
    assert set(names) == {"command", "password", "secret"}
    assert redact("login failed for correct-horse", known) == "login failed for ***"


def test_a_redacted_uri_can_still_be_used() -> None:
    """MLflow and database drivers take credentials from their own variables."""
    assert without_credentials(redact("http://u:p@host:5000/x")) == "http://host:5000/x"
    assert without_credentials(redact("postgresql://h/d?a=1&password=p&b=2")) == "postgresql://h/d?a=1&b=2"
    assert without_credentials(redact("postgresql://h/d?password=p")) == "postgresql://h/d"


def test_no_log_line_of_the_package_holds_a_credential(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever words it, wherever it came from."""
    logging.getLogger("mlflow_ddpm").warning("cannot reach %s", "http://me:pa55word@host/")

    assert caplog.messages == ["cannot reach http://***@host/"]


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_redacting_twice_is_redacting_once(value: object) -> None:
    """A run that is resumed, synced and published goes through it many times."""
    once = redacted({"config": value}).value

    assert redacted(once).value == once
