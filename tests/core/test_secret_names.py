"""Which names open something, and which of their values are credentials."""

from __future__ import annotations

import pytest

from mlflow_ddpm.core.secret_names import Suspicion, is_harmless, is_secret, looks_random, suspicion


@pytest.mark.parametrize(
    ("names", "level"),
    [
        ("password db.password PGPASSWORD AWS_SECRET_ACCESS_KEY client_secret new_password", Suspicion.CERTAIN),
        ("hf_token hfToken HF-TOKEN token_hf api_key openaiApiKey AWS_ACCESS_KEY_ID", Suspicion.IF_TEXT),
        ("login db_auth", Suspicion.IF_LOGIN),
        ("token user_token", Suspicion.IF_MIXED),
        ("api_key_ana secrets_engine_mount sendgridding_key tokens", Suspicion.IF_RANDOM),
        (
            "max_tokens n_tokens cls_token pad_token_id key_dim sort_key password_length token_file monkey",
            Suspicion.NONE,
        ),
        ("lr batch_size author authority passes tokenizer keyboard", Suspicion.NONE),
    ],
)
def test_the_suspicion_of_a_name(names: str, level: Suspicion) -> None:
    """In any spelling: with dots, dashes, capitals, or glued together."""
    assert {name: suspicion(name) for name in names.split()} == dict.fromkeys(names.split(), level)


@pytest.mark.parametrize(
    "value", ["", "none", "true", "${HF_TOKEN}", "os.environ['X']", "~/.netrc", "/run/secret", "***"]
)
def test_paths_switches_and_references_are_harmless_under_any_name(value: str) -> None:
    """A config may name where a secret is kept."""
    assert is_harmless(value)
    assert not is_secret(value, Suspicion.CERTAIN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("c4f1d2a9b8e7f6a5d4c3b2a1", True),
        ("Zx9qP2mN7vB4kL1tR8wY", True),
        ("vit-base-patch16-224", False),
        ("UNet2DConditionModel", False),
        ("cosine_with_restarts", False),
        ("123456789012345678", False),
    ],
)
def test_generated_texts_change_between_letters_and_digits_more_often_than_words(text: str, expected: bool) -> None:  # noqa: FBT001
    """Names of models and classes are left alone."""
    assert looks_random(text) == expected
