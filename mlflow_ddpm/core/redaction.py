"""What looks like a credential is hidden before anything is written, sent or logged.

Three things give one away: the name it stands under (``hf_token``, ``db.password``), its own shape (``ghp_...``,
``user:password@host``, a JSON web token), or that a variable of such a name has this value in the environment. This is
a net, not a vault: what has neither a telling name nor a telling shape goes through.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mlflow_ddpm.core.secret_names import Suspicion, suspicion
from mlflow_ddpm.core.strict_json import plain

__all__ = ["HIDDEN", "Redacted", "redact", "redacted", "without_credentials"]

HIDDEN = "***"
_KNOWN_LENGTH = 8  # a shorter value is not looked for elsewhere: it may be a word

# Everything that repeats is bounded, or can begin at the start of a word alone: a long text takes time in proportion.
_NAME = (
    r"[\w\-]{0,40}?(?:password|passwd|passphrase|pwd|secret|token|api[_\-]?key|access[_\-]?key|account[_\-]?key|signature|"
    r"credential)[\w\-]{0,40}|sig"
)
_QUOTED = rf"(?P<before>(?<![\w\-])(?P<q>['\"]?)(?P<name>{_NAME})(?P=q)\s*[:=]\s*(?P<quote>['\"]))"
_LOGIN = r"(?:[^/\s]{1,500}|[^/\s:@]{0,100}:(?!\d{1,5}/)[^\s'\"]{1,500})"
_PEM_END = r"-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
Replacement = str | Callable[[re.Match[str]], str]


def _if_secret(match: re.Match[str]) -> str:
    """Hide the value of an assignment whose name is a secret's."""
    told = suspicion(match["name"]) in (Suspicion.CERTAIN, Suspicion.IF_TEXT) or match["name"] in ("sig", "signature")
    return match["before"] + HIDDEN if told or "ignature" in match["name"] else match[0]


_SHAPES: tuple[tuple[re.Pattern[str], Replacement], ...] = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (rf"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:{_PEM_END}|\Z)", re.DOTALL, HIDDEN),
        # scheme://user:password@ and scheme://token@; a password may hold "@" and, as SQLAlchemy reads it, "/"
        (rf"(?!ssh://git@)\b([A-Za-z][\w+.\-]{{0,40}}://){_LOGIN}@", 0, rf"\1{HIDDEN}@"),
        # ?token=...&sig=..., the AccountKey=... of connection strings, --api-key=...
        (rf"(?P<before>(?<![\w\-])-{{0,2}}(?P<name>{_NAME})\s?=\s?)(?!\s)[^&;\s,'\"]+", re.IGNORECASE, _if_secret),
        # "password": "..." and password='...', as JSON, Python and shells write them
        (rf"{_QUOTED}(?:(?!(?P=quote)).)+", re.IGNORECASE, _if_secret),
        # --hf-token ... on a command line
        (rf"(?P<before>(?<!\S)--?(?P<name>{_NAME})\s+)(?!-)\S+", re.IGNORECASE, _if_secret),
        (r"\b(Bearer\s+)(?=\S{0,80}\d)[\w.~+/\-]{8,}=*", re.IGNORECASE, rf"\1{HIDDEN}"),
        (r"\b(Basic\s+)(?=\S+[A-Z\d=])[A-Za-z0-9+/]{8,}=*", 0, rf"\1{HIDDEN}"),
        # What issuers give out: Hugging Face, GitHub, GitLab, AWS, Slack, Google, OpenAI and its like, Stripe, npm,
        # PyPI, Databricks, DigitalOcean, SendGrid; JSON web tokens.
        (r"\b(?:hf|api_org)_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{10,}|\bhf_[a-z]{30,}", 0, HIDDEN),
        (
            r"(?<![\w\-])(?:gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|gl[a-z]{2,6}-(?=\D{0,40}\d)[\w\-]{16,})",
            0,
            HIDDEN,
        ),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b", 0, HIDDEN),
        (r"(?<![\w\-])xox[a-z]-[\w\-]{10,}", 0, HIDDEN),
        (r"(?<![\w\-])(?:AIza[\w\-]{30,}|ya29\.[\w\-]{16,})", 0, HIDDEN),
        (r"(?<![\w\-])sk-(?:[a-z]{1,10}\d{0,2}-){0,4}(?=[A-Za-z]*\d)[A-Za-z0-9_]{16,}[\w\-]*", 0, HIDDEN),
        (r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{10,}", 0, HIDDEN),
        (r"\bnpm_[A-Za-z0-9]{30,}|(?<![\w\-])pypi-[\w\-]{40,}|\bdapi[0-9a-f]{32}|\bdop_v1_[0-9a-f]{40,}", 0, HIDDEN),
        (r"(?<![\w\-])SG\.[\w\-]{16,}\.[\w\-]{16,}", 0, HIDDEN),
        (r"(?<![\w\-])eyJ[\w\-]{6,}\.[\w\-]{4,}(?:\.[\w\-]*)?", 0, HIDDEN),
    )
)
# One look that spares most texts the twenty of the shapes.
_HINT = re.compile(
    r"://|=|-----|['\"]\s*:|(?<!\S)-|basic|bearer|_|akia|asia|xox|aiza|ya29|sk-|gl|dapi|pypi|sg\.|eyj", re.IGNORECASE
)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w+/=.~\-]{16,}")
# Nothing, hidden already, a special token, or a reference to a variable.
_HARMLESS = re.compile(r"\s*(?:\*+|<[^>]*>|\[[A-Z]+\]|\$\{\w+\}|None|null)?\s*")


class Redacted(NamedTuple):
    """A value fit to be written, and what was taken out of it."""

    value: Any  # dicts, lists, strings, numbers, booleans and None alone
    names: tuple[str, ...]  # dotted keys whose value is hidden, wholly or in part
    known: tuple[str, ...]  # hidden values, to be looked for elsewhere; never written


def redact(text: str, known: tuple[str, ...] = ()) -> str:
    """Return the text without what looks like a credential in it, or is one of ``known`` or of the environment's.

    >>> redact("postgresql://u:p@host/db?sslmode=on&password=x")
    'postgresql://***@host/db?sslmode=on&password=***'
    """
    for secret in (*known, *_environment_secrets()):
        text = text.replace(secret, HIDDEN)
    if _HINT.search(text):
        for pattern, replacement in _SHAPES:
            text = pattern.sub(replacement, text)
    return text


def redacted(values: object, known: tuple[str, ...] = ()) -> Redacted:
    """Return a config, an environment or tags without credentials, whatever they are made of.

    Under a telling name texts and numbers are hidden, elsewhere what has a telling shape. ``True``, ``False``,
    ``None``, the empty text and references such as ``${HF_TOKEN}`` hide nothing.
    """
    search = _Search(known)
    value = search.clean(plain(values), "")
    if search.known:  # what stands under a telling name may stand under others, too: in a command line, say
        again = _Search(tuple(secret for secret in search.known if not secret.isalpha()))  # a word means itself
        value = again.clean(value, "")
        search.names |= again.names
    return Redacted(value, tuple(search.names), tuple(search.known))


def without_credentials(uri: str) -> str:
    """Return a redacted URI as it can be used, by whom the server knows from elsewhere.

    MLflow sends ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``, or ``MLFLOW_TRACKING_TOKEN``;
    PostgreSQL's driver takes ``PGUSER`` and ``PGPASSWORD``.

    >>> without_credentials("http://***@host:5000/path")
    'http://host:5000/path'
    """
    uri = uri.replace(f"://{HIDDEN}@", "://")
    return re.sub(r"([?&])[^?&=]*=\*\*\*(&|$)", lambda m: m[1] if m[2] else "", uri)


class _Search:
    """One walk through a value."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self._elsewhere = known
        self.names: dict[str, None] = {}  # in order, each once
        self.known: dict[str, None] = {}

    def clean(self, value: Any, key: str) -> Any:
        """Return the value without credentials; ``key`` is its dotted name."""
        if isinstance(value, dict):
            return {self._text(name): self._clean_named(item, name, key) for name, item in value.items()}
        if isinstance(value, list):
            options = ["", *(item if isinstance(item, str) and item.startswith("-") else "" for item in value)]
            return [self._clean_item(item, option, key) for item, option in zip(value, options, strict=False)]
        if not isinstance(value, str):
            return value
        text = self._text(value)
        if text != value:
            self.names[self._text(key)] = None
        return text

    def _clean_named(self, item: Any, name: str, above: str) -> Any:
        key = f"{above}.{name}" if above else name
        told = suspicion(key if name.lower() in ("key", "keys") else name)  # what it opens may stand above it
        if told is Suspicion.CERTAIN or (told is Suspicion.IF_TEXT and isinstance(item, str | list)):
            return self._hide(item, key, numbers=told is Suspicion.CERTAIN)
        if told is Suspicion.IF_RANDOM and isinstance(item, str) and _RANDOM.fullmatch(item):
            return self._hide(item, key)
        return self.clean(item, key)

    def _clean_item(self, item: Any, option: str, key: str) -> Any:
        """Clean one item of a list; after ``--hf-token`` comes a token."""
        told = suspicion(option) if "=" not in option else Suspicion.NONE
        is_value = isinstance(item, str) and not item.startswith("-")
        if is_value and told in (Suspicion.CERTAIN, Suspicion.IF_TEXT):
            return self._hide(item, key)
        return self.clean(item, key)

    def _hide(self, item: Any, key: str, *, numbers: bool = True) -> Any:
        """Return the item with every text, and every number, in it hidden."""
        if isinstance(item, dict):
            return {
                self._text(name): self._hide(value, f"{key}.{name}", numbers=numbers) for name, value in item.items()
            }
        if isinstance(item, list):
            return [self._hide(value, key, numbers=numbers) for value in item]
        is_number = isinstance(item, int | float) and not isinstance(item, bool)
        if not (isinstance(item, str) and not _HARMLESS.fullmatch(item)) and not (is_number and numbers):
            return item
        self.names[self._text(key)] = None
        if len(str(item)) >= _KNOWN_LENGTH:
            self.known[str(item)] = None
        return HIDDEN

    def _text(self, text: str) -> str:
        return redact(text, self._elsewhere)


def _environment_secrets() -> Iterator[str]:
    """Yield what variables of this process hold that are named like secrets. A path, a flag or a word is none."""
    for name, value in os.environ.items():
        if len(value) < _KNOWN_LENGTH or value.isalpha() or value.startswith(("/", "./", "~")):
            continue
        if suspicion(name) in (Suspicion.CERTAIN, Suspicion.IF_TEXT):
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
