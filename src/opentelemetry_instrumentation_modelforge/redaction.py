"""What in a text is a credential."""

import re
from collections.abc import Iterable
from typing import Final

REDACTED: Final = "[REDACTED]"

# A secret shorter than this is a placeholder ("none", "x") whose letters occur in any text.
_SHORTEST_SECRET: Final = 4

_CREDENTIAL: Final = re.compile(
    r"""
    (?P<keep>
        \bBearer\s+ | \bBasic\s+                                       # an Authorization header's scheme
      | ://(?=[^/\s@]*@)                                               # a URL's userinfo
      | [?&](?:key|api[_-]?key|(?:access_)?token|sig|signature)=       # a key in a URL's query
      | \b(?:x-)?(?:goog-)?api[_-]?key["']?\s*[:=]\s*["']?             # a header or field that says so
    )
    (?P<secret> (?(keep)[^\s"'&@,;)}\]]+) )
  | \b(?:sk|pk|rk|xai|gsk|hf|tgp|r8|fw|csk|pplx|nvapi)[-_][\w*.-]{6,}   # the vendors' key prefixes; * as they mask them
  | \b(?:gh[a-z]_|github_pat_)[\w*]{6,}                                # GitHub's tokens
  | \bAIza[\w*-]{6,}                                                   # Google's keys
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_credentials(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with ``secrets`` and everything of a known credential's shape replaced by ``[REDACTED]``."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _CREDENTIAL.sub(_redacted, text)


def _redacted(match: re.Match[str]) -> str:
    return (match["keep"] or "") + REDACTED


def secret_values(values: Iterable[object]) -> tuple[str, ...]:
    """Return the plain text of every pydantic ``SecretStr`` among ``values``, longest first, placeholders left out."""
    found: set[str] = set()
    for value in values:
        reveal = getattr(value, "get_secret_value", None)
        secret = reveal() if callable(reveal) else None
        if isinstance(secret, str) and len(secret) >= _SHORTEST_SECRET:
            found.add(secret)
    return tuple(sorted(found, key=len, reverse=True))
