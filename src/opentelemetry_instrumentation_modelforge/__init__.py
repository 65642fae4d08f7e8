# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""OpenTelemetry instrumentation for `ModelForge <https://github.com/smiao-icims/model-forge>`_.

Traces every ``get_llm`` and every call of a model that it returns, as a child of the current span, with tokens, cost
and errors, and records the metrics of the GenAI semantic conventions.

Usage
-----

Without changes to the application::

    opentelemetry-instrument python app.py

From the application, before or after ModelForge is imported:

.. code-block:: python

    from modelforge import ModelForgeRegistry
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    ModelForgeInstrumentor().instrument()

    llm = ModelForgeRegistry().get_llm("openai", "gpt-4o-mini")
    llm.invoke("Hello")

For one model only, without any patching:

.. code-block:: python

    from modelforge import ModelForgeRegistry
    from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback

    callback = OpenTelemetryCallback("openai", "gpt-4o-mini")
    llm = ModelForgeRegistry().get_llm("openai", "gpt-4o-mini", callbacks=[callback])

Without patches a callback cannot make its span current, so the provider's HTTP spans are not its children.

Options are keywords of ``instrument()``, environment variables, ModelForge's own settings or OpenTelemetry's
declarative configuration: see :class:`Configuration`.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from .block_attributes import telemetry_attributes
from .config import Configuration
from .instrumentor import ModelForgeInstrumentor
from .otel_utils import is_otel_available
from .response import Usage
from .version import __version__

if TYPE_CHECKING:
    from .callback import OpenTelemetryCallback

__all__ = [
    "Configuration",
    "ModelForgeInstrumentor",
    "Usage",
    "__version__",
    "is_otel_available",
    "telemetry_attributes",
]

# Without LangChain the class cannot be imported, and `from … import *` imports every name here.
if find_spec("langchain_core") is not None:
    __all__ += ["OpenTelemetryCallback"]


def __getattr__(name: str) -> object:
    # A LangChain class: the application decides whether and when LangChain is imported.
    if name == "OpenTelemetryCallback":
        from .callback import OpenTelemetryCallback

        return OpenTelemetryCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
