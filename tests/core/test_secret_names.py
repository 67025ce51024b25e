"""Which names open something: the last noun and the word before it decide."""

from __future__ import annotations

import pytest

from mlflow_ddpm.core.secret_names import Suspicion, suspicion


@pytest.mark.parametrize(
    ("names", "level"),
    [
        ("password db.password PGPASSWORD AWS_SECRET_ACCESS_KEY client_secret new_password", Suspicion.CERTAIN),
        ("hf_token hfToken HF-TOKEN token_hf api_key openaiApiKey AWS_ACCESS_KEY_ID", Suspicion.IF_TEXT),
        ("login db_auth", Suspicion.IF_LOGIN),
        ("token user_token", Suspicion.IF_MIXED),
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
