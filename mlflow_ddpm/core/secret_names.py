"""Decide from a name whether its value is a credential: of ``hf_token`` and ``db.password`` yes, of ``max_tokens`` no.

A name is split into words at its separators and capitals. A noun decides (password, secret, token, key, pass),
together with the word before it: ``api_key`` opens an account, ``sort_key`` names a column. What follows the noun
changes nothing (``api_key_prod``), names a property (``api_key_file``: no credential), or is unknown (``api_key_ana``:
only what looks generated is hidden). The lists hold words of the language and of the field, not names of settings.
"""

import re
from enum import IntEnum
from functools import lru_cache
from unicodedata import normalize


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


_PASSWORDS = _words(
    "password passwords passwd passwrd passw pasword passphrase passcode pword pwd pswd psw passkey passwort "
    "kennwort geheimwort wachtwoord losenord salasana passord kodeord motdepasse mdp passe "
    "contrasena contrasenas contrasenya clave senha senhas "
    "parola parol parool haslo heslo jelszo sifre adgangskode lozinka zaporka geslo slaptazodis pasahitza kodikos "
    "sandi katalaluan matkhau пароль κωδικος 密码 密碼 口令 パスワード 비밀번호"
)
_SECRET = _PASSWORDS | _words(
    "secret secrets credential credentials cred creds authorization bearer jwt totp otp psk geheim geheimnis secreto "
    "secreta segreto segreta segredo hemlighet zugangsdaten zugangscode anmeldedaten zugriffstoken"
)
_AFTER_SECRET = _words(
    "access base confirm confirmation dict hash key keys list map new old phrase repeat salt seed token values"
)
_LOGINS = _words(
    "ansible become bind database db ftp imap keystore ldap mail mongo mysql pg postgres proxy redis root sftp smtp "
    "sql sudo truststore"
)
# A key or token of these is a credential; of those that follow it may be a column or an index as well.
_ROLES = _words(
    "access api auth aws bearer csrf encryption fernet hmac jwt oauth personal preshared private sas secret signing "
    "ssh xsrf"
)
_OWNERS = _words(
    "account activation admin app application bot client consumer deploy installation license login master mfa push "
    "refresh security serial service session shared subscription tracking upload user username webhook write"
)
_PROVIDERS = _words(
    "anthropic azure clearml cloud cohere cloudflare comet databricks datadog devops digitalocean discord docker "
    "figshare gcp gh git github gitlab google grafana groq heroku hf hub huggingface hugging jenkins kaggle kube "
    "kubernetes mailgun mistral mlflow neptune npm openai openrouter postmark pypi replicate sendgrid sentry slack "
    "stripe telegram twilio vault wandb zenodo"
)
_OPENS = _ROLES | _PROVIDERS
_BEFORE_SECRET = _OPENS | _OWNERS | _LOGINS
# A trailing word that changes nothing (api_key_str, api_key_prod), as a leading one (X-Token). Digits are no words.
_DECORATION = _words(
    "b64 backup base64 ci current data default dev live main new old plain primary prod production ro rw secondary "
    "staging str string test text tmp v val value"
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
    "suffix task text time timestep trigger unk video vision word attention batch bucket cache checkpoint ckpt column "
    "commit composite config data dataset dedup dict feature file foreign group hash idempotency index instance item "
    "jax join kv label layer lookup message meta metric module monitor name natural node object param partition path "
    "primary prng public record rng row s sample scene search shard sort split state surrogate table "
    "target unique"
)
_KEYS = _words(
    "token tok tkn key pat schlussel schluessel sleutel cle chiave chave llave klucz nyckel nokkel avain anahtar "
    "ключ 密钥"
)
_PLURALS = _words("tokens keys")
# A pass that is a turn, a way or a filter: lowpass, two_pass, bypass.
_PASSES = _words(
    "all back backward band by com encom fast final first forward full high inference low mid multi n noise one over "
    "post pre render second shadow single sub sur tres training two under"
)
# The last word of a name, the word before it (None: any; "": none), and what that makes of the value.
_NOUNS: tuple[tuple[frozenset[str], frozenset[str] | None, Suspicion], ...] = (
    (_words("pw cookie cookies mnemonic"), None, Suspicion.IF_TEXT),
    (_words("auth basic login"), None, Suspicion.IF_LOGIN),
    (_words("pass"), _BEFORE_SECRET | _KEYS | {"store"}, Suspicion.IF_TEXT),
    (_words("phrase word words"), _words("pass recovery seed"), Suspicion.IF_TEXT),
    (_words("seed"), _words("mfa recovery wallet"), Suspicion.IF_TEXT),
    (
        _words("code codes"),
        _words("access activation auth backup device mfa recovery security unlock verification"),
        Suspicion.IF_MIXED,
    ),
    (_words("pin"), _BEFORE_SECRET | _words("card door sim"), Suspicion.CERTAIN),
    (_words("code"), _words("pin"), Suspicion.CERTAIN),
    (_KEYS | _PLURALS, _OPENS, Suspicion.IF_TEXT),
    (_words("token"), _BEFORE_SECRET - _words("client session user username"), Suspicion.IF_TEXT),
    (_KEYS, _BEFORE_SECRET, Suspicion.IF_MIXED),
    (_words("token tok tkn pass"), frozenset([""]), Suspicion.IF_MIXED),
    (_words("pass"), _PASSES, Suspicion.IF_RANDOM),
    (_words("pass"), None, Suspicion.IF_MIXED),
    (_words("fernet hmac csrf xsrf sessionid jsessionid phpsessid sid"), None, Suspicion.IF_RANDOM),
)
_MIXED_LENGTH = 5
_WORD_LENGTH = 24  # letters and digits without a break that no word has
_RANDOM_LENGTH, _RANDOM_WORD = 16, 2.7  # generated texts change between cases and digits more often than words do
# No credential whatever its name is: nothing, hidden already, a switch, a special token ([CLS], <pad>), an algorithm, a
# variable ($X, {{ x }}), a call, a path.
_HARMLESS = re.compile(
    r"\s*(?:\W{1,3}|\*+|<[^>]*>|\[[A-Za-z_]+\]|\$\{.*|(?-i:\$[A-Z_]\w*)|\{\{.*|%(?:\w+%|\(\w+\)s?|s)|none|null|true|false|yes|no|on|off|auto|default|"
    r"anonymous|(?:dis|en)abled|required|optional|unset|prompt|n/a|(?:hmac-?)?(?:sha|md|oauth|hs|rs|es)-?\d{1,4}|"
    r"(?:argon2|pbkdf2|[bs]crypt)\w{0,3}(?:[_\-]sha\d+)?|"
    r"env|vault|keyring|(?:os\.)?(?:environ|getenv)\b.*|[a-z_][\w.]*\((?:(?:['\"].*|[\w.]+\s?[=,].*|(?-i:[a-z_.]*))\))?|(?:env|vault|op|arn|file|keyring):.*|"
    r"(?:~|\.{0,2})[/\\].*|[A-Za-z]:\\.*|[\w.\-/\\]+\.(?:pem|key|crt|json|ya?ml|txt|toml|env|cfg|ini))?\s*",
    re.IGNORECASE | re.DOTALL,
)
# What the tokens of many issuers begin with.
ISSUERS = (
    r"gh[opsur]_|github_pat_|gl[a-z]{2,6}-|hf_|api_org_|sk-|[rs]k_(?:live|test)_|whsec_|npm_|pypi-|do[a-z]_v1_|r8_|gsk_|"
    r"xai-|nvapi-|pplx-|AIza|ya29\.|GOCSPX-|SG\.|shp[a-z]{2}_|lin_api_|ntn_|secret_|figd_|PMAK-|gl[sc]a?_|NRAK-|"
    r"hv[sb]\.|ATATT3|dckr_pat_|sbp_|sb_secret_|lsv2_[a-z]{2}_|pcsk_|tvly-|rubygems_|sntry[a-z]_|dp\.[a-z]{2}\.|"
    r"pscale_[a-z]+_|pul-|HRKU-|KGAT_|wandb_v1_|e2b_|AGE-SECRET-KEY-|xapp-|xox[a-z]-|sq0[a-z]{3}-|1//0|AKCp|"
    r"CFPAT-|dapi|atlasv1\.|tskey-|xkeysib-|xsmtpsib-|NR(?:II|JS|BR|AA)-|nfp_|fm[12]_|fo1_|vercel_blob_rw_|ph[xs]_|sgp_|"
    r"CCI(?:PAT|PRJ)_|EZ[AT]K|ATCTT3|ATBB|BBDC-|jina_|tgp_v1_|csk-|aio_|bkua_|v[1-4]\.local\.|EAA|oy2|cio"
)
_RUN = re.compile(r"[A-Za-z0-9]+")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
_KNOWN = sorted(
    _BEFORE_SECRET | _SECRET - {"secreta"} | _LEADING | _KEYS | _PLURALS | _words("pass pw"), key=len, reverse=True
)
_GLUED = re.compile("|".join(_KNOWN))
_ENDING = re.compile("(.{2,}?)(" + "|".join(["pwd", "pass", "pw", *(word for word in _SECRET if len(word) > 5)]) + ")")  # noqa: PLR2004
_PLAIN = {code: normalize("NFD", chr(code))[0] for code in (*range(0xC0, 0x180), *range(0x384, 0x3CF))} | {
    ord(a): b for a, b in zip("łŁøØ", "lLoO", strict=True)
}


@lru_cache(maxsize=8192)
def suspicion(name: str) -> Suspicion:
    """Return which values under a key, tag, option, header or environment variable are credentials.

    >>> [suspicion(name).name for name in ("AWS_SECRET_ACCESS_KEY", "hfToken", "max_tokens", "key_dim")]
    ['CERTAIN', 'IF_TEXT', 'NONE', 'NONE']
    """
    words = [word for part in _PARTS.findall(name[-400:].translate(_PLAIN)) for word in _unglue(part.lower())]
    while words and words[0] in _LEADING:
        words.pop(0)
    if not words or words[0] in _COUNTS:
        return Suspicion.NONE
    words = words[: next((place for place, word in enumerate(words) if place and word in _PREPOSITIONS), None)]
    if words[0] in _KEYS | _PLURALS | _words("pass password secret") and words[-1] in (_OPENS | _LOGINS) - {"vault"}:
        words = [*words[1:], words[0]]  # token_hf
    if "webhook" in words[-2:] and words[-1] in ("webhook", "url", "uri"):
        return Suspicion.IF_TEXT
    if words[-3:] == ["access", "key", "id"]:
        return Suspicion.IF_TEXT
    while words and words[-1] in _DECORATION:
        words.pop()
    if not words or is_property(words[-1]):
        return Suspicion.NONE
    level = max(_of_place(words, place) for place in range(len(words)))
    is_header = name[:2].lower() == "x-"  # X-Consul-Token
    return Suspicion.IF_MIXED if is_header and level is Suspicion.IF_RANDOM else level


def is_property(name: str) -> bool:
    """Say whether a name is of what surrounds a credential and opens nothing: ``host``, ``token_file``, ``user_id``."""
    words = _PARTS.findall(name)
    return bool(words) and words[-1].lower() in _PROPERTIES


def _unglue(word: str) -> list[str]:
    """Split ``pgpassword`` and ``apikey`` into their words, but neither ``monkey`` nor ``clstoken`` nor ``bypass``."""
    parts = _GLUED.findall(word)
    if word in _SECRET or "".join(parts) == word:
        return [word] if word in _SECRET else parts
    end = _ENDING.fullmatch(word)
    if not end or end[1] in _PASSES:
        return [word]
    return [end[1], "pass" if end[2] == "pw" else end[2]]


def _of_place(words: list[str], place: int) -> Suspicion:
    """Judge by one word and what stands around it; the first row that fits its noun decides."""
    noun, before, after = words[place], words[place - 1] if place else "", words[place + 1 :]
    if noun in _SECRET:
        if (_AFTER_SECRET | _BEFORE_SECRET).issuperset(after):
            return Suspicion.CERTAIN
        return Suspicion.IF_MIXED if noun in _PASSWORDS else Suspicion.IF_RANDOM
    rows = (row for row in _NOUNS if noun in row[0] and (row[1] is None or before in row[1]))
    is_datum = noun not in _KEYS | _PLURALS or _DATA.intersection(words)
    level = next((row[2] for row in rows), Suspicion.NONE if is_datum else Suspicion.IF_RANDOM)
    return min(level, Suspicion.IF_RANDOM) if after else level


def is_harmless(value: str) -> bool:
    """Say whether a text is no credential whatever it is called: a path, a switch, a reference to a variable."""
    return _HARMLESS.fullmatch(value) is not None


def looks_random(text: str) -> bool:
    """Say whether a text looks generated; ``vit-base-patch16-224`` and ``UNet2DConditionModel`` do not."""
    letters = "".join(_RUN.findall(text))
    if re.search(r"\s", text) or letters.isdecimal() or not re.search(r"[A-Za-z0-9]{12}", text):
        return False
    if re.fullmatch(r"[a-z0-9_.\-]+(?:/[a-z0-9_.\-]+)+", text):  # a path: base64 has capitals
        return False
    if re.search(r"(?=\D*(?:\d\D*){3})(?:[a-z0-9]{20}|[A-Z0-9]{20})", text):
        return True
    changes = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", letters)
    return len(letters) >= _RANDOM_LENGTH and len(letters) < _RANDOM_WORD * len(changes)


def is_issued(tail: str) -> bool:
    """Say whether a token follows an issuer's prefix; ``internal_testing_model`` after ``hf_`` is no token."""
    runs = [run for run in _RUN.findall(tail) if len(run) >= _RANDOM_LENGTH]
    if (len(tail) >= _RANDOM_LENGTH and is_odd(tail)) or re.search(r"-[0-9a-f]{4}-[0-9a-f]{12}$", tail):
        return True
    return any(len(run) >= _WORD_LENGTH or not run.isalpha() or not run.islower() for run in runs)


def is_odd(text: str) -> bool:
    """Say whether a text mixes small letters, capitals, and digits or signs."""
    return all(re.search(c, text) for c in ("[a-z]", "[A-Z]", r"\d|[!@#$%^*+~?&]"))


def _is_mixed(text: str) -> bool:
    """Say whether a text is more than words and numbers: ``hunter2`` and ``p@ssword`` are, ``resnet-50`` is not."""
    parts = re.split(r"[\s_.,:;\-/()=]+", text)
    if re.fullmatch(r"(?=.*\d)[A-Z\d]{4,8}(?:-[A-Z\d]{4,8}){2,}", text):  # a licence: K7Q2-9XWT-PL3M
        return True
    return any(
        len(part) >= _MIXED_LENGTH and re.search(r"[A-Za-z]", part) and re.search(r"[\d!@#$%^*+~?&]", part)
        for part in parts
    )


def is_secret(value: str, level: Suspicion) -> bool:
    """Say whether a text under a name of this suspicion is a credential."""
    if level is Suspicion.NONE or is_harmless(value):
        return False
    if level is Suspicion.CERTAIN:
        return True
    if level is Suspicion.IF_TEXT:
        return not re.fullmatch(r"[\d.\-+]{1,6}", value)
    if level is Suspicion.IF_MIXED:
        return _is_mixed(value) or looks_random(value)
    login = re.fullmatch(r"[^\s:/]{1,100}([:/])((?!\d+$)[^\s/]{4,})", value) if level is Suspicion.IF_LOGIN else None
    return looks_random(value) or (login is not None and (login[1] == ":" or _is_mixed(login[2])))
