# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Shared code of the examples: a model server, a collector, an environment on loopback, and the tree of a trace."""
