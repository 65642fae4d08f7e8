"""Runs the agent under OpenTelemetry and prints the trace it sent."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from backend import Backend

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "quickstart"))

from collector import Collector  # noqa: E402
from tree import WIDTH, format_trees  # noqa: E402

MODELS = {"agent": {"api_model_name": "gpt-4o-mini"}, "packer": {"api_model_name": "gpt-4.1-nano"}}


def main() -> int:
    """Run it, and return the agent's exit code, or 1 where its telemetry is missing."""
    parser = argparse.ArgumentParser(prog="./run agent", description=__doc__)
    parser.add_argument("--programmatic", action="store_true", help="set OpenTelemetry up in code: programmatic.py")
    programmatic = parser.parse_args().programmatic

    backend, collector = Backend(), Collector()
    for server in (backend, collector):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="agent-") as home:
        _write_config(Path(home), backend.url)
        # In a directory without a .model-forge/config.json, which ModelForge would prefer.
        status = subprocess.run(
            _command(programmatic), check=False, cwd=home, env=_environment(home, backend.url, collector.endpoint)
        ).returncode

    print("", *format_trees(collector.spans, shutil.get_terminal_size((WIDTH, 0)).columns), sep="\n")
    if status == 0 and not collector.spans:
        print(f"error: no spans arrived at {collector.endpoint}", file=sys.stderr)
        return 1
    return status


def _write_config(home: Path, url: str) -> None:
    """Write what `modelforge config add` would."""
    provider = {"llm_type": "openai_compatible", "base_url": f"{url}/v1", "auth_strategy": "api_key", "models": MODELS}
    path = home / ".config" / "model-forge" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"providers": {"openai": provider}}), encoding="utf-8")


def _command(programmatic: bool) -> list[str]:
    if programmatic:
        return [sys.executable, str(HERE / "programmatic.py")]
    script = shutil.which("opentelemetry-instrument", path=Path(sys.executable).parent)
    if script is None:
        raise SystemExit(
            f"error: there is no opentelemetry-instrument beside {sys.executable}; ./run agent installs it"
        )
    return [script, sys.executable, str(HERE / "app.py")]


def _environment(home: str, url: str, endpoint: str) -> dict[str, str]:
    """Return this process's environment, with the example's telemetry and models in place of the user's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MODELFORGE_", "OTEL_")) or name == "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    }
    return kept | {
        "HOME": home,
        "MODELFORGE_OPENAI_API_KEY": "no-key-needed",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "agent",
        "WEATHER_URL": f"{url}/weather",
    }


if __name__ == "__main__":
    sys.exit(main())
