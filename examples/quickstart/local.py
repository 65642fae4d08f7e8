"""What the examples share: servers on loopback, and an environment in which ModelForge and OpenTelemetry find them."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseServer


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Serve in a thread of its own."""
    # The poll interval is how long shutdown() takes.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def write_config(home: Path, base_url: str, model: str) -> None:
    """Write what `modelforge config add` and `modelforge config use` would."""
    provider = {
        "llm_type": "openai_compatible",
        "base_url": base_url,
        "auth_strategy": "api_key",
        "models": {model: {}},
    }
    config = {"providers": {"openai": provider}, "current_model": {"provider": "openai", "model": model}}
    path = home / ".config" / "model-forge" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config), encoding="utf-8")


def environment(home: str, endpoint: str, key: str, service: str) -> dict[str, str]:
    """Return this process's environment, with the example's telemetry and models in place of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELFORGE_", "OTEL_"))}
    # Whatever proxy the network asks for, it does not lead back to this machine.
    no_proxy = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "127.0.0.1")))
    return kept | {
        "HOME": home,
        "MODELFORGE_OPENAI_API_KEY": key,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": service,
    }
