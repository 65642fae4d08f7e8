"""``ModelForgeInstrumentor``: what is patched, in one table, and how it is undone."""

import atexit
import gc
from collections.abc import Callable, Collection
from logging import getLogger
from sys import modules
from threading import RLock
from types import ModuleType
from typing import Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from wrapt import FunctionWrapper, register_post_import_hook

from .config import DeclaredOptions, Keywords, check_keywords, resolve
from .package import _instruments  # pyright: ignore[reportPrivateUsage]

_logger = getLogger(__name__)

_TARGET: Final = "modelforge.registry"
_DESTINATIONS: Final = ("tracer_provider", "meter_provider", "logger_provider", "completion_hook")

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def _with_wrapt(wrapper: Callable[..., Any]) -> Wrap:
    return lambda original: FunctionWrapper(original, wrapper)


class ModelForgeInstrumentor(BaseInstrumentor):
    """Instruments ModelForge: a span for every ``get_llm``, and a span and metrics for every call of its models.

    ``instrument()`` takes ``tracer_provider``, ``meter_provider`` and ``logger_provider`` (each the global one by
    default), a ``completion_hook`` of opentelemetry-util-genai (by default the one that
    ``OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK`` names) and the options of
    :class:`~opentelemetry_instrumentation_modelforge.Configuration`. It imports neither ModelForge nor LangChain: they
    are patched when the application imports ``modelforge.registry``, or at once if it has. ``uninstrument()`` puts the
    very functions back, and models handed out before fall silent.

    :raises TypeError: from ``instrument()``, for an option that does not exist or a value of the wrong type.
    :raises ValueError: from ``instrument()``, for a bad value of the right type.
    """

    configuration = DeclaredOptions

    _installation: "_Installation | None" = None
    # BaseInstrumentor looks whether it has instrumented, and notes that it has, without one.
    _lock = RLock()

    def instrument(self, **kwargs: Any) -> None:
        """Instrument ModelForge."""
        with self._lock:
            super().instrument(**kwargs)

    def uninstrument(self, **kwargs: Any) -> None:
        """Undo what ``instrument()`` did."""
        with self._lock:
            super().uninstrument(**kwargs)

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the versions of ModelForge that this package knows."""
        return _instruments

    def _instrument(self, **kwargs: Any) -> None:
        destinations = {name: kwargs.pop(name, None) for name in _DESTINATIONS}
        self._installation = _Installation(check_keywords(kwargs, _DESTINATIONS), destinations)
        _call_on_import()

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._installation is not None:
            self._installation.remove()
            self._installation = None


_hook_waits = False


def _call_on_import() -> None:
    """See to it that the installation of the day is put in place when ModelForge is imported, or now if it has been."""
    global _hook_waits  # noqa: PLW0603
    # wrapt takes no hook back, so all installations share the one that waits.
    if not _hook_waits or _TARGET in modules:
        _hook_waits = True
        register_post_import_hook(_on_import, _TARGET)


def _on_import(module: ModuleType) -> None:
    global _hook_waits  # noqa: PLW0603
    _hook_waits = False
    installation = ModelForgeInstrumentor()._installation  # pyright: ignore[reportPrivateUsage]
    if installation is not None:
        installation.install(module)


class _Installation:
    """The patches of one ``instrument()``: waiting for ModelForge to be imported, in place, or removed."""

    def __init__(self, keywords: Keywords, destinations: dict[str, Any]) -> None:
        self._keywords = keywords
        self._destinations = destinations
        self._patches: list[_Patch] = []
        self._removed = False
        # Importing and uninstrumenting may happen in two threads; an import may import again.
        self._lock = RLock()

    def install(self, module: ModuleType) -> None:
        """Put the patches in place, now that ``module``, the registry's, has been imported."""
        from .otel_utils import Guard

        with self._lock:
            if self._removed or self._patches:
                return
            with Guard("instrumenting ModelForge"):
                self._install(module)

    def _install(self, module: ModuleType) -> None:
        from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
        from langchain_core.language_models.chat_models import BaseChatModel

        from . import callback, execution, registry
        from .call import abandon_open_calls, note_collection
        from .telemetry import Telemetry, set_active_telemetry

        configuration = resolve(self._keywords)
        if not configuration.enabled:
            return
        telemetry = Telemetry(configuration, **self._destinations)
        # What the public contract names is wrapped with wrapt. LangChain's methods run in every call, where a plain
        # function costs half as much, and stay in place when another instrumentation unwraps what is outermost.
        table: tuple[tuple[type, str, Wrap], ...] = (
            (module.ModelForgeRegistry, "__init__", _with_wrapt(registry.init)),
            (
                module.ModelForgeRegistry,
                "_get_model_config",
                _with_wrapt(registry.get_model_config),
            ),
            (module.ModelForgeRegistry, "get_llm", _with_wrapt(registry.get_llm)),
            (BaseChatModel, "generate", execution.generate),
            (BaseChatModel, "agenerate", execution.agenerate),
            (BaseChatModel, "_generate_with_cache", execution.generate_with_cache),
            (BaseChatModel, "_agenerate_with_cache", execution.agenerate_with_cache),
            (BaseChatModel, "stream", execution.stream),
            (BaseChatModel, "astream", execution.astream),
            (CallbackManagerForLLMRun, "on_llm_new_token", callback.llm_new_token),
            (AsyncCallbackManagerForLLMRun, "on_llm_new_token", callback.allm_new_token),
        )
        for owner, name, wrap in table:
            if name in vars(owner):
                self._patches.append(_Patch(owner, name, wrap))
            else:
                _logger.warning("%s has no %s: what depends on it is missing from telemetry", owner.__name__, name)
        set_active_telemetry(telemetry)
        # Registered after the SDK's own, so run before it: a stream open at exit is still exported.
        atexit.register(abandon_open_calls)
        gc.callbacks.append(note_collection)

    def remove(self) -> None:
        """Undo the patches, or keep them from ever being made."""
        with self._lock:
            self._removed = True
            if not self._patches:
                return
            from .call import abandon_open_calls, note_collection
            from .telemetry import set_active_telemetry

            set_active_telemetry(None)
            while self._patches:
                self._patches.pop().undo()
            atexit.unregister(abandon_open_calls)
            gc.callbacks.remove(note_collection)


class _Patch:
    """One function replaced on a class."""

    __slots__ = ("_name", "_original", "_owner", "_wrapper")

    def __init__(self, owner: type, name: str, wrap: Wrap) -> None:
        self._owner = owner
        self._name = name
        # Below the wrapt proxies of other instrumentations, where ours is as well if they come later: each of them
        # takes off what is outermost when it is undone, and only a proxy binds what it wraps to the instance.
        outer: Any = None
        original: Any = vars(owner)[name]
        while isinstance(original, FunctionWrapper):
            outer, original = original, original.__wrapped__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self._original = original
        self._wrapper = wrap(original)
        if outer is None:
            setattr(owner, name, self._wrapper)
        else:
            outer.__wrapped__ = self._wrapper

    def undo(self) -> None:
        """Put the original back, also from under the wrappers that others have put around ours since."""
        outer = vars(self._owner).get(self._name)
        if outer is self._wrapper:
            setattr(self._owner, self._name, self._original)
            return
        while (inner := getattr(outer, "__wrapped__", None)) is not None:
            if inner is self._wrapper:
                # A wrapt proxy calls what this names. Any other wrapper goes on calling ours, which does nothing now.
                outer.__wrapped__ = self._original  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
                return
            outer = inner
