"""Which names stand for credentials: ``hf_token`` and ``db.password`` do, ``max_tokens`` and ``key_dim`` do not.

A name is taken apart at its separators and humps; what counts is which words are in it, and in which order.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache

__all__ = ["Suspicion", "suspicion"]


class Suspicion(Enum):
    """What a name says of the value under it."""

    NONE = 0
    IF_RANDOM = 1  # a credential if it looks like one: sixteen letters and digits that are no word
    IF_TEXT = 2  # a credential if it is a text; a number is a count or an index
    CERTAIN = 3  # a credential, texts and numbers alike, and all that lies below


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET = _words(
    "password passwd passphrase passcode pwd secret secrets credential credentials authorization bearer jwt apikey "
    "apikeys accesskey secretkey privatekey authkey authtoken accesstoken apitoken bearertoken sessiontoken hftoken"
)
# What a token or a key opens, or who gives it out.
_OPENS = _words(
    "access account admin api app auth aws azure bearer bot client cluster comet csrf databricks deploy encryption gcp "
    "gh git github gitlab google hf hub huggingface jwt login master mlflow neptune oauth oauth2 openai anthropic "
    "personal private push refresh sas secret security service session shared signing slack ssh storage subscription "
    "telegram tracking upload wandb"
)
_STAGES = _words("dev live main prod production read staging test write")  # api_key_prod
# What a tokenizer or a transformer knows: pad_token, cls_token.
_VOCABULARY = _words(
    "additional begin blank bos class classification cls conditioning decoder dummy empty encoder end eos extra fill "
    "first forced image img last latent learned mask max mean min negative new next no null num pad padding patch per "
    "pool pooling position positive prefix pretrained prompt query register registers sep special start stop suffix "
    "text time timestep trigger unconditional unk unknown vision word"
)
# What these say of a secret is none: password_free, token_file, secret_name, credentials_dir.
_HARMLESS_ENDINGS = _words(
    "count dim dir dropout enabled env field file folder format free id index len length limit max min mode name names "
    "num path policy protected provider rate required scheme size strength type var weight"
)
_LOGINS = _words("admin db ftp login mail mysql pg postgres root smtp sql ssh user")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@lru_cache(maxsize=4096)
def suspicion(name: str) -> Suspicion:
    """Return what a key, tag, option or environment variable of this name is taken to hold.

    >>> [suspicion(name).name for name in ("AWS_SECRET_ACCESS_KEY", "hfToken", "max_tokens", "key_dim")]
    ['CERTAIN', 'IF_TEXT', 'NONE', 'NONE']
    """
    parts = [part.lower() for part in _PARTS.findall(name)]
    while parts and (parts[-1].isdecimal() or parts[-1] in _STAGES):  # token_2, api_key_prod
        parts.pop()
    if parts[-3:] and parts[-1] == "id" and parts[-3:-1] == ["access", "key"]:
        return Suspicion.IF_TEXT
    if not parts or parts[-1] in _HARMLESS_ENDINGS:
        return Suspicion.NONE
    if _SECRET.intersection(parts):
        return Suspicion.CERTAIN
    return _of_last_word(parts[:-1], parts[-1])


def _of_last_word(before: list[str], last: str) -> Suspicion:
    opens = bool(before) and before[-1] in _OPENS
    if last in ("cookie", "cookies") or (last == "pass" and before and before[-1] in _LOGINS):
        return Suspicion.IF_TEXT
    if last == "token" and (opens or not before):
        return Suspicion.IF_TEXT
    if last in ("tokens", "key", "keys") and opens:
        return Suspicion.IF_TEXT
    if last in ("token", "key") and not _VOCABULARY.intersection(before):
        return Suspicion.IF_RANDOM
    return Suspicion.NONE
