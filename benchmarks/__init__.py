"""Measurements, each a ratio side by side in one run where there is something to compare with."""

import os

# Unset, ray would leave a token file in the home folder; read when ray is imported.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
