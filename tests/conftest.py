"""Counts of the two test tiers, and one thread so that timings and sums don't depend on the machine."""

import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

FULL = os.environ.get("BITSMITH_TESTS") == "full"

_common = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("reduced", max_examples=25, **_common)
settings.register_profile("full", max_examples=300, **_common)
settings.load_profile("full" if FULL else "reduced")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether this is `make test-all`."""
    return FULL


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """A test run in the background of a shell has Ctrl-C ignored, and its child processes inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
