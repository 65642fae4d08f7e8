# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""One check of the doctor and its result."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Final, Generic, TypeVar, cast

from ..errors import fault_text
from ..message_redaction import without_random_words
from ..redaction import without_credentials

T = TypeVar("T")


class State(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Spans arrive, but something is missing from them."""
    PROBLEM = "problem"
    """No spans arrive."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    state: State
    detail: str
    """A line for each fact."""
    remedy: str = ""
    """A line for each command, setting or code change that helps; empty if none is needed."""
    data: Mapping[str, object] = field(default_factory=dict[str, object])
    """The same facts for programs, as JSON values."""

    def without(self, secrets: Iterable[str]) -> "Finding":
        """Return this finding without credentials: ``secrets``, everything that looks like one, and random words.

        Some backends require the key in the path of the URL.
        """
        secrets = tuple(secrets)
        return replace(
            self,
            detail=_redacted(self.detail, secrets),
            remedy=_redacted(self.remedy, secrets),
            data=cast("Mapping[str, object]", _redacted_members(self.data, secrets)),
        )


ok: Final = partial(Finding, State.OK)
"""A finding about something that works. Its remedy is a hint."""
warning: Final = partial(Finding, State.WARNING)
"""A finding about something that is missing from the spans."""
problem: Final = partial(Finding, State.PROBLEM)
"""A finding that explains why no spans arrive."""


def listed(names: Iterable[str]) -> str:
    """Return names as an enumeration: at most six of them, or five and the number of the others."""
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct) if len(distinct) <= 6 else f"{', '.join(distinct[:5])} and {len(distinct) - 5} more"


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """One question about a subject."""

    name: str
    """Its key in JSON, which does not change between releases."""
    title: str
    find: Callable[[T], Finding]

    def run(self, subject: T) -> Finding:
        """Return what the check finds; an exception of the check becomes a finding too."""
        try:
            return self.find(subject)
        except Exception as error:  # noqa: BLE001 - the other checks still have answers.
            kind, stack = type(error).__name__, fault_text(error).strip().splitlines()
            remedy = "Report it with the output of --json."
            return warning(f"this check failed: {kind}", remedy, {"error": kind, "stack": stack})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of all checks, in the order of the checks."""

    findings: Mapping[str, Finding]
    """By the name of the check."""
    titles: Mapping[str, str]

    @property
    def spans_expected(self) -> bool:
        """Whether spans will arrive: no check found a problem."""
        return not self.having(State.PROBLEM)

    def having(self, state: State) -> list[str]:
        """Return the names of the checks whose finding has this state."""
        return [name for name, finding in self.findings.items() if finding.state is state]


def _redacted(text: str, secrets: tuple[str, ...]) -> str:
    return without_random_words(without_credentials(text, secrets))


def _redacted_members(value: object, secrets: tuple[str, ...]) -> object:
    if isinstance(value, str):
        return _redacted(value, secrets)
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return {_redacted(key, secrets): _redacted_members(member, secrets) for key, member in members.items()}
    if isinstance(value, list | tuple):
        return [_redacted_members(member, secrets) for member in cast("list[object]", value)]
    return value
