# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A scope of code with a context of its own, which no interrupt leaves current.

An interrupt (``KeyboardInterrupt``, or an exception that a signal handler raises) may come after any function call, and
the function's result is then lost.
"""

from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry.context import Context, attach, get_current


def restore(token: Token[Any]) -> None:
    """Restore the value from before ``token``.

    A task that is destroyed while it waits is closed by the garbage collector, in another context. ``detach`` would log
    a failure there, although nothing is wrong. A token that has already been used needs no handling either.
    """
    # Runs for every chunk, and contextlib.suppress takes several times as long.
    try:  # noqa: SIM105
        token.var.reset(token)
    except (ValueError, RuntimeError, AttributeError):
        # The context that Datadog puts in place of OpenTelemetry's has tokens without a variable, and restores itself.
        pass


class Scope:
    """A context manager that makes a context current, and restores the previous one afterwards.

    Each scope is entered twice (``with scope, scope:``), and the body begins with the change that is to be undone. No
    ``__exit__`` follows an interrupted ``__enter__``, so entering does nothing. When the inner ``__exit__`` is
    interrupted, the outer one completes the rest.
    """

    __slots__ = ("_before", "_context", "_token")

    def __init__(self) -> None:
        self._before = get_current()
        self._context: Context | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        pass

    def attach(self, context: Context) -> None:
        """Make ``context`` current."""
        self._context = context
        self._token = attach(context)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._token is not None:
            # A copied context may keep a scope, which need not keep another context.
            self._context = self._token = restore(self._token)
        elif error is not None and self._context is not self._before and get_current() is self._context:
            # An interrupt came before the token was stored.
            attach(self._before)
