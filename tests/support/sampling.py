# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A representative sample of the cases of a large parametrization."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import TypeVar

T = TypeVar("T")


def pairs(*factors: Hashable) -> Iterable[Hashable]:
    """Return the pairs of a case's factors, for a sample in which each pair of values occurs."""
    return combinations(enumerate(factors), 2)


def sample(cases: Sequence[T], aspects: Callable[[T], Iterable[Hashable]]) -> list[T]:
    """Choose cases that together have every aspect of all cases.

    The next case is always the one with the most missing aspects, and the first of equal ones, so that the sample is
    the same in each process.
    """
    left = [(case, set(aspects(case))) for case in cases]
    missing: set[Hashable] = set().union(*(of_case for _, of_case in left))
    chosen: list[T] = []
    while missing:
        case, covered = max(left, key=lambda entry: len(entry[1]))
        chosen.append(case)
        missing -= covered
        left = [(other, of_other - covered) for other, of_other in left]
    return chosen
