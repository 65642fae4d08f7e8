# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""ModelForge's configuration and the models that it returns."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel
    from modelforge import ModelForgeRegistry

OPENAI_KEY = "sk-test-0123456789abcdefghijklmnop"
OPENROUTER_KEY = "sk-or-v1-0123456789abcdefghijklmnop"
GOOGLE_KEY = "AIzaSyTest0123456789abcdefghijklmnopqrs"
COPILOT_TOKEN = "gho_test0123456789abcdefghijklmnopqrstuv"


def write_config(config: dict[str, Any]) -> None:
    """Make `config` the configuration that ModelForge reads."""
    from modelforge.config import GLOBAL_CONFIG_FILE

    GLOBAL_CONFIG_FILE.parent.mkdir(parents=True, exist_ok=True)
    GLOBAL_CONFIG_FILE.write_text(json.dumps(config))


def get_llm(
    registry: ModelForgeRegistry,
    provider: str | None = None,
    model: str | None = None,
    *,
    enhanced: bool = False,
    **options: Any,
) -> BaseChatModel:
    """Call `registry.get_llm`, with an explicit `enhanced` argument unless this is ModelForge 2.0, which has none."""
    if "enhanced" in inspect.signature(registry.get_llm).parameters:
        options["enhanced"] = enhanced
    elif enhanced:
        pytest.skip("ModelForge 2.0 has no EnhancedLLM")
    return registry.get_llm(provider, model, **options)


def write_price(provider: str, model: str, cost: dict[str, Any], **fields: Any) -> None:
    """Add a model to ModelForge's cache of models.dev, with its prices in dollars per million tokens."""
    from modelforge.modelsdev import ModelsDevClient

    ModelsDevClient.CACHE_DIR.mkdir(parents=True, exist_ok=True)
    entry = {"id": model, "provider": provider, "cost": cost, **fields}
    (ModelsDevClient.CACHE_DIR / f"model_info_{provider}_{model}.json").write_text(json.dumps(entry))


def without_retries(llm: BaseChatModel) -> BaseChatModel:
    """Raise errors at the first attempt, because the providers' own back-off takes seconds."""
    model: Any = getattr(llm, "_wrapped_llm", llm)
    if getattr(model, "root_client", None) is not None:
        model.root_client.max_retries = model.root_async_client.max_retries = 0
    elif hasattr(model, "max_retries"):
        model.max_retries = 1
    return llm
