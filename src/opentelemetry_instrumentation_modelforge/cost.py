# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The price of a model call in US dollars, computed from its token counts.

A model's rates are resolved once, when ModelForge hands the model out; a call only multiplies. They are read from data
on the machine, never from the network. The first list that contains the model determines its price: the models.dev
metadata of an ``EnhancedLLM``, ModelForge's models.dev cache on disk (never written, and used regardless of its age),
or the ``genai-prices`` package if it is installed. A model that no list contains has no price: None, never 0.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from operator import itemgetter
from os.path import expanduser
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final, TypeAlias

from .values import NOTHING, count, items, mapping, price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceVariant, Tier

    from .response import Usage

_STANDARD_TIERS: Final = frozenset({"auto", "default", "on_demand", "standard", "standard_only"})
"""Service tiers billed at the standard price: ``auto`` and ``default`` at OpenAI and most servers with its API
(https://platform.openai.com/docs/api-reference/chat/create), ``on_demand`` at Groq
(https://console.groq.com/docs/service-tiers), ``standard`` at Google (https://ai.google.dev/gemini-api/docs/optimization),
``standard`` and ``standard_only`` at Anthropic (https://platform.claude.com/docs/en/api/service-tiers)."""

_PROVIDER_IDS: Final = {
    name: (models_dev, genai_prices)
    for names, models_dev, genai_prices in (
        ("amazon-bedrock aws bedrock", "amazon-bedrock", "aws"),
        ("azure-openai", "azure", "azure"),
        ("fireworks fireworks-ai", "fireworks-ai", "fireworks"),
        ("gemini google-genai", "google", "google"),
        ("google-vertex", "google-vertex", "google"),
        ("mistral-ai mistralai", "mistral", "mistral"),
        ("moonshot", "moonshotai", "moonshotai"),
        ("novita novita-ai", "novita-ai", "novita"),
        ("together together-ai togetherai", "togetherai", "together"),
        ("x-ai xai", "xai", "x-ai"),
    )
    for name in names.split()
}
"""Ids of a provider in models.dev and in genai-prices, if either differs from ModelForge's name."""

_NOTIONAL_PRICES: Final = frozenset({"github-copilot", "ollama"})
"""Providers in genai-prices that do not bill API calls by the token: subscriptions and local servers."""

_KINDS: Final = (
    ("input_tokens", ("cache_read_input_tokens", "cache_write_input_tokens", "audio_input_tokens")),
    ("output_tokens", ("reasoning_output_tokens", "audio_output_tokens")),
)
"""A direction's total in ``Usage``, and the kinds of tokens in it that can have a rate of their own."""

_PRICE_KEYS: Final = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_input_tokens": "cache_read",
    "cache_write_input_tokens": "cache_write",
    "reasoning_output_tokens": "reasoning",
    "audio_input_tokens": "input_audio",
    "audio_output_tokens": "output_audio",
    "cache_write_1h_input_tokens": "cache_write_1h",
}
"""Keys of each kind's price in models.dev (https://github.com/anomalyco/models.dev, ``schema.ts``), which has no price
for one-hour cache writes, and in genai-prices, which appends ``_mtok``."""

_DATE_SUFFIX: Final = re.compile(r"[-@](20\d{2})-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])$")


@dataclass(frozen=True, slots=True)
class TokenRates:
    """US dollars per token of each kind, and per request."""

    tokens: Mapping[str, float]
    """Rates of all kinds, by field of ``Usage``. Only the rate of one-hour cache writes may be missing."""
    context_tiers: "tuple[tuple[int, TokenRates], ...]" = ()
    """Rates of calls with more input tokens than a threshold, the highest threshold first. They apply to all tokens of
    such a call, not only to those above the threshold, just as providers bill and genai-prices computes."""
    service_tiers: "Mapping[str, TokenRates]" = field(default_factory=dict[str, "TokenRates"])
    """Rates of the service tiers that have a price in the list, by lower-case name."""
    request: float = 0.0

    def price(self, usage: "Usage", service_tier: str | None = None) -> float | None:
        """Return the price of a call in US dollars.

        :param usage: the call's tokens.
        :param service_tier: the tier that served the call, as the provider spells it; None means the standard tier.
        :return: None if the tier or one-hour cache writes have no rates, or if input or output tokens were not
            reported.
        """
        tier = _tier(service_tier)
        rates = self.service_tiers.get(tier) if tier else self
        if rates is None or usage.input_tokens is None or usage.output_tokens is None:
            return None
        total = rates.request
        for threshold, context_rates in rates.context_tiers:
            if usage.input_tokens > threshold:
                rates = context_rates
                break
        if usage.cache_write_1h_input_tokens:
            # They cost 2 instead of 1.25 times the input: platform.claude.com/docs/en/build-with-claude/prompt-caching
            rate = rates.tokens.get("cache_write_1h_input_tokens")
            if rate is None:
                return None
            total += usage.cache_write_1h_input_tokens * (rate - rates.tokens["cache_write_input_tokens"])
        for direction, kinds in _KINDS:
            plain: int = getattr(usage, direction)
            for kind in kinds:
                tokens: int | None = getattr(usage, kind)
                if tokens:
                    plain -= tokens
                    total += tokens * rates.tokens[kind]
            # Kinds can overlap (cached audio) or exceed the total; each is then charged, and no plain tokens remain.
            if plain > 0:
                total += plain * rates.tokens[direction]
        return total


@dataclass(slots=True)
class ScheduledRates:
    """Rates from genai-prices, which can change on a date or by the hour (DeepSeek's off-peak prices).

    They are read again each minute. Changes there fall on whole minutes, so each call gets the rates in force at its
    time, and a process that keeps a model for weeks picks up a new price.
    """

    model: "ModelInfo"
    variants: "Sequence[PriceVariant]"
    """The model's prices for service tiers."""
    # The minute and the rates by tier are one attribute, so that a thread replaces them together.
    _current: tuple[int, dict[str, TokenRates]] = field(default=(-1, {}), init=False, repr=False, compare=False)

    def current(self, service_tier: str | None = None) -> TokenRates | None:
        """Return the rates of a service tier for this minute, or None if genai-prices has none."""
        now = int(time() // 60)
        minute, rates = self._current
        if minute != now:
            rates = {}
            self._current = (now, rates)
        tier = _tier(service_tier)
        found = rates.get(tier)
        if found is None and (found := self._read(tier, datetime.fromtimestamp(now * 60, UTC))) is not None:
            rates[tier] = found
        return found

    def price(self, usage: "Usage", service_tier: str | None = None) -> float | None:
        """Return the price of a call at the rates of this minute."""
        rates = self.current(service_tier)
        return None if rates is None else rates.price(usage)

    def _read(self, tier: str, moment: datetime) -> TokenRates | None:
        if not tier:
            return _from_model_price(self.model.get_prices(moment))
        for variant in self.variants:
            if tier in variant.when.values() and (variant.constraint is None or variant.constraint.active(moment)):
                return _from_model_price(self.model.get_prices(moment, variant.when))
        return None


@dataclass(frozen=True, slots=True)
class CostFunction:
    """Rates computed by the application's own function of provider, model and usage."""

    function: "Callable[[str, str, Usage], object]"
    provider: str
    model: str

    def price(self, usage: "Usage", service_tier: str | None = None) -> float | None:
        """Return the function's result if it is a price, else None. The service tier is ignored.

        :raises Exception: any exception that the function raises.
        """
        return price(self.function(self.provider, self.model, usage))


Rates: TypeAlias = TokenRates | ScheduledRates | CostFunction


def resolve_rates(
    provider: str, model: str, *, api_base: str | None = None, metadata: Mapping[str, object] | None = None
) -> Rates | None:
    """Return the rates of a model that is paid by the token, or None if no list has its price.

    A provider is identified by ModelForge's name or, in genai-prices, by the URL of its API. A server that neither
    identifies gets no other provider's prices. A dated name (``gpt-4o-2024-05-13``) is looked up in all lists before it
    is looked up without its date, because snapshots have had their own prices.

    :param provider: ModelForge's name of the provider.
    :param model: the name that is sent to the API.
    :param api_base: the URL of the API, if it is configured.
    :param metadata: the metadata of an ``EnhancedLLM``.
    """
    # ModelForge's names have underscores, the names of both lists hyphens.
    provider_id = provider.strip().lower().replace("_", "-")
    models_dev_id, genai_prices_id = _PROVIDER_IDS.get(provider_id, (provider_id, provider_id))
    metadata = metadata or NOTHING
    for name in _names(model):
        rates = (
            _from_models_dev({**metadata, **mapping(metadata.get("raw_info"))}, name)
            or _from_cache(models_dev_id, name)
            or _from_genai_prices(genai_prices_id, name, api_base)
        )
        if rates is not None:
            return rates
    return None


def reference_rates(model: str) -> Rates | None:
    """Return the rates behind the notional price that ModelForge prints for a GitHub Copilot model.

    They are used for ``modelforge.usage.reference_cost``: Copilot is a subscription, so this price is not a cost. Only
    the model's own entry counts. ModelForge also accepts the first entry whose name is part of the model's name, so it
    prints the price of ``gpt-4`` for ``gpt-4.1-mini``.

    :param model: the name that is sent to the API.
    """
    try:
        pricing: object = getattr(import_module("modelforge.telemetry"), "PRICING", None)
    except ImportError:
        return None
    entries = mapping(mapping(pricing).get("github_copilot"))
    found = (_token_rates(mapping(entries.get(name.lower())), per=1_000) for name in _names(model))
    return next(filter(None, found), None)


def _from_cache(provider_id: str, name: str) -> TokenRates | None:
    client = getattr(sys.modules.get("modelforge.modelsdev"), "ModelsDevClient", None)
    directory = Path(getattr(client, "CACHE_DIR", None) or expanduser("~/.cache/model-forge/modelsdev"))
    for filename in (f"model_info_{provider_id}_{name}.json", f"models_{provider_id}.json", "models_all.json"):
        path = directory / filename
        # A name such as "openai/gpt-4o" would lead out of the directory, and ModelForge cannot write such a file.
        if path.name != filename:
            continue
        try:
            modified = path.stat().st_mtime_ns
        except (OSError, ValueError):
            continue
        if (rates := _from_file(path, modified, provider_id, name)) is not None:
            return rates
    return None


# The list of all models has thousands of entries, and a web service may call get_llm in every request.
@lru_cache(maxsize=256)
def _from_file(path: Path, modified: int, provider_id: str, name: str) -> TokenRates | None:
    """Return a model's rates from a file of one or many models; ``modified`` is part of the cache key."""
    try:
        content: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    content = mapping(content).get("data", content)
    models = [model for model in map(mapping, items(content)) if "id" in model and model.get("provider") == provider_id]
    return next(filter(None, (_from_models_dev(model, name) for model in models or [mapping(content)])), None)


def _from_models_dev(model: Mapping[str, object], name: str) -> TokenRates | None:
    """Return the rates of a model's entry in models.dev, in its original form or in ModelForge's excerpt.

    The entry counts only if it is for this name: ModelForge looks up its alias, which can refer to another model.
    """
    named = model.get("id", name)
    if not isinstance(named, str) or named.strip().removeprefix("models/").lower() != name.lower():
        return None
    cost = mapping(model.get("cost"))
    # Alongside `tiers`, context_over_200k is a copy for old readers, and its threshold is often wrong.
    over_200k = mapping(cost.get("context_over_200k"))
    tiers = items(cost.get("tiers")) or ([{**over_200k, "tier": {"size": 200_000}}] if over_200k else [])
    conditions = [(mapping(tier.get("tier")), tier) for tier in map(mapping, tiers)]
    context_tiers = {
        size: tier
        for condition, tier in conditions
        if (size := count(condition.get("size"))) is not None and condition.get("type", "context") == "context"
    }
    excerpt = {key.removesuffix("_per_1m_tokens"): value for key, value in mapping(model.get("pricing")).items()}
    rates = _token_rates(cost, context_tiers) or _token_rates(excerpt)
    # models.dev also writes 0 for subscriptions, trials and local servers. It is a price only for a model whose name
    # marks it as free, such as OpenRouter's ``:free`` models.
    if rates is None or not (
        any(rates.tokens[total] for total, _ in _KINDS) or name.lower().endswith((":free", "-free"))
    ):
        return None
    # A mode is a way to call the model. Some are selected by the request's service_tier and have a price of their own.
    modes = [mapping(mode) for mode in mapping(mapping(model.get("experimental")).get("modes")).values()]
    service_tiers = {
        tier.lower(): tier_rates
        for mode in modes
        if isinstance(tier := mapping(mapping(mode.get("provider")).get("body")).get("service_tier"), str)
        and (tier_rates := _token_rates(mapping(mode.get("cost")))) is not None
    }
    return replace(rates, service_tiers=service_tiers) if service_tiers else rates


def _from_genai_prices(provider_id: str, name: str, api_base: str | None) -> Rates | None:
    try:
        # It is optional, and its import takes a quarter of a second.
        from genai_prices.data_snapshot import get_snapshot
    except ImportError:
        return None
    snapshot = get_snapshot()
    # Its own provider lookup treats any name that contains "openai" as OpenAI.
    provider = next((p for p in snapshot.providers if api_base and re.match(p.api_pattern, api_base)), None) or next(
        (p for p in snapshot.providers if p.id == provider_id), None
    )
    if provider is None or provider.id in _NOTIONAL_PRICES:
        return None
    try:
        _, model = snapshot.find_provider_model(name, provider, None, None)
    except LookupError:
        return None
    # A model can be another provider's (OpenAI's at Azure); genai-prices does not apply that provider's service tiers.
    # Releases before 0.2 have no variants. Groq and Anthropic call a batch a service tier; genai-prices does not.
    variants = getattr(model, "price_variants", None) or () if any(model is own for own in provider.models) else ()
    rates = ScheduledRates(model, [v for v in variants if list(v.when) in (["service_tier"], ["processing"])])
    return None if rates.current() is None else rates


def _from_model_price(prices: "ModelPrice") -> TokenRates | None:
    # The kinds of tokens differ between releases of genai-prices, and its attributes for unpriced kinds are slow.
    known: dict[str, object] = vars(prices)
    by_key = {key: known.get(f"{key}_mtok") for key in _PRICE_KEYS.values()}
    by_key["reasoning"] = known.get("output_reasoning_mtok")
    # Each kind has its own tiers; every threshold among them starts a new set of rates.
    thresholds = {tier.start for value in by_key.values() for tier in getattr(value, "tiers", ())}
    above = {start: {key: _price_above(start, value) for key, value in by_key.items()} for start in (-1, *thresholds)}
    rates = _token_rates(above.pop(-1), above)
    request = price(known.get("requests_kcount"))
    return replace(rates, request=request / 1_000) if rates is not None and request else rates


def _price_above(threshold: int, value: object) -> object:
    """Return the price above ``threshold`` input tokens from a price in genai-prices, a number or ``TieredPrices``."""
    tiers: Sequence[Tier] = getattr(value, "tiers", ())
    return next((tier.price for tier in reversed(tiers) if threshold >= tier.start), getattr(value, "base", value))


def _token_rates(
    prices: Mapping[str, object], context_tiers: Mapping[int, Mapping[str, object]] | None = None, per: int = 1_000_000
) -> TokenRates | None:
    """Return the rates for prices per ``per`` tokens, or None unless input and output both have a price.

    A kind without its own price is charged as a plain token of its direction, which is never cheaper.

    :param prices: prices by key of ``_PRICE_KEYS``.
    :param context_tiers: prices by the number of input tokens above which they apply.
    """
    rates = {kind: number / per for kind, key in _PRICE_KEYS.items() if (number := price(prices.get(key))) is not None}
    if "input_tokens" not in rates or "output_tokens" not in rates:
        return None
    base = {"input": prices["input"], "output": prices["output"]}
    tiers = [
        (threshold, _token_rates({**base, **tier}, per=per))
        for threshold, tier in sorted((context_tiers or {}).items(), key=itemgetter(0), reverse=True)
    ]
    return TokenRates(
        rates | {kind: rates.get(kind, rates[total]) for total, kinds in _KINDS for kind in (total, *kinds)},
        tuple((threshold, tier) for threshold, tier in tiers if tier is not None),
    )


def _tier(service_tier: str | None) -> str:
    """Return a tier's name in lower case, or an empty string for a tier that is billed at the standard price."""
    tier = service_tier.lower() if service_tier else ""
    return "" if tier in _STANDARD_TIERS else tier


def _names(model: str) -> list[str]:
    """Return the names under which to look up ``model``: its own, without Google's prefix, then without its date."""
    name = model.strip().removeprefix("models/")
    undated = _DATE_SUFFIX.sub("", name)
    return [name] if undated == name else [name, undated]
