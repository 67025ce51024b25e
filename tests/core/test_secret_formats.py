"""Credentials known by their form alone, and texts that merely look like them."""

from __future__ import annotations

import pytest

from mlflow_ddpm.core.secret_formats import hide_in_text, is_harmless, is_secret, looks_random
from mlflow_ddpm.core.secret_names import Suspicion


def test_what_is_hidden_is_returned_so_that_it_can_be_searched_for_elsewhere() -> None:
    """Of a login, the password alone."""
    text, found = hide_in_text("http://user:pass-1234@host and password='pa ss'")

    assert text == "http://***@host and password='***'"
    assert found == ["pass-1234", "pa ss"]


def test_what_is_hidden_already_is_not_hidden_again() -> None:
    """Redacting twice is redacting once."""
    text, _ = hide_in_text("http://user:pass-1234@host")

    assert hide_in_text(text) == (text, [])


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
