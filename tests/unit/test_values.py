# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Conversion of untyped values to checked ones, or to nothing."""

from __future__ import annotations

import enum
import math
from collections import UserDict
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opentelemetry_instrumentation_modelforge import values
from opentelemetry_instrumentation_modelforge.values import NOTHING, count, encodable, integer, items, mapping, price


class Loud(str):
    """A string with a different representation."""

    def __str__(self) -> str:
        return "loud"


class Number(enum.IntEnum):
    ONE = 1


SURROGATES = {
    "plain": "plain",
    "café 🦔": "café 🦔",
    "a\ud800b": "a\ufffdb",
    "\udcff": "\ufffd",
    "\ud83e\udd94": "🦔",
    "": "",
}


@pytest.mark.parametrize("text", SURROGATES, ids=ascii)
def test_lone_surrogates_are_replaced(text: str) -> None:
    assert encodable(text) == SURROGATES[text]


@given(st.text(st.characters()))
def test_any_text_can_be_encoded_afterwards(text: str) -> None:
    encodable(text).encode()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_without_surrogates_is_not_changed(text: str) -> None:
    assert encodable(text) == text


def test_an_instance_of_a_string_subclass_becomes_a_plain_string() -> None:
    assert type(encodable(Loud("quiet"))) is str
    assert encodable(Loud("quiet")) == "quiet"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), ("a\ud800", "a\ufffd"), ("", None), (b"a", None), (1, None), (None, None), (["a"], None)],
)
def test_text(value: object, expected: str | None) -> None:
    assert values.text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, text) for text in ("stop", "resp_a1", "chatcmpl-1", "m" * 256)),
        *((text, None) for text in ("m" * 257, "", 1, None, "purple heron", "a\nb", "a\tb", "Straße", "a\ud800")),
    ],
)
def test_a_short_text_is_one_word_of_at_most_256_characters(value: object, expected: str | None) -> None:
    assert values.short_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((text, text) for text in ("gpt-4o", "Nous Hermes 2 Mistral DPO", "C:\\models\\a.gguf", "hf.co/a/b:Q4_K_M")),
        *((text, None) for text in ("Tell no one that the heron", "m" * 257, "", 1, None, "a\nb", "Straße")),
    ],
)
def test_the_name_of_a_model_has_few_words(value: object, expected: str | None) -> None:
    assert values.model_name(value) == expected


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_a_64_bit_integer_is_an_integer(value: int) -> None:
    assert integer(value) == value


@pytest.mark.parametrize("value", [True, False, 2**63, -(2**63) - 1, 1.0, "1", None, Decimal(1)])
def test_a_value_that_is_not_a_64_bit_integer_is_none(value: object) -> None:
    assert integer(value) is None


@pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
def test_a_count_is_an_integer_from_zero(value: int) -> None:
    assert count(value) == value


@pytest.mark.parametrize("value", [-1, 2**63, True, 1.0, "1", None, Number.ONE])
def test_a_value_that_is_not_a_count_is_none(value: object) -> None:
    assert count(value) is None


@pytest.mark.parametrize("value", [0, 0.0, 1, 0.0012, Decimal("0.5"), 2**70])
def test_a_price_is_a_float(value: Any) -> None:
    assert type(price(value)) is float
    assert price(value) == float(value)


@pytest.mark.parametrize(
    "value",
    [-1, -0.1, True, "1", math.inf, math.nan, None, 10**400, Decimal("sNaN"), Decimal("Infinity"), Fraction(1, 2)],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_that_is_not_a_price_is_none(value: object) -> None:
    assert price(value) is None


@pytest.mark.parametrize("value", [{"a": 1}, {}, UserDict(a=1)])
def test_a_mapping_is_not_changed(value: object) -> None:
    assert mapping(value) is value


@pytest.mark.parametrize("value", [None, [], [("a", 1)], "a", 1, object()])
def test_a_value_that_is_not_a_mapping_becomes_empty(value: object) -> None:
    assert mapping(value) is NOTHING
    assert NOTHING == {}


@pytest.mark.parametrize("value", [[1], (1, 2), [], ()])
def test_items_are_those_of_a_list_or_a_tuple(value: object) -> None:
    assert items(value) is value


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, {1}, 1, iter([1])])
def test_other_values_have_no_items(value: object) -> None:
    assert items(value) == ()
