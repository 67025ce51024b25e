"""Markdown that shows foreign text literally: it never becomes markup.

Everything here returns :class:`Markdown`, text that is safe to insert as it stands; everything else goes through
:func:`escape` first. The output is GitHub's Markdown, which HuggingFace and MLflow's artifact viewer read too, and is
laid out to be read as plain text as well.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote


class Markdown(str):
    """Text that is Markdown already and must not be escaped again."""

    __slots__ = ()


class Code(str):
    """Plain text that wants to be shown as code: a name, an id, a checksum."""

    __slots__ = ()


class Prose(str):
    """Words of this package's own in which backticks mark code; never foreign text."""

    __slots__ = ()


class Table(NamedTuple):
    """Cells as plain text; a line break in a head cell is kept in HTML; elsewhere it becomes a space."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str  # one letter a column: l or r


# Control characters, line and paragraph separators, lone surrogates (which UTF-8 cannot hold), and the marks that turn
# the direction of the text after them, tables included.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
_UNSAFE_IN_JSON = re.compile("[<\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# An underscore between letters or digits is no markup (run_name stays readable); every other one is escaped.
_MARKUP = re.compile(r"[\\`*\[\]~|#$]|(?<![^\W_])_|_(?![^\W_])")
_CODE_SAFE = re.compile(r"[\w\-./:+=,@()]+( [\w\-./:+=,@()]+)*")
_PAD_MAX = 100  # one long cell must not blow up every row


def one_line(text: str) -> str:
    """Return the text without line breaks, controls and direction marks, each run of them a space."""
    return re.sub(r"\s+", " ", _UNPRINTABLE.sub(" ", text)).strip()


def escape(text: str) -> Markdown:
    """Return plain text so that every Markdown reader shows it literally, inside a table cell too."""
    if isinstance(text, Markdown):
        return text
    if isinstance(text, Code):
        return code(text)
    if isinstance(text, Prose):
        parts = text.split("`")
        return Markdown("".join(code(part) if i % 2 else _literal(part) for i, part in enumerate(parts)))
    return Markdown(_literal(one_line(text)))


def _literal(text: str) -> str:
    html_safe = re.sub("[&<>]", lambda m: _HTML[m[0]], text)
    return _MARKUP.sub(lambda m: "\\" + m[0], html_safe)


def code(text: str) -> Markdown:
    """Return a code span; text that could end the span or its table cell is escaped as plain text instead."""
    text = one_line(text)
    return Markdown(f"`{text}`") if _CODE_SAFE.fullmatch(text) else escape(str(text))


def fence(text: str, language: str) -> Markdown:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markdown(f"{ticks}{language}\n{text}\n{ticks}")


def json_block(text: str) -> Markdown:
    """Return strict JSON in a fence, free of what a careless viewer acts on; it parses to the same value."""
    return fence(safe_json(text), "json")


def safe_json(text: str) -> str:
    """Return JSON text that parses to the same value, with escapes for what opens markup or cannot be seen."""
    return _UNSAFE_IN_JSON.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def image_link(link: str, alt: str) -> Markdown:
    """Return an embedded image; ``link`` is a relative path with forward slashes."""
    return Markdown(f"![{escape(alt)}]({quote(link, safe='/.-_~', errors='surrogatepass')})")


def table(content: Table) -> Markdown:
    """Return a table with padded columns, so that it reads well as plain text too."""
    head: list[str] = [escape(cell) for cell in content.head]
    rows: list[list[str]] = [[escape(cell) for cell in row] for row in content.rows]
    widths = [max(3, *(min(len(cell), _PAD_MAX) for cell in column)) for column in zip(head, *rows, strict=True)]
    rules = ["-" * (w - 1) + ":" if a == "r" else "-" * w for w, a in zip(widths, content.align, strict=True)]
    return Markdown("\n".join(_line(cells, widths, content.align) for cells in [head, rules, *rows]))


def _line(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    padded = [
        cell.rjust(width) if side == "r" else cell.ljust(width)
        for cell, width, side in zip(cells, widths, align, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
