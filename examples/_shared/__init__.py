# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""What the examples share: a model server, a collector, a place on loopback to run in, and the tree of a trace."""
