"""Credentials in text: known formats, and ``name=value`` in the ways that settings, headers and commands write it."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable
from functools import partial

from mlflow_ddpm.core.secret_names import Suspicion, suspicion

HIDDEN = "***"
_MIXED_LENGTH = 5
_RANDOM_LENGTH, _RANDOM_WORD = 16, 2.7  # generated texts change between cases and digits more often than words do
_RUN_LENGTH, _WORD_LENGTH = 16, 24  # letters and digits without a break that a token has and a word has not

# No credential whatever its name is: nothing, hidden already, a switch, a special token ([CLS], <pad>), an algorithm, a
# variable ($X, {{ x }}), a call, a path.
_HARMLESS = re.compile(
    r"\s*(?:\*+|<[^>]*>|\[[A-Za-z_]+\]|\$\{.*|(?-i:\$[A-Z_]\w*)|\{\{.*|%\(?\w+\)?s?%?|none|null|true|false|yes|no|on|off|auto|default|"
    r"anonymous|(?:dis|en)abled|required|optional|unset|prompt|n/a|(?:hmac-?)?(?:sha|md|oauth|hs|rs|es)-?\d{1,4}|"
    r"env|vault|keyring|(?:os\.)?(?:environ|getenv)\b.*|[A-Za-z_][\w.]*\((?:.*\))?|(?:env|vault|op|arn|file|keyring):.*|"
    r"(?:~|\.{0,2})[/\\].*|[A-Za-z]:\\.*|[\w.\-/\\]+\.(?:pem|key|crt|json|ya?ml|txt|toml|env|cfg|ini))?\s*",
    re.IGNORECASE | re.DOTALL,
)
_RUN = re.compile(r"[A-Za-z0-9]+")
_PROSE = re.compile(
    r"(?:required|missing|invalid|incorrect|wrong|must|not|is|was|expected|expired|got|unexpected)\b", re.IGNORECASE
)
_END = re.compile(r"[ \"']*(?:\Z|[\n#,;})])")


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


def _is_mixed(text: str) -> bool:
    """Say whether a text is more than words and numbers: ``hunter2`` and ``p@ssword`` are, ``resnet-50`` is not."""
    parts = re.split(r"[\s_.,:;\-/()=]+", text)
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
    is_login = level is Suspicion.IF_LOGIN and re.fullmatch(r"[^\s:/]{1,100}:(?!\d+$)[^\s/]{4,}", value)
    return bool(is_login) or looks_random(value)


Match = re.Match[str]  # its group "secret" may be a credential; "name" is what it is called


def _always(_: Match) -> bool:
    return True


def _suspicion(match: Match) -> Suspicion:
    """Take the word before a name with it: ``api key = abc123``."""
    groups = match.groupdict()
    return max(suspicion(match["name"]), suspicion(f"{groups.get('before') or ''} {match['name']}"))


def _named(match: Match) -> bool:
    return is_secret(match["secret"], _suspicion(match))


def _in_query(match: Match) -> bool:
    is_signature = re.search(r"\bsig$|signature$|credential$", match["name"], re.IGNORECASE)
    return is_secret(match["secret"], Suspicion.CERTAIN if is_signature else suspicion(match["name"]))


def _after_colon(match: Match) -> bool:
    """Read ``token: abc`` as a setting where it is a line, and elsewhere as words of a sentence."""
    level, text, (start, end) = _suspicion(match), match.string, match.span()
    is_at_start = not text[text.rfind("\n", 0, start) + 1 : start].strip(" -{\"'")
    is_at_end = _END.match(text, end) is not None
    if not is_at_end or (level < Suspicion.CERTAIN and not is_at_start):
        level = min(level, Suspicion.IF_MIXED)
    return not _PROSE.match(match["secret"]) and is_secret(match["secret"], level)


def _after_name(match: Match) -> bool:
    """Read ``ENV HF_TOKEN abc123``, but not ``HF_TOKEN missing``."""
    return suspicion(match["name"]) >= Suspicion.IF_MIXED and _mixed(match)


def _in_sentence(match: Match) -> bool:
    """Read ``the API_TOKEN is abc123``, but neither ``the token is missing`` nor ``key 'conv1' is missing``."""
    level = _suspicion(match)
    most = Suspicion.IF_MIXED if level >= Suspicion.IF_TEXT else Suspicion.IF_RANDOM
    return is_secret(match["secret"], min(level, most))


def _after_words(match: Match) -> bool:
    """Read ``Incorrect API key provided: abc123`` and ``access key aB3$d``, but not ``access key rotation``."""
    if _suspicion(match) < Suspicion.IF_MIXED:
        return False
    is_odd = all(re.search(c, match["secret"]) for c in ("[a-z]", "[A-Z]", r"\d|[!@#$%^*+~?&]"))
    is_given = match["words"].rstrip().endswith(":") if match["words"] else is_odd
    return _random(match) or (is_given and _suspicion(match) >= Suspicion.IF_TEXT and _mixed(match))


def _random(match: Match) -> bool:
    return looks_random(match["secret"])


def _mixed(match: Match) -> bool:
    return is_secret(match["secret"], Suspicion.IF_MIXED)


def _in_path(match: Match) -> bool:
    """Take the part of an address that a service has made up; ``hooks/tree/v1`` and ``hooks/usestate18`` are none."""
    parts = re.findall(r"\w{10,}", match["secret"])
    return "-4" in match["secret"] or any(not re.fullmatch(r"[A-Za-z_]+\d{0,4}", part) for part in parts)


def _login(match: Match) -> bool:
    """Take ``user:password`` before a host's "@", or a token; a user's name alone is no secret."""
    is_web = match["scheme"].lower().endswith(("http", "https"))
    return ":" in match["secret"] or is_secret(match["secret"], Suspicion.IF_MIXED if is_web else Suspicion.IF_RANDOM)


def _basic(match: Match) -> bool:
    """Take base64 of ``user:password``, and what ends as base64 does; ``Basic UNet`` is neither."""
    with contextlib.suppress(ValueError):
        return match["secret"].endswith("=") or b":" in base64.b64decode(match["secret"] + "===")
    return False


def _issued(match: Match) -> bool:
    """Take what follows an issuer's prefix if it is no words: ``hf_internal_testing_model`` is no token."""
    runs = [run for run in _RUN.findall(match["tail"]) if len(run) >= _RUN_LENGTH]
    return _generated(match) or any(len(run) >= _WORD_LENGTH or not run.isalpha() or not run.islower() for run in runs)


def _generated_tail(match: Match) -> bool:
    return _generated(match) and looks_random(match["tail"])


def _generated(match: Match) -> bool:
    """Take small letters, capitals and digits, mixed: no checksum and no name has all three so long."""
    return len(match["tail"]) >= _RUN_LENGTH and all(re.search(c, match["tail"]) for c in ("[a-z]", "[A-Z]", r"\d"))


_NAME = r"(?P<name>[A-Za-z_][\w.\-]{0,60})"
_START = r"(?<![\w.\-/\\])"
_NOUN = rf"{_START}(?:(?P<before>[A-Za-z]{{2,15}})[ ])?-{{0,2}}{_NAME}"  # "access key" as well as "access_key"
_BARE = r"[^\s,;&'\"<>]+"
_TEXT = r"(?:(?!(?P=q)).)+"  # up to the quote that it began with
_QUOTED = rf"\\?(?P<q>['\"])(?P<secret>{_TEXT})"
_VALUE = rf"(?:\\?(?P<q>['\"]))?(?P<secret>(?(q){_TEXT}|{_BARE}))"
_PREFIXES = (
    r"gh[opsur]_|github_pat_|gl[a-z]{2,6}-|hf_|api_org_|sk-|[rs]k_(?:live|test)_|whsec_|npm_|pypi-|do[a-z]_v1_|r8_|gsk_|"
    r"xai-|nvapi-|pplx-|AIza|ya29\.|GOCSPX-|SG\.|shp[a-z]{2}_|lin_api_|ntn_|secret_|figd_|PMAK-|gl[sc]a?_|NRAK-|"
    r"hv[sb]\.|ATATT3|dckr_pat_|sbp_|sb_secret_|lsv2_[a-z]{2}_|pcsk_|tvly-|rubygems_|sntry[a-z]_|dp\.[a-z]{2}\.|"
    r"pscale_[a-z]+_|pul-|HRKU-|KGAT_|wandb_v1_|e2b_|AGE-SECRET-KEY-|xapp-|xox[a-z]-|sq0[a-z]{3}-|1//0|AKCp|CFPAT-|dapi"
)
_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)"
_FIELD = r"\\?['\"]?{}\\?['\"]?"  # in JSON, YAML or XML, within quotes or not
_PASSWORD = r"(?:password|passwd|passphrase)"  # noqa: S105
_SCHEMES = r"(?>(?:(?:Bearer|Basic|Bot|Token|Digest|\w{0,9}Key|Negotiate|AWS4[\w\-]*)\s+)?)"
# Programs whose short option takes a password; 7z and mysql take it without a space.
_PROGRAMS = (
    r"(?:sshpass|\w*login|mysql\w*|mariadb\w*|mongo\w*|mosquitto_\w+|redis-cli|ldap\w+|sqlcmd|plink|pscp|7za?|openssl)"
)
_CREDENTIAL_CALL = (
    r"(?:\w{0,40}(?:Auth(?=\([^()]{1,80},)|Secret(?:Str|Bytes)?|Credentials?|Password)|\bauth['\"]?\s?[:=]\s?)"
)
# Everything that repeats is bounded, or starts at the start of a word: a long text takes time in proportion.
_RULES: tuple[tuple[Callable[[Match], bool], str], ...] = (
    (_always, rf"(?s:(?P<secret>{_PEM}))"),
    # scheme://user:password@ and scheme://token@; a password may hold "@" and, as SQLAlchemy reads it, "/"
    (
        _login,
        (
            r"(?!ssh://git@)\b(?P<scheme>[A-Za-z][\w+.\-]{0,40})://"
            r"(?P<secret>[^/\s]{1,500}|[^/\s:@]{0,100}:(?!\d{1,5}/)[^\s'\"]{1,500})@"
        ),
    ),
    (_mixed, r"(?<![\w/.\-])[\w.+\-]{1,60}:(?P<secret>[^\s:@/'\"]{4,100})@(?:localhost|[\w\-]+\.[\w\-.]+)"),
    (_mixed, r"(?m:^[^\s:/]{1,100}:(?:\d{2,5}|\*):[^\s:/]{1,60}:[^\s:/]{1,60}:(?P<secret>\S{1,200})$)"),  # .pgpass
    # webhooks: the path is the secret
    (_always, r"(?i:https?://(?:[^\s/]{0,100}\.)?(?:web)?hooks?\.[^\s/]+/(?P<secret>[^\s'\"<>]*\d[^\s'\"<>]{5,}))"),
    (_in_path, r"(?i:https?://[^\s?]{1,100}?/(?:(?:web)?hook(?:s|b2)?/|bot(?=\d))(?P<secret>[^\s'\"<>]{6,}))"),
    (
        _random,
        r"(?i:https?://[^\s?]{1,100}?/(?:api-?keys?|keys?|tokens?|secrets?|integration)/(?P<secret>[^\s/?#'\"<>]{16,}))",
    ),
    (_in_query, rf"[?&#]{_NAME}=(?P<secret>[^&#\s'\"]+)"),
    # headers whose whole line is the secret
    (_always, r"(?i:\b(?:Set-)?Cookie['\"]?\s*:\s*['\"]?(?P<secret>[^\s=;'\"]+=[^\n'\"]+))"),
    (_mixed, rf"(?i:\bAuthorization['\"]?\s*[:=]\s*['\"]?{_SCHEMES}(?P<secret>(?!\*\*\*)[^\s'\"][^\n'\"]*))"),
    (_mixed, r"(?i:\bBearer\s+(?P<secret>[\w.~+/\-]{8,}=*))"),
    (_basic, r"(?i:\bBasic\s+(?P<secret>[A-Za-z0-9+/]{8,}=*))"),
    # {"name": "HF_PASSWORD", "value": "..."}, as JSON, YAML and XML write it
    (
        _named,
        (
            rf"\b(?:name|key){_FIELD.format('')}\s?[:=]\s?{_FIELD.format(_NAME)},?\s{{1,20}}{_FIELD.format('value')}\s?[:=]\s?"
            r"\\?['\"]?(?P<secret>[^\n'\"]+)"
        ),
    ),
    # "password": "..." and password='...', as JSON, Python and shells write them; password: '...' in YAML
    (_named, rf"{_START}(?P<n>\\?['\"]){_NAME}(?P=n)\]?\s{{0,9}}[:=]\s{{0,9}}{_QUOTED}"),
    (
        _named,
        rf"{_NOUN}(?:=(?![\s=])|\s{{1,9}}=\s{{1,9}}|=\s{{1,9}}(?=['\"])|\s{{1,9}}=(?=['\"])){_VALUE}",
    ),
    (_after_colon, rf"{_NOUN}['\"]?:[ \t]{{0,9}}(?:[|>][+\-]?\s{{1,20}})?{_VALUE}"),
    (_named, rf"<{_NAME}>\s*(?P<secret>[^<>\n]+?)\s*</"),  # XML
    (_always, rf"{_CREDENTIAL_CALL}\((?:[^()]{{1,80}},\s?)?{_QUOTED}"),
    # command lines, also as Python shows a list
    (_named, rf"(?P<n>['\"])--?{_NAME}(?P=n),\s?{_QUOTED}"),
    (_named, rf"(?<!\S)--?{_NAME}\s+(?!-){_VALUE}"),
    (_after_name, rf"(?:^|\s)(?P<name>[A-Z][A-Z0-9]*_[A-Z0-9_]+|[a-z]+_[a-z_]+)\s+(?![A-Z0-9]+_){_VALUE}"),
    (_always, r"(?<!\S)(?:-[uU]|--user|--proxy-user)[\s=]?['\"]?[^\s:%'\"]+[:%](?P<secret>(?!\d+\b)[^\s'\"]+)"),
    (_mixed, rf"\b(?:{_PROGRAMS}\b[^|;\n]{{0,80}}?\s-[pPawk]|(?:un)?zip\b[^|;\n]{{0,80}}?\s-P)\s?{_VALUE}"),
    (_random, rf"\b(?:login|\w{{0,20}}auth\w{{0,20}}(?::token)?)\s+(?:--?[\w\-]{{1,30}}\s+){{0,3}}{_VALUE}"),
    (_always, rf"\b(?:echo|printf)\s+(?:-n\s+)?{_VALUE}['\"]?\s*\|[^|\n]{{0,100}}(?:-stdin|\bsudo\s+-S)\b"),
    # sentences
    (_always, rf"(?i:\b(?:{_PASSWORD}|IDENTIFIED\s+BY)\s+(?:is\s+)?{_QUOTED})"),
    (_mixed, rf"(?i:\b{_PASSWORD}\s+(?:(?:is|was)\s+)?(?P<secret>{_BARE}))"),
    (_in_sentence, rf"{_NOUN}\s+(?:(?:is|was|->|=>|:=)\s+)?{_QUOTED}"),
    (_in_sentence, rf"{_NOUN}\s+(?:is|was|->|=>|:=)\s+(?P<secret>{_BARE})"),
    (
        _after_words,
        (
            r"(?i:\b(?:(?P<before>[a-z]{2,15})[ _\-])?(?P<name>\w{0,30}(?:key|token|secret|pass\w{0,8}|pwd|credential)s?))\s+"
            rf"(?P<words>(?:[a-z]{{2,12}}:?\s){{0,3}})\s{{0,9}}[\[(]?{_VALUE}"
        ),
    ),
    # what issuers give out; then AWS, Twilio and Mailgun, JSON web tokens, Telegram, Discord, hashes of passwords
    (_issued, rf"(?<![A-Za-z0-9])(?P<secret>(?:{_PREFIXES})(?P<tail>[\w.\-]{{10,}}))"),
    (
        _generated_tail,
        (
            r"(?<![\w\-./\\])(?P<secret>[A-Za-z]{2,12}\d?(?:[_\-][A-Za-z0-9]{1,6}){0,2}[_\-.]"
            r"(?P<tail>[A-Za-z0-9]{24,}))(?![.\w\-]*\.\w{2,11}\b)"
        ),
    ),
    (_always, r"(?<![\w\-])(?P<secret>xox[a-z]-[\w\-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|(?:SK|key-)[0-9a-f]{32})\b"),
    (_always, r"(?<![\w\-])(?P<secret>eyJ[\w\-]{6,}\.[\w\-]{4,}(?:\.[\w\-]*)*|eyJ[\w\-]{60,}=*)"),
    (_always, r"(?<!\w)(?P<secret>\d{8,10}:[\w\-]{35}|[MNO][\w\-]{23,25}\.[\w\-]{6}\.[\w\-]{27,})\b"),
    (_always, r"(?P<secret>\$(?:2[abxy]|[1567y]|apr1|argon2\w{1,2}|scrypt|pbkdf2[\w\-]*)\$[\w./$,=+\-]{20,})"),
)
_COMPILED = tuple((rule, re.compile(pattern)) for rule, pattern in _RULES)


def hide_in_text(text: str) -> tuple[str, list[str]]:
    """Return the text without credentials, and the credentials that were in it."""
    found: list[str] = []

    def replace(rule: Callable[[Match], bool], match: Match) -> str:
        if match["secret"] == HIDDEN or not rule(match):
            return match[0]
        found.append(match["secret"].partition(":")[2] or match["secret"])
        start, end = (place - match.start() for place in match.span("secret"))
        return match[0][:start] + HIDDEN + match[0][end:]

    for rule, pattern in _COMPILED:
        text = pattern.sub(partial(replace, rule), text)
    return text, found
