"""Shortens the one pause of a stock flower-supernode that no setting shortens: three seconds between two questions.

Python reads this file where tests put its folder on PYTHONPATH, in each program that they start; `make runbook`, `make
chaos` and test_isolation.py run without it.
"""

import sys
import time

FLOWERS_PAUSE, PAUSE = 3, 0.25
"""time.sleep(3) in flwr/supernode/start_client_internal.py, after each question that brought no message."""

own_sleep = time.sleep


def sleep(seconds: float) -> None:
    """Sleep, and for Flower's pause a twelfth of it."""
    own_sleep(PAUSE if seconds == FLOWERS_PAUSE else seconds)


if any(word.endswith("flower-supernode") for word in sys.orig_argv):
    time.sleep = sleep
