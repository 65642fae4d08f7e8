# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Checked conversions of untyped values from providers and applications.

Each function returns the value in the required form, or a neutral one (None or an empty container) if it is of another
kind. None of them raises.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, cast

NOTHING: Final[Mapping[str, object]] = {}
"""The empty mapping, shared."""

_LONGEST_NAME: Final = 256
_MOST_BLANKS: Final = 4


def encodable(text: str) -> str:
    """Return ``text`` as a plain ``str`` without lone surrogates, each replaced by U+FFFD.

    UTF-8 cannot encode a lone surrogate, and one of them makes the export of a whole batch fail.
    """
    text = str.__str__(text)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text(value: object) -> str | None:
    """Return ``value`` if it is a non-empty string, converted by :func:`encodable`."""
    return encodable(value) if isinstance(value, str) and value else None


def short_text(value: object) -> str | None:
    """Return ``value`` if it is a string of 1 to 256 visible ASCII characters, as all ids and reasons are.

    A server that returns other text there would otherwise put it into metrics, too.
    """
    return name if (name := model_name(value)) is not None and " " not in name else None


def model_name(value: object) -> str | None:
    """Return ``value`` if it is the name of a model: as :func:`short_text`, but with up to four spaces in it."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        return None
    # For example, "Nous Hermes 2 Mistral DPO".
    return str.__str__(value) if value.isascii() and value.isprintable() and value.count(" ") <= _MOST_BLANKS else None


def integer(value: object) -> int | None:
    """Return ``value`` if it is an integer of at most 64 bits, as in OTLP; a boolean does not count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def count(value: object) -> int | None:
    """Return ``value`` if it is an integer from 0 to 2**63 - 1."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def price(value: object) -> float | None:
    """Return ``value`` as a float if it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        # An integer too large for a float, or a signaling NaN.
        return None
    return number if math.isfinite(number) and number >= 0 else None


def mapping(value: object) -> Mapping[str, object]:
    """Return ``value`` if it is a mapping, else an empty one."""
    # Checked first, because checking for an abstract class takes several times as long.
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    if value is None:
        return NOTHING
    return value if isinstance(value, Mapping) else NOTHING  # pyright: ignore[reportUnknownVariableType]


def items(value: object) -> Sequence[object]:
    """Return ``value`` if it is a list or a tuple, else an empty one."""
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
