# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard and the Prometheus alerts of docs/dashboards: their structure, and when each alert fires."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

DOCS = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file()) / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
ALERTS_PAGE = (DOCS / "alerts.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((DOCS / "dashboards" / "modelforge.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]

# --- The dashboard ---

UNITS = {
    "Requests per second": "reqps",
    "Share of failed requests": "percentunit",
    "Failed and cancelled requests per second": "reqps",
    "Latency": "s",
    "Time to first chunk": "s",
    "Time per output chunk": "s",
    "Tokens per second": "short",
    "Open streams": "short",
    "Cost per hour": "currencyUSD",
    "Calls without a cost": "percentunit",
    "Calls without token usage": "percentunit",
}
"""In Grafana's terms."""
WIDTH = 24
"""Columns of Grafana's grid."""
SELECTED = 'job=~"$service",gen_ai_provider_name=~"$provider",gen_ai_request_model=~"$model"'
"""The selector in each query of the dashboard, which the page omits."""


def _section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _queries() -> dict[str, list[str]]:
    """Return the page's queries by heading."""
    parts = (part.partition("\n") for part in _section("Queries").split("\n### ")[1:])
    return {
        heading: [query.strip() for query in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)]
        for heading, _, text in parts
    }


def test_the_page_explains_each_query_of_the_dashboard() -> None:
    panels = {
        panel["title"]: [
            target["expr"].replace(f"{{{SELECTED}}}", "").replace(f",{SELECTED}", "") for target in panel["targets"]
        ]
        for panel in PANELS
    }
    assert panels == _queries()
    assert list(panels) == list(_queries())


@pytest.mark.parametrize("target", [target for _, target in TARGETS], ids=[panel["title"] for panel, _ in TARGETS])
def test_the_variables_select_every_series_of_a_query(target: Mapping[str, Any]) -> None:
    metrics = re.findall(r"\b(?:gen_ai_client|modelforge_client)_\w+(\{[^}]*\})?", target["expr"])
    assert metrics
    assert all(selector.endswith(f"{SELECTED}}}") for selector in metrics)


def test_the_variables_are_data_source_service_provider_and_model() -> None:
    source, *selections = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    labels = {
        variable["name"]: re.fullmatch(r"label_values\(.*, (\w+)\)", variable["query"]["query"])[1]  # type: ignore[index]
        for variable in selections
    }
    assert labels == {"service": "job", "provider": "gen_ai_provider_name", "model": "gen_ai_request_model"}
    assert all(variable["multi"] and variable["includeAll"] for variable in selections)


def test_everything_is_read_from_the_chosen_data_source() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    selections = DASHBOARD["templating"]["list"][1:]
    assert all(part["datasource"] == source for part in [*PANELS, *(target for _, target in TARGETS), *selections])
    references = [[target["refId"] for target in panel["targets"]] for panel in PANELS]
    assert all(len(set(ids)) == len(ids) for ids in references)


def test_each_panel_has_its_unit_and_a_description() -> None:
    assert {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS} == UNITS
    assert all(panel["description"] for panel in PANELS)


def test_legends_use_labels_of_the_result() -> None:
    for _, target in TARGETS:
        by = re.search(r"sum by \(([^)]*)\)", target["expr"])
        labels = set(by[1].split(", ")) - {"le"} if by else set()
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == labels


def test_panels_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: list[tuple[int, int]] = []
    for x, y, width, height in ([panel["gridPos"][name] for name in "xywh"] for panel in PANELS):
        assert x + width <= WIDTH
        cells += [(column, row) for column in range(x, x + width) for row in range(y, y + height)]
    assert len(set(cells)) == len(cells)


def test_every_field_is_known_to_grafana() -> None:
    """Read the dashboard into Grafana's own types, which drop unknown fields."""
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk is not installed")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    known = json.loads(json.dumps(Dashboard.from_json(DASHBOARD), cls=JSONEncoder))
    assert list(_differences(DASHBOARD, known)) == []


def _differences(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of given values that are unknown, or known with a different value."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            yield from _differences(value, known.get(name, "not known"), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for index, pair in enumerate(zip(given, known, strict=True)):
            yield from _differences(*pair, f"{path}[{index}]")
    elif given != known:
        yield f"{path}: {known}"


# --- What promtool evaluates ---

PROMTOOL = shutil.which("promtool")
ALERTS = DOCS / "dashboards" / "alerts.yml"
ALERT_NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="the program promtool is not installed")


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    result = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def evaluate(folder: Path, given: Sequence[Mapping[str, str]], **expected: list[Any]) -> None:
    """Check how Prometheus evaluates some series, with one sample per minute."""
    file = folder / "test.json"
    # JSON is valid YAML.
    tests = [{"interval": "1m", "input_series": given, **expected}]
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


def series(metric: str, per_minute: float, start: float = 0, minutes: int = 180, **labels: str) -> dict[str, str]:
    """Return a series that grows by this much each minute, in the notation of promtool's tests."""
    labels = {"job": "shop", "gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-4o-mini"} | labels
    selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return {"series": f"{metric}{{{selector}}}", "values": f"{start}{per_minute:+}x{minutes}"}


def calls(per_minute: float, **labels: str) -> dict[str, str]:
    return series("gen_ai_client_operation_duration_seconds_count", per_minute, **labels)


def usage(per_minute: float) -> dict[str, str]:
    return series("gen_ai_client_token_usage_count", per_minute, gen_ai_token_type="input")


def histogram(metric: str, bounds: Sequence[str], fast: float, slow: float, **labels: str) -> list[dict[str, str]]:
    """Return buckets with given numbers of calls per minute below the first bound and between the last two."""
    counts = [fast] * (len(bounds) - 1) + [fast + slow]
    return [
        series(f"{metric}_bucket", count, le=bound, **labels)
        for bound, count in zip((*bounds, "+Inf"), (*counts, fast + slow), strict=True)
    ]


DURATION, FIRST_CHUNK = (
    "gen_ai_client_operation_duration_seconds",
    "gen_ai_client_operation_time_to_first_chunk_seconds",
)
BOUNDS = ("2.56", "5.12", "10.24", "20.48", "40.96", "81.92")
"""The upper buckets of the conventions."""
COST, STREAMS = "gen_ai_client_operation_cost_USD_sum", "modelforge_client_active_streams"
MODEL = '{gen_ai_request_model="gpt-4o-mini"}'
CANCELLED, REFUSED = "asyncio.exceptions.CancelledError", "openai.RateLimitError"

# --- Calls without a cost ---


@needs_promtool
@pytest.mark.parametrize(
    ("counted", "streamed", "shares"),
    [
        pytest.param(20, 10, (0, 0), id="all usage is reported"),
        pytest.param(10, 10, (0.5, 1), id="the streams are without usage"),
        pytest.param(15, 10, (0.25, 0.5), id="half of the streams are without usage"),
        pytest.param(None, 10, (1, 1), id="no usage is reported"),
        pytest.param(None, None, (1, None), id="no usage is reported and nothing is streamed"),
    ],
)
def test_the_share_of_calls_and_streams_without_usage(
    counted: float | None, streamed: float | None, shares: tuple[float, float | None], tmp_path: Path
) -> None:
    """There are twenty calls per minute, and failed and cached ones do not count."""
    given = [calls(20), calls(5, error_type=REFUSED), calls(5, modelforge_response_cached="true")]
    if counted is not None:
        given.append(usage(counted))
    if streamed is not None:
        given.append(series(f"{FIRST_CHUNK}_count", streamed))
    evaluate(
        tmp_path,
        given,
        promql_expr_test=[
            {
                "expr": f"round({query}, 0.01)",
                "eval_time": "60m",
                "exp_samples": [] if share is None else [{"labels": MODEL, "value": share}],
            }
            for query, share in zip(_queries()["Calls without token usage"], shares, strict=True)
        ],
    )


@needs_promtool
def test_an_unknown_cost_differs_from_no_cost(tmp_path: Path) -> None:
    """A model without a price has no cost at all, and all of its calls are without one."""
    (cost,), (without,) = _queries()["Cost per hour"], _queries()["Calls without a cost"]
    evaluate(
        tmp_path,
        [calls(20)],
        promql_expr_test=[
            {"expr": cost, "eval_time": "60m", "exp_samples": []},
            {"expr": without, "eval_time": "60m", "exp_samples": [{"labels": MODEL, "value": 1}]},
        ],
    )


# --- The alerts ---

CASES: list[Any] = [
    pytest.param(set(), [calls(60), usage(60)], id="all calls are answered"),
    pytest.param({"ModelCallsFail"}, [calls(54), usage(54), calls(6, error_type=REFUSED)], id="every tenth call fails"),
    pytest.param({"ModelCallsFail"}, [calls(6, error_type=REFUSED)], id="all calls fail"),
    pytest.param(set(), [calls(59), usage(59), calls(1, error_type=REFUSED)], id="few calls fail"),
    pytest.param(set(), [calls(30), usage(30), calls(30, error_type=CANCELLED)], id="clients disconnect"),
    pytest.param(set(), [calls(60, error_type=CANCELLED)], id="all clients disconnect"),
    pytest.param(
        {"ModelCallsFail"},
        [calls(10), usage(10), calls(80, error_type=CANCELLED), calls(1, error_type=REFUSED)],
        id="disconnecting clients do not hide failures",
    ),
    pytest.param({"ModelCallsSlow"}, histogram(DURATION, BOUNDS, fast=50, slow=10), id="calls are slow"),
    pytest.param(set(), histogram(DURATION, BOUNDS, fast=59, slow=1), id="few calls are slow"),
    pytest.param(
        set(),
        histogram(DURATION, BOUNDS, fast=0, slow=10, modelforge_response_cached="true"),
        id="cached answers are no matter of latency",
    ),
    pytest.param({"ModelFirstChunkLate"}, histogram(FIRST_CHUNK, BOUNDS, fast=50, slow=10), id="streams begin late"),
    pytest.param(set(), histogram(FIRST_CHUNK, BOUNDS, fast=59, slow=1), id="few streams begin late"),
    pytest.param(
        {"ModelCallsStopped"},
        [{**calls(60), "values": "0+60x120 7200x60"}, {**usage(60), "values": "0+60x120 7200x60"}],
        id="no call for an hour",
    ),
    pytest.param(
        {"ModelCallsStopped"}, [{**calls(60), "values": "0+60x120"}], id="the service's metrics no longer arrive"
    ),
    pytest.param(set(), [calls(0), usage(0)], id="a service that has not called a model yet"),
    pytest.param({"ModelCostHigh"}, [series(COST, 1)], id="60 dollars an hour"),
    pytest.param(set(), [series(COST, 0.5)], id="30 dollars an hour"),
    pytest.param({"ModelTokenUsageMissing"}, [calls(60), usage(6)], id="streams without usage"),
    pytest.param({"ModelTokenUsageMissing"}, [calls(60)], id="no usage at all"),
    pytest.param(set(), [calls(60, gen_ai_provider_name="github_copilot")], id="Copilot never reports usage"),
    pytest.param(
        set(), [calls(6), usage(6), calls(60, modelforge_response_cached="true")], id="cached answers have no usage"
    ),
    pytest.param({"ModelStreamsOpen"}, [series(STREAMS, 0, start=150)], id="150 streams stay open"),
    pytest.param(set(), [series(STREAMS, 0, start=50)], id="50 streams are open"),
]


@needs_promtool
def test_prometheus_reads_the_alerts() -> None:
    promtool("check", "rules", ALERTS)


@needs_promtool
@pytest.mark.parametrize(("firing", "given"), CASES)
def test_alerts_fire(firing: set[str], given: Sequence[Mapping[str, str]], tmp_path: Path) -> None:
    """The alerts are evaluated after three hours, unless a series ends earlier."""
    # The alert's name is the only label that the sum keeps.
    names = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)]
    state = {"expr": 'sum by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "180m", "exp_samples": names}
    evaluate(tmp_path, given, promql_expr_test=[state])


@needs_promtool
def test_alerts_describe_the_problem_and_its_place(tmp_path: Path) -> None:
    text = ALERTS.read_text(encoding="utf-8").partition("- alert: ModelCallsFail")[2].partition("- alert:")[0]
    alert = {
        "exp_labels": {"severity": "critical", "job": "shop", "gen_ai_request_model": "gpt-4o-mini"},
        "exp_annotations": {
            "summary": "10% of the calls of gpt-4o-mini in shop fail",
            "description": " ".join(text.partition("description: >-")[2].split()),
        },
    }
    evaluate(
        tmp_path,
        [calls(54), calls(6, error_type=REFUSED)],
        alert_rule_test=[
            {"eval_time": "30m", "alertname": "ModelCallsFail", "exp_alerts": [alert]},
            # The alert waits for ten minutes.
            {"eval_time": "9m", "alertname": "ModelCallsFail", "exp_alerts": []},
        ],
    )


def test_each_alert_has_a_case_and_is_on_the_page() -> None:
    assert set().union(*(case.values[0] for case in CASES)) == set(ALERT_NAMES)
    assert re.findall(r"^\| `(\w+)` \|", ALERTS_PAGE, re.MULTILINE) == ALERT_NAMES
