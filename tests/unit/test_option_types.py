# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The values each option type accepts, the parsing of its text, and the display of rejected values in messages."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentelemetry_instrumentation_modelforge.option_types import (
    ATTRIBUTES,
    BOOLEAN,
    COST,
    KEYS,
    LENGTH,
    OptionType,
    check_attribute,
    check_attributes,
    choice,
    function,
    shown,
    shown_pair,
)
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY

CHOICE = choice("first", "all", "off")
FUNCTION = function("text")
TYPES: dict[str, OptionType[Any]] = {
    "boolean": BOOLEAN,
    "cost": COST,
    "length": LENGTH,
    "keys": KEYS,
    "attributes": ATTRIBUTES,
    "choice": CHOICE,
    "function": FUNCTION,
}

PARSED = [
    (BOOLEAN, "true", True),
    (BOOLEAN, "FALSE", False),
    (COST, "False", False),
    (LENGTH, "10", 10),
    (LENGTH, "007", 7),
    (KEYS, " user.id, ,tenant,user.id", ("user.id", "tenant")),
    (KEYS, ",", ()),
    (ATTRIBUTES, " team = ml , note=a%3Db%2C%20caf%C3%A9=, empty=,", {"team": "ml", "note": "a=b, café=", "empty": ""}),
    (CHOICE, "ALL", "all"),
]
MALFORMED = [
    (BOOLEAN, "yes", TypeError),
    (BOOLEAN, "0", TypeError),
    (COST, "print", TypeError),
    (LENGTH, "-1", TypeError),
    (LENGTH, "1.5", TypeError),
    (LENGTH, "٣", TypeError),
    (LENGTH, "9" * 5000, ValueError),
    (ATTRIBUTES, "team", ValueError),
    (ATTRIBUTES, "=ml", ValueError),
    (ATTRIBUTES, "team=%ff", ValueError),
    (CHOICE, "sometimes", ValueError),
    (FUNCTION, "print", TypeError),
]
CHECKED = [
    (BOOLEAN, True, True),
    (COST, False, False),
    (LENGTH, 0, 0),
    (LENGTH, None, None),
    (KEYS, ["a", "b", "a"], ("a", "b")),
    (KEYS, (), ()),
    (ATTRIBUTES, {"a": [1, 2]}, {"a": (1, 2)}),
    (CHOICE, "off", "off"),
    (FUNCTION, print, print),
    (FUNCTION, None, None),
    (COST, print, print),
]
WRONG = [
    (BOOLEAN, 1, TypeError),
    (BOOLEAN, None, TypeError),
    (COST, None, TypeError),
    (COST, 0, TypeError),
    (LENGTH, True, TypeError),
    (LENGTH, 1.0, TypeError),
    (LENGTH, -1, ValueError),
    (KEYS, "user.id", TypeError),
    (KEYS, [1], TypeError),
    (KEYS, [""], ValueError),
    (KEYS, ["\ud800"], ValueError),
    (KEYS, {"user.id"}, TypeError),
    (ATTRIBUTES, [("a", 1)], TypeError),
    (ATTRIBUTES, {1: "a"}, TypeError),
    (ATTRIBUTES, {"": "a"}, ValueError),
    (CHOICE, None, TypeError),
    (CHOICE, "First", ValueError),
    (FUNCTION, "print", TypeError),
]


@pytest.mark.parametrize(("option_type", "text", "value"), PARSED)
def test_a_variables_text_is_parsed(option_type: OptionType[Any], text: str, value: object) -> None:
    assert option_type.check(option_type.parse(text)) == value


@pytest.mark.parametrize(("option_type", "text", "error"), MALFORMED)
def test_malformed_text_is_rejected(option_type: OptionType[Any], text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        option_type.check(option_type.parse(text))


@pytest.mark.parametrize(("option_type", "value", "expected"), CHECKED)
def test_a_value_is_accepted(option_type: OptionType[Any], value: object, expected: object) -> None:
    assert option_type.check(value) == expected
    assert type(option_type.check(value)) is type(expected)


@pytest.mark.parametrize(("option_type", "value", "error"), WRONG)
def test_a_wrong_type_and_an_invalid_value_are_distinguished(
    option_type: OptionType[Any], value: object, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        option_type.check(value)
    assert isinstance(raised.value, TypeError) is (error is TypeError)


@given(st.sampled_from(sorted(TYPES)), st.text(st.characters()))
def test_any_text_is_parsed_or_rejected(name: str, text: str) -> None:
    option_type = TYPES[name]
    with contextlib.suppress(TypeError, ValueError):
        option_type.check(option_type.parse(text))


def test_only_switches_fail_safe_and_only_functions_are_keywords() -> None:
    assert {name for name, option_type in TYPES.items() if option_type.malformed_is_false} == {"boolean", "cost"}
    assert {name for name, option_type in TYPES.items() if option_type.keyword_only} == {"function"}


def test_an_option_describes_what_it_accepts() -> None:
    assert {name: option_type.accepts for name, option_type in TYPES.items()} == {
        "boolean": "`true` or `false`",
        "cost": "`true`, `false` or, as a keyword, function of provider, model and `Usage`",
        "length": "whole number, 0 or more",
        "keys": "list of strings",
        "attributes": "map from string to string, boolean, integer, float or a list of one of these",
        "choice": "`first`, `all` or `off`",
        "function": "function of text",
    }
    assert choice("safe", "full").accepts == "`safe` or `full`"


# --- Attributes ---


@pytest.mark.parametrize("value", ["ml", "", True, 7, -(2**63), 2**63 - 1, 0.5, ("a", "b"), (True,), ()])
def test_a_valid_attribute_is_not_changed(value: Any) -> None:
    assert check_attribute(value) == value
    assert type(check_attribute(value)) is type(value)


def test_a_list_becomes_an_immutable_tuple() -> None:
    assert check_attribute(["a", "b"]) == ("a", "b")
    given_attributes = {"key": ["a"]}
    checked = check_attributes(given_attributes)
    given_attributes["key"].append("b")
    given_attributes["other"] = []
    assert checked == {"key": ("a",)}


@pytest.mark.parametrize("value", [None, {}, b"x", [None], [[1]], [1, True], [1, 0.5], ["a", 1]], ids=repr)
def test_a_value_that_is_not_an_attribute_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        check_attribute(value)


@pytest.mark.parametrize("value", [2**63, [2**63], -(2**63) - 1, 10**5000, "\ud800", ["\ud800"]], ids=range(6))
def test_a_value_that_cannot_be_exported_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some messages come from an encoder.
        check_attribute(value)


# --- Messages ---


@pytest.mark.parametrize("value", ["sometimes", 7, None, True, ["a", 1], {"a": None}])
def test_a_short_value_is_shown_unchanged(value: object) -> None:
    assert shown(value) == repr(value)


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, [["x" * 1000] * 1000] * 1000, {str(key): "x" * 100 for key in range(100)}, Hostile(), 10**5000],
    ids=["string", "lists", "map", "hostile", "integer"],
)
def test_any_value_is_shown_in_one_short_line(value: object) -> None:
    assert 0 < len(shown(value)) <= 200
    assert "\n" not in shown(value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("nope", "on", "'nope'='on'"),
        ("api_key", "hunter2", "'api_key'='[REDACTED]'"),
        ("token", ["hunter2"], "'token'=['[REDACTED]']"),
        ("OTEL_PYTHON_MODELFORGE_API_KEY", "hunter2", "'OTEL_PYTHON_MODELFORGE_API_KEY'='[REDACTED]'"),
    ],
)
def test_the_value_of_an_option_named_like_a_credential_is_not_shown(name: str, value: object, text: str) -> None:
    assert shown_pair(name, value) == text


def test_a_line_break_in_a_value_does_not_break_the_line() -> None:
    assert shown("a\nb") == r"'a\nb'"


UUID_KEY = "9f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b"


@pytest.mark.parametrize("key", [OPENAI_KEY, GOOGLE_KEY, COPILOT_TOKEN, "0123456789abcdef0123456789abcdef", UUID_KEY])
@pytest.mark.parametrize(
    "spell",
    [
        lambda key: key,
        lambda key: f"Bearer {key}",
        lambda key: f"https://user:{key}@host/v1",
        lambda key: [key],
        lambda key: {key: None},
        lambda key: {"api_key": key},
    ],
    ids=["alone", "header", "URL", "list", "name", "map"],
)
def test_a_credential_is_not_shown(key: str, spell: Any) -> None:
    assert key[8:] not in shown(spell(key))
