# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The installed distributions, and whether their versions are compatible."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distributions, entry_points, version
from typing import Final, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..package import _instruments  # pyright: ignore[reportPrivateUsage]

PACKAGE: Final = "opentelemetry-instrumentation-modelforge"
MODELFORGE: Final = "model-forge-llm"
INTEGRATIONS: Final = (
    "langchain-core",
    "langchain-openai",
    "langchain-community",
    "langchain-google-genai",
    "langchain-github-copilot",
)
"""LangChain, and the integrations with which ModelForge builds its models."""
SDK: Final = ("opentelemetry-sdk", "opentelemetry-distro", "opentelemetry-exporter-otlp")
"""The extra ``otel`` of this package."""
SUPPORTED: Final = Requirement(_instruments[0]).specifier
"""The versions of ModelForge that this package instruments."""


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None if it has no metadata."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def installed() -> dict[str, Distribution]:
    """Return the installed distributions by name, each as the import system finds it."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        # Broken metadata has no name.
        if name := distribution.metadata["Name"]:
            found.setdefault(canonicalize_name(name), distribution)
    return found


def relevant_versions() -> dict[str, str]:
    """Return the versions of everything that this package works with, by distribution."""
    names = [PACKAGE, MODELFORGE, *INTEGRATIONS, "genai-prices", "wrapt"]
    names += sorted(name for name in installed() if name.startswith("opentelemetry-") and name != PACKAGE)
    return {name: found for name in names if (found := version_of(name)) is not None}


def entry_point(group: str, name: str) -> EntryPoint | None:
    """Return the entry point that OpenTelemetry would load by this name, or None."""
    return next(iter(entry_points(group=group, name=name)), None)


def is_supported(modelforge: str) -> bool:
    """Return whether this package instruments a version of ModelForge."""
    return SUPPORTED.contains(modelforge, prereleases=True)


class Conflict(NamedTuple):
    """A requirement that the installed version does not meet."""

    distribution: str
    needs: str
    found: str | None
    """The installed version, or None if the distribution is not installed."""


def conflicts() -> dict[Conflict, list[str]]:
    """Return the unmet requirements of the relevant distributions, each with the distributions that have it."""
    users: defaultdict[Conflict, list[str]] = defaultdict(list)
    known = relevant_versions()
    for name in known:
        for conflict in _unmet(installed()[name], known) if name in installed() else ():
            users[conflict].append(name)
    return dict(users)


def _unmet(distribution: Distribution, known: Mapping[str, str]) -> Iterator[Conflict]:
    ours = canonicalize_name(distribution.metadata["Name"]) == PACKAGE
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        # Our extras specify the versions that this package works with, whether or not the extra was requested.
        if not applies and not (ours and name in known):
            continue
        found = version_of(name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield Conflict(name, str(requirement.specifier), found)
