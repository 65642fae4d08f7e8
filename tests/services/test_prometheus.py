# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Prometheus scraping a real application: the names in docs/metrics.md, the dashboard's queries and the alerts."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples._shared.local import environment, write_config
from support import DOCS, SUPPORT
from support.environment import lacking
from support.metrics_app import ANSWERS, ASKED, ERRORS, FAIL, STREAMED, STREAMS
from support.providers import ProviderServer, Reply
from support.services import HOST, TIMEOUT, Service, free_port

PAGE = (DOCS / "metrics.md").read_text()
PROMETHEUS = shutil.which("prometheus")
DASHBOARD: dict[str, Any] = json.loads((DOCS / "dashboards" / "modelforge.json").read_text())
ALERTS = DOCS / "dashboards" / "alerts.yml"
QUERIES = {
    # This corresponds to *All* in each list.
    panel["title"]: [re.sub(r'"\$\w+"', '".*"', target["expr"]) for target in panel["targets"]]
    for panel in DASHBOARD["panels"]
}
NAMES = re.findall(r"^\| `[\w.]+` \| `(\w+)` \| (\w+) \|$", PAGE, re.MULTILINE)
"""The metrics' names in Prometheus, with their types."""


LACKING = lacking("opentelemetry.exporter.prometheus", instrumentors=("modelforge",))
if PROMETHEUS is None:
    LACKING = "the program prometheus is not installed"

needs_prometheus = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

# --- The application ---

TEAM = "search"
PRICE = 0.25
DELAY = 0.02
"""The delay, in seconds, before each answer and each chunk."""
REPLIES = {
    ASKED: Reply(input_tokens=11, output_tokens=7, cost=PRICE, delay=DELAY),
    # Its price is unknown.
    STREAMED: Reply(input_tokens=20, output_tokens=5, delay=DELAY),
}


def _answer(body: Mapping[str, Any]) -> Reply:
    return Reply(status=400) if body["messages"][-1]["content"] == FAIL else REPLIES[body["model"]]


class Application:
    """The process of metrics_app.py."""

    def __init__(self, home: Path, models_url: str) -> None:
        write_config(home, models_url, ASKED, **{STREAMED: {}})
        self.port = free_port()
        self._process = subprocess.Popen(
            [Path(sys.executable).parent / "opentelemetry-instrument", sys.executable, SUPPORT / "metrics_app.py"],
            cwd=home,
            env=environment(str(home), "", "sk-test-0123456789", "app")
            | {
                "OTEL_EXPORTER_PROMETHEUS_HOST": HOST,
                "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.port),
                "OTEL_LOGS_EXPORTER": "none",
                "OTEL_METRICS_EXPORTER": "prometheus",
                "OTEL_PYTHON_MODELFORGE_METRIC_ATTRIBUTES": f"team={TEAM}",
                "OTEL_TRACES_EXPORTER": "none",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self) -> None:
        """Wait until it has made its calls."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("call", file=self._process.stdin, flush=True)
        watch = threading.Timer(TIMEOUT, self._process.kill)
        watch.start()
        said = []
        for line in self._process.stdout:
            said.append(line)
            if line == "call\n":
                break
        watch.cancel()
        assert said[-1:] == ["call\n"], f"the application ended:\n{''.join(said)}"

    def stop(self) -> None:
        self._process.communicate(timeout=TIMEOUT)


# --- Prometheus ---


class Prometheus:
    """A separate server, which starts to scrape a target when `scrape` is called."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._targets = home / "targets.json"
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": "app", "file_sd_configs": [{"files": ["targets.json"]}]}],
        }
        # JSON is valid YAML.
        (home / "prometheus.yaml").write_text(json.dumps(config))
        port = free_port()
        self._service = Service(
            [
                str(PROMETHEUS),
                "--config.file=prometheus.yaml",
                f"--storage.tsdb.path={home / 'data'}",
                f"--web.listen-address={HOST}:{port}",
                # Otherwise it waits five more seconds before it scrapes a new target.
                "--scrape.discovery-reload-interval=100ms",
            ],
            port,
            {},
            home,
        )

    def scrape(self, port: int) -> None:
        self._targets.write_text(json.dumps([{"targets": [f"{HOST}:{port}"]}]))

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self._service.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Evaluate an expression, now or at a given time, and return labels and values."""
        found = self.get("query", query=expression, **({} if at is None else {"time": repr(at)}))
        assert found["resultType"] == "vector"
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Wait until a result is true, and return it."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                if found := what():
                    return found
                failure = "it did not come true"
            except (AssertionError, urllib.error.URLError) as error:
                # Prometheus may still be starting.
                failure = str(error)
            if self._service.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{failure}; Prometheus said\n{self._service.log.read_text()}")
            time.sleep(0.02)

    def wait_for_scrape(self) -> float:
        """Return the time of a successful scrape that began after now."""
        # Prometheus adjusts the time of a scrape by up to two milliseconds.
        now = time.time() + 0.002

        def scraped() -> float | None:
            times = [value for _, value in self.query("timestamp(up) and up == 1")]
            return max((value for value in times if value > now), default=None)

        return self.wait_for(scraped)

    def stop(self) -> None:
        self._service.stop()


@dataclass(frozen=True)
class Scraped:
    """A Prometheus that has scraped the application between its first and second calls, and after the second."""

    prometheus: Prometheus
    at: float
    """The time of the last relevant scrape."""

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Return the values by their labels' values, in the order of the labels' names."""
        found = self.prometheus.query(expression, self.at)
        return {tuple(labels[name] for name in sorted(labels)): value for labels, value in found}

    @property
    def growth(self) -> float:
        """The factor by which Prometheus extrapolates a counter's growth in the window of a query.

        It is the same for all counters that grew by their initial values.
        """
        ((_, grown),) = self.prometheus.query(
            "sum(increase(gen_ai_client_operation_duration_seconds_count[5m]))", self.at
        )
        return grown / (ANSWERS + ERRORS + STREAMS)


@contextmanager
def _stopping(running: Any) -> Iterator[Any]:
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    home = tmp_path_factory.mktemp("prometheus")
    with (
        _stopping(Prometheus(home / "server")) as prometheus,
        ProviderServer() as provider,
        _stopping(Application(home, f"{provider.url}/v1")) as application,
    ):
        provider.reply = _answer
        application.call()
        prometheus.scrape(application.port)
        prometheus.wait_for_scrape()
        application.call()
        yield Scraped(prometheus, prometheus.wait_for_scrape())


@needs_prometheus
def test_names_are_the_documented_ones(scraped: Scraped) -> None:
    suffixes = {"histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    stored = scraped.prometheus.get("label/__name__/values")
    assert {name for name in stored if name.startswith(("gen_ai_", "modelforge_"))} == {
        name + suffix for name, kind in NAMES for suffix in suffixes[kind]
    }


@needs_prometheus
@pytest.mark.parametrize("query", [query for queries in QUERIES.values() for query in queries])
def test_every_query_has_a_value(scraped: Scraped, query: str) -> None:
    values = scraped.query(query).values()
    assert values
    assert all(math.isfinite(value) for value in values)


COUNTS = {
    "Requests per second": {(ASKED,): ANSWERS + ERRORS, (STREAMED,): STREAMS},
    "Failed and cancelled requests per second": {("openai.BadRequestError", ASKED): ERRORS},
    "Tokens per second": {
        (model, kind): calls * tokens
        for model, calls in ((ASKED, ANSWERS), (STREAMED, STREAMS))
        for kind, tokens in (("input", REPLIES[model].input_tokens), ("output", REPLIES[model].output_tokens))
    },
}
"""The growth of each counter between the scrapes."""


@needs_prometheus
def test_counters_grow_by_the_number_of_calls(scraped: Scraped) -> None:
    assert 1 <= scraped.growth <= 2
    for heading, counts in COUNTS.items():
        (query,) = QUERIES[heading]
        assert scraped.query(query) == pytest.approx(
            {labels: count * scraped.growth / 300 for labels, count in counts.items()}
        )


@needs_prometheus
def test_the_share_of_failures(scraped: Scraped) -> None:
    (query,) = QUERIES["Share of failed requests"]
    assert scraped.query(query) == {(): pytest.approx(ERRORS / (ANSWERS + ERRORS + STREAMS))}
    # The share is also defined before the first failure.
    assert scraped.query(query.replace('error_type!~"|', 'error_type!~".*|')) == {(): 0}


@needs_prometheus
def test_the_cost_of_a_model_and_of_a_team(scraped: Scraped) -> None:
    (query,) = QUERIES["Cost per hour"]
    cost = pytest.approx(PRICE * ANSWERS * scraped.growth)
    assert scraped.query(query) == {(ASKED,): cost}
    assert scraped.query(query.replace("by (gen_ai_request_model)", "by (team)")) == {(TEAM,): cost}


@needs_prometheus
def test_calls_without_a_cost_and_without_token_usage(scraped: Scraped) -> None:
    (without_cost,) = QUERIES["Calls without a cost"]
    assert scraped.query(without_cost) == {(ASKED,): pytest.approx(0), (STREAMED,): 1}
    calls, streams = QUERIES["Calls without token usage"]
    assert scraped.query(calls) == {(ASKED,): pytest.approx(0), (STREAMED,): pytest.approx(0)}
    assert scraped.query(streams) == {(STREAMED,): pytest.approx(0)}


@needs_prometheus
def test_open_streams(scraped: Scraped) -> None:
    (query,) = QUERIES["Open streams"]
    assert scraped.query(query) == {(STREAMED,): 2}


@needs_prometheus
@pytest.mark.parametrize(
    ("heading", "models", "least"),
    [
        ("Latency", {ASKED, STREAMED}, DELAY),
        ("Time to first chunk", {STREAMED}, DELAY),
        # Two chunks may arrive together.
        ("Time per output chunk", {STREAMED}, 0),
    ],
)
def test_quantiles(scraped: Scraped, heading: str, models: set[str], least: float) -> None:
    half, most = (scraped.query(query) for query in QUERIES[heading])
    assert half.keys() == most.keys() == {(model,) for model in models}
    assert all(least < half[model] <= most[model] < TIMEOUT for model in half)


@needs_prometheus
def test_alerts_are_evaluated(scraped: Scraped) -> None:
    def states() -> dict[str, tuple[str, str]]:
        (group,) = scraped.prometheus.get("rules")["groups"]
        return {rule["name"]: (rule["health"], rule["state"]) for rule in group["rules"]}

    names = re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    expected = dict.fromkeys(names, ("ok", "inactive")) | {"ModelCallsFail": ("ok", "pending")}
    scraped.prometheus.wait_for(lambda: states() == expected)
