"""Credentials in text: known formats, and ``name=value`` in the ways that settings, headers and commands write it."""

import base64
import contextlib
import re
from collections.abc import Callable, Iterator

from mlflow_ddpm.core.secret_names import ISSUERS, Suspicion, is_issued, is_odd, is_secret, looks_random, suspicion

HIDDEN = "***"
_NESTED_LENGTH = 400  # a longer value is not read again for what is in it, so that time stays in proportion
_INDENT = 200  # a name that stands farther to the right starts no line

_PROSE = re.compile(r"(?i:required|missing|invalid|incorrect|wrong|must|not|is|was|expected|expired|got|unexpected)\b")
_KIND = re.compile(r"(?:^|[_\-])(?:[rs]k|pat|api|apikey|live|secret|token|auth|svc)[_\-]")
_END = re.compile(r"[ \"']*(?:\Z|[\n#,;})])")
Match = re.Match[str]  # its group "secret" may be a credential; "name" is what it is called


def _always(_: Match) -> bool:
    return True


def _suspicion(match: Match) -> Suspicion:
    """Take the word before a name with it: ``api key = abc123``. In a program, a name may stand for its own value."""
    groups, value = match.groupdict(), match["secret"].strip("[]()")
    is_in_program = value.replace(".", "").isidentifier() and re.search(r"\B[A-Z]|[._)\]]", match["secret"])
    if is_in_program and value.rpartition(".")[2].lstrip("_").lower() == match["name"].lower().replace("-", "_"):
        return Suspicion.NONE  # --hf-token HF_TOKEN, password=self._password; a mere word may be the password
    return max(suspicion(match["name"]), suspicion(f"{groups.get('before') or ''} {match['name']}"))


def _named(match: Match) -> bool:
    return is_secret(match["secret"], _suspicion(match))


def _block(match: Match) -> bool:
    return _named(match) or ("kind: Secret" in match.string and match["name"] in ("data", "stringData"))


def _in_query(match: Match) -> bool:
    is_signature = re.search(r"\bsig$|signature$|credential$", match["name"], re.IGNORECASE)
    return is_secret(match["secret"], Suspicion.CERTAIN if is_signature else suspicion(match["name"]))


def _after_colon(match: Match) -> bool:
    """Read ``token: abc`` as a setting where it is a line, and elsewhere as words of a sentence."""
    level, text, (start, end) = _suspicion(match), match.string, match.span()
    is_at_start = not text[max(0, start - _INDENT) : start].rpartition("\n")[2].strip(" -{\"'")
    is_at_end = _END.match(text, end) is not None
    if text[start - 1 : start] == ":":  # a part of a longer name: arn:aws:...:secret:name
        return False
    if not is_at_end or (level < Suspicion.CERTAIN and not is_at_start):
        level = min(level, Suspicion.IF_MIXED)
    return not _PROSE.match(match["secret"]) and is_secret(match["secret"], level)


def _header(match: Match) -> bool:
    return (match["scheme"] is not None and not _PROSE.match(match["secret"])) or _mixed(match)


def _after_name(match: Match) -> bool:
    """Read ``ENV HF_TOKEN abc123``, but neither ``HF_TOKEN missing`` nor the columns ``user_token class10``."""
    is_value = _mixed(match) if match["name"].isupper() else is_odd(match["secret"]) or _random(match)
    return is_value and suspicion(match["name"]) >= Suspicion.IF_MIXED


def _in_sentence(match: Match) -> bool:
    """Read ``the API_TOKEN is abc123``, but neither ``the token is missing`` nor ``key 'conv1' is missing``."""
    level = _suspicion(match)
    if level is Suspicion.IF_MIXED:
        return _random(match) or (match["verb"] is not None and _used(match))
    return is_secret(match["secret"], min(level, Suspicion.IF_MIXED))


def _option(match: Match) -> bool:
    return is_secret(match["secret"], Suspicion.IF_TEXT)


def _used(match: Match) -> bool:
    """Read ``with the token x7Gt2`` and ``using token ab12cd34``, but not ``using token mixing2``."""
    return _mixed(match) and (is_odd(match["secret"]) or bool(re.search(r"\d[a-z]+\d", match["secret"])))


def _after_words(match: Match) -> bool:
    """Read ``Incorrect API key provided: abc123`` and ``access key aB3$d``, but not ``access key rotation``."""
    if _suspicion(match) < Suspicion.IF_MIXED:
        return False
    is_given = match["words"].rstrip().endswith(":") if match["words"] else is_odd(match["secret"])
    return _random(match) or (is_given and _suspicion(match) >= Suspicion.IF_TEXT and _mixed(match))


def _random(match: Match) -> bool:
    return looks_random(match["secret"])


def _mixed(match: Match) -> bool:
    return is_secret(match["secret"], Suspicion.IF_MIXED)


def _sure(match: Match) -> bool:
    return match["sure"] is not None or _mixed(match)


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
    return is_issued(match["tail"])


def _generated(match: Match) -> bool:
    """Take what ends in letters and digits at random: after ``api_`` any, elsewhere those that no checksum has."""
    return looks_random(match["tail"]) and (is_odd(match["tail"]) or _KIND.search(match["secret"]) is not None)


_NAME = r"(?P<name>[A-Za-z_][\w.\-]{0,60})"
_START = r"(?:(?<![\w.\-/\\])|(?<=\\[nrt]))"  # also after the "\n" of a text that Python shows
_NOUN = rf"{_START}(?:(?P<before>[A-Za-z]{{2,15}})[ ])?-{{0,2}}{_NAME}"  # "access key" as well as "access_key"
_ASKED = rf"(?:[?&#]|%3B|%26|%3F|{_START}(?=[\w.\-]{{1,61}}%3D))"  # before a name in a query
_ADDRESS = r"https?://[^\s?]{1,100}?/"
_BARE = r"[^\s,;&'\"`<>]+"
_TEXT = r"(?:(?!(?P=q)).)+"  # up to the quote that it began with
_QUOTED = rf"\\?(?P<q>['\"]{{3}}|['\"`])(?P<secret>{_TEXT})"
_VALUE = rf"(?:\\?(?P<q>['\"]{{3}}|['\"`]))?(?P<secret>(?(q){_TEXT}|{_BARE}))"
_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)"
_FIELD = r"\\?['\"]?{}\\?['\"]?"  # in JSON, YAML or XML, within quotes or not
_PASSWORD = r"(?:password|passwd|passphrase|pwd)"  # noqa: S105
_SCHEME = r"(?P<scheme>(?:Bearer|Basic|Bot|Token|Digest|\w{0,9}Key|Negotiate|AWS4[\w\-]*)\s+|(?=[\w.\-]+=))?+"
_LINE = r"(?:[^\n'\"]|(?<==)\"[^\n\"]*\")+"  # up to the quote that ends it: Digest username="bob", response="1f" is one
# A key without a value, and what is indented below it, as YAML writes lists and mappings.
_BLOCK = (
    rf"^(?P<indent>[ ]{{0,40}})(?:- )?(?=.{{0,60}}(?:pass|pw|secret|cred|token|key|data)){_NAME}:[ ]*\n"
    r"(?P=indent)(?:[ ]+(?:- )?|- )(?P<secret>\S.*(?:\n(?P=indent)(?:[ ]+|- )\S.*)*)"
)
# Programs whose short option takes a password, with a space or without; of the last ones without a space alone.
_ARGUMENTS = r"\b[^|;\n]{0,80}?\s"
_OPTIONS = (
    rf"\b(?:(?:sshpass|\w*login|mongo\w*|cqlsh|rdesktop|psexec|useradd|usermod|ncftp\w*|snowsql){_ARGUMENTS}-p|"
    rf"(?:(?:un)?zip|sqlcmd|[iot]sql|bcp|mosquitto_\w+|ipmitool|ssh-keygen){_ARGUMENTS}-P|ssh-keygen{_ARGUMENTS}-N|"
    rf"redis-cli{_ARGUMENTS}-a|ldap\w+{_ARGUMENTS}-w|openssl{_ARGUMENTS}-[kK]|(?:plink|pscp|psftp){_ARGUMENTS}-pw|"
    rf"(?:mysql\w*|mariadb\w*|7z[ar]?|(?:un)?rar){_ARGUMENTS}-h?p(?=\S)|"
    r"htpasswd\s+(?=-\w*b)(?:-\w*n\w*|-\w+\s+\S+)\s+\S+|(?:wpa_passphrase|add_user|lftp\s+-u|https?\s+-a)\s+[^\s,:]+[\s,:])"
)
_CREDENTIAL_CALL = r"(?i:(?:Auth(?=\([^()]{1,80},)|Secret(?:Str|Bytes)?|Credentials?|Password)|\bauth['\"]?\s?[:=]\s?)"
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
    # the same without a scheme; as Go and others write it, any word is a password: user:password@tcp(host:3306)/name
    (
        _sure,
        (
            r"(?<![\w/.\-])[\w.+\-]{1,60}:(?P<secret>[^\s:@/'\"]{1,100})@(?!sha\d)"
            r"(?:(?P<sure>\w{2,12}\(|[\w.\-]{1,100}:\d{2,5}/\w)|localhost|[\w\-]+(?:\.[\w\-.]+|:\d{2,5}|/\w))"
        ),
    ),
    (_always, r"(?:\boracle:\w{1,9}:|\bsqlplus\s+)\w{1,60}/(?P<secret>[^\s@]{1,100})@"),
    (_mixed, r"(?m:^[^\s:/]{1,100}:(?:\d{2,5}|\*):[^\s:/]{1,60}:[^\s:/]{1,60}:(?P<secret>\S{1,200})$)"),  # .pgpass
    # webhooks: the path is the secret
    (
        _always,
        r"(?i:https?://(?:[^\s/]{0,100}\.)?(?:web)?hooks?\.[^\s/]{1,100}/(?P<secret>(?=[^\s'\"<>]{0,200}\d)[^\s'\"<>]{6,}))",
    ),
    (_in_path, rf"(?i:{_ADDRESS}(?:(?:web)?hook(?:s|b2)?/|bot(?=\d))(?P<secret>[^\s'\"<>]{{6,}}))"),
    (_random, rf"(?i:{_ADDRESS}(?:api-?keys?|keys?|tokens?|secrets?|integration|t)/(?P<secret>[^\s/?#'\"<>]{{16,}}))"),
    # also an address within an address: ?odbc_connect=UID%3Dbob%3BPWD%3Dhunter2
    (
        _in_query,
        rf"(?i:{_ASKED}{_NAME}(?:=|(?P<e>%3D))(?P<secret>(?(e)(?:(?!%3B|%26)[^&#\s'\"])+|[^&#\s'\"]+)))",
    ),
    # headers whose whole line is the secret
    (_header, rf"(?i:\b(?:Authorization|Cookie)['\"]?\s*[:=]\s*['\"]?{_SCHEME}(?P<secret>(?!\*\*\*){_LINE}))"),
    (_always, r"(?i:\bBearer\s+(?P<secret>(?=\S*\d)[\w.~+/\-]{8,}=*))"),
    (_basic, r"(?i:\bBasic\s+(?P<secret>[A-Za-z0-9+/]{8,}=*))"),
    # {"name": "HF_PASSWORD", "value": "..."}, as JSON, YAML and XML write it
    (
        _named,
        (
            rf"\b(?:name|key){_FIELD.format('')}\s?[:=]\s?{_FIELD.format(_NAME)},?\s{{1,20}}{_FIELD.format('value')}\s?[:=]\s?"
            r"\\?['\"]?(?P<secret>[^\n'\"]+)"
        ),
    ),
    # a field of a form: name="password", then other headers and an empty line, then the value
    (_named, rf"(?i:\bname=\"{_NAME}\"[^\n]{{0,200}}\n(?:[\w\-]+:[^\n]{{0,200}}\n){{0,3}}\r?\n(?P<secret>[^\r\n]+))"),
    (_named, rf"(?m:^{_NAME}\n  [^\n]{{1,300}}?\binput_value={_QUOTED})"),  # an error of pydantic's
    # "password": "..." and password='...', as JSON, Python and shells write them; password: '...' in YAML
    (_named, rf"{_START}(?P<n>\\?['\"]){_NAME}(?P=n)\]?\s{{0,9}}[:=]\s{{0,9}}{_QUOTED}"),
    (
        _named,
        rf"{_NOUN}(?:=(?![\s=])|\s{{1,9}}=\s{{1,9}}|=\s{{1,9}}(?=['\"])|\s{{1,9}}=(?=['\"])){_VALUE}",
    ),
    (_after_colon, rf"{_NOUN}(?:['\"]|[*_`]{{1,2}})?[ \t]?:[*_`]{{0,2}}[ \t]{{0,9}}(?:[|>][+\-]?\s{{1,20}})?{_VALUE}"),
    (_block, rf"(?mi:{_BLOCK})"),
    (_named, rf"<(?:\w{{1,20}}:)?{_NAME}(?:\s[^<>]{{0,200}})?>\s*(?P<secret>[^<>\n]+?)\s*</"),  # XML
    (_sure, rf"(?:{_CREDENTIAL_CALL}(?P<sure>)|\blogin)\((?:[^()]{{1,80}}[,=]\s?)?{_QUOTED}"),
    # command lines, also as Python shows a list
    (_named, rf"(?<![^\s'\"])--?{_NAME}(?:\s+|['\"],\s?(?=['\"]))(?!-){_VALUE}"),
    (_named, rf"(?<!\S)/{_NAME}:{_VALUE}"),  # of Windows
    (
        _after_name,
        rf"(?:(?:^|\s)(?=[A-Za-z][A-Za-z0-9]*_)|\b(?:ENV|set\w{{0,3}})\s+(?:-\w+\s+)?)(?P<name>[A-Za-z]\w*)\s+(?![A-Z0-9]+_){_VALUE}",
    ),
    (
        _always,
        r"(?<!\S)(?:-[uU]|--user|--proxy-user|--auth)[\s=]?['\"]?[^\s:%/'\"]+[:%](?P<secret>(?!\d+\b|/)[^\s'\"]+)",
    ),
    (_option, rf"{_OPTIONS}\s?{_VALUE}"),
    (_random, rf"\b(?:login|\w{{0,20}}auth\w{{0,20}}(?::token)?)\s+(?:--?[\w\-]{{1,30}}\s+){{0,3}}{_VALUE}"),
    (_always, rf"\b(?:echo|printf)\s+(?:-n\s+)?{_VALUE}['\"]?\s*\|[^|\n]{{0,100}}(?:-stdin|\bsudo\s+-S)\b"),
    # sentences
    (
        _sure,
        (
            rf"(?i:\b(?:{_PASSWORD}|IDENTIFIED\s+BY|SecureString|(?:user(?:name)?|login)\s+\S{{1,60}}\s+(?:and\s+)?(?:pass|pwd?))"
            rf"\s+(?:(?:is|was|of|<<<)\s+)?(?P<sure>(?=\\?['\"`]))?{_VALUE})"
        ),
    ),
    (
        _used,
        (
            r"(?i:\b(?:with|using|used?|by|sent|tried)\s+(?:(?:the|this|my|our|an?)\s+)?(?:[a-z]{2,12}\s+)?"
            rf"(?:token|api[ _\-]?key|access[ _\-]key|secret|{_PASSWORD}|credentials?)\s+{_VALUE})"
        ),
    ),
    (_in_sentence, rf"{_NOUN}\s+(?:(?P<verb>is|was|->|=>|:=|→)\s+|(?=\\?['\"`])){_VALUE}"),
    (
        _after_words,
        (
            r"(?i:\b(?:(?P<before>[a-z]{2,15})[ _\-])?"
            r"(?P<name>\w{0,30}(?:key|token|secret|pass\w{0,8}|pwd|credential)s?))\s+"
            rf"(?P<words>(?:[a-z]{{2,12}}:?\s){{0,3}})\s{{0,9}}[\[(]?{_VALUE}"
        ),
    ),
    # JSON web tokens; what issuers give out; then AWS, Twilio and Mailgun, Telegram, Discord, hashes of passwords
    (_always, r"(?<![\w\-])(?P<secret>eyJ[\w\-]{6,}\.[\w\-]{4,}(?:\.[\w\-]*)*|eyJ[\w\-]{60,}=*|[0-9a-f]{32}-us\d+)"),
    (_issued, rf"(?<![A-Za-z0-9])(?P<secret>(?:{ISSUERS})(?P<tail>[\w.\-]{{10,}}))"),
    (
        _generated,
        (
            r"(?<![\w\-./\\])(?P<secret>[A-Za-z]{2,12}\d?(?:[_\-.][A-Za-z0-9]{1,24}){0,3}[_\-.]"
            r"(?P<tail>[A-Za-z0-9]{24,}+))(?![.\w\-]*\.\w{2,11}\b)"
        ),
    ),
    (_always, r"(?<![\w\-])(?P<secret>xox[a-z]-[\w\-]{10,}|A[KS]IA[A-Z0-9]{12,}|(?:SK|key-|pat\w+\.)[0-9a-f]{32,})\b"),
    (_always, r"(?<!\w)(?P<secret>\d{8,10}:[\w\-]{30,40}|[MNO][\w\-]{23,25}\.[\w\-]{6}\.[\w\-]{27,})\b"),
    (_always, r"(?P<secret>\$(?:2[abxy]|[1567y]|apr1|argon2\w{1,2}|scrypt|pbkdf2[\w\-]*)\$[\w./$,=+\-]{20,})"),
)
_GUESSES = (_generated, _in_path, _random)
_COMPILED = tuple((rule, re.compile(pattern)) for rule, pattern in _RULES)


def hide_in_text(text: str) -> tuple[str, list[str]]:
    """Return the text without credentials, and those that are no guesses: they may be searched for elsewhere."""
    found: list[str] = []
    for rule, pattern in _COMPILED:
        if pattern.search(text):  # few texts have any
            text = "".join(_pieces(rule, pattern, text, found))
    return text, found


def _pieces(rule: Callable[[Match], bool], pattern: re.Pattern[str], text: str, found: list[str]) -> Iterator[str]:
    """Yield a text piece by piece; a value that is no credential may hold one: ``dsn="user=a;password=b"``."""
    done = place = 0
    while match := pattern.search(text, place):
        start, end = match.span("secret")
        if match["secret"] == HIDDEN or not rule(match):
            place = max(start, match.start() + 1) if end - start <= _NESTED_LENGTH else match.end()
            continue
        has_weak_name = "name" in match.re.groupindex and _suspicion(match) < Suspicion.IF_MIXED
        if not has_weak_name and rule not in _GUESSES:
            found.append(match["secret"].partition(":")[2] or match["secret"])
        yield text[done:start] + HIDDEN
        done, place = end, max(match.end(), start + 1)
    yield text[done:]
