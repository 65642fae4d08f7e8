# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The cost of a call: the sources of the rates, the model they apply to, and the price of the tokens."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot, types
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelforge.modelsdev import ModelsDevClient
from modelforge.telemetry import PRICING, TokenUsage, calculate_cost

from opentelemetry_instrumentation_modelforge import cost
from opentelemetry_instrumentation_modelforge.cost import CostFunction, Rates, reference_rates, resolve_rates
from opentelemetry_instrumentation_modelforge.response import Usage
from support.environment import at_least

MILLION = 1_000_000
PriceVariant = getattr(types, "PriceVariant", None)
TO_A_BILLIONTH = {"rel": 0, "abs": 1e-9}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ModelForge's models.dev cache: an empty directory."""
    monkeypatch.setattr(ModelsDevClient, "CACHE_DIR", tmp_path)
    return tmp_path


@pytest.fixture
def without_genai_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Set the clock by which prices are chosen."""

    def set_clock(moment: datetime) -> None:
        monkeypatch.setattr(cost, "time", moment.timestamp)

    return set_clock


@pytest.fixture
def price_table(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Reduce genai-prices to one model, ``acme-1``, at these prices."""

    def set_prices(prices: ModelPrice | list[ConditionalPrice], provider_id: str = "acme") -> None:
        model = ModelInfo(id="acme-1", match=ClauseEquals("acme-1"), prices=prices)
        provider = Provider(id=provider_id, name="Acme", api_pattern=r"https://api\.acme\.test", models=[model])
        snapshot = data_snapshot.DataSnapshot(providers=[provider], from_auto_update=False)
        monkeypatch.setattr(data_snapshot, "_custom_snapshot", snapshot)

    return set_prices


def find(provider: str, model: str, **keywords: Any) -> Rates | None:
    return resolve_rates(provider, model, **keywords)


def per_million(rates: Rates | None, kind: str = "input_tokens") -> float | None:
    """Return the price in USD per million tokens of one kind."""
    if rates is None:
        return None
    total = "output_tokens" if "output" in kind else "input_tokens"
    return rates.price(Usage(**{"input_tokens": 0, "output_tokens": 0, total: MILLION, kind: MILLION}))


def models_dev(model: str, provider: str = "openai", **prices: Any) -> dict[str, Any]:
    """Return a model as ModelForge caches it from models.dev."""
    return {
        "id": model,
        "name": model.title(),
        "attachment": True,
        "reasoning": True,
        "tool_call": True,
        "release_date": "2024-08-06",
        "modalities": {"input": ["text", "image"], "output": ["text"]},
        "open_weights": False,
        "cost": {"input": 7, "output": 21, **prices},
        "limit": {"context": 128000, "output": 16384},
        "provider": provider,
    }


def metadata(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of an EnhancedLLM in the form of ``ModelForgeRegistry._fetch_model_metadata``."""
    return {
        "context_length": entry.get("limit", {}).get("context", 0),
        "max_tokens": entry.get("limit", {}).get("output", 0),
        "capabilities": ["function_calling"],
        "pricing": pricing(entry),
        "knowledge_cutoff": None,
        "raw_info": entry,
    }


def pricing(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{kind}_per_1m_tokens": entry.get("cost", {}).get(kind)
        for kind in ("input", "output", "cache_read", "cache_write")
    }


def listed(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a model in a list in the form of ``ModelsDevClient._parse_model_data``."""
    return {
        "id": entry["id"],
        "provider": entry["provider"],
        "display_name": entry["name"],
        "description": "Reasoning model",
        "capabilities": ["function_calling"],
        "context_length": 128000,
        "max_tokens": 16384,
        "pricing": pricing(entry),
    }


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))


# --- Against genai-prices ---

MODELS = [
    ("openai", "gpt-4o-mini", "openai"),
    ("openai", "gpt-4o-2024-08-06", "openai"),
    ("openai", "gpt-4o-mini-2024-07-18", "openai"),
    ("openai", "gpt-4.1-mini", "openai"),
    ("openai", "gpt-4", "openai"),
    ("openai", "o3", "openai"),
    ("openai", "gpt-5", "openai"),
    ("anthropic", "claude-3-5-sonnet-20241022", "anthropic"),
    ("anthropic", "claude-sonnet-4-5", "anthropic"),
    ("anthropic", "claude-sonnet-4-6", "anthropic"),
    ("anthropic", "claude-opus-4-1", "anthropic"),
    ("google", "gemini-2.5-pro", "google"),
    ("google", "gemini-2.5-flash", "google"),
    ("google", "models/gemini-2.0-flash", "google"),
    ("gemini", "gemini-2.5-pro", "google"),
    ("xai", "grok-4", "x-ai"),
    ("mistral", "mistral-large-latest", "mistral"),
    ("deepseek", "deepseek-chat", "deepseek"),
    ("groq", "llama-3.3-70b-versatile", "groq"),
    ("azure", "gpt-4o", "azure"),
    ("openrouter", "openai/gpt-4o", "openrouter"),
    ("openrouter", "anthropic/claude-sonnet-4.5", "openrouter"),
    ("perplexity", "sonar-pro", "perplexity"),
    ("perplexity", "sonar-deep-research", "perplexity"),
]
USAGES = [
    Usage(0, 0),
    Usage(1000, 500),
    Usage(1000, 500, cache_read_input_tokens=400),
    Usage(1000, 500, cache_write_input_tokens=300),
    Usage(1000, 500, cache_read_input_tokens=400, cache_write_input_tokens=300, reasoning_output_tokens=200),
    Usage(1000, 500, cache_read_input_tokens=1000, reasoning_output_tokens=500),
    Usage(1_000_000, 60_000, cache_read_input_tokens=900_000, reasoning_output_tokens=50_000),
    Usage(200_001, 7, cache_read_input_tokens=200_000),
    Usage(200_000, 7, cache_read_input_tokens=199_999),
    Usage(199_999, 7),
    Usage(272_001, 7, cache_write_input_tokens=272_000),
    Usage(272_000, 7),
]


def expected(usage: Usage, model: str, provider: str, moment: datetime, **keywords: Any) -> float:
    """Return the price computed by `genai_prices.calc_price`."""
    tokens = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_write_input_tokens,
        "output_reasoning_tokens": usage.reasoning_output_tokens,
        "input_audio_tokens": usage.audio_input_tokens,
        "output_audio_tokens": usage.audio_output_tokens,
    }
    try:
        counted = genai_prices.Usage(**tokens)
    except TypeError:  # Older releases do not count reasoning tokens separately.
        del tokens["output_reasoning_tokens"]
        counted = genai_prices.Usage(**tokens)
    calculation = genai_prices.calc_price(
        counted, model, provider_id=provider, genai_request_timestamp=moment, **keywords
    )
    return float(calculation.total_price)


@pytest.mark.parametrize(("provider", "model", "genai_prices_id"), MODELS)
def test_the_cost_of_a_call_is_that_of_genai_prices(
    provider: str, model: str, genai_prices_id: str, at: Callable[[datetime], None]
) -> None:
    moment = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    at(moment)
    rates = find(provider, model)
    assert rates is not None
    for usage in USAGES:
        assert rates.price(usage) == pytest.approx(expected(usage, model, genai_prices_id, moment), **TO_A_BILLIONTH)


def test_the_cost_of_every_model_priced_by_genai_prices_is_that_of_genai_prices(at: Callable[[datetime], None]) -> None:
    moment = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
    at(moment)
    usage = Usage(250_000, 700, cache_read_input_tokens=100_000, cache_write_input_tokens=30_000)
    priced = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            rates = find(provider.id, model.id)
            if rates is not None:
                priced += 1
                assert rates.price(usage) == pytest.approx(
                    expected(usage, model.id, provider.id, moment), **TO_A_BILLIONTH
                ), (provider.id, model.id)
    assert priced > 500


def test_audio_tokens_have_their_own_rates(price_table: Callable[..., None]) -> None:
    price_table(
        ModelPrice(
            input_mtok=Decimal(1),
            output_mtok=Decimal(2),
            input_audio_mtok=Decimal(30),
            output_audio_mtok=Decimal(60),
        )
    )
    rates = find("acme", "acme-1")
    assert rates is not None
    usage = Usage(1000, 500, audio_input_tokens=800, audio_output_tokens=300)
    price = expected(usage, "acme-1", "acme", datetime.now(UTC))
    assert rates.price(usage) == pytest.approx(price, **TO_A_BILLIONTH)
    assert price == pytest.approx((200 * 1 + 800 * 30 + 200 * 2 + 300 * 60) / MILLION)


# --- The model ---


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("GPT-4o-Mini", "gpt-4o-mini"),
        ("gpt-4.1-mini-2031-01-01", "gpt-4.1-mini"),
        ("gpt-4.1-mini-20310101", "gpt-4.1-mini"),
    ],
)
def test_a_dated_name_finds_its_model(name: str, same_as: str) -> None:
    found = find("openai", name)
    assert found is not None
    assert found == find("openai", same_as)


def test_a_snapshot_with_its_own_price_keeps_it(cache: Path) -> None:
    write(cache / "model_info_openai_gpt-4o.json", models_dev("gpt-4o", input=2.5, output=10))
    write(cache / "models_openai.json", {"data": [listed(models_dev("gpt-4o-2024-05-13", input=5, output=15))]})
    assert per_million(find("openai", "gpt-4o-2024-05-13")) == pytest.approx(5)
    assert per_million(find("openai", "gpt-4o-2031-01-01")) == pytest.approx(2.5)


@pytest.mark.usefixtures("without_genai_prices")
@pytest.mark.parametrize("name", ["gpt-4.1-mini", "gpt-4-turbo", "gpt-4o", "gpt-4-0125-preview", "my-gpt-4", "gpt", ""])
def test_a_price_is_never_that_of_a_model_with_a_similar_name(name: str, cache: Path) -> None:
    gpt_4 = models_dev("gpt-4", input=30, output=60)
    write(cache / "model_info_openai_gpt-4.json", gpt_4)
    write(cache / "models_all.json", {"data": [listed(gpt_4)]})
    assert find("openai", name, metadata=metadata(gpt_4)) is None


def test_gpt_4_1_mini_does_not_have_the_price_of_gpt_4() -> None:
    assert per_million(find("openai", "gpt-4.1-mini")) == pytest.approx(0.4)
    assert per_million(find("openai", "gpt-4")) == pytest.approx(30)


def test_metadata_of_an_alias_for_another_model_is_not_that_models_price() -> None:
    # {"gpt-4": {"api_model_name": "gpt-4.1-mini"}}: ModelForge queries models.dev with the alias.
    found = find("openai", "gpt-4.1-mini", metadata=metadata(models_dev("gpt-4", input=30, output=60)))
    assert per_million(found) == pytest.approx(0.4)


@pytest.mark.parametrize("model", ["gpt-99", "no-such-model", "gpt-4o-mini-finetuned-by-us"])
def test_an_unknown_model_has_no_price(model: str) -> None:
    assert find("openai", model) is None


def test_a_google_model_is_found_by_its_resource_name(cache: Path) -> None:
    entry = models_dev("gemini-9", "google", input=11)
    assert per_million(find("google", "models/gemini-9", metadata=metadata(entry))) == pytest.approx(11)
    write(cache / "model_info_google_gemini-9.json", {**entry, "id": "models/gemini-9"})
    assert per_million(find("google", "models/gemini-9")) == pytest.approx(11)


# --- The provider ---


def test_a_subscription_that_genai_prices_lists_has_no_price() -> None:
    assert find("github-copilot", "gpt-4o") is None
    assert find("github_copilot", "gpt-4o") is None
    assert find("work", "gpt-4o", api_base="https://api.githubcopilot.com") is None


@pytest.mark.parametrize("provider_id", ["github-copilot", "ollama"])
def test_a_subscription_or_a_local_server_is_also_recognized_by_its_url(
    price_table: Callable[..., None], provider_id: str
) -> None:
    price_table(ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1)), provider_id)
    assert find("work", "acme-1", api_base="https://api.acme.test") is None


@pytest.mark.parametrize("provider", ["openai_local", "my_openai", "vllm", "google_proxy", "anthropic_mirror"])
def test_an_unknown_provider_has_no_prices(provider: str) -> None:
    assert find(provider, "gpt-4o", api_base="http://localhost:8000/v1") is None
    assert find(provider, "gemini-2.5-pro", api_base="http://localhost:8000/v1") is None


def test_a_provider_with_a_custom_name_is_recognized_by_its_url() -> None:
    found = find("work", "gpt-4o", api_base="https://api.openai.com/v1")
    assert found is not None
    assert found == find("openai", "gpt-4o")


def test_the_url_of_a_gateway_outweighs_the_name_of_the_provider() -> None:
    found = find("openai", "anthropic/claude-sonnet-4.5", api_base="https://openrouter.ai/api/v1")
    assert found is not None
    assert per_million(found) == per_million(find("openrouter", "anthropic/claude-sonnet-4.5"))


def test_a_known_provider_behind_a_proxy_keeps_its_prices() -> None:
    assert find("openai", "gpt-4o", api_base="http://127.0.0.1:4000/v1") == find("openai", "gpt-4o")


# --- Where the rates come from ---


def test_the_metadata_of_an_enhanced_llm_comes_first_then_the_cache_then_genai_prices(cache: Path) -> None:
    assert per_million(find("openai", "gpt-4o")) == pytest.approx(2.5)
    write(cache / "models_all.json", {"data": [listed(models_dev("gpt-4o", input=11))]})
    assert per_million(find("openai", "gpt-4o")) == pytest.approx(11)
    write(cache / "models_openai.json", {"data": [listed(models_dev("gpt-4o", input=12))]})
    assert per_million(find("openai", "gpt-4o")) == pytest.approx(12)
    write(cache / "model_info_openai_gpt-4o.json", models_dev("gpt-4o", input=13))
    assert per_million(find("openai", "gpt-4o")) == pytest.approx(13)
    assert per_million(find("openai", "gpt-4o", metadata=metadata(models_dev("gpt-4o", input=14)))) == pytest.approx(14)


@pytest.mark.parametrize("empty", [None, {}, {"pricing": {}, "raw_info": {}}, metadata({})])
def test_metadata_that_modelforge_could_not_fetch_is_ignored(empty: dict[str, Any] | None) -> None:
    assert per_million(find("openai", "gpt-4o", metadata=empty)) == pytest.approx(2.5)


def test_metadata_with_only_modelforges_own_pricing_is_used() -> None:
    only = {"pricing": {"input_per_1m_tokens": 3, "output_per_1m_tokens": 4, "cache_read_per_1m_tokens": 1}}
    found = find("openai", "gpt-4o", metadata=only)
    assert per_million(found) == pytest.approx(3)
    assert per_million(found, "cache_read_input_tokens") == pytest.approx(1)


def test_the_cache_is_used_whatever_its_age_and_a_newer_file_replaces_it(cache: Path) -> None:
    path = cache / "model_info_openai_gpt-4o.json"
    write(path, models_dev("gpt-4o", input=11))
    os.utime(path, (1, 1))
    assert per_million(find("openai", "gpt-4o")) == pytest.approx(11)
    write(path, models_dev("gpt-4o", input=12))
    assert per_million(find("openai", "gpt-4o")) == pytest.approx(12)


def test_the_cache_is_found_under_the_name_that_modelforge_writes(cache: Path) -> None:
    write(cache / "model_info_my-lab_Llama-X.json", models_dev("Llama-X", "my-lab", input=11))
    assert per_million(find("my_lab", "Llama-X")) == pytest.approx(11)


def test_a_list_is_searched_by_model_and_provider(cache: Path) -> None:
    entries = [models_dev("grok-9", "vercel", input=11), models_dev("grok-9", "xai", input=12)]
    write(cache / "models_all.json", {"data": [listed(entry) for entry in entries]})
    assert per_million(find("xai", "grok-9")) == pytest.approx(12)
    assert find("openai", "grok-9") is None


def test_a_model_with_a_slash_in_its_name_is_found_in_a_list(cache: Path) -> None:
    write(cache / "models_openrouter.json", {"data": [listed(models_dev("openai/gpt-4o", "openrouter", input=11))]})
    assert per_million(find("openrouter", "openai/gpt-4o")) == pytest.approx(11)


def test_a_name_does_not_lead_out_of_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = cache / "inner"
    (inner / "model_info_lab_..").mkdir(parents=True)
    monkeypatch.setattr(ModelsDevClient, "CACHE_DIR", inner)
    name = "../../../outside"
    write(cache / "outside.json", models_dev(name, "lab"))
    assert (inner / f"model_info_lab_{name}.json").exists()
    assert find("lab", name) is None


def test_the_cache_is_only_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelsDevClient, "CACHE_DIR", cache / "absent")
    assert find("lab", "x-1") is None
    assert list(cache.iterdir()) == []


def test_without_modelforge_loaded_the_cache_is_the_one_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "modelforge.modelsdev")
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = tmp_path / ".cache" / "model-forge" / "modelsdev"
    directory.mkdir(parents=True)
    write(directory / "model_info_lab_x-1.json", models_dev("x-1", "lab", input=11))
    assert per_million(find("lab", "x-1")) == pytest.approx(11)


def test_without_a_home_directory_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "modelforge.modelsdev")
    monkeypatch.setattr(cost, "expanduser", lambda path: path)
    assert find("lab", "x-1") is None


@pytest.mark.usefixtures("without_genai_prices")
def test_without_genai_prices_the_other_sources_are_still_used() -> None:
    assert find("openai", "gpt-4o") is None
    assert per_million(find("openai", "gpt-4o", metadata=metadata(models_dev("gpt-4o", input=11)))) == pytest.approx(11)


def test_rates_are_found_without_the_network() -> None:
    script = """
import socket, sys
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from opentelemetry_instrumentation_modelforge.cost import resolve_rates
assert not {"genai_prices", "modelforge", "langchain_core"} & set(sys.modules), "an early import"
assert resolve_rates("openai", "gpt-4o")
assert not {"modelforge", "langchain_core"} & set(sys.modules), "an early import"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=180)


# --- Rates that depend on the call or on the time ---


def test_a_models_dev_tier_applies_to_the_whole_call_once_the_input_exceeds_it() -> None:
    tiers = [
        {"input": 3, "output": 9, "cache_read": 0.3, "tier": {"type": "context", "size": 512_000}},
        {"input": 2, "output": 6, "cache_read": 0.2, "tier": {"type": "context", "size": 256_000}},
    ]
    entry = models_dev("x-1", input=1, output=3, cache_read=0.1, tiers=tiers)
    rates = find("openai", "x-1", metadata=metadata(entry))
    assert rates is not None
    for input_tokens, factor in [(256_000, 1), (256_001, 2), (512_000, 2), (512_001, 3)]:
        usage = Usage(input_tokens, 100, cache_read_input_tokens=1000)
        price = ((input_tokens - 1000) * 1 + 1000 * 0.1 + 100 * 3) * factor / MILLION
        assert rates.price(usage) == pytest.approx(price, **TO_A_BILLIONTH)


def test_context_over_200k_is_a_tier() -> None:
    entry = models_dev("x-1", input=1, output=3, context_over_200k={"input": 2, "output": 6})
    rates = find("openai", "x-1", metadata=metadata(entry))
    assert rates is not None
    assert rates.price(Usage(200_000, 0)) == pytest.approx(0.2)
    assert rates.price(Usage(200_001, 0)) == pytest.approx(0.400002)


def test_context_over_200k_yields_to_the_tier_that_has_the_real_threshold() -> None:
    over = {"input": 10, "output": 45}
    tiers = [{**over, "tier": {"type": "context", "size": 272_000}}]
    entry = models_dev("x-1", input=5, output=30, tiers=tiers, context_over_200k=over)
    rates = find("openai", "x-1", metadata=metadata(entry))
    assert rates is not None
    assert rates.price(Usage(250_000, 0)) == pytest.approx(1.25)
    assert rates.price(Usage(280_000, 0)) == pytest.approx(2.8)


def test_the_tiers_of_genai_prices_may_differ_between_kinds_of_tokens(price_table: Callable[..., None]) -> None:
    price_table(
        ModelPrice(
            input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(100, Decimal(2)), Tier(300, Decimal(4))]),
            output_mtok=TieredPrices(base=Decimal(5), tiers=[Tier(200, Decimal(7))]),
            cache_read_mtok=Decimal("0.5"),
        )
    )
    rates = find("acme", "acme-1")
    assert rates is not None
    for input_tokens in (0, 100, 101, 200, 201, 300, 301):
        usage = Usage(input_tokens, 50, cache_read_input_tokens=min(input_tokens, 10))
        price = expected(usage, "acme-1", "acme", datetime.now(UTC))
        assert rates.price(usage) == pytest.approx(price, rel=0, abs=1e-12)


def test_prices_that_depend_on_the_hour_follow_the_clock_to_the_second(at: Callable[[datetime], None]) -> None:
    at(datetime(2026, 11, 24, 12, 0, tzinfo=UTC))
    rates = find("deepseek", "deepseek-chat")
    assert rates is not None
    usage = Usage(1000, 500, cache_read_input_tokens=300)
    seen: set[float | None] = set()
    for hour, minute, second in [(0, 29, 59), (0, 30, 0), (12, 0, 0), (16, 29, 59), (16, 30, 0), (23, 59, 59)]:
        moment = datetime(2026, 11, 25, hour, minute, second, tzinfo=UTC)
        at(moment)
        amount = rates.price(usage)
        seen.add(amount)
        assert amount == pytest.approx(expected(usage, "deepseek-chat", "deepseek", moment), **TO_A_BILLIONTH)
    assert len(seen) == 2


def test_a_model_kept_for_weeks_follows_a_new_price(
    at: Callable[[datetime], None], price_table: Callable[..., None]
) -> None:
    price_table(
        [
            ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2))),
            ConditionalPrice(
                StartDateConstraint(date(2027, 1, 1)), prices=ModelPrice(input_mtok=Decimal(3), output_mtok=Decimal(6))
            ),
        ]
    )
    at(datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    rates = find("acme", "acme-1")
    assert per_million(rates) == pytest.approx(1)
    at(datetime(2027, 1, 1, tzinfo=UTC))
    assert per_million(rates) == pytest.approx(3)


def test_a_fee_per_request_is_part_of_the_cost(price_table: Callable[..., None]) -> None:
    price_table(ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), requests_kcount=Decimal(12)))
    rates = find("acme", "acme-1")
    assert rates is not None
    assert rates.price(Usage(1000, 1000)) == pytest.approx(0.014)


# --- Service tiers ---

STANDARD_TIERS = [None, "default", "auto", "standard", "standard_only", "on_demand", "Default", "STANDARD"]
OTHER_TIERS = ["flex", "priority", "fast", "scale", "batch", "performance", "reserved", "no-such-tier", "defaults"]


def mode(service_tier: object, **prices: Any) -> dict[str, Any]:
    """Return a mode of a model in models.dev that a value of ``service_tier`` selects."""
    return {"cost": prices, "provider": {"body": {"service_tier": service_tier}}}


@pytest.mark.parametrize("tier", STANDARD_TIERS)
def test_the_standard_tier_has_the_standard_price_under_every_providers_name(tier: str | None) -> None:
    usage = Usage(1000, 500)
    found = find("openai", "x-1", metadata=metadata(models_dev("x-1")))
    assert found is not None
    assert found.price(usage, tier) == found.price(usage) == pytest.approx(0.0175)
    found = find("openai", "gpt-5-mini")
    assert found is not None
    assert found.price(usage, service_tier=tier) == found.price(usage) == pytest.approx(0.00125)


@pytest.mark.parametrize("tier", OTHER_TIERS)
def test_a_tier_without_a_listed_price_has_no_price(tier: str) -> None:
    found = find("openai", "x-1", metadata=metadata(models_dev("x-1")))
    assert found is not None
    assert found.price(Usage(1000, 500), tier) is None
    found = find("openai", "gpt-3.5-turbo-instruct")
    assert found is not None
    assert found.price(Usage(1000, 500), tier) is None


def test_a_tier_without_a_price_in_the_first_source_is_not_priced_by_another() -> None:
    found = find("openai", "gpt-5-mini", metadata=metadata(models_dev("gpt-5-mini")))
    assert found is not None
    assert found.price(Usage(1000, 500), "flex") is None


@pytest.mark.parametrize("tier", ["priority", "Priority"])
def test_a_tier_that_models_dev_prices_has_its_own_price(tier: str, cache: Path) -> None:
    modes = {"fast": mode("priority", input=14, output=42, cache_read=1.4)}
    entry = models_dev("x-1", cache_read=0.7) | {"experimental": {"modes": modes}}
    write(cache / "model_info_openai_x-1.json", entry)
    usage = Usage(1000, 500, cache_read_input_tokens=400)
    for found in (find("openai", "x-1", metadata=metadata(entry)), find("openai", "x-1")):
        assert found is not None
        assert found.price(usage, tier) == pytest.approx((600 * 14 + 400 * 1.4 + 500 * 42) / MILLION)
        assert found.price(usage) == pytest.approx((600 * 7 + 400 * 0.7 + 500 * 21) / MILLION)
        assert found.price(usage, "flex") is None
        assert found.price(Usage(1000), tier) is None


@pytest.mark.parametrize(
    "modes",
    [
        None,
        [],
        {"fast": None},
        {"fast": mode(None, input=1, output=1)},
        {"fast": mode(["priority"], input=1, output=1)},
        {"fast": mode("priority", input=1)},
        {"fast": mode("priority", input="1", output=1)},
        {"priority": {"cost": {"input": 1, "output": 1}, "provider": {"body": {"speed": "fast"}}}},
    ],
)
def test_a_mode_of_models_dev_that_is_not_a_priced_tier_is_ignored(modes: object) -> None:
    entry = models_dev("x-1") | {"experimental": {"modes": modes}}
    found = find("openai", "x-1", metadata=metadata(entry))
    assert found is not None
    assert found.price(Usage(1000, 500), "priority") is None
    assert found.price(Usage(1000, 500)) == pytest.approx(0.0175)


@pytest.mark.skipif(PriceVariant is None, reason="this genai-prices has no prices of tiers")
@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize(
    ("provider", "model", "tier", "context"),
    [
        ("openai", "gpt-5-mini", "flex", {"service_tier": "flex"}),
        ("openai", "gpt-5-mini", "priority", {"service_tier": "priority"}),
        ("openai", "gpt-5.4", "flex", {"service_tier": "flex"}),
        ("openai", "gpt-5.4", "fast", {"service_tier": "fast"}),
        ("openai", "o3", "flex", {"service_tier": "flex"}),
        ("openai", "gpt-5-mini", "batch", {"processing": "batch"}),
        ("groq", "openai/gpt-oss-120b", "batch", {"processing": "batch"}),
    ],
)
def test_the_cost_of_a_tier_priced_by_genai_prices_is_that_of_genai_prices(
    provider: str, model: str, tier: str, context: dict[str, str], usage: Usage, at: Callable[[datetime], None]
) -> None:
    moment = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    at(moment)
    found = find(provider, model)
    assert found is not None
    price = expected(usage, model, provider, moment, price_context=context)
    assert found.price(usage, tier) == pytest.approx(price, **TO_A_BILLIONTH)
    if usage.output_tokens:
        assert price != expected(usage, model, provider, moment)


@pytest.mark.skipif(PriceVariant is None, reason="this genai-prices has no prices of tiers")
def test_a_tier_has_no_price_before_the_date_from_which_its_price_is_known(at: Callable[[datetime], None]) -> None:
    at(datetime(2026, 10, 11, 23, 59, tzinfo=UTC))
    found = find("openai", "gpt-5-mini")
    assert found is not None
    assert found.price(Usage(1000, 500), "flex") is None
    at(datetime(2026, 10, 12, 0, 0, tzinfo=UTC))
    assert found.price(Usage(1000, 500), "flex") == pytest.approx(0.000625)


@pytest.mark.skipif(PriceVariant is None, reason="this genai-prices has no prices of tiers")
def test_azure_does_not_have_the_tier_prices_of_openai(at: Callable[[datetime], None]) -> None:
    at(datetime(2026, 11, 24, tzinfo=UTC))
    found = find("azure", "gpt-5.4-mini")
    assert found is not None
    assert found.price(Usage(1000, 500)) == pytest.approx(0.003)
    assert found.price(Usage(1000, 500), "flex") is None


@pytest.mark.parametrize("tier", [None, "default", "flex"])
def test_a_users_function_prices_every_tier(tier: str | None) -> None:
    assert CostFunction(lambda *_: 0.25, "openai", "gpt-4o").price(Usage(1, 2), tier) == 0.25


# --- Unknown rates, free models, missing counts ---


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("cache_read_input_tokens", 7),
        ("cache_write_input_tokens", 7),
        ("audio_input_tokens", 7),
        ("reasoning_output_tokens", 21),
        ("audio_output_tokens", 21),
    ],
)
def test_a_kind_of_token_without_a_rate_has_the_more_expensive_rate(kind: str, rate: float) -> None:
    assert per_million(find("openai", "x-1", metadata=metadata(models_dev("x-1"))), kind) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("cache_read_input_tokens", "cache_read"),
        ("cache_write_input_tokens", "cache_write"),
        ("audio_input_tokens", "input_audio"),
        ("reasoning_output_tokens", "reasoning"),
        ("audio_output_tokens", "output_audio"),
    ],
)
def test_a_kind_of_token_with_a_rate_in_models_dev_has_that_rate(kind: str, key: str) -> None:
    found = find("openai", "x-1", metadata=metadata(models_dev("x-1", **{key: 0.25})))
    assert per_million(found, kind) == pytest.approx(0.25)


def test_a_tier_without_a_rate_for_cached_tokens_charges_its_own_input_rate() -> None:
    tiers = [{"input": 14, "tier": {"size": 1000}}]
    found = find("openai", "x-1", metadata=metadata(models_dev("x-1", cache_read=0.7, tiers=tiers)))
    assert per_million(found, "cache_read_input_tokens") == pytest.approx(14)
    assert found is not None
    assert found.price(Usage(1001, 1000)) == pytest.approx((1001 * 14 + 1000 * 21) / MILLION)


@pytest.mark.parametrize(
    "condition", [None, {}, {"size": "1"}, {"size": True}, {"size": -1}, {"type": "batch", "size": 1}]
)
def test_a_tier_with_an_unknown_condition_is_ignored(condition: object) -> None:
    tiers = [None, {"input": 14, "tier": condition}]
    found = find("openai", "x-1", metadata=metadata(models_dev("x-1", tiers=tiers)))
    assert per_million(found) == pytest.approx(7)


@pytest.mark.usefixtures("without_genai_prices")
def test_a_model_named_free_costs_nothing() -> None:
    entry = models_dev("qwen/qwen3-coder:free", "openrouter", input=0, output=0)
    assert per_million(find("openrouter", "qwen/qwen3-coder:free", metadata=metadata(entry))) == 0.0


@pytest.mark.usefixtures("without_genai_prices")
@pytest.mark.parametrize("provider", ["github_models", "zai_coding_plan", "lmstudio", "nvidia"])
def test_the_zeros_in_models_dev_for_subscriptions_and_local_servers_are_not_prices(provider: str) -> None:
    entry = models_dev("x-1", provider, input=0, output=0)
    assert find(provider, "x-1", metadata=metadata(entry)) is None


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=10), Usage(output_tokens=10)])
def test_a_call_whose_tokens_were_not_all_reported_has_no_cost(usage: Usage) -> None:
    rates = find("openai", "gpt-4o")
    assert rates is not None
    assert rates.price(usage) is None


@pytest.mark.parametrize(("written_for_an_hour", "amount"), [(None, 0.24), (0, 0.24), (400, None)])
def test_one_hour_cache_writes_without_a_listed_price_have_no_price(
    written_for_an_hour: int | None, amount: float | None
) -> None:
    rates = find("openai", "x-1", metadata=metadata(models_dev("x-1", input=200, output=200, cache_write=250)))
    assert rates is not None
    usage = Usage(1000, 100, cache_write_input_tokens=400, cache_write_1h_input_tokens=written_for_an_hour)
    assert rates.price(usage) == (amount and pytest.approx(amount))


@pytest.mark.skipif(not at_least("genai-prices", "0.2"), reason="has no prices of one-hour cache writes")
def test_the_cost_of_one_hour_cache_writes_is_that_of_genai_prices() -> None:
    rates = find("anthropic", "claude-sonnet-4-5")
    assert rates is not None
    usage = Usage(9000, 100, 2000, 5000, cache_write_1h_input_tokens=3000)
    counted = genai_prices.Usage(
        input_tokens=9000,
        output_tokens=100,
        cache_read_tokens=2000,
        cache_write_tokens=5000,
        cache_write_1h_tokens=3000,
    )
    price = genai_prices.calc_price(counted, "claude-sonnet-4-5", provider_id="anthropic").total_price
    assert rates.price(usage) == pytest.approx(float(price))


def test_counts_that_contradict_the_total_never_make_a_call_cheaper_than_its_parts() -> None:
    rates = find("openai", "x-1", metadata=metadata(models_dev("x-1", cache_read=1, reasoning=2)))
    assert rates is not None
    amount = rates.price(Usage(10, 10, cache_read_input_tokens=1000, reasoning_output_tokens=1000))
    assert amount == pytest.approx(0.003)


# --- Odd data ---


@pytest.mark.usefixtures("without_genai_prices")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"null",
        b"0",
        b'"text"',
        b"[]",
        b'[null, 1, "x", []]',
        b'{"data": null}',
        b'{"data": {"data": []}}',
        b'{"cost": null}',
        b'{"cost": [1, 2]}',
        b'{"cost": {"input": "1", "output": "2"}}',
        b'{"cost": {"input": -1, "output": 2}}',
        b'{"cost": {"input": NaN, "output": 2}}',
        b'{"cost": {"input": Infinity, "output": 2}}',
        b'{"cost": {"input": true, "output": true}}',
        b'{"cost": {"input": 1}}',
        b'{"cost": {"output": 1}}',
        b'{"cost": {"input": 1' + b"0" * 400 + b', "output": 1}}',
        b'{"cost": {"input": 1' + b"0" * 5000 + b', "output": 1}}',
        b'{"id": "another", "cost": {"input": 1, "output": 1}}',
        b'{"pricing": {"input_per_1m_tokens": null, "output_per_1m_tokens": null}}',
    ],
)
def test_a_cache_file_without_a_usable_price_is_ignored(content: bytes, cache: Path) -> None:
    for name in ("model_info_lab_x-1.json", "models_lab.json", "models_all.json"):
        (cache / name).write_bytes(content)
    assert find("lab", "x-1") is None


def test_a_directory_in_place_of_a_cache_file_is_ignored(cache: Path) -> None:
    (cache / "model_info_lab_x-1.json").mkdir()
    assert find("lab", "x-1") is None


@pytest.mark.parametrize("model", ["", " ", ".", "..", "/", "\0", "x" * 5000, "a/../b", "\ud800", "-2024-01-01", "(["])
def test_an_odd_model_name_has_no_price(model: str) -> None:
    assert find("openai", model) is None
    assert find("lab", model) is None
    assert find(model, model, api_base=model, metadata={"raw_info": model}) is None
    assert reference_rates(model) is None


@pytest.mark.parametrize("value", ["1", -1, -0.5, math.nan, math.inf, None, True, [], {}, 10**400])
def test_a_rate_that_is_not_a_price_is_an_unknown_rate(value: object) -> None:
    entry = models_dev("x-1", cache_read=value, reasoning=value)
    found = find("openai", "x-1", metadata=metadata(entry))
    assert per_million(found, "cache_read_input_tokens") == pytest.approx(7)
    assert per_million(found, "reasoning_output_tokens") == pytest.approx(21)


SHAPE = ["id", "provider", "cost", "pricing", "raw_info", "data", "tiers", "tier", "size", "type"]
SHAPE += ["experimental", "modes", "body", "service_tier"]
RATES = ["input", "output", "cache_read", "context_over_200k", "input_per_1m_tokens", "output_per_1m_tokens"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
ODD = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SHAPE + RATES), inner, max_size=4),
    max_leaves=15,
)


@given(odd=ODD, prices=st.dictionaries(st.sampled_from(["input", "output", "cache_read", "tiers"]), ODD))
@settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_sources_contain_a_cost_is_none_or_a_finite_amount(cache: Path, odd: Any, prices: Any) -> None:
    usage = Usage(300_000, 500, 1000, 1000, 100, 10, 10)
    write(cache / "model_info_lab_x-1.json", odd)
    write(cache / "models_all.json", {"data": [{"id": "x-1", "provider": "lab", "pricing": odd, "cost": prices}]})
    entries = [odd] if isinstance(odd, dict) else []
    for held in (None, {"raw_info": odd}, {"pricing": odd, "raw_info": {"id": "x-1", "cost": prices}}, *entries):
        rates = find("lab", "x-1", metadata=held)
        for tier in (None, "priority", ""):
            amount = rates.price(usage, tier) if rates else None
            assert amount is None or (amount >= 0 and math.isfinite(amount))


# --- The user's own function, and Copilot's notional price ---


def test_a_users_function_receives_provider_model_and_usage() -> None:
    calls: list[tuple[str, str, Usage]] = []

    def price(provider: str, model: str, usage: Usage) -> float:
        calls.append((provider, model, usage))
        return 0.25

    usage = Usage(1, 2)
    assert CostFunction(price, "openai", "gpt-4o").price(usage) == 0.25
    assert calls == [("openai", "gpt-4o", usage)]


@pytest.mark.parametrize("answer", [None, "1", True, -1, math.nan, math.inf, [], 10**400, Decimal("sNaN")])
def test_a_result_that_is_not_an_amount_is_no_cost(answer: object) -> None:
    assert CostFunction(lambda *_: answer, "openai", "gpt-4o").price(Usage(1, 2)) is None


@pytest.mark.parametrize(("answer", "amount"), [(0, 0.0), (2, 2.0), (Decimal("0.1"), 0.1)])
def test_any_nonnegative_number_is_an_amount(answer: object, amount: float) -> None:
    assert CostFunction(lambda *_: answer, "openai", "gpt-4o").price(Usage(1, 2)) == amount


@pytest.mark.parametrize("model", [*PRICING["github_copilot"], "GPT-4o", "gpt-4o-2024-08-06"])
def test_the_reference_price_of_copilot_is_the_one_that_modelforge_prints(model: str) -> None:
    printed = calculate_cost("github_copilot", model, TokenUsage(prompt_tokens=1234, completion_tokens=567))
    rates = reference_rates(model)
    assert rates is not None
    assert rates.price(Usage(1234, 567)) == pytest.approx(printed, **TO_A_BILLIONTH)


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "gpt-4o-mini", "claude-sonnet-4", "o3", ""])
def test_a_copilot_model_without_an_entry_in_modelforge_has_no_reference_price(model: str) -> None:
    assert reference_rates(model) is None


# --- Rates as part of a model ---


@pytest.mark.parametrize("model", ["gpt-4o", "o3"])
def test_rates_can_be_copied_and_pickled_with_the_model_that_holds_them(model: str) -> None:
    rates = find("openai", model)
    assert rates is not None
    for other in (copy.deepcopy(rates), pickle.loads(pickle.dumps(rates))):
        assert other.price(Usage(10, 20)) == rates.price(Usage(10, 20))
