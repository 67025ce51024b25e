"""Foreign text inserted into Markdown stays text."""

from __future__ import annotations

import json
import re

import pytest

from mlflow_ddpm.core.markdown import Code, Markdown, Prose, Table, code, escape, fence, image_link, json_block, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run_name-2 (final)", "run_name-2 (final)"),
        ("a|b", r"a\|b"),
        ("<script>&amp;", "&lt;script&gt;&amp;amp;"),
        ("[x](y) ![z]", r"\[x\](y) !\[z\]"),
        ("**bold** ~~gone~~ `code` $x$ #1", r"\*\*bold\*\* \~\~gone\~\~ \`code\` \$x\$ \#1"),
        ("__init__ _x a_b a__b", r"\_\_init\_\_ \_x a_b a\_\_b"),
        ("back\\slash", r"back\\slash"),
        ("two\n# lines\r\n\ttab", r"two \# lines tab"),
        ("\u202eturned\u2066 \ud800", "turned"),
        ("Ünï☃😀", "Ünï☃😀"),
    ],
)
def test_escaping_keeps_plain_names_and_disarms_markup(text: str, expected: str) -> None:
    """What can be markup is escaped, what cannot is left readable."""
    assert expected == escape(text)


def test_markdown_is_not_escaped_twice() -> None:
    """Escaping is idempotent, since its result is marked."""
    once = escape("a*b")

    assert once == escape(once)
    assert isinstance(once, Markdown)


@pytest.mark.parametrize(("text", "expected"), [("lr", "`lr`"), ("a`b|c", r"a\`b\|c"), ("<b>", "&lt;b&gt;"), ("", "")])
def test_code_falls_back_to_escaped_text(text: str, expected: str) -> None:
    """A code span is made only of text that cannot end it or its table cell."""
    assert expected == code(text)
    assert expected == escape(Code(text))


def test_prose_shows_backticked_names_as_code() -> None:
    """The package's own words may mark code; other markup in them is still literal."""
    assert escape(Prose("Over `epoch_time_sec`, 2**20.")) == r"Over `epoch_time_sec`, 2\*\*20."


@pytest.mark.parametrize(("text", "ticks"), [("plain", 3), ("a ``` b", 4), ("`````", 6)])
def test_a_fence_is_longer_than_any_run_of_backticks_inside(text: str, ticks: int) -> None:
    """No content can close its own block."""
    lines = fence(text, "json").split("\n")

    assert ["`" * ticks + "json", text, "`" * ticks] == lines


def test_a_json_block_parses_to_the_same_value_without_raw_angle_brackets() -> None:
    """The escapes are JSON's own."""
    value = {"a": "<script>```\u2028\u202e\ud800", "b": [1.5, None, "é"]}
    block = json_block(json.dumps(value, ensure_ascii=False))

    assert "<" not in block
    assert value == json.loads(block.split("\n")[1])


def test_a_picture_quotes_its_link() -> None:
    """Spaces and brackets in a file name cannot end the link."""
    assert image_link("samples/a (b).png", "a]b") == r"![a\]b](samples/a%20%28b%29.png)"


def test_a_table_is_padded_and_aligned() -> None:
    """The source reads well as plain text."""
    content = Table(("Name", "Loss\n(mean)"), [("a|b", "1"), (Code("lr"), "0.25")], "lr")

    assert table(content).split("\n") == [
        "| Name | Loss (mean) |",
        "| ---- | ----------: |",
        r"| a\|b |           1 |",
        "| `lr` |        0.25 |",
    ]


def test_one_long_cell_does_not_widen_every_row() -> None:
    """Padding stops at a readable width."""
    lines = table(Table(("a",), [("x" * 5000,), ("y",)], "l")).split("\n")

    assert len(lines[3]) < 200
    assert re.fullmatch(r"\| x{5000} \|", lines[2])
