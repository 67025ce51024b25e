"""Hide what looks like a credential before anything is written, sent or logged.

A credential is recognised by its name (``hf_token``, ``db.password``; see :mod:`.secret_names`), by its format
(``ghp_...``, ``user:password@host``, a JSON web token), or because a variable of such a name holds it in the
environment. This is best effort: a value with neither a recognisable name nor a recognisable format is recorded.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mlflow_ddpm.core.secret_formats import HIDDEN, hide_in_text
from mlflow_ddpm.core.secret_names import Suspicion, is_harmless, is_property, is_secret, looks_random, suspicion
from mlflow_ddpm.core.strict_json import plain

_KNOWN_LENGTH = 8  # a shorter value is not searched for elsewhere: it may be part of anything
_NUMERIC_LENGTH, _WORD_LENGTH = 10, 14  # nor is a shorter number or word
_PAIR_NAMES = ("name", "key", "k", "variable", "var", "header", "field", "label", "option", "parameter", "param")
_PAIR_VALUES = ("value", "val", "v", "content", "data", "stringdata", "default")
_BREAK = "\x1f"  # between the words of a command: white space that no text has
_COLUMN = re.compile(r"[\s\"'`*]*(?:[A-Za-z_][\w.\-]{0,60}(?: [\w.\-]{1,60})?)?[\s\"'`*]*")  # a column's name
# Of a column's values, fewer are credentials: a table of tokens is a vocabulary, and names may stand in lines.
_IN_COLUMN = {
    Suspicion.CERTAIN: Suspicion.IF_MIXED,
    Suspicion.IF_TEXT: Suspicion.IF_MIXED,
    Suspicion.IF_MIXED: Suspicion.IF_RANDOM,
}
_PIN_MIN = 1000  # a smaller integer under a secret's name is a count


class Redacted(NamedTuple):
    """A value fit to be written, and what was taken out of it."""

    value: Any  # dicts, lists, strings, numbers, booleans and None alone
    names: tuple[str, ...]  # dotted keys whose value is hidden, wholly or in part
    known: tuple[str, ...]  # hidden values, to be searched for elsewhere; never written


def redact(text: str, known: Iterable[str] = ()) -> str:
    """Return the text without credentials, those of ``known`` and of the environment included.

    >>> redact("postgresql://u:p@host/db?sslmode=on&password=x")
    'postgresql://***@host/db?sslmode=on&password=***'
    """
    return _hide(text, (*known, *_environment_secrets()))[0]


def redacted(values: object, known: Iterable[str] = ()) -> Redacted:
    """Return a config, an environment or tags without credentials, whatever they are made of.

    ``True``, ``False``, ``None``, the empty text, paths and references such as ``${HF_TOKEN}`` are never hidden.
    """
    walk = _Walk((*known, *_environment_secrets()))  # looked up once: a config has hundreds of texts
    value = walk.clean(plain(values), "")
    if walk.known:  # a value under a secret's name may stand under other names, too: in a command line, say
        again = _Walk([secret for secret in walk.known if _is_searchable(secret)])
        value = again.clean(value, "")
        walk.names |= again.names
    return Redacted(value, tuple(walk.names), tuple(walk.known))


def without_credentials(uri: str) -> str:
    """Return a redacted URI that can be used where the server takes credentials from elsewhere.

    MLflow sends ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``, or ``MLFLOW_TRACKING_TOKEN``;
    PostgreSQL's driver takes ``PGUSER`` and ``PGPASSWORD``.

    >>> without_credentials("http://***@host:5000/path")
    'http://host:5000/path'
    """
    uri = uri.replace(f"://{HIDDEN}@", "://")
    return re.sub(r"([?&])[^?&=]*=\*\*\*(&|$)", lambda m: m[1] if m[2] else "", uri)


def _hide(text: str, known: Iterable[str]) -> tuple[str, list[str]]:
    for secret in known:
        text = _cut(text, secret)
    in_tables: list[str] = []
    clean, found = hide_in_text(_hide_in_tables(text, in_tables))
    return clean, in_tables + found


def _hide_in_tables(text: str, found: list[str]) -> str:
    """Hide what stands below ``password`` in a table with names on top, as CSV and Markdown write it."""
    lines, mark, levels = text.split("\n"), ",", list[Suspicion]()
    for number, line in enumerate(lines):
        cells, row = _cells(line, mark), levels
        if len(cells) != len(levels):
            new_mark, names = _columns(line)
            if any(names) or not any(levels) or not line.strip():  # another table, or none
                mark, levels = new_mark, names
                continue
            # In a row of another length, any cell may be one; a line of one cell is no row.
            row = [max(levels) if len(cells) > 1 else Suspicion.NONE] * len(cells)
        for place, (cell, level) in enumerate(zip(cells, row, strict=True)):
            value = cell.strip(" \t\r\"'`*")
            if is_secret(value, level):
                found += [value] if level is Suspicion.IF_MIXED else []
                cells[place] = cell.replace(value, HIDDEN)
        lines[number] = mark.join(cells)
    return "\n".join(lines)


def _cells(line: str, mark: str) -> list[str]:
    """Split a row; a quoted cell may hold the mark."""
    return re.findall(rf'(?:\A|{re.escape(mark)})((?: *"[^"]*")*[^{re.escape(mark)}]*)', line)


def _columns(line: str) -> tuple[str, list[Suspicion]]:
    """Return what separates the names in a table's first row, and the suspicion of what stands below each."""
    for mark in "|\t;,":
        cells = _cells(line, mark)
        is_prose = mark != "|" and f"{mark} " in line
        if len(cells) > 1 and not is_prose and all(_COLUMN.fullmatch(cell) for cell in cells):
            return mark, [_IN_COLUMN.get(suspicion(cell), Suspicion.NONE) for cell in cells]
    return ",", []


def _cut(text: str, secret: str) -> str:
    """Remove a known value; one that may be a name is left alone inside paths and longer words."""
    if secret not in text:
        return text
    if looks_random(secret):
        return text.replace(secret, HIDDEN)
    return re.sub(rf"(?<![\w\-./\\]){re.escape(secret)}(?![\w\-/\\])", HIDDEN, text)


def _is_searchable(secret: str) -> bool:
    """Say whether a value is distinctive enough to be searched for in other texts; a word or a path is not."""
    shortest = _WORD_LENGTH if secret.isalpha() else _NUMERIC_LENGTH if secret.isdecimal() else _KNOWN_LENGTH
    return len(secret) >= shortest and not is_harmless(secret)


class _Walk:
    """One walk through a value of dicts, lists and scalars."""

    def __init__(self, known: Iterable[str]) -> None:
        self._elsewhere = tuple(known)
        self.names: dict[str, None] = {}  # in order, each once
        self.known: dict[str, None] = {}

    def clean(self, value: Any, path: str, level: Suspicion = Suspicion.NONE) -> Any:
        """Return the value without credentials; ``path`` is its dotted name, ``level`` that name's suspicion."""
        if isinstance(value, dict):
            pair = _name_of_pair(value)
            return {
                self._text(k): self._item(item, k, path, level, pair if k.lower() in _PAIR_VALUES else "")
                for k, item in value.items()
            }
        if isinstance(value, list):
            return self._list(value, path, level)
        if isinstance(value, str) and is_secret(value, level):
            return self._hide(value, path, is_named=level >= Suspicion.IF_MIXED)
        if isinstance(value, int) and abs(value) >= _PIN_MIN and level is Suspicion.CERTAIN:
            return self._hide(str(value), path, is_named=True)
        if not isinstance(value, str):
            return value
        return self._text(value, path) if (clean := self._json(value, path, level)) is None else clean

    def _json(self, text: str, path: str, level: Suspicion) -> str | None:
        """Return the JSON text of a dict or list without its credentials; None if it is no such text or has none."""
        if text.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError, RecursionError):
                value, inner = json.loads(text), _Walk(self._elsewhere)
                clean = inner.clean(value, path, level)
                if inner.names:
                    self.names[self._text(path)] = None
                    self.known |= inner.known
                    return json.dumps(clean, ensure_ascii=False)
        return None

    def _item(self, item: Any, name: str, path: str, above: Suspicion, pair: str) -> Any:
        path = f"{path}.{name}" if path else name
        level = suspicion(pair or name)
        if level is not Suspicion.CERTAIN and not pair and name.isalpha():  # {"smtp": {"pass": ...}}
            level = max(level, suspicion(".".join(path.split(".")[-2:])))
        if above:
            inherited = above if above >= Suspicion.IF_TEXT else Suspicion.IF_RANDOM
            level = Suspicion.NONE if is_property(name) else max(level, inherited)
        return self.clean(item, path, level)

    def _list(self, items: list[Any], path: str, level: Suspicion) -> list[Any]:
        if any(isinstance(item, str) and "PRIVATE KEY-----" in item for item in items):  # a key, line by line
            level = Suspicion.CERTAIN
        if level is Suspicion.IF_LOGIN and len(items) == 2 and not re.fullmatch("[a-z]*", str(items[1])):  # noqa: PLR2004
            return [self.clean(items[0], path), self.clean(items[1], path, Suspicion.IF_TEXT)]  # a user and a password
        before: list[Any] = ["", *items][: len(items)]
        levels = [max(level, self._level_after(previous, items)) for previous in before]
        clean = [self.clean(item, path, own) for item, own in zip(items, levels, strict=True)]
        return self._command(clean, path) if len(items) > 1 and all(isinstance(item, str) for item in items) else clean

    def _command(self, words: list[str], path: str) -> list[str]:
        """Read the items as the words of one command as well: ["sshpass", "-p", "hunter2"]."""
        clean = self._text(_BREAK.join(words), path).split(_BREAK)
        return clean if len(clean) == len(words) else words

    @staticmethod
    def _level_after(previous: Any, items: list[Any]) -> Suspicion:
        """Return the suspicion of an item after ``--hf-token``, or of the second of ["Authorization", "..."]."""
        if previous in ("-u", "-U", "--user", "--proxy-user"):
            return Suspicion.IF_LOGIN
        if not isinstance(previous, str) or not re.fullmatch(r"-{0,2}[A-Za-z_][\w.\-]{0,60}", previous):
            return Suspicion.NONE
        level = suspicion(previous)
        if previous.startswith("-"):
            return level
        is_pair = len(items) == 2 and previous is items[0]  # noqa: PLR2004 - a name and its value, or two names
        if not is_pair or level < Suspicion.IF_TEXT or _is_name(items[1]):
            return Suspicion.NONE
        return level if level is Suspicion.CERTAIN else Suspicion.IF_MIXED

    def _hide(self, value: str, path: str, *, is_named: bool) -> str:
        self.names[self._text(path)] = None
        if is_named and _is_searchable(value):
            self.known[value] = None
        return HIDDEN

    def _text(self, text: str, path: str = "") -> str:
        clean, found = _hide(text, self._elsewhere)
        if path and clean != text:
            self.names[self._text(path)] = None
            self.known |= dict.fromkeys(secret for secret in found if _is_searchable(secret))
        return clean


def _is_name(value: Any) -> bool:
    """Say whether a value is itself a credential's name, as in a list of names."""
    return isinstance(value, str) and value.isidentifier() and bool(suspicion(value))


def _name_of_pair(value: dict[str, Any]) -> str:
    """Return the name in {"name": "HF_PASSWORD", "value": ...}; empty for any other dict."""
    texts = {key.lower(): item for key, item in value.items() if isinstance(item, str)}
    kinds = [texts[key] for key in ("id", "kind", "type") if suspicion(texts.get(key, "")) >= Suspicion.IF_TEXT]
    return max([texts[key] for key in _PAIR_NAMES if key in texts] + kinds, key=suspicion, default="")


def _environment_secrets() -> Iterator[str]:
    """Yield the values of environment variables that are named like secrets; words, paths and switches are left out."""
    for name, value in os.environ.items():
        level = suspicion(name)
        if level >= Suspicion.IF_MIXED and _is_searchable(value) and is_secret(value, level):
            yield value


def _redact_record(record: logging.LogRecord) -> bool:
    """Let a log line through without credentials."""
    text = record.getMessage()
    clean = redact(text)
    if clean != text:
        record.msg, record.args = clean, ()
    return True


# Every module of the package logs to this one logger. A filter is no handler: nothing is shown that was not.
logging.getLogger("mlflow_ddpm").addFilter(_redact_record)
