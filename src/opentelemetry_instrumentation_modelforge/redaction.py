# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Detection and replacement of credentials in text, headers and URLs.

Each pattern scans a text once, and its lookbehinds and lookaheads are bounded, so the time is linear in the text's
length. Possessive quantifiers keep a failed match from being retried with fewer characters.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Final, cast
from urllib.parse import quote, quote_plus

from .values import encodable

REDACTED: Final = "[REDACTED]"

# A secret shorter than this is a placeholder whose letters occur in any text.
_SHORTEST_SECRET: Final = 4
# What servers that need no key are given in its place.
_PLACEHOLDERS: Final = frozenset(
    "anything dummy empty fake lm-studio local no-key none not-needed null ollama placeholder test unused vllm".split()  # noqa: SIM905
)
_PLAIN_WORD: Final = re.compile(r"[A-Za-z_-]{4,15}")
_LONGEST_SECRET: Final = 8192
_MOST_HEADERS: Final = 128
_MARGIN: Final = 4096
"""Characters scanned beyond a limit, so that the limit does not cut a credential in half."""


def any_case(*words: str) -> str:
    """Return a verbose pattern for any of ``words`` in any case; a word that begins with another must precede it."""
    # Sets are several times faster than re.IGNORECASE, with which re does not check a branch's first character. Fewer
    # branches are faster, too.
    rests: dict[str, list[str]] = {}
    for word in words:
        rests.setdefault(word[:1], []).append(word[1:])
    branches = (_letter(first) + (any_case(*rest) if any(rest) else "") for first, rest in rests.items())
    return f"(?:{'|'.join(branches)})"


def _letter(character: str) -> str:
    return f"[{character.upper()}{character}]" if character.isalpha() else re.escape(character)


def verbose(pattern: str) -> re.Pattern[str]:
    """Compile a pattern that is written with whitespace and comments."""
    return re.compile(pattern, re.VERBOSE)


NEW: Final = r"(?!\[REDACTED\])"
# Before a credential, JSON, URLs and Python's repr() write a line break, a space or a quote as letters and digits.
AFTER_ESCAPE: Final = r"(?<=\\[nrt]) | (?<=\\u[0-9A-Fa-f]{4}) | (?<=\\x[0-9A-Fa-f]{2}) | (?<=%[0-9A-Fa-f]{2})"
_WORD_START: Final = rf"(?: (?<![A-Za-z0-9_]) | {AFTER_ESCAPE} )"

# A PEM block, even with its line breaks escaped, percent-encoded or quoted by ">". Without its end, the block extends
# as far as its lines are long enough.
_PEM: Final = verbose(
    r"""-----BEGIN(?:[ +]|%20)[A-Z0-9 +%]{1,40}-----
        (?: (?: [A-Za-z0-9+/=\s:,.\\>%]++ | -(?!----) )*+ -----END(?:[ +]|%20)[A-Z0-9 +%]{1,40}-----
          | (?: (?: \s | \\[nr] )*+ [A-Za-z0-9+/=]{16,}+ )*+ )"""
)
_PREFIX: Final = any_case(
    "sk", "pk", "rk", "xai", "gsk", "hf", "tgp", "r8", "fw", "csk", "pplx", "nvapi", "tvly", "npm", "pypi"
)
# SendGrid, Google's OAuth clients and refresh tokens, Stripe, Grafana, Slack, DigitalOcean, Shopify, Docker.
_PREFIXES: Final = ("SG.", "GOCSPX-", "1//0", "whsec_", "glsa_", "xapp-", "dop_v1_", "shpat_", "shpss_", "dckr_pat_")
_SHAPES: Final = tuple(
    (hint, verbose(pattern))
    for hint, pattern in (
        # A JSON Web Token.
        ("eyJ", rf"(?=eyJ) (?: (?<![\w-]) | {AFTER_ESCAPE} ) [\w-]{{8,}}+ (?: (?:\.|%2[Ee]) [\w-]*+ )++"),
        # AWS.
        ("AKIA", rf"(?=AKIA) {_WORD_START} [A-Z0-9]{{16,}}+"),
        ("ASIA", rf"(?=ASIA) {_WORD_START} [A-Z0-9]{{16,}}+"),
        # Google.
        ("AIza", r"AIza[\w*-]{6,}+"),
        ("ya29.", r"ya29\.[\w*.-]{6,}+"),
        # GitHub Copilot.
        ("tid=", r"\btid=[\w*-]{1,64}+ (?: ;[\w-]{1,32}+=[^\s\"';,]*+ )++"),
        *((prefix, rf"(?={prefix[0]}) {_WORD_START} {re.escape(prefix)} [\w.-]{{12,}}+") for prefix in _PREFIXES),
    )
)

# The vendors' prefixes, with the * used to mask keys. Ordinary words follow "sk-" and "hf_", too.
_VENDOR: Final = verbose(
    rf"""(?= {_PREFIX}[-_] | {any_case("gh", "lsv", "gi", "gl", "xo")} ) {_WORD_START}
        (?: {_PREFIX}[-_] (?: (?=[a-z_.-]{{0,16}}[A-Z0-9*]) [\w*.-]{{6,}}+ | [\w*.-]{{12,}}+ )
          | (?: {any_case("gh")}[A-Za-z]_ | {any_case("github_pat_", "lsv2_", "glpat-", "gldt-", "glrt-", "glptt-")}
              | {any_case("xox")}[A-Za-z]- ) [\w*.-]{{6,}}+
        )"""
)

# The value of an Authorization header without the header's name. "Bearer of news" and "basic usage" are prose.
_SCHEME_AND_VALUE: Final = verbose(
    rf"""(?P<keep> (?=[Bb][AaEe]) {_WORD_START} {any_case("bearer", "basic")} (?:[ \t]{{1,8}}+|%20|\\u0020|\+) ) {NEW}
        (?= [\w.~+/=;:-]{{0,64}}? (?: [0-9=] | [a-z][A-Z] ) | [\w.~+/=-]{{20}} )
        [^\s"',\\<>]++"""
)

# --- Fields, headers, parameters and variables, recognized by their names ---

_QUALIFIERS: Final = (  # noqa: SIM905 - a list of words reads better in one string.
    "api access refresh auth session security bearer oauth client private signing encryption master account shared "
    "subscription service secret webhook amz goog"
).split()
QUALIFIED: Final = rf"""(?:
    # A URL's query, escaped or not.
    (?<=[?&]) | (?<=[;6Ff])
        (?: (?<=amp;) | (?<=\#38;) | (?<=x26;) | (?<=x26) | (?<=u0026) | (?<=%26) | (?<=%2526) | (?<=%3[Ff]) )
    # An environment variable.
  | (?<=[A-Z0-9]_) (?=[A-Z]{{3}})
  | (?<=[ _.-]) (?: {"|".join(f"(?<={any_case(word)}[ _.-])" for word in _QUALIFIERS)} )
  | (?<=[A-Za-z]) (?: {"|".join(f"(?<={any_case(word)})" for word in _QUALIFIERS)} )
)"""
_NAMES: Final = any_case("key", "token", "secret", "sig", "pass", "pwd", "auth", "cookie", "cred", "bearer", "jwt")
_NAME: Final = rf"""
    (?={_NAMES}) (?P<qualified>{QUALIFIED})?+
    (?: (?P<authorization> {any_case("authorization")} )
      | (?P<cookie> {any_case("cookie")}[sS]?+ )
      | (?P<strong> {any_case("password", "passwd", "passphrase", "passcode")}
                  | {any_case("pwd")}(?!["']?[ ]?[=:][ ]?/) )
      | (?P<secret> {any_case("secret")} )
      | (?P<token> {any_case("token", "bearer", "jwt")} )
      | (?(qualified)|(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])))
            {any_case("key", "signature", "sig", "credentials", "credential", "auth", "pass")}
    )"""
_ENCODED_QUOTE: Final = r"&(?:amp;)?(?:quot|apos|\#3[49]|\#x2[27]); | \\u002[27] | \\x2[27] | %(?:25)*+2[27]"
_ANY_QUOTE: Final = rf"(?: {_ENCODED_QUOTE} | \\{{0,8}}+[\"'] )"
# JSON, XML, URLs and source text have other spellings of the two signs, : and =.
_SIGN: Final = r"[:=]{1,3}+>? | %(?:25)*+3[AaDd] | \\(?:u00|x)3[AaDd] | &\#(?:58|61|[xX]3[AaDd]); | &(?:equals|colon);"
# An XML element, or an object with a name and a value, has none of these signs after the name; a variable has a type.
_EQUALS: Final = rf"""(?: >(?=[^<>\s]{{1,512}}+</)
    | (?: {_ANY_QUOTE}\]? )?+ [ \t]{{0,8}}+
      (?> :[ ]?[A-Za-z][\w.\[\]|]{{0,40}}[ ]?=[ ]?(?=["']) | {_SIGN} | ,[ ]?{_ANY_QUOTE}[Vv]alue{_ANY_QUOTE}[ ]?: )
      [ \t]{{0,8}}+
      # A YAML block, tag or anchor.
      (?: [|>][+-]?+[ \t]*+\r?\n\s*+ | !{{1,2}}+\w*+[ ] | &\w++[ ] )?+ )"""
_SCHEMES: Final = any_case(
    "bearer", "basic", "token", "apikey", "api-key", "digest", "negotiate", "ntlm", "dpop", "hawk", "sharedkey"
)
# The value after a weak name is a credential only if it looks random. Words and numbers, joined by - or _, do not.
UNLIKE_WORDS: Final = r"(?! (?:[A-Za-z]++|[0-9]++) (?: [_-]++ (?:[A-Za-z]++|[0-9]++) )*+ (?![\w+~=-]) )"
_RANDOM_16: Final = rf"(?= [\w+~=-]{{16}} ) (?= [\w+~=-]{{0,64}}? [0-9] ) {UNLIKE_WORDS}"
_RANDOM_6: Final = rf"(?= [\w.+/~-]{{6}} ) (?: (?= [\w.+/~-]{{0,64}}? [0-9] ) {UNLIKE_WORDS} | (?= [\w.+/~-]{{20}} ) )"
# The parameters of a scheme such as Digest.
_PARAMETERS: Final = r"""(?: (?<==)"[^"\r\n]*+" )?+
    (?: [ ]?,\s{0,8}+ [\w-]{1,32}+= (?: "[^"\r\n]*+" | [^\s"',\\]*+ ) )*+"""
_VALUE: Final = rf"""
    (?: {any_case("secretstr")}\( | \[[ ]?(?=[bB]?\\{{0,8}}+["']) )?+ (?: [bBfFrRuU]{{1,2}}+(?=\\{{0,8}}+["']) )?+
    (?P<quoted> (?P<escaped> \\{{1,8}}+["'] ) | (?P<double>"(?:"")?+) | (?P<single>'(?:'')?+)
              | (?P<encoded> {_ENCODED_QUOTE} ) )?+
    (?P<scheme> {_SCHEMES}(?:[ \t]{{1,8}}+|%20) )?+
    )
    {NEW} (?! (?:None|null|true|false|True|False)\b | [(\[{{][\s"'] )
    (?(qualified) | (?(authorization) | (?(strong) |
        (?(cookie) (?(quoted) | (?=[^\s=;,"']{{1,64}}=) ) |
        (?(secret) (?(quoted) | (?: (?<==) | {_RANDOM_6} ) ) |
        (?(token) (?:{_RANDOM_6}) | (?:{_RANDOM_16}) ) ) ) ) ) )
    (?(double) (?: [^"\\\r\n]++ | \\. )++ |
    (?(single) (?: [^'\\\r\n]++ | \\. )++ |
    (?(escaped) (?: [^"'\\\r\n]++ | \\++(?!["']) )++ |
    (?(encoded) [^&%\\\s"']++ |
    (?(cookie) [^"'\r\n]++ |
    (?(scheme) [^\s"',\\]++ (?(authorization) {_PARAMETERS}) |
    (?(authorization) [^\s"',\\]++ (?: [ \t]{{1,8}}+ (?![\[]) [^\s"',\\]++ )?+ {_PARAMETERS} |
    [^\s"'&,;)}}\]<>\\]++ ) ) ) ) ) ) )"""
_FIELD: Final = verbose(rf"(?P<keep> {_NAME} {_EQUALS} {_VALUE}")
# A header as a tuple, and os.environ.get("NAME", "default").
_PAIR: Final = verbose(
    rf"""(?P<keep> [(\[][ ]?[bB]?\\{{0,8}}+["'][\w.-]{{0,40}}? {_NAME} \\{{0,8}}+["'][ ]?,[ ]?
        (?=[bB]?\\{{0,8}}+["']) {_VALUE}"""
)

# A command-line option, whose name and value have only spaces between them.
_OPTION: Final = verbose(
    rf"""(?P<keep> --[A-Za-z-]{{0,40}}? {any_case("key", "token", "secret", "password", "auth")}[ ]{{1,8}}+ ["']?+ )
        {NEW} (?!-) [^\s"']++"""
)

_ENCODED_USERINFO: Final = re.compile(
    r"(?P<keep>%3[Aa]%2[Ff]%2[Ff])(?!\[REDACTED\])(?:(?!%2[Ff]|%3[Ff])[^\s\"'<>@&]){1,512}?(?=%40)"
)
_URL_START: Final = re.compile(r"(:\\{0,2}/\\{0,2}/)")
_URL: Final = re.compile(r":\\{0,2}/\\{0,2}/[^\s\"'<>]++")
_HOST_AND_PORT: Final = re.compile(r"(?:\[[^\]]*+\]|[^:]*+)(?::[0-9]{0,5})?")


def without_credentials(
    text: str, secrets: Iterable[str] = (), limit: int | None = None, *, also: Callable[[str], str] | None = None
) -> str:
    """Return ``text`` with ``secrets`` and everything that looks like a credential replaced by ``[REDACTED]``.

    Like every text of an attribute, the result can be encoded.

    :param secrets: texts that are always replaced: as given, in upper or lower case, percent-encoded and as in JSON.
    :param limit: how many characters to return at most. With a limit, the time depends on it, not on the text's length.
    :param also: a function that removes more, before the text is cut.
    """
    secrets = tuple(secrets)
    own = _own_pattern(secrets) if secrets else None
    margin = 0
    if limit is not None:
        margin = _MARGIN + 3 * max(map(len, secrets), default=0)
        margin = margin if len(text) > limit + margin else 0
        text = text[: limit + margin] if margin else text
    text = encodable(text)
    if own is not None:
        text = own.sub(REDACTED, text)
    if "@" in text and "/" in text:
        text = _URL.sub(_without_userinfo, text)
    if "%40" in text:
        text = _ENCODED_USERINFO.sub(_after_name, text)
    if "-----BEGIN" in text:
        # Before the fields, so that no field ends at one of its line breaks.
        text = _PEM.sub(REDACTED, text)
    text = _FIELD.sub(_after_name, text)
    if "(" in text or "[" in text:
        text = _PAIR.sub(_after_name, text)
    if "--" in text:
        text = _OPTION.sub(_after_name, text)
    text = _SCHEME_AND_VALUE.sub(_after_name, text)
    for hint, shape in _SHAPES:
        if hint in text:
            text = shape.sub(REDACTED, text)
    if "-" in text or "_" in text:
        text = _VENDOR.sub(REDACTED, text)
    if also is not None:
        text = also(text)
    # A credential that the first cut has truncated is not recognized.
    return text if limit is None else text[: max(len(text) - margin, 0) if margin else None][:limit]


def looks_like_credential(text: str) -> bool:
    """Return whether ``text`` contains something that looks like a credential, or is one long random word."""
    text = encodable(text[:_LONGEST_SECRET])
    return _RANDOM_WORD.fullmatch(text.strip()) is not None or without_credentials(text) != text


_RANDOM_WORD: Final = re.compile(
    r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{24,}|(?=.*[0-9])(?=.*[a-z])(?=.*[A-Z])[\w+/-]{32,}={0,2}"
)


def _after_name(match: re.Match[str]) -> str:
    return match["keep"] + REDACTED


def _without_userinfo(match: re.Match[str]) -> str:
    return "".join(
        part if index % 2 else _after_userinfo(part) for index, part in enumerate(_URL_START.split(match[0]))
    )


def _after_userinfo(url: str) -> str:
    """Return a URL whose scheme is cut off, without user name and password; a password may contain a slash."""
    if "@" not in url:
        return url
    authority = re.split(r"[/?#\\]", url, maxsplit=1)[0]
    end = authority.rfind("@")
    if end < 0 and not _HOST_AND_PORT.fullmatch(authority):
        end = url.rfind("@")
    return REDACTED + url[end:] if end > 0 else url


@lru_cache(maxsize=64)
def _own_pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    spellings = {spelling for secret in secrets if secret for spelling in _spellings(encodable(secret))}
    return re.compile("|".join(map(_literal, sorted(spellings, key=len, reverse=True)))) if spellings else None


def _literal(spelling: str) -> str:
    # A short word is also a part of other words.
    is_word = _PLAIN_WORD.fullmatch(spelling) is not None
    return rf"(?<![A-Za-z]){spelling}(?![A-Za-z])" if is_word else re.escape(spelling)


def _spellings(secret: str) -> Iterator[str]:
    escaped = secret.replace("\\", "\\\\").replace('"', '\\"')
    yield from (secret, escaped, secret.replace("/", "\\/"), secret.upper(), secret.lower())
    for percent in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield from (percent, re.sub("%..", lambda match: match[0].lower(), percent))


# --- Which values are secrets ---


def secret_values(values: Iterable[object]) -> tuple[str, ...]:
    """Return the credentials among ``values``, longest first, without placeholders.

    They are the plain text of pydantic's ``SecretStr``, the values of mappings such as ``default_headers`` whose name
    or shape is a credential's, and the user name and password of URLs.
    """
    return worth_hiding(secret for value in values for secret in _secrets_of(value))


def _secrets_of(value: object) -> Iterator[object]:
    if isinstance(value, str):
        if "://" in value and "@" in value:
            yield from _userinfo(value)
    elif isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        for name, member in islice(members.items(), _MOST_HEADERS):
            yield from _secrets_of_header(name, member)
    elif callable(reveal := getattr(value, "get_secret_value", None)):
        yield reveal()


def _secrets_of_header(name: object, value: object) -> Iterator[object]:
    if callable(reveal := getattr(value, "get_secret_value", None)):
        value = reveal()
    name, value = (part.decode("latin-1") if isinstance(part, bytes) else part for part in (name, value))
    if not isinstance(name, str) or not isinstance(value, str) or len(value) > _LONGEST_SECRET:
        return
    field = f'"{name}": "{value}"'
    if without_credentials(field) != encodable(field):
        yield value
        # After the scheme of an Authorization header.
        yield value.partition(" ")[2].strip()


def _userinfo(url: str) -> Iterator[str]:
    rest = url[:_LONGEST_SECRET].partition("://")[2]
    if (after := _after_userinfo(rest)) != rest:
        userinfo = rest[: len(rest) - len(after) + len(REDACTED)]
        yield userinfo
        yield userinfo.partition(":")[2]


def worth_hiding(secrets: Iterable[object]) -> tuple[str, ...]:
    """Return the strings among ``secrets``, longest first, without placeholders."""
    found = {
        secret
        for secret in secrets
        if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET and secret.lower() not in _PLACEHOLDERS
    }
    return tuple(sorted(found, key=len, reverse=True))
