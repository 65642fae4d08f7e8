# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The diagnosis command: ``python -m opentelemetry_instrumentation_modelforge``."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

_DESCRIPTION: Final = (
    "Report whether the model calls of an application will be traced and, if not, why and what to do. Start it as the "
    "application is started: opentelemetry-instrument python -m opentelemetry_instrumentation_modelforge"
)
_EPILOG: Final = "The exit code is 0 if spans will come, 1 if not. Nothing is sent to a model provider."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the diagnosis of this process and return the exit code: 0 if spans will come, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m opentelemetry_instrumentation_modelforge", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    options = parser.parse_args(arguments)
    # The imported modules may print.
    with contextlib.redirect_stdout(sys.stderr):
        from .doctor import as_json, as_text, examine

        diagnosis = examine()
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    columns = shutil.get_terminal_size((100, 24)).columns
    text = as_json(diagnosis) if options.json else as_text(diagnosis, width=columns, color=color)
    sys.stdout.write(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    return 0 if diagnosis.spans_expected else 1


if __name__ == "__main__":
    sys.exit(main())
