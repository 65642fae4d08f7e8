# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The types of options, each with its check, its parser and a description of what it accepts."""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import unquote

from opentelemetry.util.types import AttributeValue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OptionType(Generic[T]):
    """The type of an option.

    ``check`` returns the value, or raises TypeError for a wrong type and ValueError for a bad value of the right one.
    ``parse`` converts the text of an environment variable for ``check``, and returns what it cannot parse unchanged.
    """

    accepts: str
    check: Callable[[object], T]
    parse: Callable[[str], object] = str
    keyword_only: bool = False
    malformed_is_false: bool = False
    """OpenTelemetry's specification of environment variables: a boolean that is neither "true" nor "false" is false."""


def _check_boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _parse_boolean(text: str) -> object:
    return {"true": True, "false": False}.get(text.lower(), text)


def _check_length(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if value < 0:
        raise ValueError
    return value


def _parse_length(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text


def _check_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not a string")
    # A lone surrogate, for example from a non-UTF-8 environment, makes the export of a whole batch fail.
    value.encode()
    return value


def _check_key(value: object) -> str:
    key = _check_text(value)
    if not key:
        raise ValueError("a name is empty")
    return key


def _check_keys(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    # A key named twice is copied once.
    return tuple(dict.fromkeys(_check_key(key) for key in cast("list[object]", value)))


def _parse_keys(text: str) -> object:
    return [key.strip() for key in text.split(",") if key.strip()]


def _check_scalar(value: object) -> str | bool | int | float:
    if isinstance(value, str):
        return _check_text(value)
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"{shown(value)} is none of these")
    # OTLP's integers have 64 bits: a longer one makes the export of a whole batch fail.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer has more than 64 bits")
    return value


def check_attribute(value: object) -> AttributeValue:
    """Return ``value`` if it is a valid attribute value, with a list converted to a tuple.

    :raises TypeError: if it is of another type, or a list of mixed types.
    :raises ValueError: if it cannot be exported.
    """
    if not isinstance(value, (list, tuple)):
        return _check_scalar(value)
    scalars = tuple(_check_scalar(item) for item in cast("list[object]", value))
    if len({type(item) for item in scalars}) > 1:
        raise TypeError(f"{shown(scalars)} is not of one type")
    return scalars


def check_attributes(value: object) -> Mapping[str, AttributeValue]:
    """Return a copy of ``value`` if it is a mapping of attribute names to attribute values.

    :raises TypeError: if it is not.
    :raises ValueError: if a name or a value cannot be exported.
    """
    if not isinstance(value, Mapping):
        raise TypeError
    # A plain dict, because a MappingProxyType cannot be pickled or deep-copied with the model that holds it.
    return {_check_key(key): check_attribute(item) for key, item in cast("Mapping[object, object]", value).items()}


def _parse_attributes(text: str) -> object:
    """Parse the format of ``OTEL_RESOURCE_ATTRIBUTES``: percent-encoded, and one error discards the whole value."""
    attributes: dict[str, str] = {}
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if equals:
            attributes[unquote(key.strip(), errors="strict")] = unquote(value.strip(), errors="strict")
        elif pair.strip():
            raise ValueError(f"{shown(pair)} is not key=value")
    return attributes


def _check_cost(value: object) -> object:
    return value if callable(value) else _check_boolean(value)


def choice(*values: str) -> OptionType[str]:
    """Return the type of an option that takes one of ``values``."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise TypeError
        if value not in values:
            raise ValueError
        return value

    *others, last = (f"`{value}`" for value in values)
    return OptionType(f"{', '.join(others)} or {last}", check, str.lower)


def function(of: str) -> OptionType[object]:
    """Return the type of an option that takes a function, which only code can pass."""

    def check(value: object) -> object:
        if value is not None and not callable(value):
            raise TypeError
        return value

    return OptionType(f"function of {of}", check, keyword_only=True)


BOOLEAN: Final = OptionType("`true` or `false`", _check_boolean, _parse_boolean, malformed_is_false=True)
LENGTH: Final = OptionType("whole number, 0 or more", _check_length, _parse_length)
KEYS: Final = OptionType("list of strings", _check_keys, _parse_keys)
ATTRIBUTES: Final = OptionType(
    "map from string to string, boolean, integer, float or a list of one of these", check_attributes, _parse_attributes
)
COST: Final = OptionType(
    "`true`, `false` or, as a keyword, function of provider, model and `Usage`",
    _check_cost,
    _parse_boolean,
    malformed_is_false=True,
)


class _Repr(reprlib.Repr):
    """A ``repr`` that shortens a value and redacts credentials at any depth."""

    def repr1(self, x: Any, level: int) -> str:
        # Imported here because only an error message needs it, and every instrumented process imports this module.
        from .redaction import REDACTED, looks_like_credential

        # A credential can be recognized only in the whole text, not in the shortened one.
        return REDACTED if isinstance(x, str) and looks_like_credential(x) else super().repr1(x, level)


_repr = _Repr()
_repr.maxlevel = 2
_repr.maxstring = _repr.maxother = 80


def shown(value: Any) -> str:
    """Return ``value`` as text for a message: one line of at most 200 characters, without credentials."""
    from .message_redaction import without_secrets

    try:
        text = _repr.repr(value)
    except Exception:  # noqa: BLE001 - an integer of more than 4,300 digits has no repr.
        text = f"<{type(value).__name__}>"
    text = without_secrets(text)
    return text if len(text) <= 200 else f"{text[:197]}..."


def shown_pair(name: str, value: object) -> str:
    """Return an unknown entry as text for a message. Its name may show that its value is a credential."""
    from .message_redaction import without_secrets

    return without_secrets(f"{shown(name)}={shown(value)}")
