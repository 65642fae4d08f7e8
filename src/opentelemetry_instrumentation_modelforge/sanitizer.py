# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Cleaning of captured content: credentials removed, the user's ``redact`` applied, length and nesting limited."""

import json
import math
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, TypeVar, cast

from opentelemetry.util.genai.utils import decode_base64, object_to_any_value
from opentelemetry.util.types import AnyValue

from .otel_utils import Guard
from .redaction import REDACTED, without_credentials
from .values import encodable

MAX_DEPTH: Final = 24
"""How many dictionaries and lists may be nested in one structure; deeper ones are replaced by ``…``.

Protobuf parsers reject messages nested deeper than 100 levels, and OTLP uses three levels for each dictionary
(``KeyValueList``, ``KeyValue``, ``AnyValue``) and 15 for the messages around a part's structure in a log record. So at
most 28 nested dictionaries can be exported: with more, Python's encoder loses the attribute or the whole batch. The
margin is for backends that wrap the record in a message of their own.
"""

_ELLIPSIS: Final = "…"

_REDACT: Final = Guard("calling redact")

# The last word of a name decides: `api_key` and `x-auth-token`, but neither `max_tokens` nor `monkey`.
_CREDENTIAL_NAME: Final = re.compile(
    r"""
    (?: (?i: token | secrets? | authorization | cookies? | credentials?
          | passwords? | passwd | passphrase | passcode | pwd
          | (?: access | api | auth | private | secret )key )
      | (?: ^ | [^A-Za-z] ) (?i: key | auth )
      | [a-z0-9] (?: Key | Auth )
    ) [\W\d_]{0,8} \Z
    """,
    re.VERBOSE,
)
_CREDENTIAL_NAME_END: Final = 64

# The keywords under which a JSON schema holds values of the parameter it describes.
_SCHEMA_VALUES: Final = frozenset({"const", "default", "enum", "example", "examples"})

_OMITTED: Final = object()

_Container = TypeVar("_Container", dict[object, object], Collection[object])


class Sanitizer:
    """A cleaner for the content of one call.

    :param max_length: how many characters each text, structure or base64 may have; None for no limit.
    :param redact: the user's function, called with each text after its credentials have been removed.
    :param secrets: the model's own credentials.
    """

    __slots__ = ("_max_length", "_redact", "_secrets")

    def __init__(self, max_length: int | None, redact: Callable[[str], str] | None, secrets: Sequence[str]) -> None:
        self._max_length: float = math.inf if max_length is None else max_length
        self._redact = redact
        self._secrets = secrets

    def text(self, text: str) -> str:
        """Return a text written by a person or a model, cleaned and cut."""
        # Cut last: half a credential is not recognized as one.
        return _cut(self._clean(text), self._max_length)

    def identifier(self, value: object) -> str | None:
        """Return an id, a role or a similar value without credentials, or None if ``value`` is not a string.

        ``redact`` is not applied, so that a tool's result still matches its call.
        """
        return without_credentials(encodable(value), self._secrets) if isinstance(value, str) else None

    def structure(self, value: object) -> AnyValue:
        """Return tool arguments or a similar structure as plain values, cut at :data:`MAX_DEPTH`.

        The texts are cleaned and share the length limit; members beyond it are left out. The value of a member or a
        header pair that is named like a credential is replaced.
        """
        return _Structure(self._clean, self._max_length).convert(value)

    def schema(self, value: object) -> AnyValue:
        """Return a JSON schema as :meth:`structure` does.

        A property named like a credential keeps its description and loses its default and examples.
        """
        return _Structure(self._clean, self._max_length, is_schema=True).convert(value)

    def binary(self, data: str | bytes) -> bytes:
        """Return bytes given directly or in base64; empty if they are malformed, or too long in base64."""
        length = len(data) if isinstance(data, str) else (len(data) + 2) // 3 * 4
        if length > self._max_length:
            return b""
        return (decode_base64(data) or b"") if isinstance(data, str) else data

    def _clean(self, text: str) -> str:
        """Remove the credentials from ``text``, and apply the user's ``redact``."""
        text = without_credentials(encodable(text), self._secrets)
        if self._redact is None or not text:
            return text
        with _REDACT:
            redacted = self._redact(text)
            if not isinstance(redacted, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"redact returned a {type(redacted).__qualname__}, expected a str")
            return encodable(redacted)
        return ""


class _Structure:
    """Conversion of one structure, whose texts share a length limit."""

    __slots__ = ("_ancestors", "_clean", "_is_schema", "_left")

    def __init__(self, clean: Callable[[str], str], max_length: float, *, is_schema: bool = False) -> None:
        self._clean = clean
        self._left = max_length
        self._is_schema = is_schema
        self._ancestors: set[int] = set()

    def convert(self, value: object) -> AnyValue:
        converted = self._value(value)
        return None if converted is _OMITTED else cast("AnyValue", converted)

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self._take(self._clean(value))
        if isinstance(value, bytes):
            text = b64encode(value).decode()
            return self._take(text) if len(text) <= self._left else ""
        if isinstance(value, dict):
            return self._nested(self._members, cast("dict[object, object]", value))
        if isinstance(value, list | tuple | set | frozenset):
            return self._nested(self._items, cast("Collection[object]", value))
        if value is None or isinstance(value, int | float):
            return self._scalar(value)
        converted = object_to_any_value(value)
        return _OMITTED if converted is None else self._value(converted)

    def _scalar(self, value: float | None) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return _OMITTED
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            # OTLP's integers have 64 bits, and Python refuses to format one with thousands of digits.
            return self._take(str(value)) if value.bit_length() <= 2048 else None
        self._left -= 1
        return value

    def _nested(self, convert: Callable[[_Container], object], value: _Container) -> object:
        if id(value) in self._ancestors:
            return _OMITTED
        if len(self._ancestors) >= MAX_DEPTH:
            return self._take(_ELLIPSIS)
        self._ancestors.add(id(value))
        try:
            return convert(value)
        finally:
            self._ancestors.remove(id(value))

    def _members(self, value: dict[object, object]) -> dict[str, object]:
        # Headers and environment variables are often objects with a name and a value, or with a key and a value.
        is_pair = not self._is_schema and "value" in value
        is_secret_pair = is_pair and _is_credential_name(value.get("name", value.get("key")))
        members: dict[str, object] = {}
        for key, member in value.items():
            if self._left <= 0:
                break
            name = _member_name(key)
            if not name or not (written := self._take(self._clean(name))):
                continue
            is_name_of_pair = is_pair and name == "key"
            is_secret = is_secret_pair if name == "value" else _is_credential_name(name) and not is_name_of_pair
            converted = self._secret(member) if is_secret else self._value(member)
            if converted is not _OMITTED:
                members[written] = converted
        return members

    def _items(self, value: Collection[object]) -> list[object]:
        is_pair = not self._is_schema and isinstance(value, list | tuple) and len(value) == 2
        is_secret_pair = is_pair and _is_credential_name(cast("Sequence[object]", value)[0])
        items: list[object] = []
        for index, item in enumerate(value):
            if self._left <= 0:
                break
            converted = self._secret(item) if is_secret_pair and index else self._value(item)
            if converted is not _OMITTED:
                items.append(converted)
        return items

    def _secret(self, value: object) -> object:
        """Return the replacement for a credential's value. Null, true and false are not credentials."""
        if value is None or isinstance(value, bool):
            return self._value(value)
        if self._is_schema and isinstance(value, dict):
            described = cast("dict[object, object]", value)
            return self._value({key: member for key, member in described.items() if key not in _SCHEMA_VALUES})
        return self._take(REDACTED)

    def _take(self, text: str) -> str:
        text = _cut(text, self._left)
        self._left -= len(text)
        return text


def _member_name(key: object) -> str | None:
    """Return a dictionary's key as JSON writes it, or None if JSON cannot represent it."""
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, int | float):
        # An integer may have thousands of digits.
        with suppress(ValueError):
            return json.dumps(key)
    return None


def _is_credential_name(name: object) -> bool:
    return isinstance(name, str) and _CREDENTIAL_NAME.search(name[-_CREDENTIAL_NAME_END:]) is not None


def _cut(text: str, limit: float) -> str:
    if len(text) <= limit:
        return text
    return text[: int(limit) - 1] + _ELLIPSIS if limit >= 1 else ""
