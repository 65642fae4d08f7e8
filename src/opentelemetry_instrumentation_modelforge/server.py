# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The server of a URL: a host that may be recorded, or None."""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from .message_redaction import without_random_words
from .redaction import looks_like_credential

_HOST: Final = re.compile(r"(?=.{1,253}$)(?!-)[\w-]{1,63}(?<!-)(?:\.(?!-)[\w-]{1,63}(?<!-))*")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def host_name(text: str, secrets: Iterable[str] = ()) -> str | None:
    """Return ``text`` in lower case if it is a host name or an IP address and not a credential, else None.

    An underscore is allowed, as in the names of Docker containers, and a trailing dot is removed.
    """
    if len(text) > 255:
        return None
    name = text.removesuffix(".")
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).compressed
    except ValueError:
        pass
    labels = name.split(".")
    # No top-level domain is a number. Short labels such as "sk-gateway1" are names if there is a domain.
    if not _HOST.fullmatch(name) or labels[-1].isdecimal():
        return None
    if any(looks_like_credential(label) for label in labels if len(labels) == 1 or len(label) >= 20):
        return None
    folded = name.casefold()
    if any(folded in secret.casefold() or (len(secret) >= 8 and secret.casefold() in folded) for secret in secrets):
        return None
    return name.lower()


def server_of(url: str | None, secrets: Iterable[str] = ()) -> tuple[str, int | None] | None:
    """Return the host and the port of ``url``, or None if it has no host that may be recorded.

    The port is the scheme's default if the URL has none. A URL without a scheme needs a port or a dot in its host: a
    single word is just as likely to be a key in the wrong place.
    """
    if url is None:
        return None
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    # The apparent host of https://user:12/34@host is the user.
    if "@" in parts.path + parts.query + parts.fragment:
        return None
    authority = parts.netloc.rpartition("@")[2]
    host = authority if authority.endswith("]") else re.sub(r":[0-9]*\Z", "", authority)
    if _is_random(authority, authority + parts.path):
        return None
    address = host_name(host, secrets)
    if address is None or (port is None and "//" not in url and not re.search(r"[.:]|\Alocalhost\Z", address)):
        return None
    return address, port


def _is_random(authority: str, words: str) -> bool:
    """Return whether a host is a key typed in its place, alone or with the path that a slash in the key created."""
    if "." not in authority and without_random_words(authority) != authority:
        return True
    # Nobody types capitals in a host.
    is_typed = authority == authority.lower()
    return not is_typed and re.match(r"\[REDACTED\](?![./])", without_random_words(words)) is not None
