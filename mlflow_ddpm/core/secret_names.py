"""Decide from a name whether its value is a credential: ``hf_token`` and ``db.password`` yes, ``max_tokens`` no.

A name is split into words at its separators and capitals. The last noun decides (password, secret, token, key, pass),
together with the word before it: ``api_key`` opens an account, ``sort_key`` names a column. The lists hold words of the
language and of the field, not names of settings.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache


class Suspicion(IntEnum):
    """Which values of a name are credentials. A number never is, except an integer under a ``CERTAIN`` name."""

    NONE = 0
    IF_RANDOM = 1  # a text that looks generated
    IF_LOGIN = 2  # user:password, too
    IF_MIXED = 3  # a text that is more than words and numbers
    IF_TEXT = 4  # any text
    CERTAIN = 5  # any text, a PIN, and everything nested below


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET = _words(
    "password passwords passwd passwrd passphrase passcode pword pwd pswd psw secret secrets credential credentials "
    "cred creds authorization bearer jwt totp otp psk passkey passwort kennwort wachtwoord lösenord salasana motdepasse mdp "
    "contraseña contrasena clave senha parola hasło heslo пароль 密码"
)
_AFTER_SECRET = _words("access base confirm confirmation hash key keys new old phrase repeat salt seed token")
_LOGINS = _words(
    "ansible become database db ftp imap ldap mail mongo mysql pg postgres proxy redis root sftp smtp sql sudo"
)
# A key or token of these is a credential; of those that follow it may be a column or an index as well.
_ROLES = _words(
    "access api auth aws bearer csrf encryption fernet hmac jwt oauth pass personal preshared private sas secret signing "
    "ssh xsrf"
)
_OWNERS = _words(
    "account admin app application bot client consumer deploy installation license login master mfa push refresh "
    "security service session shared subscription tracking upload user username webhook write"
)
_PROVIDERS = _words(
    "anthropic azure clearml cloud cohere comet databricks devops digitalocean discord docker figshare gcp gh git "
    "github gitlab google groq heroku hf hub huggingface hugging kaggle mistral mlflow neptune npm openai openrouter "
    "pypi replicate sentry slack stripe telegram twilio vault wandb zenodo"
)
_OPENS = _ROLES | _PROVIDERS
_BEFORE_SECRET = _OPENS | _OWNERS | _LOGINS
# A trailing word that changes nothing (api_key_str, api_key_prod), as a leading one (X-Token). Digits are no words.
_DECORATION = _words(
    "b64 backup base64 ci current data default dev live main new old plain primary prod production ro rw secondary staging "
    "str string test text tmp v val value"
)
_LEADING = _words("my our the x")
_PREPOSITIONS = _words("for of")  # token_for_hub
# What follows a secret's noun and names a property of it: token_file, secret_name, password_length.
_PROPERTIES = _words(
    "algorithm class count dim dir directory email enabled endpoint env expires expiry field file folder format free "
    "group header hint host id ids index len length level limit location max method min mode model name names num "
    "number owner path policy port protected provider rate region required scheme size source strength ttl type uri "
    "url user username var version weight"
)
# A name that begins so counts something or switches it.
_COUNTS = _words("allow count enable has is max min n need no num number require requires total")
# Names of tokens in a vocabulary or a transformer; everything that keys a column, a record or a cache.
_DATA = _words(
    "begin blank bos class cls conditioning context dummy empty end eos eot extra fill first image img input last "
    "latent mask max mean next null output pad padding patch pool prefix prompt query register sep special start stop "
    "suffix task text time timestep trigger unk video vision word "
    "attention batch bucket cache checkpoint ckpt column commit composite config data dataset dedup dict feature file "
    "foreign group hash idempotency index instance item jax join kv label layer lookup message meta metric module monitor "
    "name natural node object param partition path primary prng public record registry rng routing row s sample "
    "scene search shard sort split state surrogate table target unique"
)
_KEYS = _words("token tok tkn key pat")
# The last word of a name, the word before it (None: any; "": none), and what that makes of the value.
_NOUNS: tuple[tuple[frozenset[str], frozenset[str] | None, Suspicion], ...] = (
    (_words("pw cookie cookies"), None, Suspicion.IF_TEXT),
    (_words("auth basic login"), None, Suspicion.IF_LOGIN),
    (_words("pass"), _BEFORE_SECRET, Suspicion.IF_TEXT),
    (_words("phrase word"), _words("pass recovery seed"), Suspicion.IF_TEXT),
    (_words("seed"), _words("mfa recovery wallet"), Suspicion.IF_TEXT),
    (_words("passe"), _words("de"), Suspicion.IF_TEXT),  # mot_de_passe
    (
        _words("code codes"),
        _words("access activation auth backup device mfa recovery security unlock verification"),
        Suspicion.IF_MIXED,
    ),
    (_words("pin"), _BEFORE_SECRET, Suspicion.CERTAIN),
    (_words("code"), _words("pin"), Suspicion.CERTAIN),
    (_KEYS | _words("tokens keys"), _OPENS, Suspicion.IF_TEXT),
    (_words("token"), _BEFORE_SECRET - _words("client session user username"), Suspicion.IF_TEXT),
    (_KEYS, _BEFORE_SECRET, Suspicion.IF_MIXED),
    (_words("token tok tkn pass"), frozenset([""]), Suspicion.IF_MIXED),
    (_words("pass csrf xsrf sessionid jsessionid phpsessid"), None, Suspicion.IF_RANDOM),
)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
_GLUED = re.compile(r"(.+?)(passwords?|passwd|passphrase|secret|token|keys?|pwd|pass|pw)")


@lru_cache(maxsize=8192)
def suspicion(name: str) -> Suspicion:
    """Return which values under a key, tag, option, header or environment variable are credentials.

    >>> [suspicion(name).name for name in ("AWS_SECRET_ACCESS_KEY", "hfToken", "max_tokens", "key_dim")]
    ['CERTAIN', 'IF_TEXT', 'NONE', 'NONE']
    """
    words = [word for part in _PARTS.findall(name) for word in _unglue(part.lower())]
    while words and words[0] in _LEADING:
        words.pop(0)
    if not words or words[0] in _COUNTS:
        return Suspicion.NONE
    words = words[: next((place for place, word in enumerate(words) if place and word in _PREPOSITIONS), None)]
    if words[0] in _KEYS | _words("tokens keys password secret") and words[-1] in _OPENS - _words("vault"):
        words = [*words[1:], words[0]]  # token_hf
    if "webhook" in words[-2:] and words[-1] in ("webhook", "url", "uri"):
        return Suspicion.IF_TEXT
    if words[-3:] == ["access", "key", "id"]:
        return Suspicion.IF_TEXT
    while words and words[-1] in _DECORATION:
        words.pop()
    if not words or is_property(words[-1]):
        return Suspicion.NONE
    return max(_of_place(words, place) for place in range(len(words)))


def is_property(name: str) -> bool:
    """Say whether a name is of what surrounds a credential, and opens nothing: ``host``, ``token_file``, ``user_id``."""
    words = _PARTS.findall(name)
    return bool(words) and words[-1].lower() in _PROPERTIES


def _unglue(word: str) -> list[str]:
    """Split ``pgpassword`` and ``apikey``, but neither ``monkey`` nor ``clstoken``."""
    match = _GLUED.fullmatch(word)
    if not match or (
        match[2] not in ("password", "passwords", "passwd", "passphrase") and match[1] not in _BEFORE_SECRET
    ):
        return [word]
    return [match[1], match[2]]


def _of_place(words: list[str], place: int) -> Suspicion:
    """Judge by one word and what stands around it; the first row that fits its noun decides."""
    noun, before, after = words[place], words[place - 1] if place else "", words[place + 1 :]
    if noun in _SECRET:
        return Suspicion.CERTAIN if (_AFTER_SECRET | _BEFORE_SECRET).issuperset(after) else Suspicion.IF_RANDOM
    fits = (
        level for nouns, qualifiers, level in _NOUNS if noun in nouns and (qualifiers is None or before in qualifiers)
    )
    is_datum = noun not in _KEYS | _words("tokens keys") or _DATA.intersection(words)
    level = next(fits, Suspicion.NONE if is_datum else Suspicion.IF_RANDOM)
    return min(level, Suspicion.IF_RANDOM) if after else level
