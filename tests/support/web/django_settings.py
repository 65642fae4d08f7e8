# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The settings of ``django_app``. The instrumentation reads them before the application is imported."""

ALLOWED_HOSTS = ["*"]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "django_app"
SECRET_KEY = "test"
