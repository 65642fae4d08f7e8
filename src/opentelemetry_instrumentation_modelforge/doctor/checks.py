# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The checks of the installation, the instrumentation and the providers."""

import sys
from collections import defaultdict
from collections.abc import Mapping
from platform import python_version
from typing import Final

from .distributions import (
    MODELFORGE,
    PACKAGE,
    SUPPORTED,
    conflicts,
    entry_point,
    is_supported,
    relevant_versions,
    version_of,
)
from .environment import is_true
from .exporters import api_only
from .finding import Finding, listed, ok, problem, warning
from .process import DISABLED_INSTRUMENTATIONS, Process
from .setup import missing_sdk, setup_fault

_COMMAND: Final = "python -m opentelemetry_instrumentation_modelforge"
_IN_CODE: Final = "ModelForgeInstrumentor().instrument()"

_MOST_NAMES: Final = 6
_PARTS: Final = frozenset(
    (
        "exporter-http-transport",
        "exporter-otlp",
        "exporter-otlp-common",
        "exporter-otlp-proto-common",
        "proto",
        "semantic-conventions-ai",
        "util-http",
    )
)
"""Packages with the same version as an OpenTelemetry package that depends on them. Only the JSON lists them."""


def packages(process: Process) -> Finding:
    """Find the versions of all relevant packages, and whether this package has metadata."""
    versions = relevant_versions()
    ours = versions.get(PACKAGE)
    others = [f"{name} {found}" for name, found in versions.items() if not name.startswith("opentelemetry-")]
    lines = [
        f"{PACKAGE} {ours or '(without metadata)'}, Python {python_version()}",
        ", ".join(others),
        f"opentelemetry {_grouped(versions)}",
    ]
    detail = "\n".join(line for line in lines if line)
    data: dict[str, object] = {"python": python_version(), "executable": sys.executable, "versions": versions}
    if ours is None or entry_point("opentelemetry_instrumentor", "modelforge") is None:
        remedy = f"pip install {PACKAGE}, or call {_IN_CODE}"
        detail += "\nthis package is on the path without its metadata, so opentelemetry-instrument cannot find it"
        return (warning if process.instrumented else problem)(detail, remedy, data=data)
    return ok(detail, data=data)


def _grouped(versions: Mapping[str, str]) -> str:
    """Return OpenTelemetry's own packages by version. Only the JSON lists instrumentations of other libraries."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, found in versions.items():
        short = name.removeprefix("opentelemetry-")
        if short != name and not short.startswith("instrumentation-") and short not in _PARTS:
            groups[found].append(short)
    return ", ".join(f"{found} ({', '.join(names)})" for found, names in groups.items())


def requirements(process: Process) -> Finding:
    """Find the requirements that the installed versions do not meet."""
    # The check of ModelForge reports whether its version is supported.
    found = {conflict: users for conflict, users in conflicts().items() if conflict.distribution != MODELFORGE}
    if not found:
        return ok("the installed versions go together", data={"conflicts": []})
    lines = [
        f"{listed(users)} need{'s' if len(users) == 1 else ''} {conflict.distribution}{conflict.needs}, "
        + (f"found {conflict.found}" if conflict.found else "which is not installed")
        for conflict, users in found.items()
    ]
    names = dict.fromkeys(user for users in found.values() for user in users)
    remedy = "Install one release of all these packages; pip check lists them."
    if len(names) <= _MOST_NAMES:
        remedy = f"pip install --upgrade {' '.join(names)}"
    rows = [{**conflict._asdict(), "needed_by": users} for conflict, users in found.items()]
    return warning("\n".join(lines), remedy, {"conflicts": rows})


def modelforge(process: Process) -> Finding:
    """Check whether ModelForge can be imported, has metadata, and is of a supported version."""
    found = version_of(MODELFORGE)
    data: dict[str, object] = {"version": found, "supported": str(SUPPORTED)}
    if not process.modelforge_found:
        detail = "ModelForge is not installed in this environment"
        return problem(f"{detail} ({sys.executable})", f"pip install {MODELFORGE}", data)
    if (error := process.modelforge_error) is not None:
        detail = f"importing modelforge.registry raises {type(error).__name__}: {error}"
        return problem(detail, "python -c 'import modelforge.registry' prints the traceback", data)
    where = getattr(sys.modules.get("modelforge"), "__file__", "")
    consequence = ""
    if found is None:
        detail = f"modelforge is on the path without the metadata of {MODELFORGE}: {where}"
        consequence = "\nopentelemetry-instrument then treats ModelForge as missing"
        remedy = f"pip install {MODELFORGE} (or its checkout, with --editable)"
    elif not is_supported(found):
        detail = f"{MODELFORGE} {found} is not a version that this package knows ({SUPPORTED})"
        remedy = f"pip install '{MODELFORGE}{SUPPORTED}'"
    else:
        return ok(f"{MODELFORGE} {found}, {where}", data=data)
    if process.instrumented:
        return warning(detail, data=data)
    return problem(detail + consequence, f"{remedy}\nor in code: instrument(skip_dep_check=True)", data)


def instrumentation(process: Process) -> Finding:
    """Check whether ModelForge is instrumented and by what, or why not."""
    if not process.instrumented:
        return problem(*_not_instrumented(process), data={"by": None})
    if process.launched:
        by = "opentelemetry-instrument" if process.launcher_asked_for else "initialize()"
    else:
        by = f"{_IN_CODE} in code" + (f", under {process.vendor_launcher}" if process.vendor_launcher else "")
    return ok(f"ModelForge is instrumented by {by}", data={"by": by})


def _not_instrumented(process: Process) -> tuple[str, str]:
    """Return why ModelForge is not instrumented, and the remedy."""
    if process.launched:
        return _left_out(process)
    if process.vendor_launcher is not None:
        remedy = f"Call {_IN_CODE} at the start of the application."
        if process.vendor_launcher == "newrelic-admin":
            remedy = "opentelemetry-instrument newrelic-admin run-program python …"
        elif process.vendor_launcher == "ddtrace-run" and not is_true("DD_TRACE_OTEL_ENABLED"):
            remedy += "\nexport DD_TRACE_OTEL_ENABLED=true, so that Datadog records its spans"
        return f"{process.vendor_launcher} has started this process; it loads no OpenTelemetry instrumentation", remedy
    if process.launcher_asked_for:
        if sys.flags.ignore_environment:
            reason = "python -E and -I ignore PYTHONPATH, by which it works"
            remedy = f"Start Python without -E and -I, or call {_IN_CODE} in code."
        elif sys.flags.no_site:
            reason, remedy = "python -S imports no sitecustomize", "Leave -S out."
        else:
            reason = f"{process.sitecustomize or 'another sitecustomize'} runs instead"
            remedy = (
                "Take that file out of PYTHONPATH, or call initialize() in code: see Zero code, Without the command."
            )
        return f"opentelemetry-instrument did nothing: {reason}", remedy
    remedy = f"opentelemetry-instrument {_COMMAND}"
    if (fault := missing_sdk()) is not None:
        remedy = f"{fault.remedy}\n{remedy}"
    remedy += "\nIf the application calls instrument(), call examine() of this package's doctor after that."
    return "not instrumented: this process was started without opentelemetry-instrument", remedy


def _left_out(process: Process) -> tuple[str, str]:
    """Return why the launcher, which has run, has not instrumented ModelForge, and the remedy."""
    if process.is_disabled("modelforge"):
        detail = f"{DISABLED_INSTRUMENTATIONS} has {', '.join(process.disabled_instrumentations)}"
        return detail, f"Take modelforge, or *, out of {DISABLED_INSTRUMENTATIONS}."
    # The launcher sets up the SDK before it loads instrumentations.
    if (
        not is_true("OTEL_SDK_DISABLED")
        and (fault := setup_fault()) is not None
        and api_only(process.providers["traces"])
    ):
        return f"opentelemetry-instrument could not set OpenTelemetry up: {fault.detail}", fault.remedy
    if entry_point("opentelemetry_instrumentor", "modelforge") is None:
        return "opentelemetry-instrument does not find this package: see Packages", ""
    found = version_of(MODELFORGE)
    if found is None or not is_supported(found):
        return "opentelemetry-instrument leaves this version of ModelForge alone: see ModelForge", ""
    return "opentelemetry-instrument stopped early", "The last line of the traceback above names the cause."


def patches(process: Process) -> Finding:
    """Check whether the patches are in place, now that ModelForge has been imported."""
    if process.modelforge_error is not None:
        return ok("not checked, because ModelForge cannot be imported", data={"active": False})
    # Imported here, because it imports LangChain, which comes with ModelForge.
    from ..telemetry import active_telemetry

    logged = process.patch_warnings
    active = active_telemetry() is not None
    data: dict[str, object] = {"active": active, "warnings": logged}
    if not process.instrumented:
        return ok("none, because ModelForge is not instrumented", data=data)
    if not process.configuration.enabled:
        source = next(name for name, values in reversed(process.options[0]) if "enabled" in values)
        if source == "environment":
            return problem("OTEL_PYTHON_MODELFORGE_ENABLED is not true", "unset OTEL_PYTHON_MODELFORGE_ENABLED", data)
        return problem(f"enabled is false in {source}", "Set enabled to true there.", data=data)
    if not active:
        detail = "\n".join(["the patches could not be put in place", *logged])
        return problem(detail, "Report it with the output of --json.", data)
    if logged:
        return warning("\n".join(logged), "Report it with the versions of LangChain and ModelForge.", data)
    return ok("in place; models that get_llm handed out before instrument() are not traced", data=data)


def recording(process: Process) -> Finding:
    """Find the providers that record spans, metrics and events."""
    provider = process.providers["traces"]
    names = {signal: _name(provider) for signal, provider in process.providers.items()}
    recorders = {name: [signal for signal in names if names[signal] == name] for name in names.values()}
    detail = ", ".join(f"{' and '.join(signals)} by {name}" for name, signals in recorders.items())
    data: dict[str, object] = {"providers": names}
    if not api_only(provider) and not is_true("OTEL_SDK_DISABLED"):
        return ok(f"recorded: {detail}", data=data)
    if (fault := setup_fault()) is not None:
        return problem(f"nobody records: {fault.detail}", fault.remedy, data)
    if not process.launched:
        remedy = "Set the global tracer provider first, or start with opentelemetry-instrument."
        return problem("nobody records: no SDK is set up in this process", remedy if process.instrumented else "", data)
    return problem(f"nobody records spans ({detail})", "The last line of the traceback above names the cause.", data)


def _name(provider: object) -> str:
    if api_only(provider):
        return "nobody"
    kind = type(provider)
    return "the SDK" if kind.__module__.startswith("opentelemetry.sdk.") else f"{kind.__module__}.{kind.__qualname__}"
