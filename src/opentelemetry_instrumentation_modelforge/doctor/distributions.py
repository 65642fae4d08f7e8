"""The installed distributions, and whether their versions go together."""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distributions, entry_points, version
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

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
"""LangChain, and the integrations that ModelForge builds its models with."""
SDK: Final = ("opentelemetry-sdk", "opentelemetry-distro", "opentelemetry-exporter-otlp")
"""The extra ``otel`` of this package."""


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None if it has no metadata."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def canonical(name: str) -> str:
    """Return a distribution's name with hyphens and in lower case."""
    return name.replace("_", "-").replace(".", "-").lower()


@cache
def installed() -> dict[str, Distribution]:
    """Return the installed distributions by name, each as the import system finds it."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        # Broken metadata has no name.
        if name := distribution.metadata["Name"]:
            found.setdefault(canonical(name), distribution)
    return found


def relevant_versions() -> dict[str, str]:
    """Return the versions of everything that this package works with, by distribution."""
    names = [PACKAGE, MODELFORGE, *INTEGRATIONS, "genai-prices", "wrapt"]
    names += sorted(name for name in installed() if name.startswith("opentelemetry-") and name != PACKAGE)
    return {name: found for name in names if (found := version_of(name)) is not None}


def entry_point(group: str, name: str) -> EntryPoint | None:
    """Return the entry point that OpenTelemetry would load by this name, or None."""
    return next(iter(entry_points(group=group, name=name)), None)


def supported_modelforge() -> Requirement:
    """Return the versions of ModelForge that this package instruments."""
    return Requirement(_instruments[0])


def conflicts() -> dict[str, str]:
    """Return the requirements among the relevant distributions that the installed versions do not meet.

    :return: what is wrong by the distribution that requires something else.
    """
    known = set(relevant_versions())
    found = {name: "; ".join(_unmet(installed()[name], known)) for name in known if name in installed()}
    return {name: unmet for name, unmet in sorted(found.items()) if unmet}


def _unmet(distribution: Distribution, known: Iterable[str]) -> Iterator[str]:
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        name = canonical(requirement.name)
        present = version_of(name)
        optional = "extra" in str(requirement.marker or "")
        if optional:
            # An extra counts for what it may bring: of ours, each is about packages that are here or are not.
            applies = canonical(distribution.metadata["Name"]) == PACKAGE and name in known
        else:
            applies = requirement.marker is None or requirement.marker.evaluate()
        if not applies:
            continue
        if present is None:
            yield f"needs {name}, which is not installed"
        elif not requirement.specifier.contains(present, prereleases=True):
            yield f"needs {name}{requirement.specifier}, found {present}"


def python_version() -> str:
    """Return the interpreter's version."""
    return ".".join(map(str, sys.version_info[:3]))
