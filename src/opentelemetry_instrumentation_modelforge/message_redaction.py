# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Redaction of credentials in exception messages and warnings, where replacing a word too many is acceptable.

In a text that a person or a model wrote, a hash, an id or a word after "key" is content. A message loses nothing
without them, so here every possible credential is replaced: long random words, and the value that follows a
credential's name in any syntax. All the patterns are linear, like those of :mod:`redaction`.
"""

import re
from collections.abc import Iterable
from typing import Final

from .redaction import AFTER_ESCAPE, NEW, QUALIFIED, REDACTED, any_case, verbose, without_credentials

# --- Random words ---

_SHORTEST: Final = 16
_LONG_WORD: Final = re.compile(rf"[A-Za-z0-9_+/~.*-]{{{_SHORTEST},}}+={{0,2}}+")
# A change between lower case, upper case and digits; a capital before small letters begins a word.
_CHANGE: Final = re.compile(r"[a-z](?=[A-Z0-9]) | [A-Z](?=[0-9]) | [0-9](?=[A-Za-z])", re.VERBOSE)
# The parts of a model's name or a version are shorter.
_LONG_PART: Final = re.compile(r"[A-Za-z0-9]{12}")
# A UUID, 128 bits in hexadecimal, base32, and a key whose middle a provider has masked.
_ALWAYS_RANDOM: Final = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?=[0-9]{0,31}[a-fA-F])(?=[a-fA-F]{0,31}[0-9])[0-9a-fA-F]{32}"
    r"|(?=[A-Z]{0,23}[0-9])(?=[0-9]{0,23}[A-Z])[A-Z0-9]{24}|\w\*{3,}|\*{3}\w"
)
_BREAK: Final = re.compile(r"([/.])")
_PLAIN: Final = re.compile(r"[A-Za-z]?[a-z0-9_+~-]*|[/.]")


def _is_random(word: str) -> bool:
    """Return whether the characters of a long word are as mixed as random ones.

    Of random letters and digits, two in five are followed by one of another kind, and hardly ever fewer than one in
    five. In names like ``ChatGoogleGenerativeAI`` and ``gpt-4o-2024-08-06``, the share is lower than that.
    """
    if _ALWAYS_RANDOM.search(word):
        return True
    digits = sum(map(word.count, "0123456789"))
    needed = 0.18 if (digits > 1 and len(word) >= 20) or (digits and len(word) >= 32) else 0.25
    share = len(_CHANGE.findall(word)) / len(word)
    # Base64 is divided into shorter parts by its own + and /.
    return share >= needed and (
        _LONG_PART.search(word) is not None or (share >= 0.3 and not {"+", "/"}.isdisjoint(word))
    )


def _without_random_word(match: re.Match[str]) -> str:
    word = match[0]
    if "/" not in word and "." not in word:
        return REDACTED if _is_random(word) else word
    # A path or a URL, one part of which may be random, or base64, any part of which may be short.
    parts = [REDACTED if len(part) >= _SHORTEST and _is_random(part) else part for part in _BREAK.split(word)]
    is_path = all(part == REDACTED or _PLAIN.fullmatch(part) for part in parts)
    return "".join(parts) if is_path or not _is_random(word) else REDACTED


# --- The value after a name ---

_WORDS: Final = any_case(
    *"key auth bearer basic jwt password pass pwd pw pin pat otp tok signature sig login session".split(),  # noqa: SIM905
    *"sid jsessionid phpsessid kennwort schlüssel senha".split(),  # noqa: SIM905
    "header value",
    "mot de passe",
)
_STRONG: Final = any_case(*"password passwort passwd passphrase passcode secret contraseña пароль 密码 密钥".split())  # noqa: SIM905
# A number of tokens, such as max_tokens, is not a credential.
_COUNTED: Final = "|".join(f"(?<={word}_)" for word in "max completion prompt input output total new".split())  # noqa: SIM905
_NAME: Final = rf"""
    (?: (?P<strong> {_STRONG} | (?=[KkTt]){QUALIFIED}{any_case("key", "token")} ) (?![sS](?![A-Za-z]))
      | (?! (?:{_COUNTED}) {any_case("tokens")} ) {any_case("token", "credential", "cookie", "authorization")}
      | code(?<=[?&]code)
      | (?={_WORDS}) (?: (?<![A-Za-z]) | (?<=[a-z])(?=[A-Z]) | {AFTER_ESCAPE} | (?<=25[0-9A-Fa-f]{{2}}) ) {_WORDS} )
    (?: {any_case("str", "bytes", "_id", "id", "s")} )?+ [0-9_]{{0,3}}+ (?![A-Za-z])"""
_FILLING: Final = any_case(
    *"a an the is was are be has have had with as of to id set value string str header provided given".split(),  # noqa: SIM905
    *"or default parameter variable you not valid invalid incorrect wrong bad expired rejected revoked denied".split(),  # noqa: SIM905
)
# Anything that is not a word, escaped or not, except the end of a sentence. A slash begins a path.
_GAP: Final = rf"""(?:
    %(?:25)*+[0-9A-Fa-f]{{2}} | \\{{1,8}}+(?:u[0-9A-Fa-f]{{4}}|x[0-9A-Fa-f]{{2}}|075|[nrt])
  | &(?:amp;){{0,3}}+\#?\w{{1,8}}+; | [bBfFrRuU]{{1,2}}+(?=["']) | {_FILLING}(?!\w)
  | [ ](?!value)[\w:]{{1,16}}+=["'][^"'<>]{{0,64}}["'](?=[ ]?/?>)
  | (?<=[=:,(\[{{|>"'\\-])\r?\n | \r?\n(?=[ ]{{1,40}}value:) | (?![.;?!][ ])[^\w/\r\n] )"""
_CHARACTER: Final = r"(?: [^\s\"'<>&,;)\]}\\`%] | %(?!2[267Cc]|3[Ee]|7[Dd]) )"
_WORD: Final = r"(?:[A-Za-z]{1,64}+|[0-9]{1,64}+)"
_ALGORITHM: Final = any_case("base", "sha", "utf", "oauth", "x5", "http", "ed2", "rs", "hs", "es", "aes", "ipv")
# Letters and digits mixed, unlike words, numbers and dates; also as the first item of a list.
_MIXED: Final = rf"""(?! /|\w{{1,16}}:// | {_ALGORITHM}-?[0-9] ) (?={_CHARACTER}{{6}}) (?={_CHARACTER}{{0,64}}?[0-9])
    (?={_CHARACTER}{{0,64}}?[A-Za-z])
    (?! {_WORD} (?: [_.:/-]{{1,8}}+ {_WORD} ){{0,32}}+ [_.:!?-]{{0,8}}+ (?!{_CHARACTER}) )
    {_CHARACTER}++ (?: ["'],[ ]?["'][^"'\r\n]{{1,512}}+(?=["'][\],]) )*+"""
# Any word that a sign or a quote marks as the value of an unambiguous name.
_QUOTED: Final = rf"""(?: (?<=[=|>(]) | (?<=[=:(]["'`]) | (?<=[=:\w][ ]["'`]) )
    {NEW} (?! (?:None|null|true|false|True|False)\b ) {_CHARACTER}{{4,}}+"""
_NAMED: Final = verbose(
    rf"(?P<keep> {_NAME} {_GAP}{{1,40}}+ | -(?<![\w-]-)[pPk] [ ]?[\"']?+ )"
    rf"(?: {_MIXED} | (?(strong){_QUOTED}|(?!)) )"
)
# Pydantic's errors quote the value of a field.
_FIELD_ERROR: Final = verbose(
    rf"(?P<keep> {_NAME} \n[ ][^\n]{{1,300}}? input_value= ) [^\n]{{1,300}}? (?=,[ ]input_type=)"
)

# A header up to its end, including continuation lines: a scheme may take any number of parameters.
_AUTHORIZATION: Final = verbose(
    rf"""(?P<keep> {any_case("authorization")} [ \t]*+ [:=] [ \t]*+ ) (?!["'])
        (?: [^\r\n"'\\] | (?<==)"[^"\r\n]*+" | \\(?!["'nr]) | (?:\\r)?\\n(?:[ ]|\\t) | \r?\n[ \t]++(?=\S) )++"""
)
# A user name and a password, in a URL whose scheme is cut off and in a command.
_USER_AT_HOST: Final = verbose(
    r"""(?P<keep> (?<![\w.%+~/:-]) // | (?<![\w.%+~-]) (?!mailto:) [\w.%+~-]{0,64}+ : (?!//) )
        (?![0-9]{1,5}/) (?!\[REDACTED\]) [^\s"'<>@]{1,256}+ (?=@[\w\[])"""
)
_COMMAND: Final = verbose(
    rf"""(?P<keep> (?<![\w-]) (?: (?: -[uU] | --(?:proxy-)?user ) [ =]{{0,8}}+ ["']?+ [^\s:"'=]{{1,64}}+ :
      | login \s{{1,8}}+ \S{{1,64}}+ \s{{1,8}}+ password \s{{1,8}}+
      | (?:export|set|setx|setenv|ENV|ARG) (?:[ ]-\w{{1,2}})?+ [ ]
        \w{{0,40}}? (?:KEY|TOKEN|SECRET|PASS(?:WORD)?) [ ] ["']?+ ) ) {NEW} [^\s"']++"""
)
_USER_PAIR: Final = verbose(
    rf"""(?P<keep> {any_case("auth", "credentials", "login")} ["']?+ [ ]?[=:]?[ ]? [(\[{{] [ ]?
        (?:login=|username=)?+ (?P<quote>["']?)[^"'\r\n\s]{{1,64}}(?P=quote) [ ]?[,:][ ]? (?:password=)?+ )
        (?: [bB]?["'][^"'\r\n]++ | [^\s"'()\[\]{{}}]++ )"""
)
_PATTERNS: Final = (
    ("input_value=", _FIELD_ERROR),
    ("", _AUTHORIZATION),
    ("@", _USER_AT_HOST),
    ("", _COMMAND),
    ("", _USER_PAIR),
    ("", _NAMED),
)
"""Each with a text that its matches contain."""


def without_secrets(text: str, secrets: Iterable[str] = (), limit: int | None = None) -> str:
    """Return the text of an exception or of a warning without possible credentials.

    The parameters are those of :func:`redaction.without_credentials`.
    """
    return without_credentials(text, secrets, limit, also=_without_suspects)


def _without_suspects(text: str) -> str:
    for hint, pattern in _PATTERNS:
        if hint in text:
            text = pattern.sub(lambda match: match["keep"] + REDACTED, text)
    return without_random_words(text)


def without_random_words(text: str) -> str:
    """Return ``text`` with its long random words replaced by ``[REDACTED]``."""
    return _LONG_WORD.sub(_without_random_word, text)
