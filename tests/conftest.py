"""Counts of the two test tiers, and one thread so that timings and sums don't depend on the machine."""

import os
import signal
import sys

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


@pytest.fixture(autouse=True)
def _users_modules_forgotten(tmp_path_factory):
    """Modules that a test wrote are imported anew by the next one, which may have another of the same name."""
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if str(vars(module).get("__file__")).startswith(written):
            del sys.modules[name]
