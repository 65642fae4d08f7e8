# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The doctor: whether the model calls of a process will be traced and, if not, why and what to do.

From a shell, with the application's launcher and variables::

    opentelemetry-instrument python -m opentelemetry_instrumentation_modelforge

In an application that sets up OpenTelemetry itself, after the set-up:

.. code-block:: python

    from opentelemetry_instrumentation_modelforge.doctor import as_text, examine

    print(as_text(examine()))

The doctor imports ModelForge and sends a request without data to each exporter's endpoint. It sends nothing to a model
provider. The rest of the package does not import it.
"""

import contextlib
from typing import Final

from . import checks, export_checks, model_checks, second_spans
from .finding import Check, Diagnosis, Finding, State
from .process import Process
from .rendering import as_json, as_text

__all__ = ["Diagnosis", "Finding", "State", "as_json", "as_text", "examine"]

_CHECKS: Final[tuple[Check[Process], ...]] = (
    Check("packages", "Packages", checks.packages),
    Check("requirements", "Versions", checks.requirements),
    Check("modelforge", "ModelForge", checks.modelforge),
    Check("instrumentation", "Instrumentation", checks.instrumentation),
    Check("patches", "Patches", checks.patches),
    Check("recording", "Recording", checks.recording),
    Check("sampler", "Sampler", export_checks.sampler),
    Check("exporters", "Exporters", export_checks.exporters),
    Check("options", "Options", model_checks.options),
    Check("second_spans", "Second spans", second_spans.second_spans),
    Check("transports", "Requests", model_checks.transports),
    Check("streams", "Streams", model_checks.streams),
    Check("prices", "Prices", model_checks.prices),
    Check("content", "Content", model_checks.content),
)


def examine() -> Diagnosis:
    """Examine this process as it is set up now.

    It waits at most 3 s for endpoints that do not answer, and imports ModelForge.
    """
    process = Process()
    # The probes run while ModelForge is imported. If they fail here, the check of the exporters reports the failure.
    with contextlib.suppress(Exception):
        _ = process.probes
    findings = {check.name: check.run(process) for check in _CHECKS}
    secrets = process.secrets
    return Diagnosis(
        {name: finding.without(secrets) for name, finding in findings.items()},
        {check.name: check.title for check in _CHECKS},
    )
