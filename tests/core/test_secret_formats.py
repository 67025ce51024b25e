"""Credentials known by their form alone, and texts that merely look like them."""

from __future__ import annotations

from mlflow_ddpm.core.secret_formats import hide_in_text


def test_what_is_hidden_is_returned_so_that_it_can_be_searched_for_elsewhere() -> None:
    """Of a login, the password alone."""
    text, found = hide_in_text("http://user:pass-1234@host and password='pa ss'")

    assert text == "http://***@host and password='***'"
    assert found == ["pass-1234", "pa ss"]


def test_what_is_hidden_already_is_not_hidden_again() -> None:
    """Redacting twice is redacting once."""
    text, _ = hide_in_text("http://user:pass-1234@host")

    assert hide_in_text(text) == (text, [])


def test_a_value_that_is_no_credential_may_hold_one() -> None:
    """An address or an option in quotes, an assignment within an assignment."""
    assert hide_in_text('dsn="Server=a;Password=hunter2;"')[0] == 'dsn="Server=a;Password=***;"'
    assert hide_in_text("--set auth.password=hunter2")[0] == "--set auth.password=***"
    assert hide_in_text("args: '--hf-token abc123'")[0] == "args: '--hf-token ***'"
