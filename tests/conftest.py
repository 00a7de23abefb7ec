"""What holds for every test: set before anything imports ray or torch."""

from __future__ import annotations

import os

# Unset, ray would leave a token file in the home folder, which turns on authentication for every later cluster there.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from hypothesis import settings

# No deadlines: a slow machine is not a wrong result. Derandomised: a red test is red again.
settings.register_profile("here", deadline=None, derandomize=True)
settings.load_profile("here")
