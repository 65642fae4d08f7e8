# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The checks of the installation and of the way that spans take."""

import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from ..otel_utils import is_otel_available
from .distributions import (
    MODELFORGE,
    PACKAGE,
    conflicts,
    entry_point,
    python_version,
    relevant_versions,
    supported_modelforge,
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
"""Packages that others of OpenTelemetry's bring in their own version; only JSON has them."""


def packages(process: Process) -> Finding:
    """Return the versions of everything that works together here."""
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
    """Return OpenTelemetry's own packages by version; instrumentations of other libraries are left to JSON."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, found in versions.items():
        short = name.removeprefix("opentelemetry-")
        if short != name and not short.startswith("instrumentation-") and short not in _PARTS:
            groups[found].append(short)
    return ", ".join(f"{found} ({', '.join(names)})" for found, names in groups.items())


def requirements(process: Process) -> Finding:
    """Return whether the versions go together."""
    # The check of ModelForge names its version.
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
    """Return whether ModelForge can be imported, is found by its metadata, and is of a known version."""
    found = version_of(MODELFORGE)
    supported = supported_modelforge()
    data: dict[str, object] = {"version": found, "supported": str(supported.specifier)}
    if not process.modelforge_found:
        detail = "ModelForge is not installed in this environment"
        return problem(f"{detail} ({sys.executable})", f"pip install {MODELFORGE}", data=data)
    error = process.modelforge_import[0]
    if error is not None:
        detail = f"importing modelforge.registry raises {type(error).__name__}: {error}"
        return problem(detail, "python -c 'import modelforge.registry' prints the traceback", data=data)
    where = getattr(sys.modules.get("modelforge"), "__file__", "")
    if found is None:
        detail = f"modelforge is on the path without the metadata of {MODELFORGE}: {where}"
        remedy = (
            f"pip install {MODELFORGE} (or its checkout, with --editable)\nor in code: instrument(skip_dep_check=True)"
        )
        if process.instrumented:
            return warning(detail, data=data)
        return problem(f"{detail}\nopentelemetry-instrument then takes ModelForge for missing", remedy, data=data)
    if not supported.specifier.contains(found, prereleases=True):
        detail = f"{MODELFORGE} {found} is not a version that this package knows ({supported.specifier})"
        if process.instrumented:
            return warning(detail, data=data)
        remedy = f"pip install '{MODELFORGE}{supported.specifier}'\nor in code: instrument(skip_dep_check=True)"
        return problem(detail, remedy, data=data)
    return ok(f"{MODELFORGE} {found}, {where}", data=data)


def instrumentation(process: Process) -> Finding:
    """Return whether ModelForge is instrumented and by what, or why not."""
    if process.instrumented:
        by = "opentelemetry-instrument" if process.launcher_asked_for else "initialize()"
        if not process.launched:
            by = f"{_IN_CODE} in code"
            if process.vendor_launcher is not None:
                by += f", under {process.vendor_launcher}"
        return ok(f"ModelForge is instrumented by {by}", data={"by": by})
    if process.launched:
        detail, remedy = _left_out(process)
    elif process.vendor_launcher is not None:
        detail = f"{process.vendor_launcher} has started this process; it loads no OpenTelemetry instrumentation"
        remedy = f"Call {_IN_CODE} at the start of the application."
        if process.vendor_launcher == "newrelic-admin":
            remedy = "newrelic-admin run-program opentelemetry-instrument python …"
        elif process.vendor_launcher == "ddtrace-run" and not is_true("DD_TRACE_OTEL_ENABLED"):
            remedy += "\nexport DD_TRACE_OTEL_ENABLED=true, so that Datadog records its spans"
    elif process.launcher_asked_for:
        if sys.flags.ignore_environment:
            detail = "opentelemetry-instrument did nothing: python -E and -I ignore PYTHONPATH, by which it works"
            remedy = f"Start Python without -E and -I, or call {_IN_CODE} in code."
        elif sys.flags.no_site:
            detail, remedy = "opentelemetry-instrument did nothing: python -S imports no sitecustomize", "Leave -S out."
        else:
            detail = (
                f"opentelemetry-instrument did nothing: {process.sitecustomize or 'another sitecustomize'} runs instead"
            )
            remedy = (
                "Take that file out of PYTHONPATH, or call initialize() in code: see Zero code, Without the command."
            )
    else:
        detail = "not instrumented: this process was started without opentelemetry-instrument"
        remedy = f"opentelemetry-instrument {_COMMAND}"
        if (fault := missing_sdk()) is not None:
            remedy = f"{fault.remedy}\n{remedy}"
        remedy += "\nIf the application calls instrument(), call examine() of this package's doctor after that."
    return problem(detail, remedy, data={"by": None})


def _left_out(process: Process) -> tuple[str, str]:
    """Return why the launcher, which has run, has not instrumented ModelForge."""
    if process.is_disabled("modelforge"):
        detail = f"{DISABLED_INSTRUMENTATIONS} has {', '.join(process.disabled_instrumentations)}"
        return detail, f"Take modelforge, or *, out of {DISABLED_INSTRUMENTATIONS}."
    # After the SDK come the instrumentations.
    if (
        not is_true("OTEL_SDK_DISABLED")
        and (fault := setup_fault()) is not None
        and api_only(process.providers["traces"])
    ):
        return f"opentelemetry-instrument could not set OpenTelemetry up: {fault.detail}", fault.remedy
    if entry_point("opentelemetry_instrumentor", "modelforge") is None:
        return "opentelemetry-instrument does not find this package: see Packages", ""
    found = version_of(MODELFORGE)
    if found is None or not supported_modelforge().specifier.contains(found, prereleases=True):
        return "opentelemetry-instrument leaves this version of ModelForge alone: see ModelForge", ""
    return "opentelemetry-instrument stopped early", "The last line of the traceback above names the cause."


def patches(process: Process) -> Finding:
    """Return whether importing ModelForge has put the patches in place."""
    if process.modelforge_import[0] is not None:
        return ok("not checked, because ModelForge cannot be imported", data={"active": False})
    # It imports LangChain, which comes with ModelForge.
    from ..telemetry import active_telemetry

    logged = process.modelforge_import[1]
    data: dict[str, object] = {"active": active_telemetry() is not None, "warnings": logged}
    if not process.instrumented:
        return ok("none, because ModelForge is not instrumented", data=data)
    if not process.configuration.enabled:
        source = next(name for name, values in reversed(process.options[0]) if "enabled" in values)
        if source == "environment":
            return problem("OTEL_PYTHON_MODELFORGE_ENABLED is not true", "unset OTEL_PYTHON_MODELFORGE_ENABLED", data)
        return problem(f"enabled is false in {source}", "Set enabled to true there.", data=data)
    if not data["active"]:
        return problem(
            "\n".join(["the patches could not be put in place", *logged]), "Report it, with the output of --json.", data
        )
    if logged:
        return warning("\n".join(logged), "Report it with the versions of LangChain and ModelForge.", data=data)
    return ok("in place; models that get_llm handed out before instrument() are not traced", data=data)


def recording(process: Process) -> Finding:
    """Return the providers, and whether that of spans is an SDK's."""
    provider = process.providers["traces"]
    names = {signal: _name(provider) for signal, provider in process.providers.items()}
    recorders = {name: [signal for signal in names if names[signal] == name] for name in names.values()}
    detail = ", ".join(f"{' and '.join(signals)} by {name}" for name, signals in recorders.items())
    data: dict[str, object] = {"providers": names}
    disabled = is_true("OTEL_SDK_DISABLED")
    if not api_only(provider) and not disabled and is_otel_available():
        return ok(f"recorded: {detail}", data=data)
    fault = setup_fault()
    if fault is not None:
        return problem(f"nobody records: {fault.detail}", fault.remedy, data=data)
    if not process.launched:
        remedy = "Set the global tracer provider first, or start with opentelemetry-instrument."
        return problem("nobody records: no SDK is set up in this process", remedy if process.instrumented else "", data)
    return problem(
        f"nobody records spans ({detail})", "The last line of the traceback above names the cause.", data=data
    )


def _name(provider: object) -> str:
    kind = type(provider)
    if api_only(provider):
        return "nobody"
    return "the SDK" if kind.__module__.startswith("opentelemetry.sdk.") else f"{kind.__module__}.{kind.__qualname__}"
