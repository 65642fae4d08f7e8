# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The doctor: whether the model calls of a process will be traced and, if not, why and what to do.

From a shell, in a process that is started as the application is::

    opentelemetry-instrument python -m opentelemetry_instrumentation_modelforge

In an application that sets OpenTelemetry up itself, at the end of its set-up:

.. code-block:: python

    from opentelemetry_instrumentation_modelforge.doctor import as_text, examine

    print(as_text(examine()))

It imports ModelForge, asks the endpoints of the exporters with requests without data, and sends nothing to a provider.
Nothing else in this package imports it.
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
    """Examine this process, as far as it has been set up.

    It takes at most 3 s for endpoints that do not answer, and the time of importing ModelForge.
    """
    process = Process()
    # The endpoints have their time while ModelForge is imported. A fault is found again by the check of the exporters.
    with contextlib.suppress(Exception):
        _ = process.probes
    findings = {check.name: check.run(process) for check in _CHECKS}
    secrets = process.secrets
    return Diagnosis(
        {name: finding.without(secrets) for name, finding in findings.items()},
        {check.name: check.title for check in _CHECKS},
    )
