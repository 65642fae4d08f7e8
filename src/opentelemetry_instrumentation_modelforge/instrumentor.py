# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``ModelForgeInstrumentor``, and the table of the functions that it patches."""

import atexit
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from logging import getLogger
from threading import Lock
from types import ModuleType
from typing import Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from .config import DeclaredOptions, Keywords, check_keywords, resolve
from .package import _instruments  # pyright: ignore[reportPrivateUsage]
from .patching import REGISTRY_IMPORT, Patch, Wrap, with_wrapt

_logger = getLogger(__name__)

_DESTINATIONS: Final = ("tracer_provider", "meter_provider", "logger_provider", "completion_hook")


class ModelForgeInstrumentor(BaseInstrumentor):
    """Instruments ModelForge: a span for every ``get_llm``, and a span and metrics for every call of its models.

    ``instrument()`` takes ``tracer_provider``, ``meter_provider`` and ``logger_provider`` (each the global one by
    default), a ``completion_hook`` of opentelemetry-util-genai (by default the one that
    ``OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK`` names) and the options of
    :class:`~opentelemetry_instrumentation_modelforge.Configuration`. It imports neither ModelForge nor LangChain: they
    are patched when the application imports ``modelforge.registry``, or immediately if it already has.
    ``uninstrument()`` restores the original functions, and models created before it record nothing from then on.

    :raises TypeError: from ``instrument()``, for an option that does not exist or a value of the wrong type.
    :raises ValueError: from ``instrument()``, for a bad value of the right type.
    """

    configuration = DeclaredOptions

    _installation: "_Installation | None" = None

    @property
    def _is_instrumented_by_opentelemetry(self) -> bool:
        installation = self._installation
        return installation is not None and not installation.failed

    # The base class sets this even after a failed installation, and `_installation` already holds the state.
    @_is_instrumented_by_opentelemetry.setter
    def _is_instrumented_by_opentelemetry(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        pass

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions of ModelForge that this package supports."""
        return _instruments

    def _instrument(self, **kwargs: Any) -> None:
        destinations = {name: kwargs.pop(name, None) for name in _DESTINATIONS}
        installation = _Installation(check_keywords(kwargs, _DESTINATIONS), destinations)
        with _lock:
            # Two threads may call instrument() at the same time.
            if not self._is_instrumented_by_opentelemetry:
                type(self)._installation = installation
        REGISTRY_IMPORT.set(_install)

    def _uninstrument(self, **kwargs: Any) -> None:
        with _lock:
            REGISTRY_IMPORT.clear()
            installation, type(self)._installation = self._installation, None
            if installation is not None:
                installation.undo()


# Held for assignments only. No code under it imports, waits or calls another package: see patching.ImportHook.
_lock: Final = Lock()


def _install(module: ModuleType) -> None:
    installation = ModelForgeInstrumentor()._installation  # pyright: ignore[reportPrivateUsage]
    if installation is not None:
        installation.install(module)


class _Installation:
    """The patches of one ``instrument()``: waiting for ModelForge to be imported, in place, or undone."""

    def __init__(self, keywords: Keywords, destinations: dict[str, Any]) -> None:
        self._keywords = keywords
        self._destinations = destinations
        self._undo: list[Callable[[], object]] = []
        """The functions that undo the completed steps, called in reverse order."""
        self._begun = False
        self.failed = False

    def install(self, module: ModuleType) -> None:
        """Apply the patches, now that ``module``, the registry's module, has been imported."""
        from .otel_utils import Guard

        with _lock:
            if self._begun:
                return
            self._begun = True
        with Guard("instrumenting ModelForge"):
            self._install(module)
            return
        with _lock:
            self.failed = True
            self.undo()
            # The next import of ModelForge tries again, and so does the next instrument().
            self._begun = False

    def _install(self, module: ModuleType) -> None:
        from .call import abandon_open_calls
        from .telemetry import Telemetry, set_active_telemetry

        configuration = resolve(self._keywords)
        if not configuration.enabled:
            return
        telemetry = Telemetry(configuration, **self._destinations)
        table = list(_patches(module))
        with _lock:
            # Another thread may have called uninstrument() in the meantime.
            if ModelForgeInstrumentor._installation is not self:  # pyright: ignore[reportPrivateUsage]
                return
            # Registered after the SDK's own handler, it runs before it: a stream open at exit is still exported.
            atexit.register(abandon_open_calls)
            self._undo.append(partial(atexit.unregister, abandon_open_calls))
            for owner, name, wrap in table:
                self._undo.append(Patch(owner, name, wrap).undo)
            self._undo.append(partial(set_active_telemetry, None))
            set_active_telemetry(telemetry)

    def undo(self) -> None:
        """Restore the original functions, with the lock held. Models created before record nothing from now on."""
        while self._undo:
            self._undo.pop()()


def _patches(registry_module: ModuleType) -> Iterator[tuple[type | ModuleType, str, Wrap]]:
    """Yield each function to patch: its owner, its name, and how it is wrapped."""
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models.chat_models import BaseChatModel

    from . import callback, execution, registry, streaming
    from .providers import PROVIDERS

    # The public class is wrapped with wrapt. LangChain's functions run in every call and get plain wrappers, which cost
    # half as much and stay in place when another instrumentation removes the outermost wrapt proxy.
    forge = registry_module.ModelForgeRegistry
    table: tuple[tuple[type, str, Wrap], ...] = (
        (forge, "__init__", with_wrapt(registry.init)),
        (forge, "_get_model_config", with_wrapt(registry.get_model_config)),
        (forge, "get_llm", with_wrapt(registry.get_llm)),
        (BaseChatModel, "generate", execution.generate),
        (BaseChatModel, "agenerate", execution.agenerate),
        (BaseChatModel, "_generate_with_cache", execution.generate_with_cache),
        (BaseChatModel, "_agenerate_with_cache", execution.agenerate_with_cache),
        (BaseChatModel, "stream", streaming.stream),
        (BaseChatModel, "astream", streaming.astream),
        (CallbackManagerForLLMRun, "on_llm_new_token", callback.llm_new_token),
        (AsyncCallbackManagerForLLMRun, "on_llm_new_token", callback.allm_new_token),
    )
    for owner, name, wrap in table:
        if name in vars(owner):
            yield owner, name, wrap
        else:
            _logger.warning("%s has no %s: telemetry that depends on it is missing", owner.__name__, name)
    # ModelForge has imported the integrations that it uses. An older integration may lack a function.
    for provider in PROVIDERS.values():
        for tap in provider.taps:
            owner = sys.modules.get(tap.module)
            if tap.owner is not None:
                owner = getattr(owner, tap.owner, None)
            if owner is not None and tap.name in vars(owner):
                yield owner, tap.name, execution.tap(tap)
