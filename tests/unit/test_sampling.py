# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A sample has every aspect of the whole."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from support.sampling import pairs, sample


def test_each_pair_of_values_occurs_in_few_cases() -> None:
    cases = list(product(range(10), "ab", (True, False), (True, False)))
    chosen = sample(cases, lambda case: pairs(*case))
    assert {pair for case in chosen for pair in pairs(*case)} == {pair for case in cases for pair in pairs(*case)}
    assert 20 <= len(chosen) < 30


@given(st.lists(st.sets(st.integers(0, 9))))
def test_no_aspect_is_left_out_and_no_case_is_chosen_twice(cases: list[set[int]]) -> None:
    chosen = sample(range(len(cases)), lambda number: cases[number])
    assert set().union(*(cases[number] for number in chosen)) == set().union(*cases)
    assert len(set(chosen)) == len(chosen)


def test_the_sample_of_a_single_case_is_that_case() -> None:
    assert sample(["only"], lambda case: case) == ["only"]
