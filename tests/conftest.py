"""How hard hypothesis tries: HYPOTHESIS_PROFILE=dev (each save), ci or night."""

import os
import signal

from hypothesis import HealthCheck, settings

# A shared machine is now slow, now fast: a test that hypothesis thinks slow is none.
settings.register_profile(
    "dev",
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "ci", settings.get_profile("dev"), max_examples=300, derandomize=True
)
settings.register_profile(
    "night", settings.get_profile("dev"), max_examples=10_000, stateful_step_count=100
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# `pytest &` in a script begins with Ctrl-C ignored, and what the tests start and then
# interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
