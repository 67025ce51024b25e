"""Docstrings, comments and messages are in plain English: a short list of words and phrases stays out of them."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

import mlflow_ddpm

PACKAGE = Path(mlflow_ddpm.__file__).parent
# "says" of a thing, not of a person: write "shows", "names" or "reports".
BANNED = re.compile(
    r"\b(?:told|tells|says|goes on|has not got|have not got|is none|somebody|nobody|in words|so many|lacks|"
    r"without a word|of that name is none)\b",
    re.IGNORECASE,
)


def banned_in(source: str) -> list[tuple[int, str]]:
    """Return line and phrase for every banned one in a source's strings and comments."""
    kinds = {tokenize.STRING, tokenize.COMMENT} | {getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return [
        (token.start[0], match[0])
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type in kinds
        for match in BANNED.finditer(re.sub(r"\s+", " ", token.string))
    ]


SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_banned_phrase_stands_in_a_file(path: Path) -> None:
    """Names of variables are left to readers; words that are read are checked."""
    text = path.read_text(encoding="utf-8")
    found = banned_in(text) if path.suffix == ".py" else [(0, match[0]) for match in BANNED.finditer(text)]

    assert found == []


def test_the_check_finds_phrases_in_strings_docstrings_and_comments() -> None:
    """And none in names, or in longer words."""
    source = '"""It tells\nall."""\nx = "it goes  on"  # what it lacks\ntold = "foretold"\n'

    assert {phrase for _, phrase in banned_in(source)} == {"tells", "goes on", "lacks"}
