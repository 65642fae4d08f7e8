# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The wrappers around ``ModelForgeRegistry``: the ``get_llm`` span, the model, and the injected callback."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from sys import exception, modules
from types import TracebackType
from typing import Any, Final, TypeGuard, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel
from opentelemetry.context import Context, create_key, get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context
from opentelemetry.util.types import AttributeValue

from .block_attributes import NO_BLOCK, BlockAttributes, current_block
from .callback import OpenTelemetryCallback
from .inference import record_error
from .model import ModelIdentity, baggage_attributes
from .otel_utils import Guard
from .providers import provider_of
from .redaction import without_credentials
from .scope import Scope
from .semconv import MODELFORGE_ENHANCED, MODELFORGE_MODEL, MODELFORGE_PROVIDER, SPAN_GET_LLM
from .telemetry import Telemetry, active_telemetry
from .values import text

_PREPARE_GUARD: Final = Guard("preparing a registry")
_START_GUARD: Final = Guard("starting the get_llm span")
_RESOLVE_GUARD: Final = Guard("reading a model's configuration")
_INJECT_GUARD: Final = Guard("adding the callback to a model")
_DESCRIBE_GUARD: Final = Guard("describing get_llm")
_END_GUARD: Final = Guard("ending the get_llm span")


class _GetLLM(Scope):
    """A running ``get_llm``: its span, and the model as far as it has been resolved."""

    __slots__ = ("_block", "_ended", "_handled", "_span", "_telemetry", "identity", "registry")

    def __init__(self, telemetry: Telemetry, registry: object) -> None:
        super().__init__()
        self._telemetry = telemetry
        self._block = _block_of(registry).updated_by(current_block())
        self._span: Span = INVALID_SPAN
        self._ended = False
        self._handled = exception()
        """The exception that the application was already handling, which is not recorded."""
        self.registry = registry
        self.identity: ModelIdentity | None = None

    def start(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Start the span, and make it current.

        :param args: the positional arguments of ``get_llm``.
        :param kwargs: its keyword arguments.
        """
        configuration = self._telemetry.configuration
        attributes: dict[str, AttributeValue] = {**configuration.attributes, **self._block.spans}
        arguments = dict(zip(("provider_name", "model_alias"), args, strict=False)) | dict(kwargs)
        for attribute, name in ((MODELFORGE_PROVIDER, "provider_name"), (MODELFORGE_MODEL, "model_alias")):
            if (value := text(arguments.get(name))) is not None:
                attributes[attribute] = without_credentials(value)
        attributes.update(baggage_attributes(configuration.baggage_keys))
        with _START_GUARD:
            self._span = self._telemetry.tracer.start_span(SPAN_GET_LLM, kind=SpanKind.INTERNAL, attributes=attributes)
        self.attach(Context({**set_span_in_context(self._span), _GET_LLM_KEY: self}))

    def resolve(self, llm: object) -> None:
        """Complete the model's identity from the built client, and record on the span whether ``llm`` is enhanced."""
        with _RESOLVE_GUARD:
            if self.identity is not None and (client := _client(llm)) is not None:
                self.identity = self.identity.of_client(client)
            self._span.set_attribute(MODELFORGE_ENHANCED, _is_enhanced(llm))

    def instrument_model(self, llm: BaseChatModel) -> None:
        """Add the callback to ``llm`` and to the model that an ``EnhancedLLM`` wraps."""
        if self.identity is None:
            return
        callback = OpenTelemetryCallback.for_model(
            self._telemetry, self.identity, self._span.get_span_context(), vars(llm).get("_metadata"), self._block
        )
        client = _client(llm)
        if self._telemetry.configuration.stream_usage:
            provider_of(self.identity.llm_type).request_stream_usage(client)
        for model in {id(model): model for model in (client, llm) if model is not None}.values():
            # Bypasses pydantic, and EnhancedLLM, whose setter would only reach the model it wraps.
            vars(model)["callbacks"] = _with_callback(model.callbacks, callback)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        super().__exit__(kind, error, traceback)
        if not self._ended:
            with _DESCRIBE_GUARD:
                if self.identity is not None and self._span.is_recording():
                    self._span.set_attributes({**self.identity.attributes(), **self._block.spans})
                if error is not None:
                    secrets = self.identity.secrets if self.identity is not None else ()
                    record_error(self._span, error, self._telemetry, secrets, self._handled)
            with _END_GUARD:
                self._span.end()
            self._ended = True
            self._handled = None


_GET_LLM_KEY: Final = create_key("opentelemetry_instrumentation_modelforge.get_llm")


_BLOCK_ATTRIBUTE: Final = "_opentelemetry_block_attributes"


def _running_get_llm() -> _GetLLM | None:
    return cast("_GetLLM | None", get_current().get(_GET_LLM_KEY))


def init(wrapped: Callable[..., None], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Wrap ``ModelForgeRegistry.__init__``.

    The registry keeps the attributes of the enclosing block. Whether OpenTelemetry records is determined here, before a
    ``get_llm`` is timed.
    """
    wrapped(*args, **kwargs)
    with _PREPARE_GUARD:
        if (block := current_block()) is not NO_BLOCK:
            vars(instance)[_BLOCK_ATTRIBUTE] = block
        if (telemetry := active_telemetry()) is not None:
            telemetry.is_available()


def _block_of(registry: object) -> BlockAttributes:
    return cast("BlockAttributes", getattr(registry, "__dict__", {}).get(_BLOCK_ATTRIBUTE, NO_BLOCK))


def get_model_config(
    wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Wrap ``ModelForgeRegistry._get_model_config``, which finds the model that ``get_llm`` is about to build."""
    config = wrapped(*args, **kwargs)
    running = _running_get_llm()
    if running is not None and running.registry is instance:
        with _RESOLVE_GUARD:
            running.identity = ModelIdentity.from_config(*config)
    return config


def get_llm(wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Wrap ``ModelForgeRegistry.get_llm``."""
    telemetry = active_telemetry()
    outer = _running_get_llm()
    arguments = args
    if instance is None and args:
        # Called as a plain function, by a wrapper that took it out of the class.
        instance, *arguments = args
    # An outer wrapper may have kept ours alive across an uninstrument() and an instrument(), so that ours runs twice.
    if telemetry is None or (outer is not None and outer.registry is instance) or not is_instrumentation_enabled():
        return wrapped(*args, **kwargs)
    running = _GetLLM(telemetry, instance)
    with running, running:
        with _START_GUARD:
            running.start(arguments, kwargs)
        llm = wrapped(*args, **kwargs)
        running.resolve(llm)
    # After the span's end, because get_llm itself does not look up a price.
    if _is_model(llm):
        with _INJECT_GUARD:
            running.instrument_model(llm)
    return llm


def _is_model(llm: object) -> TypeGuard[BaseChatModel]:
    # Not isinstance: a test's Mock(spec=ChatOpenAI) claims to be one.
    return issubclass(type(llm), BaseChatModel)


def _client(llm: object) -> BaseChatModel | None:
    """Return the model that calls the provider: ``llm`` itself, or the one that an ``EnhancedLLM`` wraps."""
    client = vars(llm).get("_wrapped_llm", llm) if _is_model(llm) else None
    return client if _is_model(client) else None


def _is_enhanced(llm: object) -> bool:
    # Absent before model-forge-llm 2.1.
    enhanced = getattr(modules.get("modelforge.enhanced_llm"), "EnhancedLLM", None)
    return enhanced is not None and isinstance(llm, enhanced)


def _with_callback(
    callbacks: object, callback: OpenTelemetryCallback
) -> list[BaseCallbackHandler] | BaseCallbackManager:
    """Return ``callbacks`` with ``callback`` first, which then records the call even if the user gave one too."""
    if isinstance(callbacks, BaseCallbackManager):
        manager = callbacks.copy()
        manager.handlers = [callback, *_others(callbacks.handlers)]
        return manager
    return [callback, *_others(cast("Iterable[BaseCallbackHandler]", callbacks or ()))]


def _others(handlers: Iterable[BaseCallbackHandler]) -> list[BaseCallbackHandler]:
    # A registry that returns the same object twice has already injected one.
    return [handler for handler in handlers if not (isinstance(handler, OpenTelemetryCallback) and handler.injected)]
