"""What in a text is a credential, or a quotation."""

import re
from collections.abc import Iterable
from typing import Final

from .otel_utils import encodable

REDACTED: Final = "[REDACTED]"

# A secret shorter than this is a placeholder ("none", "x") whose letters occur in any text.
_SHORTEST_SECRET: Final = 4

_SHORTEST_QUOTATION: Final = 4
_WINDOW: Final = 8

_CREDENTIAL: Final = re.compile(
    r"""
    # an Authorization header's scheme
    (?P<keep> \b(?:Bearer|Basic)\s+ )
        (?!\[REDACTED\]) [^\s"',]+
    # a URL's userinfo
  | (?P<url> :// )
        (?!\[REDACTED\]@) [^/\s"'?\#]+ (?=@)
    # a URL's query; a header, a field or a query that says so
  | (?P<field>
        [?&](?:key|(?:access_|auth_)?token|sig|password|secret|(?:[\w-]*-)?(?:signature|credential|security-token))=
      | \b(?:x-)?(?:goog-)?api[_-]?key["']?\s*[:=]\s*["']?
    )
        (?!\[REDACTED\]) [^\s"'&,;)}\]]+
    # the vendors' key prefixes, with the * they mask them with; GitHub's tokens; Google's keys
  | \b(?:sk|pk|rk|xai|gsk|hf|tgp|r8|fw|csk|pplx|nvapi)[-_][\w*.-]{6,}
  | \b(?:gh[a-z]_|github_pat_)[\w*]{6,}
  | \bAIza[\w*-]{6,}
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_credentials(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with ``secrets`` and everything of a known credential's shape replaced by ``[REDACTED]``.

    As everything else that goes into an attribute, it can be encoded.
    """
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return encodable(_CREDENTIAL.sub(_redacted, text))


def _redacted(match: re.Match[str]) -> str:
    return (match["keep"] or match["url"] or match["field"] or "") + REDACTED


def without_quotations(text: str, originals: Iterable[str]) -> str:
    """Return ``text`` without what it quotes of ``originals``: each as a whole, and longer passages of them.

    A passage counts from about 24 characters on; what two texts have in common by chance is shorter.
    """
    for original in originals:
        if len(original) < _SHORTEST_QUOTATION:
            continue
        text = text.replace(original, REDACTED)
        windows = [i for i in range(0, len(text) - _WINDOW + 1, _WINDOW) if text[i : i + _WINDOW] in original]
        for start, end in reversed(_runs(windows)):
            # The windows need not begin and end where the passage does.
            while start > 0 and text[start - 1 : start + _WINDOW] in original:
                start -= 1  # noqa: PLW2901
            while end < len(text) and text[end - _WINDOW : end + 1] in original:
                end += 1  # noqa: PLW2901
            text = text[:start] + REDACTED + text[end:]
    return text


def _runs(windows: Iterable[int]) -> list[tuple[int, int]]:
    """Return where two or more windows that stand side by side begin and end."""
    runs: list[tuple[int, int]] = []
    for start in windows:
        if runs and start == runs[-1][1]:
            runs[-1] = (runs[-1][0], start + _WINDOW)
        else:
            runs.append((start, start + _WINDOW))
    return [(start, end) for start, end in runs if end - start > _WINDOW]


def secret_values(values: Iterable[object]) -> tuple[str, ...]:
    """Return the plain text of every pydantic ``SecretStr`` among ``values``, longest first, placeholders left out."""
    return worth_hiding(reveal() for value in values if callable(reveal := getattr(value, "get_secret_value", None)))


def worth_hiding(secrets: Iterable[object]) -> tuple[str, ...]:
    """Return the strings among ``secrets``, longest first, placeholders left out."""
    found = {secret for secret in secrets if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET}
    return tuple(sorted(found, key=len, reverse=True))
