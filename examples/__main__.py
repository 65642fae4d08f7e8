# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs an example: ``python examples NAME [ARGUMENT...]``.

It ends without a traceback when the user interrupts it, and when the reader of its output closes the pipe.
"""

import os
import runpy
import sys
from pathlib import Path

INTERRUPTED = 130
CLOSED_PIPE = 141


def main(name: str, *arguments: str) -> int:
    """Run the example, and return its exit code or, for an interrupt or a closed pipe, the one that shells use."""
    sys.argv = [name, *arguments]
    try:
        try:
            runpy.run_path(str(Path(__file__).parent / name), run_name="__main__")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes as it ends, and needs somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
