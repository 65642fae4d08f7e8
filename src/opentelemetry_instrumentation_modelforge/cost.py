"""Tokens to money: what a model call cost, in US dollars.

The rates of a model are resolved once, when ModelForge hands the model out; a call only multiplies. They come from data
that is already on the machine, never from the network, in this order:

1. the `models.dev <https://models.dev>`_ metadata that an ``EnhancedLLM`` holds,
2. ModelForge's models.dev cache on disk, read only, whatever its age,
3. the `genai-prices <https://github.com/pydantic/genai-prices>`_ package, if it is installed.

What no source prices has no cost: None, never 0. The result is the ``gen_ai.usage.cost.amount`` of the draft
convention open-telemetry/semantic-conventions-genai#443, with the source ``local``.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

    from .response import Usage

# Local models and subscriptions are not paid by the token. Providers and ModelForge's llm_types share these names.
_NOT_PAID_BY_TOKEN = frozenset({"ollama", "github-copilot"})

# Names of a provider that differ from its id in models.dev or in genai-prices: (models.dev, genai-prices).
_PROVIDER_IDS = {
    "amazon-bedrock": ("amazon-bedrock", "aws"),
    "aws": ("amazon-bedrock", "aws"),
    "azure-openai": ("azure", "azure"),
    "bedrock": ("amazon-bedrock", "aws"),
    "fireworks": ("fireworks-ai", "fireworks"),
    "fireworks-ai": ("fireworks-ai", "fireworks"),
    "gemini": ("google", "google"),
    "google-genai": ("google", "google"),
    "google-vertex": ("google-vertex", "google"),
    "mistral-ai": ("mistral", "mistral"),
    "mistralai": ("mistral", "mistral"),
    "moonshot": ("moonshotai", "moonshotai"),
    "novita": ("novita-ai", "novita"),
    "novita-ai": ("novita-ai", "novita"),
    "together": ("togetherai", "together"),
    "together-ai": ("togetherai", "together"),
    "togetherai": ("togetherai", "together"),
    "x-ai": ("xai", "x-ai"),
    "xai": ("xai", "x-ai"),
}

# What each source calls the price of a kind of token.
_MODELS_DEV_KEYS = {
    "input": "input",
    "output": "output",
    "cache_read": "cache_read",
    "cache_write": "cache_write",
    "reasoning": "reasoning",
    "audio_input": "input_audio",
    "audio_output": "output_audio",
}
_MODELFORGE_KEYS = {
    "input": "input_per_1m_tokens",
    "output": "output_per_1m_tokens",
    "cache_read": "cache_read_per_1m_tokens",
    "cache_write": "cache_write_per_1m_tokens",
}
_GENAI_PRICES_KEYS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
}

_DATE_SUFFIX = re.compile(r"[-@](20\d{2})-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])$")


class Rates(Protocol):
    """What turns the usage of a call into its price."""

    def amount(self, usage: Usage) -> float | None:
        """USD for `usage`, or None if it cannot be priced."""
        ...


@dataclass(frozen=True, slots=True)
class TokenRates:
    """USD per token of each kind, and USD per request.

    A tier replaces the rates for the whole call, not only for the tokens above its threshold: that is how the providers
    bill long contexts, and what genai-prices does.
    """

    input: float
    output: float
    cache_read: float
    cache_write: float
    reasoning: float
    audio_input: float
    audio_output: float
    request: float = 0.0
    # (for more input tokens than, the rates), the highest threshold first.
    tiers: tuple[tuple[int, TokenRates], ...] = ()

    def amount(self, usage: Usage) -> float | None:
        """USD for `usage`; None unless input and output are both reported, since half a call is not its cost."""
        input_tokens = usage.input_tokens
        output_tokens = usage.output_tokens
        if input_tokens is None or output_tokens is None:
            return None
        rates = self
        for threshold, tier in self.tiers:
            if input_tokens > threshold:
                rates = tier
                break
        cache_read = usage.cache_read_input_tokens or 0
        cache_write = usage.cache_write_input_tokens or 0
        audio_input = usage.audio_input_tokens or 0
        reasoning = usage.reasoning_output_tokens or 0
        audio_output = usage.audio_output_tokens or 0
        # Kinds may overlap (cached audio) or contradict the total; then each kind is charged and the rest is nothing.
        plain_input = input_tokens - cache_read - cache_write - audio_input
        plain_output = output_tokens - reasoning - audio_output
        return (
            rates.request
            + (plain_input * rates.input if plain_input > 0 else 0.0)
            + cache_read * rates.cache_read
            + cache_write * rates.cache_write
            + audio_input * rates.audio_input
            + (plain_output * rates.output if plain_output > 0 else 0.0)
            + reasoning * rates.reasoning
            + audio_output * rates.audio_output
        )


class ScheduledRates:
    """Rates of genai-prices that change on a date or by the hour (DeepSeek's off-peak prices).

    They are chosen anew each minute. Its dates and hours lie on whole minutes, so every call gets the rates of its own
    time, and a process that keeps a model for weeks follows a price change.
    """

    __slots__ = ("_chosen", "_model")

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        # One attribute for both, so that threads see them together.
        self._chosen: tuple[int, TokenRates | None] = (-1, None)

    def current(self) -> TokenRates | None:
        """Return the rates of this minute."""
        now = int(time() // 60)
        minute, rates = self._chosen
        if minute != now:
            rates = _from_model_price(self._model.get_prices(datetime.fromtimestamp(now * 60, UTC)))
            self._chosen = (now, rates)
        return rates

    def amount(self, usage: Usage) -> float | None:
        """USD for `usage` at the rates of this minute."""
        rates = self.current()
        return None if rates is None else rates.amount(usage)


@dataclass(frozen=True, slots=True)
class CostFunction:
    """The user's own function of provider, model and usage, as `Rates`.

    An answer that is not a finite number of at least 0 is no price. What the function raises goes to the caller.
    """

    function: Callable[[str, str, Usage], object]
    provider: str
    model: str

    def amount(self, usage: Usage) -> float | None:
        """USD for `usage`, as the function says."""
        return _price(self.function(self.provider, self.model, usage))


def resolve_rates(
    provider: str,
    model: str,
    llm_type: str | None,
    *,
    api_base: str | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Rates | None:
    """Find the rates of `model`, the name that is sent to the API; None if nothing here knows its price.

    A provider is known by ModelForge's name for it or, to genai-prices, by the URL of its API; nobody else's prices are
    guessed for a server that neither names. A dated name (``gpt-4o-2024-05-13``) is looked up as it is in every source
    before it is looked up without its date, because snapshots have had prices of their own.
    """
    provider_id = _hyphenated(provider)
    if provider_id in _NOT_PAID_BY_TOKEN or _hyphenated(llm_type or "") in _NOT_PAID_BY_TOKEN:
        return None
    models_dev_id, genai_prices_id = _PROVIDER_IDS.get(provider_id, (provider_id, provider_id))
    for name in _names(model):
        rates = (
            _from_metadata(metadata or {}, name)
            or _from_cache(models_dev_id, name)
            or _from_genai_prices(genai_prices_id, name, api_base)
        )
        if rates is not None:
            return rates
    return None


def reference_rates(model: str) -> Rates | None:
    """Find the rates behind the notional price that ModelForge prints for a model of GitHub Copilot.

    For ``modelforge.usage.reference_cost``: Copilot is a subscription, so this is no cost. Only the model's own entry
    counts; ModelForge also takes the first entry whose name is part of the model's, and so prints the price of
    ``gpt-4`` for ``gpt-4.1-mini``.
    """
    try:
        pricing: object = getattr(importlib.import_module("modelforge.telemetry"), "PRICING", None)
    except ImportError:
        return None
    entries = _mapping(_mapping(pricing).get("github_copilot"))
    for name in _names(model):
        rates = _token_rates(_mapping(entries.get(name.lower())), per=1_000)
        if rates is not None:
            return rates
    return None


def _from_metadata(metadata: Mapping[str, object], name: str) -> TokenRates | None:
    model = _mapping(metadata.get("raw_info"))
    # ModelForge looks its alias up, and an alias may stand for another model than the one it is named after.
    if not _is_named(model.get("id", name), name):
        return None
    return _from_models_dev({**metadata, **model}, name)


def _from_cache(provider_id: str, name: str) -> TokenRates | None:
    directory = _cache_directory()
    if directory is None:
        return None
    for filename in (f"model_info_{provider_id}_{name}.json", f"models_{provider_id}.json", "models_all.json"):
        # A name such as "openai/gpt-4o" would lead out of the directory; ModelForge has no such file either.
        if Path(filename).name != filename:
            continue
        path = directory / filename
        try:
            modified = path.stat().st_mtime_ns
        except (OSError, ValueError):
            continue
        rates = _from_file(path, modified, provider_id, name)
        if rates is not None:
            return rates
    return None


def _cache_directory() -> Path | None:
    modelsdev = sys.modules.get("modelforge.modelsdev")
    directory: object = getattr(getattr(modelsdev, "ModelsDevClient", None), "CACHE_DIR", None)
    if isinstance(directory, (str, Path)):
        return Path(directory)
    try:
        return Path.home() / ".cache" / "model-forge" / "modelsdev"
    except RuntimeError:  # There is no home directory.
        return None


# The list of all models has thousands of entries, and a web service may ask for a model with every request.
@lru_cache(maxsize=256)
def _from_file(path: Path, modified: int, provider_id: str, name: str) -> TokenRates | None:
    """Read the rates of one model from a file of one model or of many; `modified` is there for the `lru_cache`."""
    try:
        content: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    content = _mapping(content).get("data", content)
    if not isinstance(content, list):
        model = _mapping(content)
        return _from_models_dev(model, name) if _is_named(model.get("id", name), name) else None
    for item in cast(list[object], content):
        model = _mapping(item)
        if model.get("provider") == provider_id and _is_named(model.get("id"), name):
            return _from_models_dev(model, name)
    return None


def _from_models_dev(model: Mapping[str, object], name: str) -> TokenRates | None:
    """Read a model's entry in models.dev, in its own form (``cost``) or in ModelForge's (``pricing``).

    models.dev writes 0 for subscriptions, trials and local servers too, so 0 is a price only of a model that calls
    itself free, as OpenRouter's ``:free`` ones do.
    """
    cost = _mapping(model.get("cost"))
    pricing = _mapping(model.get("pricing"))
    rates = _token_rates(_renamed(cost, _MODELS_DEV_KEYS), _models_dev_tiers(cost)) or _token_rates(
        _renamed(pricing, _MODELFORGE_KEYS)
    )
    if rates is not None and rates.input == rates.output == 0 and not name.lower().endswith((":free", "-free")):
        return None
    return rates


def _models_dev_tiers(cost: Mapping[str, object]) -> list[tuple[int, Mapping[str, object]]]:
    tiers = cost.get("tiers")
    if not isinstance(tiers, list) or not tiers:
        over_200k = _renamed(_mapping(cost.get("context_over_200k")), _MODELS_DEV_KEYS)
        return [(200_000, over_200k)] if over_200k else []
    # Beside `tiers`, context_over_200k is a copy for old readers, and its threshold is often not the real one.
    found: list[tuple[int, Mapping[str, object]]] = []
    for tier in map(_mapping, cast(list[object], tiers)):
        condition = _mapping(tier.get("tier"))
        size = condition.get("size")
        if condition.get("type", "context") == "context" and type(size) is int and size >= 0:
            found.append((size, _renamed(tier, _MODELS_DEV_KEYS)))
    return found


def _from_genai_prices(provider_id: str, name: str, api_base: str | None) -> Rates | None:
    try:
        # Its import takes a quarter of a second, and not everyone has it.
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    snapshot = get_snapshot()
    # Its own look-up of a provider takes any name that contains "openai" for OpenAI.
    provider = next((p for p in snapshot.providers if api_base and re.match(p.api_pattern, api_base)), None) or next(
        (p for p in snapshot.providers if p.id == provider_id), None
    )
    if provider is None or provider.id in _NOT_PAID_BY_TOKEN:
        return None
    try:
        _, model = snapshot.find_provider_model(name, provider, None, None)
    except LookupError:
        return None
    if isinstance(model.prices, list):
        scheduled = ScheduledRates(model)
        return None if scheduled.current() is None else scheduled
    return _from_model_price(model.prices)


def _from_model_price(prices: ModelPrice) -> TokenRates | None:
    from genai_prices.types import TieredPrices

    # Read by name: which kinds there are has changed with genai-prices' releases.
    by_kind: dict[str, object] = {kind: getattr(prices, key, None) for kind, key in _GENAI_PRICES_KEYS.items()}
    tiered = [price for price in by_kind.values() if isinstance(price, TieredPrices)]

    def above(threshold: int) -> dict[str, object]:
        return {
            kind: next((tier.price for tier in reversed(price.tiers) if threshold >= tier.start), price.base)
            if isinstance(price, TieredPrices)
            else price
            for kind, price in by_kind.items()
        }

    # Each kind has tiers of its own; the threshold of any of them starts a new set of rates.
    thresholds = {tier.start for price in tiered for tier in price.tiers}
    return _token_rates(
        above(-1),
        [(threshold, above(threshold)) for threshold in thresholds],
        request=(_price(getattr(prices, "requests_kcount", None)) or 0.0) / 1_000,
    )


def _token_rates(
    prices: Mapping[str, object],
    tiers: Iterable[tuple[int, Mapping[str, object]]] = (),
    *,
    per: int = 1_000_000,
    request: float = 0.0,
) -> TokenRates | None:
    """Rates from the prices of `per` tokens by kind, if input and output are among them.

    A kind without a price of its own costs what an ordinary token of its direction does, which is the dearer.
    """
    known = {kind: price / per for kind, value in prices.items() if (price := _price(value)) is not None}
    input_rate, output_rate = known.get("input"), known.get("output")
    if input_rate is None or output_rate is None:
        return None
    base = {"input": prices["input"], "output": prices["output"]}
    return TokenRates(
        input=input_rate,
        output=output_rate,
        cache_read=known.get("cache_read", input_rate),
        cache_write=known.get("cache_write", input_rate),
        reasoning=known.get("reasoning", output_rate),
        audio_input=known.get("audio_input", input_rate),
        audio_output=known.get("audio_output", output_rate),
        request=request,
        tiers=tuple(
            (threshold, rates)
            for threshold, tier in sorted(tiers, key=itemgetter(0), reverse=True)
            if (rates := _token_rates({**base, **tier}, per=per, request=request)) is not None
        ),
    )


def _price(value: object) -> float | None:
    """`value` as a price: a finite number of at least 0, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # An int that no float holds; a signalling NaN.
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _names(model: str) -> list[str]:
    """List the names to look `model` up by: its own, then without the date of a snapshot."""
    name = model.strip().removeprefix("models/")  # Google's resource name.
    undated = _DATE_SUFFIX.sub("", name)
    return [name] if undated == name else [name, undated]


def _is_named(value: object, name: str) -> bool:
    return isinstance(value, str) and value.strip().removeprefix("models/").lower() == name.lower()


def _hyphenated(provider: str) -> str:
    """ModelForge spells names with underscores, models.dev and genai-prices with hyphens."""
    return provider.strip().lower().replace("_", "-")


def _renamed(prices: Mapping[str, object], keys: Mapping[str, str]) -> dict[str, object]:
    return {kind: prices[key] for kind, key in keys.items() if key in prices}


def _mapping(value: object) -> Mapping[str, object]:
    """`value` if it is a mapping, else an empty one."""
    return cast(Mapping[str, object], value) if isinstance(value, Mapping) else {}
