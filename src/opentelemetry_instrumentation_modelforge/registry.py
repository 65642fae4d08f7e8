"""The wrappers around ``ModelForgeRegistry``: the ``get_llm`` span, the model's identity, and the injected callback."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from sys import modules
from typing import Any, Final, TypeGuard, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import Span, SpanContext, SpanKind, set_span_in_context
from opentelemetry.util.types import AttributeValue

from .call import record_error
from .callback import OpenTelemetryCallback
from .identity import ModelIdentity
from .otel_utils import Guard
from .semconv import MODELFORGE_ENHANCED, MODELFORGE_MODEL, MODELFORGE_PROVIDER, SPAN_GET_LLM
from .telemetry import Telemetry, active_telemetry
from .template import baggage_attributes

_PREPARE: Final = Guard("preparing a registry")
_START: Final = Guard("starting the get_llm span")
_RESOLVE: Final = Guard("reading a model's configuration")
_INJECT: Final = Guard("adding the callback to a model")
_DESCRIBE: Final = Guard("describing get_llm")
_END: Final = Guard("ending the get_llm span")


class _Resolution:
    """What a running ``get_llm`` has resolved so far."""

    __slots__ = ("identity", "registry")

    def __init__(self, registry: object) -> None:
        self.registry = registry
        self.identity: ModelIdentity | None = None


_resolution: Final[ContextVar[_Resolution | None]] = ContextVar(
    "opentelemetry_instrumentation_modelforge.resolution", default=None
)


def init(wrapped: Callable[..., None], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Wrap ``ModelForgeRegistry.__init__``: a registry's birth is a better time than its first ``get_llm`` to look."""
    wrapped(*args, **kwargs)
    with _PREPARE:
        if (telemetry := active_telemetry()) is not None:
            telemetry.is_available()


def get_model_config(
    wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wrap ``ModelForgeRegistry._get_model_config``, which knows the model that ``get_llm`` is about to build."""
    config = wrapped(*args, **kwargs)
    resolution = _resolution.get()
    if resolution is not None:
        with _RESOLVE:
            resolution.identity = ModelIdentity.from_config(*config)
    return config


def get_llm(wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrap ``ModelForgeRegistry.get_llm``."""
    telemetry = active_telemetry()
    outer = _resolution.get()
    asked = args
    if instance is None and args:
        # Called as a plain function, by a wrapper that took it out of the class.
        instance, *asked = args
    # The second happens where another wrapper kept ours alive through an uninstrument() and an instrument().
    if telemetry is None or (outer is not None and outer.registry is instance) or not is_instrumentation_enabled():
        return wrapped(*args, **kwargs)
    resolution = _Resolution(instance)
    resolving = _resolution.set(resolution)
    span: Span | None = None
    current = None
    try:
        with _START:
            span = _start_span(telemetry, asked, kwargs)
            current = attach(set_span_in_context(span))
        llm = wrapped(*args, **kwargs)
    except BaseException as error:
        if span is not None:
            with _DESCRIBE:
                _describe(span, resolution.identity)
                record_error(span, error, resolution.identity.secrets if resolution.identity is not None else ())
        raise
    else:
        identity = resolution.identity
        with _RESOLVE:
            if identity is not None and (client := _client(llm)) is not None:
                identity = identity.of_client(client)
        if span is not None:
            with _DESCRIBE:
                _describe(span, identity)
                span.set_attribute(MODELFORGE_ENHANCED, _is_enhanced(llm))
    finally:
        if current is not None:
            detach(current)
        _resolution.reset(resolving)
        if span is not None:
            with _END:
                span.end()
    # After the span's end: what a price takes to find is not what get_llm took.
    if identity is not None and _is_model(llm):
        with _INJECT:
            _instrument_model(llm, telemetry, identity, span)
    return llm


# ModelForge warns at the line that calls get_llm (stacklevel=2), which is not ours. The warnings module steps over the
# import system's frames, and knows them by such a name.
get_llm.__code__ = get_llm.__code__.replace(co_filename=f"<{__name__}, passed over like importlib._bootstrap>")


def _start_span(telemetry: Telemetry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Span:
    configuration = telemetry.configuration
    attributes: dict[str, AttributeValue] = dict(configuration.attributes)
    asked = dict(zip(("provider_name", "model_alias"), args, strict=False)) | dict(kwargs)
    for attribute, name in ((MODELFORGE_PROVIDER, "provider_name"), (MODELFORGE_MODEL, "model_alias")):
        if isinstance(value := asked.get(name), str) and value:
            attributes[attribute] = value
    attributes.update(baggage_attributes(configuration.baggage_keys))
    return telemetry.tracer.start_span(SPAN_GET_LLM, kind=SpanKind.INTERNAL, attributes=attributes)


def _describe(span: Span, identity: ModelIdentity | None) -> None:
    if identity is not None and span.is_recording():
        span.set_attributes(identity.attributes())


def _is_model(llm: object) -> TypeGuard[BaseChatModel]:
    # Not isinstance: a test's Mock(spec=ChatOpenAI) claims to be one.
    return issubclass(type(llm), BaseChatModel)


def _client(llm: object) -> BaseChatModel | None:
    """Return the model that speaks to the provider: ``llm`` itself, or what an ``EnhancedLLM`` wraps."""
    client = vars(llm).get("_wrapped_llm", llm) if _is_model(llm) else None
    return client if _is_model(client) else None


def _is_enhanced(llm: object) -> bool:
    # Absent before model-forge-llm 2.1.
    enhanced = getattr(modules.get("modelforge.enhanced_llm"), "EnhancedLLM", None)
    return enhanced is not None and isinstance(llm, enhanced)


def _instrument_model(llm: BaseChatModel, telemetry: Telemetry, identity: ModelIdentity, span: Span | None) -> None:
    """Add the callback to ``llm`` and to the model an ``EnhancedLLM`` wraps."""
    created_by: SpanContext | None = span.get_span_context() if span is not None else None
    callback = OpenTelemetryCallback.for_model(telemetry, identity, created_by, vars(llm).get("_metadata"))
    for model in {id(model): model for model in (_client(llm), llm) if model is not None}.values():
        # Past pydantic, and past EnhancedLLM, whose setter would only reach the model it wraps.
        vars(model)["callbacks"] = _with_callback(model.callbacks, callback)


def _with_callback(
    callbacks: object, callback: OpenTelemetryCallback
) -> list[BaseCallbackHandler] | BaseCallbackManager:
    """Return ``callbacks`` with ``callback`` first, so that it describes the call if the user gave one too."""
    if isinstance(callbacks, BaseCallbackManager):
        manager = callbacks.copy()
        manager.handlers = [callback, *_others(callbacks.handlers)]
        return manager
    return [callback, *_others(cast("Iterable[BaseCallbackHandler]", callbacks or ()))]


def _others(handlers: Iterable[BaseCallbackHandler]) -> list[BaseCallbackHandler]:
    # A registry that hands out one object twice has injected before.
    return [handler for handler in handlers if not (isinstance(handler, OpenTelemetryCallback) and handler.injected)]
